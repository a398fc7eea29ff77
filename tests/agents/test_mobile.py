"""MOBILE: the Bellman inconsistency and the targets that it enters, again in float64 NumPy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from offdyn_agents.algorithms import mobile
from offdyn_agents.algorithms.mobile import MOBILE, MOBILESettings
from offdyn_agents.algorithms.returns import FACTS
from offdyn_agents.engine.settings import build
from offdyn_agents.models.ensemble.model import MATRICES, ensemble_network
from offdyn_agents.models.ensemble.settings import EnsembleSettings
from tests.agents.golden import twins
from tests.agents.planted import LAYOUT, planted
from tests.agents.synthetic import A, S, make_params
from tests.agents.test_sac import draw, golden, noisy, run_of, with_alpha

ELITES, SAMPLES, FAKE = 3, 4, 24


def make_mobile(**settings):
    small = {"width": 16, "batch_size": 32, "real_ratio": 0.25, "elites": ELITES, "samples": SAMPLES}
    return MOBILE(build(MOBILESettings, small | settings), S, A)


def elites(seed=3):
    """What the stage gives the loss: mean and deviation of the inputs, and the members."""
    generator = torch.Generator().manual_seed(seed)
    network = ensemble_network(EnsembleSettings(width=8, members=ELITES), S, A)
    params = [0.6 * torch.randn(shape, generator=generator) for shape in network.shapes()]
    params += [torch.full((ELITES, 1, 1 + S), bound) for bound in (-6.0, 0.5)]
    return [torch.randn(S + A, generator=generator), 0.5 + torch.rand(S + A, generator=generator), *params]


WIDE = {FACTS: [torch.tensor(1.0), torch.tensor(-1e6), torch.tensor(1e6)]}
"""Bounds that no value leaves."""


def setup(agent, log_alpha=0.0):
    return with_alpha(make_params(agent), log_alpha) | {"elites": elites()} | WIDE, noisy(agent)


def distribution(frozen, k, s, a):
    """Mean and standard deviation of one member's next state, in float64."""
    mean, std, *params = (tensor.double().numpy() for tensor in frozen)
    h = (np.concatenate([s, a]) - mean) / std
    for layer in range(5):
        h = h @ params[2 * layer][k] + params[2 * layer + 1][k, 0]
        h = h / (1.0 + np.exp(-h)) if layer < 4 else h
    low, high = params[MATRICES][k, 0], params[MATRICES + 1][k, 0]
    lv = high - np.log1p(np.exp(high - h[1 + S :]))
    lv = low + np.log1p(np.exp(lv - low))
    return s + h[1 : 1 + S], np.exp(0.5 * lv[1:])


def inconsistency(params, batch):
    """u, row by row, elite by elite, sample by sample."""
    first = len(batch.rewards) - FAKE
    found = []
    for i in range(first, len(batch.rewards)):
        noise = batch.noise[i, 2 * A :].double().numpy().reshape(ELITES, SAMPLES, S + A)
        s, a = batch.observations[i].double().numpy(), batch.actions[i].double().numpy()
        means = []
        for k in range(ELITES):
            mean, std = distribution(params["elites"], k, s, a)
            values = []
            for j in range(SAMPLES):
                state = (mean + std * noise[k, j, :S])[None]
                action, _ = draw(params["actor"], state, noise[k, j, S:][None])
                values.append(twins(params["critic_target"], state, action).min())
            means.append(np.mean(values))
        found.append(np.sqrt(np.sum((np.array(means) - np.mean(means)) ** 2) / (ELITES - 1)))
    return np.array(found)


@pytest.mark.parametrize(
    ("settings", "log_alpha"),
    [({}, -0.5), ({"beta": 2.0, "deterministic_backup": False}, -0.5), ({"auto_alpha": False, "beta": 0.0}, 0.0)],
)
def test_losses_equal_their_formulas(settings, log_alpha, monkeypatch):
    # Of 288 states: the last block is a smaller one.
    monkeypatch.setattr(mobile, "BLOCK", 100)
    agent = make_mobile(**settings)
    params, batch = setup(agent, log_alpha)
    assert batch.fake_rows == FAKE
    loss, metrics = agent.loss(params, batch)
    u = inconsistency(params, batch)
    assert u.min() > 0.0
    # SAC's own loss does the rest once the penalty is in the rewards and targets are cut off at 0.
    rewards = batch.rewards.clone()
    rewards[-FAKE:] -= torch.from_numpy(agent.settings.beta * u).float()
    expected, total = golden(agent, params, batch._replace(rewards=rewards), lowest=0.0)
    for key, value in expected.items():
        np.testing.assert_allclose(float(metrics[key]), value, rtol=1e-4, err_msg=key)
    np.testing.assert_allclose(float(metrics["penalty"]), u.mean(), rtol=1e-4)
    np.testing.assert_allclose(float(loss), total, rtol=1e-4)


