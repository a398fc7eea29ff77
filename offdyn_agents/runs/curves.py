"""Learning curves as pictures: of a run, `curves.png` beside its `metrics.csv`, and of runs beside each other."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from offdyn_agents.runs.metrics import read_metrics
from offdyn_envs.errors import OffDynError
from offdyn_envs.figures import BEHAVIOUR, COLOURS, EXPERT, MEAN, RANDOM, mark_level, new_figure, save_figure, tidy

__all__ = ["NAME", "compare_curves", "curves_command", "draw_curves", "draw_ended"]

NAME = "curves.png"
Floats = NDArray[np.float64]
NOT_LOSSES = ("updates", "score", "seed_updates_per_second")
COLUMNS = 3
"""Losses in a row."""
HIGH, LOW = 3.4, 1.7
"""Inches of a panel of scores, and of one of losses."""
WIDE = 100.0
"""A loss whose largest value is so many times its smallest is drawn on a logarithmic axis."""


def curves_command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, runs/<task>/<agent>.")],
    compare: Annotated[
        Path | None, typer.Option(help="Plot all runs into this PNG file instead.", metavar="FILE")
    ] = None,
) -> None:
    """Plot the learning curves of runs, finished or not."""
    from offdyn_agents.runs.plans import read_run

    found = [(folder, read_run(folder)) for folder in runs]
    for path in [draw_curves(*run) for run in found] if compare is None else [compare_curves(found, compare)]:
        print(path)


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
    from offdyn_agents.runs.plans import run_title

    metrics = read_metrics(folder / "metrics.csv")
    losses = _losses(metrics)
    height = HIGH + LOW * math.ceil(len(losses) / COLUMNS) + 0.7
    figure = new_figure(figsize=(9.6, height))
    # Margins in inches by hand: to have them found doubles the time of every picture.
    figure.subplots_adjust(0.065, 0.5 / height, 0.985, 1.0 - 0.65 / height, wspace=0.26, hspace=0.62)
    score, panels = _panels(figure, figure.add_gridspec(1, 1)[0], len(losses))
    _draw_scores(score, metrics, facts)
    _mark_references(score, facts)
    for axes, name in zip(panels, losses, strict=True):
        _draw_loss(axes, metrics["updates"], metrics[name], name, color=COLOURS[0])
    figure.suptitle(f"{facts['task']}: {run_title(facts)}, losses are means over seeds", fontsize=11)
    path = folder / NAME
    save_figure(figure, path, {"Software": None})
    return path


def compare_curves(runs: Sequence[tuple[Path, Mapping[str, Any]]], path: Path) -> Path:
    """Draw runs beside each other: a row for each task, with scores and the losses that its runs have in common.

    Of scores the mean over seeds is drawn, in a band from the worst seed to the best one.

    Args:
        runs: Folders and what their run.json says.
        path: The PNG file.

    Returns:
        The PNG file.

    Raises:
        OffDynError: A run has no numbers to draw, or matplotlib is not installed.
    """
    read = [(facts, read_metrics(folder / "metrics.csv")) for folder, facts in runs]
    labels = _labels([folder for folder, _ in runs], [facts for facts, _ in read])
    tasks: dict[str, list[int]] = {}
    for index, (facts, _) in enumerate(read):
        tasks.setdefault(str(facts["task"]), []).append(index)
    losses = {task: _common_losses([read[index][1] for index in members]) for task, members in tasks.items()}
    heights = [HIGH + LOW * math.ceil(len(losses[task]) / COLUMNS) for task in tasks]
    figure = new_figure(figsize=(9.6, sum(heights) + 0.3), layout="constrained")
    grid = figure.add_gridspec(len(tasks), 1, height_ratios=heights)
    places = [grid[row] for row in range(len(tasks))]
    for place, (task, members) in zip(places, tasks.items(), strict=True):
        score, panels = _panels(figure, place, len(losses[task]))
        for index in members:
            facts, metrics = read[index]
            _draw_band(score, metrics, facts, color=COLOURS[index % len(COLOURS)], label=labels[index])
        _mark_references(score, read[members[0]][0])
        score.legend(fontsize=8, framealpha=0.8, edgecolor="none", loc="best")
        tidy(score, f"{task}, {_score_name(read[members[0]][0])}", "updates")
        for axes, name in zip(panels, losses[task], strict=True):
            for index in members:
                metrics = read[index][1]
                _draw_loss(axes, metrics["updates"], metrics[name], name, color=COLOURS[index % len(COLOURS)])
    save_figure(figure, path, {"Software": None})
    return path


def _panels(figure: Any, place: Any, losses: int) -> tuple[Any, list[Any]]:
    """Return a wide, high panel for scores and, below it, small ones for losses, `COLUMNS` in a row."""
    rows = math.ceil(losses / COLUMNS)
    grid = place.subgridspec(1 + rows, COLUMNS, height_ratios=[HIGH, *[LOW] * rows])
    score = figure.add_subplot(grid[0, :])
    return score, [figure.add_subplot(grid[1 + i // COLUMNS, i % COLUMNS]) for i in range(losses)]


def _mark_references(axes: Any, facts: Mapping[str, Any]) -> None:
    """Draw what scores are held against, where it is known."""
    from offdyn_agents.runs.references import reference_scores

    for name, score in reference_scores(facts).items():
        mark_level(axes, score, name, {"random": RANDOM, "expert": EXPERT}.get(name, BEHAVIOUR))


def _labels(folders: Sequence[Path], facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names that tell the runs of each task apart: the agent, else its precision too, else the folder."""
    from offdyn_agents.runs.plans import run_title

    plain = [run_title(run) for run in facts]
    exact = [f"{label}, {run.get('precision', 'fp32')}" for label, run in zip(plain, facts, strict=True)]
    tasks = [str(run["task"]) for run in facts]
    for labels in (plain, exact):
        if len(set(zip(tasks, labels, strict=True))) == len(facts):
            return labels
    return [str(folder) for folder in folders]


