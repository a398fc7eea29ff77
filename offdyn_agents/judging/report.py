"""`offdyn diagnose judge`: the errors of learned target dynamics as a table, a record and a picture."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from offdyn_envs.commands.options import Json
from offdyn_envs.figures import tidy

if TYPE_CHECKING:
    from offdyn_agents.judging.models import Terms

__all__ = ["draw", "draw_reward", "judge_command", "judge_task", "pictures", "reward_table", "summary", "table"]

Record = dict[str, Any]


def judge_command(
    tasks: Annotated[list[str], typer.Argument(help="Tasks; `offdyn tasks` lists them.")],
    seeds: Annotated[int, typer.Option(min=1, help="Models of each kind: seeds 0 to n - 1.")] = 3,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="dynamics.* of MOBODY, ensemble.*, elites of ensembles (DROCO asks all 7), or dynamics_reward.*; may "
            "be repeated.",
        ),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(
            help="Some of mobody,single,plain,alone,merged,target,source and morec, which is MOREC's dynamics reward; "
            "by default mobody,single,alone,merged,target."
        ),
    ] = None,
    holdout: Annotated[
        Literal["episodes", "fresh"],
        typer.Option(
            help="episodes: the last fifth of the target dataset, kept from the models; fresh: rows collected anew, "
            "models learn from the whole dataset as in offdyn train."
        ),
    ] = "episodes",
    rows: Annotated[int, typer.Option(min=1, help="Number of source rows to simulate in the target.")] = 20_000,
    source_rows: Annotated[int, typer.Option(min=0, help="Source rows to learn from; 0 for all.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs"),
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Device to use.")] = "auto",
    precision: Annotated[
        Literal["fp32", "bf16", "tf32"],
        typer.Option(help="As in offdyn train, whose models are then found again; tf32 on GPUs."),
    ] = "fp32",
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    json_output: Json = False,
) -> None:
    """Measure the error of learned target dynamics on held-out target rows and on re-simulated source rows.

    MOBODY's dynamics are compared with a model of the merged rows and a model of the target rows. morec shows how well
    MOREC's dynamics reward goes with the true error of candidates. For diagnosis, never for training.
    """
    import json

    from offdyn_agents.engine.settings import parse_overrides
    from offdyn_envs.tasks import get_task

    # What is misspelt is told before torch is imported, which takes seconds.
    overrides, names = parse_overrides(settings or []), [get_task(task).name for task in tasks]
    from offdyn_agents.engine.training.module import Hardware, choose_device
    from offdyn_agents.judging.models import MODELS, REWARD, USUAL, Terms
    from offdyn_envs.batching.threads import usable_threads
    from offdyn_envs.errors import unknown
    from offdyn_envs.report import print_table

    chosen = list(USUAL) if models is None else models.split(",")
    for name in chosen:
        if name not in (*MODELS, REWARD):
            raise unknown("model", name, (*MODELS, REWARD))
    hardware = Hardware(choose_device(device), precision, threads or usable_threads())
    terms = Terms(rows, source_rows, holdout)
    records: list[Record] = []
    for name in names:
        record = judge_task(name, chosen, seeds, overrides, terms, out, hardware, quiet)
        records.append(record)
        if not json_output:
            if record["errors"]:
                print_table(f"{name}: error of s' in units of its change, mean and 95% interval", table(record), False)
            if "reward" in record:
                print_table(f"{name}: {reward_title(record)}", reward_table(record), False)
            print(f"picture and figures: {out / name / 'judge'}")
    if json_output:
        print(json.dumps(records, indent=2, allow_nan=False))


def judge_task(
    name: str,
    models: Sequence[str],
    seeds: int,
    overrides: dict[str, str],
    terms: Terms,
    out: Path,
    hardware: Any,
    quiet: bool = False,
) -> Record:
    """Judge the dynamics of one task; writes `judge.json` and pictures into `out/name/judge`.

    The pictures are `judge.png`, where models are judged, and `reward.png`, where MOREC's dynamics reward is.

    Returns:
        The record that was written: settings, rows, errors of every model, exam and seed, of references, and what it
        was made with.
    """
    import time

    from offdyn_agents.algorithms.registry import agent_class
    from offdyn_agents.engine.provenance import made_by
    from offdyn_agents.engine.settings import build, to_json
    from offdyn_agents.judging.judge import judge_datasets
    from offdyn_agents.judging.models import REWARD, JudgeSettings
    from offdyn_agents.presets import preset
    from offdyn_envs import load_task
    from offdyn_envs.atomic import write_json
    from offdyn_envs.tasks import get_task

    own = {
        key: value
        for agent, part in (("mobody", "dynamics."), ("morec", "dynamics_reward."))
        for key, value in preset(agent_class(agent), get_task(name).robot).items()
        if key.startswith(part)
    }
    settings = build(JudgeSettings, own, overrides)
    env, source, target = load_task(name)
    env.close()
    begun = time.monotonic()
    chosen, reward_on = [model for model in models if model != REWARD], "merged" if REWARD in models else ""
    cache, seed_numbers = out / ".stages", range(seeds)
    record: Record = {
        "task": name,
        "source": str(source.id),
        "target": str(target.id),
        "settings": to_json(settings),
        **judge_datasets(
            source, target, settings, chosen, seed_numbers, terms, hardware, cache, reward_on=reward_on, quiet=quiet
        ),
        **made_by(_command(name, models, seeds, overrides, terms, hardware.precision), hardware.precision),
    }
    record["wall_clock_s"] = round(time.monotonic() - begun, 1)
    folder = out / name / "judge"
    write_json(folder / "judge.json", record)
    for line in pictures(record, folder, "judge.png"):
        print(f"{name}: {line}", file=sys.stderr, flush=True)
    return record


def _command(
    name: str, models: Sequence[str], seeds: int, overrides: Mapping[str, str], terms: Terms, precision: str
) -> str:
    """Return the command that makes a record from nothing."""
    import shlex

    words = ["offdyn", "diagnose", "judge", name, "--seeds", str(seeds), "--models", ",".join(models)]
    words += ["--holdout", terms.holdout, "--rows", str(terms.rows), "--precision", precision]
    words += ["--source-rows", str(terms.source_rows)] if terms.source_rows else []
    return shlex.join([*words, *(word for key, value in overrides.items() for word in ("--set", f"{key}={value}"))])


def pictures(record: Record, folder: Path, errors: str, reward: str = "reward.png") -> list[str]:
    """Draw what a record has figures of.

    Args:
        record: What `draw` and `draw_reward` take.
        folder: Where pictures go.
        errors: Name of the picture of errors.
        reward: Name of that of MOREC's dynamics reward.

    Returns:
        Why pictures could not be drawn, a line for each: figures are worth having without them.
    """
    from offdyn_envs.errors import OffDynError

    why: list[str] = []
    for key, name, drawing in (("errors", errors, draw), ("reward", reward, draw_reward)):
        if record.get(key):
            try:
                drawing(record, folder / name)
            except OffDynError as error:
                why.append(f"no {name}: {error}")
    return why


def table(record: Record) -> list[dict[str, Any]]:
    """Return one row per model and reference: errors with their intervals over seeds.

    Rewards and rank correlations are those of the source's state-actions.
    """
    from offdyn_agents.judging.models import MODELS

    rows: list[dict[str, Any]] = []
    for name, exams in record["errors"].items():
        row: dict[str, Any] = {"model": name, "what": MODELS[name]}
        for exam, figures in exams.items():
            row[exam] = _interval(_column(figures, "state"))
        for exam, figures in exams.items():
            row[f"MSE, {exam}"] = _interval(_column(figures, "mse"))
        row["reward"] = _interval(_column(exams["source state-actions"], "reward"))
        row["rank of spread"] = _interval(_column(exams["source state-actions"], "rank"))
        rows.append(row)
    for name in ("as in the source", "no change"):
        row = dict.fromkeys(rows[0] if rows else ("model", "what", *record["references"]))
        row |= {"model": "-", "what": name}
        row |= {exam: f"{found[name]:.3g}" for exam, found in record["references"].items() if name in found}
        rows.append(row)
    return rows


def summary(record: Mapping[str, Any]) -> list[str]:
    """Return a line for every model: the error of its next states in each exam, a mean over seeds.

    Args:
        record: What `judge_task` made, or what run.json has under `stages.judged`.
    """
    from offdyn_agents.judging.models import MODELS

    unit = "error of s' in units of its change"
    lines: list[str] = []
    for name, exams in record.get("errors", {}).items():
        columns = {exam: _column(figures, "state") for exam, figures in exams.items()}
        said = ", ".join(f"{sum(values) / len(values):.3g} on {exam}" for exam, values in columns.items())
        lines.append(f"{MODELS[name]}: {unit}: {said}")
    return lines


def reward_title(record: Record) -> str:
    """Return one line on a record's dynamics reward: what its table is about, and which conditions hold."""
    found = record["reward"]
    count = len(record["seeds"])
    holds = ", ".join(f"{what} ({sum(held)} of {count})" for what, held in found["holds"].items())
    return (
        f"r_D of {found['discriminators']} discriminators and true errors of candidates; {found['real']:.1%} of "
        f"held-out real transitions reach .6; seeds in which it holds: {holds}"
    )


