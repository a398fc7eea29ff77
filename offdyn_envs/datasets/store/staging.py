"""Unfinished work under a root: where it lies, who may touch it, and how a folder gets its final name.

Everything lies in one hidden folder of the root, on the same file system as what it becomes. A dataset is replaced in
two renames, old one out and new one in; `recover` puts the old one back where a process was killed between them.

Some file systems know no locks (Lustre mounted without them, some of NFS): there nobody can be kept out, and what
another process may be writing is left alone.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

from offdyn_envs.atomic import made_folder, named, write_text
from offdyn_envs.errors import OffDynError
from offdyn_envs.interruption import undone
from offdyn_envs.tasks import DatasetId

__all__ = [
    "UNSUPPORTED",
    "is_at",
    "kept",
    "locked",
    "recover",
    "recover_all",
    "replace_folder",
    "staged",
    "try_lock",
    "waiting_lock",
]

STAGING = ".building"
_OLD = "old"
PATIENCE = 2.0
"""Seconds to wait for another process between its two renames."""
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What a file system without locks answers."""


@contextmanager
def locked(root: Path, dataset: DatasetId | str) -> Generator[None, None, None]:
    """Let one process at a time build a dataset, and clear away what a killed one left.

    Args:
        root: Root of the datasets; created.
        dataset: What is to be built.

    Raises:
        OffDynError: Another process is building it now.
    """
    name = str(dataset)
    with _lock(root, name) as ours:
        if ours is False:
            lock = _lock_of(root / STAGING, name)
            raise OffDynError(f"dataset '{dataset}' is being built by another process (lock {lock})")
        if ours:
            # The lock dies with its holder: what stands here under this name was left by a process that was killed.
            _put_back(root, name)
            for stale in (root / STAGING).glob(f"{_prefix(name)}stage-*"):
                shutil.rmtree(stale, ignore_errors=True)
        else:
            _warn_lockless(root)
            recover(root, name)
        yield


@contextmanager
def waiting_lock(root: Path, name: str, notice: str = "") -> Generator[None, None, None]:
    """Hold a lock under a root, waiting for whoever holds it.

    Args:
        root: Root of the datasets; created.
        name: Of the lock.
        notice: Printed on standard error once, where there is someone to wait for.
    """
    while True:
        with _lock(root, name) as ours:
            if ours is not False:
                yield
                return
        if notice:
            print(notice, file=sys.stderr, flush=True)
            notice = ""
        time.sleep(0.02)


@contextmanager
def _lock(root: Path, name: str) -> Generator[bool | None, None, None]:
    """Try a lock under a root; where the block fails, what was made for it goes again.

    Yields:
        As `try_lock`.
    """
    lock = _lock_of(root / STAGING, name)
    with made_folder(lock.parent):
        ignored = lock.parent / ".gitignore"
        made = [path for path in (lock, ignored) if not path.exists()]
        _staging(root)
        with lock.open("w") as handle:
            ours = try_lock(handle)
            if ours and not is_at(handle, lock):  # Whoever had it has failed.
                ours = False
            try:
                yield ours
            except BaseException:
                if ours is not False:
                    _take_back(made)
                raise


def _take_back(made: Sequence[Path]) -> None:
    """Remove a lock that is held, and the file for git where nothing else is left beside it."""
    for path in made:
        others = {place for place in path.parent.iterdir() if place != path}
        if path.name != ".gitignore" or not others:
            path.unlink(missing_ok=True)


@contextmanager
def kept(root: Path, name: str) -> Generator[Path, None, None]:
    """Yield a hidden folder for work that a killed process leaves to be continued; hold a lock while using it.

    Args:
        root: Root of the datasets; created.
        name: Of the work.

    Yields:
        The folder; it goes where nothing has been put into it.
    """
    folder = _staging(root) / name.replace("/", "__")
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    finally:
        if folder.is_dir() and not any(path.is_file() for path in folder.rglob("*")):
            shutil.rmtree(folder)


