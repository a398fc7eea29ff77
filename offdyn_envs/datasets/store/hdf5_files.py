"""Opening HDF5 files where HDF5 itself gives up: file systems without locks, and full disks."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from offdyn_envs.atomic import room
from offdyn_envs.datasets.store.staging import UNSUPPORTED

__all__ = ["new_hdf5", "open_hdf5"]

GROWTH = 1 << 24
"""Bytes by which a file in memory grows."""


@contextmanager
def new_hdf5(path: Path) -> Generator[Any, None, None]:
    """Yield a new HDF5 file, which lies in memory until the block ends and is written then.

    HDF5 takes no failure of a write: what was open then crashes when it is closed, at the latest as the process ends.
    In memory none of its writes fails. The bytes are those of a file that HDF5 has written itself.

    Args:
        path: The file, not in its place yet.

    Yields:
        An `h5py.File`.

    Raises:
        DiskFullError: There is no room for it.
    """
    import h5py

    memory: dict[str, Any] = {"driver": "core", "backing_store": False, "block_size": GROWTH}
    with h5py.File(path, "w", libver="v108", locking=False, **memory) as file:
        yield file
        # The first makes room for what is cached and writes it; the second gives back what was set aside for more,
        # as closing a file does.
        file.flush()
        file.flush()
        content = file.id.get_file_image()
    with room(path, len(content)):
        path.write_bytes(content)


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
