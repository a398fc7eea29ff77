"""TABB, our reading: weights against numbers by hand, their invariances, and what planted rows weigh."""

from dataclasses import replace

import pytest
import torch

from offdyn_agents.algorithms.iql import IQL
from offdyn_agents.algorithms.returns import FACTS
from offdyn_agents.algorithms.rowwise.agent import WEIGHTS
from offdyn_agents.algorithms.rowwise.tabb import CONTINUES, REWARDS, STATES, TABB, TABBSettings, agreement
from offdyn_agents.engine.rows import Layout, RowCounts
from offdyn_agents.engine.settings import build
from offdyn_agents.models.ensemble.settings import DynamicsSettings
from offdyn_agents.testing.conformance import same, train, weights
from offdyn_envs.errors import OffDynError
from tests.agents.planted import LAYOUT, earning, good_rows, planted

SMALL = {"elites": 2, "dynamics": DynamicsSettings(width=32, epochs=15, members=2, batch_size=32)}


def make(**settings):
    return TABB(TABBSettings(**{"reward_scale": "none", "value_bounds": "none"} | settings), 1, 1)


def line(slope):
    """Parameters of V(s) = slope * s."""
    return [torch.tensor([[1.0, -1.0]]), torch.zeros(1, 2), torch.tensor([[slope], [-slope]]), torch.zeros(1, 1)]


def batch_of(agent, rows, said, source):
    layout = Layout(1, 1, agent.columns)
    behind = torch.cat([said[REWARDS].unsqueeze(1), said[STATES], said[CONTINUES].unsqueeze(1)], 1)
    behind = torch.cat([behind, torch.zeros(len(rows) - source, behind.shape[1])])
    return layout.batch(torch.cat([rows, behind], 1), None, RowCounts(source, len(rows) - source))


def one_row(agent, ends=False, goes_on=1.0):
    """r 1 and V(s') 10; r^ .9 and V(s^') 9.5 where V(s) = s."""
    row = LAYOUT.join(*(torch.tensor([[x]]) for x in (0.0, 0.0, 10.0)), torch.tensor([1.0]), torch.tensor([ends]))
    said = {REWARDS: torch.tensor([0.9]), STATES: torch.tensor([[9.5]]), CONTINUES: torch.tensor([goes_on])}
    return batch_of(agent, row, said, 1)


def test_the_weight_of_a_mismatch():
    """G10: .1 + .99 * .5, and e to that for T = 1."""
    agent = make()
    mismatch = agent.mismatch({"value": line(1.0)}, one_row(agent))
    assert float(mismatch) == pytest.approx(0.595, abs=1e-5)
    assert float(agreement(mismatch, torch.tensor([1.0]))) == pytest.approx(0.551563, abs=1e-5)
    assert float(agreement(mismatch, torch.tensor([1.0]), 2.0)) == pytest.approx(0.551563**2, abs=1e-5)


@pytest.mark.parametrize(("ends", "goes_on", "expected"), [(True, 1.0, 9.305), (False, 0.0, 10.0), (True, 0.0, 0.1)])
def test_ends_count_on_both_sides(ends, goes_on, expected):
    """y is 1 or 10.9, y^ is .9 or 10.305."""
    agent = make()
    assert float(agent.mismatch({"value": line(1.0)}, one_row(agent, ends, goes_on))) == pytest.approx(
        expected, abs=1e-5
    )


def test_rewards_are_scaled_and_values_bounded():
    agent = make(reward_scale="returns", value_bounds="rewards")
    facts = [torch.tensor(number) for number in (0.5, -9.75, 9.75)]
    mismatch = agent.mismatch({"value": line(1.0), FACTS: facts}, one_row(agent))
    # k = .5; V(s') is 9.75 at most.
    assert float(mismatch) == pytest.approx(0.5 * 0.1 + 0.99 * 0.25, abs=1e-5)


def random_batch(agent, lead=(), rows=12, source=7):
    generator = torch.Generator().manual_seed(1)
    layout = Layout(1, 1, agent.columns)
    packed = torch.randn(*lead, rows, layout.width + 3, generator=generator)
    packed[..., layout.width - 1] = packed[..., -1] = 1.0
    return layout.batch(packed, None, RowCounts(source, rows - source))


