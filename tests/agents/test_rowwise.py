"""Methods that judge source rows: what is dropped, weighed and edited, and that saying nothing leaves IQL."""

import numpy as np
import pytest
import torch

from offdyn_agents.algorithms.iql import IQL
from offdyn_agents.algorithms.returns import FACTS
from offdyn_agents.algorithms.rowwise.agent import SCORES, WEIGHTS, RowFilterSettings, RowTerms, RowwiseIQL
from offdyn_agents.engine.data import Sampler, Supply
from offdyn_agents.engine.rows import Layout, RowColumns, RowCounts, RowRange, RunRows, every, pack
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.testing.conformance import SOURCE, TARGET, same, train, weights
from offdyn_agents.testing.data import A, S

LAYOUT = Layout(S, A)


class Said(RowwiseIQL):
    """Says what it is told to."""

    name = "said"
    settings_class = RowFilterSettings
    said = RowTerms()

    def terms(self, params, batch):
        return self.said


class Read(RowwiseIQL):
    """Reads weights and scores of its own."""

    name = "read"
    said = RowColumns()

    @property
    def columns(self):
        return dict.fromkeys(self.said.extras, 0)

    def row_columns(self, context):
        return super().row_columns(context).__class__([self.said] * len(context.seeds), {})


def drawn(rows=8, source=5, lead=(2,)):
    generator = torch.Generator().manual_seed(3)
    packed = torch.randn(*lead, rows, LAYOUT.width, generator=generator)
    packed[..., -1] = 1.0
    return LAYOUT.batch(packed, None, RowCounts(source, rows - source))


def parameters(agent, runs=2):
    generator = torch.Generator().manual_seed(4)
    found = {
        name: [torch.randn(runs, *s, generator=generator) for s in net.shapes()]
        for name, net in agent.networks().items()
    }
    return found | {"critic_target": found["critic"], FACTS: [torch.tensor([f] * runs) for f in (1.0, -1e9, 1e9)]}


def agent_of(kind, **settings):
    return kind(kind.settings_class(width=8, **settings), S, A)


def test_without_a_word_it_is_iql(tmp_path):
    train(IQL, tmp_path / "iql", settings={"data": "merged"})
    train(Said, tmp_path / "said")
    for seed in (0, 1):
        same(weights(tmp_path / "iql", seed), weights(tmp_path / "said", seed))


def test_scores_say_nothing_while_all_are_kept(tmp_path):
    generator = torch.Generator().manual_seed(0)
    Read.said = RowColumns(extras={SCORES: torch.randn(len(SOURCE.rewards), generator=generator)})
    train(Read, tmp_path / "read")
    train(IQL, tmp_path / "iql")
    same(weights(tmp_path / "read", 0), weights(tmp_path / "iql", 0))


@pytest.mark.parametrize("lead", [(2,), ()])
def test_dropped_rows_leave_all_losses_and_the_mean(lead):
    batch = drawn(lead=lead)
    scores = torch.tensor([0.3, 0.9, 0.9, -1.0, 0.9]).expand(*lead, 5)
    agent, plain = agent_of(Said, keep_share=0.6), agent_of(IQL)
    agent.said = RowTerms(scores=scores)
    # 3 of 5: of equal scores the lower rows.
    left = [1, 2, 4, 5, 6, 7]
    parts = [getattr(batch, name) for name in ("observations", "actions", "rewards", "next_observations", "continues")]
    axis = len(lead)
    short = batch._replace(
        **dict(
            zip(
                ("observations", "actions", "rewards", "next_observations", "continues"),
                (part.index_select(axis, torch.tensor(left)) for part in parts),
                strict=True,
            )
        ),
        source_rows=3,
    )
    params = parameters(agent)
    params = params if lead else {name: [t[0] for t in tensors] for name, tensors in params.items()}
    assert torch.equal(agent.loss(params, batch)[0], plain.loss(params, short)[0])


def test_a_weight_enters_the_critics_loss_alone_and_stays_with_its_row():
    errors = torch.tensor([[[1.0, 2.0], [1.0, 2.0]]])
    agent = agent_of(Said)
    batch = drawn(rows=2, source=2, lead=(1,))._replace(columns={WEIGHTS: torch.tensor([[1.0, 3.0]])})
    # G3: 6.5 of one critic, where weights that broadcast would give mean(w) mean(e^2) = 5.
    assert float(agent.critic_loss({}, errors, batch)) == 2 * 6.5
    with pytest.raises(AssertionError):
        agent.critic_loss({}, errors, batch._replace(columns={WEIGHTS: torch.tensor([[[1.0], [3.0]]])}))
    batch, params = drawn(), parameters(agent)
    agent.said = RowTerms(weights=torch.zeros(2, 5))
    whole, metrics = agent.loss(params, batch)
    plain, others = agent_of(IQL).loss(params, batch)
    assert torch.equal(metrics["value_loss"], others["value_loss"])
    assert torch.equal(metrics["actor_loss"], others["actor_loss"])
    assert bool((metrics["critic_loss"] < others["critic_loss"]).all()) and not torch.equal(whole, plain)


