"""Every table of the pages as CSV, and the raw returns of each entry."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from offdyn_envs.benchmark.entries.comparisons import Comparison
from offdyn_envs.benchmark.entries.standings import CLAIM, RERUN, Judged
from offdyn_envs.benchmark.page.shown import live
from offdyn_envs.benchmark.scoring.cells import cell_name

__all__ = ["HEADS", "TABLES", "csv_text", "raw_returns", "scales", "table_files"]

Json = dict[str, Any]
TABLES = {
    "standings.csv": "places, scores and intervals of every track",
    "tasks.csv": "score and return of every entry and task",
    "seeds.csv": "mean return and score of every policy",
    "perturbed.csv": "scores under every perturbation",
    "kept.csv": "shares of the clean score that are kept",
    "comparisons.csv": "differences of every two entries, over their tasks and for each",
    "history.csv": "places after the day of each re-run",
    "training.csv": "updates, time, device, precision, parameters and tuning of every entry and task",
    "task-facts.csv": "shifts, true gap, behaviour and references of every task",
    "published.csv": "figures of papers",
}
"""File names, and what is in each."""
_INTERVAL = ("mean", "low", "high")
_TRAINING = ("updates", "wall_clock_s", "device", "precision", "parameters", "tuning_evaluations")
_COLUMNS = {
    "standings.csv": (
        *("track", "entry", "method", "family", "division", "place", "no_place_because", "source", "tasks", "seeds"),
        *("iqm", "iqm_low", "iqm_high", "mean", "sum", "held_out", "held_out_low", "held_out_high"),
        *("over_iql", "over_iql_low", "over_iql_high", "over_iql_source", "min_q_kept", "min_q_kept_source"),
        "tuning_evaluations",
    ),
    "tasks.csv": (
        *("task", "entry", "method", "source", "seeds", "score", "score_low", "score_high", "claimed_score"),
        *("return", "return_low", "return_high"),
        *("held_out_score", "held_out_score_low", "held_out_score_high", "held_out_dynamics"),
    ),
    "seeds.csv": ("task", "entry", "seed", "source", "return", "claimed_return", "score", "held_out_score", "sha256"),
    "perturbed.csv": ("task", "entry", "source", "family", "level", "score", "score_low", "score_high"),
    "kept.csv": ("entry", "family", "level", "source", "tasks", "share_kept"),
    "comparisons.csv": ("entry", "other", "task", "source", "difference", "low", "high"),
    "history.csv": ("date", "track", "entry", "division", "place"),
    "training.csv": ("task", "entry", *_TRAINING),
    "task-facts.csv": (
        *("task", "environment", "entries", "source", "source_rows", "source_shifts", "target", "target_rows"),
        *("target_shifts", "gap", "gap_median", "gap_changed", "gap_rows", "behaviour_return", "behaviour_score"),
        *("random_return", "random_score", "random_score_low", "random_score_high"),
        *("expert_return", "expert_score", "expert_score_low", "expert_score_high"),
    ),
    "published.csv": ("task", "paper", "scale", "method", "score"),
}
_RAW = ("task", "seed", "condition", "source", "returns")
HEADS = tuple(",".join(columns[:3]).encode() for columns in (*_COLUMNS.values(), _RAW))
"""How the files begin, those of earlier versions too: columns are added behind the first three."""


def table_files(standings: Json, comparisons: Iterable[Comparison]) -> dict[str, str]:
    """Returns the text of every table by its file name; scores and returns are rounded as in the standings."""
    rows = {
        "standings.csv": _standings(standings),
        "tasks.csv": _tasks(standings),
        "seeds.csv": _seeds(standings),
        "perturbed.csv": _perturbed(standings),
        "kept.csv": _kept(standings),
        "comparisons.csv": _comparisons(comparisons),
        "history.csv": _history(standings),
        "training.csv": _training(standings),
        "task-facts.csv": _task_facts(standings),
        "published.csv": _published(standings),
    }
    return {name: csv_text(_COLUMNS[name], rows[name]) for name in TABLES}


def raw_returns(judged: Judged) -> str:
    """Returns the claimed and the re-run returns of an entry, a list of episodes a line, as CSV."""
    verdict = judged.verdict or {}
    rows: list[Sequence[object]] = []
    for result in judged.entry.results:
        again = verdict.get("returns", {}).get(f"{result.task}/{result.seed}")
        held_out = verdict.get("held_out", {}).get("returns", {}).get(f"{result.task}/{result.seed}")
        rows.append((result.task, result.seed, "clean", CLAIM, _list(result.returns)))
        rows += [(result.task, result.seed, "clean", RERUN, _list(again))] if again else []
        rows += [(result.task, result.seed, "held out", RERUN, _list(held_out))] if held_out else []
    for cell in judged.entry.perturbed:
        rows.append((cell.task, cell.seed, cell_name(cell.family, cell.level), CLAIM, _list(cell.returns)))
    for cell in verdict.get("perturbed", []):
        name = cell_name(cell["family"], cell["level"])
        rows.append((cell["task"], cell["seed"], name, RERUN, _list(cell["returns"])))
    return csv_text(_RAW, rows)


def _list(returns: Iterable[float]) -> str:
    return " ".join(f"{value:.2f}" for value in returns)


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table as CSV; what could be a formula is text to a spreadsheet, as names come from strangers.

    Args:
        columns: Heads of the columns.
        rows: The lines; None is an empty field, floats are rounded to 6 decimals.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_field(value) for value in row] for row in rows)
    return out.getvalue()


def _field(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6) + 0.0
    if isinstance(value, str) and value[:1] in tuple("=+-@"):
        return value if _is_number(value.split(" ")[0]) else f"'{value}"
    return "" if value is None else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def scales(entry: Json) -> str | None:
    """Returns the held-out dynamics that were drawn for an entry, for instance "gravity 0.83; friction 1.4"."""
    return "; ".join(f"{shift['kind']} {shift['scale']:g}" for shift in entry.get("held_out", ())) or None


def _ends(interval: Json | None) -> list[object]:
    return [None if interval is None else interval[end] for end in _INTERVAL]


def _standings(standings: Json) -> Iterable[Sequence[object]]:
    entries = {entry["name"]: entry for entry in standings["entries"]}
    for track in standings["tracks"]:
        for row in track["rows"]:
            entry, better, kept = entries[row["name"]], row["improvement"] or {}, row["kept"] or {}
            yield (
                *(track["name"], row["name"], entry["method"], entry["family"], row["division"], row["rank"]),
                *(row["unranked"], row["source"], len(row["tasks"]), row["seeds"], *_ends(row["iqm"]), row["mean"]),
                *(row["sum"], *_ends(row["held_out"]), *_ends(row["improvement"]), better.get("source")),
                *(kept.get("value"), kept.get("source"), row["tuning_evaluations"]),
            )


def _tasks(standings: Json) -> Iterable[Sequence[object]]:
    for entry in standings["entries"]:
        for name, task in sorted(entry["tasks"].items()):
            yield (
                *(name, entry["name"], entry["method"], task["source"], len(task["seeds"])),
                *(*_ends(task.get("score")), task.get("claimed_score"), *_ends(task["return"])),
                *(*_ends(task.get("held_out_score")), scales(entry)),
            )


def _seeds(standings: Json) -> Iterable[Sequence[object]]:
    for entry in standings["entries"]:
        for name, task in sorted(entry["tasks"].items()):
            for index, seed in enumerate(task["seeds"]):
                scores = [task[kind][index] if kind in task else None for kind in ("scores", "held_out_scores")]
                returns = (task["returns"][index], task["claimed_returns"][index])
                yield name, entry["name"], seed, task["source"], *returns, *scores, entry["policies"][f"{name}/{seed}"]


def _perturbed(standings: Json) -> Iterable[Sequence[object]]:
    for entry in standings["entries"]:
        for name, row in sorted(entry["robustness"].items()):
            for cell in row["cells"]:
                yield name, entry["name"], row["source"], cell["family"], cell["level"], *_ends(cell["score"])


def _kept(standings: Json) -> Iterable[Sequence[object]]:
    for entry in standings["entries"]:
        for row in entry["kept"]:
            yield entry["name"], row["family"], row["level"], row["source"], row["tasks"], row["value"]


def _comparisons(comparisons: Iterable[Comparison]) -> Iterable[Sequence[object]]:
    for one in comparisons:
        for task, interval in (("all", one.overall), *one.tasks.items()):
            yield one.ours, one.theirs, task, one.source, *interval


def _history(standings: Json) -> Iterable[Sequence[object]]:
    for track in standings["tracks"]:
        for step in track["history"]:
            for division, places in step["places"].items():
                for entry, place in places.items():
                    yield step["date"], track["name"], entry, division, place


def _training(standings: Json) -> Iterable[Sequence[object]]:
    for entry in standings["entries"]:
        for name, told in sorted(entry["disclosure"].items()):
            yield name, entry["name"], *map(told.get, _TRAINING)


def _task_facts(standings: Json) -> Iterable[Sequence[object]]:
    for name, task in standings["tasks"].items():
        count = sum(name in entry["tasks"] for entry in live(standings)["entries"])
        sides = [
            value
            for side in (task["source"], task["target"])
            for value in (side["data"], side["rows"], "; ".join(side["shifts"]))
        ]
        gap, behaviour = task.get("gap", {}), task.get("behaviour", {})
        references = [task.get(kind, {}) for kind in ("random", "expert")]
        yield (
            *(name, task["env"], count, *sides, *map(gap.get, ("mean", "median", "changed", "rows"))),
            *map(behaviour.get, ("return", "score")),
            *(value for one in references for value in (one.get("return"), *_ends(one.get("score")))),
        )


def _published(standings: Json) -> Iterable[Sequence[object]]:
    for name, task in standings["tasks"].items():
        for paper in task.get("published", ()):
            for method, value in sorted(paper["figures"].items()):
                yield name, paper["paper"], paper["scale"], method, value
