"""What the results page is made of: for each method its scores by task and seed, clean and under perturbations."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offdyn_envs.benchmark.entries.disclosed import division_of, is_reference, key_of, own_seconds, seconds_an_update
from offdyn_envs.benchmark.entries.entries_from_runs import FinishedRun
from offdyn_envs.benchmark.entries.perturbed import Perturbed
from offdyn_envs.benchmark.entries.places import coverage, retired, thin
from offdyn_envs.benchmark.entries.precision import Held, in_bf16, not_held
from offdyn_envs.benchmark.entries.standings import Judged, compute_standings
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.scores import Reference, task_reference
from offdyn_envs.benchmark.scoring.statistics import Interval, stratified_bootstrap, t_interval
from offdyn_envs.errors import OffDynError
from offdyn_envs.tasks import get_track

__all__ = [
    "RUN",
    "Row",
    "Seeds",
    "clean_scores",
    "evaluated_runs",
    "field_of",
    "gather",
    "key_of",
    "references_of",
    "short",
]

Json = dict[str, Any]
Seeds = Mapping[int, float]
Condition = tuple[str, float]
RUN = "run"
"""Source of figures of runs that are no entry: measured by whoever trained them."""


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        name: Unique name: that of the entry, or "METHOD (runs)".
        method: Name of the method.
        reference: Whether it stands for the data, not for a method.
        target_only: Whether it learned from target rows alone.
        division: Division by policy updates; None where none allows as many.
        source: Where the scores come from: "re-run", "claim" or "run".
        rank: Place on the track as the board gives it; None without one.
        retired: That an entry is of an earlier protocol, in words; None where it is not.
        scores: By task and seed.
        updates: Policy updates by task.
        cells: Scores by task, (family, level) and seed; only of today's protocol.
        beside: The clean scores, by task and seed, of the same source as `cells`.
        lacks: What it needs for a place, a few words each.
        seconds: Of training for a seed-update; None where unknown.
        left: Seed-updates that a place still needs. Runs without policies cannot become an entry and spare none.
        bf16: Whether it has figures in bf16.
    """

    name: str
    method: str
    reference: bool
    target_only: bool
    division: str | None
    source: str
    rank: int | None
    retired: str | None
    scores: Mapping[str, Seeds]
    updates: Mapping[str, int]
    cells: Mapping[str, Mapping[Condition, Seeds]]
    beside: Mapping[str, Seeds]
    lacks: tuple[str, ...]
    seconds: float | None
    left: int
    bf16: bool

    @property
    def key(self) -> str:
        """The method as tables of papers would call it."""
        return key_of(self.method)

    def values(self, task: str) -> list[float]:
        """Returns the scores of a task, a value a seed."""
        return list(self.scores[task].values())

    def score(self, task: str) -> Interval | None:
        """Returns the mean score of a task with its t interval over seeds, None where it has none."""
        return t_interval(self.values(task)) if task in self.scores else None

    def overall(self) -> Interval:
        """Returns the interquartile mean over runs and tasks with its bootstrap interval."""
        return stratified_bootstrap([self.values(task) for task in sorted(self.scores)])

    def covers(self, tasks: Iterable[str]) -> bool:
        """Says whether it has scores of all these tasks."""
        return set(tasks) <= set(self.scores)

    def generator(self, about: str) -> np.random.Generator:
        """Returns random numbers that follow from the scores, so that the same figures have the same intervals."""
        values = {task: {str(seed): round(x, 6) for seed, x in seeds.items()} for task, seeds in self.scores.items()}
        told = json.dumps([about, self.method, values], sort_keys=True).encode()
        return np.random.default_rng([protocol.BOOTSTRAP_SEED, *hashlib.sha256(told).digest()])


def short(task: str) -> str:
    """Returns a task's name without the quality that all of the track have in common."""
    return task.removesuffix("-medium")


def field_of(rows: Sequence[Row]) -> list[Row]:
    """Returns the methods that are compared: those with a place, or, before two have one, all that are no reference.

    Of several rows of one method the one with most counts: a place, then tasks, then seeds.
    """
    methods = [row for row in rows if not row.reference and row.scores]
    placed = [row for row in methods if row.rank is not None]
    best: dict[str, Row] = {}
    for row in placed if len(placed) >= 2 else methods:
        best[row.key] = max(best.get(row.key, row), row, key=_weight)
    return list(best.values())


