"""Soft actor-critic: golden values, one update against stock autograd and Adam, and a run that can be interrupted."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from offdyn_agents.behaviour.sac import (
    Replay,
    SacLearner,
    SacSettings,
    actor_outputs,
    can_trace_update,
    critic_values,
    make_update,
    sample_action,
    soft_target,
)
from offdyn_agents.behaviour.training import Run, learn

SMALL = SacSettings(
    rows=4,
    updates_per_step=2,
    steps_per_iteration=5,
    hidden=16,
    batch_size=8,
    warmup=5,
    capacity=200,
    precision="ieee",
    compiled=False,
    updates=40,
)


def test_soft_target_golden() -> None:
    # r + discount * alive * (min(q1, q2) - alpha * log density), by hand.
    target = soft_target(
        torch.tensor([1.0, 1.0]),
        torch.tensor([1.0, 0.0]),
        torch.tensor([[4.0, 4.0], [3.0, 9.0]]),
        torch.tensor([-2.0, -2.0]),
        torch.tensor(0.5),
        0.9,
    )
    torch.testing.assert_close(target, torch.tensor([1.0 + 0.9 * (3.0 + 1.0), 1.0]))


def test_log_density_of_squashed_action_matches_a_library() -> None:
    torch.manual_seed(0)
    actor = [
        torch.randn(5, 7),
        torch.randn(7),
        torch.randn(7, 7),
        torch.randn(7),
        torch.randn(7, 6) / 7,
        torch.zeros(6),
    ]
    observations, noise = torch.randn(9, 5), torch.randn(9, 3)
    actions, density = sample_action(actor, observations, noise)
    mean, log_std = actor_outputs(actor, observations)
    base = torch.distributions.Normal(mean, log_std.exp())
    squashed = torch.distributions.TransformedDistribution(base, torch.distributions.TanhTransform())
    inside = actions.abs().amax(-1) < 0.999  # beyond, the library inverts tanh with too few digits
    assert inside.any()
    expected = squashed.log_prob(actions).sum(-1)
    torch.testing.assert_close(density[inside], expected[inside], rtol=1e-3, atol=1e-3)


def test_critics_are_two_separate_networks() -> None:
    torch.manual_seed(0)
    shapes = ((2, 5, 7), (2, 1, 7), (2, 7, 7), (2, 1, 7), (2, 7, 1), (2, 1, 1))
    critic = [torch.randn(shape) for shape in shapes]
    observations, actions = torch.randn(4, 3), torch.randn(4, 2)
    values = critic_values(critic, observations, actions)
    inputs = torch.cat([observations, actions], -1)
    for i in range(2):
        w1, b1, w2, b2, w3, b3 = (x[i] for x in critic)
        hidden = torch.relu(torch.relu(inputs @ w1 + b1) @ w2 + b2)
        torch.testing.assert_close(values[i], (hidden @ w3 + b3).squeeze(-1), rtol=1e-4, atol=1e-4)


def reference_update(state, batches, noise, rates, settings, entropy):  # type: ignore[no-untyped-def]
    """Two critic steps and one actor step with stock modules, for one fresh Adam state."""
    # The learner adds Adam's epsilon before the bias correction, stock Adam after it.
    epsilon = [1e-8 / math.sqrt(1 - 0.999**step) for step in (1, 2)]
    copy = {name: [x.clone().requires_grad_(True) for x in group] for name, group in state.items()}
    critics = torch.optim.Adam(copy["critic"], lr=rates[0])
    actors = torch.optim.Adam(copy["actor"], lr=rates[1], eps=epsilon[0])
    alphas = torch.optim.Adam(copy["log_alpha"], lr=rates[2], eps=epsilon[0])
    for i in range(2):
        observations, actions, rewards, following, alive = batches[i]
        with torch.no_grad():
            chosen, density = sample_action(copy["actor"], following, noise[i])
            q = torch.minimum(*critic_values(copy["target"], following, chosen))
            y = rewards + settings.discount * alive * (q - copy["log_alpha"][0].exp() * density)
        first, second = critic_values(copy["critic"], observations, actions)
        critics.zero_grad()
        critics.param_groups[0]["eps"] = epsilon[i]
        (0.5 * ((first - y) ** 2).mean() + 0.5 * ((second - y) ** 2).mean()).backward()
        critics.step()
        with torch.no_grad():
            for slow, fast in zip(copy["target"], copy["critic"], strict=True):
                slow.copy_((1 - settings.polyak) * slow + settings.polyak * fast)
    observations = batches[1][0]
    chosen, density = sample_action(copy["actor"], observations, noise[2])
    q = torch.minimum(*critic_values(copy["critic"], observations, chosen))
    actors.zero_grad()
    (copy["log_alpha"][0].exp().detach() * density - q).mean().backward()
    actors.step()
    alphas.zero_grad()
    (-copy["log_alpha"][0].exp() * (density.detach() + entropy).mean()).backward()
    alphas.step()
    return copy


def test_one_update_equals_stock_autograd_and_adam(tmp_path: Path) -> None:
    learner = SacLearner("hopper", "nominal", 0, tmp_path, SMALL)
    rng = np.random.default_rng(0)
    batches = tuple(
        [torch.from_numpy(rng.normal(size=(8, *d)).astype(np.float32)) for d in ((11,), (3,), (), (11,))]
        + [torch.tensor([1.0, 0.0] * 4)]
        for _ in range(2)
    )
    noise = torch.from_numpy(rng.normal(size=(3, 8, 3)).astype(np.float32))
    names = ("actor", "critic", "target", "log_alpha")
    expected = reference_update(
        {name: learner.tensors[name] for name in names}, batches, noise, (1e-3, 6e-4, 6e-4), SMALL, -3.0
    )
    make_update(SMALL, -3.0)(learner.tensors, batches, noise, learner._rates())
    for name in names:
        for mine, theirs in zip(learner.tensors[name], expected[name], strict=True):
            torch.testing.assert_close(mine, theirs.detach(), rtol=1e-4, atol=1e-6)


def test_step_sizes_fall_only_at_the_end(tmp_path: Path) -> None:
    learner = SacLearner("hopper", "nominal", 0, tmp_path, SacSettings(capacity=100, updates=100_000, compiled=False))
    bias = {}
    for steps in (50_000, 80_000, 90_000, 100_000):
        learner.steps = steps
        bias[steps] = float(learner._rates()[0, 0])
    assert bias[50_000] == bias[80_000] == np.float32(1e-3)
    assert math.isclose(bias[90_000], 0.55e-3, rel_tol=1e-5)
    assert math.isclose(bias[100_000], 0.1e-3, rel_tol=1e-5)


def test_interrupted_run_equals_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    for name, limits in (("whole", (None,)), ("parts", (10, 24, None))):
        directory = tmp_path / name
        directory.mkdir()
        for limit in limits:
            learner = SacLearner("halfcheetah", "gravity-0.5", 3, directory, SMALL)
            learn(learner, Run(directory), name, limit=limit, quiet=True)
        assert learner.steps >= 40
    whole, parts = (Run(tmp_path / name) for name in ("whole", "parts"))
    assert whole.load()
    assert parts.load()
    first, second = (run.snapshot(run.history[-1][0]) for run in (whole, parts))
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert all(np.isfinite(value).all() for value in first.values())
    start = SacLearner("halfcheetah", "gravity-0.5", 3, tmp_path, SMALL).snapshot()
    assert not np.array_equal(first["w0"], start["w0"])


def test_replay_keeps_the_newest_and_reopens(tmp_path: Path) -> None:
    replay = Replay(tmp_path / "replay.f32", 2, 1, 10)
    for step in range(4):
        column = np.full(4, float(step))
        replay.add(
            np.stack([column, column], 1), column[:, None], column, np.stack([column, column], 1) + 1, column * 0
        )
    assert replay.count == 16
    replay.flush()
    again = Replay(tmp_path / "replay.f32", 2, 1, 10)
    again.count = replay.count
    observations, actions, rewards, following, alive = again.draw(np.random.default_rng(0), 2, 500)[1]
    assert observations.shape == (500, 2)
    assert actions.shape == (500, 1)
    assert set(rewards.tolist()) == {1.0, 2.0, 3.0}
    torch.testing.assert_close(following, observations + 1)
    assert torch.equal(observations[:, 0], rewards)
    assert torch.equal(alive, torch.zeros(500))


@pytest.mark.slow
@pytest.mark.skipif(not can_trace_update(), reason="needs a C++ compiler and a torch that traces gradients")
def test_compiled_update_equals_the_plain_one(tmp_path: Path) -> None:
    plain, compiled = (SacLearner("hopper", "nominal", 0, tmp_path, SMALL) for _ in range(2))
    update = make_update(dataclasses.replace(SMALL, compiled=True), -3.0)
    rng = np.random.default_rng(0)
    for _ in range(3):
        batches = tuple(
            [torch.from_numpy(rng.normal(size=(8, *d)).astype(np.float32)) for d in ((11,), (3,), (), (11,), ())]
            for _ in range(2)
        )
        noise = torch.from_numpy(rng.normal(size=(3, 8, 3)).astype(np.float32))
        plain._update(plain.tensors, batches, noise, plain._rates())
        update(compiled.tensors, batches, noise, compiled._rates())
    for name, group in plain.tensors.items():
        for mine, theirs in zip(group, compiled.tensors[name], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
