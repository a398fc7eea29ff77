"""Writing datasets in the layouts of D4RL and ODRL/OTDF, so that code made for those trains on them unchanged.

Beside what those layouts hold, a file says in the root attribute "offdyn" where it comes from and what its arrays'
checksums are; their loaders read arrays only and never see it, the importer tests it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.atomic import atomic_write
from offdyn_envs.datasets.store.hdf5_files import new_hdf5
from offdyn_envs.datasets.store.imported import ImportedDataset
from offdyn_envs.datasets.store.spec import Dataset
from offdyn_envs.datasets.store.stamp import STAMP, stamp_of
from offdyn_envs.errors import OffDynError, unknown

__all__ = ["LAYOUTS", "export"]

Array = NDArray[Any]

LAYOUTS = ("d4rl", "odrl")
"""Layouts that can be written."""

ANT_WIDTH = 111
"""Width of Ant's observations in both layouts: 27 and the contact forces, which are zero there."""


def export(
    dataset: Dataset | ImportedDataset, path: Path, layout: str, *, force: bool = False, pad_ant: bool = True
) -> None:
    """Write a dataset as one HDF5 file; it appears whole or not at all.

    D4RL: observations, actions, next_observations [N, ...], rewards, terminals, timeouts [N], and infos/qpos,
    infos/qvel (the state before each step) where they are known. ODRL: observations, actions, next_observations,
    rewards [N, 1], terminals [N, 1]; it has no timeouts, so a step that both fell and met the time limit is a
    termination only.

    Args:
        dataset: What to write.
        path: The file.
        layout: One of `LAYOUTS`.
        force: Replace an existing file.
        pad_ant: Add the 84 zero columns that Ant's observations have in both layouts and in their environments.

    Raises:
        OffDynError: Unknown layout, the file is there, or there is no room for it.
    """
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    if path.is_dir() or (path.exists() and not force):
        raise OffDynError(f"{path}: is there already; expected a new file, or --force to replace one")
    arrays = _d4rl(dataset) if layout == "d4rl" else _odrl(dataset)
    with atomic_write(path) as temporary, new_hdf5(temporary) as file:
        file.attrs[STAMP] = json.dumps(stamp_of(dataset))
        for key, array in arrays.items():
            wide = pad_ant and dataset.card["robot"] == "ant" and key.endswith("observations")
            _write(file, key, array, ANT_WIDTH if wide else None)


def _write(file: Any, key: str, array: Array, width: int | None) -> None:
    """Write one array, deflated and with a checksum on every chunk; zeros fill up to `width` columns."""
    shape = array.shape if width is None else (len(array), width)
    stored = file.create_dataset(
        key, shape, array.dtype, chunks=True, compression="gzip", compression_opts=1, shuffle=True, fletcher32=True
    )
    if width is None:
        stored[...] = array
        return
    rows = stored.chunks[0] * 64
    for start in range(0, len(array), rows):  # In blocks: padded at once, a million rows take half a gigabyte.
        part = array[start : start + rows]
        stored[start : start + rows] = np.pad(part, ((0, 0), (0, width - part.shape[1])))


def _d4rl(dataset: Dataset | ImportedDataset) -> dict[str, Array]:
    states = {"infos/qpos": dataset.qpos, "infos/qvel": dataset.qvel, "infos/goal": getattr(dataset, "goal", None)}
    return {
        "observations": dataset.observations,
        "actions": dataset.actions,
        "next_observations": dataset.next_observations,
        "rewards": dataset.rewards,
        "terminals": dataset.terminations,
        "timeouts": dataset.truncations,
        **{key: state for key, state in states.items() if state is not None},
    }


def _odrl(dataset: Dataset | ImportedDataset) -> dict[str, Array]:
    return {
        "observations": dataset.observations,
        "actions": dataset.actions,
        "next_observations": dataset.next_observations,
        "rewards": np.asarray(dataset.rewards)[:, None],
        "terminals": np.asarray(dataset.terminations, dtype=np.float64)[:, None],
    }
