"""Friction as it reaches the contacts: read from the simulator while the robot falls, lies and struggles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import mujoco
import numpy as np
from numpy.typing import NDArray

from offdyn_envs.differences import element_names
from offdyn_envs.robots import Robot
from offdyn_envs.shifts import Friction, Shift

__all__ = ["FEET", "expected_friction", "measured_friction"]

FEET: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "halfcheetah": {"bfoot": 0.4, "ffoot": 0.4},
        "hopper": {"foot_geom": 2.0},
        "walker2d": {"foot_geom": 0.9, "foot_left_geom": 1.9},
        "ant": {f"{leg}_ankle_geom": 1.0 for leg in ("left", "right", "third", "fourth")},
    }
)
"""Sliding friction between each robot's feet and the floor, nominal."""

_OTHERS: Mapping[str, float] = MappingProxyType({"halfcheetah": 0.4, "hopper": 1.0, "walker2d": 0.9, "ant": 1.0})
"""The same of every other part of the body."""

_FALL, _STRUGGLE, _LONGEST = 1000, 1000, 20_000


def expected_friction(robot: Robot, shifts: Sequence[Shift]) -> dict[str, float]:
    """Return the sliding friction that each geom should have on the floor: the nominal one times every scale.

    Args:
        robot: The robot.
        shifts: Its shifts.

    Returns:
        Friction by geom; the key "" stands for all geoms that are no feet.
    """
    scale = float(np.prod([shift.scale for shift in shifts if isinstance(shift, Friction)]))
    return {geom: value * scale for geom, value in ({"": _OTHERS[robot.name]} | dict(FEET[robot.name])).items()}


def measured_friction(robot: Robot, model: mujoco.MjModel, start: NDArray[np.float64]) -> dict[str, set[float]]:
    """Simulate a robot and read the sliding friction of every contact with the floor.

    The robot falls limp for a thousand physics steps, then moves at random for a thousand, and goes on until each of
    its feet has touched the floor.

    Args:
        robot: The robot.
        model: Its compiled model.
        start: The pose from which it falls, [nq].

    Returns:
        The values seen, by geom; a geom that never touched the floor is left out.
    """
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    data.qpos[:] = start
    names, floor = element_names(model, "geom"), model.geom("floor").id
    seen: dict[str, set[float]] = {}
    for step in range(_LONGEST):
        if step >= _FALL and step % robot.frame_skip == 0:
            data.ctrl[:] = rng.uniform(-1.0, 1.0, robot.action_dim)
        mujoco.mj_step(model, data)
        for contact in data.contact if data.ncon else ():
            first, second = contact.geom
            if floor in (first, second):
                other = second if first == floor else first
                seen.setdefault(names[other], set()).add(float(contact.friction[0]))
        if step >= _FALL + _STRUGGLE and FEET[robot.name].keys() <= seen.keys():
            break
    return seen
