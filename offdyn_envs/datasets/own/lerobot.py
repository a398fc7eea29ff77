"""LeRobot's folders, version 3: meta/info.json, and parquet files of many episodes under data/."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.own.table import Table
from offdyn_envs.datasets.own.tables import parquet_columns, parquet_names
from offdyn_envs.errors import OffDynError, beginning

__all__ = ["INFO", "open_lerobot"]

Array = NDArray[Any]
INFO = Path("meta", "info.json")
EPISODE, FRAME = "episode_index", "frame_index"
SUFFIX = re.compile(r"chunk-(\d+)/file-(\d+)\.parquet")


def open_lerobot(folder: Path) -> Table:
    """Open a folder; names of motors and the time step come from meta/info.json.

    Raises:
        OffDynError: Another version, a damaged info.json, or no data.
    """
    info = _info(folder)
    parts: dict[tuple[int, ...], Path] = {}
    for path in folder.glob("data/chunk-*/file-*.parquet"):
        hit = SUFFIX.fullmatch(path.relative_to(folder / "data").as_posix())
        if hit:
            parts[int(hit[1]), int(hit[2])] = path
    files = [parts[key] for key in sorted(parts)]
    if not files:
        raise OffDynError(f"{folder}: holds no data/chunk-000/file-000.parquet; a LeRobot dataset is wanted")
    names = parquet_names(files[0])
    for file in files[1:]:
        if set(names) - set(parquet_names(file)):
            lacking = sorted(set(names) - set(parquet_names(file)))
            raise OffDynError(f"{file}: column '{lacking[0]}' is missing; {files[0]} has it")

    def load(wanted: Sequence[str]) -> dict[str, Array]:
        indices = [name for name in (EPISODE, FRAME) if name in names]
        read = [parquet_columns(file, sorted({*wanted, *indices})) for file in files]
        found = {name: _stacked(folder, name, [part[name] for part in read]) for name in read[0]}
        _check_frames(folder, found, info)
        return {name: found[name] for name in wanted}

    return Table(
        str(folder),
        "lerobot",
        names,
        load,
        (folder / INFO, *files),
        entries={name: _entries(feature) for name, feature in info["features"].items()},
        time_step=None if info["fps"] is None else 1.0 / info["fps"],
    )


def _info(folder: Path) -> dict[str, Any]:
    """Read meta/info.json: at least "features" and "fps"."""
    path = folder / INFO
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OffDynError(f"{path}: cannot be read as JSON ({error}); LeRobot's description is wanted") from None
    if not isinstance(info, dict) or not isinstance(info.get("features"), dict):
        raise OffDynError(f"{path}: key 'features' is missing; LeRobot's description is wanted")
    version = str(info.get("codebase_version"))
    if not re.fullmatch(r"v3(\.\d+)*", version):
        raise OffDynError(
            f"{path}: is of LeRobot {beginning(version, 20)}; v3.0 is read: convert the folder with LeRobot's own "
            "convert_dataset_v21_to_v30"
        )
    fps = info.get("fps")
    if fps is not None and not (isinstance(fps, int | float) and fps > 0):
        raise OffDynError(f"{path}: key 'fps' is {beginning(fps, 40)}; a number above 0 is allowed")
    return {**info, "fps": fps}


def _entries(feature: Any) -> tuple[str, ...]:
    """Return the names of a feature's entries: a list, or lists by kind as {"motors": [...]}; () where unknown."""
    names = feature.get("names") if isinstance(feature, Mapping) else None
    if isinstance(names, Mapping):
        lists = [value for value in names.values() if isinstance(value, list)]
        names = [name for value in lists for name in value] or list(names)
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def _stacked(folder: Path, name: str, parts: list[Array]) -> Array:
    widths = {part.shape[1:] for part in parts if len(part)}
    if len(widths) > 1:
        raise OffDynError(f"{folder}: column '{name}' is ragged: its files differ in width; one width is allowed")
    return np.concatenate([part for part in parts if len(part)] or parts[:1])


def _check_frames(folder: Path, found: Mapping[str, Array], info: Mapping[str, Any]) -> None:
    """Check that no file is missing and that frames follow one another in every episode."""
    rows = min((len(array) for array in found.values()), default=0)
    total = info.get("total_frames")
    if isinstance(total, int) and total != rows:
        raise OffDynError(f"{folder}: data hold {rows:,} rows; {total:,} are wanted, as total_frames of {INFO} says")
    if EPISODE not in found or FRAME not in found or not rows:
        return
    episode, frame = found[EPISODE], found[FRAME]
    if (episode[1:] < episode[:-1]).any():
        return  # Said in full where episodes are cut.
    same = np.concatenate(([False], episode[1:] == episode[:-1]))
    wanted = np.where(same, np.concatenate(([0], frame[:-1])) + 1, 0)
    wrong = np.flatnonzero(frame != wanted)
    if len(wrong):
        row = int(wrong[0])
        raise OffDynError(
            f"{folder}: {FRAME} of row {row} is {frame[row]}; {wanted[row]} is wanted: frames of episode "
            f"{episode[row]} are missing or not in order"
        )
