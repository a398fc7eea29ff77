"""`offdyn judge`: the errors of learned target dynamics as a table, a record and a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["draw", "judge_command", "table"]

Record = dict[str, Any]


def judge_command(
    tasks: Annotated[list[str], typer.Argument(help="Tasks; `offdyn tasks` lists them.")],
    seeds: Annotated[int, typer.Option(min=1, help="Models of each kind: seeds 0 to n - 1.")] = 3,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="dynamics.* of MOBODY or ensemble.*; may be repeated."),
    ] = None,
    models: Annotated[
        str | None, typer.Option(help="Some of mobody,single,alone,merged,target [default: all].")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Source rows that are simulated again in the target.")] = 20_000,
    source_rows: Annotated[int, typer.Option(min=0, help="Source rows to learn from; 0 for all.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs"),
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads [default: all].")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Judge learned target dynamics by target rows nobody saw and by the exact outcomes of source state-actions.

    MOBODY's dynamics stand beside one model of the merged rows and one of the target rows alone. For diagnosis, never
    for training.
    """
    import json

    from offdyn_agents.judging import MODELS
    from offdyn_agents.plans import cpu_threads
    from offdyn_agents.settings import parse_overrides
    from offdyn_agents.training import Hardware, choose_device
    from offdyn_envs.errors import unknown
    from offdyn_envs.report import print_table
    from offdyn_envs.tasks import get_task

    chosen = list(MODELS) if models is None else models.split(",")
    for name in chosen:
        if name not in MODELS:
            raise unknown("model", name, MODELS)
    hardware = Hardware(choose_device(device), threads=threads or cpu_threads())
    overrides, names = parse_overrides(settings or []), [get_task(task).name for task in tasks]
    records: list[Record] = []
    for name in names:
        record = judge_task(name, chosen, seeds, overrides, rows, source_rows, out, hardware, quiet)
        records.append(record)
        if not json_output:
            print_table(f"{name}: error of s' in units of its change, mean and 95% interval", table(record), False)
            print(f"picture and figures: {out / name / 'judge'}")
    if json_output:
        print(json.dumps(records, indent=2, allow_nan=False))


def judge_task(
    name: str,
    models: Sequence[str],
    seeds: int,
    overrides: dict[str, str],
    rows: int,
    source_rows: int,
    out: Path,
    hardware: Any,
    quiet: bool = False,
) -> Record:
    """Judge the dynamics of one task; writes `judge.json` and `judge.png` into `out/name/judge`.

    Returns:
        The record that was written: settings, rows, errors of every model, exam and seed, and of references.
    """
    import time

    from offdyn_agents.data import Layout
    from offdyn_agents.exams import references, set_paper
    from offdyn_agents.judging import JudgeSettings, judge
    from offdyn_agents.provenance import package_versions
    from offdyn_agents.settings import build, preset, to_json
    from offdyn_agents.stages import StageContext
    from offdyn_envs import load_task
    from offdyn_envs.atomic import write_json
    from offdyn_envs.tasks import get_task

    own = {key: value for key, value in preset("mobody", get_task(name).robot).items() if key.startswith("dynamics.")}
    settings = build(JudgeSettings, own, overrides)
    env, source, target = load_task(name)
    env.close()
    paper = set_paper(source, target, rows, source_rows, threads=hardware.threads, quiet=quiet)
    layout = Layout(source.observations.shape[1], source.actions.shape[1])
    context = StageContext(
        layout,
        paper.source.to(hardware.device),
        paper.target.to(hardware.device),
        tuple(range(seeds)),
        0,
        cache=out / ".stages",
        threads=hardware.threads,
        compiled=hardware.compiled,
        quiet=quiet,
    )
    exams = {exam: type(asked)(*(part.to(hardware.device) for part in asked)) for exam, asked in paper.exams.items()}
    begun = time.monotonic()
    record: Record = {
        "task": name,
        "source": str(source.id),
        "target": str(target.id),
        "settings": to_json(settings),
        "rows": {
            "source": len(paper.source),
            "target": len(paper.target),
            "invalid": paper.invalid,
            **{exam: len(asked.rewards) for exam, asked in exams.items()},
        },
        "references": references(paper),
        "errors": judge(paper._replace(exams=exams), settings, context, models),
        "versions": package_versions("offdyn", "torch", "mujoco", "numpy"),
    }
    record["wall_clock_s"] = round(time.monotonic() - begun, 1)
    write_json(out / name / "judge" / "judge.json", record)
    draw(record, out / name / "judge" / "judge.png")
    return record


def table(record: Record) -> list[dict[str, Any]]:
    """Return one row per model and reference: errors with their intervals over seeds.

    Rewards and rank correlations are those of the source's state-actions.
    """
    from offdyn_agents.judging import MODELS

    rows: list[dict[str, Any]] = []
    for name, exams in record["errors"].items():
        row: dict[str, Any] = {"model": name, "what": MODELS[name]}
        for exam, figures in exams.items():
            row[exam] = _interval([one["state"] for one in figures])
        for exam, figures in exams.items():
            row[f"MSE, {exam}"] = _interval([one["mse"] for one in figures])
        row["reward"] = _interval([one["reward"] for one in exams["source state-actions"]])
        row["rank of spread"] = _interval([one["rank"] for one in exams["source state-actions"]])
        rows.append(row)
    for name in ("as in the source", "no change"):
        row = dict.fromkeys(rows[0] if rows else ("model", "what", *record["references"]))
        row |= {"model": "-", "what": name}
        row |= {exam: f"{found[name]:.3g}" for exam, found in record["references"].items() if name in found}
        rows.append(row)
    return rows


def _interval(values: Sequence[float]) -> str:
    from offdyn_envs.benchmark.statistics import t_interval

    mean = sum(values) / len(values)
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return f"{mean:.3g}"
    found = t_interval(values)
    return f"{mean:.3g} [{found.low:.3g}, {found.high:.3g}]"


def draw(record: Record, path: Path) -> None:
    """Draw the errors of every model: a dot per seed, a line at their mean, one panel per exam.

    Args:
        record: What `judge_task` made.
        path: The PNG file.

    Raises:
        OffDynError: matplotlib is not installed.
    """
    from offdyn_envs.figures import new_figure, save_figure

    errors, exams = record["errors"], list(record["references"])
    figure = new_figure(figsize=(9.6, 1.2 + 0.5 * len(errors)), layout="constrained")
    for axes, exam in zip(figure.subplots(1, len(exams), sharey=True), exams, strict=True):
        for place, name in enumerate(errors):
            values = [one["state"] for one in errors[name][exam]]
            mean = sum(values) / len(values)
            axes.plot(values, [place] * len(values), "o", alpha=0.6)
            axes.plot([mean, mean], [place - 0.3, place + 0.3], "-", color="black")
        for (what, value), style in zip(record["references"][exam].items(), (":", "--"), strict=False):
            axes.axvline(value, linestyle=style, color="grey", label=what)
        axes.set(title=exam, xlabel="squared error of s' in units of its change", xscale="log")
        axes.set_yticks(range(len(errors)), list(errors))
        axes.legend(fontsize=8)
    figure.axes[0].invert_yaxis()
    figure.suptitle(f"{record['task']}: learned target dynamics", fontsize=10)
    save_figure(figure, path)
