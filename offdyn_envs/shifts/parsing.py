"""Lists of shifts: from JSON, to JSON, and whether they fit a robot and each other."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from offdyn_envs.errors import OffDynError, beginning, unknown
from offdyn_envs.shifts.base import Shift, number, shown
from offdyn_envs.shifts.kinematic import FACTORS, Kinematic
from offdyn_envs.shifts.morphology import Morphology, check_morphologies
from offdyn_envs.shifts.scaled import SCALES, Friction, Gravity

if TYPE_CHECKING:
    from offdyn_envs.robots import Robot

__all__ = ["KINDS", "check_products", "check_shifts", "parse_shifts", "shifts_to_json"]

AnyShift = Gravity | Friction | Kinematic | Morphology
KINDS: Mapping[str, type[AnyShift]] = {
    "gravity": Gravity,
    "friction": Friction,
    "kinematic": Kinematic,
    "morphology": Morphology,
}
"""The kinds of shifts, by their name in JSON."""


def _parse_one(position: int, value: object) -> Shift:
    if isinstance(value, AnyShift):
        return value
    if not isinstance(value, Mapping):
        raise OffDynError(
            f"shifts[{position}] must be an object such as {{'kind': 'gravity', 'scale': 0.5}}, got {shown(value)}"
        )
    fields: dict[str, Any] = {beginning(key, 80): item for key, item in value.items()}
    kind = fields.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise unknown("shift kind", kind, KINDS)
    parameters = inspect.signature(KINDS[kind]).parameters
    for name in fields:
        if name not in parameters:
            raise unknown(f"parameter of the {kind} shift", name, parameters)
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in fields:
            raise OffDynError(f"{kind} shift: parameter '{name}' is missing; allowed: a finite number above 0")
    return KINDS[kind](**fields)


def parse_shifts(value: Sequence[Mapping[str, Any] | Shift] | None) -> tuple[Shift, ...]:
    """Read a list of shifts, given as values or as plain JSON objects.

    Args:
        value: The shifts in the order in which they apply; None means the nominal robot.

    Returns:
        The shifts as values.

    Raises:
        OffDynError: Not a list, an empty list, an unknown kind or parameter, or a value out of range.
    """
    if value is None:
        return ()
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise OffDynError(
            f"shifts must be a list of objects such as [{{'kind': 'gravity', 'scale': 0.5}}], got {shown(value)}"
        )
    if not value:
        raise OffDynError("shifts must not be an empty list; leave shifts out for the nominal robot")
    return tuple(_parse_one(position, item) for position, item in enumerate(value))


def check_shifts(shifts: Sequence[Shift], robot: Robot) -> None:
    """Raise where shifts do not fit a robot, or not each other.

    Args:
        shifts: The shifts, in order.
        robot: The robot.

    Raises:
        OffDynError: A part or joint that the robot lacks, factors that multiply to too much or too little, or two
            morphologies of one part.
    """
    for shift in shifts:
        shift.check(robot)
    check_products(shifts, robot)
    check_morphologies([shift for shift in shifts if isinstance(shift, Morphology)], robot)


def check_products(shifts: Sequence[object], robot: Robot | None = None) -> None:
    """Raise where the factors of several shifts multiply to more or less than one shift may have.

    Args:
        shifts: The shifts, in order.
        robot: The robot, for kinematic shifts.

    Raises:
        OffDynError: A product is out of bounds.
    """
    products: dict[str, tuple[float, float, float]] = {}

    def multiply(what: str, factor: float, low: float, high: float) -> None:
        product = products.get(what, (1.0, low, high))[0] * factor
        products[what] = product, low, high

    for shift in shifts:
        if isinstance(shift, Gravity | Friction):
            multiply(f"{shift.kind} shifts: the product of all scales", shift.scale, *SCALES)
        elif isinstance(shift, Kinematic) and robot is not None:
            for joint, factor in shift.factors(robot).items():
                multiply(f"kinematic shifts: the product of all factors of {joint}", factor, *FACTORS)
    for what, (product, low, high) in products.items():
        number(what, product, low, high)


def shifts_to_json(shifts: Sequence[Shift]) -> list[dict[str, Any]]:
    """Return the plain-JSON form of a list of shifts."""
    return [shift.to_json() for shift in shifts]
