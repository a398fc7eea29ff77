"""Where the bodies of a nominal robot are in given positions, without any physics."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import unknown
from offdyn_envs.robots.goals import GoalPart, read_goal, write_goal
from offdyn_envs.robots.mjcf import compile_mjcf

if TYPE_CHECKING:
    import mujoco

__all__ = ["Kinematics", "kinematics"]

Floats = NDArray[np.floating[Any]]
Compute = Callable[[Floats], NDArray[np.float64]]
_MOST = 2**18
"""Numbers of an answer that is kept, at most."""
_KEPT_ROBOTS = 64
_KEPT: dict[Hashable, Kinematics] = {}


class Kinematics(threading.local):
    """The forward kinematics of one model; every thread has its own workplace."""

    def __init__(self, name: str, model: mujoco.MjModel) -> None:
        """Copy the model.

        Args:
            name: The robot, for messages.
            model: Its model; not changed.
        """
        import mujoco

        self._name = name
        self._model = copy.copy(model)
        self._data = mujoco.MjData(self._model)
        self._compute = mujoco.mj_kinematics
        self._all = np.arange(self._model.nbody)
        self._last: dict[object, tuple[Floats, NDArray[np.float64]]] = {}

    def bodies(
        self, qpos: Floats, names: Sequence[str], parts: Sequence[GoalPart], goal: Floats | None
    ) -> NDArray[np.float64]:
        """See `Robot.bodies`; `parts` are those of the goal."""
        chosen = np.array([self._body(name) for name in names])
        if goal is None:
            return self._remembered(tuple(names), qpos, partial(self._each, "xpos", chosen))
        found, rest = np.empty((*qpos.shape[:-1], len(chosen), 3)), read_goal(self._model, parts)
        for at in np.ndindex(qpos.shape[:-1]):
            write_goal(self._model, parts, goal[at])
            found[at] = self._each("xpos", chosen, qpos[at])
        write_goal(self._model, parts, rest)
        return found

    def mass_centre(self, qpos: Floats) -> NDArray[np.float64]:
        """See `Robot.mass_centre`."""
        return self._remembered("mass_centre", qpos, self._mass_centre)

    def _mass_centre(self, qpos: Floats) -> NDArray[np.float64]:
        mass = self._model.body_mass[:, None]
        return np.sum(mass * self._each("xipos", self._all, qpos), axis=-2) / np.sum(mass)

    def _body(self, name: str) -> int:
        try:
            return int(self._model.body(name).id)
        except KeyError:
            known = [self._model.body(index).name for index in range(1, self._model.nbody)]
            raise unknown(f"body of robot '{self._name}'", name, known) from None

    def _remembered(self, key: object, qpos: Floats, compute: Compute) -> NDArray[np.float64]:
        """Return what `compute` says of positions; rows that it was asked for last are not computed again.

        A step begins where one has ended, but for the few rows that were reset.
        """
        positions, found = self._last.get(key, (None, None))
        if positions is None or found is None or positions.shape != qpos.shape:
            found = compute(qpos)
        else:
            moved = (positions != qpos).any(axis=-1)
            found[moved] = compute(qpos[moved])
        if found.size <= _MOST:
            self._last[key] = np.array(qpos), found
        return found.copy()

    def _each(self, field: str, chosen: NDArray[np.intp], qpos: Floats) -> NDArray[np.float64]:
        """Return entries of an array of the simulation in every position, [..., n, 3]."""
        found, source = np.empty((*qpos.shape[:-1], len(chosen), 3)), getattr(self._data, field)
        # Names of this thread's own are slow to look up.
        model, data, compute, at = self._model, self._data, self._compute, self._data.qpos
        for row, each in zip(qpos.reshape(-1, qpos.shape[-1]), found.reshape(-1, len(chosen), 3), strict=True):
            at[:] = row
            compute(model, data)
            source.take(chosen, axis=0, out=each, mode="clip")
        return found


def kinematics(key: Hashable, name: str, spec: Callable[[], mujoco.MjSpec]) -> Kinematics:
    """Return the kinematics of a robot, made once in a process.

    Args:
        key: What tells the robot's model from all others.
        name: The robot, for messages.
        spec: Returns its model, see `Robot.spec`.
    """
    found = _KEPT.get(key)
    if found is None:
        found = Kinematics(name, compile_mjcf(spec(), f"robot '{name}': its model does not compile"))
        while len(_KEPT) >= _KEPT_ROBOTS:
            _KEPT.pop(next(iter(_KEPT)), None)
        _KEPT[key] = found
    return found
