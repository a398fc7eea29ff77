"""Where compiled functions are kept, and what is done about files that an interrupted compiler left unfinished there.

Inductor takes whatever has the right name for finished. A library of 0 bytes keeps a function from being compiled for
ever, and one among those with which it finds out what the processor can do makes it write code that does not compile.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from offdyn_envs.atomic import refuse_full
from offdyn_envs.datasets.store.folders import cache_root
from offdyn_envs.datasets.store.staging import try_lock
from offdyn_envs.errors import OffDynError
from offdyn_envs.interruption import at_once

__all__ = ["compiling", "prepare", "remove_broken"]

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
LIBRARIES = (".so", ".o")
_ELF = b"\x7fELF"
_HEADER = 64
"""Bytes of the header of a library of 64 bits."""

T = TypeVar("T")


def compiling(compile_all: Callable[[], T]) -> T:
    """Compile; where that fails and a broken file is found, once more without it.

    A signal ends a command at once meanwhile: compiling takes a minute, and goes before what could be resumed.

    Args:
        compile_all: Compiles with Inductor.

    Returns:
        What that returns.

    Raises:
        DiskFullError: There is no room for what the compiler writes.
    """
    with at_once():
        prepare()
        try:
            return compile_all()
        except Exception as error:
            refuse_full(error, _folder() or "the compiler's cache")
            if not prepare():
                raise
        return compile_all()


def prepare() -> bool:
    """Choose the compiler's cache, and remove what is unfinished there with a line on it.

    Returns:
        Whether anything was.
    """
    folder = _folder()
    removed = [] if folder is None else remove_broken(folder)
    if removed:
        more = f" and {len(removed) - 1} more" if len(removed) > 1 else ""
        print(f"{removed[0]}{more}: left unfinished by a compiler; compiled again", file=sys.stderr, flush=True)
    return bool(removed)


def remove_broken(folder: Path) -> list[Path]:
    """Remove the unfinished files of a compiler's cache, but for those that a process is making.

    Args:
        folder: The cache; it may be missing.

    Returns:
        The files that were removed.
    """
    return [path for path in _files(folder) if _is_broken(path) and _removed(path, folder / "locks")]


def _folder() -> Path | None:
    """Return the compiler's cache: the user's, else one of our own; None where PyTorch has to find a place."""
    if os.environ.get(VARIABLE, "") in ("", _of_pytorch()):
        try:
            own = cache_root() / "compiled"
            own.mkdir(parents=True, exist_ok=True)
        except (OSError, OffDynError):
            return None
        if not os.access(own, os.W_OK):
            return None
        os.environ[VARIABLE] = str(own)
    return Path(os.environ[VARIABLE])


def _of_pytorch() -> str:
    """Return the folder that PyTorch chooses; it notes it in the variable, as if a user had, when it is imported."""
    try:
        from torch._inductor.runtime.cache_dir_utils import default_cache_dir
    except ImportError:  # It is nothing that PyTorch promises to have.
        return ""
    return os.path.abspath(default_cache_dir())


def _files(folder: Path) -> Iterator[Path]:
    """Return what the compiler has made: in folders of two letters, each file named after its key."""
    for place in sorted(folder.glob("??")):
        yield from sorted(place.iterdir())


def _is_broken(path: Path) -> bool:
    """Say whether a file is empty, or a library whose end is missing: loading it could end the process."""
    try:
        size = path.stat().st_size
        if not path.is_file() or path.suffix == ".lock":
            return False
        if not size or path.suffix not in LIBRARIES or sys.platform != "linux":
            return not size
        with path.open("rb") as file:
            header = file.read(_HEADER)
    except OSError:
        return False
    if not header.startswith(_ELF) or len(header) < _HEADER:
        return True
    # The table of sections stands last; its offset, and the size and number of its entries.
    (offset,) = struct.unpack_from("=Q", header, 40)
    width, count = struct.unpack_from("=HH", header, 58)
    return offset + width * count > size


def _removed(path: Path, locks: Path) -> bool:
    """Remove a file unless a process holds its lock."""
    try:
        lock = locks / f"{path.name.partition('.')[0]}.lock"
        if lock.exists():
            with lock.open("a") as file:
                if try_lock(file) is False:
                    return False
                path.unlink()
        else:
            path.unlink()
    except OSError:
        return False
    return True
