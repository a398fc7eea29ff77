"""Running mean and variance of vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_agents.behaviour.checkpoint import as_array


class RunningMoments:
    """Mean and standard deviation of all rows added so far, in double precision.

    Source: Chan, Golub and LeVeque 1983, the pairwise update. Before any row the mean is 0 and the deviation 1.

    Attributes:
        mean: mean [D].
        variance: biased variance [D].
        count: rows so far.
    """

    def __init__(self, size: int) -> None:
        """Start without rows.

        Args:
            size: length D of a row.
        """
        self.mean = np.zeros(size)
        self.variance = np.ones(size)
        self.count = 0

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation [D], bounded away from 0."""
        return np.sqrt(self.variance + 1e-8)

    def add(self, rows: NDArray[np.floating[Any]]) -> None:
        """Add rows.

        Args:
            rows: values [B, D], B at least 1.
        """
        mean, variance, count = rows.mean(axis=0), rows.var(axis=0), len(rows)
        total = self.count + count
        gap = mean - self.mean
        if self.count == 0:
            self.mean, self.variance = mean, variance
        else:
            spread = self.variance * self.count + variance * count + gap**2 * (self.count * count / total)
            self.mean = self.mean + gap * (count / total)
            self.variance = spread / total
        self.count = total

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs."""
        return {"mean": self.mean.copy(), "variance": self.variance.copy(), "count": self.count}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state.

        Args:
            state: what `state` returned.
        """
        self.mean, self.variance = as_array(state["mean"]), as_array(state["variance"])
        self.count = int(state["count"])
