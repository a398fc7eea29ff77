"""A short film of each entry: its first policy acts in the source and the target of its first task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from offdyn_envs.atomic import write_bytes
from offdyn_envs.benchmark.entries.submissions import Entry, load_entries

__all__ = ["FILMS", "FOLDER", "Picture", "find_pictures", "make_films"]

FOLDER = "pictures"
FILMS = (".mp4", ".png", ".gif")
"""What the board's folder `pictures/` may hold, best first: `task-NAME` and `entry-NAME`, made by `offdyn render`."""
ACTOR = ".txt"
"""Beside the film of an entry: which policy acts, `TASK/SEED`."""


class Picture(NamedTuple):
    """A picture or film.

    Attributes:
        place: Where it lies, seen from the pages.
        actor: Task and seed of the policy that acts in it, `TASK/SEED`; "" where nobody has written it down.
    """

    place: str
    actor: str = ""


def find_pictures(board: Path) -> dict[str, Picture]:
    """Returns the pictures and films of a board by name, without their endings."""
    found = {path.stem: path for ending in reversed(FILMS) for path in (board / FOLDER).glob(f"*{ending}")}
    return {name: Picture(f"../{FOLDER}/{path.name}", _actor(path)) for name, path in sorted(found.items())}


def _actor(film: Path) -> str:
    told = film.with_suffix(ACTOR)
    return told.read_text(encoding="utf-8").strip() if told.is_file() else ""


def make_films(board: Path, tell: Callable[[str], None]) -> list[Path]:
    """Render a film of each entry that has neither film nor picture.

    Args:
        board: The leaderboard's folder.
        tell: Called with a line for each film, which says what is in it.

    Returns:
        The new files.

    Raises:
        OffDynError: OpenGL does not work here, or a policy breaks a rule of the gate.
        ModuleNotFoundError: The extra "render" is missing.
    """
    entries, _ = load_entries(board)
    made: list[Path] = []
    for entry in entries:
        stem = board / FOLDER / f"entry-{entry.name}"
        # A dot in an entry's name is no suffix.
        if not any(stem.with_name(stem.name + ending).exists() for ending in FILMS):
            made.append(_film(entry, stem.with_name(f"{stem.name}.mp4"), tell))
    return made


def _film(entry: Entry, path: Path, tell: Callable[[str], None]) -> Path:
    from offdyn_envs.rendering.render import Request, render

    first = entry.results[0]
    path.parent.mkdir(exist_ok=True)
    _, words = render(Request(first.task, path, policy=str(entry.folder / first.policy)))
    write_bytes(path.with_suffix(ACTOR), f"{first.task}/{first.seed}\n".encode())
    tell(f"{path}: {words}")
    return path
