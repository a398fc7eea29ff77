"""BOSA: which transitions the target's dynamics support, and what the critics and the actor make of it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from offdyn_agents.algorithms.bosa import BOSA
from offdyn_agents.algorithms.registry import make_agent
from offdyn_agents.algorithms.returns import FACTS
from offdyn_agents.algorithms.td3_bc import TD3BC
from offdyn_agents.engine.networks import mlp
from offdyn_agents.engine.rows import Layout, RowCounts
from offdyn_agents.models.support import VARIANCE, Support, SupportSettings, fit_dynamics, supports
from offdyn_agents.testing.conformance import SOURCE, TARGET, same, train, weights
from offdyn_agents.testing.data import A, S
from tests.agents.planted import context, good_rows, planted, world

SMALL = {"updates": 300, "width": 32, "batch_size": 64, "members": 2}


def packed(layout, s, a, following):
    parts = [torch.as_tensor(part, dtype=torch.float32) for part in (s, a, following)]
    return torch.cat([*parts, torch.zeros(len(parts[0]), 1), torch.ones(len(parts[0]), 1)], dim=1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Models of one target are trained once, whatever the source."""
    return tmp_path_factory.mktemp("stages")


def silent(support):
    """Return networks whose encoder is its prior and whose decoder says 0."""
    return {name: [torch.zeros(shape) for shape in net.shapes()] for name, net in support.model.networks().items()}


def test_the_density_of_an_exact_reconstruction():
    """G11: 17 dimensions."""
    support = Support(SupportSettings(width=4, members=1), Layout(17, 6))
    nets = {name: [tensor[0] for tensor in tensors] for name, tensors in silent(support).items()}
    noise = torch.randn(3, 50 * 34, generator=torch.Generator().manual_seed(0))
    found = support.model.log_density(nets, torch.zeros(3, 23), torch.zeros(3, 17), noise)
    torch.testing.assert_close(found, torch.full((3,), 2.0533), rtol=0, atol=1e-4)
    assert float(found[0]) > math.log(0.01) == pytest.approx(-4.60517)


@pytest.mark.parametrize(("square", "passes"), [(1.64, True), (1.69, False)])
def test_a_row_passes_by_its_distance_in_raw_units(square, passes):
    layout = Layout(17, 6)
    support = Support(SupportSettings(width=4, members=2), layout)
    row = packed(layout, np.zeros((1, 17)), np.zeros((1, 6)), np.eye(17)[:1] * square**0.5)
    noise = torch.randn(50, 34, generator=torch.Generator().manual_seed(0))
    assert support.mask(silent(support), row, noise, math.log(0.01)).tolist() == [passes]


def test_one_model_that_does_not_support_a_row_is_enough():
    layout = Layout(2, 1)
    support = Support(SupportSettings(width=4, members=3), layout)
    nets, noise = silent(support), torch.zeros(1, 4)
    row = packed(layout, np.zeros((1, 2)), np.zeros((1, 1)), np.zeros((1, 2)))
    assert support.mask(nets, row, noise, math.log(0.01)).tolist() == [True]
    nets["decoder"][-1][1] = 2.0
    assert support.mask(nets, row, noise, math.log(0.01)).tolist() == [False]


def undecided():
    """Return three random autoencoders, their weights and 400 rows, of which some are likely enough."""
    layout, generator = Layout(2, 1), torch.Generator().manual_seed(5)
    support = Support(SupportSettings(width=6, members=3), layout)
    nets = {
        name: [0.3 * torch.randn(shape, generator=generator) for shape in net.shapes()]
        for name, net in support.model.networks().items()
    }
    return support, nets, torch.randn(400, layout.width, generator=generator)


def test_samples_that_are_not_needed_change_nothing():
    """Rows are decided as soon as they can be: as all samples of all models decide them."""
    support, nets, rows = undecided()
    noise = torch.randn(50, 4, generator=torch.Generator().manual_seed(6))
    given, wanted = (part.unsqueeze(0).expand(3, -1, -1) for part in support.parts(rows))
    whole = support.model.log_density(nets, given, wanted, noise.reshape(1, 1, -1).expand(1, 400, -1)).amin(0)
    torch.testing.assert_close(support.densities(nets, rows, noise), whole)
    found = support.mask(nets, rows, noise, math.log(0.01))
    assert torch.equal(found, whole > math.log(0.01))
    assert 0.05 < float(found.double().mean()) < 0.95


