"""The gradient part of the mixed-order attack: Adam from many starts, projected to the box after every step.

Positions are in units of the box's half-widths, [-1, 1] in every dimension, so a step of 0.1 is 0.1 * eps in units of
sigma.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEARNING_RATE", "PROBE", "difference_gradient", "paths"]

Floats = NDArray[np.float64]

LEARNING_RATE = 0.1
PROBE = 0.05
"""Step of the finite differences: half of Adam's, and wide enough for the rounding of float32 networks."""

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
# Adam squares gradients; its steps do not depend on how large they are.
_LARGEST = 1e100


def paths(starts: Floats, steps: int, gradient: Callable[[Floats], Floats]) -> Floats:
    """Walk downhill.

    Args:
        starts: First positions, [M, D].
        steps: Adam steps.
        gradient: Gradient at positions [M, D], of the same shape; entries that are no number count as 0.

    Returns:
        All positions on the way, the starts among them, [(steps + 1) * M, D].
    """
    here = starts
    visited = [here]
    first, second = np.zeros_like(here), np.zeros_like(here)
    for step in range(1, steps + 1):
        slope = np.clip(np.nan_to_num(gradient(here)), -_LARGEST, _LARGEST)
        first = _BETA_1 * first + (1 - _BETA_1) * slope
        second = _BETA_2 * second + (1 - _BETA_2) * slope**2
        direction = (first / (1 - _BETA_1**step)) / (np.sqrt(second / (1 - _BETA_2**step)) + _EPSILON)
        here = np.clip(here - LEARNING_RATE * direction, -1.0, 1.0)
        visited.append(here)
    return np.concatenate(visited)


def difference_gradient(positions: Floats, chosen: NDArray[np.int64], value: Callable[[Floats], Floats]) -> Floats:
    """Return gradients by central differences, one-sided at the edge of the box: no probe leaves it.

    Args:
        positions: [M, D], in [-1, 1].
        chosen: Dimensions along which to differentiate, [K]; the gradient is 0 along the others.
        value: Values [P] of positions [P, D].

    Returns:
        Gradients, [M, D]; 0 where a probe's value is not finite.
    """
    slope = np.zeros_like(positions)
    if not len(chosen):
        return slope
    probes = np.repeat(positions[:, None, None, :], 2, axis=1).repeat(len(chosen), axis=2)
    along = np.arange(len(chosen))
    for side, shift in enumerate((PROBE, -PROBE)):
        probes[:, side, along, chosen] = np.clip(positions[:, chosen] + shift, -1.0, 1.0)
    values = value(probes.reshape(-1, positions.shape[1])).reshape(probes.shape[:-1])
    width = probes[:, 0, along, chosen] - probes[:, 1, along, chosen]
    with np.errstate(over="ignore", invalid="ignore"):
        found = (values[:, 0] - values[:, 1]) / width
    slope[:, chosen] = np.where(np.isfinite(values).all(axis=1), found, 0.0)
    return slope
