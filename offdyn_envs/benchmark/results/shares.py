"""What is kept of a clean score under perturbations, with intervals over seeds, and differences of two methods."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.benchmark.entries import perturbed
from offdyn_envs.benchmark.results.rows import Condition, Row, Seeds
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.statistics import Interval, mean_of_strata, percentile_interval, stratified_bootstrap

__all__ = ["TABLE", "Kept", "difference", "kept", "score_under"]

Floats = NDArray[np.float64]
TABLE: tuple[Condition, ...] = (
    *(("kinematic", level) for level in protocol.BODY_LEVELS),
    *(("morphology", level) for level in protocol.BODY_LEVELS),
    *((protocol.MIN_Q, level) for level in protocol.MIN_Q_LEVELS),
)
"""The columns of DROCO's table."""


class Kept(NamedTuple):
    """The share of the clean score that is kept in one condition.

    Attributes:
        share: Sum over sum of the tasks, with its interval; 1 is all of it, and none of the three is below 0.
        tasks: The tasks that count: a clean score above `protocol.DEGRADATION_FLOOR`.
    """

    share: Interval
    tasks: tuple[str, ...]


def kept(row: Row, condition: Condition, among: Collection[str] | None = None) -> Kept | None:
    """Returns the share that a method keeps; None where no task has both figures and a clean score to speak of.

    None as well where a task of the method lacks the condition though it is possible on it: nobody chooses the tasks.

    The interval is a percentile bootstrap over seeds within each task; a seed's clean and perturbed score are of the
    same policy and drawn together.

    Args:
        row: The method.
        condition: Family and level of the grid.
        among: The tasks that may count; all by default.
    """
    counted = tuple(task for task in _counted(row, condition) if among is None or task in among)
    return Kept(percentile_interval(*_shares(row, condition, counted)), counted) if counted else None


def difference(ours: Row, theirs: Row, condition: Condition) -> Kept | None:
    """Returns by how much the share that one method keeps is larger than another's, over tasks that count for both."""
    both = tuple(task for task in _counted(ours, condition) if task in _counted(theirs, condition))
    if not both:
        return None
    (left, drawn_left), (right, drawn_right) = (_shares(row, condition, both) for row in (ours, theirs))
    return Kept(percentile_interval(left - right, drawn_left - drawn_right), both)


def score_under(row: Row, condition: Condition) -> Interval | None:
    """Returns the mean score in one condition with its bootstrap interval over seeds, over all tasks or None."""
    if _kept(row, condition) is None:
        return None
    found = [list(cells[condition].values()) for _, cells in sorted(row.cells.items()) if condition in cells]
    return stratified_bootstrap(found, mean_of_strata) if found else None


def _kept(row: Row, condition: Condition, among: Sequence[str] | None = None) -> perturbed.Kept | None:
    own = {
        task: {cell: _mean(seeds) for cell, seeds in row.cells.get(task, {}).items() if cell == condition}
        for task in row.scores
    }
    return perturbed.kept(condition, own, {task: _mean(seeds) for task, seeds in row.beside.items()}, among)


def _mean(seeds: Seeds) -> float:
    return float(np.mean(list(seeds.values())))


def _counted(row: Row, condition: Condition) -> tuple[str, ...]:
    found = _kept(row, condition)
    return () if found is None else found.tasks


def _shares(row: Row, condition: Condition, tasks: Sequence[str]) -> tuple[float, Floats]:
    """Returns the share over tasks that count, and that of each bootstrap replicate."""
    generator = row.generator(f"kept {condition}")
    drawn_clean = np.zeros(protocol.BOOTSTRAP_REPLICATES)
    drawn_after = np.zeros(protocol.BOOTSTRAP_REPLICATES)
    for task in tasks:
        seeds = sorted(row.cells[task][condition])
        pairs = np.array([(row.beside[task][seed], row.cells[task][condition][seed]) for seed in seeds])
        means = pairs[generator.integers(0, len(seeds), (protocol.BOOTSTRAP_REPLICATES, len(seeds)))].mean(axis=1)
        drawn_clean += means[:, 0]
        drawn_after += means[:, 1]
    found = _kept(row, condition, tasks)
    assert found is not None and found.share is not None
    return found.share, np.maximum(drawn_after / drawn_clean, 0.0)
