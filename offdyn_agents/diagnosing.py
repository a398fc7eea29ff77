"""Commands of `offdyn diagnose`, `offdyn examples` and `offdyn dev` whose programs import torch; these do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from offdyn_agents.engine.settings import parse_overrides
from offdyn_agents.runs.console import PrecisionOption, SetOption, ThreadsOption, quiet_waiting
from offdyn_envs.commands.options import Json

__all__ = ["EXAMPLES", "PASSED_ON", "agents_table", "reward", "rollouts"]

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
    run: Annotated[Path, typer.Argument(help="Folder of a finished run of MOPO, MOBILE or MOREC.")],
    starts: Annotated[int, typer.Option(min=1, help="Rollouts from rows of each dataset.")] = 200,
    threads: ThreadsOption = None,
    json_output: Json = False,
) -> None:
    """Run policies in their learned model and in the simulator, from the same states."""
    from offdyn_agents.runs.plans import read_run

    read_run(run)
    quiet_waiting()
    from offdyn_agents.runs.judging_rollouts import judge_rollouts, lines
    from offdyn_envs.batching.threads import usable_threads

    record = judge_rollouts(run, starts, threads or usable_threads())
    print(json.dumps(record, indent=2) if json_output else "\n".join(lines(record)))


def agents_table(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A Markdown file with the table's two marks.")],
) -> None:
    """Update a page's table of agents."""
    from offdyn_agents.algorithms.table import main

    main(file)
    typer.echo(file)


def _pusher(ctx: typer.Context) -> None:
    """Collect data of a robot outside this suite: Gymnasium's Pusher."""
    from offdyn_agents.examples.pusher import main

    main(ctx.args)


def _refrigerator(ctx: typer.Context) -> None:
    """Compare plain and filtered rollouts of a learned refrigerator model."""
    from offdyn_agents.examples.refrigerator.__main__ import main

    main(ctx.args)


EXAMPLES = {"pusher": _pusher, "refrigerator": _refrigerator}
