"""Reading somebody else's file: every fault is one line that names the file, the key and what was expected."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.store.hdf5_files import open_hdf5
from offdyn_envs.errors import OffDynError

__all__ = ["Facts", "Source", "opened"]

Array = NDArray[Any]

DEFLATE = 1032
"""Largest ratio that deflate reaches: an array that claims more than this times the file's size is not there."""
SPARE = 1 << 20


@dataclass
class Facts:
    """What was learned on the way from a file to a dataset.

    Attributes:
        dropped: What -> number of rows that are not in the result.
        counted: What -> number of rows or values, for the card.
        notes: Sentences for whoever uses the data.
    """

    dropped: dict[str, int] = field(default_factory=lambda: {})
    counted: dict[str, int] = field(default_factory=lambda: {})
    notes: list[str] = field(default_factory=lambda: [])


class Source:
    """A group of an open HDF5 file, read with checks.

    Args:
        path: The file, for messages.
        group: An h5py group.
    """

    def __init__(self, path: Path, group: Any) -> None:
        self.path = path
        self.group = group
        self.limit = path.stat().st_size * DEFLATE + SPARE

    def fault(self, key: str, what: str, expected: str) -> OffDynError:
        """Build the error for one key."""
        full = f"{self.group.name}/{key}".lstrip("/")
        return OffDynError(f"{self.path}: key '{full}' {what}; expected {expected}")

    def keys(self) -> list[str]:
        """Return the names in this group."""
        return list(self.group.keys())

    def has(self, key: str) -> bool:
        """Say whether the group holds a key, as an array, a group or a link."""
        return self._link(key) is not None

    def inside(self, key: str) -> Source:
        """Return a group inside this one.

        Raises:
            OffDynError: Missing, or not a group of this file.
        """
        import h5py

        self._refuse_link(key, "the group of an episode")
        found = self.group.get(key)
        if not isinstance(found, h5py.Group):
            raise self.fault(key, "is no group" if found is not None else "is missing", "the group of an episode")
        return Source(self.path, found)

    def floats(self, key: str, shape: Sequence[int | tuple[int, ...] | None], dtype: type = np.float32) -> Array:
        """Read an array of floating-point numbers.

        Args:
            key: Its name.
            shape: Expected sizes; None for any, a tuple for one of several.
            dtype: What to return.

        Returns:
            The array; what is too large for `dtype` becomes infinite.

        Raises:
            OffDynError: Missing, of another type or another shape.
        """
        stored = self._stored(key, shape, "float")
        if stored.dtype.kind != "f" or stored.dtype.itemsize not in (4, 8):
            raise self.fault(key, f"is {stored.dtype}", "float32 or float64")
        with np.errstate(over="ignore"):
            return np.asarray(stored[()]).astype(dtype, copy=False)

    def column(self, key: str, rows: int | None) -> Array:
        """Read one number per row, stored as [N] or [N, 1]; return float32 [N]."""
        return self.floats(key, self._column_shape(key, rows)).reshape(-1)

    def flags(self, key: str, rows: int | None) -> Array:
        """Read one truth value per row, stored as [N] or [N, 1] in any numeric type; return bool [N].

        Raises:
            OffDynError: Missing, of another type or shape, or with a value besides 0 and 1.
        """
        stored = self._stored(key, self._column_shape(key, rows), "bool")
        if stored.dtype.kind not in "biuf" or stored.dtype.itemsize > 8:
            raise self.fault(key, f"is {stored.dtype}", "bool, or numbers 0 and 1")
        values = np.asarray(stored[()]).reshape(-1)
        wrong = np.flatnonzero((values != 0) & (values != 1))
        if len(wrong):
            row = int(wrong[0])
            raise self.fault(key, f"is {values[row]!s} at row {row}", "0 or 1")
        return values.astype(bool)

    def numbers(self, key: str) -> Array:
        """Read an array of numbers or truth values, [N] or [N, width], of any type, as it is stored.

        Raises:
            OffDynError: Missing, of another type or shape.
        """
        expected: tuple[int | None, ...] = (None, None)
        found = getattr(self.group.get(key), "shape", None) if self._link(key) == "hard" else None
        stored = self._stored(key, expected[: max(1, min(2, len(found or (0,))))], "numbers")
        if stored.dtype.kind not in "biuf" or stored.dtype.itemsize > 8:
            raise self.fault(key, f"is {stored.dtype}", "numbers")
        return np.asarray(stored[()])

    def _column_shape(self, key: str, rows: int | None) -> tuple[int | None, ...]:
        found = getattr(self.group.get(key), "shape", None) if self._link(key) == "hard" else None
        return (rows, 1) if found is not None and len(found) == 2 else (rows,)

    def _stored(self, key: str, shape: Sequence[int | tuple[int, ...] | None], kind: str) -> Any:
        """Return the h5py dataset after testing that it lies in this file and has the expected shape."""
        import h5py

        expected = f"{kind} [{', '.join(map(_size, shape))}]"
        self._refuse_link(key, expected)
        stored = self.group.get(key)
        if not isinstance(stored, h5py.Dataset) or stored.shape is None:
            raise self.fault(key, "is missing" if stored is None else "is no array", expected)
        if stored.is_virtual or stored.external:
            raise self.fault(key, "lies in another file", expected)
        fits = len(stored.shape) == len(shape) and all(map(_fits, stored.shape, shape))
        if not fits:
            raise self.fault(key, f"is {stored.dtype} {list(stored.shape)}", expected)
        if stored.dtype.itemsize * int(np.prod(stored.shape, dtype=object)) > self.limit:
            raise self.fault(key, f"claims {list(stored.shape)} values, more than the file can hold", expected)
        return stored

    def _link(self, key: str) -> str | None:
        """Say what a key is without following it: "hard" for what lies in this file, "link", or None if missing."""
        import h5py

        parts = key.split("/")
        for depth in range(1, len(parts) + 1):
            name = "/".join(parts[:depth])
            found = self.group.get(name, getlink=True) if self._lists(name) else None
            if not isinstance(found, h5py.HardLink):
                return None if found is None else "link"
        return "hard"

    def _lists(self, name: str) -> bool:
        """Say whether the group that should hold a name lists it, which follows no link."""
        parent, _, last = name.rpartition("/")
        group = self.group[parent] if parent else self.group
        return hasattr(group, "keys") and last in set(group.keys())

    def _refuse_link(self, key: str, expected: str) -> None:
        """Refuse what is missing and what points elsewhere, perhaps to another file of this machine."""
        kind = self._link(key)
        if kind != "hard":
            raise self.fault(key, "is missing" if kind is None else "is a link", expected)


def _size(size: int | tuple[int, ...] | None) -> str:
    return "N" if size is None else " or ".join(map(str, size)) if isinstance(size, tuple) else str(size)


def _fits(found: int, size: int | tuple[int, ...] | None) -> bool:
    return size is None or (found in size if isinstance(size, tuple) else found == size)


@contextmanager
def opened(path: Path) -> Generator[Source, None, None]:
    """Open an HDF5 file for reading.

    Args:
        path: The file.

    Yields:
        Its root group.

    Raises:
        OffDynError: Missing, not HDF5, or damaged, also where that shows only while it is read.
    """
    if not path.is_file():
        raise OffDynError(f"{path}: missing; expected an HDF5 file")
    try:
        with open_hdf5(path) as file:
            yield Source(path, file)
    except OffDynError:
        raise
    except Exception as error:  # h5py turns HDF5's own faults into nearly any type, MemoryError and KeyError included.
        raise OffDynError(f"{path}: not HDF5, truncated or damaged ({error}); expected a whole HDF5 file") from None
