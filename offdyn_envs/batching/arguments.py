"""The arguments of the batched environment, checked: what is wrong is refused in one line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.shifts import Shift, Shifts, parse_shifts
from offdyn_envs.shifts.base import shown

__all__ = ["autoreset", "row_mask", "seeds_of_rows", "shifts_of_rows", "whole_number"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
_AUTORESET = {
    "next_step": AutoresetMode.NEXT_STEP,
    "same_step": AutoresetMode.SAME_STEP,
    "disabled": AutoresetMode.DISABLED,
}


def whole_number(name: str, value: object) -> int:
    """Return a number above 0 as an int."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise OffDynError(f"{name} must be a whole number above 0, got {shown(value)}")
    return int(value)


def autoreset(mode: str | AutoresetMode) -> AutoresetMode:
    """Return the mode that a name stands for."""
    if isinstance(mode, AutoresetMode):
        return mode
    if not isinstance(mode, str) or mode not in _AUTORESET:
        raise unknown("autoreset mode", mode, _AUTORESET)
    return _AUTORESET[mode]


def shifts_of_rows(
    common: tuple[Shift, ...], row_shifts: Sequence[Shifts] | None, num_envs: int
) -> tuple[tuple[Shift, ...], ...]:
    """Return the shifts of each row, N: the common ones, then its own."""
    if row_shifts is None:
        return (common,) * num_envs
    if not isinstance(row_shifts, Sequence) or isinstance(row_shifts, str) or len(row_shifts) != num_envs:
        raise OffDynError(f"row_shifts must be a list with one entry per row: {num_envs}, got {shown(row_shifts)}")
    return tuple(common + parse_shifts(shifts) for shifts in row_shifts)


def seeds_of_rows(seed: int | Sequence[int | None] | None, num_envs: int) -> list[int | None]:
    """Return a seed per row, N: row i of one number s gets s + i."""
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, int | np.integer):
        seeds: list[int | None] = [int(seed) + row for row in range(num_envs)]
    else:
        seeds = list(seed) if isinstance(seed, Sequence | np.ndarray) else []
    for value in seeds:
        if value is not None and (not isinstance(value, int | np.integer) or value < 0):
            raise OffDynError(f"seed must be a whole number, 0 or above, got {shown(value)}")
    if len(seeds) != num_envs:
        raise OffDynError(f"seed must be one number or {num_envs}, got {shown(seed)}")
    return seeds


def row_mask(name: str, mask: object, num_envs: int) -> Bools:
    """Return which rows are meant, bool [N]; all where there is no mask."""
    chosen = np.ones(num_envs, dtype=bool) if mask is None else np.asarray(mask)
    if chosen.shape != (num_envs,) or chosen.dtype != np.bool_ or not chosen.any():
        raise OffDynError(f"{name} must be {num_envs} booleans, at least one of them true")
    return chosen
