"""From a file of any robot's transitions to an imported dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from offdyn_envs.datasets.importing.identity import Imported, already, default_id, stem
from offdyn_envs.datasets.own.arrays import OwnData
from offdyn_envs.datasets.own.functions import load_function, source_file
from offdyn_envs.datasets.own.hdf5 import stamped_robot
from offdyn_envs.datasets.own.reading import PICKLES, Read, digest_of, is_hdf5, open_table, read_table
from offdyn_envs.datasets.own.spec import Spec
from offdyn_envs.datasets.store.card import episode_returns, statistics, versions
from offdyn_envs.datasets.store.folders import data_root, file_digest
from offdyn_envs.datasets.store.imported import check_id, save_imported
from offdyn_envs.datasets.store.spec import FORMAT, Arrays
from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.tasks import QUALITIES

__all__ = ["NO_ROBOT", "import_own", "is_own"]

NO_ROBOT = "none"
"""What `--robot` says of an HDF5 file whose robot this suite does not know."""


def is_own(path: Path, robot: str | None, says_columns: bool) -> bool:
    """Say whether a file is read as anybody's transitions, not as those of a robot of this suite.

    Args:
        path: The file.
        robot: What the user says; `NO_ROBOT` for a robot that the suite does not know.
        says_columns: Whether the user says what its columns are.
    """
    if robot is not None and robot != NO_ROBOT:
        return False
    if path.suffix.lower() in PICKLES:
        return True  # Refused there, by its name.
    return robot == NO_ROBOT or says_columns or (path.exists() and not is_hdf5(path)) or stamped_robot(path) is None


def import_own(
    path: Path,
    spec: Spec,
    *,
    quality: str | None = None,
    out: str | None = None,
    sha256: str | None = None,
    root: Path | None = None,
    force: bool = False,
) -> Imported:
    """Import transitions of any robot; nothing is written where anything is wrong with them.

    Args:
        path: A file or folder that `read_own` reads.
        spec: What its columns are.
        quality: One of `QUALITIES`, for the card.
        out: Id of the result, "imported/NAME"; by default NAME comes from the name of the file.
        sha256: What the file's checksum must be, in hexadecimal.
        root: Root of the datasets; by default the local one.
        force: Replace an imported dataset of the same id.

    Returns:
        The card and the folder of the dataset.

    Raises:
        OffDynError: As `read_own`; unknown names, another checksum, or another dataset of that id.
    """
    if quality is not None and quality not in QUALITIES:
        raise unknown("quality", quality, QUALITIES)
    name = check_id(out) if out is not None else default_id(stem(path))
    place, table = root or data_root(), open_table(path)
    digest, size = digest_of(table)
    if sha256 is not None and digest != sha256.lower():
        raise OffDynError(f"{path}: SHA-256 {digest}; expected {sha256[:80]}")
    identity = {
        "id": name,
        "robot": None,
        "dynamics": None,
        "quality": quality,
        "layout": table.layout,
        "contact_forces": False,
        "sha256": digest,
        "spec": _said(spec),
    }
    there = None if force else already(identity, place)
    if there is not None:
        return there
    read = read_table(table, spec)
    source = {"file": path.name, "bytes": size, "rows": read.rows, "layout": table.layout, "sha256": digest}
    card = {key: value for key, value in identity.items() if key not in source} | {"source": source}
    stored = {key: np.asarray(getattr(read.data, key)) for key in _STORED}
    card |= _described(read)
    return Imported(card, save_imported(stored, card, place), True)


_STORED = ("observations", "actions", "next_observations", "rewards", "terminations", "truncations", "lengths")


def _said(spec: Spec) -> Mapping[str, Any]:
    """Return what the user says of a file, with the checksum of the reward function's code."""
    said = spec.to_json()
    if spec.reward_function is not None:
        code = source_file(load_function(spec.reward_function, "reward function"))
        said["reward_function_sha256"] = None if code is None else file_digest(code)
    return said


def _described(read: Read) -> dict[str, Any]:
    arrays = _arrays(read.data)
    returns = episode_returns(arrays)
    return {
        "format": FORMAT,
        "contract": read.data.contract.to_json(),
        "columns": dict(read.columns),
        "dropped": read.facts.dropped,
        "counted": read.facts.counted,
        "notes": read.facts.notes,
        "all_returns": {"mean": float(returns.mean()), "std": float(returns.std())},
        "versions": versions(),
        **statistics(arrays, 0),  # No time limit is known: only what ended for good is a whole episode.
    }


def _arrays(data: OwnData) -> Arrays:
    """Return the data as the statistics take them: without simulator states or seeds."""
    empty = np.empty((len(data) + len(data.lengths), 0))
    seeds = np.full(len(data.lengths), -1, dtype=np.int64)
    return Arrays(**{key: getattr(data, key) for key in _STORED}, qpos=empty, qvel=empty, seeds=seeds)
