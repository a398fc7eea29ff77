"""What every attack shares: its protocol and its box."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError, shown

__all__ = ["Attack", "Observations", "half_widths", "inside", "is_whole"]

Observations = NDArray[np.float64]


class Attack(Protocol):
    """What every observation attack can do."""

    def perturb(self, observations: Observations, rngs: Sequence[np.random.Generator]) -> Observations:
        """Return what the policy gets to see.

        Args:
            observations: Clean observations, [B, |S|].
            rngs: One generator per row, so that rows do not depend on each other, B.

        Returns:
            Perturbed observations, [B, |S|].
        """
        ...


def half_widths(scale: Any, sigma: Any) -> NDArray[np.float64]:
    """Return the half-widths of the box, [|S|].

    Args:
        scale: eps, in units of sigma.
        sigma: Standard deviations, [|S|].

    Raises:
        OffDynError: A value that is no finite number, or is negative.
    """
    number = isinstance(scale, int | float | np.integer | np.floating) and not isinstance(scale, bool)
    if not number or not 0 <= scale <= sys.float_info.max:
        raise OffDynError(f"attack: scale must be a finite number, 0 or above, got {shown(scale)}")
    spread = _spread(sigma)
    with np.errstate(over="ignore"):
        box = float(scale) * spread
    if not np.isfinite(box).all():
        raise OffDynError(f"attack: scale {scale:g} times sigma must be finite, got sigma up to {spread.max():g}")
    return box


def _spread(sigma: Any) -> NDArray[np.float64]:
    # NumPy would read the texts and truth values of a list as numbers.
    listed: list[Any] = list(sigma) if isinstance(sigma, list | tuple) else []
    try:
        spread: NDArray[Any] = np.asarray(sigma)
    except (TypeError, ValueError):
        spread = np.asarray(None)
    if spread.dtype.kind not in "fiu" or any(isinstance(entry, bool) for entry in listed):
        raise OffDynError(f"attack: sigma must be a list of numbers, got {shown(sigma)}")
    wanted = "a flat list of finite numbers, 0 or above, one per observation"
    if spread.ndim != 1:
        raise OffDynError(f"attack: sigma must be {wanted}, got shape {list(spread.shape)}")
    spread = spread.astype(np.float64)
    wrong = np.flatnonzero(~(np.isfinite(spread) & (spread >= 0)))
    if len(wrong):
        raise OffDynError(f"attack: sigma must be {wanted}, got {spread[wrong[0]]:g} at position {wrong[0]}")
    return spread


def inside(perturbed: Observations, clean: Observations, box: NDArray[np.float64]) -> Observations:
    """Bring observations back into the box.

    Args:
        perturbed: [..., |S|].
        clean: Broadcasts against `perturbed`.
        box: Half-widths, [|S|].

    Returns:
        Points p with clean - box <= p <= clean + box and |p - clean| <= box in floating point; the clean value where
        that is not finite. [..., |S|].
    """
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = clean - box, clean + box
        # The edges round, too: out of the box, or to infinity. Then one step back is inside.
        low = np.where(clean - low > box, np.nextafter(low, np.inf), low)
        high = np.where(high - clean > box, np.nextafter(high, -np.inf), high)
        bounded = np.clip(perturbed, low, high)
    return np.where(np.isfinite(bounded), bounded, clean)


def is_whole(value: Any, most: int) -> bool:
    """Say whether a value is a whole number from 1 to `most`; a truth value is none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(1 <= value <= most)