def reward_table(record: Record) -> list[dict[str, Any]]:
    """Return one row per policy: correlation of r_D with the log of the error, and errors of candidates.

    "in a state" is the correlation among the candidates of one state, "refused" the share of states in which the
    highest r_D is below the threshold: means over seeds with their range. The errors, means with their intervals, are
    those of the candidate with the highest r_D, of a random one and of the lowest there is.
    """
    errors = {"highest r_D": "best", "random": "random", "lowest": "lowest"}
    return [
        {
            "policy": policy,
            "correlation": _range(_column(ranks, "correlation")),
            "in a state": _range(_column(ranks, "within")),
            **{f"error, {name}": _interval(_column(ranks, key)) for name, key in errors.items()},
            **({"refused": _range(_column(ranks, "refused"))} if "refused" in ranks[0] else {}),
        }
        for policy, ranks in record["reward"]["rankings"].items()
    ]


def _column(figures: Sequence[dict[str, Any]], key: str) -> list[float]:
    """Return one figure of every seed; NaN where it was not finite."""
    values = [one[key] for one in figures]
    return [math.nan if value is None else value for value in values]


def _range(values: Sequence[float]) -> str:
    """Return the mean of correlations and between what they lie: a t interval would go beyond 1."""
    mean = f"{sum(values) / len(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ({min(values):.2f} to {max(values):.2f})"


