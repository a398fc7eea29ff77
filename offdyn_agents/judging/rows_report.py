"""What `offdyn diagnose rows` shows: a method's view of source rows beside their exact gap, as tables and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offdyn_agents.judging.rows import ORACLE

__all__ = ["FIGURES", "MOVED", "actions_table", "draw_rows", "mean_of", "rows_table", "title_of"]

Record = dict[str, Any]
FIGURES = {
    "correlation": "rank_correlation",
    "spread": "std",
    "kept share": "share",
    "gap of the kept": "kept_gap",
    "oracle's gap": "oracle_kept_gap",
    "better half": "better_half",
}
"""Columns of a table, and what files call them."""
MOVED = {"changed": "share", "gap with its own": "own_gap", "gap with the new": "gap", "came nearer": "nearer"}
"""Columns of the table of changed actions."""


def rows_table(record: Record) -> list[dict[str, Any]]:
    """Return a line for each column, means over seeds, and one for the oracle.

    Correlations are with the gap. Gaps are those of the rows that are kept, of as many that an oracle keeps, and of the
    better half, over that of all. Columns that rate no rows have none.
    """
    names = {"mean": "mean", **FIGURES}
    found: list[dict[str, Any]] = []
    for name in record["columns"][0]:
        runs = [run[name] for run in record["columns"]]
        line = {label: _shown(mean_of(runs, key)) for label, key in names.items()}
        # What is known and the same for all rows goes with nothing.
        constant = "rank_correlation" in runs[0] and line["correlation"] == "-"
        found.append({"column": name, **line, **({"correlation": "constant"} if constant else {})})
    oracle = {label: _shown(mean_of([record[ORACLE]], key)) for label, key in names.items()}
    return [*found, {"column": ORACLE, **oracle}]


def actions_table(record: Record) -> list[dict[str, Any]]:
    """Return a line on what the target makes of actions that a stage changed, a mean over seeds; none where it did not.

    Gaps are those of the changed rows, in units of what a step changes.
    """
    runs = record.get("actions")
    return [{label: _shown(mean_of(runs, key)) for label, key in MOVED.items()}] if runs else []


def mean_of(runs: Sequence[Record], key: str) -> float | None:
    """Return the mean of a figure over the runs that know it; None where none does."""
    known = [run[key] for run in runs if run.get(key) is not None]
    return sum(known) / len(known) if known else None


def title_of(record: Record) -> str:
    """Return what tables and pictures call a record's agent, with what of its settings is not its preset's."""
    return f"{record['name']} ({record['reading']})" if record.get("reading") else str(record["name"])


def _shown(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}"


def draw_rows(record: Record, path: Path) -> None:
    """Draw the mean gap of rows by how much is said of them, a panel for each column, beside the oracle's.

    Args:
        record: What `diagnose_cells` made.
        path: The PNG file.

    Raises:
        OffDynError: matplotlib is not installed.
    """
    from offdyn_envs.figures import COLOURS, EXPERT, new_figure, save_figure, tidy

    best = record[ORACLE]["bins"]
    names = [name for name, figures in record["columns"][0].items() if "bins" in figures]
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = new_figure(figsize=(max(3.4 * columns, 5.2), 3.2 * lines + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
    label = title_of(record)
    places = [(part + 0.5) / len(best) for part in range(len(best))]
    for axes, name in zip(panels.flat, names, strict=False):
        for run in record["columns"]:
            style: Record = {"markersize": 3, "linewidth": 0.9, "color": COLOURS[0], "label": label}
            axes.plot(places, run[name]["bins"], "o-", **style)
        axes.plot(places, best, "--", color=EXPERT, label="oracle")
        axes.axhline(1.0, linestyle=":", color="grey", label="no filter")
        axes.set_yscale("log")
        correlation = _shown(mean_of([run[name] for run in record["columns"]], "rank_correlation"))
        tidy(axes, f"{name}, rank correlation {correlation}", "rows by how much is said of them")
    for axes in panels.flat[len(names) :]:
        axes.remove()
    for axes in panels[:, 0]:
        axes.set_ylabel("mean gap over that of all rows", fontsize=8)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    panels[0, 0].legend(unique.values(), unique.keys(), fontsize=8, framealpha=0.8, edgecolor="none")
    figure.suptitle(f"{record['task']}: which source rows transfer", fontsize=11)
    save_figure(figure, path, {"Software": None})
