"""A progress bar on a terminal and in a notebook, a plain line now and then anywhere else."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

from offdyn_envs.interruption import NOTHING_KEPT, RESUME, Interrupted, asked, deferred, undone

__all__ = ["duration", "progress"]

PLAIN_INTERVAL, NOTEBOOK_INTERVAL = 10.0, 0.25
"""Seconds between two lines, and between two changes of a notebook's bar."""
NOTEBOOK = "ZMQInteractiveShell"
"""What runs the cells of Jupyter, JupyterLab, VS Code and Colab, where no stream is a terminal."""
SHOW_CURSOR = b"\x1b[?25h"
BAR = 8
"""Columns of a terminal's bar: what is told beside it shall fit into 80."""
Advance = Callable[..., None]


def duration(seconds: float) -> str:
    """Return a time in the two units that matter, such as "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"


def _fields(values: dict[str, object]) -> str:
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )


def _silent(n: int = 1, **values: object) -> None:
    del n, values


@dataclass
class _Clock:
    """How far a computation is, and when that was last told."""

    total: int
    start: int
    bound: str

    def __post_init__(self) -> None:
        self.begun = self.last = time.monotonic()
        self.done = self.start

    def advance(self, n: int) -> float:
        """Count n more units and return the time."""
        self.done += n
        return time.monotonic()

    def told(self, now: float) -> str:
        """Return how far it is and how long the rest will take."""
        self.last = now
        gone = now - self.begun
        left = gone / max(self.done - self.start, 1) * (self.total - self.done)
        return f"{self.done:,}/{self.total:,}  {duration(gone)} gone, {self.bound}{duration(left)} left"


@contextmanager
def _plain(description: str, total: int, start: int, bound: str) -> Generator[Advance]:
    clock = _Clock(total, start, bound)

    def advance(n: int = 1, **values: object) -> None:
        now = clock.advance(n)
        ended = clock.done >= total and now - clock.begun >= PLAIN_INTERVAL
        if now - clock.last >= PLAIN_INTERVAL or ended:
            print(f"{description}: {clock.told(now)}  {_fields(values)}", file=sys.stderr, flush=True)

    yield advance


def _notebook_display() -> Any:
    """Return what shows things in the notebook that runs this program; None where none does."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if not any(kind.__name__ == NOTEBOOK for kind in type(shell).__mro__):
        return None
    from importlib import import_module

    return import_module("IPython.display").display


@contextmanager
def _notebook(display: Any, description: str, total: int, start: int, bound: str) -> Generator[Advance]:
    """Show one bar that changes in its place; what a saved notebook keeps is its last state."""
    clock, note = _Clock(total, start, bound), ""

    def shown(text: str) -> dict[str, str]:
        line = f"{description}: {text}  {note}".rstrip()
        bar = f'<progress max="{total}" value="{min(clock.done, total)}"></progress>'
        return {"text/plain": line, "text/html": f"{bar} {escape(line)}"}

    handle = display(shown(f"{start:,}/{total:,}"), raw=True, display_id=True)

    def advance(n: int = 1, **values: object) -> None:
        nonlocal note
        now = clock.advance(n)
        note = _fields(values) or note
        if now - clock.last >= NOTEBOOK_INTERVAL or clock.done >= total:
            handle.update(shown(clock.told(now)), raw=True)

    try:
        yield advance
    finally:
        handle.update(shown(f"{clock.done:,}/{total:,}  {time.monotonic() - clock.begun:.0f} s"), raw=True)


def _room(console: Any) -> int:
    """Return how many columns a bar's description has: what is told beside it has 52, its note the rest."""
    return max(16, console.width - 52)


@contextmanager
def _bar(description: str, total: int, start: int, bound: str) -> Generator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    console = Console(stderr=True)
    columns = (
        TextColumn(
            "{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", max_width=_room(console))
        ),
        BarColumn(bar_width=BAR),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TextColumn(f"gone, {bound}".strip(), table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        TextColumn("left", table_column=Column(no_wrap=True)),
        # It alone is cut where a line is too short.
        TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
    )
    # The cursor is hidden while a bar is shown.
    shown = undone(lambda: os.write(2, SHOW_CURSOR))
    with shown, Progress(*columns, console=console, refresh_per_second=4, expand=True) as bar:
        task = bar.add_task(description, total=total, completed=start, note="")

        def advance(n: int = 1, **values: object) -> None:
            bar.update(task, advance=n)
            if values:
                bar.update(task, note=_fields(values))

        yield advance


@contextmanager
def progress(
    description: str,
    total: int,
    *,
    start: int = 0,
    quiet: bool = False,
    at_most: bool = False,
    resumes: bool = True,
) -> Generator[Advance]:
    """Show the progress of a long computation, and stop it where a signal asks for that.

    It is shown in a notebook below its cell, else on standard error.

    Args:
        description: What is being done.
        total: How many units it takes.
        start: How many of them an earlier run has done.
        quiet: Show nothing.
        at_most: Whether `total` is a bound that is seldom reached, as where early stopping ends a training.
        resumes: Whether the same command goes on where it was interrupted; else nothing is kept, and that is said.

    Yields:
        `advance(n, **fields)`: `n` more units are done; `fields` are shown behind the bar.

    Raises:
        Interrupted: From `advance`, after Ctrl-C or SIGTERM.
    """
    done = start
    with deferred(resumes), _shown(description, total, start, quiet, "at most " if at_most else "") as show:

        def advance(n: int = 1, **values: object) -> None:
            nonlocal done
            done += n
            show(n, **values)
            signum = asked()
            if signum and done < total:
                told = f"{description}: interrupted at {done:,} of {total:,}; {RESUME if resumes else NOTHING_KEPT}"
                raise Interrupted(told, signum)

        yield advance


@contextmanager
def _shown(description: str, total: int, start: int, quiet: bool, bound: str) -> Generator[Advance]:
    """Give what shows that units are done."""
    if quiet:
        yield _silent
    elif (display := _notebook_display()) is not None:
        with _notebook(display, description, total, start, bound) as advance:
            yield advance
    elif sys.stderr.isatty():
        with _bar(description, total, start, bound.strip()) as advance:
            yield advance
    else:
        with _plain(description, total, start, bound) as advance:
            yield advance
