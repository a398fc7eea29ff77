"""Lightning loggers of a run; in the CSV file, what a resumed run repeats is not written twice."""

from __future__ import annotations

import csv
import io
import json
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger

from offdyn_envs.atomic import append_bytes, room, write_text

__all__ = ["CsvLog", "RunLog", "TensorBoardLog", "csv_text"]


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], header: bool = True) -> str:
    """Return rows as the lines of a CSV file; what a row lacks is empty, and what is no column is left out."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class RunLog:
    """All logs of one run folder: `metrics.csv`, TensorBoard, and for model rollouts `rollouts.jsonl`.

    Args:
        folder: The run folder.
        metrics: Names of what losses report.
        seeds: Seeds of the runs.
    """

    def __init__(self, folder: Path, metrics: Sequence[str], seeds: Sequence[int]) -> None:
        self._csv = CsvLog(folder / "metrics.csv", [*metrics, "seed_updates_per_second"], seeds)
        self._folder = folder
        self.loggers: list[Logger] = []

    def resume(
        self, updates: int, begun: int | None = None, evaluated: bool = True, others: Sequence[Logger] = ()
    ) -> None:
        """Drop what a killed process wrote beyond its last checkpoint, and open the logs.

        Args:
            updates: Updates that are done.
            begun: Where the chunk began that is gone on with, whose line will be written again; by default `updates`.
            evaluated: Whether an evaluation after just so many updates is one to keep.
            others: Loggers of a user, which are told the same.
        """
        begun = updates if begun is None else begun
        self._csv.cut(begun, None if evaluated else updates)
        again = any((self._folder / "tensorboard").glob("events.out.tfevents.*"))
        self.loggers = [self._csv, TensorBoardLog(self._folder, begun + 1 if again else None), *others]
        path = self._folder / "rollouts.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            write_text(path, "".join(f"{line}\n" for line in lines if _refilled_before(line, updates)))

    def write(self, values: Mapping[str, float], updates: int) -> None:
        """Log losses, or scores, which join the line of the next losses."""
        for logger in self.loggers:
            logger.log_metrics(dict(values), step=updates)

    def refill(self, facts: Mapping[str, float]) -> None:
        """Log what one refill of one run's rows was; a number that is not finite becomes null."""
        plain = {name: value if math.isfinite(value) else None for name, value in facts.items()}
        append_bytes(self._folder / "rollouts.jsonl", f"{json.dumps(plain)}\n".encode())


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

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: settings are in run.json."""
        del params, args, kwargs

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
        self._path.parent.mkdir(parents=True, exist_ok=True)
        append_bytes(self._path, csv_text(self._columns, [row], header=not self._path.exists()).encode())

    def cut(self, updates: int, unscored: int | None = None) -> None:
        """Drop lines beyond an update: a resumed run will write them again. A half-written last line goes too.

        Args:
            updates: The update.
            unscored: After how many updates the line is that loses its evaluation; None for none.
        """
        if not self._path.exists():
            return
        with self._path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if None not in row.values() and _before(row, updates)]
        for row in rows:
            if row["updates"] == str(unscored):
                row.update({name: "" for name in row if name == "score" or name.startswith("return_")})
        write_text(self._path, csv_text(self._columns, rows))


class TensorBoardLog(TensorBoardLogger):
    """Lightning's TensorBoard logger with its files in the run's folder itself.

    Args:
        folder: The run's folder.
        purge_step: Steps from here on, which an earlier process wrote, are not shown; None for none.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        super().__init__(
            save_dir=folder, name="tensorboard", version="", default_hp_metric=False, purge_step=purge_step
        )
        self._events: Any = None
        self._purge_step = purge_step

    @property
    def experiment(self) -> Any:
        """What writes, with all of `torch.utils.tensorboard.SummaryWriter`."""
        if self._events is None:
            from offdyn_agents.engine.training.events import EventWriter

            self._events = self._experiment = EventWriter(self.log_dir, purge_step=self._purge_step)
        return self._events

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write numbers, at once."""
        for name, value in metrics.items():
            self.experiment.add_scalar(name, value, step)
        self.experiment.flush()

    def save(self) -> None:
        """Write what a user has added, and `hparams.yaml`."""
        path = Path(self.log_dir) / self.NAME_HPARAMS_FILE
        try:
            with room(path):
                super().save()
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _before(row: Mapping[str, str], updates: int) -> bool:
    text = row.get("updates", "")
    return text.isdigit() and int(text) <= updates


def _refilled_before(line: str, updates: int) -> bool:
    try:
        # The refill after a checkpoint's own number of updates is done again.
        return int(json.loads(line)["updates"]) < updates
    except (ValueError, KeyError, TypeError):
        return False
