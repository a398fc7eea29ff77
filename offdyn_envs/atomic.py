"""Files that appear whole or not at all, and the one line for a disk that is full."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offdyn_envs.errors import OffDynError
from offdyn_envs.interruption import undone

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "DiskFullError",
    "append_bytes",
    "atomic_write",
    "check_room",
    "json_text",
    "made_folder",
    "named",
    "refuse_foreign",
    "refuse_full",
    "room",
    "write_array",
    "write_bytes",
    "write_json",
    "write_text",
    "write_together",
]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a full disk, a used up quota and a limit on the size of files answer."""


class DiskFullError(OffDynError):
    """There is no room for a file."""


@contextmanager
def room(path: str | os.PathLike[str], needs: int | None = None) -> Generator[None]:
    """Say in one line that there is no room for a file, whichever call in the block came upon it.

    Args:
        path: The file, for the message.
        needs: Bytes that it is to have, where that is known.

    Raises:
        DiskFullError: The disk is full, a quota is used up, or files may not become so large.
    """
    # Now: later, what has been written of the file takes room itself.
    free = _free(Path(path))
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFullError(_no_room(path, error.errno, needs, free)) from None
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from None
        raise


def refuse_full(error: BaseException, path: str | os.PathLike[str]) -> None:
    """Let there be one line on it where a program that was run, or a library, has found no room for its files.

    Args:
        error: What came of it.
        path: What it was writing, or where.

    Raises:
        DiskFullError: What the error says tells of a full disk, a quota, or a limit on the size of files.
    """
    said = f"{error} {error.__cause__ or error.__context__ or ''}"
    for number in FULL:
        # Without a handler, a limit ends a program by a signal.
        if os.strerror(number) in said or (number == errno.EFBIG and "File size limit exceeded" in said):
            raise DiskFullError(_no_room(path, number, None, _free(Path(path)))) from None


def _no_room(path: str | os.PathLike[str], number: int, needs: int | None, free: int | None) -> str:
    told = [] if needs is None else [f"{needs:,} bytes are needed"]
    if number == errno.ENOSPC and free is not None:
        told.append(f"{free:,} bytes are free")
    elif number == errno.EFBIG:
        told += [f"files may have {limit:,} bytes at most (ulimit -f)" for limit in _largest()]
    return f"{path} cannot be written: {os.strerror(number)}" + (f"; {', '.join(told)}" if told else "")


def _free(path: Path) -> int | None:
    """Return the bytes that are free where a file is to be, as far as the system tells."""
    try:
        return shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.is_dir())).free
    except OSError:
        return None


def _largest() -> list[int]:
    with suppress(ImportError):  # Windows has no such limits.
        import resource

        return [limit for limit in resource.getrlimit(resource.RLIMIT_FSIZE)[:1] if limit != resource.RLIM_INFINITY]
    return []


@contextmanager
def named(temporary: Path, final: Path) -> Generator[None]:
    """Let the line on a file for which there is no room call it what it was to be called.

    Args:
        temporary: What is being written, or a folder with it.
        final: Its place.
    """
    try:
        yield
    except DiskFullError as error:
        raise DiskFullError(str(error).replace(str(temporary), str(final))) from None


def check_room(path: Path, needs: int) -> None:
    """Refuse work whose files would not fit, before it begins.

    Args:
        path: What is to be written.
        needs: Bytes that it will have at least.

    Raises:
        DiskFullError: Fewer are free.
    """
    free = _free(path)
    if free is not None and free < needs:
        raise DiskFullError(_no_room(path, errno.ENOSPC, needs, free))


@contextmanager
def made_folder(folder: Path) -> Generator[None]:
    """Make a folder, and take back those that were made for it where the block fails and leaves them empty.

    Args:
        folder: The folder; it may exist.
    """
    fresh = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):
            for place in fresh:
                place.rmdir()
        raise


