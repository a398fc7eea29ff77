"""The process of the `offdyn` command: its signals and its standard streams, before anything else is imported.

Python and the libraries take it for granted that standard streams are open, can be written and know every character. A
command may be started without them (`>&-`), into a full disk or a pipe whose reader has gone, and where text is ASCII.
"""

from __future__ import annotations

import atexit
import codecs
import errno
import io
import logging
import os
import signal
import sys
import threading
import unicodedata
from collections.abc import MutableMapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from offdyn_envs.errors import out_of_memory
from offdyn_envs.interruption import is_command, leave, take_command

__all__ = ["begin", "end"]

_OUTPUT = "standard output"
_LOSSY = "offdyn-lossy"
_IN_ASCII = {"█": "#", "▏": "|", "±": "+-", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "•": "*"}
"""Characters that Unicode does not take apart into others."""
_begun: list[bool] = []
_ended: list[int] = []


class _Output(io.FileIO):
    """Standard output; what goes wrong with it names it."""

    def write(self, data: Any, /) -> Any:
        """Write bytes."""
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or errno.EIO), _OUTPUT) from None


class _Notes(io.FileIO):
    """Standard error; work does not end because nobody can be told of it."""

    def write(self, data: Any, /) -> Any:
        """Write bytes, or do without."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def begin() -> None:
    """Take signals and standard streams in hand, once."""
    take_command()
    if is_command() and not _begun:
        # The first that is registered is called last.
        _begun.append(True)
        atexit.register(_finish)
    for number in range(3):
        _open(number)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)
    # What a program has put in their place is its own.
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(_Output(1, "wb", closefd=False), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(_Notes(2, "wb", closefd=False), sys.stderr)
    _name_glfw(os.environ)
    # Where there is no home directory it says so in five lines, though it does without.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    sys.excepthook, threading.excepthook = _uncaught, _uncaught_in_thread


def _name_glfw(environ: MutableMapping[str, str]) -> None:
    """Say where GLFW's library is, which MuJoCo loads with its windows.

    Its package would start another Python to ask each library that it finds for its version: a tenth of a second, and
    what a signal that ends the command then leaves behind complains of that.
    """
    wanted = sys.platform == "linux" and not environ.get("PYGLFW_LIBRARY")
    package = find_spec("glfw") if wanted else None
    for folder in package.submodule_search_locations or () if package else ():
        kind = "wayland" if environ.get("XDG_SESSION_TYPE") == "wayland" else "x11"
        library = Path(folder, environ.get("PYGLFW_LIBRARY_VARIANT", "").lower() or kind, "libglfw.so")
        if library.is_file():
            environ["PYGLFW_LIBRARY"] = str(library)


def end(status: int) -> int:
    """Write what standard output still holds.

    Args:
        status: Exit status of the command so far.

    Returns:
        The exit status: where the output could not be written, 2, or as if by SIGPIPE where nobody reads it any more.
    """
    _ended.append(_flushed(status))
    return _ended[-1]


def _flushed(status: int) -> int:
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would try again, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.errno == errno.EPIPE:
            return status or 128 + signal.SIGPIPE
        if not status:
            print(f"offdyn: {error.filename}: {error.strerror}", file=sys.stderr)
        return status or 2
    return status


def _finish() -> None:
    """End a command that has said what there is to say, after what others do at the end of a process.

    Python would take a process with PyTorch apart for half a second, deaf to signals but for being killed by them.
    """
    if _ended:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(_ended[-1])


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End the command in one line where memory cannot be had, be it while modules are imported."""
    known = out_of_memory(error)
    if known is not None:
        leave(2, f"offdyn: {known}")
    sys.__excepthook__(kind, error, trace)


def _uncaught_in_thread(told: threading.ExceptHookArgs) -> None:
    """Do the same in a thread, for whose work the others would wait for ever."""
    known = out_of_memory(told.exc_value) if told.exc_value is not None else None
    if known is not None:
        leave(2, f"offdyn: {known}")
    threading.__excepthook__(told)


def _open(number: int) -> None:
    """Open a standard stream that is closed: else the next file would get its number, and what is printed.

    Writing to standard output then fails, as it should; there is nothing to read, and nobody to be told of an error.
    """
    try:
        os.fstat(number)
    except OSError:
        # The lowest number that is free: those below have been opened.
        os.set_inheritable(os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY), True)


def _stream(raw: io.FileIO, before: Any) -> io.TextIOWrapper:
    """Return a text stream like the one of before, which may be None, that can write every character."""
    codecs.register_error(_LOSSY, _replaced)
    encoding = getattr(before, "encoding", None) or "utf-8"
    direct = bool(getattr(before, "write_through", False))
    lines = raw.fileno() == 2 or raw.isatty()
    buffered = io.BufferedWriter(raw)
    return io.TextIOWrapper(buffered, encoding, _LOSSY, line_buffering=lines, write_through=direct)


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    """Write characters that an encoding lacks with those it has; bytes of file names that are no text as they are."""
    assert isinstance(error, UnicodeEncodeError)
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":
        return bytes([ord(character) - 0xDC00]), error.start + 1
    plain = _IN_ASCII.get(character) or unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or character.encode("ascii", "backslashreplace").decode(), error.start + 1
