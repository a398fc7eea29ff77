"""What learned target dynamics are examined on: target rows nobody saw, and exact outcomes of source state-actions.

What a source state-action would have led to in the target is known from the stored simulator states
(`offdyn_envs.datasets.counterfactual`). For diagnosis, never for training.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offdyn_agents.engine.rows import Layout, pack
from offdyn_envs.errors import OffDynError, unknown

if TYPE_CHECKING:
    from offdyn_envs.datasets.gap.counterfactuals import Counterfactual
    from offdyn_envs.datasets.store.spec import Dataset

__all__ = ["HOLDOUT", "HOLDOUTS", "SOURCE", "Exam", "Paper", "in_changes", "references", "set_paper", "split_target"]

HOLDOUT, SOURCE = "target holdout", "source state-actions"
"""Names of the exams."""
HOLDOUTS = {
    "episodes": "the last episodes of the target dataset, about a fifth of its rows, which models do not learn from",
    "fresh": "rows collected anew by the target dataset's behaviours, so that models learn from all of the dataset",
}
HELD_SHARE, FRESH_ROWS = 0.2, 1000


class Exam(NamedTuple):
    """Transitions of the target that models are examined on.

    Attributes:
        observations: [N, |S|].
        actions: [N, |A|].
        following: True next states, [N, |S|].
        rewards: True rewards, [N].
    """

    observations: Tensor
    actions: Tensor
    following: Tensor
    rewards: Tensor


class Paper(NamedTuple):
    """All exams of one task, and the rows to learn from.

    Attributes:
        source: Packed source rows to learn from, [N, W].
        target: Packed target rows to learn from, [M, W].
        exams: `HOLDOUT` and `SOURCE`.
        shifted: Next states [N, |S|] of each exam as the source would have (or had) them; NaN in rows that its body
            cannot take.
        invalid: Source rows that the target's body cannot take, left out of the exam.
        held: The dataset whose rows are the hold-out.
        held_rows: Which of its rows, int64 [n].
    """

    source: Tensor
    target: Tensor
    exams: dict[str, Exam]
    shifted: dict[str, Tensor]
    invalid: int
    held: Dataset
    held_rows: NDArray[np.int64]


def split_target(target: Dataset) -> int:
    """Return how many of the first target rows are for learning: whole episodes, about four fifths of the rows.

    Raises:
        OffDynError: There is one episode only.
    """
    ends = np.cumsum(target.arrays.lengths)
    if len(ends) < 2:
        raise OffDynError(f"dataset '{target.id}' has one episode; at least 2 are needed to hold one out")
    wanted = (1.0 - HELD_SHARE) * int(ends[-1])
    return int(ends[:-1][np.abs(ends[:-1] - wanted).argmin()])


def set_paper(
    source: Dataset,
    target: Dataset,
    rows: int,
    source_rows: int = 0,
    *,
    holdout: str = "episodes",
    threads: int | None = None,
    quiet: bool = True,
) -> Paper:
    """Make the exams of a task.

    Args:
        source: Its source dataset, with simulator states.
        target: Its target dataset.
        rows: Evenly spaced source rows that are simulated again in the target.
        source_rows: Evenly spaced source rows to learn from; 0 for all.
        holdout: One of `HOLDOUTS`.
        threads: Threads of the simulation.
        quiet: Show no progress.

    Raises:
        OffDynError: One target episode only, no simulator states, no behaviour to collect fresh rows with, or no source
            row that the target's body can take.
    """
    from offdyn_envs.datasets.gap.measure import spaced

    held, held_rows = _held(target, holdout, threads)
    answer = _under(source, target, spaced(len(source), rows), threads, quiet)
    back = _under(held, source, held_rows, threads, quiet)
    if not answer.valid.any():
        raise OffDynError(f"the body of '{target.id}' can take none of {len(answer)} rows of '{source.id}'")
    chosen = answer.rows[answer.valid]
    layout = Layout(source.observations.shape[1], source.actions.shape[1])
    s, a, following, rewards, _ = layout.split(pack(held, "target")[held_rows])
    asked = (
        _tensor(source.observations[chosen]),
        _tensor(source.actions[chosen]),
        _tensor(answer.next_observations[answer.valid]),
        _tensor(answer.rewards[answer.valid]),
    )
    table, packed = pack(source, "source"), pack(target, "target")
    return Paper(
        table[spaced(len(table), source_rows)] if source_rows else table,
        packed[: held_rows[0]] if held is target else packed,
        {HOLDOUT: Exam(s, a, following, rewards), SOURCE: Exam(*asked)},
        {HOLDOUT: _tensor(back.next_observations), SOURCE: _tensor(source.next_observations[chosen])},
        int((~answer.valid).sum()),
        held,
        held_rows,
    )


def _held(target: Dataset, holdout: str, threads: int | None) -> tuple[Dataset, NDArray[np.int64]]:
    """Return a dataset and the numbers of those of its rows that are held out."""
    if holdout not in HOLDOUTS:
        raise unknown("hold-out", holdout, HOLDOUTS)
    if holdout == "episodes":
        return target, np.arange(split_target(target), len(target))
    from offdyn_envs.datasets.collecting.unseen import collect_unseen

    wanted = max(FRESH_ROWS, int(HELD_SHARE * len(target.observations)))
    arrays = collect_unseen(target, wanted, num_threads=threads)
    return replace(target, arrays=arrays), np.arange(len(arrays.rewards))


def _under(data: Dataset, other: Dataset, rows: NDArray[np.int64], threads: int | None, quiet: bool) -> Counterfactual:
    """Return what rows of one dataset would have been under the dynamics of another."""
    from offdyn_envs.datasets import counterfactual
    from offdyn_envs.shifts import parse_shifts

    shifts = parse_shifts(other.card["shifts"] or None) or "nominal"
    return counterfactual(data, shifts, rows, profile=other.card["profile"], num_threads=threads, quiet=quiet)


def _tensor(values: Any) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32))


def references(paper: Paper) -> dict[str, dict[str, float]]:
    """Return the "state" error of two answers that need no model.

    Returns:
        For each exam that of "no change" and that of "as in the source": what is left to win by telling the domains
        apart. The latter is missing where the source's body can take no row.
    """
    found: dict[str, dict[str, float]] = {}
    for name, exam in paper.exams.items():
        taken = torch.isfinite(paper.shifted[name]).all(-1)
        found[name] = {"no change": _mean_in_changes(exam.observations - exam.following, exam)}
        if bool(taken.any()):
            some = Exam(*(part[taken] for part in exam))
            found[name]["as in the source"] = _mean_in_changes(paper.shifted[name][taken] - some.following, some)
    return found


def _mean_in_changes(error: Tensor, exam: Exam) -> float:
    dimensions, moving = in_changes(error.double(), exam)
    return float(dimensions[moving].mean())


def in_changes(error: Tensor, exam: Exam) -> tuple[Tensor, Tensor]:
    """Return mean squared errors in units of the mean squared change, for each dimension.

    Args:
        error: Differences from the exam's next states, [N, |S|].
        exam: Whose changes are the units.

    Returns:
        The errors [|S|], NaN for dimensions that do not move; and which dimensions move, bool [|S|].
    """
    change = (exam.following - exam.observations).double().square().mean(0)
    moving = change > 1e-12
    return torch.where(moving, error.square().mean(0) / change, torch.nan), moving
