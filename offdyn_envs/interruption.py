"""Ctrl-C and SIGTERM during long computations: they end where the work can go on, not in the middle of a product.

Inside `deferred` the first signal is only noted, and whoever reports progress raises `Interrupted` at its next report,
once threads and files are in order. A second signal is delivered as if nothing stood around it.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interrupted", "asked", "deferred", "take_over"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_before: dict[int, Any] = {}
_noted: list[int] = []


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
def deferred() -> Generator[None]:
    """Note the first signal instead of delivering it, for the block; only in a process's main thread.

    Raises:
        KeyboardInterrupt: A signal was noted and nobody acted on it: it is delivered at the end of the block.
    """
    if _before or threading.current_thread() is not threading.main_thread():
        yield
        return
    _before.update({int(kind): signal.getsignal(kind) for kind in SIGNALS})
    take_over()
    try:
        yield
    except BaseException:
        _restore()
        raise
    signum = asked()
    _restore()
    if signum:
        raise Interrupted("interrupted; repeat the command to resume", signum)


def take_over() -> None:
    """Handle signals inside `deferred` even where another library has put its handlers in ours' place."""
    if _before and threading.current_thread() is threading.main_thread():
        for kind in SIGNALS:
            signal.signal(kind, _note)


def _note(signum: int, frame: FrameType | None) -> None:
    del frame
    if _noted:
        _restore()
        signal.raise_signal(signum)
        return
    _noted.append(signum)
    print("stopping where the work can go on; once more to stop at once", file=sys.stderr, flush=True)


def _restore() -> None:
    for kind, handler in _before.items():
        # A handler that was not set from Python cannot be set from it.
        if handler is not None:
            signal.signal(kind, handler)
    _before.clear()
    _noted.clear()
