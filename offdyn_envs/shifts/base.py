"""What a shift is, and the checks that all shifts share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from offdyn_envs.errors import OffDynError, shown, unknown

if TYPE_CHECKING:
    import mujoco

    from offdyn_envs.robots import Robot

__all__ = [
    "PROFILES",
    "SCALES",
    "SEVERE",
    "BaseShift",
    "Product",
    "Shift",
    "at_least",
    "bound",
    "check_profile",
    "number",
    "scale_or_add",
    "several",
    "shown",
    "whole",
]

PROFILES = ("default", "odrl", "droco")
"""Variants of the edits, for comparison with published results.

`odrl`: Hopper's floor keeps its friction, and a reshaped robot keeps the base robot's reset height.
`droco`: the same reset height, and HalfCheetah's severe kinematic shift runs at MuJoCo's default timestep of 0.002 s,
because the file of one author leaves the timestep out.
"""
SEVERE = "severe"
"""Name of the strong presets that serve as sources ("broken" and "morph" in papers)."""
SCALES = (1e-6, 1e6)
"""Smallest and largest factor, of one shift and of all in a list together."""


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


class Product(NamedTuple):
    """A factor that multiplies with those of other shifts of a list.

    Attributes:
        what: What all of them multiply, for the message; equal texts multiply with each other.
        factor: This shift's factor.
        low: Smallest allowed product.
        high: Largest allowed product.
    """

    what: str
    factor: float
    low: float
    high: float


@dataclass(frozen=True)
class BaseShift:
    """What most shifts have in common; inherit from it, as a frozen dataclass, and write `apply` and `describe`.

    A parameter that may be left out defaults to None.

    Attributes:
        kind: The name in JSON.
        amount: Parameter that says how strong the shift is: `sample_shifts` draws it, `observe_shifts` shows it. Empty
            where there is none.
        place: Parameter that names where the shift acts; None for one that acts everywhere.
        last: Applied after all shifts of which this is false.
        of_model: Changes the model; others change what is sent to it or seen of it, or hold in a part of the world.
        own_robots: Needs a robot of this suite, so that `shifted` cannot give it to any other environment.
    """

    kind: ClassVar[str]
    amount: ClassVar[str] = "scale"
    place: ClassVar[str | None] = None
    last: ClassVar[bool] = False
    of_model: ClassVar[bool] = True
    own_robots: ClassVar[bool] = False

    def check(self, robot: Robot) -> None:
        """Fit every robot."""

    def to_json(self) -> dict[str, Any]:
        """Return the plain-JSON form: the kind and whatever was given."""
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        return {"kind": self.kind} | {name: value for name, value in given.items() if value is not None}

    def products(self, robot: Robot | None) -> Iterable[Product]:
        """Return the factors that may not become too much together with those of other shifts.

        Args:
            robot: The robot; None for a robot that is not of this suite.

        Returns:
            None here.
        """
        return ()

    def declares(self, robot: Robot) -> Mapping[str, set[str] | None]:
        """Return which fields of the compiled model change; verification holds the shift against it.

        Args:
            robot: The robot.

        Returns:
            Names as in `offdyn_envs.models.dynamics_fields`, with the names of the elements in which they may change;
            None stands for all.
        """
        return {}

    @classmethod
    def check_together(cls, shifts: Sequence[Any], robot: Robot) -> None:
        """Raise where several shifts of this kind exclude each other.

        Args:
            shifts: All shifts of this kind in a list, in order.
            robot: The robot.
        """


def number(what: str, value: object, low: float, high: float) -> float:
    """Return a bounded number as a float; those of NumPy and torch are welcome, text and booleans are not.

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
    given = value
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # An array or a tensor of one number.
        value = value.item()  # type: ignore[attr-defined]
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            result = float(value)
        except OverflowError:
            result = math.inf
        if low <= result <= high:
            return result
    raise OffDynError(f"{what} must be a finite number from {low:g} to {high:g}, got {shown(given)}")


def whole(value: object) -> int | None:
    """Return a whole number, 0 or above, as an int; those of NumPy and torch are welcome, booleans are not.

    Args:
        value: The number.

    Returns:
        None for anything else.
    """
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()  # type: ignore[attr-defined]
    if isinstance(value, bool) or not isinstance(value, Integral):
        return None
    found = int(value)
    return found if found >= 0 else None


def several(value: object) -> list[Any] | None:
    """Return what a list holds, one of numbers for instance; arrays of NumPy and torch are lists, too, text is none.

    Args:
        value: The list.

    Returns:
        None for anything else, a single number among it.
    """
    if isinstance(value, Sequence):
        return None if isinstance(value, str | bytes) else list(value)
    if getattr(value, "ndim", 0) and hasattr(value, "tolist"):  # An array or a tensor.
        return value.tolist()  # type: ignore[attr-defined]
    return None


def at_least(what: str, value: object, least: int) -> int:
    """Return a whole number that must not be below another.

    Args:
        what: The thing, for the message.
        value: The number.
        least: Smallest allowed, 0 or above.

    Raises:
        OffDynError: Not a whole number, or below `least`.
    """
    found = whole(value)
    if found is None or found < least:
        raise OffDynError(f"{what} must be a whole number, {least} or above, got {shown(value)}")
    return found


def bound(shift: BaseShift, **bounds: tuple[float, float]) -> None:
    """Make parameters of a frozen shift floats within their bounds; those that are left out stay None.

    Args:
        shift: The shift, while it is made.
        bounds: Smallest and largest allowed value by the parameter's name.

    Raises:
        OffDynError: Not a number, or outside its bounds.
    """
    for name, (low, high) in bounds.items():
        if (value := getattr(shift, name)) is not None:
            object.__setattr__(shift, name, number(f"{shift.kind} shift: {name}", value, low, high))


def scale_or_add(shift: Any, scales: tuple[float, float], sums: tuple[float, float]) -> None:
    """See to it that a shift has either a factor, `scale`, or what is added, `add`, within its bounds.

    Args:
        shift: The shift, while it is made.
        scales: Smallest and largest factor.
        sums: Smallest and largest number that is added.

    Raises:
        OffDynError: Both or neither, not a number, or outside its bounds.
    """
    if (shift.scale is None) == (shift.add is None):
        raise OffDynError(
            f"{shift.kind} shift: give either scale or add, got scale {shown(shift.scale)} and add {shown(shift.add)}"
        )
    bound(shift, scale=scales, add=sums)


def check_profile(profile: str) -> str:
    """Return `profile` if it is one of `PROFILES`.

    Raises:
        OffDynError: No such profile.
    """
    if not isinstance(profile, str) or profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    return profile
