"""`offdyn diagnose rows`: what a method says of source rows beside their exact dynamics gap, before it is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from offdyn_envs.commands.options import Json
from offdyn_envs.errors import OffDynError

__all__ = ["diagnose_rows", "draw_rows", "rows_command", "rows_table"]

Record = dict[str, Any]


def rows_command(
    agent: Annotated[str, typer.Argument(help="An agent that rates source rows before it is trained.")],
    tasks: Annotated[list[str], typer.Argument(help="Tasks; `offdyn tasks` lists them.")],
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to n - 1 of the stages.")] = 1,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the agent; may be repeated.")
    ] = None,
    rows: Annotated[int, typer.Option(min=2, help="Number of source rows to simulate in the target.")] = 20_000,
    out: Annotated[Path, typer.Option(help="Folder of the results, and of cached stages.")] = Path("runs"),
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    json_output: Json = False,
) -> None:
    """Compare how an agent rates source rows with their exact dynamics gap, before any policy is trained.

    A good filter rates rows with a small gap higher: its rank correlation is near -1, and the better half of the rows
    has a smaller gap than all. The oracle ranks by the gap itself. For diagnosis, never for training.
    """
    from offdyn_agents.algorithms.registry import check_name
    from offdyn_agents.engine.settings import parse_overrides
    from offdyn_envs.batching.threads import usable_threads
    from offdyn_envs.report import print_table
    from offdyn_envs.tasks import get_task

    # What is misspelt is told before torch is imported, which takes seconds.
    agent = check_name(agent)
    overrides, names = parse_overrides(settings or []), [get_task(task).name for task in tasks]
    records: list[Record] = []
    for name in names:
        record = diagnose_rows(agent, name, range(seeds), overrides, rows, out, threads or usable_threads(), quiet)
        records.append(record)
        if not json_output:
            print_table(f"{name}: {agent}'s source rows beside their exact dynamics gap", rows_table(record), False)
            print(f"picture and figures: {out / name / 'rows'}")
    if json_output:
        print(json.dumps(records, indent=2, allow_nan=False))


def diagnose_rows(
    agent: str,
    task: str,
    seeds: Sequence[int],
    overrides: Mapping[str, str],
    rows: int,
    out: Path,
    threads: int,
    quiet: bool = True,
) -> Record:
    """Run an agent's stages and grade its columns; writes `AGENT.json` and `AGENT.png` into `out/task/rows`.

    Args:
        agent: Its name.
        task: A task whose source has simulator states.
        seeds: Seeds of the stages.
        overrides: Settings by dotted names, before those of the preset.
        rows: Source rows that are simulated again.
        out: Folder of results; stages are cached where `offdyn train --out` finds them.
        threads: CPU threads.
        quiet: Show no progress.

    Returns:
        The record that was written: settings, seconds, and for each seed and column the figures of
        `RowColumns.figures` and `grade`; those of the oracle.

    Raises:
        OffDynError: The agent says nothing of source rows, a stage failed, or the source has no simulator states.
    """
    import time

    from offdyn_agents.algorithms.registry import agent_class
    from offdyn_agents.engine.resources import Budget, Hardware
    from offdyn_agents.engine.settings import chosen, to_json
    from offdyn_agents.engine.training.supplies import TaskRuns, make_supply
    from offdyn_agents.judging.judge import plain_json
    from offdyn_agents.judging.rows import ORACLE, grade, grade_columns, measured
    from offdyn_envs import load_task
    from offdyn_envs.atomic import write_json
    from offdyn_envs.tasks import get_task

    kind = agent_class(agent)
    env, source, target = load_task(task)
    env.close()
    own = kind(
        chosen(kind, get_task(task).robot, overrides=overrides), source.observations.shape[1], source.actions.shape[1]
    )
    if not own.needs_source:
        raise OffDynError(f"agent '{agent}' learns from no source rows (data={own.settings.data}); merged is needed")
    begun = time.monotonic()
    runs = TaskRuns(source, target, tuple(seeds), out / task / "rows", task, get_task(task).robot)
    hardware = Hardware(threads=threads)
    provision = make_supply(own, [runs], Budget(1), hardware, quiet=quiet, cache=out / ".stages")
    columns = provision.supply.columns
    for place, why in provision.failed.items():
        raise OffDynError(f"{task}: seed {runs.seeds[place]}: {why}")
    if not columns or not any(column.named() for column in columns):
        raise OffDynError(
            f"agent '{agent}' says nothing of source rows before it is trained; there is nothing to grade"
        )
    seconds = round(time.monotonic() - begun, 1)
    gap = measured(source, target, rows, threads=threads)
    sizes = gap.sizes[gap.valid]
    found = [
        {name: {**column.figures()[name], **grades} for name, grades in grade_columns(column, gap).items()}
        for column in columns
    ]
    record: Record = {
        "task": task,
        "agent": agent,
        "settings": to_json(own.settings),
        "seeds": list(seeds),
        "rows": {"asked": len(gap), "valid": len(sizes)},
        "stages_s": seconds,
        "mean_gap": float(sizes.mean()),
        "columns": found,
        ORACLE: grade(-sizes, sizes),
    }
    folder = runs.folder
    folder.mkdir(parents=True, exist_ok=True)
    record = plain_json(record)
    write_json(folder / f"{agent}.json", record)
    draw_rows(record, folder / f"{agent}.png")
    return record


def rows_table(record: Record) -> list[dict[str, Any]]:
    """Return a line for each column, means over seeds, and one for the oracle."""
    found: list[dict[str, Any]] = []
    for name in record["columns"][0]:
        grades = [run[name] for run in record["columns"]]
        line: dict[str, Any] = {"column": name}
        for label, key in (("mean", "mean"), ("spread", "std"), ("kept", "share")):
            numbers = [grade[key] for grade in grades if key in grade]
            line[label] = f"{sum(numbers) / len(numbers):.3g}" if numbers else "-"
        correlations = [grade["rank_correlation"] for grade in grades]
        line["rank correlation with the gap"] = _mean(correlations)
        line["gap of the better half"] = _mean([grade["better_half"] for grade in grades])
        found.append(line)
    oracle = record["oracle"]
    nothing = {"mean": "-", "spread": "-", "kept": "-"}
    best = {"rank correlation with the gap": "-1", "gap of the better half": f"{oracle['better_half']:.3g}"}
    return [*found, {"column": "oracle", **nothing, **best}]


def _mean(numbers: Sequence[float | None]) -> str:
    known = [number for number in numbers if number is not None]
    return f"{sum(known) / len(known):.3g}" if known else "constant"


def draw_rows(record: Record, path: Path) -> None:
    """Draw the mean gap of rows by how much is said of them, a panel for each column, beside the oracle's.

    Args:
        record: What `diagnose_rows` made.
        path: The PNG file.

    Raises:
        OffDynError: matplotlib is not installed.
    """
    from offdyn_envs.figures import COLOURS, EXPERT, new_figure, save_figure, tidy

    names, best = list(record["columns"][0]), record["oracle"]["bins"]
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = new_figure(figsize=(3.4 * columns, 3.2 * lines + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
    places = [(part + 0.5) / len(best) for part in range(len(best))]
    for axes, name in zip(panels.flat, names, strict=False):
        for run in record["columns"]:
            axes.plot(
                places, run[name]["bins"], "o-", markersize=3, linewidth=0.9, color=COLOURS[0], label=record["agent"]
            )
        axes.plot(places, best, "--", color=EXPERT, label="oracle")
        axes.axhline(1.0, linestyle=":", color="grey", label="no filter")
        axes.set_yscale("log")
        correlation = _mean([run[name]["rank_correlation"] for run in record["columns"]])
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
