"""`offdyn ablate`: a study's variants as a table, a record, a page of Markdown and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offdyn_agents.ablations.studies import STUDIES
from offdyn_agents.engine.settings import DEFAULT_UPDATES
from offdyn_agents.runs.console import (
    DEFAULT_EVERY,
    DEFAULT_SEEDS,
    DeviceOption,
    EveryOption,
    PrecisionOption,
    QuietOption,
    ScheduleOption,
    SeedsOption,
    SetOption,
    ThreadsOption,
    UpdatesOption,
)
from offdyn_envs.commands.options import Json

if TYPE_CHECKING:
    from offdyn_agents.ablations.studies import Study
    from offdyn_agents.runs.plans import Plan
    from offdyn_agents.runs.track import Trained

__all__ = ["ablate", "draw_record", "markdown", "read_record", "record_rows", "study_rows", "write_record"]

Record = Mapping[str, Any]


def ablate(
    study: Annotated[str | None, typer.Argument(help=f"One of {', '.join(STUDIES)}.")] = None,
    tasks: Annotated[list[str] | None, typer.Argument(help="Tasks; `offdyn tasks` lists them.")] = None,
    track: Annotated[str | None, typer.Option(help="All tasks of a track instead.")] = None,
    variants: Annotated[
        list[str] | None, typer.Option("--variant", metavar="NAME", help="Only this variant; repeatable.")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Show the studies, or the variants of one, and exit.")] = False,
    seeds: SeedsOption = DEFAULT_SEEDS,
    updates: UpdatesOption = DEFAULT_UPDATES,
    settings: SetOption = None,
    episodes: Annotated[int | None, typer.Option(min=1, help="Clean episodes of every policy; 100 by default.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs; tables go to OUT/ablations.")] = Path("runs"),
    eval_every: EveryOption = DEFAULT_EVERY,
    schedule: ScheduleOption = "cosine",
    precision: PrecisionOption = "fp32",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    together: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of variants trained at once; default as in offdyn train.")
    ] = None,
    dynamics_only: Annotated[
        bool,
        typer.Option(
            "--dynamics-only",
            help="Train no policy: judge the dynamics of those variants that differ in them, as offdyn diagnose judge "
            "--holdout fresh does.",
        ),
    ] = False,
    quiet: QuietOption = False,
    json_output: Json = False,
) -> None:
    """Run an ablation: train and evaluate every variant of a method. Repeat the command to resume."""
    import json

    from offdyn_agents.ablations.studies import get_study, joined, run_study
    from offdyn_agents.runs.console import quiet_waiting, task_names
    from offdyn_envs.errors import OffDynError
    from offdyn_envs.report import print_table

    if show:
        print_table("Studies", study_rows(study), json_output)
        return
    if study is None:
        raise OffDynError("name a study and its tasks; `offdyn ablate --list` shows the studies")
    chosen = get_study(study).only(variants or [])
    names = task_names(tasks or [], track)
    quiet_waiting()
    from offdyn_agents.engine.settings import parse_overrides
    from offdyn_agents.engine.training.module import Hardware, choose_device
    from offdyn_agents.runs.evaluation import EvaluationPlan
    from offdyn_agents.runs.runs import Plan
    from offdyn_envs.batching.threads import usable_threads
    from offdyn_envs.benchmark.scoring import protocol

    hardware = Hardware(choose_device(device), precision, threads or usable_threads())
    budget = hardware.budget(updates, eval_every, schedule)
    overrides = parse_overrides(settings or [])
    plans = [Plan(chosen.agent, name, seeds, overrides, budget, hardware, out, quiet) for name in names]
    if dynamics_only:
        _judge_only(chosen, plans, json_output)
        return
    evaluation = EvaluationPlan(episodes or protocol.CLEAN_EPISODES, 1, hardware.threads, quiet)
    report = _say_nothing if json_output else _report
    record = joined(run_study(chosen, plans, evaluation, report, together or 0), read_record(study, out / "ablations"))
    files = write_record(record, out / "ablations")
    if json_output:
        print(json.dumps(record, indent=2, allow_nan=False))
        return
    print_table(_title(record), record_rows(record), False)
    if record["over tasks"]:
        print_table("Over tasks", _over_tasks(record), False)
    print(f"table: {', '.join(map(str, files))}")


def _judge_only(study: Study, plans: Sequence[Plan], json_output: bool) -> None:
    import json

    from offdyn_agents.ablations.dynamics import dynamics_rows, judge_study, title
    from offdyn_envs.atomic import write_json
    from offdyn_envs.report import print_table

    folder, name = plans[0].out / "ablations", f"{study.name}-dynamics"
    record = judge_study(
        study, plans, read_record(name, folder), lambda done: write_json(folder / f"{name}.json", done)
    )
    if json_output:
        print(json.dumps(record, indent=2, allow_nan=False))
        return
    print_table(title(record), dynamics_rows(record), False)
    print(f"table: {folder / name}.json")


def study_rows(name: str | None = None) -> list[dict[str, Any]]:
    """Return one row for each study's every variant.

    Args:
        name: Of one study; None for all.

    Raises:
        OffDynError: No such study.
    """
    from offdyn_agents.ablations.studies import STUDIES, get_study

    chosen: Sequence[Study] = list(STUDIES.values()) if name is None else [get_study(name)]
    return [
        {
            "study": study.name,
            "agent": study.agent,
            "variant": variant.name,
            "what": variant.about,
            "settings": " ".join(f"{key}={value}" for key, value in variant.settings.items()),
        }
        for study in chosen
        for variant in study.variants
    ]


def record_rows(record: Record) -> list[dict[str, Any]]:
    """Return the rows of a record's table: means over seeds with 95% t intervals.

    Args:
        record: What `run_study` made.
    """
    count = len(record["seeds"])
    return [
        {
            "task": row["task"],
            "variant": row["variant"],
            "what": row["about"],
            "seeds": f"{len(row['returns'])} of {count}, others diverged" if row["stopped"] else str(count),
            "return": _estimate(row["return"]),
            "score": _estimate(row["score"]),
        }
        for row in record["rows"]
    ]


def read_record(study: str, folder: Path) -> dict[str, Any]:
    """Return the record of a study that lies in a folder; nothing where there is none that can be read."""
    import json

    try:
        found: Any = json.loads((folder / f"{study}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_record(record: Record, out: Path) -> list[Path]:
    """Write a record as JSON, Markdown and, where matplotlib is installed, a picture, named after the study.

    Args:
        record: What `run_study` made.
        out: The folder.

    Returns:
        The files.
    """
    from importlib.util import find_spec

    from offdyn_envs.atomic import write_json, write_text

    files = [out / f"{record['study']}.{ending}" for ending in ("json", "md", "png")]
    write_json(files[0], record)
    write_text(files[1], markdown(record))
    if find_spec("matplotlib") is None:
        # The picture of an earlier table would belie this one.
        files[2].unlink(missing_ok=True)
        return files[:2]
    draw_record(record, files[2])
    return files


def markdown(record: Record) -> str:
    """Return a record as a page of Markdown: what was asked, the table, and what the seeds returned.

    Args:
        record: What `run_study` made.
    """
    given = "".join(f" --set {key}={value}" for key, value in record["settings"].items())
    lines = [
        f"# {_title(record)}",
        "",
        f"{record['about'][0].upper()}{record['about'][1:]}.",
        "",
        f"{record['updates']:,} updates{given}, {record['precision']}, {len(record['seeds'])} seeds; final policies, "
        f"deterministic actions, {record['episodes']} episodes a seed; means over seeds with 95% t intervals; "
        "scores are normalised.",
        "",
        *_table(record_rows(record)),
    ]
    if record["over tasks"]:
        lines += ["", "Interquartile mean over tasks and seeds, 95% stratified bootstrap interval:", ""]
        lines += _table(_over_tasks(record))
    lines += ["", "Mean return of every seed:", ""]
    lines += [
        f"- {row['task']}, {row['variant']}: {', '.join(f'{value:.1f}' for value in row['returns'].values()) or '-'}"
        for row in record["rows"]
    ]
    return "\n".join(lines) + "\n"


def draw_record(record: Record, path: Path) -> None:
    """Draw a dot for every seed, their mean and its interval; one panel for every task.

    Args:
        record: What `run_study` made.
        path: The PNG file.

    Raises:
        OffDynError: matplotlib is not installed.
    """
    from offdyn_envs.figures import new_figure, save_figure

    tasks: list[str] = record["tasks"]
    columns = min(3, len(tasks))
    lines = -(-len(tasks) // columns)
    most = max(sum(row["task"] == task for row in record["rows"]) for task in tasks)
    figure = new_figure(figsize=(1.6 + 3.6 * columns, lines * (1.2 + 0.3 * most)), layout="constrained")
    panels: list[Any] = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, task in zip(panels, tasks, strict=False):
        _draw_task(axes, task, [row for row in record["rows"] if row["task"] == task])
    for axes in panels[len(tasks) :]:
        axes.remove()
    figure.suptitle(_title(record), fontsize=10)
    save_figure(figure, path, {"Software": None})


def _draw_task(axes: Any, task: str, rows: Sequence[Record]) -> None:
    from offdyn_envs.figures import COLOURS, tidy

    scored = any(row["score"] for row in rows)
    for place, row in enumerate(rows):
        values, found = (row["scores"], row["score"]) if scored else (row["returns"], row["return"])
        axes.plot(list(values.values()), [place] * len(values), "o", alpha=0.5, markersize=4, color=COLOURS[0])
        if found:
            axes.plot([found["mean"]] * 2, [place - 0.3, place + 0.3], "-", color="black")
        if found and found["low"] is not None:
            axes.plot([found["low"], found["high"]], [place] * 2, "-", color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row["variant"] for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    tidy(axes, task, "normalised score" if scored else "return")


def _title(record: Record) -> str:
    return f"{record['study']}: {record['agent']} at {record['updates']:,} updates"


def _over_tasks(record: Record) -> list[dict[str, Any]]:
    return [
        {
            "variant": row["variant"],
            "tasks": row["tasks"],
            "score": _estimate({"mean": row["iqm"], "low": row["low"], "high": row["high"]}),
        }
        for row in record["over tasks"]
    ]


def _estimate(found: Mapping[str, float | None] | None) -> str:
    if found is None:
        return "-"
    if found["low"] is None:
        return f"{found['mean']:.1f}"
    return f"{found['mean']:.1f} [{found['low']:.1f}, {found['high']:.1f}]"


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def _say_nothing(outcome: Trained) -> None:
    del outcome


def _report(outcome: Trained) -> None:
    facts, folder = outcome.facts, outcome.plan.folder
    print(f"{folder}: {facts['status'] if outcome.fresh else 'already ' + facts['status']}", flush=True)
