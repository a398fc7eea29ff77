"""Lightning loggers of a run; in the CSV file, what a resumed run repeats is not written twice."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from offdyn_envs.atomic import atomic_write

__all__ = ["CsvLog", "TensorBoardLog"]


class CsvLog(Logger):
    """One line per chunk: updates, losses, speed, and where there was an evaluation, returns and score.

    Args:
        path: The file; an existing one is continued.
        losses: Columns that every line has.
        seeds: Seeds of the runs, which have a column of returns each.
    """

    def __init__(self, path: Path, losses: Sequence[str], seeds: Sequence[int]) -> None:
        super().__init__()
        self._path = path
        self._losses = tuple(losses)
        self._columns = ["updates", *losses, "score", *(f"return_{seed}" for seed in seeds)]
        self._scores: dict[str, float] = {}
        self._written = -1

    @property
    def name(self) -> str:
        """The file's name."""
        return self._path.name

    @property
    def version(self) -> str:
        """None: there is one file."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: settings are in run.json."""
        del params, args, kwargs

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep scores until the losses of the same chunk arrive, and write both, once."""
        if self._losses[0] not in metrics:
            self._scores = dict(metrics)
            return
        updates = int(step or 0)
        if updates == self._written:
            return
        self._written = updates
        row = {"updates": updates, **metrics, **self._scores}
        self._scores = {}
        fresh = not self._path.exists()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="", extrasaction="ignore")
            if fresh:
                writer.writeheader()
            writer.writerow(row)

    def cut(self, updates: int) -> None:
        """Drop lines beyond an update: a resumed run will write them again. A half-written last line goes too."""
        if not self._path.exists():
            return
        with self._path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if None not in row.values() and _before(row, updates)]
        with atomic_write(self._path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)


class TensorBoardLog(TensorBoardLogger):
    """Lightning's TensorBoard logger with its files in the run's folder itself."""

    def __init__(self, folder: Path) -> None:
        super().__init__(save_dir=folder, name="tensorboard", version="", default_hp_metric=False)


def _before(row: Mapping[str, str], updates: int) -> bool:
    text = row.get("updates", "")
    return text.isdigit() and int(text) <= updates
