from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import benchmark_models as models
import gymnasium
import numpy as np
import pytest

import offdyn_envs  # noqa: F401  (registers the environments)
from offdyn_envs.attacks import MinQAttack, RandomAttack
from offdyn_envs.benchmark.gate import onnx_policy
from offdyn_envs.benchmark.scoring import rollouts
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import get_robot
from offdyn_envs.shifts import Delay, Gravity, Noise

HALF = (Gravity(0.5),)


def linear(seed: int, observation_dim: int = 11, action_dim: int = 3) -> Any:
    weights = np.random.default_rng(seed).normal(size=(observation_dim, action_dim))
    return lambda observations: np.tanh(observations @ weights)


def scalar_returns(act: Any, shifts: Sequence[Any], seeds: Sequence[int], attack: Any = None) -> list[float]:
    env = gymnasium.make("OffDyn/Hopper-v0", shifts=[shift.to_json() for shift in shifts])
    totals: list[float] = []
    for seed in seeds:
        observation, _ = env.reset(seed=seed)
        rng, total, over = np.random.default_rng([seed, 1]), 0.0, False
        while not over:
            seen = observation if attack is None else attack.perturb(observation[None], [rng])[0]
            observation, reward, terminated, truncated, _ = env.step(act(seen[None])[0].astype(np.float32))
            total, over = total + float(reward), terminated or truncated
        totals.append(total)
    env.close()
    return totals


def test_returns_equal_the_scalar_environment_episode_by_episode() -> None:
    act = linear(0)
    batched = rollouts.episode_returns(act, "hopper", HALF, 9, seed=40)
    # Matrix products of one row and of nine may round differently: 1e-6, not bit for bit.
    np.testing.assert_allclose(batched, scalar_returns(act, HALF, range(40, 49)), rtol=1e-6)
    assert len(set(batched.tolist())) == 9


def test_dropping_finished_rows_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def act(observations: Any) -> Any:
        return np.sin(17.0 * observations[..., :3])  # elementwise: the same bits in any batch

    dropped = rollouts.episode_returns(act, "hopper", HALF, 12, seed=3)
    sizes: list[int] = []
    original = rollouts._Flight.compact

    def never(self: Any, wanted: Any) -> None:
        sizes.append(len(self.rows))
        if not self.alive.any():
            original(self, wanted)

    monkeypatch.setattr(rollouts._Flight, "compact", never)
    kept = rollouts.episode_returns(act, "hopper", HALF, 12, seed=3)
    assert set(sizes) == {12}
    np.testing.assert_array_equal(dropped, kept)


@pytest.mark.parametrize("shift", [Delay(3), Noise(0.05)])
def test_dropping_finished_rows_loses_no_action_under_way_and_no_noise(shift: Any) -> None:
    def act(observations: Any) -> Any:
        return np.sin(17.0 * observations[..., :3])

    together = rollouts.episode_returns(act, "hopper", (*HALF, shift), 6, seed=3)
    alone = [rollouts.episode_returns(act, "hopper", (*HALF, shift), 1, seed=3 + episode)[0] for episode in range(6)]
    assert together.tolist() == alone


def test_portions_of_rows_with_own_models_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    robot = replace(get_robot("adroit-pen"), max_episode_steps=30)
    attack = RandomAttack(0.5, np.full(45, 0.3))
    rows = [rollouts.Row(row % 2, HALF if row < 2 else (), row, attack if row > 2 else None) for row in range(5)]

    def first(observations: Any) -> Any:
        return np.sin(17.0 * observations[..., :24])  # elementwise: the same bits in any batch

    def both() -> tuple[list[float], list[float]]:
        one = rollouts.row_returns([first, lambda seen: -first(seen)], robot, rows, stepped=ended.append)
        many = rollouts.population_returns(first, 2, robot, HALF, 5, seed=3, attacks=[attack, attack])
        return one.tolist(), many.ravel().tolist()

    ended: list[int] = []
    build, sizes = rollouts._Flight._build, []
    monkeypatch.setattr(rollouts._Flight, "_build", lambda self: sizes.append(len(self.rows)) or build(self))
    whole = both()
    assert sizes == [5, 10]
    monkeypatch.setattr("offdyn_envs.batching.row_models.OWN_MODELS", 4)
    assert both() == whole
    assert sizes[2:] == [4, 1, 4, 4, 2]
    assert sum(ended) == 10
    assert len(set(whole[0])) == 5
    assert rollouts.row_returns([first], robot, []).shape == (0,)


