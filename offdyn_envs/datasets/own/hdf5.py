"""HDF5 in the layouts of D4RL and ODRL, and Minari's episodes from a folder or an object, of any robot."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.own.contract import Contract
from offdyn_envs.datasets.own.table import Table
from offdyn_envs.datasets.store.folders import HDF5_NAME
from offdyn_envs.datasets.store.source import Facts, Source, opened
from offdyn_envs.datasets.store.stamp import read_stamp
from offdyn_envs.errors import OffDynError

__all__ = ["MISSING", "episode_names", "hdf5_file", "missing_episodes", "open_episodes", "open_hdf5", "stamped_robot"]

Array = NDArray[Any]
EPISODE = "episode_"
_EPISODE = re.compile(rf"{EPISODE}[0-9]{{1,9}}")
MISSING = "episodes that are missing in the file"
PER_STEP = ("actions", "rewards", "terminations", "truncations")
DEEPEST = 3


def hdf5_file(path: Path) -> Path | None:
    """Return the HDF5 file that a path names: itself, or the one of a Minari folder; None where there is none."""
    if not path.is_dir():
        return path
    return next((file for file in (path / "data" / HDF5_NAME, path / HDF5_NAME) if file.is_file()), None)


def open_hdf5(path: Path) -> Table:
    """Open a file of flat arrays, or of episodes as Minari writes them.

    Raises:
        OffDynError: Not HDF5, or damaged.
    """
    with opened(path) as source:
        if episode_names(source.keys()):
            return _open_minari(path, source)
        names = tuple(_names(source))
        stamp = read_stamp(source.group, str(path)) or {}

    def load(wanted: Sequence[str]) -> dict[str, Array]:
        with opened(path) as source:
            return {name: source.numbers(name) for name in wanted}

    told = stamp.get("contract")
    return Table(str(path), "hdf5", names, load, (path,), contract=None if told is None else Contract.from_json(told))


def _names(source: Source, above: str = "", depth: int = 1) -> list[str]:
    """Return the names of all arrays, those inside groups with slashes."""
    import h5py

    found: list[str] = []
    for key in source.keys():
        hard = isinstance(source.group.get(key, getlink=True), h5py.HardLink)
        kind = source.group.get(key, getclass=True) if hard else None  # A link may lead into another file.
        if kind is h5py.Dataset:
            found.append(above + key)
        elif kind is h5py.Group and depth < DEEPEST:
            found += _names(source.inside(key), f"{above}{key}/", depth + 1)
    return found


def _open_minari(path: Path, source: Source) -> Table:
    keys = episode_names(source.keys())
    inner = _of_first(source, keys)
    observed = [name for name in inner if name.partition("/")[0] == "observations"]
    steps = [name for name in PER_STEP if name in inner]

    metadata = path.with_name("metadata.json")
    facts = Facts(counted=missing_episodes(keys, _json(metadata)))

    def load(wanted: Sequence[str]) -> dict[str, Array]:
        def arrays(key: str) -> dict[str, Array]:
            group = file.inside(key)
            return {name: group.numbers(name) for name in (*observed, *steps)}

        with opened(path) as file:
            readers = {int(key.removeprefix(EPISODE)): partial(arrays, key) for key in keys}
            return _in_one(str(path), readers, wanted, facts)

    low, high = _action_bounds(metadata)
    files = (path, metadata) if metadata.is_file() else (path,)
    return Table(
        str(path),
        "minari",
        _step_names(observed, steps),
        load,
        files,
        action_low=low,
        action_high=high,
        facts=facts,
    )


def _of_first(source: Source, keys: Sequence[str]) -> list[str]:
    """Return the names of the arrays of the first episode that is whole; nothing where none is."""
    for key in keys:
        try:
            names = _names(source.inside(key))
        except OffDynError:
            continue
        if {"actions", "rewards"} <= set(names):
            return names
    return []


def episode_names(keys: Sequence[str]) -> list[str]:
    """Return the names of the groups of episodes among some keys, in the order of their numbers."""
    return sorted(filter(_EPISODE.fullmatch, keys), key=lambda name: (int(name.removeprefix(EPISODE)), name))


def missing_episodes(names: Sequence[str], metadata: Mapping[str, Any]) -> dict[str, int]:
    """Count the episodes that the numbers of the others, or the metadata, say there should be.

    Args:
        names: Of the episodes that are there, in order.
        metadata: Contents of metadata.json.

    Returns:
        What is missing and how often, for `Facts.counted`; nothing where nothing is.
    """
    total = metadata.get("total_episodes")
    last = int(names[-1].removeprefix(EPISODE)) + 1 if names else 0
    missing = max(last, total if isinstance(total, int) else 0) - len(names)
    return {MISSING: missing} if missing > 0 else {}


def _step_names(observed: Sequence[str], steps: Sequence[str]) -> tuple[str, ...]:
    """Return the names of columns of steps that episodes with one more observation than steps have."""
    return (*observed, *(f"next_{name}" for name in observed), *steps, "episode")


def _in_one(
    where: str, episodes: Mapping[int, Callable[[], dict[str, Array]]], wanted: Sequence[str], facts: Facts
) -> dict[str, Array]:
    """Join episodes; those that do not fit in themselves are left out and counted, unless none does."""
    parts: list[dict[str, Array]] = []
    faults: list[OffDynError] = []
    for number, read in episodes.items():
        try:
            parts.append(_steps(where, number, read(), wanted))
        except OffDynError as fault:  # noqa: PERF203 - files are slower
            faults.append(fault)
    if not parts:
        raise faults[0]
    if faults:
        facts.dropped["episodes that do not fit"] = len(faults)
        facts.notes[:] = [f"first of the episodes that were dropped: {faults[0]}"]
    return {name: _concatenated(where, name, [part[name] for part in parts]) for name in wanted}


def _steps(where: str, number: int, episode: Mapping[str, Array], wanted: Sequence[str]) -> dict[str, Array]:
    """Return the columns of one episode; observations are cut into those before and those after each step."""
    steps, found = len(episode["actions"]), dict[str, Array]()
    for name in wanted:
        stored = name.removeprefix("next_")
        if name == "episode":
            found[name] = np.full(steps, number)
            continue
        array = episode[stored]
        observed = stored.partition("/")[0] == "observations"
        if len(array) != steps + observed:
            raise OffDynError(
                f"{where}: {stored} of episode {number} has {len(array)} rows; {steps + observed} are wanted for "
                f"{steps} actions"
            )
        found[name] = array[1:] if stored != name else array[:-1] if observed else array
    return found


def _concatenated(where: str, name: str, arrays: list[Array]) -> Array:
    if len({array.shape[1:] for array in arrays}) > 1:
        raise OffDynError(f"{where}: {name} is ragged: episodes differ in width; one width is allowed")
    return np.concatenate(arrays)


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object; {} where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _action_bounds(metadata: Path) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Return the bounds of a Minari set's actions, as its metadata say."""
    if not metadata.is_file():
        return None, None
    try:
        from minari.serialization import deserialize_space

        return _bounds(deserialize_space(json.loads(metadata.read_text(encoding="utf-8"))["action_space"]))
    except Exception:  # Whatever it holds: the user can declare bounds, and actions beyond [-1, 1] are refused.
        return None, None


