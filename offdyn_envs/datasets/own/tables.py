"""Files of named columns: npz, CSV and parquet."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.own.functions import needed
from offdyn_envs.datasets.own.table import Table
from offdyn_envs.errors import OffDynError, beginning

__all__ = ["open_csv", "open_npz", "open_parquet", "parquet_columns", "parquet_names"]

Array = NDArray[Any]
_LONGEST = 1 << 20
"""Characters that a line of names may have: a file without lines is not read whole."""
_TRUTH = {"true": 1.0, "false": 0.0}


def open_npz(path: Path) -> Table:
    """Open an archive of arrays, as `numpy.savez` writes it; pickled objects are refused, never read."""

    def load(names: Sequence[str]) -> dict[str, Array]:
        with _npz(path) as archive:
            return {name: _npz_array(path, archive, name) for name in names}

    with _npz(path) as archive:
        return Table(str(path), "npz", tuple(archive.files), load, (path,))


@contextmanager
def _npz(path: Path) -> Generator[Any, None, None]:
    """Open an archive; the file is closed here, because NumPy leaves it open where the archive is damaged."""
    if not zipfile.is_zipfile(path):
        raise OffDynError(f"{path}: is no npz archive, truncated or damaged; named arrays of numbers are wanted")
    with path.open("rb") as file:
        try:
            archive: Any = np.load(file, allow_pickle=False)
        except Exception as error:  # zipfile, zlib and NumPy each have their own.
            raise OffDynError(f"{path}: cannot be read as an npz archive ({error})") from None
        with archive:
            yield archive


def _npz_array(path: Path, archive: Any, name: str) -> Array:
    try:
        array = np.asarray(archive[name])  # A member that is no array comes as bytes.
    except Exception as error:
        if "allow_pickle" in str(error):
            raise OffDynError(
                f"{path}: array '{name}' holds pickled objects, which are never read; numbers in rows of one length "
                "are allowed"
            ) from None
        raise OffDynError(f"{path}: array '{name}' cannot be read ({error})") from None
    return _numbers(f"{path}: array '{name}'", array)


def _numbers(what: str, array: Array) -> Array:
    """Return an array of numbers [N] or [N, width]; refuse others."""
    if array.dtype.kind not in "biuf":
        raise OffDynError(f"{what} is of type {array.dtype}; numbers are allowed")
    if array.ndim not in (1, 2):
        raise OffDynError(f"{what} has shape {list(array.shape)}; [N] or [N, width] is allowed")
    return array


def open_csv(path: Path) -> Table:
    """Open a text file with a line of names; commas, semicolons or tabs between the columns."""
    try:
        with _lines(path) as file:
            first = file.readline(_LONGEST)
    except UnicodeDecodeError as error:
        raise OffDynError(f"{path}: cannot be read as CSV ({error})") from None
    if not first.strip():
        raise OffDynError(f"{path}: is empty; a line of names and rows of numbers are wanted")
    delimiter = max((",", ";", "\t"), key=first.count)
    try:
        names = tuple(name.strip() for name in next(csv.reader([first], delimiter=delimiter)))
    except csv.Error as error:
        raise OffDynError(f"{path}: cannot be read as CSV ({error})") from None
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise OffDynError(f"{path}: two columns are called '{twice}'; different names are wanted")

    def load(wanted: Sequence[str]) -> dict[str, Array]:
        chosen = [names.index(name) for name in wanted]
        rows = _check_rows(path, delimiter, len(names))
        numbers = _parse(path, delimiter, chosen, rows)
        if numbers is None:
            numbers = _parse_slowly(path, delimiter, chosen, wanted)
        return {name: numbers[:, place] for place, name in enumerate(wanted)}

    return Table(str(path), "csv", names, load, (path,))


def _lines(path: Path) -> io.TextIOWrapper:
    return path.open(encoding="utf-8-sig", newline="")


def _check_rows(path: Path, delimiter: str, width: int) -> int:
    """Return the number of rows; refuse those of another length."""
    rows = 0
    try:
        with _lines(path) as file:
            reader = csv.reader(file, delimiter=delimiter)
            next(reader)
            for row in reader:
                if row and len(row) != width:
                    raise OffDynError(
                        f"{path}: line {reader.line_num} is ragged: {len(row)} values; {width} are wanted, as named"
                    )
                rows += bool(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise OffDynError(f"{path}: cannot be read as CSV ({error})") from None
    if not rows:
        raise OffDynError(f"{path}: has names but no rows; at least one transition is needed")
    return rows


def _parse(path: Path, delimiter: str, chosen: list[int], rows: int) -> Array | None:
    """Read columns of plain numbers, float64 [N, width]; None where there is anything else."""
    try:
        with _lines(path) as file:
            found = np.loadtxt(
                file, delimiter=delimiter, skiprows=1, usecols=chosen, comments=None, quotechar='"', ndmin=2
            )
    except ValueError:
        return None
    return found if len(found) == rows else None


def _parse_slowly(path: Path, delimiter: str, chosen: list[int], names: Sequence[str]) -> Array:
    """Read columns of numbers and of the words true and false; say where anything else stands."""
    with _lines(path) as file:
        reader = csv.reader(file, delimiter=delimiter)
        next(reader)
        places = list(zip(chosen, names, strict=True))
        rows = [[_value(path, reader.line_num, name, row[at]) for at, name in places] for row in reader if row]
    return np.array(rows)


def _value(path: Path, line: int, name: str, text: str) -> float:
    try:
        return _TRUTH[found] if (found := text.strip().lower()) in _TRUTH else float(text)
    except ValueError:
        raise OffDynError(
            f"{path}: column '{name}' of line {line} is '{beginning(text, 40)}'; a number is allowed"
        ) from None


def open_parquet(path: Path) -> Table:
    """Open a parquet file: columns of numbers, or of lists of one length."""
    return Table(str(path), "parquet", parquet_names(path), lambda names: parquet_columns(path, names), (path,))


def _parquet(path: Path) -> Any:
    try:
        return needed("pyarrow.parquet").ParquetFile(path)
    except OffDynError:
        raise
    except Exception as error:  # Arrow's own, and OSError for a file that is none.
        raise OffDynError(f"{path}: cannot be read as parquet ({beginning(error, 200)})") from None


def parquet_names(path: Path) -> tuple[str, ...]:
    """Return the names of a parquet file's columns."""
    with _parquet(path) as file:
        return tuple(file.schema_arrow.names)