def test_the_scale_of_values_leaves_weights_alone():
    """Where rewards are foretold; the median grows with V."""
    agent = make()
    batch = random_batch(agent)
    batch = batch._replace(columns={**batch.columns, REWARDS: batch.rewards[:7]})
    one, other = (agent.terms({"value": line(slope)}, batch).weights for slope in (1.0, 7.0))
    torch.testing.assert_close(one, other)
    # The row of the median itself weighs 1/e.
    assert float((one - torch.tensor(-1.0).exp()).abs().min()) < 1e-6
    assert one.shape == (7,) and 0.0 <= float(one.min()) and float(one.max()) <= 1.0


def test_a_perfect_model_weighs_all_rows_alike():
    agent = make()
    batch = random_batch(agent)
    said = {REWARDS: batch.rewards[:7], STATES: batch.next_observations[:7], CONTINUES: batch.continues[:7]}
    terms = agent.terms({"value": line(3.0)}, batch._replace(columns=said))
    assert torch.equal(terms.weights, torch.ones(7)) and terms.scores is None and terms.rewards is None


def test_a_population_is_its_runs():
    agent = make()
    batch = random_batch(agent, lead=(3,))
    value = [torch.stack([tensor] * 3) * torch.tensor([1.0, 2.0, -1.0]).view(3, 1, 1) for tensor in line(1.0)]
    together = agent.terms({"value": value}, batch).weights
    for run in range(3):
        own = batch._replace(
            **{name: part[run] for name, part in batch._asdict().items() if isinstance(part, torch.Tensor)},
            columns={name: column[run] for name, column in batch.columns.items()},
        )
        torch.testing.assert_close(together[run], agent.terms({"value": [t[run] for t in value]}, own).weights)


def test_planted_rows_of_the_mirror_weigh_little():
    """Measured under V(s) = 3 s: weights .72 and .03; of the half that agrees best 97% are of the target's kind."""
    context, good = earning(planted()), good_rows()
    agent = make(**SMALL)
    columns = agent.row_columns(context)[0]
    states, actions, *_ = LAYOUT.split(context.source)
    # The models have learned the target's dynamics and rewards, and nothing ends.
    assert float((columns.extras[STATES] - states - 0.5 * actions).abs().mean()) < 0.03
    assert float((columns.extras[REWARDS] - actions[:, 0]).abs().mean()) < 0.03
    assert bool((columns.extras[CONTINUES] == 1.0).all())
    nearest = columns.extras["nearness"].argsort(descending=True)[: len(good) // 2]
    assert float(good[nearest].float().mean()) > 0.93
    batch = batch_of(agent, context.source, columns.extras, len(context.source))
    params = {"value": line(3.0)}
    mismatch, said = agent.mismatch(params, batch), agent.terms(params, batch).weights
    assert float(good[mismatch.argsort()[: len(good) // 2]].float().mean()) > 0.93
    assert float(said[good].mean()) > 0.6 and float(said[~good].mean()) < 0.1


def test_models_say_where_episodes_end():
    context = planted()
    context = replace(context, terminated=lambda states: states[..., 0] > 0.5)
    columns = make(**SMALL).row_columns(context)[0]
    assert torch.equal(columns.extras[CONTINUES] == 0.0, columns.extras[STATES][:, 0] > 0.5)


def test_without_strength_it_is_iql(tmp_path):
    assert make(strength=0.0).columns == {}
    train(IQL, tmp_path / "iql")
    train(TABB, tmp_path / "tabb", settings={"strength": 0.0})
    for seed in (0, 1):
        same(weights(tmp_path / "tabb", seed), weights(tmp_path / "iql", seed))


def test_weights_reach_the_critics(tmp_path):
    agent = make()
    batch = random_batch(agent)
    errors = torch.ones(2, 12)
    said = agent.terms({"value": line(1.0)}, batch).weights
    loss = agent.critic_loss({}, errors, batch._replace(columns={WEIGHTS: said}))
    torch.testing.assert_close(loss, 2.0 * (said.sum() + 5.0) / 12.0)


def test_more_elites_than_members_are_refused():
    with pytest.raises(OffDynError, match=r"setting elites is 9; at most dynamics\.members, 7, is allowed"):
        TABB(build(TABBSettings, {"elites": 9}), 1, 1)
