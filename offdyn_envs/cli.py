"""The `offdyn` command. The agents' commands join through the entry-point group `offdyn.commands`."""

from __future__ import annotations

import signal
import sys
from importlib.metadata import entry_points
from typing import Annotated, Any

import typer
import typer.core

from offdyn_envs import process
from offdyn_envs.errors import OffDynError, out_of_memory
from offdyn_envs.version import how_to_install

__all__ = ["build_app", "main"]

_EXTRAS = {
    "torch": "agents",
    "lightning": "agents",
    "yaml": "agents",
    "tensorboard": "agents",
    "ray": "ray",
    "onnx": "leaderboard",
    "onnxruntime": "leaderboard",
    "jsonschema": "leaderboard",
    "matplotlib": "plots",
    "PIL": "render",
    "imageio_ffmpeg": "render",
}
"""Which extra brings a package that a command may miss."""


class _Stopped(Exception):
    """A KeyboardInterrupt, of which Typer would make a status and no line."""

    def __init__(self, cause: KeyboardInterrupt) -> None:
        super().__init__(str(cause))
        self.signum = getattr(cause, "signum", signal.SIGINT)


class _Group(typer.core.TyperGroup):
    """All commands."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Stopped(error) from error


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def envs_list(json_output: Json = False) -> None:
    """List every named environment, and how large its shift is."""
    from offdyn_envs.report import environment_rows, print_table

    rows = environment_rows()
    shown = ("id", "changes", "share changed", "shift size")
    print_table(
        "Environments", rows if json_output else [{key: row[key] for key in shown} for row in rows], json_output
    )


def envs_show(name: str, json_output: Json = False) -> None:
    """Say what an environment is and what its shift changes, in words and numbers."""
    from offdyn_envs.report import describe_environment, print_record

    print_record(name, describe_environment(name), json_output)


def tasks(
    track: Annotated[str | None, typer.Option(help="Only the tasks of this track.")] = None,
    json_output: Json = False,
) -> None:
    """List every task: its source, its target and the environment that scores it; with --json its reference returns."""
    from offdyn_envs.benchmark.scoring.scores import load_references
    from offdyn_envs.report import print_table
    from offdyn_envs.tasks import get_task, get_track, list_tasks

    chosen = list_tasks() if track is None else [get_task(name) for name in get_track(track)]
    rows: list[dict[str, Any]] = [
        {"task": task.name, "source": str(task.source), "target": str(task.target), "scored in": task.env_id}
        for task in chosen
    ]
    if json_output:
        returns = load_references()["returns"]
        for row, task in zip(rows, chosen, strict=True):
            row["references"] = returns.get(task.robot, {}).get(task.scoring)
    print_table("Tasks", rows, json_output)


def build_app() -> typer.Typer:
    """Return the command with all its sub-commands; nothing heavy is imported."""
    from offdyn_envs.benchmark.commands import app as leaderboard
    from offdyn_envs.datasets.commands import app as data
    from offdyn_envs.rendering.command import render
    from offdyn_envs.verification.commands import envs_verify

    app = typer.Typer(
        name="offdyn",
        cls=_Group,
        help="Environments, datasets, agents and a leaderboard for off-dynamics offline RL.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    envs = typer.Typer(help="The environments.", no_args_is_help=True)
    envs.command("list")(envs_list)
    envs.command("show")(envs_show)
    envs.command("verify")(envs_verify)
    app.add_typer(envs, name="envs")
    app.command("tasks")(tasks)
    app.add_typer(data, name="data")
    app.add_typer(leaderboard, name="leaderboard")
    app.command("render")(render)
    for point in entry_points(group="offdyn.commands"):
        point.load()(app)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command; bad input ends with one line on standard error and exit status 2.

    Args:
        arguments: Instead of the process's own.
    """
    if arguments is not None:
        sys.exit(_status(arguments))
    process.begin()
    sys.exit(process.end(_status(None)))


def _status(arguments: list[str] | None) -> int:
    """Run the command and return its exit status."""
    try:
        status = typer.main.get_command(build_app()).main(arguments, prog_name="offdyn", standalone_mode=False)
    except (typer.Abort, _Stopped) as error:
        print(str(error) or "interrupted", file=sys.stderr)
        return 128 + getattr(error, "signum", signal.SIGINT)
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error)
            return 0
        line = _one_line(error)
        if line is None:
            raise
        print(f"offdyn: {line}", file=sys.stderr)
        return 2
    return status if isinstance(status, int) else 0


def _one_line(error: Exception) -> str | None:
    """Say in one line what the user can do about an error; None for errors that are ours."""
    known = error if isinstance(error, OffDynError) else out_of_memory(error)
    if known is not None:
        return str(known)
    if isinstance(error, ModuleNotFoundError):
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        missing = f"this command needs '{error.name}', which is not installed: {how_to_install(extra or '')}"
        return None if extra is None else missing
    if isinstance(error, OSError) and error.strerror:
        # Errors of a system call on an open file name none.
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    # Typer has moved its usage errors between modules; all of them can format themselves.
    formatted = getattr(error, "format_message", None)
    return None if formatted is None else " ".join(str(formatted()).split())


if __name__ == "__main__":
    main()
