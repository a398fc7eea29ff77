"""`offdyn diagnose gap`: the dynamics gap of a task, in the terminal, as JSON and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.describing.show import bar
from offdyn_envs.datasets.gap.counterfactuals import REASONS
from offdyn_envs.datasets.gap.measure import Gap, dynamics_gap, spaced
from offdyn_envs.datasets.loading import load_dataset
from offdyn_envs.differences import observation_names
from offdyn_envs.errors import OffDynError
from offdyn_envs.figures import COLOURS, new_figure, save_figure, tidy
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import DatasetId, get_task

__all__ = ["WARNING", "draw_gap", "gap_histogram", "gap_record", "print_gap", "task_gap"]

WARNING = "For diagnosis, never for training: it shows what the target domain does in the source's states."
_SMALLEST = 1e-4
_UNIT = {
    "observation": "standard deviations of the source's next observations",
    "step": "standard deviations of the source's one-step changes",
}


def task_gap(
    name: str,
    rows: int,
    *,
    source: str | None = None,
    units: str = "observation",
    num_threads: int | None = None,
    quiet: bool = False,
) -> Gap:
    """Measure how far a task's source transitions are from what its target dynamics would have done.

    Args:
        name: The task.
        rows: How many evenly spaced source rows; all of them where the source is smaller.
        source: Id of another source dataset than the task's.
        units: See `dynamics_gap`.
        num_threads: Threads of the simulation; by default all usable cores.
        quiet: No progress bar.

    Returns:
        The gap.

    Raises:
        OffDynError: Unknown task, or a source that is not here (the message names the command that builds it).
    """
    if rows < 1:
        raise OffDynError(f"rows must be at least 1, got {rows}")
    task = get_task(name)
    if task.source.dynamics == task.target.dynamics and source is None:
        raise OffDynError(f"task '{name}' has one dynamics, {task.scoring}, and no gap; name another source")
    data = load_dataset(task.source if source is None else DatasetId.parse(source))
    return dynamics_gap(data, task.env_id, spaced(len(data), rows), units=units, num_threads=num_threads, quiet=quiet)


def gap_histogram(gap: Gap) -> dict[str, Any]:
    """Count the valid rows by the size of their gap.

    Args:
        gap: The gap.

    Returns:
        "unchanged", the rows whose gap is 0; "edges", rising, [k + 1], from 0 through 1, 2 and 5 times powers of ten;
        and "counts", [k], of the other rows: bin i holds edges[i] < gap <= edges[i + 1].
    """
    sizes = gap.sizes[gap.valid]
    moved = sizes[sizes > 0]
    if not len(moved):
        return {"unchanged": len(sizes), "edges": [], "counts": []}
    low, high = max(float(moved.min()), _SMALLEST), max(float(moved.max()), 2 * _SMALLEST)
    series = [float(f"{digit}e{power}") for power in range(-4, int(np.ceil(np.log10(high))) + 1) for digit in (1, 2, 5)]
    first = max(edge for edge in series if edge <= low)
    last = min(edge for edge in series if edge >= high)
    edges = [edge for edge in series if first <= edge <= last]
    if moved.min() <= edges[0]:
        edges.insert(0, 0.0)
    places = np.searchsorted(edges, moved, side="left")
    counts = np.bincount(places, minlength=len(edges))[1:]
    return {"unchanged": len(sizes) - len(moved), "edges": edges, "counts": counts.tolist()}


def gap_record(name: str, gap: Gap) -> dict[str, Any]:
    """Return the gap of a task as plain JSON: its summary, its histogram and what it is for."""
    return {"task": name, **gap.summary(), "histogram": gap_histogram(gap), "use": WARNING}


def print_gap(name: str, gap: Gap) -> None:
    """Print the gap of a task for people.

    Args:
        name: The task.
        gap: Its gap.
    """
    from rich.console import Console
    from rich.markup import escape

    console, facts = Console(highlight=False), gap.summary()
    console.print(f"[bold]{escape(name)}[/bold]: the true dynamics gap of its source")
    for key, value in _lines(facts).items():
        console.print(f"  [dim]{key:<12}[/dim] {escape(value)}", soft_wrap=True)
    if gap.valid.any():
        console.print(f"  [dim]rows by gap, in {_UNIT[gap.units]}[/dim]")
        for label, count, bar in _bars(gap_histogram(gap)):
            console.print(f"  {label:>17} {bar} {count}", soft_wrap=True)
    console.print(f"  {WARNING}", soft_wrap=True)


def _lines(facts: dict[str, Any]) -> dict[str, str]:
    """Return the summary in words."""
    masked = facts["rows"] - facts["valid"]
    lines = {
        "source": facts["source"],
        "rows": f"{facts['rows']:,} simulated again under the target dynamics",
        "masked": f"{masked:,} ({facts['masked']:.2%})",
    }
    for reason, share in facts["reasons"].items():
        if share:
            lines[f"  {reason}"] = f"{share:.2%}: {REASONS[reason]}"
    if not facts["exact"]:
        lines["platform"] = "another MuJoCo or processor than the dataset's: the last bits may differ by themselves"
    if facts["valid"]:
        shares = "  ".join(f"{float(level):.0%} {value:.3g}" for level, value in facts["quantiles"].items())
        lines |= {
            "changed": f"{facts['changed']:.2%} of the valid rows, in at least one bit",
            "gap": f"mean {facts['mean']:.4g}, median {facts['median']:.4g}, largest {facts['max']:.4g}",
            "quantiles": shares,
            "dimensions": "  ".join(f"{value:.2g}" for value in facts["dimensions"]),
            "reward": f"changed by {facts['reward_change']:.3g} on average",
            "falls": f"{facts['terminations_changed']:.2%} of the terminations differ",
        }
    return lines


def _bars(histogram: dict[str, Any]) -> list[tuple[str, int, str]]:
    """Return (label, count, bar) for every bin, the unchanged rows first."""
    edges, counts = histogram["edges"], histogram["counts"]
    rows = [("0", histogram["unchanged"])] if histogram["unchanged"] else []
    rows += [(f"{low:g} … {high:g}", n) for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True)]
    most = max(count for _, count in rows)
    return [(label, count, bar(count, most)) for label, count in rows]


def draw_gap(name: str, gap: Gap, path: Path) -> None:
    """Draw the gap of a task: rows by gap, and the mean of each dimension.

    Args:
        name: The task.
        gap: Its gap.
        path: The PNG file.

    Raises:
        OffDynError: There is no valid row to draw, or matplotlib is not installed.
    """
    if not gap.valid.any():
        raise OffDynError(f"task '{name}': the target's body can take none of {len(gap)} rows; no gap to draw")
    figure = new_figure(figsize=(9.6, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_rows(left, gap)
    means: NDArray[np.float64] = np.abs(gap.values[gap.valid]).mean(axis=0, dtype=np.float64)
    names = observation_names(get_robot(gap.source.id.robot))
    right.barh(np.arange(len(means)), means, color=COLOURS[0])
    right.set_yticks(np.arange(len(means)), names if len(names) == len(means) else np.arange(len(means)))
    right.invert_yaxis()
    tidy(right, "mean of each dimension of the observation", "gap")
    rows = f"{int(gap.valid.sum()):,} of {len(gap):,} rows"
    figure.suptitle(f"{name} ({gap.source.id}, {rows})\nunit: {_UNIT[gap.units]}", fontsize=10)
    save_figure(figure, path)


def _draw_rows(axes: Any, gap: Gap) -> None:
    bars = _bars(gap_histogram(gap))
    places = np.arange(len(bars))
    axes.barh(places, [count for _, count, _ in bars], color=COLOURS[0])
    axes.set_yticks(places, [label for label, _, _ in bars])
    axes.invert_yaxis()
    tidy(axes, "rows by gap", "transitions")
