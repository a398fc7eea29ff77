"""The Minari HDF5 layout: one group per episode, T + 1 observations and simulator states, T of everything else.

Written with h5py rather than through `minari.create_dataset_from_buffers`: that one writes under its final name, so a
killed process would leave half a dataset there, and takes about four times as long for short episodes. The test-suite
reads what is written here with Minari and compares.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.store.hdf5_files import new_hdf5, open_hdf5
from offdyn_envs.datasets.store.spec import Arrays, schema, validate
from offdyn_envs.errors import OffDynError
from offdyn_envs.progress import progress
from offdyn_envs.robots import Robot

__all__ = ["read_hdf5", "write_hdf5"]

Array = NDArray[Any]
EVERY = 100
"""Episodes between two movements of a progress bar."""

# Path inside an episode's group -> the attribute of `Arrays` it fills, in T + 1 rows or in T.
_STATES = {"infos/qpos": "qpos", "infos/qvel": "qvel", "infos/goal": "goal"}
_STEPS = {key: key for key in ("actions", "rewards", "terminations", "truncations")}


def write_hdf5(path: Path, arrays: Arrays, name: str, *, compress: bool = False, quiet: bool = False) -> None:
    """Write arrays as one Minari HDF5 file.

    Args:
        path: The file, new.
        arrays: Validated arrays.
        name: Shown in the progress bar.
        compress: Deflate every array (a third smaller, several times slower).
        quiet: No progress bar.

    Raises:
        DiskFullError: There is no room for it.
    """
    starts = arrays.starts
    with (
        new_hdf5(path) as file,
        progress(f"write {name}", len(starts), quiet=quiet) as advance,
    ):
        for episode, (start, length) in enumerate(zip(starts.tolist(), arrays.lengths.tolist(), strict=True)):
            group = _create_group(file.id, f"episode_{episode}")
            for key, value in (("id", episode), ("seed", int(arrays.seeds[episode])), ("total_steps", length)):
                _write_attribute(group, key, value)
            stop = start + length
            last = arrays.next_observations[stop - 1 : stop]
            _write(group, "observations", np.concatenate((arrays.observations[start:stop], last)), compress)
            for key, field in _STEPS.items():
                _write(group, key, getattr(arrays, field)[start:stop], compress)
            infos = _create_group(group, "infos")
            for key, field in _states(arrays):
                states = getattr(arrays, field)[start + episode : stop + episode + 1]
                _write(infos, key.removeprefix("infos/"), states, compress)
            _advance(advance, episode, len(starts))


def _states(arrays: Arrays) -> list[tuple[str, str]]:
    """Return those of `_STATES` that are there."""
    return [(key, field) for key, field in _STATES.items() if getattr(arrays, field) is not None]


def _advance(advance: Callable[..., None], episode: int, episodes: int) -> None:
    """Move the progress bar every hundred episodes, and at the last one."""
    if (episode + 1) % EVERY == 0 or episode + 1 == episodes:
        advance(episode % EVERY + 1)


def _create_group(parent: Any, name: str) -> Any:
    """Create a group without the time of its creation: equal arrays make equal files, whenever they are written."""
    import h5py

    timeless = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    timeless.set_obj_track_times(False)
    return h5py.h5g.create(parent, name.encode(), None, timeless)


def _write(group: Any, key: str, array: Array, compress: bool) -> None:
    """Write one array with h5py's low-level calls: a third of the time for the many small arrays of short episodes."""
    import h5py

    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_obj_track_times(False)
    if compress:
        layout.set_chunk(array.shape)
        layout.set_shuffle()
        layout.set_deflate(9)
    space, kind = h5py.h5s.create_simple(array.shape), h5py.h5t.py_create(array.dtype, logical=True)
    h5py.h5d.create(group, key.encode(), kind, space, layout).write(
        h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(array)
    )


def _write_attribute(group: Any, key: str, value: int) -> None:
    import h5py

    attribute = h5py.h5a.create(group, key.encode(), h5py.h5t.STD_I64LE, h5py.h5s.create(h5py.h5s.SCALAR))
    attribute.write(np.array(value, dtype=np.int64))