@pytest.mark.parametrize("shape", [(2, "n", 1), (2, 1, "n"), (1, "n"), ("n",), (2, "m")])
@pytest.mark.parametrize("name", RowTerms._fields)
def test_terms_that_would_broadcast_are_refused(name, shape):
    """Of 8 rows, 5 of the source, in 2 runs; a program is traced with these shapes, so that they are checked once."""
    agent, batch = agent_of(Said, keep_share=0.6), drawn()
    rows = 8 if name == "rewards" else 5
    numbers = torch.ones([{"n": rows, "m": 13 - rows}.get(size, size) for size in shape])
    agent.said = RowTerms(**{name: numbers})
    with pytest.raises(AssertionError):
        agent.loss(parameters(agent), batch)


def test_rewards_of_a_batch_are_in_units_of_the_data():
    agent, batch = agent_of(Said), drawn()
    params = parameters(agent)
    agent.said = RowTerms(rewards=torch.full((2, 8), 0.5))
    expected = agent_of(IQL).loss(params, batch._replace(rewards=batch.rewards + 0.5))[0]
    assert torch.equal(agent.loss(params, batch)[0], expected)


def test_columns_reach_their_rows():
    """F3 (docs/methods/README.md): what is added goes to the rewards that are drawn, never into the data."""
    table = torch.cat([pack(SOURCE, "s"), pack(TARGET, "t")])
    rows, generator = len(SOURCE.rewards), torch.Generator().manual_seed(1)
    one = RowColumns(
        rewards=torch.randn(rows, generator=generator),
        actions=torch.randn(rows, A, generator=generator),
        extras={"h": torch.arange(rows).float(), "z": torch.randn(rows, 2, generator=generator)},
    )
    count = len(TARGET.rewards)
    target = {"h": torch.arange(count).float(), "z": torch.randn(count, 2, generator=generator)}
    other = RowColumns(extras={name: column + 1.0 for name, column in one.extras.items()}, target=target)
    layout = Layout(S, A, {"h": 0, "z": 2})
    places = RunRows(RowRange(0, rows), RowRange(rows, count))
    supply = Supply(table, layout, rows=[places] * 2, columns=[one, other])
    sampler = Sampler([0, 1], [(0, rows)] * 2, [(rows, len(TARGET.rewards))] * 2, RowCounts(6, 3))
    numbers, counts = sampler.draw(4), RowCounts(6, 3)
    packed, _ = supply.batches(range(2), numbers, counts)
    batch = layout.batch(packed, None, counts)
    plain = LAYOUT.batch(table[numbers.transpose(0, 1)], None, counts)
    source = numbers[:, :, :6].transpose(0, 1)
    torch.testing.assert_close(batch.rewards[:, 0, :6], plain.rewards[:, 0, :6] + one.rewards[source[:, 0]])
    assert torch.equal(batch.actions[:, 0, :6], one.actions[source[:, 0]])
    assert torch.equal(batch.columns["h"][:, 1], source[:, 1].float() + 1.0)
    assert torch.equal(batch.columns["z"][:, 0], one.extras["z"][source[:, 0]])
    drawn = numbers[:, :, 6:].transpose(0, 1) - rows
    for name, column in target.items():
        assert torch.equal(batch.target_columns[name][:, 1], column[drawn[:, 1]])
        assert not batch.target_columns[name][:, 0].any()
    for name in ("observations", "next_observations", "continues"):
        assert torch.equal(getattr(batch, name), getattr(plain, name))
    assert torch.equal(batch.rewards[:, 1], plain.rewards[:, 1])
    assert torch.equal(batch.actions[:, :, 6:], plain.actions[:, :, 6:])


def test_rows_that_are_not_kept_are_never_drawn():
    keep = torch.zeros(50, dtype=torch.bool)
    keep[[3, 4, 40]] = True
    bounds, counts = ([(10, 50)] * 2, [(60, 7)] * 2), RowCounts(6, 2)
    numbers = Sampler([0, 1], *bounds, counts, keep=[keep, None]).draw(200)
    assert set(numbers[0, :, :6].unique().tolist()) == {13, 14, 50}
    plain = Sampler([0, 1], *bounds, counts).draw(200)
    assert torch.equal(numbers[1], plain[1]) and torch.equal(numbers[0, :, 6:], plain[0, :, 6:])


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        (RowColumns(rewards=torch.tensor([1.0, np.nan])), "column 'rewards' is not finite"),
        (RowColumns(extras={WEIGHTS: torch.tensor([1.0, -0.1])}), "column 'weights' has numbers below 0"),
        (RowColumns(keep=torch.tensor([False, False])), "column 'keep' keeps no row"),
        (RowColumns(extras={"h": torch.zeros(3)}), "column 'h' has 3 rows, not 2"),
        (RowColumns(target={"h": torch.zeros(2)}), "target column 'h' has 2 rows, not 3"),
        (RowColumns(target={"h": torch.tensor([0.0, 1.0, np.inf])}), "target column 'h' is not finite"),
        (RowColumns(rewards=torch.zeros(2), keep=torch.tensor([True, False]), target={"h": torch.zeros(3)}), ""),
    ],
)
def test_faults_of_columns(columns, why):
    assert columns.fault(2, 3) == why


