"""Which states of one body another body can take: not inside the floor, not beyond its joint limits.

Contacts and joint limits are soft in MuJoCo, so a body that simulates normally is often a little inside the floor and a
little beyond a limit. A state is refused only where the other body is in deeper than the first one is in the same
state, and deeper than robots go by themselves.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from offdyn_envs.robots import GoalPart, Robot
from offdyn_envs.robots.goals import write_goal

__all__ = ["TOLERANCES", "Admission", "Tolerance", "overshoot", "penetration"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_SCALAR_JOINTS = (2, 3)
"""Slides and hinges (mjJNT_SLIDE, mjJNT_HINGE): one position, one range."""
_ROUNDING = 1e-9
"""Metres by which one contact may differ between two bodies that agree in everything that makes it."""
_SHAPE_FIELDS = (
    *("body_parentid", "body_pos", "body_quat", "geom_type", "geom_bodyid", "geom_size", "geom_pos", "geom_quat"),
    *("geom_contype", "geom_conaffinity", "geom_margin", "jnt_type", "jnt_pos", "jnt_axis", "qpos0"),
)
"""What of a compiled model says where its geoms are in a given qpos, and which of them can touch."""


@dataclass(frozen=True)
class Tolerance:
    """How far a robot goes by itself.

    Attributes:
        depth: Penetration of two geoms, metres.
        limit: Overshoot of a joint's range, radians.
    """

    depth: float
    limit: float


TOLERANCES: Mapping[str, Tolerance] = MappingProxyType(
    {
        "halfcheetah": Tolerance(0.06, 0.19),
        "hopper": Tolerance(0.08, 0.13),
        "walker2d": Tolerance(0.07, 0.43),
        "ant": Tolerance(0.05, 0.15),
    }
)
"""The 99.9% quantile, rounded up, of the worst contact and the worst joint of a state in 20,000 steps of random, medium
and expert policies of the nominal robot: 0.056 m and 0.185 rad (HalfCheetah), 0.081 and 0.125 (Hopper), 0.070 and 0.432
(Walker2d), 0.024 and 0.139 (Ant: random actions only and without the first 20 steps, because its reset is 0.62 rad
outside its ankle limits; 5 times gravity takes its depth to 0.055). Robots with shrunken ranges overshoot no further
(hard and severe presets: 0.130, 0.043, 0.432, 0.134). Up to these bounds the gap of a state does not grow with its
depth; beyond them it may jump (Hopper's severe kinematic shift: 0.25 standard deviations at 0.13 rad, 1.25 at 0.27)."""

_OF_OTHERS = Tolerance(max(each.depth for each in TOLERANCES.values()), max(each.limit for each in TOLERANCES.values()))
"""Of a robot that nobody has measured: the widest that is known."""


def penetration(
    model: mujoco.MjModel, qpos: Floats, parts: Sequence[GoalPart] = (), goal: Floats | None = None
) -> Floats:
    """Return how deep a body is inside the floor or inside itself.

    Args:
        model: The compiled body.
        qpos: Positions, [n, nq].
        parts: Of the goal, where the robot has one; it is written into the model.
        goal: Goals, [n, G].

    Returns:
        Depth of the deepest contact, metres, [n]; 0 where nothing touches.
    """
    data, depth = mujoco.MjData(model), np.zeros(len(qpos))
    for row, position in enumerate(qpos):
        data.qpos[:] = position
        if goal is not None:
            write_goal(model, parts, goal[row])
        mujoco.mj_kinematics(model, data)
        mujoco.mj_collision(model, data)
        if data.ncon:
            depth[row] = max(0.0, -float(data.contact.dist.min()))
    return depth


def overshoot(model: mujoco.MjModel, qpos: Floats) -> Floats:
    """Return how far joints are beyond their limits.

    Args:
        model: The compiled body.
        qpos: Positions, [n, nq].

    Returns:
        Distance to the range of each slide and hinge, radians (metres for a slide), [n, joints]; 0 inside the range
        and where a joint has none.
    """
    joints = np.isin(model.jnt_type, _SCALAR_JOINTS)
    limited = model.jnt_limited[joints].astype(bool)
    low = np.where(limited, model.jnt_range[joints, 0], -np.inf)
    high = np.where(limited, model.jnt_range[joints, 1], np.inf)
    values = qpos[:, model.jnt_qposadr[joints]]
    return np.maximum(np.maximum(low - values, values - high), 0.0)


def _same_shape(one: mujoco.MjModel, other: mujoco.MjModel) -> bool:
    def equal(name: str) -> bool:
        pair: tuple[Any, Any] = getattr(one, name), getattr(other, name)
        return np.array_equal(*pair)

    return all(map(equal, _SHAPE_FIELDS))


class Admission:
    """Tells which states of a source body another body can take.

    Args:
        robot: Gives the tolerance.
        source: The compiled body that the states come from.
        other: The compiled body that is to take them.
    """

    def __init__(self, robot: Robot, source: mujoco.MjModel, other: mujoco.MjModel) -> None:
        self.source, self.other = source, other
        self._parts = robot.goal
        if robot.goal:  # Goals are written into the models.
            self.source, self.other = copy.copy(source), copy.copy(other)
        self.tolerance = TOLERANCES.get(robot.name, _OF_OTHERS)
        # Equal shapes are equally deep in every state: then nothing can be refused, and looking takes microseconds.
        self.reshaped = not _same_shape(source, other)

    def refused(self, qpos: NDArray[Any], goal: NDArray[Any] | None = None) -> tuple[Bools, Bools]:
        """Say which states the other body cannot take.

        Args:
            qpos: Positions, [n, nq].
            goal: Goals, [n, G], of a robot that has one.

        Returns:
            Too deep inside the floor or inside itself, [n]; and too far beyond a joint limit, [n].
        """
        beyond = overshoot(self.other, qpos)
        limit = np.any(beyond > np.maximum(overshoot(self.source, qpos), self.tolerance.limit), axis=1)
        inside = np.zeros(len(qpos), dtype=bool)
        if self.reshaped:
            depth = penetration(self.other, qpos, self._parts, goal)
            deep = np.flatnonzero(depth > self.tolerance.depth)
            there = None if goal is None else goal[deep]
            inside[deep] = depth[deep] > penetration(self.source, qpos[deep], self._parts, there) + _ROUNDING
        return inside, limit
