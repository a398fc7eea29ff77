"""Commands of `offdyn diagnose`, `offdyn examples` and `offdyn dev` whose programs import torch; these do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from offdyn_agents.engine.settings import parse_overrides
from offdyn_agents.runs.console import SetOption, ThreadsOption, quiet_waiting
from offdyn_envs.commands.options import Json

__all__ = ["EXAMPLES", "PASSED_ON", "agents_table", "rates", "reward", "rollouts"]

PASSED_ON: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Of commands whose programs read their own arguments."""


def reward(
    dataset: Annotated[str, typer.Argument(help="A dataset that was collected in this simulator.")],
    rows: Annotated[int, typer.Option(min=0, help="Use only this many rows from the start; 0 for all.")] = 0,
    cache: Annotated[Path, typer.Option(help="Folder of results.")] = Path("runs/.stages"),
    settings: SetOption = None,
    json_output: Json = False,
) -> None:
    """Check the assumptions behind MOREC's dynamics reward on a dataset, using the simulator. Never for training."""
    from offdyn_envs.tasks import DatasetId

    overrides, name = parse_overrides(settings or []), str(DatasetId.parse(dataset))
    quiet_waiting()
    from dataclasses import asdict

    from offdyn_agents.engine.settings import build, to_json
    from offdyn_agents.models.dynamics_reward.conditions import check
    from offdyn_agents.models.dynamics_reward.settings import DynamicsRewardSettings

    chosen = build(DynamicsRewardSettings, overrides)
    found = check(name, chosen, cache, rows)
    if json_output:
        record = {"dataset": name, "settings": to_json(chosen), **asdict(found), "holds": found.holds()}
        print(json.dumps(record, indent=2))
    else:
        print(name, *found.lines(), sep="\n")


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
