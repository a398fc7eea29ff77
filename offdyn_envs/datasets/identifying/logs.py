"""The logs that a simulator is fitted to: where each transition starts, what was done, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.identifying.posing import Pose
from offdyn_envs.datasets.importing.pairs import AnyDataset, load_any
from offdyn_envs.datasets.loading import load_dataset
from offdyn_envs.datasets.own.arrays import OwnData, from_arrays
from offdyn_envs.datasets.store.imported import ImportedDataset
from offdyn_envs.datasets.store.spec import Arrays, Dataset
from offdyn_envs.errors import OffDynError, spelled
from offdyn_envs.robots import Robot, get_robot
from offdyn_envs.tasks import get_task, list_tasks

__all__ = ["Logs", "Target", "read_logs"]

Target = str | Path | AnyDataset | Mapping[str, Any]
"""Ways to name the logs, see `offdyn_envs.datasets.identify`."""
_STATE = ("qpos", "qvel", "goal")
STILL = 1e-8
"""A dimension that changes by less in a step does not move."""


@dataclass(frozen=True, eq=False)
class Logs:
    """N transitions with the simulator state in which each starts.

    Attributes:
        name: What messages call them.
        robot: The robot.
        profile: Variant of the edits.
        arrays: Actions, next observations and lengths of episodes; its simulator states are not used.
        qpos: Positions before each step, float64 [N, nq].
        qvel: Velocities before each step, float64 [N, nv].
        goal: Goals before each step, float64 [N, G]; None for most robots.
        usable: Rows that can start a simulation, bool [N].
        from_states: The states are the simulator's own; else they were read from observations.
        spread: Standard deviation of what one step changes, float64 [|S|].
    """

    name: str
    robot: Robot
    profile: str
    arrays: Arrays
    qpos: NDArray[np.float64]
    qvel: NDArray[np.float64]
    goal: NDArray[np.float64] | None
    usable: NDArray[np.bool_]
    from_states: bool
    spread: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.arrays.actions)

    @property
    def moving(self) -> NDArray[np.bool_]:
        """Which dimensions of the observation move, [|S|]."""
        return self.spread > STILL

    def starts(self, horizon: int) -> NDArray[np.int64]:
        """Return the rows from which that many steps of one episode can be simulated, rising."""
        lengths = self.arrays.lengths
        left = np.concatenate([np.arange(length, 0, -1) for length in lengths]) if len(lengths) else np.zeros(0)
        return np.flatnonzero(self.usable & (left >= horizon))

    def stretches(self, rows: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """Number stretches of up to `length` steps of one episode, and return in which each row lies, [n]."""
        ends = np.cumsum(-(-self.arrays.lengths // length))
        episodes = np.searchsorted(self.arrays.starts, rows, side="right") - 1
        first = np.concatenate(([0], ends[:-1]))[episodes]
        return first + (rows - self.arrays.starts[episodes]) // length


def read_logs(target: Target, robot: str | Robot | None = None, profile: str | None = None) -> Logs:
    """Read logs, and put the robot into the state of each row.

    Args:
        target: A task (its target), an id of a dataset, a file, a dataset, or arrays by name: those of
            `offdyn_envs.datasets.from_arrays`, and perhaps simulator states before each step, `qpos` [N, nq] and `qvel`
            [N, nv], of a robot with a goal that, too, `goal` [N, G].
        robot: The robot or its name; where left out, the one that the data say they are of.
        profile: Variant of the shifts; by default the dataset's.

    Raises:
        OffDynError: Nothing of that name, no robot or another one, other dimensions, or a robot that cannot be put into
            its observations.
    """
    data, states = _load(target)
    name = str(getattr(data, "id", None) or getattr(data, "name", "target"))
    body = _robot(data, robot, name)
    sizes = data.observations.shape[1], data.actions.shape[1]
    if sizes != (body.observation_dim, body.action_dim):
        raise OffDynError(
            f"'{name}' has {sizes[0]} observations and {sizes[1]} actions; "
            f"{body.observation_dim} and {body.action_dim} are expected of {body.name}"
        )
    arrays = _arrays(data)
    if states is None:
        qpos, qvel, usable = Pose(body).states(np.asarray(data.observations))
        goal: list[NDArray[np.float64]] = []
    else:
        qpos, qvel, *goal = found = _states(states, len(data), body, name)
        usable = np.asarray(np.isfinite(np.concatenate(found, axis=1)).all(axis=1))
    change = np.asarray(data.next_observations) - np.asarray(data.observations)
    spread = change.std(axis=0, dtype=np.float64)
    own = str(data.card["profile"]) if isinstance(data, Dataset) else "default"
    aim = goal[0] if goal else None
    return Logs(name, body, profile or own, arrays, qpos, qvel, aim, usable, states is not None, spread)


def _load(target: Target) -> tuple[AnyDataset, Mapping[str, Any] | None]:
    """Return the data, and its simulator states where it has any."""
    data: Any = target
    if isinstance(target, Mapping):
        data = from_arrays(target, "target")
        states = {key: target[key] for key in _STATE if target.get(key) is not None}
        if states and not {"qpos", "qvel"} <= states.keys():
            raise OffDynError(
                f"target: {', '.join(map(repr, states))} is given; both 'qpos' and 'qvel' are needed, or none"
            )
        return data, states or None
    if isinstance(target, str | Path):
        task = spelled(str(target), (task.name for task in list_tasks()))
        data = load_any(target) if task is None else load_dataset(get_task(task).target)
    if isinstance(data, Dataset):
        return data, {key: getattr(data, key) for key in _STATE}
    if isinstance(data, ImportedDataset):
        return data, None if data.qpos is None or data.qvel is None else {"qpos": data.qpos, "qvel": data.qvel}
    if isinstance(data, OwnData):
        return data, None
    raise OffDynError(f"target must be a name, a file, a dataset or arrays by name, got {type(data).__name__}")


def _robot(data: AnyDataset, robot: str | Robot | None, name: str) -> Robot:
    said = None if isinstance(data, OwnData) else data.card["robot"]
    body = robot if isinstance(robot, Robot) or robot is None else get_robot(robot)
    if body is None and said is None:
        raise OffDynError(f"'{name}' does not say whose data it holds; name the robot, such as --robot hopper")
    if body is None:
        return get_robot(str(said))
    if said is not None and said != body.name:
        raise OffDynError(f"'{name}' holds data of {said}, not of {body.name}")
    return body


def _arrays(data: AnyDataset) -> Arrays:
    if isinstance(data, Dataset):
        return data.arrays
    keys = ("observations", "actions", "next_observations", "rewards", "terminations", "truncations", "lengths")
    none = np.empty((0, 0))
    return Arrays(**{key: getattr(data, key) for key in keys}, qpos=none, qvel=none, seeds=np.empty(0, np.int64))


def _states(states: Mapping[str, Any], rows: int, robot: Robot, name: str) -> list[NDArray[np.float64]]:
    """Return positions, velocities and, of a robot that has one, the goal."""
    found: list[NDArray[np.float64]] = []
    for key, width in zip(_STATE, (robot.nq, robot.nv, robot.goal_dim), strict=True):
        if not width:
            continue
        if states.get(key) is None:
            raise OffDynError(
                f"'{name}': a state of {robot.title} has a goal, and '{key}' is missing; see `Dataset.goal`"
            )
        array = np.asarray(states[key])
        if array.shape != (rows, width) or array.dtype.kind not in "fiu":
            raise OffDynError(
                f"'{name}': '{key}' is {array.dtype} {list(array.shape)}; expected numbers {[rows, width]}"
            )
        found.append(array.astype(np.float64))
    return found