def _weight(row: Row) -> tuple[bool, int, int, str]:
    return row.rank is not None, len(row.scores), min(map(len, row.scores.values())), row.name


def evaluated_runs(paths: Sequence[Path]) -> list[Path]:
    """Returns run folders: those that are named, and of a folder of runs the evaluated ones below it.

    Variants of an agent (`AGENT@VARIANT`) are taken where they are named, and of a folder where they learn from other
    rows (`AGENT@data-...`), as the reference of the target's rows alone does.

    Args:
        paths: Run folders (`runs/TASK/AGENT`) and folders of them (`runs`).

    Raises:
        OffDynError: A folder is not there, or holds no evaluated run.
    """
    found: list[Path] = []
    for path in paths:
        if (path / "run.json").is_file():
            found.append(path)
            continue
        below = [one.parent for one in sorted(path.glob("*/*/evaluation.json")) if _plain(one.parent.name)]
        if not below:
            raise OffDynError(f"'{path}' is no run and has no evaluated runs below it; use: offdyn evaluate {path}")
        found += below
    return list(dict.fromkeys(found))


def _plain(name: str) -> bool:
    _, _, variant = name.partition("@")
    return not variant or variant.startswith("data-")


def gather(
    judged: Sequence[Judged],
    runs: Sequence[Path],
    track: str,
    division: str,
    table: Mapping[str, Any] | None = None,
    held: Sequence[Held] = (),
) -> list[Row]:
    """Returns the rows of a track: its entries, then runs that are no entry, a row an agent.

    Args:
        judged: Entries and verdicts.
        runs: Run folders or folders of them; runs of other tasks are left out.
        track: Name of the track.
        division: Division; what has had more or fewer updates is left out.
        table: Contents of a references.json to use instead of the package's.
        held: Methods whose bf16 has been held against fp32.

    Raises:
        OffDynError: A run is unfinished, not evaluated, broken, has one seed, or its agent has two runs of a task.
    """
    tasks = get_track(track)
    references = references_of(track, table)
    standings = compute_standings(judged, table=table, held=held)
    placed = next((one["rows"] for one in standings["tracks"] if one["name"] == track), [])
    ranks = {row["name"]: row for row in placed}
    entries = [
        _of_entry(one, row, ranks[row["name"]], tasks, references)
        for one, row in zip(judged, standings["entries"], strict=True)
        if row["name"] in ranks
    ]
    loaded = [FinishedRun.load(run, tuple(protocol.VERIFIERS)) for run in evaluated_runs(runs)]
    rows = entries + _of_runs(loaded, references, held)
    return [row for row in rows if row.division == division]


def references_of(track: str, table: Mapping[str, Any] | None = None) -> dict[str, Reference]:
    """Returns the references of a track's tasks that have them.

    Args:
        track: Name of the track.
        table: Contents of a references.json to use instead of the package's.

    Raises:
        OffDynError: No such track.
    """
    return {task: found for task in get_track(track) if (found := task_reference(task, table=table)) is not None}


def _of_entry(one: Judged, row: Json, placed: Json, tasks: Sequence[str], references: Mapping[str, Reference]) -> Row:
    own = {task: row["tasks"][task] for task in tasks if "scores" in row["tasks"].get(task, {})}
    disclosed = {task: row["disclosure"][task] for task in own}
    scores = {task: dict(zip(facts["seeds"], facts["scores"], strict=True)) for task, facts in own.items()}
    perturbed = Perturbed.of(one.entry, own, one.verdict)
    updates = {task: int(facts["updates"]) for task, facts in disclosed.items()}
    now = one.entry.protocol == protocol.PROTOCOL
    return Row(
        name=row["name"],
        method=row["method"],
        reference=row["reference"],
        target_only=all(facts["hyperparameters"].get("data") == "target" for facts in disclosed.values()),
        division=placed["division"],
        source=placed["source"],
        rank=placed["rank"],
        retired=retired(one.entry.protocol),
        scores=scores,
        updates=updates,
        cells=_scored(perturbed.cells, references) if now else {},
        beside={task: _normal(seeds, references[task]) for task, seeds in perturbed.clean.items()} if now else {},
        lacks=_named(placed["lacks"], scores, references),
        seconds=seconds_an_update(
            (facts["wall_clock_s"], len(scores[task]), updates[task]) for task, facts in disclosed.items()
        ),
        left=_left(scores, references, max(updates.values())),
        bf16=any(in_bf16(facts.get("precision")) for facts in disclosed.values()),
    )


