"""How sure the values are, and whether the logs can tell them at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.identifying.fitting import SMOOTH, Fit, Search, row_losses, slopes
from offdyn_envs.datasets.identifying.parameters import Parameter
from offdyn_envs.datasets.identifying.replay import Replay

__all__ = ["STRETCH", "Estimate", "judge"]

Floats = NDArray[np.float64]
STRETCH = 25
"""Steps of an episode that count as one observation: errors next to each other are alike."""
BESIDE = (0.05, 0.2, 0.7)
"""Distances, in units of the search, at which it is asked whether the errors are larger there."""
SLOPE_DISTANCE = 2e-3
RESOLUTION = 5e-4
"""No interval is narrower to either side: kinks of the errors may stop the search before the lowest point."""
NORMAL = 1.959964
"""Two-sided 95% quantile."""
SURE = 2.0
"""Standard errors, or square roots of the number of signs, by which one place must be worse than another."""
FEWEST = 5
"""Stretches that must tell two places apart; fewer may be chance."""
NO_DIFFERENCE = 1e-9
FACTOR, SHARE = 2.0, 0.25
"""A value is told where the interval's ends are within this factor, or within this share of a linear range."""
ALIKE = 0.95
"""Correlation from which on two effects are called alike."""
SINGULAR = 1e-8


@dataclass(frozen=True)
class Estimate:
    """One fitted value.

    Attributes:
        name: The parameter.
        value: The fitted value; the nominal one where the logs cannot tell and it fits as well as any.
        low: Lower end of the 95% interval.
        high: Upper end.
        told: Whether the logs tell the value.
        note: Why not; empty where they do.
        rows: How many rows hold nine tenths of what the logs say about it; None for whole numbers.
    """

    name: str
    value: float
    low: float
    high: float
    told: bool
    note: str
    rows: int | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        keys = ("name", "value", "low", "high", "told", "note", "rows")
        return {key: getattr(self, key) for key in keys}


@dataclass(frozen=True, eq=False)
class _Spread:
    """What slopes and curvature say: half-widths of intervals, correlations of the estimates, and rows that tell."""

    half: Floats
    correlation: Floats
    rows: NDArray[np.intp]


def judge(
    parameters: Sequence[Parameter], search: Search, replay: Replay, fit: Fit, tried: Sequence[Fit]
) -> list[Estimate]:
    """Return each value with its interval, and say whether the logs tell it.

    The interval is that of the sandwich estimate over stretches of `STRETCH` steps. It reaches at least as far as the
    errors are not larger, others held: by the mean of the stretches, or by the number of those that are worse.

    Args:
        parameters: What was looked for, P.
        search: What looked for it.
        replay: The rows.
        fit: Where it ended.
        tried: The best place for each combination of whole numbers, see `Search.run`.
    """
    stretches = np.unique(replay.logs.stretches(replay.rows, STRETCH), return_inverse=True)[1]
    spread = _spread(search, replay, fit.place, stretches)
    reach = _reach(parameters, search, replay, fit.place, stretches)
    counts = _counts(parameters, search, tried)
    found: list[Estimate] = []
    for index, parameter in enumerate(parameters):
        if parameter.whole:
            found.append(_whole(parameter, fit.place[index], counts[index]))
        else:
            found.append(_smooth(parameters, index, fit.place, spread, reach[index]))
    return found


def _smooth(
    parameters: Sequence[Parameter], index: int, place: Floats, spread: _Spread, reach: tuple[float, float]
) -> Estimate:
    parameter, unit, half = parameters[index], float(place[index]), float(spread.half[index])
    ends = min(reach[0], unit - half), max(reach[1], unit + half)
    low, high = (parameter.to_value(float(np.clip(end, *parameter.unit_bounds))) for end in ends)
    value, rows = parameter.to_value(unit), int(spread.rows[index])
    narrow = high <= FACTOR * low if parameter.logarithmic else high - low <= SHARE * (parameter.high - parameter.low)
    at_end = (low == parameter.low != parameter.nominal) or (high == parameter.high != parameter.nominal)
    if narrow and not at_end:
        return Estimate(parameter.key, value, low, high, True, "", rows)
    whole_range = reach[0] <= parameter.unit_bounds[0] and reach[1] >= parameter.unit_bounds[1]
    if whole_range or reach[1] - reach[0] >= BESIDE[-1]:
        value = parameter.nominal if low <= parameter.nominal <= high else value
        note = f"from {low:.3g} to {high:.3g} the errors are equally small"
    elif narrow:
        note = f"at an end of the range {parameter.low:g} to {parameter.high:g}; a wider one may fit better"
    elif alike := [
        other.key
        for position, other in enumerate(parameters)
        if position != index and abs(spread.correlation[index, position]) >= ALIKE
    ]:
        note = f"only together with {', '.join(alike)}, whose effect is alike"
    else:
        note = "the interval is wide"
    return Estimate(parameter.key, value, low, high, False, note, rows)


def _whole(parameter: Parameter, unit: float, as_good: list[float]) -> Estimate:
    value, good = float(round(parameter.to_value(float(unit)))), sorted(map(round, as_good))
    low, high = float(min(good)), float(max(good))
    if low == high:
        return Estimate(parameter.key, value, low, high, True, "", None)
    note = f"{', '.join(map(str, good))} fit equally well"
    return Estimate(parameter.key, value, low, high, False, note, None)


