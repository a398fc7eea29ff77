"""Commands of `offdyn diagnose`, `offdyn examples` and `offdyn dev` whose programs import torch; these do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offdyn_agents.algorithms.registry import check_name
from offdyn_agents.engine.settings import parse_overrides
from offdyn_agents.runs.console import (
    PrecisionOption,
    QuietOption,
    SetOption,
    ThreadsOption,
    missing_agent,
    quiet_waiting,
    refuse_without_data,
    several_agents,
    task_names,
)
from offdyn_envs.commands.options import Json

if TYPE_CHECKING:
    from offdyn_agents.judging.rows_cells import Cell

__all__ = ["EXAMPLES", "PASSED_ON", "agents_table", "rates", "reward", "rollouts", "rows"]

PASSED_ON: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Of commands whose programs read their own arguments."""


def reward(
    name: Annotated[str, typer.Argument(help="A task, or a dataset that was collected in this simulator.")],
    seeds: Annotated[int, typer.Option(min=1, help="Models and rewards: seeds 0 to n - 1.")] = 1,
    rows: Annotated[
        int, typer.Option(min=0, help="Use only this many rows of the dataset, or of the task's source; 0 for all.")
    ] = 0,
    cache: Annotated[Path, typer.Option(help="Folder of results.")] = Path("runs/.stages"),
    settings: SetOption = None,
    threads: ThreadsOption = None,
    precision: PrecisionOption = "fp32",
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    json_output: Json = False,
) -> None:
    """Check the assumptions behind MOREC's dynamics reward, using the simulator. Never for training.

    Of a task, model and reward are those of offdyn train morec, and source rows are asked about too. --set takes the
    reward's settings by their own names, and all others as offdyn train morec does, for instance form=paper.
    """
    from offdyn_envs.tasks import DatasetId, get_task

    overrides = parse_overrides(settings or [])
    chosen = str(DatasetId.parse(name)) if "/" in name else get_task(name).name
    quiet_waiting()
    from offdyn_agents.engine.resources import Hardware
    from offdyn_agents.judging.conditions import check
    from offdyn_envs.batching.threads import usable_threads

    hardware = Hardware("cpu", precision, threads or usable_threads())
    record, found = check(chosen, overrides, range(seeds), rows, cache, hardware, quiet=quiet)
    if json_output:
        print(json.dumps(record, indent=2, allow_nan=False))
        return
    for seed, conditions in enumerate(found):
        print(f"{chosen}, seed {seed}" if seeds > 1 else chosen, *conditions.lines(), sep="\n")


def rollouts(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    starts: Annotated[int, typer.Option(min=1, help="Rollouts from rows of each dataset, and from resets.")] = 200,
    horizon: Annotated[
        int | None, typer.Option(min=1, help="Most steps of a rollout; by default the agent's own, or 100.")
    ] = None,
    threads: ThreadsOption = None,
    json_output: Json = False,
) -> None:
    """Run policies from states of source rows, target rows and resets, in the simulator and their learned model.

    A policy that does well from target rows and not from resets has not learned how an episode begins; where speed
    builds up, hold resets against the data's own return. Where one gets further in its model than in the simulator,
    it has learned to use the model's errors.
    """
    from offdyn_agents.runs.plans import read_run

    read_run(run)
    quiet_waiting()
    from offdyn_agents.runs.judging_rollouts import judge_rollouts, lines
    from offdyn_envs.batching.threads import usable_threads

    record = judge_rollouts(run, starts, threads or usable_threads(), horizon=horizon)
    print(json.dumps(record, indent=2) if json_output else "\n".join(lines(record)))