def read_hdf5(path: Path, robot: Robot, rows: int, episodes: int, *, quiet: bool = False) -> Arrays:
    """Read and validate a file in the layout of `write_hdf5`.

    Args:
        path: The file.
        robot: Whose data it holds.
        rows: N, from the metadata.
        episodes: E, from the metadata.
        quiet: No progress bar.

    Returns:
        The arrays, in memory.

    Raises:
        OffDynError: Missing or truncated file, missing key, wrong type, wrong dimensions, ragged lengths, NaN, actions
            outside [-1, 1]; the message names the file, the key and what was expected.
    """
    if not path.is_file():
        raise OffDynError(f"{path}: missing; expected a Minari HDF5 file")
    arrays = Arrays(**{key: np.empty(shape, dtype) for key, (dtype, shape) in schema(robot, rows, episodes).items()})
    try:
        with open_hdf5(path) as file:
            _check_groups(path, list(file.keys()), episodes)
            with progress(f"read {path.parents[1].name}", episodes, quiet=quiet) as advance:
                start = 0
                for episode in range(episodes):
                    start += _read_episode(file.id, arrays, episode, start, str(path))
                    _advance(advance, episode, episodes)
    except OffDynError:
        raise
    except (OSError, RuntimeError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise OffDynError(f"{path}: truncated, or not an HDF5 file of this layout ({error})") from None
    if start != rows:
        raise OffDynError(f"{path}: {start} rows; expected {rows}")
    validate(arrays, robot, str(path))
    return arrays


def _check_groups(path: Path, found: list[str], episodes: int) -> None:
    """Check that the file holds the episodes that the metadata count, and nothing else."""
    present = set(found)
    missing = next((name for name in (f"episode_{i}" for i in range(episodes)) if name not in present), None)
    if missing is not None or len(found) != episodes:
        what = f"key '{missing}' is missing" if missing else f"{len(found)} episodes"
        raise OffDynError(f"{path}: {what}; expected episode_0 to episode_{episodes - 1}")


def _low_level() -> Any:
    """Return h5py, some of whose modules type checkers do not know."""
    import h5py

    return h5py


def _read_episode(file: Any, arrays: Arrays, episode: int, start: int, where: str) -> int:
    """Copy one episode into its rows and return its length."""
    h5 = _low_level()
    name = f"/episode_{episode}"
    group = h5.h5o.open(file, name.encode())
    if not isinstance(group, h5.h5g.GroupID):
        raise OffDynError(f"{where}: '{name}' is a dataset; expected the group of an episode")
    stored = _open(group, name, "observations", arrays.observations, None, where)
    length = stored.shape[0] - 1
    stop = start + length
    if length < 1 or stop > len(arrays.rewards):
        raise OffDynError(f"{where}: {name}/observations has {length + 1} rows, more than the rows that are left")
    observations = np.empty((length + 1, arrays.observations.shape[1]), arrays.observations.dtype)
    _copy(stored, observations)
    arrays.observations[start:stop] = observations[:-1]
    arrays.next_observations[start:stop] = observations[1:]
    for key, field in _STEPS.items():
        rows = getattr(arrays, field)[start:stop]
        _copy(_open(group, name, key, rows, length, where), rows)
    for key, field in _states(arrays):
        rows = getattr(arrays, field)[start + episode : stop + episode + 1]
        _copy(_open(group, name, key, rows, length + 1, where), rows)
    arrays.lengths[episode] = length
    arrays.seeds[episode] = _seed(group, name, where)
    return length


def _open(group: Any, name: str, key: str, like: Array, length: int | None, where: str) -> Any:
    """Open one array of an episode and check its type and shape against the rows that it goes into."""
    h5 = _low_level()
    wanted = f"{like.dtype} {['T' if length is None else length, *like.shape[1:]]}"
    try:
        stored: Any = h5.h5o.open(group, key.encode())
    except KeyError:
        stored = None
    if not isinstance(stored, h5.h5d.DatasetID) or stored.get_space().get_simple_extent_type() != h5.h5s.SIMPLE:
        raise OffDynError(f"{where}: key '{name}/{key}' is missing; expected {wanted}")
    shape = stored.shape
    ragged = len(shape) != like.ndim or shape[1:] != like.shape[1:]
    if stored.dtype != like.dtype or ragged or (length is not None and shape[0] != length):
        raise OffDynError(f"{where}: '{name}/{key}' is {stored.dtype} {list(shape)}; expected {wanted}")
    return stored


def _copy(stored: Any, rows: Array) -> None:
    """Read an array into its rows: with h5py's low-level calls, for the many small arrays of short episodes."""
    import h5py

    stored.read(h5py.h5s.ALL, h5py.h5s.ALL, rows)


def _seed(group: Any, name: str, where: str) -> int:
    """Return the reset seed of an episode."""
    import h5py

    if not h5py.h5a.exists(group, b"seed"):
        raise OffDynError(f"{where}: attribute 'seed' of '{name}' is missing; expected a whole number")
    attribute = h5py.h5a.open(group, b"seed")
    if attribute.dtype != np.int64 or attribute.shape != ():
        raise OffDynError(
            f"{where}: attribute 'seed' of '{name}' is {attribute.dtype} {list(attribute.shape or ())}; "
            "expected a whole number, int64"
        )
    value = np.empty((), np.int64)
    attribute.read(value)
    return int(value)
