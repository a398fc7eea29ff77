"""Turns entries and verdicts into the figures of the leaderboard: plain JSON that the page only draws.

A figure comes from the suite's own re-run where there is one, and from the claim otherwise; the other stands beside
it. Ranks are given per track and division, and only to entries that cover all its scored tasks and whose score was
reproduced with five seeds or more, the whole robustness grid re-run and bf16 held against fp32 (`places`). Nothing is
filled in: a task that an entry does not cover is absent. Entries of an earlier protocol are shown without a rank.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offdyn_envs.benchmark.entries.disclosed import division_of
from offdyn_envs.benchmark.entries.history import Step, of_track
from offdyn_envs.benchmark.entries.perturbed import CLAIM, RERUN, Perturbed, kept, missing_cells
from offdyn_envs.benchmark.entries.places import SELF_REPORTED, lacks, rank
from offdyn_envs.benchmark.entries.precision import Held
from offdyn_envs.benchmark.entries.submissions import Entry, load_entries
from offdyn_envs.benchmark.entries.task_facts import task_facts
from offdyn_envs.benchmark.entries.verdicts import NOT_REPRODUCED, REPRODUCED, load_verdict
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.cells import cell_name
from offdyn_envs.benchmark.scoring.scores import Reference, find_reference, kept_words, task_reference
from offdyn_envs.benchmark.scoring.statistics import (
    Interval,
    probability_of_improvement,
    stratified_bootstrap,
    t_interval,
)
from offdyn_envs.errors import OffDynError
from offdyn_envs.tasks import TRACKS, get_task
from offdyn_envs.version import __version__

__all__ = ["CLAIM", "RERUN", "Json", "Judged", "compute_standings", "load_board"]

Json = dict[str, Any]


HARDEST_ATTACK = (protocol.MIN_Q, max(protocol.MIN_Q_LEVELS))
"""The cell whose share of the clean score stands in the table of a track."""


@dataclass(frozen=True)
class Judged:
    """An entry with the verdict on it, None where there is none."""

    entry: Entry
    verdict: Mapping[str, Any] | None

    @property
    def day(self) -> str:
        """Day of its re-run, else the one on which it was made; "" where neither is known."""
        return str((self.verdict or {}).get("date", self.entry.date))


def load_board(board: Path) -> tuple[list[Judged], list[str]]:
    """Reads the entries and verdicts of a leaderboard.

    Args:
        board: Folder with `submissions/` and `verdicts/`.

    Returns:
        The good entries, and one line for each refused entry or verdict.
    """
    entries, refusals = load_entries(board)
    return [Judged(entry, _verdict(board, entry, refusals)) for entry in entries], refusals


def compute_standings(
    judged: Sequence[Judged],
    *,
    table: Mapping[str, Any] | None = None,
    past: Sequence[Step] = (),
    held: Sequence[Held] = (),
) -> Json:
    """Computes the standings as plain JSON.

    Args:
        judged: Entries and verdicts.
        table: Contents of a references.json to use instead of the package's.
        past: Who had which place before, as `history` keeps it.
        held: Methods whose bf16 has been held against fp32, as `precision` keeps them.
    """
    covered = {*TRACKS["core-6"], *(task for one in judged for task in one.entry.tasks)}
    references = {task: find_reference(task, table=table) for task in covered}
    rows = [_entry_row(one.entry, one.verdict, references) for one in judged]
    scored = {
        name: [task for task in tasks if task_reference(task, table=table) is not None]
        for name, tasks in TRACKS.items()
    }
    tracks = [
        _track(name, tasks, scored[name], rows, held) | {"history": of_track(past, name)}
        for name, tasks in TRACKS.items()
    ]
    standings: Json = {
        "protocol": protocol.PROTOCOL,
        "verifier": protocol.VERIFIERS[protocol.PROTOCOL],
        "version": __version__,
        "latest": max((one.day for one in judged), default=""),
        "tasks": {task: _task_row(task, references[task]) for task in sorted(references)},
        "entries": rows,
        "tracks": [track for track in tracks if track["rows"]],
    }
    return _rounded(standings)


def _verdict(board: Path, entry: Entry, refusals: list[str]) -> Mapping[str, Any] | None:
    try:
        return load_verdict(board, entry)
    except OffDynError as error:
        refusals.append(str(error))
        return None


def _task_row(task: str, reference: Reference | None) -> Json:
    place = get_task(task)
    row: Json = {"robot": place.robot, "dynamics": place.dynamics, "quality": place.quality, "env": place.env_id}
    row["scored"] = reference is not None and reference.scored
    row |= task_facts(place, reference)
    if reference is not None:
        row["random"] = _reference_row(reference, reference.random, reference.random_se)
        row["expert"] = _reference_row(reference, reference.expert, reference.expert_se)
    return row


def _reference_row(reference: Reference, value: float, error: float) -> Json:
    """The interval of a reference return is normal: it is a mean over many episodes of one policy."""
    half = 1.959963985 * float(reference.scale(error))
    score = float(reference.normalise(value))
    return {"return": value, "se": error, "score": _interval(Interval(score, score - half, score + half))}


def _interval(interval: Interval) -> Json:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def _entry_row(entry: Entry, verdict: Mapping[str, Any] | None, references: Mapping[str, Reference | None]) -> Json:
    status = SELF_REPORTED if verdict is None else str(verdict["status"])
    rerun: Mapping[str, list[float]] | None = None
    if verdict is not None and status in (REPRODUCED, NOT_REPRODUCED):
        rerun = verdict["returns"]
    tasks = {task: _scores(entry, task, rerun, references[task]) for task in entry.tasks}
    held_out = (verdict or {}).get("held_out")
    if held_out is not None:
        for task, row in tasks.items():
            row |= _held_out(held_out["returns"], task, row["seeds"], references[task])
    robustness = _robustness(Perturbed.of(entry, tasks, verdict), references)
    scored = [task for task, row in tasks.items() if "scores" in row]
    row: Json = {
        "name": entry.name,
        "protocol": entry.protocol,
        "date": entry.date,
        "method": entry.method,
        "family": entry.family or "other",
        "authors": list(entry.authors),
        "links": dict(entry.links),
        "reference": entry.reference,
        "status": status,
        "episodes": entry.episodes,
        "commit": entry.disclosure["commit"],
        "disclosure": dict(entry.disclosure["tasks"]),
        "tasks": tasks,
        "policies": entry.policy_hashes,
        "curves": {task: _curve(curve, references[task]) for task, curve in sorted(entry.curves.items())},
        "robustness": robustness,
        "kept": _kept(robustness, scored),
        "missing_cells": missing_cells(entry, verdict),
    }
    if held_out is not None:
        row["held_out"] = held_out["shifts"]
    if verdict is not None:
        row["verdict"] = {key: verdict[key] for key in _VERDICT_KEYS if key in verdict}
    return row


_VERDICT_KEYS = ("status", "reason", "date", "version", "episodes", "salt", "seed", "p_values", "worst", "isolation")


def _scores(entry: Entry, task: str, rerun: Mapping[str, list[float]] | None, reference: Reference | None) -> Json:
    results = [result for result in entry.results if result.task == task]
    claimed = np.array([np.mean(result.returns) for result in results])
    used = claimed if rerun is None else np.array([np.mean(rerun[f"{task}/{result.seed}"]) for result in results])
    row: Json = {
        "seeds": [result.seed for result in results],
        "source": CLAIM if rerun is None else RERUN,
        "returns": used.tolist(),
        "claimed_returns": claimed.tolist(),
        "return": _interval(t_interval(used)),
    }
    if reference is not None and reference.scored:
        row["scores"] = reference.normalise(used).tolist()
        row["score"] = _interval(t_interval(reference.normalise(used)))
        row["claimed_score"] = float(reference.normalise(claimed).mean())
    return row


def _curve(curve: Mapping[str, Any], reference: Reference | None) -> Json:
    """Returns scores during training with their t intervals over seeds; none where the task is not scored."""
    if reference is None or not reference.scored:
        return {"updates": [], "scores": []}
    seeds = [reference.normalise(returns) for returns in curve["returns"].values()]
    return {"updates": curve["updates"], "scores": [_interval(t_interval(step)) for step in np.transpose(seeds)]}


def _held_out(returns: Mapping[str, list[float]], task: str, seeds: Sequence[int], reference: Reference | None) -> Json:
    """Returns the scores of a task in dynamics that are in no table; nothing where the task is not scored."""
    if reference is None or not reference.scored:
        return {}
    scores = reference.normalise([np.mean(returns[f"{task}/{seed}"]) for seed in seeds])
    return {"held_out_scores": scores.tolist(), "held_out_score": _interval(t_interval(scores))}


def _robustness(perturbed: Perturbed, references: Mapping[str, Reference | None]) -> Json:
    """Scores under perturbation per task, t intervals over seeds; the clean score of the same source beside them."""
    result: Json = {}
    for task, cells in sorted(perturbed.cells.items()):
        reference = references[task]
        if reference is None or not reference.scored:
            continue
        result[task] = {
            "source": perturbed.source,
            "clean": _mean_score(perturbed.clean[task], reference),
            "cells": [
                {"family": family, "level": level, "score": _mean_score(means, reference)}
                for (family, level), means in sorted(cells.items())
            ],
        }
    return result


def _mean_score(means: Mapping[int, float], reference: Reference) -> Json:
    return _interval(t_interval(reference.normalise(list(means.values()))))


def _kept(robustness: Mapping[str, Json], tasks: Sequence[str]) -> list[Json]:
    """Share of the clean score kept in each cell, over those of the tasks on which it is possible."""
    there = {task: robustness[task] for task in tasks if task in robustness}
    source = _weakest(row["source"] for row in there.values())
    clean = {task: row["clean"]["mean"] for task, row in there.items()}
    own = {
        task: {(cell["family"], cell["level"]): cell["score"]["mean"] for cell in there.get(task, {}).get("cells", ())}
        for task in tasks
    }
    rows: list[Json] = []
    for family, level in sorted({cell for cells in own.values() for cell in cells}):
        found = kept((family, level), own, clean)
        if found is not None:
            words = kept_words(None if found.share is None else 1.0 - found.share)
            row = {"family": family, "level": level, "cell": cell_name(family, level), "source": source}
            rows.append(row | {"tasks": len(found.tasks), "value": found.share, "words": words})
    return rows


def _track(
    name: str, tasks: Sequence[str], scored: Sequence[str], entries: Sequence[Json], held: Sequence[Held]
) -> Json:
    covered = {task for entry in entries for task in entry["tasks"] if task in tasks}
    rows = [row for entry in entries if (row := _track_row(entry, scored, held)) is not None]
    baseline = next((row for row in rows if row["name"] == protocol.REFERENCE_IQL), None)
    by_name = {entry["name"]: entry for entry in entries}
    for row in rows:
        row["improvement"] = _improvement(row, baseline, by_name)
    order = [*protocol.DIVISIONS, None]
    rows.sort(
        key=lambda row: (
            *(-len(row["tasks"]), order.index(row["division"])),
            *(-round(row["iqm"]["mean"], 6), row["name"]),
        )
    )
    rank(rows)
    return {"name": name, "size": len(tasks), "scored": list(scored), "tasks": sorted(covered), "rows": rows}


def _track_row(entry: Json, scored: Sequence[str], held: Sequence[Held]) -> Json | None:
    own = [task for task in scored if task in entry["tasks"]]
    if not own:
        return None
    strata = [entry["tasks"][task]["scores"] for task in own]
    means = [float(np.mean(stratum)) for stratum in strata]
    shares = {(share["family"], share["level"]): share for share in _kept(entry["robustness"], own)}
    row: Json = {
        "name": entry["name"],
        "source": _weakest(entry["tasks"][task]["source"] for task in own),
        "tasks": sorted(own),
        "seeds": min(len(stratum) for stratum in strata),
        "iqm": _interval(stratified_bootstrap(strata)),
        "mean": float(np.mean(means)),
        "sum": float(np.sum(means)),
        "division": division_of(max(entry["disclosure"][task]["updates"] for task in own)),
        "held_out": _held_out_track([entry["tasks"][task] for task in own]),
        "kept": shares.get(HARDEST_ATTACK),
        "tuning_evaluations": max(entry["disclosure"][task]["tuning_evaluations"] for task in own),
    }
    reasons = lacks(entry, row, scored, held)
    return row | {"lacks": reasons, "unranked": "; ".join(reasons) or None}


def _held_out_track(tasks: Sequence[Json]) -> Json | None:
    """Returns the score over all tasks in held-out dynamics, None where a task has none."""
    if not all("held_out_scores" in task for task in tasks):
        return None
    return _interval(stratified_bootstrap([task["held_out_scores"] for task in tasks]))


def _weakest(sources: Iterable[str]) -> str:
    """A figure made of several is re-run only when all of them are."""
    return CLAIM if CLAIM in set(sources) else RERUN


def _improvement(row: Json, baseline: Json | None, entries: Mapping[str, Json]) -> Json | None:
    if baseline is None or baseline["name"] == row["name"] or baseline["tasks"] != row["tasks"]:
        return None
    ours, theirs = (
        [entries[name]["tasks"][task]["scores"] for task in row["tasks"]] for name in (row["name"], baseline["name"])
    )
    source = _weakest((row["source"], baseline["source"]))
    return _interval(probability_of_improvement(ours, theirs)) | {"over": baseline["name"], "source": source}


def _rounded(value: Any) -> Any:
    """Rounds every float to 6 decimals: enough for any reader, and the same bytes on any machine."""
    if isinstance(value, float):
        return round(value, 6) + 0.0
    if isinstance(value, dict):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
