"""The search for the values: many starts on few rows, then Gauss-Newton steps on all of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.gap.measure import spaced
from offdyn_envs.datasets.identifying.parameters import Parameter, shifts_of
from offdyn_envs.datasets.identifying.replay import Replay
from offdyn_envs.shifts import Shift

__all__ = ["SMOOTH", "Fit", "Search", "most_steps", "row_losses", "slopes"]

Floats = NDArray[np.float64]
SMOOTH = 1e-3
"""Below this error, in changes of one step, the loss of a row grows with its square, beyond it in proportion."""
SCAN, DRAWN = 7, 8
"""Places along the range of each parameter, and at random for each, at which the search may start."""
KEPT = 3
"""Starts that are followed."""
COARSE_ROWS, FEW_ROWS = 200, 600
COARSE_STEPS, FINE_STEPS = 8, 20
CLOSE_ENOUGH, NEAR = 1e-5, 1e-2
"""Steps of the search end below these, on all and on few rows: a hundred-thousandth of a factor, or of a third of a
range."""
LITTLE = 1e-6
"""Nor does it go on where noise is left and a step gains less than this share of the loss: intervals are far wider."""
EXPLAINED = 0.01
"""A start that leaves this share of the nominal loss is good enough: no other is followed."""
DAMPINGS = (0.0, 0.1, 10.0, 1e3)
DIFFERENCES = (1e-4, 1e-2)
"""Least and largest distance over which a slope is taken; contacts make errors kinked: it shrinks with the steps."""


def row_losses(errors: Floats) -> Floats:
    """Return how bad each row is.

    The root mean square of a row's errors, not its square: rows that nothing explains, such as a contact that is missed
    by a hair, then weigh no more than others. It is the pseudo-Huber loss of the row's length, zero for no error.

    Args:
        errors: [..., n, H, D].

    Returns:
        [..., n].
    """
    square = np.mean(np.square(errors), axis=(-2, -1))
    return np.sqrt(square + SMOOTH**2) - SMOOTH


@dataclass(frozen=True, eq=False)
class Fit:
    """Where a search ended.

    Attributes:
        place: In units of the search, [P].
        loss: Mean loss of a row.
    """

    place: Floats
    loss: float


class Search:
    """Looks for the values under which the errors of a replay are smallest.

    Attributes:
        few: The rows on which it begins.

    Args:
        parameters: What is looked for, P.
        replay: The rows.
        rng: Draws starts and rows.
    """

    def __init__(self, parameters: Sequence[Parameter], replay: Replay, rng: np.random.Generator) -> None:
        self._parameters, self._replay, self._rng = parameters, replay, rng
        self._low, self._high = np.array([item.unit_bounds for item in parameters]).T
        self._smooth = np.array([not item.whole for item in parameters])
        self.few = replay.only(self._some(FEW_ROWS))
        self._nominal_loss = float(row_losses(self.few.errors([()])).mean())

    def shifts(self, place: Floats) -> tuple[Shift, ...]:
        """Return the shifts that stand at a place, [P]."""
        return shifts_of(self._parameters, self.values(place))

    def values(self, place: Floats) -> list[float]:
        """Return the values that stand at a place, [P]."""
        return [item.to_value(unit) for item, unit in zip(self._parameters, place.tolist(), strict=True)]

    def run(self) -> tuple[Fit, list[Fit]]:
        """Search.

        Returns:
            Where it ended, and the best place for each value of the whole numbers, on fewer rows.
        """
        coarse = self.few.only(spaced(len(self.few), COARSE_ROWS))
        promising = [self._promising(coarse, counts) for counts in self._counts()]
        promising.sort(key=lambda starts: starts[0].loss)
        tried = [self._best(starts[: KEPT if place < KEPT else 1]) for place, starts in enumerate(promising)]
        best = min(tried, key=lambda fit: fit.loss)
        return self.descend(self._replay, best.place, FINE_STEPS, CLOSE_ENOUGH), tried

    def descend(self, replay: Replay, place: Floats, steps: int, close: float) -> Fit:
        """Follow the slopes down from a place.

        Args:
            replay: The rows.
            place: Where to start, [P].
            steps: How many steps at most.
            close: Where a step is shorter, that was the last.
        """
        errors = replay.errors([self.shifts(place)])[0]
        loss, length = float(row_losses(errors).mean()), DIFFERENCES[1]
        for _ in range(steps if self._smooth.any() else 0):
            distance = min(max(length, DIFFERENCES[0]), DIFFERENCES[1])
            slope, curve = self._slopes(replay, place, errors, distance)
            ahead = self._ahead(replay, place, loss, slope, curve)
            if ahead is None:
                if distance == DIFFERENCES[0] or (loss > SMOOTH and distance < DIFFERENCES[1]):
                    break
                length = distance / 10.0
                continue
            before, gain, (place, errors, loss) = place, loss - ahead[2], ahead
            length = float(np.abs(place - before).max())
            if length < close or (loss > SMOOTH and gain < LITTLE * loss):
                break
        return Fit(place, loss)

    def around(self, replay: Replay, place: Floats, distance: float) -> Floats:
        """Return how errors change with each parameter, central differences, [P, n, H, D]; 0 for whole numbers."""
        ends = [np.clip(place + side * row, self._low, self._high) for row in self._steps(distance) for side in (1, -1)]
        found = replay.errors([self.shifts(end) for end in ends])
        apart = np.array([(ends[2 * i] - ends[2 * i + 1]).sum() for i in range(len(place))])
        apart[apart == 0.0] = np.inf
        return (found[0::2] - found[1::2]) / apart[:, None, None, None]

    def _steps(self, distance: float) -> Floats:
        return np.diag(np.where(self._smooth, distance, 0.0))

    def _slopes(self, replay: Replay, place: Floats, errors: Floats, distance: float) -> tuple[Floats, Floats]:
        # Away from the nearer end of the range.
        side = np.where(place + distance > self._high, -1.0, 1.0)
        ends = [place + row for row in self._steps(distance) * side]
        found = replay.errors([self.shifts(end) for end in ends])
        jacobian = (found - errors) / (distance * side)[:, None, None, None]
        along, above, _ = slopes(errors, jacobian)
        return along.sum(axis=0), above

    def _ahead(
        self, replay: Replay, place: Floats, loss: float, slope: Floats, curve: Floats
    ) -> tuple[Floats, Floats, float] | None:
        """Return the first place ahead that is better, its errors and its loss; None where there is none."""
        # What pushes out of the range stays at its end.
        out = ((place <= self._low) & (slope > 0)) | ((place >= self._high) & (slope < 0))
        moved = np.flatnonzero(self._smooth & ~out & (np.diag(curve) > 0.0))
        if not len(moved):
            return None
        inner, down = curve[np.ix_(moved, moved)], slope[moved]
        for damping in DAMPINGS:
            stiff = inner + (damping + 1e-9) * np.diag(np.diag(inner))
            there = place.copy()
            there[moved] -= np.clip(np.linalg.solve(stiff, down), -1.0, 1.0)
            there = np.clip(there, self._low, self._high)
            errors = replay.errors([self.shifts(there)])[0]
            found = float(row_losses(errors).mean())
            if found < loss:
                return there, errors, found
        return None

    def _some(self, count: int) -> NDArray[np.intp]:
        total = len(self._replay)
        return np.sort(self._rng.choice(total, min(count, total), replace=False))

    def _counts(self) -> list[tuple[float, ...]]:
        """Return every combination of the whole numbers, in units of the search."""
        return list(
            itertools.product(
                *(
                    [item.to_unit(float(value)) for value in range(round(item.low), round(item.high) + 1)]
                    for item in self._parameters
                    if item.whole
                )
            )
        )

    def _promising(self, coarse: Replay, counts: tuple[float, ...]) -> list[Fit]:
        """Return the best places to start from, given the whole numbers."""
        starts = self._starts()
        starts[:, ~self._smooth] = counts
        starts = np.unique(starts, axis=0)
        losses = row_losses(coarse.errors([self.shifts(start) for start in starts])).mean(axis=1)
        return [Fit(starts[index], float(losses[index])) for index in np.argsort(losses, kind="stable")[:KEPT]]

    def _best(self, starts: Sequence[Fit]) -> Fit:
        """Follow starts down, until one is good enough, and return where the best ended."""
        best = Fit(starts[0].place, np.inf)
        for start in starts:
            best = min(best, self.descend(self.few, start.place, COARSE_STEPS, NEAR), key=lambda fit: fit.loss)
            if best.loss < EXPLAINED * self._nominal_loss:
                break
        return best

    def _starts(self) -> Floats:
        """Return places to start from: the nominal one, along each range, and at random, [K, P]."""
        nominal = np.array([item.to_unit(item.nominal) for item in self._parameters])
        smooth = np.flatnonzero(self._smooth)
        lines = np.tile(nominal, (1 + SCAN * len(smooth), 1))
        for position, column in enumerate(smooth):
            part = slice(1 + SCAN * position, 1 + SCAN * (position + 1))
            lines[part, column] = np.linspace(self._low[column], self._high[column], SCAN)
        if len(smooth) < 2:
            return lines
        drawn = self._rng.uniform(self._low, self._high, (DRAWN * len(smooth), len(nominal)))
        return np.concatenate([lines, drawn])


def most_steps(parameters: Sequence[Parameter], rows: int) -> int:
    """Return how many steps a fit simulates at most, for its progress.

    Args:
        parameters: What is looked for, P.
        rows: How many rows there are.
    """
    combinations = 1
    for item in parameters:
        combinations *= round(item.high) - round(item.low) + 1 if item.whole else 1
    smooth = sum(not item.whole for item in parameters)
    step = smooth + len(DAMPINGS)
    few = (1 + (SCAN + DRAWN) * smooth) * COARSE_ROWS + KEPT * COARSE_STEPS * step * FEW_ROWS
    return combinations * few + (FINE_STEPS * step + 10 * smooth + 5) * rows


def slopes(errors: Floats, jacobian: Floats) -> tuple[Floats, Floats, Floats]:
    """Return how the loss of each row changes with each parameter, and two sums of curvatures.

    Args:
        errors: [n, H, D].
        jacobian: Change of the errors with each parameter, [P, n, H, D].

    Returns:
        Slopes of the rows' losses [n, P]; the curvature of the parabola that touches the loss from above [P, P], whose
        lowest point is the truth where errors vanish there; and the curvature of the loss itself [P, P], less along the
        errors. Both leave out the curvature of the errors, as Gauss and Newton do.
    """
    count = errors.shape[-2] * errors.shape[-1]
    flat, lines = errors.reshape(len(errors), -1), jacobian.reshape(*jacobian.shape[:2], -1)
    length = np.sqrt(np.square(flat).mean(axis=1) + SMOOTH**2)
    along = np.einsum("pnk,nk->np", lines, flat) / count / length[:, None]
    above = np.einsum("pnk,qnk,n->pq", lines, lines, 1.0 / (count * length), optimize=True)
    return along, above, above - np.einsum("np,nq,n->pq", along, along, 1.0 / length)
