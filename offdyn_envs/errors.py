"""The one exception for bad input: a single line that names the thing, the value and what is allowed."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable

__all__ = ["OffDynError", "beginning", "out_of_memory", "shown", "spelled", "unknown"]

_NO_MEMORY = re.compile(
    "(can't|cannot|could not|unable to|failed to) (allocate|map segment|start new thread)|out of memory|"
    "not enough memory|bad_alloc",
    re.IGNORECASE,
)
"""How libraries say it; few of them raise a MemoryError."""
_POINT = re.compile(r"(?<=\d)p(?=\d)")
"""The point of a number in names that allow no dots."""
NEAREST = 4
"""Names that a message about an unknown one shows at most."""
ALMOST = 0.9
"""Likeness from which on a name is taken for a misspelt one, also where others begin as it does."""
NEARLY = 0.8
"""Share of the memory that a process may have, from which on that is what is wrong."""


class OffDynError(ValueError):
    """Bad input. The message is one line; the `offdyn` command prints it and exits with status 2.

    Examples:
        >>> import offdyn
        >>> offdyn.Gravity(-1.0)
        Traceback (most recent call last):
            ...
        offdyn_envs.errors.OffDynError: gravity shift: scale must be a finite number from 1e-06 to 1e+06, got -1.0
    """

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


def shown(value: object) -> str:
    """Return the beginning of a value as an error message shows it: text in quotation marks, so that '1' is not 1.

    Args:
        value: Anything.
    """
    text = beginning(value, 60)
    return repr(text) if isinstance(value, str) else text


def spelled(name: object, allowed: Iterable[str]) -> str | None:
    """Return the valid name that is meant, however it is spelled.

    Case, "OffDyn/" in front, "-v0" behind, "_" for "-" and "0p5" for "0.5" make no difference.

    Args:
        name: The value given.
        allowed: Every valid name.

    Returns:
        The valid name; None where none is meant, or several are.
    """
    names = list(allowed)
    if name in names:
        return str(name)
    meant = _plain(beginning(name, 200))
    found = [known for known in names if _plain(known) == meant]
    return found[0] if len(found) == 1 else None


def _plain(name: str) -> str:
    """Return a name in the one spelling in which names are compared."""
    text = name.strip().lower().replace("_", "-").removeprefix("offdyn/").removesuffix("-v0")
    return _POINT.sub(".", text)


def unknown(kind: str, name: object, allowed: Iterable[str], lists: str = "") -> OffDynError:
    """Build the error for a name that is in no table, with the nearest valid ones.

    Args:
        kind: What the name should have been, for instance "task".
        name: The value given.
        allowed: Every valid name, in the order to show.
        lists: The command that lists them, for instance "offdyn tasks".

    Returns:
        The error, ready to raise.
    """
    names = list(allowed)
    given = beginning(name, 80)
    where = f"`{lists}` lists all {len(names)}" if lists else f"{len(names)} in all"
    known = {_plain(other): other for other in reversed(names)}
    nearest = difflib.get_close_matches(_plain(given), known, n=1, cutoff=ALMOST)
    begun, how = ([], "so") if nearest else _begun(_plain(given), names)
    if len(begun) > 2 * NEAREST:
        begun = [*begun[:NEAREST], "..."]
    if len(begun) > 1:
        return OffDynError(f"unknown {kind} '{given}'; names that begin {how}: {', '.join(begun)}; {where}")
    near = [known[other] for other in difflib.get_close_matches(_plain(given), known, n=NEAREST, cutoff=0.5)]
    hint = f"did you mean '{near[0]}'? " if near else ""
    if len(names) <= 12:
        shown = f"allowed: {', '.join(names)}"
    elif near[1:]:
        shown = f"near it: {', '.join(near[1:])}; {where}"
    else:
        shown = where if lists or near else f"allowed: {', '.join(names[:NEAREST])}, ... ({where})"
    return OffDynError(f"unknown {kind} '{given}'; {hint}{shown}")


def _begun(given: str, names: list[str]) -> tuple[list[str], str]:
    """Return the names whose first words are given, or nearly so where it is one word, and how they begin."""
    found = [name for name in names if _plain(name).startswith(f"{given}-")]
    first = {_plain(name).partition("-")[0] for name in names}
    if found or "-" in given or not (meant := difflib.get_close_matches(given, sorted(first), n=1, cutoff=0.8)):
        return found, "so"
    return [name for name in names if _plain(name).startswith(f"{meant[0]}-")], f"with '{meant[0]}'"


def out_of_memory(error: BaseException) -> OffDynError | None:
    """Build the error for memory that could not be had.

    Args:
        error: What was raised, by whichever library.

    Returns:
        The error, ready to raise; None where something else is wrong.
    """
    found: BaseException | None = error
    while found is not None:
        lines = str(found).strip().splitlines() or [""]
        said = next((line for line in lines if _NO_MEMORY.search(line)), "")
        known = isinstance(found, MemoryError) or getattr(found, "errno", None) == errno.ENOMEM
        if known or (said and not isinstance(found, OffDynError)):
            detail = beginning(said or lines[0], 200)
            return OffDynError(f"not enough memory{f': {detail}' if detail else ''}")
        found = found.__cause__ or found.__context__
    return _at_limit(error)


def _at_limit(error: BaseException) -> OffDynError | None:
    """Build the error for whatever is raised in a process that has nearly all the memory it may have.

    Where the next allocation fails, libraries raise nearly anything.
    """
    # No module can be imported any more that would know.
    limit, peak = _number("limits", "Max address space", 3), _number("status", "VmPeak:", 1) << 10
    if not limit or peak < NEARLY * limit:
        return None
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return OffDynError(f"not enough memory, this process may have {limit / 2**20:,.0f} MB: {beginning(what, 200)}")


def _number(file: str, line: str, word: int) -> int:
    """Return a number that Linux tells of this process; 0 where there is none."""
    try:
        with open(f"/proc/self/{file}", encoding="ascii", errors="replace") as lines:
            words = next((told.split() for told in lines if told.startswith(line)), [])
    except OSError:
        return 0
    return int(words[word]) if len(words) > word and words[word].isdecimal() else 0
