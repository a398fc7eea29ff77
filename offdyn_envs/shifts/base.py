"""What a shift is, and the checks that all shifts share."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from offdyn_envs.errors import OffDynError, beginning, unknown

if TYPE_CHECKING:
    import mujoco

    from offdyn_envs.robots import Robot

__all__ = ["PROFILES", "SEVERE", "Shift", "check_profile", "number", "shown"]

PROFILES = ("default", "odrl", "droco")
"""Variants of the edits, for comparison with published results.

`odrl`: Hopper's floor keeps its friction, and a reshaped robot keeps the base robot's reset height.
`droco`: the same reset height, and HalfCheetah's severe kinematic shift runs at MuJoCo's default timestep of 0.002 s,
because the file of one author leaves the timestep out.
"""
SEVERE = "severe"
"""Name of the strong presets that serve as sources ("broken" and "morph" in papers)."""


@runtime_checkable
class Shift(Protocol):
    """What every shift can do."""

    kind: ClassVar[str]

    def apply(self, spec: mujoco.MjSpec, robot: Robot, profile: str) -> None:
        """Edit a model before it is compiled."""
        ...

    def check(self, robot: Robot) -> None:
        """Raise `OffDynError` where the shift does not fit the robot."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return the plain-JSON form, accepted by `parse_shifts`."""
        ...

    def describe(self, robot: Robot) -> str:
        """Say in words what changes."""
        ...


def shown(value: object) -> str:
    """Return a value as an error message quotes it: one short line."""
    return repr(beginning(value, 60))


def number(what: str, value: object, low: float, high: float) -> float:
    """Return a bounded number as a float; NumPy's numbers are welcome, text and booleans are not.

    Args:
        what: The thing and its parameter, for the message.
        value: The number.
        low: Smallest allowed.
        high: Largest allowed.

    Returns:
        The number.

    Raises:
        OffDynError: Not a number, or outside its bounds.
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            result = float(value)
        except OverflowError:
            result = math.inf
        if low <= result <= high:
            return result
    raise OffDynError(f"{what} must be a finite number from {low:g} to {high:g}, got {shown(value)}")


def check_profile(profile: str) -> str:
    """Return `profile` if it is one of `PROFILES`.

    Raises:
        OffDynError: No such profile.
    """
    if not isinstance(profile, str) or profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    return profile
