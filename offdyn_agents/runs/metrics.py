"""What a run's `metrics.csv` holds."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError

__all__ = ["LATE", "Floats", "LoggedRuns", "joined_metrics", "late_evaluations", "read_metrics"]

Floats = NDArray[np.float64]
LATE = 10
"""Evaluations at the end whose mean MOREC's and MOBILE's papers report."""


def read_metrics(path: Path) -> dict[str, Floats]:
    """Read a `metrics.csv`; what is missing or no number becomes NaN, and a half-written line is left out.

    Args:
        path: The file.

    Returns:
        The columns [N] by name, in the file's order; those without any finite number are left out.

    Raises:
        OffDynError: There is no such file, or no whole line in it.
    """
    if not path.is_file():
        raise OffDynError(f"'{path}' does not exist; training writes it")
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        lines = [line for line in csv.reader(file) if line]
    names, rows = (lines[0], [line for line in lines[1:] if len(line) == len(lines[0])]) if lines else ([], [])
    columns = {name: np.array([_number(row[i]) for row in rows]) for i, name in enumerate(names)}
    found = {name: values for name, values in columns.items() if np.isfinite(values).any()}
    if "updates" not in found:
        raise OffDynError(f"'{path}' holds no line of numbers to draw")
    whole = np.isfinite(found["updates"])
    return {name: values[whole] for name, values in found.items()}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def late_evaluations(
    path: Path, seeds: Sequence[int], normalise: Callable[[Floats], Floats] | None = None
) -> dict[str, Any] | None:
    """Return the mean over a run's last evaluations during training, ten or as many as there are.

    Args:
        path: A `metrics.csv`.
        seeds: Seeds of the run.
        normalise: Maps mean returns to scores; None where no reference returns exist.

    Returns:
        "evaluations", how many; "returns", the mean return of each seed that has any, by seed; and with `normalise`
        the mean "score" over seeds. None where nothing was evaluated; every seed may have stopped before its first
        update, and then there is no file at all.

    Raises:
        OffDynError: There is no whole line in the file.
    """
    if not path.is_file():
        return None
    metrics = read_metrics(path)
    columns = {str(seed): metrics.get(f"return_{seed}", np.empty(0)) for seed in seeds}
    late = {seed: values[np.isfinite(values)][-LATE:] for seed, values in columns.items()}
    late = {seed: values for seed, values in late.items() if len(values)}
    if not late:
        return None
    means = {seed: float(values.mean()) for seed, values in late.items()}
    found: dict[str, Any] = {"evaluations": max(map(len, late.values())), "returns": means}
    if normalise is not None:
        found["score"] = float(normalise(np.array(list(means.values()))).mean())
    return found


SPEED = "seed_updates_per_second"


@dataclass(frozen=True)
class LoggedRuns:
    """Runs of one task that have a `metrics.csv` together.

    Attributes:
        path: The file.
        seeds: Their seeds.
        stopped: After how many updates runs were stopped, by seed.
    """

    path: Path
    seeds: Sequence[int]
    stopped: Mapping[int, int]

    def live(self, updates: int) -> list[int]:
        """Return the seeds that a line after so many updates speaks for."""
        return [seed for seed in self.seeds if updates < self.stopped.get(seed, updates + 1)]

    def lines(self) -> dict[int, dict[str, str]]:
        """Return the whole lines by their updates."""
        if not self.path.is_file():
            return {}
        with self.path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = [row for row in csv.DictReader(file) if None not in row and None not in row.values()]
        return {int(row["updates"]): row for row in rows if row["updates"].isdigit()}


def joined_metrics(
    parts: Sequence[LoggedRuns], updates: int, normalise: Callable[[Floats], Floats] | None = None
) -> tuple[list[str], list[dict[str, Any]]]:
    """Return what one `metrics.csv` of runs says that were trained apart.

    Returns are each run's own and scores are taken anew. Losses are means over runs, so that those of the whole are
    means of the parts' weighted by their runs, equal to a mean over all runs up to rounding.

    Args:
        parts: The runs.
        updates: How far; later lines are left out.
        normalise: Maps mean returns to scores; None where no reference returns exist.

    Returns:
        The columns, and the lines.
    """
    tables = [part.lines() for part in parts]
    first = next((row for table in tables for row in table.values()), {})
    losses = [name for name in first if name not in ("updates", "score") and not name.startswith("return_")]
    seeds = sorted(seed for part in parts for seed in part.seeds)
    rows: list[dict[str, Any]] = []
    for at in sorted(at for at in set().union(*tables) if at <= updates):
        found = [(len(part.live(at)), table[at]) for part, table in zip(parts, tables, strict=True) if at in table]
        told = {name: [(runs, row[name]) for runs, row in found if row.get(name)] for name in losses}
        means = {name: _mean(values, name == SPEED) for name, values in told.items()}
        returns = {name: text for _, row in found for name, text in row.items() if text and name.startswith("return_")}
        live = sorted(seed for part in parts for seed in part.live(at))
        rows.append({"updates": at, **means, "score": _score(returns, live, normalise), **returns})
    return ["updates", *losses, "score", *(f"return_{seed}" for seed in seeds)], rows


def _mean(values: Sequence[tuple[int, str]], harmonic: bool) -> Any:
    """Return the mean of numbers that stand for so many runs each; a single one stays as it is written."""
    if len(values) < 2:
        return values[0][1] if values else ""
    runs, numbers = sum(count for count, _ in values), [(count, float(text)) for count, text in values]
    if harmonic:
        return runs / max(sum(count / max(number, 1e-9) for count, number in numbers), 1e-9)
    return sum(count * number for count, number in numbers) / max(runs, 1)


def _score(returns: Mapping[str, str], live: Sequence[int], normalise: Callable[[Floats], Floats] | None) -> Any:
    """Return the mean score of runs, nothing where one of them was not evaluated."""
    names = [f"return_{seed}" for seed in live]
    if normalise is None or not names or set(names) != set(returns):
        return ""
    return float(normalise(np.array([float(returns[name]) for name in names])).mean())