def test_a_run_with_such_columns_stops_before_its_first_update(tmp_path):
    Read.said = RowColumns(keep=torch.zeros(len(SOURCE.rewards), dtype=torch.bool))
    with pytest.raises(Exception, match="seed 0 diverged before update 0: column 'keep' keeps no row"):
        train(Read, tmp_path)


@pytest.mark.parametrize(("gaps", "eta", "expected"), [((1.5, 0.7), 0.1, 0.08), ((30.0, -5.0), 0.1, 1.0)])
def test_daras_correction(gaps, eta, expected):
    """G1; two softmaxes would say .29877 of the first gap."""
    from offdyn_agents.models.classifiers import CorrectionSettings, log_odds, offsets

    layout = Layout(1, 1)
    row = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]])

    def net(inputs, gap):
        zeros = [torch.zeros(inputs, 4), torch.zeros(1, 4), torch.zeros(4, 4), torch.zeros(1, 4), torch.zeros(4, 2)]
        return [*zeros, torch.tensor([[0.0, gap]])]

    nets = {"sas": net(3, gaps[0]), "sa": net(2, gaps[1])}
    assert float(offsets(CorrectionSettings(weight=eta), nets, layout, row)) == pytest.approx(expected)
    twice = [float(log_odds(nets[n], torch.zeros(1, k), "code")) for n, k in (("sas", 3), ("sa", 2))]
    if gaps[0] == 1.5:
        assert twice[0] - twice[1] == pytest.approx(0.29877, abs=1e-4)


def test_dara_without_its_weight_is_iql(tmp_path):
    train(IQL, tmp_path / "iql")
    for schedule in ("stage", "loop"):
        from offdyn_agents.algorithms.rowwise.dara import DARA

        train(DARA, tmp_path / schedule, settings={"dara.weight": 0.0, "schedule": schedule})
        same(weights(tmp_path / schedule, 0), weights(tmp_path / "iql", 0))


def test_daras_loop_corrects_rewards_by_classifiers_that_it_trains(tmp_path):
    from offdyn_agents.algorithms.rowwise.dara import DARA

    agent = agent_of(DARA, schedule="loop")
    batch = drawn()
    batch = batch._replace(noise=torch.randn(2, 8, agent.noise_width, generator=torch.Generator().manual_seed(2)))
    generator = torch.Generator().manual_seed(7)
    params = parameters(agent) | {
        name: [torch.randn(2, *s, generator=generator) for s in net.shapes()] for name, net in agent.networks().items()
    }
    terms = agent.terms(params, batch)
    assert torch.equal(terms.rewards[:, 5:], torch.zeros(2, 3)) and float(terms.rewards[:, :5].abs().max()) <= 1.0
    assert float(terms.rewards[:, :5].abs().min()) > 0.0
    alone = agent.actor_extra(
        {name: [t[1] for t in p] for name, p in params.items()},
        batch._replace(
            **{
                name: getattr(batch, name)[1]
                for name in ("observations", "actions", "rewards", "next_observations", "continues", "noise")
            }
        ),
    )
    torch.testing.assert_close(agent.actor_extra(params, batch)[1], alone)


def test_bounds_follow_corrected_rewards():
    context = StageContext(LAYOUT, pack(SOURCE, "s"), pack(TARGET, "t"), (0, 1), 1)
    agent = agent_of(Read)
    rows = len(SOURCE.rewards)
    Read.said = RowColumns(rewards=torch.full((rows,), -3.0))
    low = agent.stages(context).frozen[FACTS][1]
    plain = agent.facts(context)[FACTS][1]
    scale = agent.facts(context)[FACTS][0]
    least = min(SOURCE.rewards.min(), TARGET.rewards.min())
    torch.testing.assert_close(low, scale * (min(0.0, float(least) - 3.0) * 100.0), rtol=1e-4, atol=1e-3)
    assert bool((low < plain).all())
    Read.said = RowColumns()
    assert agent.stages(context).frozen == {}


@pytest.mark.parametrize(("rows", "step", "expected"), [(8, 4, [2, 6]), (7, 1, [*range(7)]), (1, 4, [0]), (3, 9, [2])])
def test_one_of_each_so_many_rows(rows, step, expected):
    table = torch.arange(2.0 * rows).view(2, rows, 1)
    assert torch.equal(every(table, step), table[:, expected])
