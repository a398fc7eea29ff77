"""Elements of a model that a shift names: bodies, joints and actuators, and what follows from their numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from offdyn_envs.errors import OffDynError, shown, unknown

if TYPE_CHECKING:
    import mujoco

    from offdyn_envs.robots import Robot

__all__ = ["DERIVED", "actuator_name", "actuators", "bodies", "drives_joint", "joints", "own_spec", "place_name"]

DERIVED = (
    *("actuator_acc0", "body_invweight0", "body_subtreemass", "dof_M0", "dof_invweight0", "dof_length"),
    "tendon_invweight0",
)
"""Fields that the compiler works out from masses and armatures, for the whole robot at once."""


def place_name(what: str, name: object) -> str | None:
    """Return the name of an element; None stands for all.

    Args:
        what: The shift and its parameter, for the message.
        name: What was given.

    Raises:
        OffDynError: Anything but a text with something in it.
    """
    if name is None or (isinstance(name, str) and name):
        return name
    raise OffDynError(f"{what} must be a name, or left out for all, got {shown(name)}")


def own_spec(robot: Robot) -> mujoco.MjSpec:
    """Return the model of a robot as it is without shifts, not yet compiled."""
    from offdyn_envs.compiling import base_spec

    return base_spec(robot)


def bodies(spec: mujoco.MjSpec, name: str | None, kind: str, robot: Robot) -> list[Any]:
    """Return a body, or all but the world.

    Args:
        spec: The model.
        name: Its name; None for all.
        kind: Kind of the shift, for the message.
        robot: The robot, for the message.

    Raises:
        OffDynError: No such body; the message names the nearest.
    """
    return _found([(body, (body.name,)) for body in spec.bodies if body.name != "world"], "body", name, kind, robot)


def joints(spec: mujoco.MjSpec, name: str | None, kind: str, robot: Robot) -> list[Any]:
    """Return a joint, or all that a motor drives; where none is, all that there are.

    Args:
        spec: The model.
        name: Its name; None for all.
        kind: Kind of the shift, for the message.
        robot: The robot, for the message.

    Raises:
        OffDynError: No such joint; the message names the nearest.
    """
    found = [(joint, (joint.name,)) for joint in spec.joints]
    if name is None:
        driven = {motor.target for motor in spec.actuators if drives_joint(motor.trntype)}
        found = [item for item in found if item[0].name in driven] or found
    return _found(found, "joint", name, kind, robot)


def actuators(spec: mujoco.MjSpec, name: str | None, kind: str, robot: Robot) -> list[Any]:
    """Return the actuators of a name, or all; the joint that it drives is a name of an actuator, too.

    Args:
        spec: The model.
        name: Its name; None for all.
        kind: Kind of the shift, for the message.
        robot: The robot, for the message.

    Raises:
        OffDynError: No such actuator; the message names the nearest.
    """
    return _found([(item, (item.name, item.target)) for item in spec.actuators], "actuator", name, kind, robot)


def actuator_name(model: mujoco.MjModel, index: int) -> str:
    """Return the name of an actuator, or of the joint that it drives where it has none.

    Args:
        model: A compiled model.
        index: Number of the actuator.
    """
    own, driven = str(model.actuator(index).name), int(model.actuator_trnid[index, 0])
    by_joint = drives_joint(model.actuator_trntype[index])
    return own or (str(model.joint(driven).name) if by_joint else f"number {index}")


def _found(
    elements: Iterable[tuple[Any, tuple[str, ...]]], what: str, name: str | None, kind: str, robot: Robot
) -> list[Any]:
    known = list(elements)
    chosen = [element for element, names in known if name is None or name in names]
    if not chosen:
        every = dict.fromkeys(each for _, names in known for each in names if each)
        raise unknown(f"{what} of {robot.title} for the {kind} shift", name, every)
    return chosen


def drives_joint(transmission: Any) -> bool:
    """Say whether a motor of this transmission moves a joint."""
    import mujoco

    return int(transmission) in (mujoco.mjtTrn.mjTRN_JOINT.value, mujoco.mjtTrn.mjTRN_JOINTINPARENT.value)
