"""A list of shifts applied to a model: before it is compiled, and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from offdyn_envs.shifts.base import Shift

if TYPE_CHECKING:
    import mujoco

    from offdyn_envs.robots import Robot

__all__ = ["edit_model", "edit_spec"]


def edit_spec(spec: mujoco.MjSpec, shifts: Sequence[Shift], robot: Robot, profile: str) -> None:
    """Apply shifts to a model that is not compiled yet.

    Args:
        spec: Changed in place.
        shifts: Applied in order; those with the class variable `last`, such as payloads, after the others.
        robot: The robot.
        profile: Variant of the edits, see `offdyn_envs.shifts.PROFILES`.
    """
    for shift in sorted(shifts, key=lambda shift: getattr(shift, "last", False)):
        shift.apply(spec, robot, profile)


def edit_model(model: mujoco.MjModel, shifts: Sequence[Shift]) -> None:
    """Apply shifts to a compiled model: those that have a method `edit_compiled`.

    Args:
        model: Changed in place.
        shifts: Applied in order.
    """
    editing = [edit for shift in shifts if (edit := getattr(shift, "edit_compiled", None)) is not None]
    for edit in editing:
        edit(model)
    if editing:
        import mujoco

        mujoco.mj_setConst(model, mujoco.MjData(model))
