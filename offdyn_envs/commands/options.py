"""Options that several commands have, and what goes into their help."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from offdyn_envs.errors import OffDynError, spelled, unknown
from offdyn_envs.robots import ROBOTS
from offdyn_envs.robots.registry import find_others
from offdyn_envs.tasks import DYNAMICS, TRACKS, DatasetId, Task, get_task, get_track, list_tasks

__all__ = [
    "LOOK",
    "MORE",
    "PANELS",
    "SHARE",
    "TRAIN",
    "Filter",
    "Json",
    "RobotOption",
    "ShiftOption",
    "TrackOption",
    "complete",
    "examples",
    "group",
]

PANELS = LOOK, TRAIN, SHARE, MORE = "Look", "Train and score", "Understand and share", "More"
"""Groups of commands in `offdyn --help`, in the order in which a newcomer needs them."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def complete(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return what a shell asks for the names that begin as a word does.

    Args:
        names: Gives all names.
    """

    def beginning_with(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete.lower())]

    return beginning_with


def examples(*lines: str) -> str:
    """Return the end of a command's help: commands to copy."""
    return "\n".join(["[bold]Examples[/bold]", *(f"  {line.replace('[', chr(92) + '[')}" for line in lines)])


def group(app: typer.Typer, name: str) -> typer.Typer:
    """Return a group of commands that the command has already."""
    return next(found.typer_instance for found in app.registered_groups if found.name == name and found.typer_instance)


def _shifts() -> list[str]:
    """Return what a filter by shift takes: kinds of shifts, then named dynamics."""
    return [*_kinds(), *dict.fromkeys(slug for table in DYNAMICS.values() for slug in table)]


def _kinds() -> list[str]:
    return list(dict.fromkeys(slug.partition("-")[0] for table in DYNAMICS.values() for slug in table))


RobotOption = Annotated[
    str | None,
    typer.Option(
        metavar="ROBOT", help="Only of this robot: " + ", ".join(ROBOTS) + ".", autocompletion=complete(lambda: ROBOTS)
    ),
]
TrackOption = Annotated[
    str | None,
    typer.Option(
        metavar="TRACK", help="Only of this track: " + ", ".join(TRACKS) + ".", autocompletion=complete(lambda: TRACKS)
    ),
]
ShiftOption = Annotated[
    str | None,
    typer.Option(
        metavar="SHIFT",
        help="Only of this shift: a kind such as gravity, or one such as gravity-0.5.",
        autocompletion=complete(_shifts),
    ),
]


@dataclass(frozen=True)
class Filter:
    """Which rows of a table are asked for; names in any spelling.

    Attributes:
        robot: Only of this robot.
        shift: Only of this kind of shift, or of these dynamics.
        track: Only of this track.
    """

    robot: str | None = None
    shift: str | None = None
    track: str | None = None

    def __post_init__(self) -> None:
        if self.robot is not None:
            find_others()
        for field, kind, names in (
            ("robot", "robot", list(ROBOTS)),
            ("shift", "shift", _shifts() if "-" in (self.shift or "") else _kinds()),
            ("track", "track", list(TRACKS)),
        ):
            given = getattr(self, field)
            if given is None:
                continue
            found = spelled(given, names)
            if found is None:
                raise unknown(kind, given, names)
            object.__setattr__(self, field, found)

    def dynamics(self, robot: str, slug: str) -> bool:
        """Say whether a robot under these dynamics is asked for, whatever the track."""
        return self.robot in (None, robot) and (
            self.shift is None or slug == self.shift or slug.startswith(f"{self.shift}-")
        )

    def tasks(self) -> list[Task]:
        """Return the tasks that are asked for."""
        chosen = list_tasks() if self.track is None else [get_task(name) for name in get_track(self.track)]
        return [task for task in chosen if self.dynamics(task.robot, task.dynamics)]

    def rows(self, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return which rows of datasets, named in "dataset", are asked for: with a track those of its tasks."""
        of_track = (
            None
            if self.track is None
            else {side for t in Filter(track=self.track).tasks() for side in (t.source, t.target)}
        )
        found: list[Mapping[str, Any]] = []
        for row in rows:
            with suppress(OffDynError):
                one = DatasetId.parse(row["dataset"])
                if self.dynamics(one.robot, one.dynamics) and (of_track is None or one in of_track):
                    found.append(row)
        return found