def _interval(values: Sequence[float]) -> str:
    from offdyn_envs.benchmark.scoring.statistics import t_interval

    mean = sum(values) / len(values)
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return f"{mean:.3g}"
    found = t_interval(values)
    return f"{mean:.3g} [{found.low:.3g}, {found.high:.3g}]"


def draw(record: Record, path: Path) -> None:
    """Draw the errors of every model: a dot per seed, a line at their mean; below, means for each dimension of s'.

    Args:
        record: What `judge_task` made; "task", "errors" and "references" are enough.
        path: The PNG file.

    Raises:
        OffDynError: matplotlib is not installed.
    """
    from offdyn_agents.judging.models import MODELS
    from offdyn_envs.figures import COLOURS, new_figure, save_figure

    errors, exams = record["errors"], list(record["references"])
    resolved = all("dimensions" in one for found in errors.values() for figures in found.values() for one in figures)
    heights = [1.7 + 0.5 * len(errors), *([3.4] if resolved else [])]
    figure = new_figure(figsize=(9.6, sum(heights)), layout="constrained")
    grid = {"height_ratios": heights}
    panels = figure.subplots(len(heights), len(exams), sharey="row", squeeze=False, gridspec_kw=grid)
    # A model has its colour in every picture, whichever others stand beside it.
    colours = dict(zip(MODELS, COLOURS, strict=False))
    for axes, exam in zip(panels[0], exams, strict=True):
        _draw_errors(axes, exam, errors, record["references"][exam], colours)
    panels[0, 0].invert_yaxis()
    for axes, exam in zip(panels[1] if resolved else (), exams if resolved else (), strict=True):
        _draw_dimensions(axes, exam, errors, _dimension_names(record), colours)
    handles = {line.get_label(): line for axes in panels.flat for line in axes.lines if line.get_label()[0] != "_"}
    figure.legend(handles.values(), handles.keys(), fontsize=8, ncols=6, loc="outside lower center", frameon=False)
    figure.suptitle(f"{record['task']}: learned target dynamics", fontsize=11)
    save_figure(figure, path, {"Software": None})


