"""The forest plot of the results page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offdyn_envs.benchmark.entries.places import coverage
from offdyn_envs.benchmark.results.rows import Row, short
from offdyn_envs.benchmark.scoring.statistics import Interval
from offdyn_envs.figures import COLOURS, RANDOM, new_figure, save_figure, tidy

__all__ = ["draw", "labels"]

COLUMNS = 4
WIDTH, ROW_HEIGHT, FRAME = 10.5, 0.34, 0.9
"""Inches: the figure's width, a method's line in a panel, and what a panel has around its lines."""
EDGE = 15.0
"""What is shown beyond 0, 100 and all means; a bar that ends outside goes on to the edge."""


def draw(rows: Sequence[Row], tasks: Sequence[str], path: Path) -> None:
    """Draws all methods over all tasks and on each, on top who covers most tasks, then who scores best.

    Args:
        rows: The methods.
        tasks: Tasks of the track.
        path: The PNG file.

    Raises:
        OffDynError: matplotlib is not installed, or there is another file than a picture.
    """
    ordered = sorted(rows, key=lambda row: (len(row.scores), row.overall().mean, row.name))
    names = labels(ordered, tasks)
    panels: list[tuple[str, list[Interval | None]]] = [
        ("all tasks (IQM)", [row.overall() if row.covers(tasks) else None for row in ordered]),
        *((short(task), [row.score(task) for row in ordered]) for task in tasks),
    ]
    lines = -(-len(panels) // COLUMNS)
    figure = new_figure(figsize=(WIDTH, lines * (FRAME + ROW_HEIGHT * max(3, len(rows)))), layout="constrained")
    axes = figure.subplots(lines, COLUMNS, sharey=True, squeeze=False).ravel()
    for place, (title, intervals) in enumerate(panels):
        _panel(axes[place], title, ordered, intervals)
    for spare in axes[len(panels) :]:
        spare.set_axis_off()
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(-0.6, max(3, len(names)) - 0.4)
    # Without its version the same figures give the same bytes with every release of matplotlib that draws the same.
    save_figure(figure, path, {"Software": None})


def labels(rows: Sequence[Row], tasks: Sequence[str]) -> list[str]:
    """Returns what stands beside each row: its name, and below it what keeps it from being compared with all others.

    Args:
        rows: The methods.
        tasks: Tasks of the track.
    """
    keys = [row.key for row in rows]
    names = [row.name if keys.count(row.key) > 1 else row.method for row in rows]
    told = [[reason for reason in (coverage(row.scores, tasks), row.retired) if reason] for row in rows]
    return [f"{name}\n{', '.join(reasons)}" if reasons else name for name, reasons in zip(names, told, strict=True)]


def _panel(axes: Any, title: str, rows: Sequence[Row], intervals: Sequence[Interval | None]) -> None:
    for height, (row, interval) in enumerate(zip(rows, intervals, strict=True)):
        if interval is None:
            continue
        colour = RANDOM if row.reference else COLOURS[0]
        face = colour if row.rank is not None else "white"
        axes.plot(
            (interval.low, interval.high),
            [height, height],
            color=colour,
            linewidth=1.4,
            solid_capstyle="butt",
            zorder=2,
        )
        axes.plot(interval.mean, height, "o", markersize=5, color=colour, markerfacecolor=face, zorder=3)
    axes.set_yticks(range(len(rows)))
    tidy(axes, title, x="normalised score")
    for level in (0.0, 100.0):
        axes.axvline(level, color="#b8b8b8", linewidth=0.9, zorder=1)
    low = min([0.0, *(one.mean for one in intervals if one is not None)])
    high = max([100.0, *(one.mean for one in intervals if one is not None)])
    axes.set_xlim(low - EDGE, high + EDGE)
    if not any(intervals):
        axes.text(0.5, 0.5, "no method has all of it", ha="center", va="center", transform=axes.transAxes, fontsize=8)
