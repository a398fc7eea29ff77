"""What a dataset is: its arrays, their types and shapes, and the checks every reader makes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import GoalState, Robot, State
from offdyn_envs.tasks import DatasetId

__all__ = ["FORMAT", "Arrays", "Dataset", "array_digests", "combined_digest", "schema", "step_schema", "validate"]

FORMAT = 1
"""Version of the card and of the layout. A reader refuses a later one."""

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Arrays:
    """The arrays of one dataset: N transitions in E episodes, episodes in order, nothing between them.

    Attributes:
        observations: float32 [N, |S|].
        actions: float32 [N, |A|], the executed actions, in [-1, 1].
        next_observations: float32 [N, |S|], what the step led to, also where the episode ended there.
        rewards: float32 [N].
        terminations: bool [N], the robot fell.
        truncations: bool [N], the time limit, or the cut that gives the dataset its exact size.
        qpos: float64 [N + E, nq], simulator positions: one more state than steps in every episode.
        qvel: float64 [N + E, nv], simulator velocities.
        lengths: int64 [E], steps of each episode.
        seeds: int64 [E], the reset seed of each episode.
        goal: float64 [N + E, G], of a robot with a goal the third part of every state; None for the others.
    """

    observations: Array
    actions: Array
    next_observations: Array
    rewards: Array
    terminations: Array
    truncations: Array
    qpos: Array
    qvel: Array
    lengths: Array
    seeds: Array
    goal: Array | None = None

    def items(self) -> list[tuple[str, Array]]:
        """Return (name, array) pairs in the order of the attributes, without what is None."""
        named = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [(name, array) for name, array in named if array is not None]

    def states(self, rows: Array) -> State:
        """Return simulator states by where they are, see `state_rows`."""
        qpos, qvel = np.asarray(self.qpos[rows]), np.asarray(self.qvel[rows])
        if self.goal is None:
            return State(qpos, qvel)
        return cast(State, GoalState(qpos, qvel, np.asarray(self.goal[rows])))

    @property
    def starts(self) -> Array:
        """Row at which each episode begins, int64 [E]."""
        return np.concatenate(([0], np.cumsum(self.lengths)[:-1])).astype(np.int64)

    @property
    def state_rows(self) -> Array:
        """Where in `qpos` and `qvel` the state before each transition is, int64 [N]; the one after is next to it."""
        return np.arange(int(self.lengths.sum())) + np.repeat(np.arange(len(self.lengths)), self.lengths)

    def under_way(self, rows: Array, steps: int) -> Array:
        """Return the actions that came before transitions: under a delay, those that are still under way.

        Args:
            rows: Which transitions, [n].
            steps: K, how many actions before each.

        Returns:
            Actions, oldest first and 0 from before the episode, [n, K, |A|].
        """
        begin = self.starts[np.searchsorted(self.starts, rows, side="right") - 1]
        before = rows[:, None] + np.arange(-steps, 0)
        actions = np.asarray(self.actions)[np.maximum(before, 0)]
        return np.where((before >= begin[:, None])[..., None], actions, 0.0)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset as agents read it: N transitions, memory-mapped where it comes from the cache.

    Attributes:
        id: Robot, dynamics, quality and size.
        metadata: The whole of metadata.json; the card is its key "offdyn".
        arrays: All arrays; the properties below are the same ones by name.
        path: The folder that holds `data/`.
    """

    id: DatasetId
    metadata: Mapping[str, Any]
    arrays: Arrays
    path: Path

    def __len__(self) -> int:
        return len(self.arrays.rewards)

    def __repr__(self) -> str:
        return f"Dataset('{self.id}', rows={len(self)}, episodes={len(self.arrays.lengths)})"

    @property
    def card(self) -> Mapping[str, Any]:
        """Facts about the dataset: shifts, behaviour, returns, moments, checksums, how to rebuild it."""
        return self.metadata["offdyn"]

    @property
    def observations(self) -> NDArray[np.float32]:
        """float32 [N, |S|]."""
        return self.arrays.observations

    @property
    def actions(self) -> NDArray[np.float32]:
        """Executed actions, float32 [N, |A|], in [-1, 1]."""
        return self.arrays.actions

    @property
    def next_observations(self) -> NDArray[np.float32]:
        """float32 [N, |S|]; at the end of an episode the state it ended in, never the next reset."""
        return self.arrays.next_observations

    @property
    def rewards(self) -> NDArray[np.float32]:
        """float32 [N]."""
        return self.arrays.rewards

    @property
    def terminations(self) -> NDArray[np.bool_]:
        """Boolean [N]; do not bootstrap from the next observation where true."""
        return self.arrays.terminations

    @property
    def truncations(self) -> NDArray[np.bool_]:
        """Boolean [N]; the episode was cut here and would have gone on."""
        return self.arrays.truncations

    @cached_property
    def qpos(self) -> NDArray[np.float64]:
        """Simulator positions before each step, float64 [N, nq], copied on first use."""
        return self.arrays.qpos[self.arrays.state_rows]

    @cached_property
    def qvel(self) -> NDArray[np.float64]:
        """Simulator velocities before each step, float64 [N, nv], copied on first use."""
        return self.arrays.qvel[self.arrays.state_rows]

    @cached_property
    def next_qpos(self) -> NDArray[np.float64]:
        """Simulator positions after each step, float64 [N, nq], copied on first use."""
        return self.arrays.qpos[self.arrays.state_rows + 1]

    @cached_property
    def next_qvel(self) -> NDArray[np.float64]:
        """Simulator velocities after each step, float64 [N, nv], copied on first use."""
        return self.arrays.qvel[self.arrays.state_rows + 1]

    @cached_property
    def goal(self) -> NDArray[np.float64] | None:
        """Goals before each step, float64 [N, G], copied on first use; None for most robots."""
        return None if self.arrays.goal is None else self.arrays.goal[self.arrays.state_rows]