def rows(
    agent: Annotated[
        str | None, typer.Argument(metavar="AGENT", help="An agent that rates source rows before it is trained.")
    ] = None,
    tasks: Annotated[
        list[str] | None, typer.Argument(metavar="[TASK]...", help="Tasks; `offdyn tasks` lists them.")
    ] = None,
    agents: Annotated[
        str | None, typer.Option(metavar="all|A,B,...", help="Several agents; all: every one that rates source rows.")
    ] = None,
    track: Annotated[str | None, typer.Option(metavar="TRACK", help="All tasks of a track instead.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to n - 1 of the stages.")] = 1,
    settings: SetOption = None,
    source_rows: Annotated[
        int, typer.Option("--rows", min=2, help="Number of source rows to simulate in the target.")
    ] = 20_000,
    out: Annotated[Path, typer.Option(help="Folder of the results, and of cached stages.")] = Path("runs"),
    table: Annotated[
        str | None,
        typer.Option(
            metavar="PAGE",
            help="Compute nothing: write the tables of all results in --out into a Markdown page, between its two "
            "marks; - prints them, with --json as JSON.",
        ),
    ] = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
    json_output: Json = False,
) -> None:
    """Compare how agents rate source rows with their exact dynamics gap, before any policy is trained.

    A good filter rates rows with a small gap higher: its rank correlation is near -1, and the rows that it keeps have
    a smaller gap than all. The oracle ranks by the gap itself. Repeat the command to resume an interrupted one. For
    diagnosis, never for training.
    """
    if table is not None:
        _write_tables(table, out, json_output)
        return
    # What is misspelt is told before torch is imported, which takes seconds.
    if agents is not None:
        # Without the agent's name the first word is a task.
        tasks, names = [*([agent] if agent else []), *(tasks or [])], several_agents(agents, {"--set": settings})
    else:
        names = (check_name(agent or missing_agent()),)
    overrides, titles = parse_overrides(settings or []), task_names(tasks or [], track)
    refuse_without_data(titles)
    quiet_waiting()
    from offdyn_agents.judging.rows_cells import diagnose_cells, make_cell, rates_rows
    from offdyn_envs.batching.threads import usable_threads

    # All of them first: what is wrong with the last is told before the first takes hours.
    rating = [name for name in names if agents != "all" or rates_rows(name, titles[0])]
    cells = [make_cell(name, title, overrides, range(seeds), source_rows, out) for name in rating for title in titles]
    report = None if json_output else _tell_cell
    records = diagnose_cells(cells, threads or usable_threads(), quiet, report)
    if json_output:
        print(json.dumps(records, indent=2, allow_nan=False))


def _tell_cell(cell: Cell, record: dict[str, Any], fresh: bool) -> None:
    from offdyn_agents.judging.rows_report import actions_table, rows_table, title_of
    from offdyn_envs.report import print_table

    title = f"{cell.task}: source rows as {title_of(record)} rates them beside their exact dynamics gap"
    print_table(title, rows_table(record), False)
    if moved := actions_table(record):
        print_table("changed actions, simulated in the target", moved, False)
    print(f"{'picture and figures' if fresh else 'there already'}: {cell.path}")


def _write_tables(page: str, out: Path, json_output: bool) -> None:
    from offdyn_agents.judging.rows_page import collect, lines, markdown, write_tables

    if json_output:
        print(json.dumps(lines(collect(out)), indent=2, allow_nan=False))
    elif page == "-":
        print(markdown(collect(out)))
    else:
        write_tables(Path(page), out)
        print(page)


def agents_table(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A Markdown file with the table's two marks.")],
) -> None:
    """Update a page's table of agents."""
    from offdyn_agents.algorithms.table import main

    main(file)
    typer.echo(file)


def rates(
    runs: Annotated[list[Path], typer.Argument(help="Ended runs, or folders of them.")],
    updates: Annotated[
        Path | None, typer.Option(help="What `python benchmarks/agents.py --json` printed, for agents without a run.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; the package's own by default.")] = None,
) -> None:
    """Write what a seed-update of each agent took on each robot, from which `train --plan` estimates."""
    from offdyn_agents.runs.rates import PLACE, write_rates

    table = write_rates(runs, updates, out or PLACE)
    typer.echo(f"{out or PLACE}: {len(table['rates'])} rates, {len(table['times_iql'])} agents beside IQL")


def _pusher(ctx: typer.Context) -> None:
    """Collect data of a robot outside this suite: Gymnasium's Pusher."""
    from offdyn_agents.examples.pusher import main

    main(ctx.args)


def _refrigerator(ctx: typer.Context) -> None:
    """Compare plain and filtered rollouts of a learned refrigerator model."""
    from offdyn_agents.examples.refrigerator.__main__ import main

    main(ctx.args)


EXAMPLES = {"pusher": _pusher, "refrigerator": _refrigerator}