@contextmanager
def atomic_write(path: str | os.PathLike[str], needs: int | None = None) -> Generator[Path]:
    """Yield a temporary path beside `path` and move it there when the block ends without an error.

    A process killed inside the block leaves a hidden `.name.*.part` file and the old content of `path`.

    Args:
        path: The final file.
        needs: Bytes that it is to have, for the message where the disk is full.

    Yields:
        The temporary file, existing and empty; write to it by name.

    Raises:
        DiskFullError: There is no room for it. Old content stays, and nothing of the new.
    """
    final = Path(path)
    with room(final, needs), made_folder(final.parent):
        temporary = final.parent / f".{final.name}.{secrets.token_hex(8)}.part"
        with undone(lambda: temporary.unlink(missing_ok=True)):
            temporary.touch(0o600, exist_ok=False)
            try:
                with named(temporary, final):
                    yield temporary
                _to_disk(temporary)
                umask = os.umask(0)
                os.umask(umask)
                temporary.chmod(0o666 & ~umask)
                os.replace(temporary, final)
            finally:
                temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write bytes atomically.

    Libraries are to make the bytes of their files in memory, and this is to write them: where writes of their own
    fail, some crash, some print a traceback of a thread, and few say why.

    Args:
        path: The final file.
        content: All of it.

    Raises:
        DiskFullError: There is no room for it.
    """
    with atomic_write(path, len(content)) as temporary:
        temporary.write_bytes(content)


def write_together(texts: Mapping[Path, str]) -> None:
    """Write texts that belong together atomically: where there is no room for one, the old ones of all stay.

    Args:
        texts: All of each file; the first file gets its name last.

    Raises:
        DiskFullError: There is no room for one of them.
    """
    with ExitStack() as stack:
        for path, text in texts.items():
            content = text.encode("utf-8")
            temporary = stack.enter_context(atomic_write(path, len(content)))
            temporary.write_bytes(content)
            _to_disk(temporary)  # Before the first gets its name: some disks say only now that they are full.


def _to_disk(path: Path) -> None:
    with path.open("rb") as written:
        os.fsync(written.fileno())


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text atomically, in UTF-8 and with its line ends as they are.

    Args:
        path: The final file.
        text: All of it.

    Raises:
        DiskFullError: There is no room for it.
    """
    write_bytes(path, text.encode("utf-8"))


def refuse_foreign(path: str | os.PathLike[str], known: Callable[[bytes], bool], what: str) -> None:
    """Refuse to replace a file that is not of the kind that is to be written.

    Args:
        path: The file; it may be missing, or empty.
        known: Is given the beginning of the file, and says whether it is of that kind.
        what: How messages call the kind.

    Raises:
        OffDynError: It is of another kind.
    """
    try:
        with Path(path).open("rb") as file:
            begins = file.read(4096)
    except FileNotFoundError:
        return
    if begins and not known(begins):
        raise OffDynError(f"{path}: stands there and is not {what}; move it away, or write to another place")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as JSON atomically: sorted keys, two spaces, no NaN, one newline at the end.

    Args:
        path: The final file.
        value: Anything JSON can hold.

    Raises:
        DiskFullError: There is no room for it.
        ValueError: A float in `value` is not finite.
    """
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Return what `write_json` writes."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


class _Stream:
    """All that NumPy needs of a file: given a file itself it writes around Python, and does not say why that failed."""

    def __init__(self, write: Any) -> None:
        self.write = write


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write one array as .npy in a folder that is not in its place yet.

    Args:
        path: The file, new.
        array: Of plain numbers.

    Raises:
        DiskFullError: There is no room for it.
    """
    import numpy as np

    with room(path, array.nbytes), path.open("wb") as file:
        np.save(_Stream(file.write), array, allow_pickle=False)  # pyright: ignore[reportArgumentType]


def append_bytes(path: Path, content: bytes) -> None:
    """Write at the end of a file, whole or not at all.

    Args:
        path: The file; it may be new.
        content: What to add.

    Raises:
        DiskFullError: There is no room for it.
    """
    with room(path, len(content)):
        fresh = not path.exists()
        with path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                rest = memoryview(content)
                while rest:
                    rest = rest[file.write(rest) :]
            except BaseException:
                file.truncate(end)
                if fresh:
                    path.unlink()
                raise
