"""A collector as others write them: published target layouts, with the faults that published files have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from offdyn_envs.datasets.collecting.build import ingredients
from offdyn_envs.robots import WALKERS
from offdyn_envs.tasks import DatasetId
from offdyn_envs.vector import OffDynVectorEnv

SHIFTS = ("gravity-0.5", "kinematic-severe", "morphology-severe")
QUALITIES = ("medium", "medium-expert", "expert")
KINDS = [(robot, shift, quality) for robot in WALKERS for shift in SHIFTS for quality in QUALITIES]
ROWS = 8
"""Of the batch; half of them act at random, so that robots fall."""


@dataclass(frozen=True)
class Collected:
    """N steps of episodes in order, with the truth and with what a careless collector stores.

    Attributes:
        observations: float32 [N, |S|].
        actions: float32 [N, |A|].
        rewards: float32 [N].
        following: What the step led to, float32 [N, |S|].
        returned: What a batched environment returns, which after an episode is the next one's first observation.
        falls: bool [N].
        limits: bool [N], the time limit.
        cut: bool [N], where the collector stopped.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    following: np.ndarray
    returned: np.ndarray
    falls: np.ndarray
    limits: np.ndarray
    cut: np.ndarray

    @property
    def ends(self) -> np.ndarray:
        return self.falls | self.limits


def collect(robot: str, shift: str, quality: str, *, steps: int = 90, limit: int = 40) -> Collected:
    """Collect `steps` steps in each row of a batch, with a time limit of `limit` steps."""
    env = OffDynVectorEnv(robot, ROWS, shift, max_episode_steps=limit, autoreset_mode="same_step")
    behaviours = [part.behaviour for part in ingredients(DatasetId(robot, shift, quality, "5k"))]
    rng = np.random.default_rng(0)
    stored: dict[str, list[Any]] = {name: [] for name in Collected.__annotations__}
    shown, _ = env.reset(seed=0)
    for step in range(steps):
        behaviour = behaviours[step * len(behaviours) // steps]
        shape = (ROWS, WALKERS[robot].action_dim)
        actions = behaviour.act(shown.astype(np.float32), behaviour.noise(rng, shape))
        actions[::2] = rng.uniform(-1, 1, actions[::2].shape)
        returned, rewards, fell, cut, infos = env.step(actions)
        following = returned.copy()
        for row in np.flatnonzero(fell | cut):
            following[row] = infos["final_obs"][row]
        last = np.full(ROWS, step == steps - 1)
        for name, value in zip(
            stored, (shown, actions, rewards, following, returned, fell, cut & ~fell, last), strict=True
        ):
            stored[name].append(value if value.dtype == bool else value.astype(np.float32))
        shown = returned
    env.close()
    return Collected(**{name: np.concatenate(np.stack(values, axis=1)) for name, values in stored.items()})


def write_target(path: Path, data: Collected, following: np.ndarray, terminals: np.ndarray) -> Path:
    """Write the published layout of target files; rewards and terminals are columns, and there are no timeouts."""
    count = len(following)
    with h5py.File(path, "w") as file:
        file["observations"], file["next_observations"] = data.observations[:count], following
        file["actions"], file["rewards"] = data.actions[:count], data.rewards[:count, None]
        file["terminals"] = terminals[:count, None].astype(np.float64)
        file["metadata/algorithm"] = "SAC"
    return path
