"""Learning curves of a run as a picture, `curves.png` beside its `metrics.csv`; also `offdyn curves`."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from offdyn_agents.metrics import read_metrics
from offdyn_envs.errors import OffDynError
from offdyn_envs.figures import new_figure, save_figure

__all__ = ["NAME", "curves_command", "draw_curves", "draw_ended"]

NAME = "curves.png"
Floats = NDArray[np.float64]
NOT_LOSSES = ("updates", "score", "seed_updates_per_second")
COLUMNS = 3
WIDE = 100.0
"""A loss whose largest value is so many times its smallest is drawn on a logarithmic axis."""


def curves_command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, runs/<task>/<agent>.")],
) -> None:
    """Draw the learning curves of runs again, finished or not."""
    from offdyn_agents.plans import read_run

    for folder in runs:
        print(draw_curves(folder, read_run(folder)))


def draw_ended(folder: Path, facts: Mapping[str, Any], quiet: bool = False) -> None:
    """Draw the curves of a run that has ended; training never fails for want of a picture.

    Args:
        folder: The run's folder.
        facts: What its run.json says.
        quiet: Do not say on standard error why there is no picture.
    """
    try:
        draw_curves(folder, facts)
    except OffDynError as error:
        if not quiet:
            print(f"no {NAME}: {error}", file=sys.stderr, flush=True)


def draw_curves(folder: Path, facts: Mapping[str, Any]) -> Path:
    """Draw scores of every seed with their mean, and each loss, over updates.

    Scores are normalised where reference returns exist, else they are the mean returns themselves. The same numbers
    give the same bytes.

    Args:
        folder: The run's folder, with its `metrics.csv`.
        facts: What its run.json says.

    Returns:
        The PNG file.

    Raises:
        OffDynError: There are no numbers to draw, or matplotlib is not installed.
    """
    from offdyn_agents.plans import run_label

    metrics = read_metrics(folder / "metrics.csv")
    losses = [name for name in metrics if name not in NOT_LOSSES and not name.startswith("return_")]
    rows = math.ceil((1 + len(losses)) / COLUMNS)
    height = 2.8 * rows + 0.3
    figure = new_figure(figsize=(4.0 * COLUMNS, height))
    # Margins in inches by hand: to have them found doubles the time of every picture.
    figure.subplots_adjust(0.05, 0.5 / height, 0.99, 1.0 - 0.6 / height, wspace=0.22, hspace=0.36)
    panels: list[Any] = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    _draw_scores(panels[0], metrics, facts)
    for axes, name in zip(panels[1:], losses, strict=False):
        _draw_loss(axes, metrics["updates"], metrics[name], name)
    for axes in panels[1 + len(losses) :]:
        axes.remove()
    figure.suptitle(f"{facts['task']}: {run_label(facts)}, losses are means over seeds", fontsize=10)
    path = folder / NAME
    save_figure(figure, path, {"Software": None})
    return path


def _draw_scores(axes: Any, metrics: Mapping[str, Floats], facts: Mapping[str, Any]) -> None:
    from offdyn_envs.benchmark.scores import task_reference

    reference = task_reference(str(facts["task"]))
    stopped = facts.get("stopped", {})
    seeds = [seed for seed in facts["seeds"] if f"return_{seed}" in metrics]
    scores = [metrics[f"return_{seed}"] for seed in seeds]
    scores = [reference.normalise(values) for values in scores] if reference else scores
    for seed, values in zip(seeds, scores, strict=True):
        ended = str(seed) in stopped
        _plot(axes, metrics["updates"], values, linewidth=0.9, alpha=0.6, linestyle=":" if ended else "-")
    going = [values for seed, values in zip(seeds, scores, strict=True) if str(seed) not in stopped]
    if going:
        # A mean over fewer seeds than the others would be a jump that no policy made.
        with np.errstate(invalid="ignore"):
            mean = np.mean(going, axis=0)
        _plot(axes, metrics["updates"], mean, color="black", linewidth=1.8, label="mean")
        axes.legend(fontsize=8)
    elif not seeds:
        axes.text(0.5, 0.5, "no evaluation", ha="center", va="center", transform=axes.transAxes)
    title = "normalised score" if reference else "mean return"
    title += f", {len(seeds)} seeds" + (f", {len(stopped)} stopped" if stopped else "")
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("updates", fontsize=8)


def _draw_loss(axes: Any, updates: Floats, values: Floats, name: str) -> None:
    _plot(axes, updates, values, linewidth=0.9)
    finite = values[np.isfinite(values)]
    if finite.min() > 0.0 and finite.max() > WIDE * finite.min():
        axes.set_yscale("log")
        # Most of the time that a picture takes goes into these.
        axes.minorticks_off()
    axes.set_title(name.replace("_", " "), fontsize=9)
    axes.set_xlabel("updates", fontsize=8)


def _plot(axes: Any, updates: Floats, values: Floats, **style: Any) -> None:
    """Draw a line through the finite values, with a dot where there is only one."""
    finite = np.isfinite(values)
    axes.plot(updates[finite], values[finite], marker="o" if finite.sum() == 1 else "", markersize=3, **style)