def parquet_columns(path: Path, names: Sequence[str]) -> dict[str, Array]:
    """Read columns of a parquet file.

    Args:
        path: The file.
        names: Columns that it has.

    Returns:
        Name -> [N], or [N, width] where a column holds lists.

    Raises:
        OffDynError: Damaged, or a column holds text, empty values or lists of different lengths.
    """
    with _parquet(path) as file:
        try:
            table = file.read(columns=list(names), use_threads=False)
            columns = {name: table.column(name).combine_chunks() for name in names}
        except Exception as error:
            raise OffDynError(f"{path}: cannot be read as parquet ({beginning(error, 200)})") from None
    return {name: _arrow_array(f"{path}: column '{name}'", stored) for name, stored in columns.items()}


def _arrow_array(what: str, stored: Any) -> Array:
    """Return an Arrow column as numbers."""
    types = needed("pyarrow").types
    if stored.null_count:
        raise OffDynError(f"{what} has {stored.null_count:,} empty values; numbers are wanted")
    kind = stored.type
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return _numbers(what, _plain(what, stored))
    rows, values = len(stored), stored.flatten()
    if values.null_count:
        raise OffDynError(f"{what} has {values.null_count:,} empty values; numbers are wanted")
    if not types.is_fixed_size_list(kind):
        lengths = np.diff(stored.offsets.to_numpy())
        odd = np.flatnonzero(lengths != lengths[:1]) if rows else []
        if len(odd):
            raise OffDynError(
                f"{what} is ragged: row {int(odd[0])} has {int(lengths[odd[0]])} values and row 0 {int(lengths[0])}; "
                "rows of one length are allowed"
            )
    flat = _numbers(what, _plain(what, values))
    return flat.reshape(rows, -1 if rows else 0)


def _plain(what: str, stored: Any) -> Array:
    """Return an Arrow column without lists as NumPy numbers, by the type that it has."""
    types = needed("pyarrow").types
    kind = stored.type
    if not (types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind)):
        raise OffDynError(f"{what} is of type {beginning(kind, 60)}; numbers are allowed")
    return np.asarray(stored.to_numpy(zero_copy_only=False))
