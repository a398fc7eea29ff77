"""Lock files: only one process at a time works in a folder."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from offdyn_envs.atomic import room
from offdyn_envs.datasets.store.staging import try_lock

__all__ = ["held", "holder"]

PAUSE = 0.2
"""Seconds between two tries."""


@contextmanager
def held(path: Path, wait: float = 0.0) -> Generator[bool]:
    """Hold a lock file that only one process can have; the system lets go of it when the process ends.

    Where a file system knows no locks, nobody is kept out.

    Args:
        path: The file; it stays, since removing it could let two processes in.
        wait: Seconds to wait for a process that has it.

    Yields:
        Whether it is ours.
    """
    # Opened without emptying it: until it is ours, it names the process that has it.
    with path.open("a", encoding="utf-8") as file:
        until = time.monotonic() + wait
        while not (mine := try_lock(file) is not False) and time.monotonic() < until:
            time.sleep(PAUSE)
        if mine:
            file.truncate(0)
            with room(path):
                os.write(file.fileno(), f"{platform.node()} {os.getpid()}\n".encode())
        yield mine


def holder(path: Path) -> str:
    """Say in words which process had a lock file last."""
    words = path.read_text(encoding="utf-8").split() if path.is_file() else []
    return f"process {words[1]} on {words[0]}" if len(words) == 2 else "another process"
