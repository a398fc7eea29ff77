"""A file of named columns, whatever its format; and how the names that a user gives find their columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.own.contract import Contract
from offdyn_envs.datasets.own.spec import ROLES, VECTORS, Spec
from offdyn_envs.datasets.store.source import Facts
from offdyn_envs.errors import OffDynError, unknown

__all__ = ["Columns", "Table", "column", "joined", "resolve"]

Array = NDArray[Any]
Columns = Mapping[str, tuple[str, ...]]
"""Role -> the columns that play it, in order; empty where none does."""


@dataclass(frozen=True)
class Table:
    """What can be known of a file before its numbers are read.

    Attributes:
        where: What messages call it.
        layout: Its format, for instance "csv".
        names: Names of its columns.
        load: From names to arrays, [N] or [N, width].
        files: The files that it consists of; together their checksums are its own.
        entries: Names of the entries of columns that hold vectors, where the file knows them.
        time_step: Seconds between two rows, where it knows that.
        action_low: Smallest value of each action, where it knows that.
        action_high: Largest value of each, likewise.
        contract: What its columns are, where its actions are in [-1, 1] already: an exported dataset.
        facts: What is wrong with the file, for the card; `load` adds to it.
    """

    where: str
    layout: str
    names: tuple[str, ...]
    load: Callable[[Sequence[str]], dict[str, Array]]
    files: tuple[Path, ...] = ()
    entries: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {})
    time_step: float | None = None
    action_low: tuple[float, ...] | None = None
    action_high: tuple[float, ...] | None = None
    contract: Contract | None = None
    facts: Facts = field(default_factory=Facts)


def resolve(table: Table, spec: Spec) -> Columns:
    """Find the columns of every role.

    Args:
        table: The file.
        spec: What the user says; other roles are looked for under the usual names.

    Raises:
        OffDynError: A column that the user names is not there (the message names the nearest), or one that is needed is
            under none of the usual names.
    """
    found = {role: _of_role(table, spec, role) for role in ROLES}
    if spec.reward_function is not None:
        found["rewards"] = ()
    for role in ("observations", "actions", "rewards"):
        if not found[role] and not (role == "rewards" and spec.reward_function is not None):
            raise OffDynError(_missing(table, role))
    if not any(found[role] for role in ("next_observations", "terminations", "truncations", "done", "episode")):
        raise OffDynError(
            f"{table.where}: no column says where episodes end; name one with --terminations, --truncations, --done or "
            f"--episode; found: {_shown(table.names)}"
        )
    return found


def _missing(table: Table, role: str) -> str:
    flag = f"--{role.replace('_', '-')}"
    other = " or compute them with --reward-function" if role == "rewards" else ""
    return (
        f"{table.where}: no column of {role} ({', '.join(ROLES[role])}); name it with {flag}{other}; "
        f"found: {_shown(table.names)}"
    )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "") or "nothing"


def _of_role(table: Table, spec: Spec, role: str) -> tuple[str, ...]:
    said: tuple[str, ...] | None = getattr(spec, role)
    if said is None:
        found = (_matching(table, usual, role) for usual in ROLES[role])
        return next((names for names in found if names), ())
    columns: list[str] = []
    for name in said:
        matched = _matching(table, name, role)
        if not matched:
            raise OffDynError(f"{table.where}: {role}: {unknown('column', name, table.names)}")
        columns += matched
    return tuple(columns)


def _matching(table: Table, name: str, role: str) -> tuple[str, ...]:
    """Return the columns that a name stands for: itself, the numbered ones, or all with this prefix."""
    if name in table.names:
        return (name,)
    if role not in VECTORS:
        return ()
    numbered = re.compile(rf"{re.escape(name)}[._\[/-]?(\d+)\]?")
    numbers = {int(hit[1]): other for other in table.names if (hit := numbered.fullmatch(other))}
    if numbers:
        first, last = min(numbers), max(numbers)
        gap = next((number for number in range(first, last) if number not in numbers), None)
        if gap is not None:
            raise OffDynError(
                f"{table.where}: {role}: columns {numbers[first]} to {numbers[last]} lack number {gap}; "
                "every number is wanted, or a list of names"
            )
        return tuple(numbers[number] for number in sorted(numbers))
    return tuple(other for other in table.names if other.startswith(name)) if name[-1:] in ("_", ".", "/") else ()


def joined(table: Table, loaded: Mapping[str, Array], names: Sequence[str], role: str) -> tuple[Array, tuple[str, ...]]:
    """Join the columns of one role.

    Returns:
        float32 [N, width], and the name of every entry.

    Raises:
        OffDynError: Columns of different lengths.
    """
    parts: list[Array] = []
    entries: list[str] = []
    for name in names:
        array = loaded[name]
        if array.ndim == 1:
            parts.append(array[:, None])
            entries.append(name)
            continue
        parts.append(array)
        known = table.entries.get(name, ())
        fits = len(known) == array.shape[1]
        entries += known if fits else [f"{name}_{number}" for number in range(array.shape[1])]
    for name, part in zip(names, parts, strict=True):
        if len(part) != len(parts[0]):
            raise OffDynError(
                f"{table.where}: {role}: column '{name}' has {len(part):,} rows and '{names[0]}' {len(parts[0]):,}; "
                "as many are wanted"
            )
    with np.errstate(over="ignore"):  # What is too large becomes infinite, and is refused as that.
        return np.concatenate(parts, axis=1).astype(np.float32), tuple(entries)


def column(table: Table, loaded: Mapping[str, Array], names: Sequence[str]) -> Array | None:
    """Return a column of one number a row, [N]; None where there is no such column.

    Raises:
        OffDynError: It holds several numbers a row.
    """
    if not names:
        return None
    array = loaded[names[0]]
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim != 1:
        raise OffDynError(f"{table.where}: column '{names[0]}' has shape {list(array.shape)}; [N] is wanted")
    return array
