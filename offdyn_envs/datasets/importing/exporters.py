"""Writing datasets in the layouts of D4RL and ODRL/OTDF, so that code made for those trains on them unchanged.

Beside what those layouts hold, a file says in the root attribute "offdyn" where it comes from and what its arrays'
checksums are; their loaders read arrays only and never see it, the importer tests it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.atomic import atomic_write
from offdyn_envs.datasets.store.fields import Maybe, check_fields
from offdyn_envs.datasets.store.imported import ImportedDataset
from offdyn_envs.datasets.store.spec import FORMAT, Arrays, Dataset
from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import env_id

__all__ = ["LAYOUTS", "check_stamp", "export", "read_stamp"]

Array = NDArray[Any]

LAYOUTS = ("d4rl", "odrl")
"""Layouts that can be written."""

STAMP = "offdyn"
ANT_WIDTH = 111
"""Width of Ant's observations in both layouts: 27 and the contact forces, which are zero there."""
_STAMPED = ("observations", "actions", "next_observations", "rewards", "terminations")
_STAMP_FIELDS = {"format": int, "id": str, "robot": str, "dynamics": Maybe(str), "arrays": dict.fromkeys(_STAMPED, str)}


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
        force: Replace a file that is there.
        pad_ant: Add the 84 zero columns that Ant's observations have in both layouts and in their environments.

    Raises:
        OffDynError: Unknown layout, or the file is there.
    """
    import h5py

    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    if path.is_dir() or (path.exists() and not force):
        raise OffDynError(f"{path}: is there already; expected a new file, or --force to replace one")
    arrays = _d4rl(dataset) if layout == "d4rl" else _odrl(dataset)
    facts = _facts(dataset)
    with atomic_write(path) as temporary, h5py.File(temporary, "w", libver="v108") as file:
        file.attrs[STAMP] = json.dumps(_stamp(dataset, facts))
        for key, array in arrays.items():
            wide = pad_ant and facts["robot"] == "ant" and key.endswith("observations")
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
    states = {"infos/qpos": dataset.qpos, "infos/qvel": dataset.qvel}
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


def _facts(dataset: Dataset | ImportedDataset) -> Mapping[str, Any]:
    return {"robot": dataset.card["robot"], "dynamics": dataset.card["dynamics"]}


def _stamp(dataset: Dataset | ImportedDataset, facts: Mapping[str, Any]) -> dict[str, Any]:
    digests = {key: _digest(getattr(dataset, key)) for key in _STAMPED}
    return {"format": FORMAT, "id": str(dataset.id), **facts, "arrays": digests}


def _digest(array: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data.cast("B") if array.size else b"").hexdigest()


def read_stamp(group: Any, where: str) -> dict[str, Any] | None:
    """Return what an exported file says about itself, or None where it was written by something else.

    Args:
        group: The root group of the open file.
        where: The file, for the message.

    Returns:
        "robot", "dynamics" (a slug or None), "id" and "arrays", the SHA-256 of the values of each array.

    Raises:
        OffDynError: The attribute is damaged or of a later format.
    """
    if STAMP not in group.attrs:
        return None
    what = f"{where}: attribute '{STAMP}'"
    try:
        stamp = json.loads(group.attrs[STAMP])
    except (ValueError, TypeError, RecursionError) as error:
        raise OffDynError(f"{what} cannot be read as JSON ({error}); expected what an export writes") from None
    version = stamp.get("format") if isinstance(stamp, dict) else None
    if version != FORMAT:
        raise OffDynError(f"{what}: key 'format' is {version!r}; this release reads format {FORMAT}")
    check_fields(stamp, _STAMP_FIELDS, where, STAMP)
    try:
        env_id(get_robot(stamp["robot"]), stamp["dynamics"] or "nominal")
    except OffDynError as error:
        raise OffDynError(f"{what}: {error}") from None
    return stamp


def check_stamp(stamp: Mapping[str, Any] | None, arrays: Arrays, where: str) -> None:
    """Compare what was read from an exported file with the checksums that it carries.

    Args:
        stamp: From `read_stamp`.
        arrays: As imported.
        where: The file, for the message.

    Raises:
        OffDynError: An array is not the one that was exported.
    """
    for key in _STAMPED if stamp is not None else ():
        digest, expected = _digest(getattr(arrays, key)), stamp["arrays"][key] if stamp else ""
        if digest != expected:
            raise OffDynError(f"{where}: key '{key}' has SHA-256 {digest}; expected {expected}, as it was exported")
