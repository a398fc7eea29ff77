"""The random attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.attacks.base import Observations, half_widths, inside

__all__ = ["RandomAttack"]


@dataclass(frozen=True)
class RandomAttack:
    """Uniform noise in the box.

    Attributes:
        scale: eps, the box's half-width in units of sigma; the standard grid is .05, .1, .15, .2, .3.
        sigma: Standard deviation of the target dataset's observations, [|S|].
    """

    scale: float
    sigma: Sequence[float] | NDArray[Any]

    def __post_init__(self) -> None:
        half_widths(self.scale, self.sigma)

    @cached_property
    def _box(self) -> NDArray[np.float64]:
        return half_widths(self.scale, self.sigma)

    def perturb(self, observations: Observations, rngs: Sequence[np.random.Generator]) -> Observations:
        """Add the noise; see `Attack.perturb`."""
        noise = np.zeros(observations.shape)
        for row, rng in enumerate(rngs):
            noise[row] = rng.uniform(-1.0, 1.0, size=observations.shape[-1:])
        with np.errstate(over="ignore"):
            perturbed = observations + noise * self._box
        return inside(perturbed, observations, self._box)
