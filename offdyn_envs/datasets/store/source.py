"""Reading somebody else's file: every fault is one line that names the file, the key and what was expected."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
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
        limit: Bytes that an array of the file can have at most; by default from the file's size.
    """

    def __init__(self, path: Path, group: Any, limit: int | None = None) -> None:
        self.path = path
        self.group = group
        self.limit = path.stat().st_size * DEFLATE + SPARE if limit is None else limit

    def fault(self, key: str, what: str, expected: str) -> OffDynError:
        """Build the error for one key."""
        full = f"{self.group.name}/{key}".lstrip("/")
        return OffDynError(f"{self.path}: key '{full}' {what}; expected {expected}")

    def keys(self) -> list[str]:
        """Return the names in this group."""
        return list(self.group.keys())

    def has(self, key: str) -> bool:
        """Say whether the group holds a key, as an array, a group or a link."""
        return self._find(key)[0] is not None

    def inside(self, key: str) -> Source:
        """Return a group inside this one.

        Raises:
            OffDynError: Missing, or not a group of this file.
        """
        import h5py

        kind, found = self._find(key)
        if not isinstance(found, h5py.h5g.GroupID):
            what = "is missing" if kind is None else "is a link" if kind == "link" else "is no group"
            raise self.fault(key, what, "the group of an episode")
        return Source(self.path, h5py.Group(found), self.limit)

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
        return self._floats(key, self._stored(key, shape, "float"), dtype)

    def column(self, key: str, rows: int | None) -> Array:
        """Read one number per row, whole or not, stored as [N] or [N, 1]; return float32 [N]."""
        return self._floats(key, self._stored(key, (rows,), "numbers", wide=1), np.float32, "fiu").reshape(-1)

    def _floats(self, key: str, stored: Any, dtype: type, kinds: str = "f") -> Array:
        if stored.dtype.kind not in kinds or stored.dtype.itemsize > 8:
            raise self.fault(key, f"is {stored.dtype}", "float16, float32 or float64" if kinds == "f" else "numbers")
        with np.errstate(over="ignore"):
            return _values(stored).astype(dtype, copy=False)

    def flags(self, key: str, rows: int | None, unfit: Array | None = None) -> Array:
        """Read one truth value per row, stored as [N] or [N, 1] in any numeric type; return bool [N].

        Args:
            key: Its name.
            rows: N.
            unfit: bool [N], gets the rows whose value is no number, which are false then; None refuses them.

        Raises:
            OffDynError: Missing, of another type or shape, or with a value besides 0 and 1.
        """
        stored = self._stored(key, (rows,), "bool", wide=1)
        if stored.dtype.kind not in "biuf" or stored.dtype.itemsize > 8:
            raise self.fault(key, f"is {stored.dtype}", "bool, or numbers 0 and 1")
        values = _values(stored).reshape(-1)
        if values.dtype == bool:
            return values
        if unfit is not None and values.dtype.kind == "f":
            unfit |= np.isnan(values)
            values = np.where(np.isnan(values), 0, values)
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
        stored = self._stored(key, (None,), "numbers", wide=None)
        if stored.dtype.kind not in "biuf" or stored.dtype.itemsize > 8:
            raise self.fault(key, f"is {stored.dtype}", "numbers")
        return _values(stored)

    def _stored(self, key: str, shape: Sequence[int | tuple[int, ...] | None], kind: str, wide: int | None = 0) -> Any:
        """Return the array, unread, after testing that it lies in this file and has the expected shape.

        Args:
            key: Its name.
            shape: Expected sizes.
            kind: What it should hold, for the message.
            wide: Size of one more dimension that it may have, None for any; 0 where it may not.
        """
        import h5py

        kinds, stored = h5py.h5d.DatasetID, self._find(key)
        sizes: tuple[int, ...] | None = None
        if isinstance(stored[1], kinds) and stored[1].get_space().get_simple_extent_type() != h5py.h5s.NULL:
            sizes = stored[1].shape
        if wide != 0 and sizes is not None and len(sizes) == len(shape) + 1:
            shape = (*shape, wide)
        if sizes is None or len(sizes) != len(shape) or not all(map(_fits, sizes, shape)):
            raise self._unfit(key, stored, sizes, f"{kind} [{', '.join(map(_size, shape))}]")
        return self._whole(key, stored[1], sizes, f"{kind} {list(sizes)}")

    def _unfit(
        self, key: str, found: tuple[str | None, Any], sizes: tuple[int, ...] | None, expected: str
    ) -> OffDynError:
        """Build the error for what is no array of this file, or has another shape."""
        if found[0] != "hard":
            return self.fault(key, "is missing" if found[0] is None else "is a link", expected)
        return self.fault(key, "is no array" if sizes is None else f"is {found[1].dtype} {list(sizes)}", expected)

    def _whole(self, key: str, stored: Any, sizes: tuple[int, ...], expected: str) -> Any:
        """Refuse an array whose values lie elsewhere, or are more than the file can hold."""
        import h5py

        plist = stored.get_create_plist()
        if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
            raise self.fault(key, "lies in another file", expected)
        if stored.dtype.itemsize * prod(sizes) > self.limit:
            raise self.fault(key, f"claims {list(sizes)} values, more than the file can hold", expected)
        return stored

    def _find(self, key: str) -> tuple[str | None, Any]:
        """Open a key without following a link.

        h5py's low-level calls: its groups and datasets take ten times as long, and a file may have 200,000 of them.

        Returns:
            "hard" and the object for what lies in this file; "link" and None for what perhaps does not; None and None
            where it is missing.
        """
        h5: Any = _h5py()
        place = self.group.id
        for name in key.encode().split(b"/"):
            if not isinstance(place, h5.h5g.GroupID) or not place.links.exists(name):
                return None, None
            if place.links.get_info(name).type != h5.h5l.TYPE_HARD:
                return "link", None
            place = h5.h5o.open(place, name)
        return "hard", place


def _h5py() -> Any:
    """Return h5py, some of whose modules type checkers do not know."""
    import h5py

    return h5py


def _values(stored: Any) -> Array:
    """Read an array that was tested."""
    import h5py

    values = np.empty(stored.shape, stored.dtype)
    if values.size:
        stored.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return values


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
