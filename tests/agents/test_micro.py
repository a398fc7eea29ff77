"""MICRO: its penalty, its targets, and MOBILE without either's penalty."""

import numpy as np
import pytest
import torch

from offdyn_agents.algorithms.micro import MICRO, MICROSettings
from offdyn_agents.algorithms.mobile import MOBILE, MOBILESettings
from offdyn_agents.engine.settings import build
from offdyn_agents.presets import preset
from tests.agents.golden import twins
from tests.agents.synthetic import A, S
from tests.agents.test_mobile import ELITES, FAKE, SAMPLES, distribution, setup
from tests.agents.test_sac import draw

SMALL = {"width": 16, "batch_size": 32, "real_ratio": 0.25, "elites": ELITES, "samples": SAMPLES}


def make(kind=MICRO, settings=MICROSettings, **more):
    return kind(build(settings, SMALL | more), S, A)


def alone(agent, rewards, continues):
    """Targets of rows of rollouts whose next value is 10 and whose elites say 10, 8, 9, 11 and 12."""
    params, batch = setup(agent)
    # Critics that know no state: 10, whatever they are asked.
    params["critic_target"] = [torch.zeros_like(t) for t in params["critic_target"]]
    params["critic_target"][-1] += 10.0
    values = torch.tensor([10.0, 8.0, 9.0, 11.0, 12.0])
    agent.inconsistency = lambda params, batch: agent.spread(values).expand(FAKE)
    batch = batch._replace(rewards=torch.full((32,), rewards), continues=torch.full((32,), continues))
    return agent.targets(params, batch, agent.temperature(params))[0]


def test_the_penalty_is_inside_the_next_value():
    """G13; a terminal row carries none, and no target lies below 0."""
    agent = make(deterministic_backup=True, beta=0.5)
    assert float(agent.spread(torch.tensor([10.0, 8.0, 9.0, 11.0, 12.0]))) == 2.0
    torch.testing.assert_close(alone(agent, 1.0, 1.0)[8:], torch.full((FAKE,), 9.91))
    torch.testing.assert_close(alone(agent, 1.0, 1.0)[:8], torch.full((8,), 10.9))
    torch.testing.assert_close(alone(agent, 1.0, 0.0), torch.ones(32))
    assert torch.equal(alone(agent, -20.0, 1.0)[8:], torch.zeros(FAKE))


def test_the_inconsistency_equals_its_formula():
    """Row by row, elite by elite, sample by sample, in float64."""
    agent = make()
    params, batch = setup(agent)
    found = agent.inconsistency(params, batch)
    for row in range(FAKE):
        i = len(batch.rewards) - FAKE + row
        noise = batch.noise[i, 2 * A :].double().numpy().reshape(ELITES, SAMPLES, S + A)
        s, a = batch.observations[i].double().numpy(), batch.actions[i].double().numpy()
        means = []
        for k in range(ELITES):
            mean, std = distribution(params["elites"], k, s, a)
            states = mean + std * noise[k, :, :S]
            actions, _ = draw(params["actor"], states, noise[k, :, S:])
            means.append(twins(params["critic_target"], states, actions).min(0).mean())
        np.testing.assert_allclose(float(found[row]), np.mean(means) - np.min(means), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("deterministic", [True, False])
def test_without_beta_it_is_mobile_without_beta(deterministic):
    settings = {"beta": 0.0, "deterministic_backup": deterministic}
    ours, theirs = make(**settings), make(MOBILE, MOBILESettings, **settings)
    params, batch = setup(ours, -0.5)
    assert torch.equal(ours.loss(params, batch)[0], theirs.loss(params, batch)[0])
    more = make(**settings | {"beta": 2.0}).loss(params, batch)[0]
    assert not torch.equal(ours.loss(params, batch)[0], more)


@pytest.mark.parametrize(
    ("robot", "quality", "expected"),
    [
        ("halfcheetah", "medium", {}),
        ("halfcheetah", "medium-expert", {"real_ratio": 0.5, "deterministic_backup": True, "dynamics.patience": 30}),
        ("hopper", "medium", {"beta": 1.0, "auto_alpha": False, "dynamics.patience": 10}),
        ("hopper", "medium-replay", {"beta": 0.1, "auto_alpha": False, "real_ratio": 0.5}),
        (
            "hopper",
            "medium-expert",
            {"beta": 1.0, "horizon": 10, "deterministic_backup": True, "dynamics.patience": 30},
        ),
        ("walker2d", "medium", {"dynamics.patience": 30}),
        ("walker2d", "medium-replay", {"beta": 0.2, "horizon": 1, "real_ratio": 0.5}),
        ("walker2d", "medium-expert", {"beta": 1.0, "horizon": 1}),
        ("ant", "medium", {"dynamics.patience": 30}),
    ],
)
def test_published_constants(robot, quality, expected):
    assert preset(MICRO, robot, quality) == {"horizon": 5, "beta": 0.5} | expected
    settings = build(MICROSettings, preset(MICRO, robot, quality))
    assert (settings.alpha, settings.actor_rate, settings.samples, settings.elites) == (0.1, 1e-4, 10, 5)