def _bounds(space: Any) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None or not (np.isfinite(low).all() and np.isfinite(high).all()):
        return None, None
    return tuple(np.ravel(low).tolist()), tuple(np.ravel(high).tolist())


def open_episodes(dataset: Any) -> Table:
    """Open a `minari.MinariDataset`, with the episodes that it has, filtered or not.

    Args:
        dataset: It.
    """
    where = f"Minari dataset '{getattr(dataset, 'id', None) or dataset.spec.dataset_id}'"
    episodes = [_flat(episode) for episode in dataset.iterate_episodes()]
    if not episodes:
        raise OffDynError(f"{where}: has no episodes; at least one is needed")
    observed = [name for name in episodes[0] if name not in PER_STEP]
    low, high = _bounds(dataset.action_space)
    readers, facts = {number: partial(dict, episode) for number, episode in enumerate(episodes)}, Facts()
    return Table(
        where,
        "minari",
        _step_names(observed, PER_STEP),
        lambda wanted: _in_one(where, readers, wanted, facts),
        facts=facts,
        action_low=low,
        action_high=high,
    )


def _flat(episode: Any) -> dict[str, Array]:
    """Return the arrays of one episode; those of a Dict observation by "observations/KEY"."""
    found = {name: np.asarray(getattr(episode, name)) for name in PER_STEP}
    return _leaves("observations", episode.observations) | found


def _leaves(name: str, value: Any) -> dict[str, Array]:
    if not isinstance(value, Mapping):
        return {name: np.asarray(value)}
    return {key: leaf for inner, item in value.items() for key, leaf in _leaves(f"{name}/{inner}", item).items()}


def stamped_robot(path: Path) -> str | None:
    """Return the robot of an exported HDF5 file, "" where a file does not say; None where it was of no robot."""
    file = hdf5_file(path)
    if file is None or not file.is_file():
        return ""
    with opened(file) as source:
        stamp = read_stamp(source.group, str(file))
    return "" if stamp is None else stamp["robot"]
