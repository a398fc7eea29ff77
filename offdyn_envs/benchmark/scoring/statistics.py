"""The statistics of the leaderboard: t intervals, interquartile means and stratified bootstraps.

They follow Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (NeurIPS 2021). The
library of that paper ignores its random state and does not import with current pandas, so these few functions are
written out here.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.errors import OffDynError

__all__ = [
    "Interval",
    "incomplete_beta",
    "iqm",
    "iqm_of_strata",
    "mean_difference",
    "mean_of_strata",
    "percentile_interval",
    "probability_of_improvement",
    "stratified_bootstrap",
    "student_cdf",
    "student_quantile",
    "t_interval",
]

Floats = NDArray[np.float64]
Statistic = Callable[[list[Floats]], Floats]


class Interval(NamedTuple):
    """A point estimate with its interval, all in the unit of the values."""

    mean: float
    low: float
    high: float


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Returns the regularised incomplete beta function I_x(a, b).

    Lentz's evaluation of the continued fraction (Abramowitz and Stegun 26.5.8), accurate to about 1e-14.

    Args:
        a: First parameter, positive.
        b: Second parameter, positive.
        x: Argument in [0, 1].
    """
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-300
    c, d = 1.0, 1.0 / max(1.0 - (a + b) * x / (a + 1.0), tiny)
    fraction = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        step = 1.0
        for term in (even, odd):
            d = 1.0 / (1.0 + term * d or tiny)
            c = 1.0 + term / c or tiny
            step = c * d
            fraction *= step
        if abs(step - 1.0) < 1e-15:
            break
    return math.exp(log_front) * fraction / a


def student_cdf(t: float, freedom: float) -> float:
    """Returns the probability that a Student t variable with `freedom` degrees of freedom is at most `t`."""
    tail = 0.5 * incomplete_beta(freedom / 2.0, 0.5, freedom / (freedom + t * t))
    return 1.0 - tail if t > 0 else tail


def student_quantile(probability: float, freedom: float) -> float:
    """Returns the quantile of Student's t distribution, by bisection on its upper tail.

    Args:
        probability: In (0, 1).
        freedom: Degrees of freedom, positive.

    Raises:
        OffDynError: An argument is outside its range.
    """
    if not (0.0 < probability < 1.0 and freedom > 0.0):
        raise OffDynError(f"t quantile of ({probability!r}, {freedom!r}): needs 0 < probability < 1 and freedom > 0")
    tail = min(probability, 1.0 - probability)
    if tail == 0.5:
        return 0.0
    low, high = 0.0, 1.0
    while student_cdf(-high, freedom) > tail:
        high *= 2.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        if student_cdf(-middle, freedom) > tail:
            low = middle
        else:
            high = middle
    return math.copysign(0.5 * (low + high), probability - 0.5)


def t_interval(values: ArrayLike, level: float = protocol.LEVEL) -> Interval:
    """Returns the mean of a sample with Student's t interval.

    Args:
        values: At least two finite numbers, for example one score a seed, shape [N].
        level: Coverage of the interval, in (0, 1).

    Raises:
        OffDynError: There are fewer than two values, one is not finite, or the level is outside (0, 1).
    """
    array = _vector("values of a t interval", values)
    if array.size < 2:
        raise OffDynError(f"a t interval over {array.size} value: at least 2 are needed")
    if not 0.0 < level < 1.0:
        raise OffDynError(f"interval level {level!r}: a number between 0 and 1 is allowed")
    mean = float(array.mean())
    half = student_quantile(0.5 + level / 2.0, array.size - 1) * float(array.std(ddof=1)) / math.sqrt(array.size)
    return Interval(mean, mean - half, mean + half)


def iqm(values: ArrayLike, axis: int = -1) -> Floats:
    """Returns the interquartile mean: the mean after a quarter (rounded down) is cut from each end.

    Args:
        values: Any shape; finite.
        axis: The axis to reduce.

    Raises:
        OffDynError: There are no values.
    """
    array = np.asarray(values, dtype=np.float64)
    count = array.shape[axis] if array.ndim else 0
    if count == 0:
        raise OffDynError("an interquartile mean over 0 values: at least 1 is needed")
    cut = count // 4
    ordered = np.sort(array, axis=axis)
    return np.asarray(np.take(ordered, np.arange(cut, count - cut), axis=axis).mean(axis=axis), dtype=np.float64)