def test_a_population_plays_what_each_member_would_alone() -> None:
    members = [linear(seed) for seed in range(3)]

    def act(observations: Any) -> Any:
        return np.stack([member(rows) for member, rows in zip(members, observations, strict=True)])

    together = rollouts.population_returns(act, 3, "hopper", HALF, 5, seed=7)
    alone = np.stack([rollouts.episode_returns(member, "hopper", HALF, 5, seed=7) for member in members])
    np.testing.assert_allclose(together, alone, rtol=1e-6)


def test_a_non_finite_action_fails_its_episode_only() -> None:
    def act(observations: Any) -> Any:
        actions = np.zeros((len(observations), 3))
        if len(observations) == 4:
            actions[2, 0] = np.inf
        return actions

    returns = rollouts.episode_returns(act, "hopper", None, 4, seed=0)
    assert np.isnan(returns).tolist() == [False, False, True, False]
    clean = rollouts.episode_returns(lambda obs: np.zeros((len(obs), 3)), "hopper", None, 4, seed=0)
    np.testing.assert_array_equal(returns[[0, 1, 3]], clean[[0, 1, 3]])


def test_actions_are_clipped_to_the_action_space() -> None:
    loud = rollouts.episode_returns(lambda obs: np.full((len(obs), 3), 50.0), "hopper", None, 2, seed=0)
    edge = rollouts.episode_returns(lambda obs: np.ones((len(obs), 3)), "hopper", None, 2, seed=0)
    np.testing.assert_array_equal(loud, edge)


def test_an_attack_moves_only_what_the_policy_sees() -> None:
    sigma, act = np.full(11, 0.3), linear(2)
    attack = RandomAttack(0.5, sigma)
    attacked = rollouts.episode_returns(act, "hopper", HALF, 5, seed=9, attack=attack)
    np.testing.assert_allclose(attacked, scalar_returns(act, HALF, range(9, 14), attack), rtol=1e-6)
    deaf = rollouts.episode_returns(lambda obs: np.zeros((len(obs), 3)), "hopper", HALF, 5, seed=9, attack=attack)
    quiet = rollouts.episode_returns(lambda obs: np.zeros((len(obs), 3)), "hopper", HALF, 5, seed=9)
    np.testing.assert_array_equal(deaf, quiet)


def test_min_q_attack_with_onnx_networks_is_repeatable() -> None:
    policy = onnx_policy.load_policy(models.policy(11, 3))
    critic = onnx_policy.load_critic(models.critic(11, 3))
    attack = MinQAttack(0.2, np.full(11, 0.5), policy, critic, samples=5)
    first = rollouts.episode_returns(policy, "hopper", None, 4, seed=1, attack=attack)
    again = rollouts.episode_returns(policy, "hopper", None, 4, seed=1, attack=attack)
    np.testing.assert_array_equal(first, again)
    assert (first != rollouts.episode_returns(policy, "hopper", None, 4, seed=1)).any()


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(OffDynError, match="at least 1"):
        rollouts.episode_returns(linear(0), "hopper", None, 0, seed=0)
    with pytest.raises(OffDynError, match="did you mean 'hopper'"):
        rollouts.episode_returns(linear(0), "hoper", None, 1, seed=0)
    with pytest.raises(OffDynError, match="actions of shape"):
        rollouts.episode_returns(lambda obs: np.zeros((len(obs), 2)), "hopper", None, 1, seed=0)
    with pytest.raises(OffDynError, match="one per member"):
        rollouts.population_returns(linear(0), 2, "hopper", None, 1, seed=0, attacks=[RandomAttack(0.1, np.ones(11))])
