"""The tables of a page on how methods rate source rows, from the files of `offdyn diagnose rows`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import stdev
from typing import Any

from offdyn_agents.judging.rows import ORACLE
from offdyn_agents.judging.rows_report import FIGURES, MOVED, mean_of, title_of
from offdyn_envs.atomic import write_text
from offdyn_envs.errors import OffDynError
from offdyn_envs.marks import between

__all__ = ["BEGIN", "END", "collect", "lines", "markdown", "with_tables", "write_tables"]

BEGIN, END = "<!-- rows: written by `offdyn diagnose rows --table` -->", "<!-- rows end -->"

Record = dict[str, Any]


def collect(out: Path) -> list[Record]:
    """Return the records of a folder of results in order: by task, agent and settings.

    Args:
        out: The folder; records are in `TASK/rows` below it.

    Raises:
        OffDynError: There are none, or one is no record of this version.
    """
    found = [_read(path) for path in sorted(out.glob("*/rows/*.json"))]
    if not found:
        raise OffDynError(f"'{out}' has no TASK/rows/*.json; make some with: offdyn diagnose rows --out {out}")
    tasks, agents = _orders()
    last = len(tasks) + len(agents)
    return sorted(found, key=lambda one: (tasks.get(one["task"], last), agents.get(one["agent"], last), one["name"]))


def _orders() -> tuple[Mapping[str, int], Mapping[str, int]]:
    from offdyn_agents.algorithms.registry import names
    from offdyn_envs.tasks import list_tasks

    tasks = {task.name: place for place, task in enumerate(list_tasks())}
    return tasks, {name: place for place, name in enumerate(names())}


def _read(path: Path) -> Record:
    from offdyn_agents.judging.rows_cells import FORMAT

    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OffDynError(f"'{path}' is no JSON: {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise OffDynError(f"'{path}' is no record of format {FORMAT}; make it anew with offdyn diagnose rows")
    return found


def lines(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return a line for each column that rates rows, and one for each task's oracle; figures are means over seeds.

    Args:
        records: As `collect` gives them.

    Returns:
        "task", "agent", "method", "column", `FIGURES`, "between seeds", the standard deviation of the correlation, and
        "seconds"; None for what nobody knows.
    """
    found: list[dict[str, Any]] = []
    for task in dict.fromkeys(record["task"] for record in records):
        own = [record for record in records if record["task"] == task]
        for record in own:
            rated = [name for name, figures in record["columns"][0].items() if "bins" in figures]
            for name in rated:
                runs = [run[name] for run in record["columns"]]
                found.append(_line(record, record["agent"], title_of(record), name, runs, record["stages_s"]))
        # It ranks by the gap, whatever else there is.
        found.append(_line(own[0], ORACLE, ORACLE, "-gap", [own[0][ORACLE]], None))
    return found


def _line(
    record: Record, agent: str, method: str, column: str, runs: Sequence[Record], seconds: float | None
) -> dict[str, Any]:
    figures = {label: mean_of(runs, key) for label, key in FIGURES.items()}
    about = {"task": record["task"], "agent": agent, "method": method, "column": column}
    known = [run["rank_correlation"] for run in runs if run.get("rank_correlation") is not None]
    between = stdev(known) if len(known) > 1 else None
    return {**about, **figures, "between seeds": between, "seconds": seconds}


def markdown(records: Sequence[Record]) -> str:
    """Return the tables: correlations on all tasks, each task in full, and what became of changed actions.

    Args:
        records: As `collect` gives them.
    """
    found = lines(records)
    tasks = list(dict.fromkeys(line["task"] for line in found))
    parts = [f"Rank correlation with the exact gap. {_counts(records)}", _overview(found, tasks)]
    for task in tasks:
        heads = ["method", "column", *FIGURES, "seconds"]
        rows = [_cells(line, heads) for line in found if line["task"] == task]
        parts += [f"## {task}", _table(heads, rows)]
    moved = [_moved(record) for record in records if record.get("actions")]
    if moved:
        parts += ["## Changed actions, simulated in the target", _table(["method", "task", *MOVED], moved)]
    return "\n\n".join(parts)


def _counts(records: Sequence[Record]) -> str:
    seeds = sorted({len(record["seeds"]) for record in records})
    rows = sorted({record["rows"]["valid"] for record in records})
    said = (" or ".join(f"{number:,}" for number in numbers) for numbers in (seeds, rows))
    return "Seeds of a stage: {}; source rows: {}. After ±: the standard deviation over seeds.".format(*said)


def _overview(found: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> str:
    known = {(line["method"], line["column"], line["task"]): _correlation(line) for line in found}
    agents = _orders()[1]
    named = [line for line in found if line["agent"] != ORACLE]
    # Stable: what an agent says, in its own order, whatever task has it.
    named.sort(key=lambda line: (agents.get(line["agent"], len(agents)), line["method"]))
    pairs = dict.fromkeys((line["method"], line["column"]) for line in named)
    rows = [
        [_code(method), column, *(known.get((method, column, task), "-") for task in tasks)] for method, column in pairs
    ]
    return _table(["method", "column", *(task.removesuffix("-medium") for task in tasks)], rows)


def _correlation(line: Mapping[str, Any]) -> str:
    spread = line["between seeds"]
    return _number(line["correlation"]) + (f" ±{spread:.2f}" if spread is not None else "")


def _cells(line: Mapping[str, Any], heads: Sequence[str]) -> list[str]:
    """Return a line's cells, shares in percent."""
    found: list[str] = []
    for head in heads:
        value = line[head]
        if head == "method":
            found.append(_code(value))
        elif head == "kept share" and value is not None:
            found.append(f"{value:.0%}")
        elif head == "seconds" and value is not None:
            found.append(f"{value:.0f}")
        else:
            found.append(value if isinstance(value, str) else _number(value))
    return found


def _moved(record: Record) -> list[str]:
    figures = {label: mean_of(record["actions"], key) for label, key in MOVED.items()}
    shares = ("changed", "came nearer")
    shown = [f"{one:.0%}" if label in shares and one is not None else _number(one) for label, one in figures.items()]
    return [_code(title_of(record)), record["task"], *shown]


def _code(method: str) -> str:
    """Return a method's name as code, and what is said behind it as words."""
    name, _, mark = method.partition(" (")
    return f"`{name}`" + (f" ({mark}" if mark else "")


def _number(value: float | None) -> str:
    # Without a negative zero.
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def with_tables(page: str, records: Sequence[Record]) -> str:
    """Return a page with the tables between its two marks, whatever stood there.

    Raises:
        OffDynError: The page lacks a mark.
    """
    return between(page, BEGIN, END, f"\n{markdown(records)}\n")


def write_tables(page: Path, out: Path) -> None:
    """Bring a page's tables up to date.

    Args:
        page: A Markdown file with the two marks, written atomically.
        out: Folder of the records.

    Raises:
        OffDynError: There is no such page, it lacks a mark, or `collect` refuses.
    """
    if not page.is_file():
        raise OffDynError(f"page '{page}' does not exist; a Markdown file with the two marks is needed")
    write_text(page, with_tables(page.read_text(encoding="utf-8"), collect(out)))
