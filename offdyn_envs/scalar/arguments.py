"""The arguments of the scalar environments, checked: what is wrong is refused in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError, shown, unknown
from offdyn_envs.schedule import count

__all__ = ["check_observe_shifts", "check_rendering", "check_seed", "finite_numbers"]


def check_rendering(rendering: Mapping[str, Any], allowed: Sequence[str], others: Sequence[str]) -> None:
    """Check what goes on to Gymnasium's MuJoCo environments.

    Args:
        rendering: Arguments by name.
        allowed: Names that they may have.
        others: Further arguments of the environment, for the message.

    Raises:
        OffDynError: An unknown name, or a picture without a size.
    """
    for name in rendering:
        if name not in allowed:
            raise unknown("environment parameter", name, (*others, *allowed))
    for name in ("width", "height"):
        size = rendering.get(name, 1)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise OffDynError(f"{name} must be a whole number above 0, got {shown(size)}")


def check_seed(seed: object) -> None:
    """Check the seed of a reset.

    Args:
        seed: None, or a whole number.

    Raises:
        OffDynError: Anything else, or a number below 0.
    """
    if seed is not None:
        count("seed", seed)


def check_observe_shifts(value: object, schedule: object) -> bool:
    """Return whether the strength of the shifts is observed.

    Args:
        value: What the environment was given.
        schedule: The schedule that it was given.

    Raises:
        OffDynError: Neither true nor false, or true with a schedule.
    """
    if not isinstance(value, bool):
        raise OffDynError(f"observe_shifts must be true or false, got {shown(value)}")
    if value and schedule is not None:
        raise OffDynError("observe_shifts shows shifts that stay, so that it does not go with a schedule")
    return value


def finite_numbers(name: str, value: object, *shapes: tuple[int, ...], chosen: Any = ...) -> NDArray[Any]:
    """Return numbers of one of the shapes; all, or those of the chosen rows, are finite."""
    try:
        array = np.asarray(value)
    except ValueError:  # Rows of different lengths.
        array = np.asarray(None)
    fits = array.shape in shapes and array.dtype.kind in "fiu"
    lost = int(np.sum(~np.isfinite(array[chosen]))) if fits else 0
    if not fits or lost:
        allowed = " or ".join(str(shape) for shape in dict.fromkeys(shapes))
        what = f", of which {lost} are not finite" if lost else ""
        raise OffDynError(
            f"{name} must be finite numbers of shape {allowed}, got {array.dtype} of shape {array.shape}{what}"
        )
    return array