def schema(robot: Robot, rows: int, episodes: int) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Return the type and shape of every array.

    Args:
        robot: Gives the dimensions.
        rows: N.
        episodes: E.

    Returns:
        Name -> (dtype, shape), in the order of `Arrays`.
    """
    states = {
        "qpos": (np.dtype("<f8"), (rows + episodes, robot.nq)),
        "qvel": (np.dtype("<f8"), (rows + episodes, robot.nv)),
        "seeds": (np.dtype("<i8"), (episodes,)),
    }
    if robot.goal_dim:
        states["goal"] = (np.dtype("<f8"), (rows + episodes, robot.goal_dim))
    shapes = step_schema(robot.observation_dim, robot.action_dim, rows, episodes) | states
    return {field.name: shapes[field.name] for field in fields(Arrays) if field.name in shapes}


def step_schema(
    observation_dim: int, action_dim: int, rows: int, episodes: int
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Return the type and shape of the arrays that every dataset has, with a simulator or without one."""
    return {
        "observations": (np.dtype("<f4"), (rows, observation_dim)),
        "actions": (np.dtype("<f4"), (rows, action_dim)),
        "next_observations": (np.dtype("<f4"), (rows, observation_dim)),
        "rewards": (np.dtype("<f4"), (rows,)),
        "terminations": (np.dtype("?"), (rows,)),
        "truncations": (np.dtype("?"), (rows,)),
        "lengths": (np.dtype("<i8"), (episodes,)),
    }


def validate(arrays: Arrays, robot: Robot, where: str) -> None:
    """Check types, shapes and values.

    Args:
        arrays: What was read or collected.
        robot: Whose data they should be.
        where: The file, for the message.

    Raises:
        OffDynError: Naming the file, the key, what it holds and what was expected.
    """
    expected = schema(robot, len(arrays.rewards), len(arrays.lengths))
    if (arrays.goal is None) != ("goal" not in expected):
        what = "missing" if arrays.goal is None else "not wanted"
        raise OffDynError(f"{where}: 'goal' is {what} for {robot.name}")
    for key, array in arrays.items():
        dtype, shape = expected[key]
        if array.dtype != dtype or array.shape != shape:
            raise OffDynError(
                f"{where}: '{key}' is {array.dtype} {list(array.shape)}; "
                f"expected {dtype} {list(shape)} for {robot.name}"
            )
        if dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
            raise OffDynError(f"{where}: '{key}' is not finite at row {row}; expected finite numbers")
    if len(arrays.actions) and float(np.abs(arrays.actions).max()) > 1.0:
        row = int(np.flatnonzero((np.abs(arrays.actions) > 1).any(axis=1))[0])
        value = float(np.abs(arrays.actions[row]).max())
        raise OffDynError(f"{where}: 'actions' has magnitude {value:.6g} at row {row}; expected values in [-1, 1]")
    _validate_episodes(arrays, robot, where)


def _validate_episodes(arrays: Arrays, robot: Robot, where: str) -> None:
    """Check that episodes fill the rows, end where they should, and end nowhere else."""
    rows, lengths = len(arrays.rewards), arrays.lengths
    limit = robot.max_episode_steps
    if lengths.min(initial=1) < 1 or lengths.max(initial=0) > limit or int(lengths.sum()) != rows:
        raise OffDynError(
            f"{where}: episodes of {int(lengths.min(initial=0))} to {int(lengths.max(initial=0))} steps, "
            f"{int(lengths.sum())} in all; expected 1 to {limit} each and {rows} in all"
        )
    ended = arrays.terminations | arrays.truncations
    last = np.zeros(rows, dtype=bool)
    last[arrays.starts + lengths - 1] = True
    if not np.array_equal(ended, last):
        row = int(np.flatnonzero(ended != last)[0])
        raise OffDynError(
            f"{where}: 'terminations' and 'truncations' at row {row} disagree with the episodes; "
            "expected one of them true on the last step of every episode and nowhere else"
        )
    inside = np.flatnonzero(~last)
    if not np.array_equal(arrays.next_observations[inside], arrays.observations[inside + 1]):
        raise OffDynError(f"{where}: 'next_observations' differs from the following observation inside an episode")


def array_digests(arrays: Arrays | Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Return the SHA-256 of every array.

    The digest covers the line "name dtype shape" and then the array's bytes in C order, little-endian.

    Args:
        arrays: The arrays.

    Returns:
        Name -> 64 hexadecimal digits.
    """
    digests: dict[str, str] = {}
    for key, array in arrays.items():
        digest = hashlib.sha256(f"{key} {array.dtype.str} {list(array.shape)}\n".encode())
        digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
        digests[key] = digest.hexdigest()
    return digests


def combined_digest(digests: Mapping[str, str]) -> str:
    """Return one SHA-256 for a dataset: that of the lines "name digest", sorted by name."""
    return hashlib.sha256("".join(f"{key} {digests[key]}\n" for key in sorted(digests)).encode()).hexdigest()