_REFERENCES = {"no change": ":", "as in the source": "--"}
"""Lines of what any model should beat, wherever it is drawn."""


def _draw_errors(
    axes: Any, exam: str, errors: Record, references: Mapping[str, float], colours: Mapping[str, str]
) -> None:
    for place, name in enumerate(errors):
        values = _column(errors[name][exam], "state")
        mean = sum(values) / len(values)
        axes.plot(values, [place] * len(values), "o", alpha=0.6, color=colours[name])
        axes.plot([mean, mean], [place - 0.3, place + 0.3], "-", color="black")
    for what, value in references.items():
        axes.axvline(value, linestyle=_REFERENCES.get(what, "-."), color="grey", label=what)
    axes.set_xscale("log")
    # Between decades labels would lie on each other; no change, 1, is always one.
    axes.tick_params(axis="x", which="minor", labelbottom=False)
    axes.set_yticks(range(len(errors)), list(errors))
    tidy(axes, exam, "squared error of s' in units of its change")


def _draw_dimensions(axes: Any, exam: str, errors: Record, names: Sequence[str], colours: Mapping[str, str]) -> None:
    """Draw a dot for each model and dimension: nothing lies between two dimensions, so no line joins them."""
    for name, found in errors.items():
        values = _by_dimension(found[exam])
        axes.plot(range(len(values)), values, "o", markersize=5, alpha=0.8, color=colours[name], label=name)
    axes.axhline(1.0, linestyle=_REFERENCES["no change"], color="grey")
    axes.set_yscale("log")
    count = len(_by_dimension(next(iter(errors.values()))[exam])) if errors else 0
    axes.set_xticks(range(count), names if len(names) == count else range(count), rotation=90)
    tidy(axes, "", "", "error of each dimension of s'")


def _dimension_names(record: Record) -> list[str]:
    """Return the names of the dimensions of a record's states; none where its task is not of this suite."""
    from offdyn_envs.differences import observation_names
    from offdyn_envs.errors import OffDynError
    from offdyn_envs.robots import get_robot
    from offdyn_envs.tasks import get_task

    try:
        return observation_names(get_robot(get_task(record["task"]).robot))
    except OffDynError:
        return []


def _by_dimension(figures: Sequence[dict[str, Any]]) -> list[float]:
    """Return the errors of each dimension, means over seeds; NaN where one does not move or was not finite."""
    columns = zip(*(one["dimensions"] for one in figures), strict=True)
    return [math.nan if None in column else sum(column) / len(column) for column in columns]


def draw_reward(record: Record, path: Path) -> None:
    """Draw true errors of candidates over r_D, one panel per policy: medians, and from the 10% to the 90% quantile.

    Args:
        record: What `judge_task` made; "task" and "reward" are enough.
        path: The PNG file.

    Raises:
        OffDynError: matplotlib is not installed.
    """
    from offdyn_envs.figures import COLOURS, new_figure, save_figure

    reward = record["reward"]
    columns = min(3, len(reward["bins"]))
    lines = -(-len(reward["bins"]) // columns)
    figure = new_figure(figsize=(9.6 / 3 * columns, 3.2 * lines + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for axes, (policy, bins) in zip(panels.flat, reward["bins"].items(), strict=False):
        low, median, high = ([math.nan if v is None else v for v in bins[key]] for key in ("low", "median", "high"))
        spread = {"alpha": 0.25, "linewidth": 0.0, "color": COLOURS[0], "label": "10% to 90% of candidates"}
        axes.fill_between(bins["r_D"], low, high, **spread)
        axes.plot(bins["r_D"], median, "o-", markersize=3, color=COLOURS[0], label="median")
        axes.axvline(reward["threshold"], linestyle="--", color="grey", label="threshold: below it, refused")
        axes.set_yscale("log")
        correlation = _range(_column(reward["rankings"][policy], "correlation"))
        tidy(axes, f"{policy}\ncorrelation {correlation}", "r_D")
    for axes in panels.flat[len(reward["bins"]) :]:
        axes.remove()
    for axes in panels[:, 0]:
        axes.set_ylabel("true error of candidates", fontsize=8)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=3, loc="outside lower center", frameon=False)
    figure.suptitle(f"{record['task']}: dynamics reward and true error", fontsize=11)
    save_figure(figure, path, {"Software": None})
