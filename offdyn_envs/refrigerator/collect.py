"""The controllers that make the refrigerator's data, and the data as flat arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offdyn_envs.errors import OffDynError, shown
from offdyn_envs.refrigerator.dynamics import EPISODE_STEPS, MAX_POWER, Floats, RefrigeratorRows, powers
from offdyn_envs.shifts.base import at_least

__all__ = ["CONTROL_NOISE", "RefrigeratorData", "ThermostatPolicy", "collect"]

CONTROL_NOISE = 0.1
"""Standard deviation of the noise on the behaviour's cooling power."""
# Temperature at which the behaviour with p = .2 would stop cooling; leakage then settles it at -2.
SWITCH_OFF = -3.75


@dataclass(frozen=True)
class ThermostatPolicy:
    """The proportional controller u = max(0, p (obs + 3.75) + noise), noise N(0, .1).

    Attributes:
        p: Gain, 0 or above. The data come from .2, which settles at -2 degrees; .05, .1, .5, 1 and 1.5 test a model
            where there are none.
    """

    p: float

    def __post_init__(self) -> None:
        gain: object = self.p
        known = isinstance(gain, int | float | np.integer | np.floating) and not isinstance(gain, bool)
        if not known or not math.isfinite(self.p) or self.p < 0:
            raise OffDynError(f"p must be a finite number, 0 or above, got {shown(gain)}")

    def noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Draw the noise of the cooling power, float32 of the given shape."""
        return rng.normal(0.0, CONTROL_NOISE, shape).astype(np.float32)

    def act(self, observations: ArrayLike, noise: ArrayLike | None = None) -> NDArray[np.float32]:
        """Return cooling powers.

        Args:
            observations: (measured temperature, door), [..., 2]; the door is not looked at.
            noise: What `noise` drew, [..., 1]; None gives the deterministic action.

        Returns:
            Actions in [0, 30], float32, [..., 1].
        """
        asked = self.p * (np.asarray(observations, dtype=np.float64)[..., :1] - SWITCH_OFF)
        disturbed = asked if noise is None else asked + np.asarray(noise, dtype=np.float64)
        return np.clip(disturbed, 0.0, MAX_POWER).astype(np.float32)


@dataclass(frozen=True, eq=False)
class RefrigeratorData:
    """N transitions in E whole episodes, one after the other, in the layout of every dataset, and the true states.

    Attributes:
        observations: float32 [N, 2], (measured temperature, door of the step).
        actions: float32 [N, 1], executed.
        next_observations: float32 [N, 2].
        rewards: float32 [N], of the true next temperature.
        terminations: bool [N], all False.
        truncations: bool [N], True at the last step of an episode.
        temperatures: float64 [N], true temperature before the step.
        next_temperatures: float64 [N], true temperature after the step.
        lengths: int64 [E], steps of each episode.
        seeds: int64 [E], what `reset(seed=...)` of the scalar environment takes to start the same episode.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    next_observations: NDArray[np.float32]
    rewards: NDArray[np.float32]
    terminations: NDArray[np.bool_]
    truncations: NDArray[np.bool_]
    temperatures: Floats
    next_temperatures: Floats
    lengths: NDArray[np.int64]
    seeds: NDArray[np.int64]


def collect(policy_p: float, episodes: int, seed: int, steps: int = EPISODE_STEPS) -> RefrigeratorData:
    """Let a thermostat run.

    Episode j is a function of (p, seed, j): it does not depend on how many others are collected. Door and noises do not
    depend on p, so controllers can be compared on the same weather.

    Args:
        policy_p: Gain of `ThermostatPolicy`.
        episodes: E, at least 1.
        seed: 0 or above; other seeds share no episode.
        steps: Steps of every episode.

    Returns:
        E x `steps` transitions.

    Raises:
        OffDynError: A value out of range.
    """
    policy = ThermostatPolicy(policy_p)
    for name, value, least in (("episodes", episodes, 1), ("seed", seed, 0), ("steps", steps, 1)):
        at_least(name, value, least)
    seeds = np.array([_episode_seed(seed, episode) for episode in range(episodes)], dtype=np.int64)
    return _run(policy, seeds, steps)


def _run(policy: ThermostatPolicy, seeds: NDArray[np.int64], steps: int) -> RefrigeratorData:
    count, every = len(seeds), np.arange(len(seeds))
    rngs = [np.random.default_rng(seed) for seed in seeds.tolist()]
    noise = np.stack([policy.noise(np.random.default_rng([seed, 2]), (steps, 1)) for seed in seeds.tolist()])
    rows = RefrigeratorRows(count)
    rows.reset(every, rngs)
    observations = np.empty((count, steps + 1, 2), np.float32)
    temperatures = np.empty((count, steps + 1))
    actions, rewards = np.empty((count, steps, 1), np.float32), np.empty((count, steps), np.float32)
    observations[:, 0], temperatures[:, 0] = rows.observe(every, rngs), rows.temperature
    for step in range(steps):
        actions[:, step] = policy.act(observations[:, step], noise[:, step])
        rewards[:, step] = rows.advance(every, powers(actions[:, step], count), rngs)
        observations[:, step + 1], temperatures[:, step + 1] = rows.observe(every, rngs), rows.temperature
    truncations = np.zeros((count, steps), dtype=bool)
    truncations[:, -1] = True
    return RefrigeratorData(
        observations=observations[:, :-1].reshape(-1, 2),
        actions=actions.reshape(-1, 1),
        next_observations=observations[:, 1:].reshape(-1, 2),
        rewards=rewards.ravel(),
        terminations=np.zeros(count * steps, dtype=bool),
        truncations=truncations.ravel(),
        temperatures=temperatures[:, :-1].ravel(),
        next_temperatures=temperatures[:, 1:].ravel(),
        lengths=np.full(count, steps, dtype=np.int64),
        seeds=seeds,
    )


def _episode_seed(seed: int, episode: int) -> int:
    """Return a number below 2**63."""
    high, low = np.random.SeedSequence([int(seed), episode]).generate_state(2).tolist()
    return (high << 31) ^ low
