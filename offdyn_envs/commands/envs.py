"""`offdyn envs` and `offdyn tasks`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from offdyn_envs.commands.options import Filter, Json, RobotOption, ShiftOption, TrackOption, examples
from offdyn_envs.robots import ROBOTS
from offdyn_envs.verification.commands import envs_verify

if TYPE_CHECKING:
    from offdyn_envs.datasets.describing.states import Remedy, Time

__all__ = ["app", "tasks", "time_of"]


def _unknown(remedy: Remedy) -> str:
    """Say nothing of a remedy's time."""
    del remedy
    return ""


time_of: Time = _unknown
"""How long it takes to train policies that are missing; the agents' commands, which train them, put theirs here."""

app = typer.Typer(help="Environments: list them, show what a shift changes, and verify it.", no_args_is_help=True)


app.command("verify")(envs_verify)


@app.command("list", epilog=examples("offdyn envs list --robot hopper --shift gravity", "offdyn envs list --json"))
def envs_list(robot: RobotOption = None, shift: ShiftOption = None, json_output: Json = False) -> None:
    """List all named environments with the size of their shift."""
    from offdyn_envs.report import environment_rows, print_table

    wanted, names = Filter(robot, shift), {one.title: one.name for one in ROBOTS.values()}
    rows = [row for row in environment_rows() if wanted.dynamics(names.get(row["robot"], ""), row["dynamics"])]
    shown = ("id", "changes", "share changed", "shift size")
    print_table(
        f"{len(rows)} environments",
        rows if json_output else [{key: row[key] for key in shown} for row in rows],
        json_output,
    )


@app.command("show", epilog=examples("offdyn envs show Hopper-gravity-0.5"))
def envs_show(
    name: Annotated[str, typer.Argument(help="An environment, for instance Hopper-gravity-0.5.")],
    json_output: Json = False,
) -> None:
    """Describe an environment and what its shift changes."""
    from offdyn_envs.report import describe_environment, print_record

    print_record(name, describe_environment(name), json_output)


def tasks(
    robot: RobotOption = None,
    track: TrackOption = None,
    shift: ShiftOption = None,
    available: Annotated[bool, typer.Option("--available", help="Only tasks whose data are ready.")] = False,
    json_output: Json = False,
) -> None:
    """List tasks, and whether their data are ready, can be built, lack a behaviour policy, or have no replay.

    A task is a source dataset, a scarce target dataset and the environment that scores. --json also tells these, and
    the returns that scores are measured by.
    """
    from offdyn_envs.benchmark.scoring.scores import load_references
    from offdyn_envs.datasets.describing.states import HERE, next_steps, task_states
    from offdyn_envs.report import print_table

    chosen = Filter(robot, shift, track).tasks()
    states = task_states(chosen)
    rows: list[dict[str, Any]] = [
        {
            "task": task.name,
            "data": state,
            "source": str(task.source),
            "target": str(task.target),
            "scored in": task.env_id,
        }
        for task, state in zip(chosen, states, strict=True)
        if state == HERE or not available
    ]
    if json_output:
        returns = load_references()["returns"]
        by_name = {task.name: task for task in chosen}
        for row in rows:
            task = by_name[row["task"]]
            row["references"] = returns.get(task.robot, {}).get(task.scoring)
        print_table("Tasks", rows, True)
        return
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    print_table(f"{len(rows)} tasks", [{"task": row["task"], "data": row["data"]} for row in rows], False)
    print(counts, *next_steps(chosen, states, time_of), sep="\n")
