"""The one exception for bad input: a single line that names the thing, the value and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["OffDynError", "beginning", "unknown"]


class OffDynError(ValueError):
    """Bad input. The message is one line; the `offdyn` command prints it and exits with status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


def beginning(value: object, length: int) -> str:
    """Return the beginning of a value as text, for an error message.

    Args:
        value: Anything.
        length: How many characters at most.
    """
    try:
        return str(value)[:length]
    except ValueError:  # Python prints no whole number of more than some thousand digits.
        return "a number too long to print"


def unknown(kind: str, name: object, allowed: Iterable[str]) -> OffDynError:
    """Build the error for a name that is in no table, with the nearest valid one.

    Args:
        kind: What the name should have been, for instance "task".
        name: The value given.
        allowed: Every valid name, in the order to show.

    Returns:
        The error, ready to raise.
    """
    names = list(allowed)
    given = beginning(name, 80)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    shown = ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
    return OffDynError(f"unknown {kind} '{given}'; {hint}allowed: {shown}")