def test_defaults():
    settings = MOBILESettings()
    assert (settings.deterministic_backup, settings.actor_critics, settings.samples) == (True, "target", 10)
    assert MOBILE(settings, 17, 6).noise_width == 12 + 5 * 10 * 23


def test_real_rows_carry_no_penalty():
    agent, free = make_mobile(beta=3.0), make_mobile(beta=0.0)
    params, batch = setup(agent)
    batch = batch._replace(rewards=batch.rewards + 100.0)
    alpha = agent.temperature(params)
    (ours, _), (theirs, _) = agent.targets(params, batch, alpha), free.targets(params, batch, alpha)
    assert torch.equal(ours[:8], theirs[:8])
    assert bool((ours[8:] < theirs[8:]).all())


def test_no_target_is_below_zero():
    agent = make_mobile()
    params, batch = setup(agent)
    batch = batch._replace(rewards=batch.rewards - 1000.0)
    assert torch.equal(agent.targets(params, batch, agent.temperature(params))[0], torch.zeros(32))


@pytest.mark.parametrize(("bounds", "most"), [("rewards", 5.0), ("none", 1000.0)])
def test_next_values_are_inside_what_rewards_allow(bounds, most):
    """Critics that say 1,000 everywhere; the data's rewards allow 5."""
    agent = make_mobile(value_bounds=bounds, beta=0.0)
    params, batch = setup(agent)
    params["critic_target"] = [torch.zeros_like(t) for t in params["critic_target"]]
    params["critic_target"][-1] += 1000.0
    params[FACTS] = [torch.tensor(1.0), torch.tensor(0.0), torch.tensor(5.0)]
    batch = batch._replace(rewards=torch.ones(32), continues=torch.ones(32))
    torch.testing.assert_close(
        agent.targets(params, batch, agent.temperature(params))[0], torch.full((32,), 1 + 0.99 * most)
    )


def test_bounds_are_those_of_the_rows_it_learns_from():
    given = planted()
    source = given.source.clone()
    source[0, LAYOUT.reward_column] = 7.0
    facts = make_mobile().facts(replace(given, source=source))
    assert make_mobile(value_bounds="none").facts(given) == {}
    assert float(facts[FACTS][2]) == pytest.approx(700.0)


def test_elites_that_agree_are_not_penalised():
    agent = make_mobile()
    params, batch = setup(agent)
    same = [t if t.dim() == 1 else t[:1].expand_as(t) for t in params["elites"]]
    found = agent.inconsistency(params | {"elites": same}, batch._replace(noise=torch.zeros_like(batch.noise)))
    torch.testing.assert_close(found, torch.zeros(FAKE), atol=1e-4, rtol=0.0)
    assert bool((agent.inconsistency(params, batch._replace(noise=torch.zeros_like(batch.noise))) > 1e-2).any())


def test_a_population_is_its_runs():
    agent = make_mobile()
    params, batch = make_params(agent, runs=2), noisy(agent, runs=2)
    params["alpha"] = [torch.tensor([-1.0, 0.5])]
    params["elites"] = [torch.stack(pair) for pair in zip(elites(1), elites(2), strict=True)]
    # Bounds that hold one run's values and not the other's.
    params |= {FACTS: [torch.ones(2), torch.tensor([-1e6, -0.01]), torch.tensor([1e6, 0.01])]}
    losses, _ = agent.loss(params, batch)
    for run in range(2):
        alone = {key: [t[run] for t in tensors] for key, tensors in params.items()}
        torch.testing.assert_close(losses[run], agent.loss(alone, run_of(batch, run))[0], rtol=1e-5, atol=1e-5)
