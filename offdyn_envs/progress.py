"""A progress bar on a terminal, a plain line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from offdyn_envs.interruption import Interrupted, asked, deferred

__all__ = ["progress"]

PLAIN_INTERVAL = 10.0
Advance = Callable[..., None]


def _fields(values: dict[str, object]) -> str:
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )


def _silent(n: int = 1, **values: object) -> None:
    del n, values


@contextmanager
def _plain(description: str, total: int, start: int, bound: str) -> Generator[Advance]:
    begun = last = time.monotonic()
    done = start

    def advance(n: int = 1, **values: object) -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL or (done >= total and now - begun >= PLAIN_INTERVAL):
            last = now
            left = (now - begun) / max(done - start, 1) * (total - done)
            print(
                f"{description}: {done:,}/{total:,}  {bound}{left:.0f} s left  {_fields(values)}",
                file=sys.stderr,
                flush=True,
            )

    yield advance


@contextmanager
def _bar(description: str, total: int, start: int, bound: str) -> Generator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *([TextColumn(bound)] if bound else []),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as bar:
        task = bar.add_task(description, total=total, completed=start, note="")

        def advance(n: int = 1, **values: object) -> None:
            bar.update(task, advance=n)
            if values:
                bar.update(task, note=_fields(values))

        yield advance


@contextmanager
def progress(
    description: str, total: int, *, start: int = 0, quiet: bool = False, at_most: bool = False
) -> Generator[Advance]:
    """Show the progress of a long computation on standard error, and stop it where a signal asks for that.

    Args:
        description: What is being done.
        total: How many units it takes.
        start: How many of them an earlier run has done.
        quiet: Show nothing.
        at_most: Whether `total` is a bound that is seldom reached, as where early stopping ends a training.

    Yields:
        `advance(n, **fields)`: `n` more units are done; `fields` are shown behind the bar.

    Raises:
        Interrupted: From `advance`, after Ctrl-C or SIGTERM.
    """
    done = start
    with deferred(), _shown(description, total, start, quiet, "at most " if at_most else "") as show:

        def advance(n: int = 1, **values: object) -> None:
            nonlocal done
            done += n
            show(n, **values)
            signum = asked()
            if signum and done < total:
                told = f"{description}: interrupted at {done:,} of {total:,}; repeat the command to resume"
                raise Interrupted(told, signum)

        yield advance


@contextmanager
def _shown(description: str, total: int, start: int, quiet: bool, bound: str) -> Generator[Advance]:
    """Give what shows that units are done."""
    if quiet:
        yield _silent
    elif sys.stderr.isatty():
        with _bar(description, total, start, bound.strip()) as advance:
            yield advance
    else:
        with _plain(description, total, start, bound) as advance:
            yield advance