def _spread(search: Search, replay: Replay, place: Floats, stretches: NDArray[np.intp]) -> _Spread:
    errors = replay.errors([search.shifts(place)])[0]
    jacobian = search.around(replay, place, SLOPE_DISTANCE)
    along, _, curve = slopes(errors, jacobian)
    sums = _sums(along, stretches)
    scale = np.sqrt(np.diag(curve))
    scale[scale == 0.0] = np.inf
    values, vectors = np.linalg.eigh(curve / np.outer(scale, scale))
    # What no error depends on has no curvature: an interval without end.
    inverse = (vectors / np.maximum(values, SINGULAR)) @ vectors.T
    influence = sums @ (inverse / np.outer(scale, scale))
    square = np.square(influence)
    variance = square.sum(axis=0) * len(sums) / max(len(sums) - 1, 1)
    effective = np.divide(variance**2, np.square(square).sum(axis=0), out=np.full(len(place), 3.0), where=variance > 0)
    half = _quantile(np.maximum(effective - 1.0, 2.0)) * np.sqrt(variance) + RESOLUTION
    half[(np.diag(inverse) > 1.0 / SINGULAR**0.5) | np.isinf(scale)] = np.inf
    size = np.sqrt(np.outer(np.diag(inverse), np.diag(inverse)))
    weight = np.square(jacobian).mean(axis=(2, 3)) / (row_losses(errors) + SMOOTH)
    return _Spread(half, inverse / np.where(size > 0.0, size, np.inf), _rows_that_tell(weight))


def _sums(values: Floats, stretches: NDArray[np.intp]) -> Floats:
    """Add up the rows of each stretch, [G, ...]."""
    sums = np.zeros((int(stretches.max()) + 1, *values.shape[1:]))
    np.add.at(sums, stretches, values)
    return sums


def _quantile(freedom: Floats) -> Floats:
    """Return the 95% quantile of Student's distribution (Cornish and Fisher's expansion)."""
    z = NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _rows_that_tell(weight: Floats) -> NDArray[np.intp]:
    """Return how many of the rows, those with the largest weights first, hold nine tenths of it, [P] of [P, n]."""
    shares = np.cumsum(np.sort(weight, axis=1)[:, ::-1], axis=1)
    total = shares[:, -1:]
    return np.where(total[:, 0] > 0.0, (shares < 0.9 * total).sum(axis=1) + 1, 0)


def _is_worse(there: Floats, here: Floats, stretches: NDArray[np.intp]) -> bool:
    """Say whether rows are surely worse at one place than at another, by their losses [n]."""
    difference = _sums(there - here, stretches)
    different = np.abs(difference) > NO_DIFFERENCE
    if different.sum() < FEWEST:
        return False
    more = int((difference[different] > 0.0).sum())
    signs = 2 * more - int(different.sum())
    error = float(difference.std(ddof=1)) * np.sqrt(len(difference))
    return signs > SURE * np.sqrt(different.sum()) or float(difference.sum()) > SURE * error


def _reach(
    parameters: Sequence[Parameter], search: Search, replay: Replay, place: Floats, stretches: NDArray[np.intp]
) -> list[tuple[float, float]]:
    """Return how far each parameter can go, down and up, before errors are surely larger, others held."""
    here = row_losses(replay.errors([search.shifts(place)])[0])
    reach = np.stack([place, place], axis=1)
    open_ends = [(i, side) for i, item in enumerate(parameters) for side in (0, 1) if not item.whole]
    for distance in (*BESIDE, np.inf):
        ends: list[Floats] = []
        for index, side in open_ends:
            end = place.copy()
            end[index] = np.clip(place[index] + (2 * side - 1) * distance, *parameters[index].unit_bounds)
            ends.append(end)
        if not ends:
            break
        losses = row_losses(replay.errors([search.shifts(end) for end in ends]))
        still: list[tuple[int, int]] = []
        for (index, side), end, there in zip(open_ends, ends, losses, strict=True):
            if not _is_worse(there, here, stretches):
                reach[index, side] = end[index]
                if end[index] not in parameters[index].unit_bounds:
                    still.append((index, side))
        open_ends = still
    return [(float(low), float(high)) for low, high in reach]


def _counts(parameters: Sequence[Parameter], search: Search, tried: Sequence[Fit]) -> list[list[float]]:
    """Return the values of each whole number that fit as well as the best."""
    if len(tried) < 2:
        return [[item.to_value(float(tried[0].place[i]))] for i, item in enumerate(parameters)]
    few = search.few
    stretches = np.unique(few.logs.stretches(few.rows, STRETCH), return_inverse=True)[1]
    losses = row_losses(few.errors([search.shifts(fit.place) for fit in tried]))
    best = losses[int(np.argmin([fit.loss for fit in tried]))]
    good = [fit for fit, there in zip(tried, losses, strict=True) if not _is_worse(there, best, stretches)]
    return [sorted({item.to_value(float(fit.place[i])) for fit in good}) for i, item in enumerate(parameters)]
