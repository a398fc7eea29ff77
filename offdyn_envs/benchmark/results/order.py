"""Whether methods come in the order that papers report, and how scores go with the true gap of the dynamics."""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offdyn_envs.benchmark.entries.published import Published, published_scores
from offdyn_envs.benchmark.results.rows import Row, field_of
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.statistics import Interval, mean_difference, percentile_interval

__all__ = ["FEWEST", "Agreement", "GapFit", "agreements", "gap_fit", "pooled", "spearman", "target_only"]

Floats = NDArray[np.float64]
FEWEST = 4
"""Fewer methods (or tasks) have no order worth a correlation: of three, one order in six is right by chance."""
EXACT = 7
"""Of as many things all orders are tried."""


class Agreement(NamedTuple):
    """How our order of methods goes with a paper's.

    Attributes:
        task: The task; "" for all of them together.
        paper: Name of the paper; "" for all of them together.
        leader: Who is first in the paper, as it calls it.
        published: The paper's scores by our names of the methods they share, best first.
        ours: Our mean scores, in the same order.
        correlation: Spearman's, with its interval over our seeds; None with fewer than `FEWEST` methods in common.
        chance: Share of all orders that agree as well or better; the other part of the doubt, of few methods.
        unknown: Methods that the paper has and we have not.
        lead: Our first's score minus our second's, of the methods in common; None where there are not two.
    """

    task: str
    paper: str
    leader: str
    published: dict[str, float]
    ours: dict[str, float]
    correlation: Interval | None
    chance: float | None
    unknown: tuple[str, ...]
    lead: Interval | None = None

    @property
    def first(self) -> str:
        """The paper's first of the methods in common."""
        return next(iter(self.published))

    @property
    def first_here(self) -> str:
        """Our first of the methods in common."""
        return self.ranked[0]

    @property
    def ranked(self) -> list[str]:
        """The methods in common in our order."""
        return sorted(self.ours, key=lambda name: -self.ours[name])

    @property
    def clear(self) -> bool:
        """Whether the order agrees by more than seeds and chance explain."""
        if self.correlation is None or self.chance is None:
            return False
        return self.correlation.low > 0.0 and self.chance <= 1.0 - protocol.LEVEL


class GapFit(NamedTuple):
    """How what methods gain over the target's rows alone goes with the size of the shift.

    Attributes:
        tasks: Tasks with a gap, a reference and methods.
        gains: By method: score minus that of the reference on each of them; NaN where the method has none.
        correlation: Mean over methods of Spearman's correlation over tasks, with its interval over seeds; None where no
            method has `FEWEST` of them.
        methods: How many methods it is the mean of.
        chance: Share of all orders of the tasks that go as strongly with the gap, either way: the doubt of few tasks.
    """

    tasks: tuple[str, ...]
    gains: dict[str, list[float]]
    correlation: Interval | None
    methods: int
    chance: float | None = None

    @property
    def clear(self) -> bool:
        """Whether gains go with the gap by more than seeds and chance explain."""
        if self.correlation is None or self.chance is None:
            return False
        return self.correlation.low * self.correlation.high > 0.0 and self.chance <= 1.0 - protocol.LEVEL


def spearman(left: ArrayLike, right: ArrayLike) -> Floats:
    """Returns Spearman's rank correlation along the last axis, equal values sharing their mean rank.

    Args:
        left: [..., N].
        right: [..., N], or of a shape that broadcasts with it.

    Returns:
        [...]; 0 where one side is constant and tells no order.
    """
    a, b = np.broadcast_arrays(_ranks(left), _ranks(right))
    a, b = (side - side.mean(axis=-1, keepdims=True) for side in (a, b))
    size = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    return np.divide((a * b).sum(axis=-1), size, out=np.zeros_like(size), where=size > 0)


