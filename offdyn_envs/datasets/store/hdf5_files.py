"""Opening HDF5 files where HDF5 itself gives up: file systems without locks, and full disks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from offdyn_envs.datasets.store.staging import UNSUPPORTED

__all__ = ["open_hdf5"]


def open_hdf5(path: Path) -> Any:
    """Open an HDF5 file for reading, also where its file system knows no locks.

    Args:
        path: The file.

    Returns:
        An `h5py.File`.

    Raises:
        OSError: Missing, not HDF5, damaged, or being written by another process.
    """
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    return h5py.File(path, "r", locking=False)