def _of_runs(runs: Sequence[FinishedRun], references: Mapping[str, Reference], held: Sequence[Held]) -> list[Row]:
    by_method: dict[str, dict[str, FinishedRun]] = {}
    for run in runs:
        if run.task not in references:
            continue
        taken = by_method.setdefault(run.method, {})
        if run.task in taken:
            raise OffDynError(f"runs '{taken[run.task].folder}' and '{run.folder}' are both {run.method} on {run.task}")
        taken[run.task] = run
    return [_of_method(method, found, references, held) for method, found in sorted(by_method.items())]


def _of_method(
    method: str, runs: Mapping[str, FinishedRun], references: Mapping[str, Reference], held: Sequence[Held]
) -> Row:
    scores = {task: clean_scores(run, references[task]) for task, run in runs.items()}
    cells = {
        task: {
            (cell["family"], float(cell["level"])): _means(run, cell["returns"])
            for cell in run.evaluation["perturbed"]
            if run.evaluation["protocol"] == protocol.PROTOCOL
        }
        for task, run in runs.items()
    }
    updates = {task: int(run.run["updates"]) for task, run in runs.items()}
    # An older run does not tell its family; that of the others is its own.
    family = next((run.family for run in runs.values() if run.family), None)
    stored = {task: scores[task] for task, run in runs.items() if run.has_policies}
    lacks: list[str | None] = ["no entry"]
    if stored:
        lacks += [coverage(stored, [*references]), thin(min(map(len, stored.values())))]
        lacks.append(not_held(method, [run.run for run in runs.values()], held))
    else:
        lacks.append("its runs hold no policies")
    return Row(
        name=f"{method} (runs)",
        method=method,
        reference=any(is_reference(family, run.data) for run in runs.values()),
        target_only=all(run.data == "target" for run in runs.values()),
        division=division_of(max(updates.values())),
        source=RUN,
        rank=None,
        retired=None,
        scores=scores,
        updates=updates,
        cells=_scored(cells, references),
        beside=scores,
        lacks=_named([reason for reason in lacks if reason is not None], stored, references),
        seconds=seconds_an_update(
            (own_seconds(run.run), len(run.run["seeds"]), updates[task]) for task, run in runs.items()
        ),
        left=_left(stored, references, max(updates.values())),
        bf16=any(in_bf16(run.run.get("precision")) for run in runs.values()),
    )


def clean_scores(run: FinishedRun, reference: Reference) -> Seeds:
    """Returns the scores of a run's final policies by seed.

    Raises:
        OffDynError: It has one seed.
    """
    return _normal(_means(run, run.evaluation["clean"]), reference)


def _means(run: FinishedRun, returns: Mapping[str, Sequence[float]]) -> Seeds:
    if len(returns) < 2:
        raise OffDynError(f"run '{run.folder}' has {len(returns)} seed; 2 or more are needed for an interval")
    return {int(seed): float(np.mean(values)) for seed, values in returns.items()}


def _normal(returns: Seeds, reference: Reference) -> Seeds:
    return {seed: float(reference.normalise(value)) for seed, value in returns.items()}


def _scored(
    cells: Mapping[str, Mapping[Condition, Seeds]], references: Mapping[str, Reference]
) -> Mapping[str, Mapping[Condition, Seeds]]:
    return {
        task: {condition: _normal(seeds, references[task]) for condition, seeds in found.items()}
        for task, found in cells.items()
        if task in references and found
    }


def _named(lacks: Sequence[str], scores: Mapping[str, Seeds], references: Mapping[str, Reference]) -> tuple[str, ...]:
    """Returns what a row lacks, with the names of the tasks that it does not cover."""
    short_of = coverage(scores, [*references])
    missing = ", ".join(short(task) for task in references if task not in scores)
    return tuple(f"{one}: lacks {missing}" if one == short_of else one for one in lacks)


def _left(scores: Mapping[str, Seeds], references: Mapping[str, Reference], updates: int) -> int:
    """Returns the seed-updates of the seeds that are missing, tasks without any included."""
    return updates * sum(max(0, protocol.RANKED_SEEDS - len(scores.get(task, {}))) for task in references)
