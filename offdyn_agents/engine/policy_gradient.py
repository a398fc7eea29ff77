"""What learners by policy gradients share: advantages, and the density of Gaussian actions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.floating[Any]]
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)

__all__ = ["advantages", "log_density"]


def advantages(
    rewards: Floats,
    values: Floats,
    next_values: Floats,
    terminated: Floats,
    done: Floats,
    discount: float,
    trace: float,
) -> NDArray[np.float64]:
    """Generalised advantage estimates.

    Args:
        rewards: rewards [T, N].
        values: values of the observations acted on [T, N].
        next_values: values of the observations that followed, the FINAL ones where an episode ended [T, N].
        terminated: 1 where the task ended: nothing is earned afterwards [T, N].
        done: 1 where the episode ended for whatever reason: the next row is another episode's [T, N].
        discount: per-step discount.
        trace: lambda.

    Returns:
        Advantages [T, N]; adding `values` gives the targets of the value function.
    """
    errors = rewards + discount * next_values * (1.0 - terminated) - values
    estimates = np.zeros_like(errors, dtype=np.float64)
    running = np.zeros(errors.shape[1:])
    for t in range(len(errors) - 1, -1, -1):
        running = errors[t] + discount * trace * (1.0 - done[t]) * running
        estimates[t] = running
    return estimates


def log_density(mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    """Log density of a diagonal Gaussian before clipping.

    Args:
        mean: means [B, |A|].
        log_std: logarithms of the standard deviations [|A|].
        actions: unclipped actions [B, |A|].

    Returns:
        Log densities [B].
    """
    return (-0.5 * ((actions - mean) / log_std.exp()).square() - log_std - _HALF_LOG_2PI).sum(-1)