def _losses(metrics: Mapping[str, Floats]) -> list[str]:
    return [name for name in metrics if name not in NOT_LOSSES and not name.startswith("return_")]


def _common_losses(runs: Sequence[Mapping[str, Floats]]) -> list[str]:
    return [name for name in _losses(runs[0]) if all(name in _losses(run) for run in runs)]


def _reference(facts: Mapping[str, Any]) -> Any:
    """Return the reference returns of a run's task; None where it has none, as own data."""
    from offdyn_envs.benchmark.scoring.scores import task_reference

    return None if "pair" in facts else task_reference(str(facts["task"]))


def _score_name(facts: Mapping[str, Any]) -> str:
    return "normalised score" if _reference(facts) else "mean return"


def _seed_scores(metrics: Mapping[str, Floats], facts: Mapping[str, Any]) -> dict[int, Floats]:
    """Scores of every seed, or its returns on a task without reference returns; none where nothing was evaluated."""
    reference = _reference(facts)
    returns = {seed: metrics[f"return_{seed}"] for seed in facts["seeds"] if f"return_{seed}" in metrics}
    if not any(np.isfinite(values).any() for values in returns.values()):
        return {}
    return {seed: reference.normalise(x) for seed, x in returns.items()} if reference else returns


def _draw_band(axes: Any, metrics: Mapping[str, Floats], facts: Mapping[str, Any], *, color: str, label: str) -> None:
    stopped = facts.get("stopped", {})
    going = [values for seed, values in _seed_scores(metrics, facts).items() if str(seed) not in stopped]
    values = np.stack(going) if going else np.full((1, len(metrics["updates"])), np.nan)
    label += f", {len(going)} seeds" + (f", {len(stopped)} stopped" if stopped else "")
    known = np.isfinite(values).all(axis=0)
    values = values[:, known]
    _plot(axes, metrics["updates"][known], values.mean(axis=0), color=color, linewidth=1.5, label=label)
    if known.any():
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(metrics["updates"][known], low, high, color=color, alpha=0.2, linewidth=0.0)


def _draw_scores(axes: Any, metrics: Mapping[str, Floats], facts: Mapping[str, Any]) -> None:
    stopped = facts.get("stopped", {})
    scores = _seed_scores(metrics, facts)
    for seed, values in scores.items():
        ended = str(seed) in stopped
        style = ":" if ended else "-"
        _plot(axes, metrics["updates"], values, color=COLOURS[0], linewidth=0.9, alpha=0.45, linestyle=style)
    going = [values for seed, values in scores.items() if str(seed) not in stopped]
    if going:
        # A mean over fewer seeds than the others would be a jump that no policy made.
        with np.errstate(invalid="ignore"):
            mean = np.mean(going, axis=0)
        _plot(axes, metrics["updates"], mean, color=MEAN, linewidth=2.2, label="mean of seeds")
        axes.legend(
            fontsize=8,
            framealpha=0.8,
            edgecolor="none",
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
            borderaxespad=0.2,
        )
    elif not scores:
        axes.text(0.5, 0.5, "no evaluation", ha="center", va="center", transform=axes.transAxes)
    title = f"{_score_name(facts)}, {len(scores)} seeds"
    tidy(axes, title + (f", {len(stopped)} stopped" if stopped else ""), "updates")


def _draw_loss(axes: Any, updates: Floats, values: Floats, name: str, **style: Any) -> None:
    _plot(axes, updates, values, linewidth=0.9, **style)
    finite = values[np.isfinite(values)]
    if finite.min() > 0.0 and finite.max() > WIDE * finite.min():
        axes.set_yscale("log")
        # Most of the time that a picture takes goes into these.
        axes.minorticks_off()
    tidy(axes, name.replace("_", " "))


def _plot(axes: Any, updates: Floats, values: Floats, **style: Any) -> None:
    """Draw a line through the finite values, with a dot where there is only one."""
    finite = np.isfinite(values)
    axes.plot(updates[finite], values[finite], marker="o" if finite.sum() == 1 else "", markersize=3, **style)
