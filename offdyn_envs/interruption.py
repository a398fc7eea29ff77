"""Ctrl-C and SIGTERM: they end long computations where the work can go on, and everything else of a command at once.

Inside `deferred` the first signal is only noted, and whoever reports progress raises `Interrupted` at its next report,
once threads and files are in order. A second signal is delivered as if nothing stood around it.

Outside of it a signal reaches a program that uses the library as ever. The `offdyn` command (`take_command`) ends at
once: what is half done is removed (`undone`), and no exception is raised, which could end up anywhere: inside an
import, a callback of C, or a library that takes it for an error of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

__all__ = ["Interrupted", "asked", "at_once", "deferred", "is_command", "leave", "take_command", "take_over", "undone"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
RESUME, NOTHING_KEPT = "repeat the command to resume", "nothing was kept"
"""What to say of the work that a signal interrupted."""
MODULE, SCRIPTS = "offdyn_envs.cli", ("offdyn", "offdyn.exe")
"""How the command is started."""
_before: dict[int, Any] = {}
_noted: list[int] = []
_undone: dict[object, Callable[[], object]] = {}
_commands: list[bool] = []
_hasty: list[bool] = []
_begins_anew: list[bool] = []


class Interrupted(KeyboardInterrupt):
    """A long computation was stopped by a signal, in a place from which it goes on.

    Attributes:
        signum: The signal; the command's exit status is 128 + signum.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


def asked() -> int:
    """Return the signal that asks to stop, 0 for none."""
    return _noted[0] if _noted else 0


@contextmanager
def deferred(resumes: bool = True) -> Generator[None]:
    """Note the first signal instead of delivering it, for the block; only in a process's main thread.

    Args:
        resumes: Whether the work goes on when the command is repeated, for the message; else nothing of it is kept.

    Raises:
        Interrupted: A signal was noted and nobody acted on it: it is delivered at the end of the block, also in the
            place of an error, which the signal may have caused.
    """
    if _before or threading.current_thread() is not threading.main_thread():
        yield
        return
    _before.update({int(kind): signal.getsignal(kind) for kind in SIGNALS})
    _begins_anew[:] = [] if resumes else [True]
    take_over()
    try:
        yield
    except BaseException as error:
        signum = _restore()
        if signum and isinstance(error, Exception):
            raise _interrupted(signum, resumes) from error
        raise
    signum = _restore()
    if signum:
        raise _interrupted(signum, resumes)


def take_over() -> None:
    """Handle signals inside `deferred` even where another library has put its handlers in ours' place."""
    if threading.current_thread() is not threading.main_thread():
        return
    for kind in _before:
        signal.signal(kind, _note)


def is_command() -> bool:
    """Say whether this process is the `offdyn` command; the answer is right while its modules are being imported."""
    if sys.argv[:1] == ["-m"]:
        return MODULE in sys.orig_argv
    return bool(sys.argv) and os.path.basename(sys.argv[0]) in SCRIPTS


def take_command() -> None:
    """Let signals end this process, which is an `offdyn` command, from now on."""
    if threading.current_thread() is not threading.main_thread() or _commands:
        return
    _commands.append(True)
    # Also where a shell that starts it in the background has Ctrl-C ignored: a script's commands end with the script.
    for kind in SIGNALS:
        signal.signal(kind, _leave)


@contextmanager
def undone(action: Callable[[], object]) -> Generator[None]:
    """Undo what the block does, where a signal ends a command in the middle of it.

    Args:
        action: Removes what is half done. An error that it raises is ignored.
    """
    key = object()
    _undone[key] = action
    try:
        yield
    finally:
        del _undone[key]


@contextmanager
def at_once() -> Generator[None]:
    """Let a signal end a command at once inside `deferred` too: for what takes long and leaves nothing to resume."""
    _hasty.append(True)
    if _commands and asked():
        _leave(asked(), None)
    try:
        yield
    finally:
        _hasty.pop()


def _interrupted(signum: int, resumes: bool) -> Interrupted:
    return Interrupted(f"interrupted; {RESUME if resumes else NOTHING_KEPT}", signum)


def _note(signum: int, frame: FrameType | None) -> None:
    if _hasty and _commands:
        _leave(signum, frame)
    if _noted:
        _restore()
        signal.raise_signal(signum)
        return
    _noted.append(signum)
    _tell(f"stopping{'' if _begins_anew else ' where the work can go on'}; once more to stop at once")


def _leave(signum: int, frame: FrameType | None) -> None:
    del frame
    for kind in SIGNALS:
        signal.signal(kind, signal.SIG_IGN)
    leave(128 + signum, "interrupted")


def leave(status: int, line: str) -> NoReturn:
    """End a command, quickly but not leaving anything half done; threads end with it, wherever they are.

    Args:
        status: The exit status.
        line: Printed on standard error.
    """
    for action in reversed(list(_undone.values())):
        with suppress(Exception):
            action()
    with suppress(Exception):
        sys.stdout.flush()
    _tell(line)
    os._exit(status)


def _tell(line: str) -> None:
    """Print a line on standard error, which the code that a signal has interrupted may be writing to."""
    with suppress(AttributeError, OSError, ValueError):
        if sys.stderr.fileno() == 2:
            os.write(2, f"{line}\n".encode())
            return
    with suppress(OSError, RuntimeError, ValueError):
        print(line, file=sys.stderr, flush=True)


def _restore() -> int:
    """Give the handlers of before back, and return the signal that was noted; 0 for none."""
    for kind, handler in _before.items():
        # A handler that was not set from Python cannot be set from it.
        if handler is not None:
            signal.signal(kind, handler)
    signum = asked()
    _before.clear()
    _noted.clear()
    return signum
