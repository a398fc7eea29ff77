"""A small table: a list of rows that prints itself, and that pandas takes as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

__all__ = ["Table"]

SHOWN = 20
"""Rows at each end of a long table that are printed."""


class Table(list[dict[str, Any]]):
    """Rows of one table, each a dict by column; `pandas.DataFrame(table)` takes it.

    Args:
        rows: The rows; columns that only some have are None in the others.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        given = [dict(row) for row in rows]
        names = dict.fromkeys(name for row in given for name in row)
        super().__init__({name: row.get(name) for name in names} for row in given)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self[0]) if self else []

    def column(self, name: str) -> list[Any]:
        """Return the values of a column.

        Raises:
            OffDynError: There is no such column; the message names the nearest.
        """
        from offdyn_envs.errors import unknown

        if name not in self.columns:
            raise unknown("column", name, self.columns)
        return [row[name] for row in self]

    def __repr__(self) -> str:
        cells = [self.columns, *([_text(value) for value in row.values()] for row in self._shown())]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)

    def _repr_html_(self) -> str:
        """Return it as notebooks show it."""
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        rows = ("".join(f"<td>{escape(_text(value))}</td>" for value in row.values()) for row in self._shown())
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"

    def _shown(self) -> list[dict[str, Any]]:
        """Return the rows that are printed: of a long table the first and the last ones."""
        if len(self) <= 2 * SHOWN:
            return list(self)
        return [*self[:SHOWN], dict.fromkeys(self.columns, "..."), *self[-SHOWN:]]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
