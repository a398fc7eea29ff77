"""The `offdyn` command. The agents' commands join through the entry-point group `offdyn.commands`."""

from __future__ import annotations

import shlex
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

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, those of one panel of the help together."""
        from offdyn_envs.commands.options import PANELS

        def place(name: str) -> int:
            panel = getattr(self.commands[name], "rich_help_panel", None)
            return PANELS.index(panel) if panel in PANELS else len(PANELS)

        return sorted(super().list_commands(ctx), key=place)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Stopped(error) from error


def _show_version(asked: bool) -> None:
    if asked:
        from offdyn_envs.version import __version__

        typer.echo(f"offdyn {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Environments, datasets, agents and a leaderboard for off-dynamics offline RL."""
    del version


def build_app() -> typer.Typer:
    """Return the command with all its sub-commands; nothing heavy is imported."""
    from offdyn_envs.benchmark.commands import app as leaderboard
    from offdyn_envs.commands import envs
    from offdyn_envs.commands.dev import environments_page, task_gaps, tracks_page
    from offdyn_envs.commands.doctor import doctor
    from offdyn_envs.commands.options import LOOK, MORE, SHARE, examples
    from offdyn_envs.datasets.commands import app as data
    from offdyn_envs.datasets.commands import gap, ship
    from offdyn_envs.rendering.command import EXAMPLES, render

    app = typer.Typer(
        name="offdyn",
        cls=_Group,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=examples(*_FIRST),
    )
    app.callback()(_root)
    app.add_typer(envs.app, name="envs", rich_help_panel=LOOK)
    app.command("tasks", rich_help_panel=LOOK, epilog=examples(*_TASKS))(envs.tasks)
    app.command("render", rich_help_panel=LOOK, epilog=examples(*EXAMPLES))(render)
    app.add_typer(data, name="data", rich_help_panel=LOOK)
    app.add_typer(leaderboard, name="leaderboard", rich_help_panel=SHARE)
    for name, said, panel, commands in (
        ("diagnose", "Compare what an agent learned before its policy with the truth.", SHARE, {"gap": gap}),
        ("examples", "Self-contained examples.", MORE, {}),
        (
            "dev",
            "Commands for maintainers: shipped data and generated pages.",
            MORE,
            {
                "ship": ship,
                "environments-page": environments_page,
                "task-gaps": task_gaps,
                "tracks-table": tracks_page,
            },
        ),
    ):
        more = typer.Typer(help=said, no_args_is_help=True)
        for called, command in commands.items():
            more.command(called)(command)
        app.add_typer(more, name=name, rich_help_panel=panel)
    app.command("doctor", rich_help_panel=MORE)(doctor)
    for point in entry_points(group="offdyn.commands"):
        point.load()(app)
    return app


_FIRST = (
    "offdyn render Hopper-gravity-0.5",
    "offdyn data build hopper-gravity-0.5-medium",
    "offdyn train iql hopper-gravity-0.5-medium",
    "offdyn evaluate runs",
)
_TASKS = ("offdyn tasks --robot hopper --available", "offdyn tasks --track core-12", "offdyn tasks --shift gravity")


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
    typed = sys.argv[1:] if arguments is None else arguments
    try:
        command = typer.main.get_command(build_app())
        # What was typed goes along, for records.
        status = command.main(arguments, prog_name="offdyn", standalone_mode=False, obj=shlex.join(["offdyn", *typed]))
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
    # "Value error, " is a library's word for what the next words say.
    return None if formatted is None else " ".join(str(formatted()).replace("Value error, ", "").split())


if __name__ == "__main__":
    main()