def test_a_mask_of_one_sample_flickers():
    """F20 (docs/methods/README.md): another draw of one sample decides more rows otherwise than one of 50 does."""
    support, nets, rows = undecided()

    def turned(samples):
        draws = [torch.randn(samples, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(20)]
        masks = torch.stack([support.mask(nets, rows, noise, math.log(0.01)) for noise in draws])
        return float((masks[1:] != masks[:-1]).double().mean())

    assert turned(1) > 3 * turned(50)


@pytest.mark.parametrize(("share", "passing"), [(0.0, 3), (0.2, 3), (0.5, 5), (0.9, 9), (1.0, 10)])
def test_so_many_target_rows_are_supported(share, passing):
    """Of ten log densities 3 exceed ln .01; the lowest is beyond what float32 has a density for."""
    densities = torch.tensor([-300.0, -40.0, -9.0, -8.0, -7.0, -6.0, -5.0, 0.0, 1.0, 2.0])
    least = Support(SupportSettings(target_share=share), Layout(1, 1)).least(densities)
    assert int((densities > least).sum()) == passing
    assert least <= math.log(0.01)


def test_rows_in_large_units_are_supported_by_share_alone(cache):
    """No row of a target in a unit of 1 / 1000 exceeds the density .01, and the critics would learn from none."""
    target = world(500, 0, 0.5, unit=1000.0)
    published, ours = (
        supports(SupportSettings(**SMALL, target_share=share), context(target[:50], target, cache=cache))[0][1].mean()
        for share in (0.0, 0.9)
    )
    assert float(published) == 0.0
    assert float(ours) == pytest.approx(0.9)


def test_identical_domains_support_each_other(cache):
    """Source rows are held out here: no model has seen one."""
    settings = SupportSettings(**SMALL)
    masks = supports(settings, context(world(2000, 1, 0.5, unit=4.0), world(500, 0, 0.5, unit=4.0), cache=cache))
    assert float(masks[0][0].mean()) > 0.95 and float(masks[0][1].mean()) > 0.95


def test_mask_of_planted_rows(cache):
    """The two kinds of rows differ by at most 1, which the mask does not see: all pass, so that 50% of them are good.

    With states in a unit four times as small, it sees them: measured .77 of the rows that pass are good, all good ones
    among them.
    """
    shares, passing = [], []
    for unit in (1.0, 4.0):
        mask = supports(SupportSettings(**SMALL), planted(rows=2000, target=500, unit=unit, cache=cache))[0][0]
        shares.append(float(mask[good_rows(2000)].sum() / mask.sum()))
        passing.append(float(mask.mean()))
    assert (shares[0], passing[0]) == (0.5, 1.0)
    assert shares[1] > 0.7 and passing[1] > 0.5


def test_models_of_both_datasets_support_what_the_source_does(cache):
    """F18 (docs/methods/README.md): as public code fits them."""
    source, target = world(1000, 1, -0.5, unit=4.0), world(500, 0, 0.5, unit=4.0)
    own, both = (
        float(supports(SupportSettings(**SMALL, rows=rows), context(source, target, cache=cache))[0][0].mean())
        for rows in ("target", "merged")
    )
    assert both > own + 0.3


def test_models_start_with_small_answers():
    """F19 (docs/methods/README.md): weights of N(0, 1) at a fan-in of 750 would start at thousands."""
    support, generator = Support(SupportSettings(), Layout(17, 6)), torch.Generator().manual_seed(0)
    net = support.model.networks()["decoder"]
    answers = mlp(net.initial(generator), torch.randn(5, 50, net.sizes[0], generator=generator))
    assert float(answers.abs().max()) < 2.0


def test_each_seed_has_its_own_mask_and_it_is_found_once(tmp_path):
    settings = SupportSettings(**{**SMALL, "updates": 20})
    given = context(world(50, 0, -0.5), world(100, 0, 0.5), (0, 1), cache=tmp_path)
    first = supports(settings, given)
    assert not torch.equal(
        fit_dynamics(settings, given)[0]["decoder"][0], fit_dynamics(settings, given)[1]["decoder"][0]
    )
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = supports(settings, given)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    assert all(torch.equal(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True))
    assert len(first[0][0]) == 50 and len(first[0][1]) == 100


def agent_of(kind=BOSA, **settings):
    return kind(kind.settings_class(width=8, **settings), S, A)


def drawn(agent, rows=6, source=4):
    generator = torch.Generator().manual_seed(3)
    layout = Layout(S, A, agent.columns)
    table = torch.randn(2, rows, layout.width + len(agent.columns), generator=generator)
    table[..., layout.width - 1] = 1.0
    table[..., layout.width :] = (table[..., layout.width :] > 0).float()
    noise = torch.randn(2, rows, agent.noise_width, generator=generator)
    return layout.batch(table, None, RowCounts(source, rows - source), noise, "both")


def test_masks_and_penalty_of_the_critics():
    agent = agent_of(penalty=0.1, value_bounds="none")
    batch, generator = drawn(agent), torch.Generator().manual_seed(6)
    q, y = torch.randn(2, 2, 6, generator=generator), torch.randn(2, 6, generator=generator)
    mask = torch.cat([batch.columns["mask"], batch.target_columns["mask"]], dim=1)
    assert 0 < float(mask.mean()) < 1 and batch.target_columns["mask"].shape == (2, 2)
    for run in range(2):
        # Of the form of public code, .5 mean m (y - Q)^2 + .1 mean Q over source rows: twice as much.
        errors = sum(float(mask[run, i] * (y[run, i] - q[run, c, i]) ** 2) for c in range(2) for i in range(6)) / 6
        lowered = sum(float(q[run, c, i]) for c in range(2) for i in range(4)) / 4
        expected = 2 * (0.5 * errors + 0.1 * lowered)
        assert float(agent.critic_loss({}, q, y, batch)[run]) == pytest.approx(expected, rel=1e-5)


def test_the_penalty_lowers_no_value_beyond_what_rewards_allow():
    agent = agent_of(penalty=0.1)
    batch = drawn(agent)
    batch = batch._replace(columns={"mask": torch.zeros(2, 4)})
    bounds = {FACTS: [torch.ones(2), torch.tensor([-5.0, -7.0]), torch.tensor([9.0, 9.0])]}
    q = torch.full((2, 2, 6), -6.0, requires_grad=True)
    agent.critic_loss(bounds, q, torch.zeros(2, 6), batch).sum().backward()
    for run, sign in enumerate((-1, 1)):
        torch.testing.assert_close(q.grad[run, :, :4], torch.full((2, 4), sign * 2 * 0.1 / 4))


@pytest.mark.parametrize(("bounds", "falls"), [("rewards", False), ("none", True)])
def test_values_of_unsupported_rows_have_an_end(bounds, falls):
    """The published penalty has none: from narrow joints Q fell to -24,000 in 48,500 updates."""
    agent = agent_of(penalty=0.1, value_bounds=bounds)
    batch = drawn(agent)
    batch = batch._replace(columns={"mask": torch.zeros(2, 4)})
    facts = {FACTS: [torch.ones(2), torch.full((2,), -5.0), torch.full((2,), 9.0)]}
    q = torch.zeros(2, 2, 6, requires_grad=True)
    descent = torch.optim.Adam([q], 0.05)
    for _ in range(1000):
        descent.zero_grad()
        agent.critic_loss(facts, q, torch.zeros(2, 6), batch).sum().backward()
        descent.step()
    lowest = float(q.detach()[..., :4].min())
    assert lowest < -40.0 if falls else -5.5 < lowest < -4.5


def test_terminal_rows_have_their_reward_as_target():
    """F17 (docs/methods/README.md): public code takes terminal rows for the only ones that go on."""
    agent = agent_of(value_bounds="none")
    batch, generator = drawn(agent), torch.Generator().manual_seed(4)
    params = {
        f"{name}_target": [torch.randn(2, *shape, generator=generator) for shape in net.shapes()]
        for name, net in agent.networks().items()
    }
    batch = batch._replace(continues=torch.tensor([[0.0, 1.0] * 3] * 2))
    found, _ = agent._targets(params, batch, batch.next_observations)
    faulty, _ = agent._targets(params, batch._replace(continues=1.0 - batch.continues), batch.next_observations)
    # G11: the faulty form goes on from terminal rows.
    for right, wrong, ends in ((found, faulty, slice(0, None, 2)), (faulty, found, slice(1, None, 2))):
        assert torch.equal(right[:, ends], batch.rewards[:, ends])
        assert not torch.isclose(wrong[:, ends], batch.rewards[:, ends]).any()


def test_the_actors_term():
    agent, generator = agent_of(samples=2, regularisation=0.1), torch.Generator().manual_seed(4)
    batch = drawn(agent)
    model = agent._behaviour
    params = {
        f"behaviour_{name}": [0.3 * torch.randn(2, *shape, generator=generator) for shape in net.shapes()]
        for name, net in model.networks().items()
    }
    actions = torch.rand(2, 6, A, generator=generator)
    near = agent.near(params, batch, actions)
    nets = {name: [tensor[1] for tensor in params[f"behaviour_{name}"]] for name in model.networks()}
    logs = model.log_density(nets, batch.observations[1], actions[1], batch.noise[1, :, A:])
    torch.testing.assert_close(near[1], -0.1 * logs.mean())


def test_published_constants():
    """A port's: the paper's own values are not known."""
    own, code = (make_agent("bosa", "hopper", 11, 3, {"form": form}).settings for form in ("suite", "code"))
    assert (own.alpha, own.penalty, own.regularisation, own.samples) == (1.0, 0.1, 0.1, 1)
    assert (own.target_noise, own.target_noise_clip, own.actor_delay) == (0.2, 0.5, 2)
    support, behaviour = own.support, own.behaviour
    assert (support.members, support.samples, support.least, VARIANCE) == (5, 50, 0.01, 0.5 / 4)
    for autoencoder in (support, behaviour):
        assert (autoencoder.width, autoencoder.batch_size) == (750, 128)
        assert (autoencoder.learning_rate, autoencoder.kl) == (1e-3, 0.5)
    assert (support.rows, support.target_share, own.value_bounds) == ("target", 0.9, "rewards")
    assert code.support == replace(support, rows="merged", samples=1, target_share=0.0)
    assert (support.updates, behaviour.updates, code.behaviour.updates) == (100_000, 20_000, 100_000)
    assert replace(code, form="suite", support=support, behaviour=behaviour, value_bounds="rewards") == own
    assert code.value_bounds == "none"


class TD3(TD3BC):
    """TD3-BC without cloning."""

    name = "td3"

    def near(self, params, batch, actions):
        return torch.zeros_like(actions[..., 0, 0])


NEUTRAL = {"penalty": 0.0, "regularisation": 0.0}


def test_neutral_settings_are_td3(tmp_path):
    train(TD3, tmp_path / "td3", settings={"alpha": 1.0})
    train(BOSA, tmp_path / "bosa", settings={**NEUTRAL, "masked": False})
    same(weights(tmp_path / "bosa", 0), weights(tmp_path / "td3", 0))
    # A density that all rows exceed: all are supported.
    train(BOSA, tmp_path / "all", settings={**NEUTRAL, "support.least": 0.0, "support.target_share": 0.0})
    same(weights(tmp_path / "all", 0), weights(tmp_path / "td3", 0))


def test_what_is_reported_of_the_mask(tmp_path):
    import json

    from offdyn_agents.engine.resources import Budget, Hardware
    from offdyn_agents.engine.training.supplies import TaskRuns, make_supply
    from offdyn_agents.testing.sizes import small_agent

    given = make_supply(
        small_agent(BOSA), [TaskRuns(SOURCE, TARGET, (0,), tmp_path)], Budget(1, 1, 1), Hardware(compiled=False)
    )
    told = json.loads(json.dumps(given.reports[0]["rows"]))[0]
    assert set(told) == {"mask", "target mask"}
    assert 0.0 <= told["mask"]["mean"] <= 1.0
    assert VARIANCE == 0.125
