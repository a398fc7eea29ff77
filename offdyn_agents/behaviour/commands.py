"""`offdyn dev behaviour`: train the policies that the datasets are collected with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from offdyn_agents.runs.console import (
    DeviceOption,
    QuietOption,
    ThreadsOption,
    UpdatesOption,
    quiet_waiting,
    task_names,
)
from offdyn_envs.commands.options import Json

if TYPE_CHECKING:
    from offdyn_agents.behaviour.programme import Behaviour

Work: TypeAlias = Callable[..., dict[str, dict[str, Any]]]

CRITIC_UPDATES = 100_000
"""Of a reference critic: part of what it is."""

app = typer.Typer(help="The behaviour policies that the datasets are collected with.", no_args_is_help=True)

_Root = Annotated[Path | None, typer.Option("--runs", help="Folder of the runs; runs/behaviours by default.")]


@app.command("train")
def train(
    robot: Annotated[
        list[str] | None, typer.Option(help="Robot; may be repeated. Default: the whole programme.")
    ] = None,
    dynamics: Annotated[list[str] | None, typer.Option(help="Dynamics that goes with the n-th --robot.")] = None,
    runs: _Root = None,
    quiet: QuietOption = False,
) -> None:
    """Train missing behaviour policies, or resume; finished ones are skipped.

    Two of these commands side by side share the work. A behaviour that fails is told and does not hold up the others.
    """
    from offdyn_agents.behaviour.programme import default_root, select

    root = runs or default_root()
    went_well = [_train_one(behaviour, root, quiet) for behaviour in select(robot or [], dynamics or [])]
    if not all(went_well):
        raise typer.Exit(2)


def _train_one(behaviour: Behaviour, root: Path, quiet: bool, work: Work | None = None) -> bool:
    """Train a behaviour that is missing; say why it fails, and return whether it did not."""
    from offdyn_agents.runs.locks import held
    from offdyn_envs.errors import OffDynError

    if behaviour.done:
        print(f"{behaviour}: done")
        return True
    directory = behaviour.directory(root)
    directory.mkdir(parents=True, exist_ok=True)
    with held(directory / "lock") as mine:
        if not mine:
            print(f"{behaviour}: another process is at it")
            return True
        from offdyn_agents.behaviour.publish import train_behaviour

        try:
            cards = (work or train_behaviour)(behaviour, root=root, quiet=quiet)
        except OffDynError as error:
            print(f"offdyn: {error}", file=sys.stderr)
            return False
        for quality, card in cards.items():
            if "returns" not in card:
                continue
            returns = card["returns"]["sampled"]
            print(f"{behaviour} {quality}: return {returns['mean']:.0f} +- {returns['se']:.0f} (standard error)")
    return True


@app.command("teach")
def teach(
    robot: Annotated[str, typer.Argument(help="Robot, such as adroit-pen.")],
    teacher: Annotated[Path, typer.Option(help="The teacher: a .npz file of a network.")],
    dynamics: Annotated[list[str] | None, typer.Option(help="Dynamics; may be repeated. Default: all.")] = None,
    runs: _Root = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Learn from a teacher on the nominal robot, then from rewards under each dynamics; what is there is skipped."""
    from functools import partial

    from offdyn_agents.behaviour.programme import default_root, taught
    from offdyn_agents.behaviour.publish import teach_behaviour

    root = runs or default_root()
    work = partial(teach_behaviour, teacher=teacher)
    if not all([_train_one(behaviour, root, quiet, work) for behaviour in taught(robot, dynamics or [])]):
        raise typer.Exit(2)


@app.command("status")
def status(
    runs: _Root = None,
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="PAGE", help="Instead, update a page's table of what is missing, whatever runs there are."
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """Show which behaviour policies are done, in progress and missing, and how long the rest would take."""
    from offdyn_agents.behaviour.programme import default_root
    from offdyn_agents.behaviour.reports import programme_status, summary, write_missing
    from offdyn_envs.report import print_table

    if table is not None:
        write_missing(table)
        print(table)
        return
    rows = programme_status(runs or default_root())
    # Narrow enough for 80 columns; --json has the learners and standard errors too.
    print_table("Behaviour policies", rows if json_output else [_shown(row) for row in rows], json_output)
    if json_output:
        return
    for line in summary(rows):
        print(line)


@app.command("references")
def references(
    episodes: Annotated[int, typer.Option(min=100, help="Episodes of the random policy.")] = 200,
    out: Annotated[Path | None, typer.Option(help="File to write; the package's references.json by default.")] = None,
) -> None:
    """Measure the random policy, take the experts from their cards, and write the reference returns."""
    from offdyn_agents.behaviour.references import default_path, write_references

    path = out or default_path()
    count, experts = write_references(path, episodes)
    print(f"{path}: {count} dynamics, {experts} with an expert")


@app.command("critics")
def critics(
    tasks: Annotated[list[str] | None, typer.Argument(help="Tasks; `offdyn tasks` lists them.")] = None,
    track: Annotated[str | None, typer.Option(help="All tasks of a track instead.")] = None,
    updates: UpdatesOption = CRITIC_UPDATES,
    runs: Annotated[Path, typer.Option(help="Folder of the runs, where an interrupted one goes on.")] = Path(
        "runs/critics"
    ),
    out: Annotated[Path | None, typer.Option(help="Folder of the critics; the package's own by default.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", hidden=True)] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train the suite's critic of each task, by which the min-Q attack judges actions; those that are there stay."""
    quiet_waiting()
    names = task_names(tasks or [], track)
    from offdyn_agents.behaviour.critics import CRITICS, CriticPlan, make_critics
    from offdyn_envs.batching.threads import usable_threads

    make_critics(
        names,
        CriticPlan(updates, runs, out or CRITICS, settings or (), device, threads or usable_threads(), quiet),
    )


def _state(row: dict[str, Any]) -> str:
    if row["state"] == "training":
        return f"training {row['progress']:.0%}"
    if row["state"] == "left" and row["seconds_left"] is not None:
        return f"left, {row['seconds_left'] / 60:.0f} min"
    return str(row["state"])


def _shown(row: dict[str, Any]) -> dict[str, str]:
    """Return what of a behaviour's row goes into the table."""
    names = {"robot": row["robot"], "dynamics": row["dynamics"], "state": _state(row)}
    return names | {one: "" if row[one] is None else f"{row[one]['mean']:.0f}" for one in ("medium", "expert")}
