"""Flat arrays: one .npy file for each array of a dataset, memory-mapped; a cache of what the HDF5 file holds."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.atomic import write_array, write_json
from offdyn_envs.datasets.store.spec import Arrays

__all__ = ["read_flat", "write_flat"]

SOURCE = "source.json"


def write_flat(folder: Path, arrays: Arrays, source: Mapping[str, Any]) -> None:
    """Write flat arrays.

    Args:
        folder: New; give it its name when this is done.
        arrays: What to write.
        source: What they were made from, plain JSON.
    """
    folder.mkdir()
    for key, array in arrays.items():
        write_array(folder / f"{key}.npy", array)
    write_json(folder / SOURCE, source)


def read_flat(
    folder: Path, source: Mapping[str, Any], expected: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
) -> Arrays | None:
    """Memory-map flat arrays; the numbers in them are not checked.

    Args:
        folder: Where `write_flat` wrote them.
        source: What they should have been made from.
        expected: Type and shape of every array.

    Returns:
        The arrays; None where they are missing, of another source, or not of these types and shapes.
    """
    try:
        if json.loads((folder / SOURCE).read_text(encoding="utf-8")) != source:
            return None
        return Arrays(**{key: _map(folder / f"{key}.npy", *expected[key]) for key in expected})
    except (OSError, ValueError, RecursionError):
        return None


def _map(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Memory-map one array; its header must be the one that NumPy writes for this type and shape, to the byte.

    So no header is parsed: NumPy's parser answers damage with whatever error Python's tokeniser has.
    """
    header = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, description)
    expected = header.getvalue()
    with path.open("rb") as file:
        found = file.read(len(expected))
    if found != expected or path.stat().st_size != len(expected) + math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{path}: not the header or not the size of such an array")
    # Copy on write: changed in place, as through torch.from_numpy, it neither crashes nor changes the file.
    return np.memmap(path, dtype, "c", len(expected), shape)