ROUNDING = 1e-9
"""Weights below this are none."""


def iqm_of_strata(strata: list[Floats]) -> Floats:
    """Returns the interquartile mean over all runs of all strata, in which every stratum weighs the same.

    With m runs in the smallest stratum, a run of a stratum of n runs weighs m / n, and the share that is cut from each
    end is that of m runs in every stratum. Where all have m runs this is `iqm` over all of them; further runs of one
    stratum that score as its others do change nothing.

    Args:
        strata: One array of scores per stratum, each [..., runs].

    Returns:
        The means, [...].
    """
    smallest = min(stratum.shape[-1] for stratum in strata)
    weights = [np.full(stratum.shape, smallest / stratum.shape[-1]) for stratum in strata]
    values, weight = np.concatenate(strata, axis=-1), np.concatenate(weights, axis=-1)
    order = np.argsort(values, axis=-1, kind="stable")
    values, weight = (np.take_along_axis(array, order, axis=-1) for array in (values, weight))
    total = len(strata) * smallest
    cut = total // 4
    upper = np.cumsum(weight, axis=-1)
    kept = np.clip(np.minimum(upper, total - cut) - np.maximum(upper - weight, cut), 0.0, None)
    # What sums of thirds leave of a run that is cut is rounding, and the run may be a huge number.
    kept[kept < ROUNDING] = 0.0
    return np.asarray((kept * values).sum(axis=-1) / kept.sum(axis=-1), dtype=np.float64)


def mean_of_strata(strata: list[Floats]) -> Floats:
    """Returns the mean over strata of each stratum's mean, each [..., runs]."""
    return np.mean([stratum.mean(axis=-1) for stratum in strata], axis=0)


def percentile_interval(point: float, drawn: Floats, level: float = protocol.LEVEL) -> Interval:
    """Returns a figure with the percentile interval of its bootstrap replicates [R]."""
    low, high = np.quantile(drawn, [0.5 - level / 2.0, 0.5 + level / 2.0])
    return Interval(point, float(low), float(high))


def stratified_bootstrap(
    strata: Sequence[ArrayLike],
    statistic: Statistic = iqm_of_strata,
    *,
    level: float = protocol.LEVEL,
    replicates: int = protocol.BOOTSTRAP_REPLICATES,
    seed: int = protocol.BOOTSTRAP_SEED,
) -> Interval:
    """Returns a statistic over runs x tasks with its percentile bootstrap interval.

    Runs are drawn with replacement inside each stratum (task), never across. The draws follow from the scores: the same
    runs have the same interval, in whatever order they and their tasks are listed.

    Args:
        strata: One vector of run scores per task; lengths may differ.
        statistic: Maps a list of arrays [replicates, runs of the task] to [replicates], whatever the order of tasks.
        level: Coverage of the interval, in (0, 1).
        replicates: Number of bootstrap samples.
        seed: Seed of the draws, beside the scores.

    Raises:
        OffDynError: There are no strata, or one is empty or not finite.
    """

    def of_all(drawn: list[list[Floats]]) -> Floats:
        return statistic([stratum for (stratum,) in drawn])

    return _bootstrap([[stratum] for stratum in strata], of_all, level, replicates, seed)


