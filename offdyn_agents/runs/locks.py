"""Lock files: only one process at a time works in a folder."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from offdyn_envs.atomic import room
from offdyn_envs.datasets.store.staging import is_at, try_lock
from offdyn_envs.interruption import undone

__all__ = ["held", "holder", "working_in"]

PAUSE = 0.2
"""Seconds between two tries."""


@contextmanager
def held(path: Path, wait: float = 0.0) -> Generator[bool]:
    """Hold a lock file that only one process can have; the system lets go of it when the process ends.

    Where a file system knows no locks, nobody is kept out.

    Args:
        path: The file; it stays, but in `working_in`.
        wait: Seconds to wait for a process that has it.

    Yields:
        Whether it is ours.
    """
    # Opened without emptying it: until it is ours, it names the process that has it.
    with path.open("a", encoding="utf-8") as file:
        until = time.monotonic() + wait
        while not (mine := try_lock(file) is not False) and time.monotonic() < until:
            time.sleep(PAUSE)
        # It may have been taken away, by `working_in`, after it had been opened.
        mine = mine and is_at(file, path)
        if mine:
            file.truncate(0)
            with room(path):
                os.write(file.fileno(), f"{platform.node()} {os.getpid()}\n".encode())
        yield mine


@contextmanager
def working_in(folder: Path, lock: str, wait: float = 0.0) -> Generator[bool]:
    """Make a folder and hold its lock file; where nothing else is put into it, both are taken away again.

    Args:
        folder: The folder; it may exist.
        lock: Name of the lock file in it.
        wait: Seconds to wait for a process that has it.

    Yields:
        Whether it is ours.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    before = [] if made else os.listdir(folder)

    def take_away() -> None:
        if lock not in before and set(os.listdir(folder)) == {lock, *before}:
            (folder / lock).unlink()
            for place in made:
                place.rmdir()

    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / lock, wait) as mine, undone(take_away) if mine else nullcontext():
        try:
            yield mine
        finally:
            # Somebody else may be making something in one of them.
            with suppress(OSError):
                if mine:
                    take_away()


def holder(path: Path) -> str:
    """Say in words which process had a lock file last."""
    words = path.read_text(encoding="utf-8").split() if path.is_file() else []
    return f"process {words[1]} on {words[0]}" if len(words) == 2 else "another process"
