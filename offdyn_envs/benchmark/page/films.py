"""A short film of each entry: its first policy acts in the source and the target of its first task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from offdyn_envs.benchmark.entries.submissions import Entry, load_entries

__all__ = ["FILMS", "FOLDER", "make_films"]

FOLDER = "pictures"
FILMS = (".mp4", ".png", ".gif")
"""What the board's folder `pictures/` may hold, best first: `task-NAME` and `entry-NAME`, made by `offdyn render`."""


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
    tell(f"{path}: {words}")
    return path