@contextmanager
def staged(root: Path, name: str) -> Generator[Path, None, None]:
    """Yield an empty folder on the file system of `root`, hidden from Minari, and remove what is left of it.

    Raises:
        DiskFullError: There is no room for a file; the line names it as it would be called in its place.
    """
    stage = _staging(root) / f"{_prefix(name)}stage-{secrets.token_hex(8)}"
    with undone(lambda: shutil.rmtree(stage)):
        stage.mkdir()
        stage.chmod(0o755)
        try:
            with named(stage, root / name):
                yield stage
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def replace_folder(stage: Path, root: Path, name: str) -> None:
    """Give a finished folder its name; call it inside `locked`.

    Args:
        stage: The finished folder, from `staged`.
        root: Root of the datasets.
        name: Id of the dataset; an older one of that name is put back when this fails, and removed at the end.
    """
    for file in stage.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    final, old = root / name, _old(root, name)
    with made_folder(final.parent):
        try:
            if final.exists():
                final.rename(old)
            stage.rename(final)
        finally:
            _put_back(root, name)


def recover(root: Path, name: str) -> None:
    """Put a dataset back whose replacement was killed between the two renames; wait for one that goes on.

    Args:
        root: Root of the datasets, perhaps read-only or not there.
        name: Id of the dataset.
    """
    deadline = time.monotonic() + PATIENCE
    while not (root / name).exists() and _old(root, name).is_dir() and time.monotonic() < deadline:
        try:
            with _lock_of(root / STAGING, name).open("w") as handle:
                ours = try_lock(handle)
                # Without locks it is a matter of time: another process needs far less between its two renames.
                if ours or (ours is None and time.monotonic() > deadline - PATIENCE / 2):
                    _put_back(root, name)
                    return
        except OSError:
            return
        time.sleep(0.01)


def recover_all(root: Path) -> None:
    """Do `recover` for every dataset under a root."""
    for old in (root / STAGING).glob(f"*{_OLD}"):
        recover(root, old.name.removesuffix(f".{_OLD}").replace("__", "/"))


def _put_back(root: Path, name: str) -> None:
    """Give an old dataset its name back, or remove it where a newer one has the name."""
    final, old = root / name, _old(root, name)
    if not old.exists():
        return
    if not final.exists():
        old.rename(final)
        return
    with staged(root, name) as grave:  # Out of `recover`'s sight first: killed while removing it, it is half a dataset.
        old.rename(grave / "old")


def _prefix(name: str) -> str:
    return name.replace("/", "__") + "."


def _old(root: Path, name: str) -> Path:
    return root / STAGING / f"{_prefix(name)}{_OLD}"


def _lock_of(staging: Path, name: str) -> Path:
    return staging / f"{_prefix(name)}lock"


def _staging(root: Path) -> Path:
    """Return the folder of unfinished work, hidden from Minari by its dot and from git by what it holds."""
    staging = root / STAGING
    if not (staging / ".gitignore").exists():
        write_text(staging / ".gitignore", "*\n")
    return staging


def try_lock(file: IO[Any]) -> bool | None:
    """Lock an open file if nobody else has it; the system lets go of it when the file is closed or the process ends.

    Args:
        file: Open for writing.

    Returns:
        Whether it is ours; None where there are no locks.

    Raises:
        OSError: The file system is in trouble.
    """
    if sys.platform == "win32":  # No such locks; two builds of one dataset at once are then the user's to avoid.
        return None
    import fcntl

    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return None
        raise OSError(error.errno, os.strerror(error.errno or errno.EIO), file.name) from None
    return True


def is_at(file: IO[Any], path: Path) -> bool:
    """Say whether an open file is still the one at a path; a lock that was held may be taken away."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@cache
def _warn_lockless(root: Path) -> None:
    """Say once that nobody can be kept out."""
    print(f"{root}: this file system has no locks; do not build one dataset twice at a time", file=sys.stderr)
