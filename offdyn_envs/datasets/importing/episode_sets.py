"""Minari's layout: one group per episode, T + 1 observations and T of the rest; metadata.json beside the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from offdyn_envs.datasets.importing.rows import Reading, Rows, known_columns, observation_widths, optional
from offdyn_envs.datasets.own.hdf5 import episode_names, missing_episodes
from offdyn_envs.datasets.store.source import Source
from offdyn_envs.errors import OffDynError

__all__ = ["is_episode_set", "read_episodes", "read_minari_metadata"]


def is_episode_set(source: Source) -> bool:
    """Say whether a file is in this layout."""
    return bool(episode_names(source.keys()))


def read_minari_metadata(file: Path) -> dict[str, Any]:
    """Read the metadata.json beside a Minari file.

    Args:
        file: main_data.hdf5.

    Returns:
        The metadata; empty where there is none.

    Raises:
        OffDynError: Not a JSON object, or the data are in another format than HDF5.
    """
    path = file.with_name("metadata.json")
    if not path.is_file():
        return {}
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OffDynError(f"{path}: cannot be read as JSON ({error}); expected Minari's metadata") from None
    if not isinstance(metadata, dict):
        raise OffDynError(f"{path}: holds a {type(metadata).__name__}; expected a JSON object")
    if metadata.get("data_format", "hdf5") != "hdf5":
        raise OffDynError(f"{path}: key 'data_format' is {str(metadata['data_format'])[:60]!r}; expected 'hdf5'")
    return metadata


def read_episodes(source: Source, reading: Reading) -> Rows:
    """Read all episodes.

    Args:
        source: The file.
        reading: The robot, and what is accepted.

    Returns:
        The rows of the file, with the ends of its episodes.

    Raises:
        OffDynError: An episode or a key is missing or does not fit; the message names the file, the key and what was
            expected.
    """
    keys = source.keys()
    names = episode_names(keys)
    if not names:
        raise OffDynError(
            f"{source.path}: key 'episode_0' is missing; expected episode_0 to episode_{max(0, len(keys) - 1)}"
        )
    reading.facts.counted |= missing_episodes(names, read_minari_metadata(source.path))
    parts, faults = _readable(source, reading, names)
    rows = Rows(**{key: _joined([part[key] for part in parts]) for key in parts[0]})
    unfit = _drop_unfit(rows, str(source.path), faults)
    if faults:
        reading.facts.dropped["episodes that do not fit"] = len(faults)
        reading.facts.notes.append(f"first of the episodes that were dropped: {faults[0]}")
    return rows if unfit is None else unfit


def _readable(source: Source, reading: Reading, names: list[str]) -> tuple[list[dict[str, Any]], list[OffDynError]]:
    """Read the episodes that fit, and return the faults of the others; where none fits the first fault is raised."""
    found = [_episode_or_fault(source, name, reading) for name in names]
    parts = [part for part in found if not isinstance(part, OffDynError)]
    faults = [fault for fault in found if isinstance(fault, OffDynError)]
    if not parts:
        raise faults[0]
    return parts, faults


def _episode_or_fault(source: Source, name: str, reading: Reading) -> dict[str, Any] | OffDynError:
    try:
        return _episode(source.inside(name), reading)
    except OffDynError as fault:
        return fault


def _drop_unfit(rows: Rows, path: str, faults: list[OffDynError]) -> Rows | None:
    """Return the rows without the episodes that hold numbers that are not finite; None where that is all or none."""
    finite = np.ones(len(rows.rewards), dtype=bool)
    for key in ("observations", "next_observations", "actions", "rewards"):
        finite &= np.isfinite(getattr(rows, key)).reshape(len(finite), -1).all(axis=1)
    assert rows.ends is not None
    number = np.cumsum(rows.ends) - rows.ends
    bad = np.unique(number[~finite])
    kept = ~np.isin(number, bad)
    if not len(bad) or not kept.any():
        return None
    row = int(np.flatnonzero(~finite)[0])
    faults += [OffDynError(f"{path}: a number is not finite at row {row}")] * len(bad)
    parts: dict[str, Any] = {key: None if array is None else array[kept] for key, array in vars(rows).items()}
    return Rows(**parts)


def _joined(parts: list[Any]) -> Any:
    """Join one key of all episodes; None where an episode lacks it."""
    return None if any(part is None for part in parts) else np.concatenate(parts)


def _episode(group: Source, reading: Reading) -> dict[str, Any]:
    robot = reading.robot
    observations = group.floats("observations", (None, observation_widths(robot)))
    steps = len(observations) - 1
    if steps < 1:
        raise group.fault("observations", f"has {steps + 1} rows", "at least 2: one more than steps")
    if observations.shape[1] != robot.observation_dim:
        where = f"{group.path}: key '{group.group.name.lstrip('/')}/observations'"
        observations = known_columns(observations, reading, where)
    ends = np.zeros(steps, dtype=bool)
    ends[-1] = True
    flags = {key: group.flags(key, steps) for key in ("terminations", "truncations")}
    for key, values in flags.items():
        if values[:-1].any():
            row = int(np.flatnonzero(values)[0])
            raise group.fault(key, f"is true at row {row} of {steps}", "true on the last row at most")
    return {
        "observations": observations[:-1],
        "next_observations": observations[1:],
        "actions": group.floats("actions", (steps, robot.action_dim)),
        "rewards": group.column("rewards", steps),
        "ends": ends,
        **flags,
        "qpos": optional(group, "infos/qpos", (steps + 1, robot.nq), reading.facts, slice(-1)),
        "qvel": optional(group, "infos/qvel", (steps + 1, robot.nv), reading.facts, slice(-1)),
    }
