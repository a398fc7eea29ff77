"""Lists of shifts: from JSON, to JSON, and whether they fit a robot and each other."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from offdyn_envs.errors import OffDynError, beginning, shown, unknown
from offdyn_envs.shifts.base import Product, Shift, number
from offdyn_envs.shifts.registry import KINDS

if TYPE_CHECKING:
    from offdyn_envs.robots import Robot

__all__ = ["Shifts", "check_products", "check_shifts", "listed_shifts", "parse_shifts", "shifts_to_json"]

Shifts: TypeAlias = Mapping[str, Any] | Shift | Sequence[Mapping[str, Any] | Shift] | None
"""What `shifts=` takes: one shift or a list of them, as values or plain JSON objects; None for the nominal robot."""


def _parse_one(position: int, value: object) -> Shift:
    if isinstance(value, tuple(KINDS.values())):
        return value  # type: ignore[return-value]
    if not isinstance(value, Mapping):
        if isinstance(value, Shift) and not isinstance(value, type):
            name = type(value).__name__
            raise OffDynError(f"shifts[{position}]: {name} is not registered; offdyn_envs.register_shift({name}) does")
        raise OffDynError(
            f"shifts[{position}] must be an object such as {{'kind': 'gravity', 'scale': 0.5}}, got {shown(value)}"
        )
    fields: dict[str, Any] = {beginning(key, 80): item for key, item in value.items()}
    if "kind" not in fields:
        raise OffDynError(f"shifts[{position}] has no 'kind'; allowed: {', '.join(KINDS)}")
    kind = fields.pop("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise unknown("shift kind", kind, KINDS)
    parameters = inspect.signature(KINDS[kind]).parameters
    for name in fields:
        if name not in parameters:
            raise unknown(f"parameter of the {kind} shift", name, parameters)
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in fields:
            allowed = "; allowed: a finite number above 0" if parameter.annotation in ("float", float) else ""
            raise OffDynError(f"{kind} shift: parameter '{name}' is missing{allowed}")
    return KINDS[kind](**fields)


def listed_shifts(value: object) -> Sequence[Any]:
    """Return the shifts that were given, not yet read: none for None, a list of one for one.

    Args:
        value: What `shifts=` was given.

    Returns:
        The shifts in order.

    Raises:
        OffDynError: Neither a shift nor a list.
    """
    if value is None:
        return ()
    if isinstance(value, Mapping) or (callable(getattr(value, "to_json", None)) and not isinstance(value, type)):
        return (value,)
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise OffDynError(
            f"shifts must be a list of objects such as [{{'kind': 'gravity', 'scale': 0.5}}], got {shown(value)}"
        )
    return value


def parse_shifts(value: Shifts) -> tuple[Shift, ...]:
    """Read one shift or a list of them, given as values or as plain JSON objects.

    Args:
        value: The shifts in the order in which they apply; None and an empty list mean the nominal robot.

    Returns:
        The shifts as values.

    Raises:
        OffDynError: Neither a shift nor a list, an unknown kind or parameter, or a value out of range.
    """
    return tuple(_parse_one(position, item) for position, item in enumerate(listed_shifts(value)))


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
    for kind_class in dict.fromkeys(map(type, shifts)):
        if (check_together := getattr(kind_class, "check_together", None)) is not None:
            check_together([shift for shift in shifts if type(shift) is kind_class], robot)


def check_products(shifts: Iterable[object], robot: Robot | None = None) -> None:
    """Raise where the factors of several shifts multiply to more or less than one shift may have.

    Args:
        shifts: The shifts, in order.
        robot: The robot; None for a robot that is not of this suite.

    Raises:
        OffDynError: A product is out of bounds.
    """
    together: dict[str, Product] = {}
    for shift in shifts:
        own: Iterable[Product] = shift.products(robot) if hasattr(shift, "products") else ()  # type: ignore[attr-defined]
        for product in own:
            before = together.get(product.what)
            factor = product.factor * (1.0 if before is None else before.factor)
            together[product.what] = product._replace(factor=factor)
    for product in together.values():
        number(*product)


def shifts_to_json(shifts: Sequence[Shift]) -> list[dict[str, Any]]:
    """Return the plain-JSON form of a list of shifts."""
    return [shift.to_json() for shift in shifts]
