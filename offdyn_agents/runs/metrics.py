"""What a run's `metrics.csv` holds."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError

__all__ = ["LATE", "Floats", "late_evaluations", "read_metrics"]

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
