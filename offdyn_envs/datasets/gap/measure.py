"""The true dynamics gap: how far each stored transition is from what other dynamics would have done with it.

For diagnosis, never for training. What agents estimate (a learned model's error, a domain classifier's odds) can be
judged by it, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.gap.counterfactuals import Counterfactual, counterfactual
from offdyn_envs.datasets.gap.domains import Dynamics, refuse_noise
from offdyn_envs.datasets.store.card import same_platform
from offdyn_envs.datasets.store.spec import Dataset
from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.shifts import parse_shifts

__all__ = ["QUANTILES", "UNITS", "Gap", "dynamics_gap", "pair_gap", "spaced"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
UNITS = ("observation", "step")
"""Standard deviation of the source's next observations, or of its one-step changes."""
_STILL = 1e-9
"""A dimension whose spread is below this does not move and is left out of averages."""


@dataclass(frozen=True, eq=False)
class Gap:
    """The gap of n rows of a source dataset.

    Attributes:
        source: The dataset.
        answer: What the other dynamics do.
        units: One of `UNITS`.
        spread: The unit of each dimension, float64 [|S|].
        values: Next observation under the other dynamics minus the stored one, in units of `spread`, float32 [n, |S|];
            NaN in rows that the other body cannot take, 0 in dimensions that do not move.
        exact: The dataset comes from this MuJoCo version and processor family; elsewhere the last bits are theirs.
    """

    source: Dataset
    answer: Counterfactual
    units: str
    spread: NDArray[np.float64]
    values: NDArray[np.float32]
    exact: bool

    def __len__(self) -> int:
        return len(self.answer)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Which rows of the source, int64 [n]."""
        return self.answer.rows

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Rows with a meaningful answer, bool [n]."""
        return self.answer.valid

    @cached_property
    def sizes(self) -> NDArray[np.float64]:
        """|gap| averaged over the dimensions that move, float64 [n]; NaN in rows that are not valid."""
        moving = self.spread > _STILL
        sizes = np.abs(self.values[:, moving]).mean(axis=1, dtype=np.float64)
        return np.where(self.valid, sizes, np.nan)

    @cached_property
    def changed(self) -> NDArray[np.bool_]:
        """Valid rows whose next observation differs in at least one stored bit, bool [n]."""
        different = (self.answer.next_observations != self.source.next_observations[self.rows]).any(axis=1)
        return different & self.valid

    def summary(self) -> dict[str, Any]:
        """Return the gap in numbers, plain JSON.

        Returns:
            Counts of rows, masked rows and reasons; the share of valid rows that changed at all; mean, median, maximum
            and quantiles of `sizes`; the mean |gap| of each dimension; the mean |change| of the reward; and the share
            of valid rows whose termination differs. None where no row is valid. "mean" in units of "observation" is
            the shift size that is published for a task.
        """
        valid = self.valid
        count = int(valid.sum())
        facts: dict[str, Any] = {
            "source": str(self.source.id),
            "units": self.units,
            "exact": self.exact,
            "rows": len(self),
            "valid": count,
            "masked": (len(self) - count) / len(self),
            "reasons": {reason: number / len(self) for reason, number in self.answer.counts.items()},
        }
        return {**facts, **(self._figures(valid) if count else dict.fromkeys(_FIGURES))}

    def _figures(self, valid: NDArray[np.bool_]) -> dict[str, Any]:
        sizes, rows = self.sizes[valid], self.rows[valid]
        quantiles = np.quantile(sizes, QUANTILES).tolist()
        rewards = self.answer.rewards[valid] - self.source.rewards[rows]
        flips = self.answer.terminations[valid] != self.source.terminations[rows]
        figures = (
            float(self.changed[valid].mean()),
            float(sizes.mean()),
            float(np.median(sizes)),
            float(sizes.max()),
            {f"{level:g}": value for level, value in zip(QUANTILES, quantiles, strict=True)},
            np.abs(self.values[valid]).mean(axis=0, dtype=np.float64).tolist(),
            float(np.abs(rewards).mean(dtype=np.float64)),
            float(flips.mean()),
        )
        return dict(zip(_FIGURES, figures, strict=True))


_FIGURES = ("changed", "mean", "median", "max", "quantiles", "dimensions", "reward_change", "terminations_changed")


def dynamics_gap(
    source: Dataset,
    env: Dynamics,
    rows: NDArray[Any] | Sequence[int] | None = None,
    *,
    units: str = "observation",
    profile: str | None = None,
    num_threads: int | None = None,
    quiet: bool = False,
) -> Gap:
    """Measure how far each stored transition is from what other dynamics would have done with it.

    The unit of a dimension is a standard deviation over ALL rows of the source, so that it does not depend on which
    rows are asked for: of the next observation ("observation", the one of the published shift size), or of next
    observation - observation ("step", which asks how large the gap is beside what a step moves).

    Args:
        source: A dataset with simulator states.
        env: The other dynamics, see `counterfactual`.
        rows: Which rows, whole numbers [n]; all of them where left out.
        units: One of `UNITS`.
        profile: Variant of the edits where `env` is no environment; by default the dataset's.
        num_threads: Threads of the simulation; by default all usable cores.
        quiet: No progress bar.

    Returns:
        The gap, in the order of `rows`.

    Raises:
        OffDynError: Unknown units, a source with noisy observations, and everything that `counterfactual` refuses.
    """
    if units not in UNITS:
        raise unknown("units", units, UNITS)
    if isinstance(source, Dataset):
        refuse_noise(parse_shifts(source.card["shifts"] or None), f"the dynamics of '{source.id}'")
    answer = counterfactual(source, env, rows, profile=profile, num_threads=num_threads, quiet=quiet)
    spread = _spread(source, units)
    if not np.isfinite(spread).all():
        raise OffDynError(f"dataset '{source.id}' holds observations that are not finite; expected finite numbers")
    divisor = np.where(spread > _STILL, spread, np.inf)
    values = (answer.next_observations - np.asarray(source.next_observations[answer.rows])) / divisor
    return Gap(source, answer, units, spread, values.astype(np.float32), same_platform(source.card))


def spaced(total: int, count: int) -> NDArray[np.int64]:
    """Return at most `count` evenly spaced numbers of `total` rows, the first and the last among them."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))


def pair_gap(
    source: Any,
    target: Any,
    rows: int | NDArray[np.int64] | None = None,
    *,
    who: str = "the exact gap",
    num_threads: int | None = None,
    quiet: bool = True,
) -> Gap:
    """Measure how far rows of one dataset are from what the dynamics of another do, in units of "step".

    Args:
        source: A dataset with simulator states.
        target: A dataset of the other dynamics.
        rows: How many evenly spaced rows of the source, or which; all of them where left out.
        who: What needs them, for the message.
        num_threads: Threads of the simulation; by default all usable cores.
        quiet: No progress bar.

    Raises:
        OffDynError: One of both is no dataset of this suite, and everything that `dynamics_gap` refuses.
    """
    if not isinstance(source, Dataset) or not isinstance(target, Dataset):
        raise OffDynError(f"{who} needs datasets with simulator states; tasks of this suite have them")
    shifts, profile = parse_shifts(target.card["shifts"] or None) or "nominal", target.card["profile"]
    asked = spaced(len(source), rows) if isinstance(rows, int) else rows
    return dynamics_gap(source, shifts, asked, units="step", profile=profile, num_threads=num_threads, quiet=quiet)


def _spread(source: Dataset, units: str) -> NDArray[np.float64]:
    values = np.asarray(source.next_observations)
    if units == "step":
        values = values - np.asarray(source.observations)
    return values.std(axis=0, dtype=np.float64)
