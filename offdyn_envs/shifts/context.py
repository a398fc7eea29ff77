"""How strong the shifts of an environment are, as numbers that a policy may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError, shown
from offdyn_envs.shifts.base import Shift

__all__ = ["context_of", "context_of_rows"]


def context_of(shifts: Sequence[Shift]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Return the context of an environment: every number of its shifts.

    Args:
        shifts: Its shifts, in order.

    Returns:
        Names as the ranges of `offdyn_envs.sample_shifts` have them, for instance "mass:torso", and the values, [K]; of
        a shift with several numbers all that are given: "actuator" and "actuator.limit".

    Raises:
        OffDynError: A shift without a number that says how strong it is, such as a preset.
    """
    named = [pair for shift in shifts for pair in _strengths(shift)]
    return tuple(name for name, _ in named), np.array([value for _, value in named], dtype=np.float64)


def context_of_rows(row_shifts: Sequence[Sequence[Shift]]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Return the context of each row of a batch.

    Args:
        row_shifts: The shifts of each row, N.

    Returns:
        Names and values, [N, K].

    Raises:
        OffDynError: Rows of other kinds of shifts, rows that differ in what no number shows, or a shift without one.
    """
    contexts = [context_of(shifts) for shifts in row_shifts]
    names, rest = contexts[0][0], _rest(row_shifts[0])
    for row, (others, _) in enumerate(contexts):
        same = "all rows must have the same shifts but for their strength"
        if others != names:
            had, has = (", ".join(each) or "none" for each in (names, others))
            raise OffDynError(f"observe_shifts: {same}; row 0 has {had}, row {row} has {has}")
        if (other := _rest(row_shifts[row])) != rest:
            had, has = next((one, two) for one, two in zip(rest, other, strict=True) if one != two)
            raise OffDynError(f"observe_shifts: {same}; row 0 has {shown(had)}, row {row} has {shown(has)}")
    return names, np.stack([values for _, values in contexts])


def _numbers(shift: Any) -> list[str]:
    """Return which parameters of a shift are numbers that say how strong it is, the most telling first."""
    default = getattr(shift, "amount", "scale")
    place = getattr(shift, "place", None)
    names = dict.fromkeys((default, *(item.name for item in fields(shift)))) if default else ()
    return [name for name in names if name != place and _is_number(getattr(shift, name, None))]


def _rest(shifts: Sequence[Shift]) -> list[dict[str, Any]]:
    """Return what of shifts their numbers leave out, such as the place of a payload."""
    return [{key: value for key, value in shift.to_json().items() if key not in _numbers(shift)} for shift in shifts]


def _strengths(shift: Any) -> list[tuple[str, float]]:
    names, default = _numbers(shift), getattr(shift, "amount", "scale")
    if not names:
        raise OffDynError(
            f"observe_shifts: the {shift.kind} shift {shown(shift.to_json())} has no single number that says "
            "how strong it is"
        )
    where = None if getattr(shift, "place", None) is None else getattr(shift, shift.place)
    place = "" if where is None else f":{where}"
    return [(shift.kind + ("" if name == default else f".{name}") + place, getattr(shift, name)) for name in names]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