def probability_of_improvement(
    ours: Sequence[ArrayLike],
    theirs: Sequence[ArrayLike],
    *,
    level: float = protocol.LEVEL,
    replicates: int = protocol.BOOTSTRAP_REPLICATES,
    seed: int = protocol.BOOTSTRAP_SEED,
) -> Interval:
    """Returns the probability that a run of ours scores higher than one of theirs, averaged over tasks.

    Ties count one half (the Mann-Whitney statistic). The interval is a stratified bootstrap over the runs of both.

    Args:
        ours: One vector of run scores per task.
        theirs: The same tasks in the same order; numbers of runs may differ.
        level: Coverage of the interval, in (0, 1).
        replicates: Number of bootstrap samples.
        seed: Seed of the draws, beside the scores.

    Raises:
        OffDynError: The two cover different numbers of tasks, or as in `stratified_bootstrap`.
    """
    if len(ours) != len(theirs):
        raise OffDynError(
            f"probability of improvement over {len(ours)} and {len(theirs)} tasks: both must cover the same tasks"
        )

    def improvement(drawn: list[list[Floats]]) -> Floats:
        return np.mean([_mann_whitney(left, right) for left, right in drawn], axis=0)

    return _bootstrap([list(pair) for pair in zip(ours, theirs, strict=True)], improvement, level, replicates, seed)


def mean_difference(ours: Sequence[ArrayLike], theirs: Sequence[ArrayLike], level: float = protocol.LEVEL) -> Interval:
    """Returns the difference of two entries' mean scores, averaged over tasks, with Welch's interval.

    Every task weighs the same. The variances of the two entries and of their tasks may differ; the degrees of freedom
    are those of Welch and Satterthwaite over all samples (Welch, "The generalization of Student's problem", 1947).

    Args:
        ours: One vector of run scores per task, two or more runs each.
        theirs: The same tasks in the same order; numbers of runs may differ.
        level: Coverage of the interval, in (0, 1).

    Raises:
        OffDynError: The two cover different numbers of tasks, or none, or a task has fewer than two runs.
    """
    if len(ours) != len(theirs) or not ours:
        raise OffDynError(f"a difference over {len(ours)} and {len(theirs)} tasks: both must cover the same tasks")
    left, right = ([_vector("scores of a difference", runs) for runs in side] for side in (ours, theirs))
    samples = left + right
    if min(sample.size for sample in samples) < 2:
        raise OffDynError("a difference with a task of 1 run: at least 2 are needed")
    mean = float(np.mean([one.mean() - other.mean() for one, other in zip(left, right, strict=True)]))
    parts = np.array([sample.var(ddof=1) / sample.size for sample in samples])
    total = float(parts.sum())
    if total == 0.0:
        return Interval(mean, mean, mean)
    freedom = total**2 / float((parts**2 / np.array([sample.size - 1 for sample in samples])).sum())
    half = student_quantile(0.5 + level / 2.0, freedom) * math.sqrt(total) / len(ours)
    return Interval(mean, mean - half, mean + half)


def _bootstrap(
    tasks: Sequence[Sequence[ArrayLike]],
    statistic: Callable[[list[list[Floats]]], Floats],
    level: float,
    replicates: int,
    seed: int,
) -> Interval:
    """Returns a statistic of tasks, each of one or more samples, all of which are drawn anew."""
    samples = [[np.sort(_vector("bootstrap stratum", sample)) for sample in task] for task in tasks]
    if not samples or any(sample.size == 0 for task in samples for sample in task):
        raise OffDynError("a stratified bootstrap needs at least one stratum and one run in each")
    samples.sort(key=_published)
    published = json.dumps([_published(task) for task in samples]).encode()
    rng = np.random.default_rng([seed, *hashlib.sha256(published).digest()])
    drawn = [
        [sample[rng.integers(0, sample.size, size=(replicates, sample.size))] for sample in task] for task in samples
    ]
    point = float(statistic([[sample[None, :] for sample in task] for task in samples])[0])
    return percentile_interval(point, statistic(drawn), level)


def _published(task: Sequence[Floats]) -> list[list[float]]:
    """Returns scores as the standings print them: the last bits of a mean differ between processors."""
    return [[round(float(value), 6) + 0.0 for value in sample] for sample in task]


def _mann_whitney(left: Floats, right: Floats) -> Floats:
    difference = left[..., :, None] - right[..., None, :]
    return (0.5 * np.sign(difference) + 0.5).mean(axis=(-2, -1))


def _vector(what: str, values: ArrayLike | Any) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise OffDynError(f"{what}: a one-dimensional array of finite numbers is allowed, not shape {array.shape}")
    return array
