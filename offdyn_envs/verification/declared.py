"""Which fields of a compiled model each shift says that it changes, and in which elements.

For the kinds of the named environments this is written down here, apart from the edits themselves
(`offdyn_envs.shifts`), so that the one can be held against the other; all others say it of themselves (`declares`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import mujoco
import numpy as np

from offdyn_envs.differences import FOLLOWING, changed_fields, element_names
from offdyn_envs.models import dynamics_fields
from offdyn_envs.robots import Robot
from offdyn_envs.shifts import BrokenJoint, Friction, Gravity, Kinematic, Morphology, Shift, ShrinkFinger
from offdyn_envs.shifts.elements import actuator_name
from offdyn_envs.shifts.hand import BROKEN_JOINTS

__all__ = ["undeclared_changes"]


@dataclass(frozen=True)
class Moved:
    """The elements that a morphology sets; what is not listed does not move.

    Attributes:
        geoms: Geoms of another size or place.
        bodies: Bodies of another place.
        joints: Joints of another place.
    """

    geoms: tuple[str, ...]
    bodies: tuple[str, ...] = ()
    joints: tuple[str, ...] = ()


_TORSO = Moved(("torso_geom",))
_CHEETAH_LEGS = Moved(("bthigh", "bshin", "fthigh", "fshin"), ("bshin", "bfoot", "fshin", "ffoot"))
_FRONT_LEGS = Moved(("left_ankle_geom", "right_ankle_geom"))

_MOVED: Mapping[tuple[str, str], Moved] = MappingProxyType(
    {
        ("halfcheetah", "torso"): Moved(("torso", "head"), ("bthigh", "fthigh")),
        ("halfcheetah", "thigh"): _CHEETAH_LEGS,
        ("halfcheetah", "severe"): Moved((*_CHEETAH_LEGS.geoms, "bfoot"), _CHEETAH_LEGS.bodies),
        ("hopper", "torso"): _TORSO,
        ("hopper", "foot"): Moved(("foot_geom",)),
        ("hopper", "severe"): Moved(("torso_geom", "thigh_geom")),
        ("walker2d", "torso"): _TORSO,
        ("walker2d", "leg"): Moved(
            ("thigh_geom", "leg_geom", "thigh_left_geom", "leg_left_geom"), (), ("leg_joint", "leg_left_joint")
        ),
        ("walker2d", "severe"): Moved(("thigh_geom", "leg_geom", "foot_geom"), (), ("leg_joint", "foot_joint")),
        ("ant", "alllegs"): Moved((*_FRONT_LEGS.geoms, "third_ankle_geom", "fourth_ankle_geom")),
        ("ant", "halflegs"): _FRONT_LEGS,
        ("ant", "severe"): _FRONT_LEGS,
    }
)
_FINGER_FIELDS = ("body_pos", "body_ipos", "geom_pos", "geom_size", "site_pos")
_SHAPE_FIELDS = ("geom_size", "geom_pos", "geom_quat", "geom_rbound", "geom_aabb", "geom_sameframe")

Declared = dict[str, set[str] | None]
"""Fields by name, with the elements in which they may change; None stands for all."""


def _declared_by(shift: Shift, robot: Robot, profile: str) -> Declared:
    if isinstance(shift, Gravity):
        return {"opt.gravity": None}
    if isinstance(shift, Friction):
        return {"geom_friction": None}
    if isinstance(shift, Kinematic):
        timestep = profile == "droco" and robot.name == "halfcheetah" and shift.preset is not None
        return {"jnt_range": set(shift.factors(robot))} | ({"opt.timestep": None} if timestep else {})
    if isinstance(shift, BrokenJoint):
        return {"jnt_range": set(BROKEN_JOINTS)}
    if isinstance(shift, ShrinkFinger):
        return dict.fromkeys((*FOLLOWING, *_FINGER_FIELDS))
    if isinstance(shift, Morphology):
        moved = _MOVED[robot.name, shift.part or "severe"]
        return {
            **dict.fromkeys(FOLLOWING),
            **{field: set(moved.geoms) for field in _SHAPE_FIELDS},
            "body_pos": set(moved.bodies),
            "jnt_pos": set(moved.joints),
        }
    declares = getattr(shift, "declares", None)
    return {} if declares is None else dict(declares(robot))


def _declared(shifts: Sequence[Shift], robot: Robot, profile: str) -> Declared:
    together: Declared = {}
    for shift in shifts:
        for field, elements in _declared_by(shift, robot, profile).items():
            before = together.get(field, set())
            together[field] = None if elements is None or before is None else before | elements
    return together


def undeclared_changes(
    base: mujoco.MjModel, shifted: mujoco.MjModel, robot: Robot, shifts: Sequence[Shift], profile: str = "default"
) -> list[str]:
    """Return what differs between two models although no shift says so.

    Args:
        base: The nominal robot.
        shifted: The robot under the shifts.
        robot: The robot.
        shifts: The shifts.
        profile: Variant of the edits.

    Returns:
        Fields and elements, for instance "opt.timestep" or "jnt_range of thigh_joint"; empty where all is declared.
    """
    declared = _declared(shifts, robot, profile)
    found: list[str] = []
    for field in sorted(changed_fields(base, shifted)):
        if field not in declared:
            found.append(field)
        elif (allowed := declared[field]) is not None:
            others = set(_changed_elements(base, shifted, field)) - allowed
            found += [f"{field} of {name}" for name in sorted(others)]
    return found


def _changed_elements(base: mujoco.MjModel, shifted: mujoco.MjModel, field: str) -> list[str]:
    left, right = dynamics_fields(base)[field], dynamics_fields(shifted)[field]
    rows = np.any((left != right).reshape(len(left), -1), axis=1)
    names = _names(base, field.partition("_")[0])
    return [names[index] for index in np.flatnonzero(rows)]


def _names(model: mujoco.MjModel, prefix: str) -> list[str]:
    if prefix == "actuator":
        return [actuator_name(model, index) for index in range(model.nu)]
    if prefix == "dof":
        joints = element_names(model, "joint")
        return [joints[index] for index in model.dof_jntid]
    return element_names(model, {"jnt": "joint"}.get(prefix, prefix))
