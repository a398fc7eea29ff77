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
    """Return the context of an environment: one number for each of its shifts.

    Args:
        shifts: Its shifts, in order.

    Returns:
        Names as the ranges of `offdyn_envs.sample_shifts` have them, for instance "mass:torso", and the values, [K].

    Raises:
        OffDynError: A shift without one number that says how strong it is, such as a preset.
    """
    named = [_strength(shift) for shift in shifts]
    return tuple(name for name, _ in named), np.array([value for _, value in named], dtype=np.float64)


def context_of_rows(row_shifts: Sequence[Sequence[Shift]]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Return the context of each row of a batch.

    Args:
        row_shifts: The shifts of each row, N.

    Returns:
        Names and values, [N, K].

    Raises:
        OffDynError: Rows of other kinds of shifts, or a shift without one number.
    """
    contexts = [context_of(shifts) for shifts in row_shifts]
    names = contexts[0][0]
    for row, (others, _) in enumerate(contexts):
        if others != names:
            had, has = (", ".join(each) or "none" for each in (names, others))
            raise OffDynError(
                f"observe_shifts: all rows must have the same shifts but for their strength; row 0 has {had}, "
                f"row {row} has {has}"
            )
    return names, np.stack([values for _, values in contexts])


def _strength(shift: Any) -> tuple[str, float]:
    default = getattr(shift, "amount", "scale")
    names = [default, *(item.name for item in fields(shift))]
    name = next((name for name in names if default and _is_number(getattr(shift, name, None))), None)
    if name is None:
        raise OffDynError(
            f"observe_shifts: the {shift.kind} shift {shown(shift.to_json())} has no single number that says "
            "how strong it is"
        )
    where = None if getattr(shift, "place", None) is None else getattr(shift, shift.place)
    text = shift.kind + ("" if name == default else f".{name}") + ("" if where is None else f":{where}")
    return text, getattr(shift, name)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
