"""What is kept of a clean score under perturbations, with intervals over seeds, and differences of two methods."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.benchmark.entries.perturbed import whole
from offdyn_envs.benchmark.results.rows import Condition, Row
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.scores import degradation
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
        share: Sum over sum of the tasks, with its interval; 1 is all of it.
        tasks: The tasks that count: a clean score above `protocol.DEGRADATION_FLOOR`.
    """

    share: Interval
    tasks: tuple[str, ...]


def kept(row: Row, condition: Condition, tasks: Sequence[str] | None = None) -> Kept | None:
    """Returns the share that a method keeps; None where no task has both figures and a clean score to speak of.

    None as well where a task of the method lacks the condition though it is possible on it: nobody chooses the tasks.

    The interval is a percentile bootstrap over seeds within each task; a seed's clean and perturbed score are of the
    same policy and drawn together.

    Args:
        row: The method.
        condition: Family and level of the grid.
        tasks: Those that may count; all by default.
    """
    counted = _counted(row, condition, tasks)
    if not counted:
        return None
    point, drawn = _shares(row, condition, counted)
    return Kept(percentile_interval(point, drawn), counted)


def difference(ours: Row, theirs: Row, condition: Condition) -> Kept | None:
    """Returns by how much the share that one method keeps is larger than another's, over tasks that count for both."""
    both = tuple(task for task in _counted(ours, condition) if task in _counted(theirs, condition))
    if not both:
        return None
    (left, drawn_left), (right, drawn_right) = (_shares(row, condition, both) for row in (ours, theirs))
    return Kept(percentile_interval(left - right, drawn_left - drawn_right), both)


def score_under(row: Row, condition: Condition) -> Interval | None:
    """Returns the mean score in one condition with its bootstrap interval over seeds, over all tasks or None."""
    if not _whole(row, condition):
        return None
    found = [list(cells[condition].values()) for _, cells in sorted(row.cells.items()) if condition in cells]
    return stratified_bootstrap(found, mean_of_strata) if found else None


def _whole(row: Row, condition: Condition) -> bool:
    return whole(condition, {task: row.cells.get(task, {}) for task in row.scores})


def _counted(row: Row, condition: Condition, tasks: Sequence[str] | None = None) -> tuple[str, ...]:
    if not _whole(row, condition):
        return ()
    return tuple(
        task
        for task, cells in sorted(row.cells.items())
        if condition in cells
        and (tasks is None or task in tasks)
        and np.mean(list(row.beside[task].values())) > protocol.DEGRADATION_FLOOR
    )


def _shares(row: Row, condition: Condition, tasks: Sequence[str]) -> tuple[float, Floats]:
    """Returns the share over tasks, and that of each bootstrap replicate."""
    generator = row.generator(f"kept {condition}")
    clean, after = [], []
    drawn_clean = np.zeros(protocol.BOOTSTRAP_REPLICATES)
    drawn_after = np.zeros(protocol.BOOTSTRAP_REPLICATES)
    for task in tasks:
        seeds = sorted(row.cells[task][condition])
        pairs = np.array([(row.beside[task][seed], row.cells[task][condition][seed]) for seed in seeds])
        means = pairs[generator.integers(0, len(seeds), (protocol.BOOTSTRAP_REPLICATES, len(seeds)))].mean(axis=1)
        drawn_clean += means[:, 0]
        drawn_after += means[:, 1]
        clean.append(float(pairs[:, 0].mean()))
        after.append(float(pairs[:, 1].mean()))
    lost = degradation(after, clean)
    assert lost is not None  # Only tasks with a clean score to speak of were counted.
    return 1.0 - lost, drawn_after / drawn_clean
