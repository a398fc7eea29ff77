"""Which filter finds the source rows that transfer: what methods say of rows beside the exact dynamics gap.

Source datasets hold simulator states, so that what the target would have done with each row is known
(`offdyn_envs.datasets.dynamics_gap`). For diagnosis, never for training. Gaps are in units of what a step changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from offdyn_agents.engine.rows import RowColumns
    from offdyn_envs.datasets.gap.measure import Gap

__all__ = [
    "ASKED",
    "BINS",
    "ORACLE",
    "grade",
    "grade_columns",
    "graded",
    "measured",
    "rank_correlation",
    "resimulated",
]

ASKED = 20_000
"""Evenly spaced source rows that are simulated again in the target."""
BINS = 20
"""Parts of equal size, by what is said of rows, whose mean gaps a picture shows."""
ORACLE = "oracle"
"""The name of the ranking by the gap itself."""

Array = NDArray[Any]


def measured(source: Any, target: Any, rows: int = ASKED, *, threads: int | None = None) -> Gap:
    """Return the exact gap of evenly spaced source rows.

    Args:
        source: A dataset with simulator states.
        target: A dataset of the target's dynamics.
        rows: How many rows.
        threads: Threads of the simulation.

    Raises:
        OffDynError: The data are no datasets of this suite, or the source has no simulator states.
    """
    from offdyn_envs.datasets.gap.measure import pair_gap

    return pair_gap(source, target, rows, num_threads=threads)


def rank_correlation(left: Array, right: Array) -> float | None:
    """Return Spearman's correlation, equal numbers sharing their mean rank; None where one of both is constant."""
    a, b = (_ranks(np.asarray(values, dtype=np.float64)) for values in (left, right))
    if a.std() == 0.0 or b.std() == 0.0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: Array) -> Array:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return (ends - 0.5 * (counts - 1.0))[places]


def grade(said: Array, gaps: Array, share: float = 1.0) -> dict[str, Any]:
    """Return how what is said of rows goes with their gaps; more should mean a smaller gap.

    Args:
        said: What is said of n rows, [n].
        gaps: Their exact gaps, [n].
        share: Share of rows that is kept, those of which most is said; 1 for all.

    Returns:
        "rank_correlation" with the gap, -1 for an oracle; "better_half": the mean gap of the half of which most is
        said, over that of all rows (rows of which the same is said count in part); "bins": the same of `BINS` equal
        parts, from least to most. Where rows are dropped, "share", "kept_gap": the same of the rows that are kept, and
        "oracle_kept_gap": of as many rows with the smallest gaps. A batch keeps the same share of its own rows.
    """
    order = np.argsort(said, kind="stable")
    # Rows of which the same is said are interchangeable: each stands for their mean gap.
    _, places, counts = np.unique(said, return_inverse=True, return_counts=True)
    shared = (np.bincount(places, weights=gaps) / counts)[places][order]
    mean = float(gaps.mean()) or 1.0
    parts = [float(part.mean()) / mean for part in np.array_split(shared, min(BINS, len(shared)))]
    half = float(shared[len(shared) // 2 :].mean()) / mean
    found = {"rank_correlation": rank_correlation(said, gaps), "better_half": half, "bins": parts}
    if share == 1.0:
        return found
    count = max(round(share * len(shared)), 1)
    kept, best = (float(rows.mean()) / mean for rows in (shared[-count:], np.sort(gaps)[:count]))
    return {**found, "share": share, "kept_gap": kept, "oracle_kept_gap": best}


def grade_columns(ratings: Mapping[str, float], columns: RowColumns, gap: Gap) -> dict[str, dict[str, Any]]:
    """Return the grades of each column that rates rows, by name, of rows whose gap is known.

    Args:
        ratings: Columns that rate rows, and the share that is kept by each: `Agent.ratings`.
        columns: What one run says of all source rows.
        gap: The exact gap of some of them.
    """
    rows, sizes = gap.rows[gap.valid], gap.sizes[gap.valid]
    found: dict[str, dict[str, Any]] = {}
    for name, column in columns.named().items():
        if name in ratings:
            said = column.cpu().numpy()[rows].astype(np.float64)
            found[name] = grade(said, sizes, float(said.mean()) if name == "keep" else ratings[name])
    return found


def graded(
    ratings: Mapping[str, float],
    columns: Sequence[RowColumns],
    told: Sequence[Mapping[str, Any] | None],
    gap: Gap,
) -> list[dict[str, Any] | None]:
    """Return what run.json says of each run's columns (`RowColumns.figures`), with the grades of those that rate rows.

    Args:
        ratings: As `grade_columns`.
        columns: Of each run.
        told: What is said of them already; None for runs whose stages failed.
        gap: The exact gap of some rows.
    """
    found: list[dict[str, Any] | None] = []
    for column, figures in zip(columns, told, strict=True):
        if figures is None:
            found.append(None)
            continue
        grades = grade_columns(ratings, column, gap)
        found.append({name: {**_told(grades.get(name, {})), **dict(figures[name])} for name in figures})
    return found


def _told(grades: Mapping[str, Any]) -> dict[str, Any]:
    """Return what run.json says of a column's grades."""
    names = ("rank_correlation", "share", "kept_gap", "oracle_kept_gap")
    told = {"rank_correlation": "gap_rank_correlation"}
    return {told.get(name, name): grades[name] for name in names if name in grades}


def resimulated(
    source: Any, target: Any, columns: RowColumns, gap: Gap, *, threads: int | None = None
) -> dict[str, Any] | None:
    """Return what the target makes of actions that a stage has put in the place of source rows' own.

    Args:
        source: A dataset with simulator states.
        target: A dataset of the target's dynamics.
        columns: What one run says of all source rows.
        gap: The exact gap of some of them, which tells where the target goes with their own actions.
        threads: Threads of the simulation.

    Returns:
        "share": of these rows, those with another action, and of these alone, in units of what a step changes:
        "own_gap", mean |s'_sim(a) - s'|; "gap", mean |s'_sim(a^) - s'|; "nearer", the share whose gap fell. The last
        three are None where there are no such rows; all is None where no stage speaks of actions.
    """
    from offdyn_envs.datasets.gap.measure import pair_gap

    if columns.actions is None:
        return None
    rows, sizes = gap.rows[gap.valid], gap.sizes[gap.valid]
    own, other = np.array(source.actions), columns.actions.cpu().numpy()
    changed = (other[rows] != own[rows]).any(axis=1)
    if not changed.any():
        return {"share": 0.0, "own_gap": None, "gap": None, "nearer": None}
    own[rows] = other[rows]
    moved = replace(source, arrays=replace(source.arrays, actions=own))
    again = pair_gap(moved, target, rows[changed], num_threads=threads)
    before, after = sizes[changed][again.valid], again.sizes[again.valid]
    return {
        "share": float(changed.mean()),
        "own_gap": float(before.mean()),
        "gap": float(after.mean()),
        "nearer": float((after < before).mean()),
    }