def _ranks(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    below = (array[..., None, :] < array[..., :, None]).sum(axis=-1)
    equal = (array[..., None, :] == array[..., :, None]).sum(axis=-1)
    return below + 0.5 * (equal - 1.0)


def agreements(rows: Sequence[Row], tasks: Sequence[str]) -> list[Agreement]:
    """Returns how each task's order goes with each paper's that reports it."""
    own = {row.key: row for row in field_of(rows)}
    return [_agreement(task, one, own) for task in tasks for one in published_scores(task)]


def _agreement(task: str, one: Published, own: Mapping[str, Row]) -> Agreement:
    ordered = sorted(one.figures.items(), key=lambda pair: (-pair[1], pair[0]))
    known = {name.lower(): value for name, value in ordered}
    shared = {name: value for name, value in known.items() if name in own and task in own[name].scores}
    ours = {name: float(np.mean(own[name].values(task))) for name in shared}
    unknown = tuple(name for name, _ in ordered if name.lower() not in shared)
    correlation, chance = None, None
    if len(shared) >= FEWEST:
        told = list(shared.values())
        drawn = _drawn([own[name] for name in shared], task, f"order of {one.paper.name}")
        correlation = percentile_interval(float(spearman(list(ours.values()), told)), spearman(drawn, told))
        chance = _chance(told, list(ours.values()))
    found = Agreement(task, one.paper.name, ordered[0][0], shared, ours, correlation, chance, unknown)
    if len(shared) < 2:
        return found
    first, second = ([own[name].values(task)] for name in found.ranked[:2])
    return found._replace(lead=mean_difference(first, second))


def pooled(found: Sequence[Agreement], rows: Sequence[Row]) -> Agreement | None:
    """Returns the mean of the correlations of all tasks that have one, tasks weighing the same; None where none has.

    The interval draws the seeds of every method and task anew; `chance` shuffles each paper's order on its own.
    """
    usable = [one for one in found if one.correlation is not None]
    if not usable:
        return None
    own = {row.key: row for row in field_of(rows)}
    drawn = [
        spearman(_drawn([own[name] for name in one.ours], one.task, f"order of {one.paper}"), [*one.published.values()])
        for one in usable
    ]
    point = float(np.mean([one.correlation.mean for one in usable if one.correlation is not None]))
    generator = np.random.default_rng(protocol.BOOTSTRAP_SEED)
    shuffled = [_shuffled(one, generator) for one in usable]
    chance = float(np.mean(np.mean(shuffled, axis=0) >= point - 1e-12))
    return Agreement("", "", "", {}, {}, percentile_interval(point, np.mean(drawn, axis=0)), chance, ())


def _shuffled(one: Agreement, generator: np.random.Generator) -> Floats:
    told = np.array([*one.published.values()])
    orders = generator.permuted(np.tile(told, (protocol.BOOTSTRAP_REPLICATES, 1)), axis=1)
    return spearman([*one.ours.values()], orders)


def _chance(told: Sequence[float], ours: Sequence[float]) -> float:
    """Returns the share of all orders whose correlation is as large or larger: a permutation test."""
    return float(np.mean(spearman(ours, _orders(np.array(told))) >= float(spearman(ours, told)) - 1e-12))


def _drawn(rows: Sequence[Row], task: str, about: str) -> Floats:
    """Returns bootstrap replicates of the mean scores of methods on a task, [R, methods]."""
    means = []
    for row in rows:
        values = np.array(row.values(task))
        picks = row.generator(f"{about} {task}").integers(0, values.size, (protocol.BOOTSTRAP_REPLICATES, values.size))
        means.append(values[picks].mean(axis=1))
    return np.stack(means, axis=1)


def target_only(rows: Sequence[Row]) -> Row | None:
    """Returns the row that learned from the target's rows alone; of several that of most tasks, then IQL's.

    Without it nobody knows what a method gains from the source.
    """
    found = [row for row in rows if row.target_only and row.scores]
    return max(found, key=lambda row: (len(row.scores), row.key.startswith("iql"), row.name), default=None)


def gap_fit(rows: Sequence[Row], gaps: Mapping[str, float]) -> GapFit:
    """Returns how the gain over the target's rows alone goes with the true gap of the dynamics.

    Args:
        rows: All rows.
        gaps: Mean exact gap of each task's source rows, by task.
    """
    reference = target_only(rows)
    methods = [row for row in field_of(rows) if reference is not None and row is not reference]
    if reference is None:
        return GapFit((), {}, None, 0)
    tasks = tuple(task for task in gaps if task in reference.scores and any(task in row.scores for row in methods))
    gains = {row.name: [_gain(row, reference, task) for task in tasks] for row in methods}
    usable = [row for row in methods if sum(task in row.scores for task in tasks) >= FEWEST]
    if not usable:
        return GapFit(tasks, gains, None, 0)
    sizes = np.array([gaps[task] for task in tasks])
    found = np.array([gains[row.name] for row in usable])
    point = float(_together(found, sizes[None])[0])
    drawn = np.mean([_fit(row, reference, tasks, sizes) for row in usable], axis=0)
    chance = float(np.mean(np.abs(_together(found, _orders(sizes))) >= abs(point) - 1e-12))
    return GapFit(tasks, gains, percentile_interval(point, drawn), len(usable), chance)


def _together(gains: Floats, sizes: Floats) -> Floats:
    """Returns the mean over methods of how their gains go with sizes.

    Args:
        gains: [methods, tasks], NaN where there is none.
        sizes: [R, tasks].

    Returns:
        [R].
    """
    each = [spearman(row[~np.isnan(row)], sizes[:, ~np.isnan(row)]) for row in gains]
    return np.asarray(np.mean(each, axis=0), dtype=np.float64)


def _orders(values: Floats) -> Floats:
    """Returns all orders of values [N], or, of more than `EXACT`, as many random ones as a bootstrap has; [R, N]."""
    if len(values) <= EXACT:
        return np.array(list(permutations(values.tolist())), dtype=np.float64)
    generator = np.random.default_rng(protocol.BOOTSTRAP_SEED)
    return generator.permuted(np.tile(values, (protocol.BOOTSTRAP_REPLICATES, 1)), axis=1)


def _gain(row: Row, reference: Row, task: str) -> float:
    if task not in row.scores:
        return float("nan")
    return float(np.mean(row.values(task)) - np.mean(reference.values(task)))


def _fit(row: Row, reference: Row, tasks: Sequence[str], sizes: Floats) -> Floats:
    """Returns bootstrap replicates of the correlation of one method, [R]."""
    own = [place for place, task in enumerate(tasks) if task in row.scores]
    drawn = [_drawn([row, reference], tasks[place], "gap") for place in own]
    return spearman(np.stack([pair[:, 0] - pair[:, 1] for pair in drawn], axis=1), sizes[own])
