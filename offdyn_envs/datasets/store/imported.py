"""Imported datasets: somebody else's transitions, stored under the local root as `imported/<name>`.

A folder holds `metadata.json` and `flat/*.npy`. It is written elsewhere under the root and renamed at the end, as the
project's own datasets are; the checksum of every file is tested whenever it is loaded. There is no folder `data` in it:
Minari takes any folder with one for a dataset of its own, and one without a version in its id ends `minari list local`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.atomic import check_room, write_array, write_json
from offdyn_envs.datasets.own.contract import Contract
from offdyn_envs.datasets.store.fields import CARD, Each, Maybe, check_fields
from offdyn_envs.datasets.store.folders import data_root, file_digest
from offdyn_envs.datasets.store.spec import FORMAT, combined_digest, step_schema
from offdyn_envs.datasets.store.staging import locked, recover, recover_all, replace_folder, staged
from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.robots import get_robot

__all__ = [
    "CONTRACT",
    "NAMESPACE",
    "ImportedDataset",
    "check_id",
    "imported_ids",
    "is_imported",
    "load_imported",
    "read_imported_card",
    "save_imported",
]

NAMESPACE = "imported"
_ID = re.compile(rf"{NAMESPACE}/[A-Za-z0-9]+(-[A-Za-z0-9]+)*")

_METADATA, _ELSEWHERE = "metadata.json", "data/metadata.json"
"""Where metadata lie, and where they lay before."""
_STATES = ("qpos", "qvel")

CONTRACT: Mapping[str, Any] = {
    **{key: [str] for key in ("observations", "actions", "observation_units", "action_units")},
    **{key: [float] for key in ("action_low", "action_high")},
    "time_step": Maybe(float),
}
"""`Contract.to_json()`, as `check_fields` takes it."""
_CARD: Mapping[str, Any] = {
    **dict.fromkeys(("format", "rows", "episodes", "whole_episodes", "terminated_episodes"), int),
    **dict.fromkeys(("id", "sha256"), str),
    **dict.fromkeys(("robot", "dynamics", "quality"), Maybe(str)),
    "contract?": CONTRACT,
    "columns?": Each(str),
    "environment?": {"id": str, "kwargs": Each(object)},
    **dict.fromkeys(("contact_forces?", "no_fall_bonus?", "clip_actions?"), bool),
    "source": {"file": str, "layout": str, "sha256": str, "bytes": int, "rows": int},
    "dropped": Each(int),
    "counted": Each(int),
    "notes": [str],
    "files": Each({"bytes": int, "sha256": str}),
    **{key: CARD[key] for key in ("returns", "lengths", "moments")},
    "all_returns": {"mean": float, "std": float},
    "versions": {"offdyn": str},
}


@dataclass(frozen=True, eq=False)
class ImportedDataset:
    """An imported dataset as agents read it: N transitions, memory-mapped, episodes in order.

    Attributes:
        id: "imported/<name>".
        metadata: The whole of metadata.json; the card is its key "offdyn".
        observations: float32 [N, |S|].
        actions: Executed actions, float32 [N, |A|], in [-1, 1].
        next_observations: float32 [N, |S|]; at the end of an episode the state it ended in, never the next reset.
        rewards: float32 [N].
        terminations: bool [N]; do not bootstrap from the next observation where true.
        truncations: bool [N]; the episode was cut here and would have gone on.
        lengths: int64 [E], steps of each episode.
        qpos: Simulator positions before each step, float64 [N, nq]; None where the file held none.
        qvel: Simulator velocities before each step, float64 [N, nv]; None where the file held none.
        path: The folder that holds `metadata.json` and `flat/`.
    """

    id: str
    metadata: Mapping[str, Any]
    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    next_observations: NDArray[np.float32]
    rewards: NDArray[np.float32]
    terminations: NDArray[np.bool_]
    truncations: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    qpos: NDArray[np.float64] | None
    qvel: NDArray[np.float64] | None
    path: Path

    def __len__(self) -> int:
        return len(self.rewards)

    def __repr__(self) -> str:
        return f"ImportedDataset('{self.id}', rows={len(self)}, episodes={len(self.lengths)})"

    @property
    def card(self) -> Mapping[str, Any]:
        """Facts about the dataset: the file it came from, what was dropped, returns, moments, checksums."""
        return self.metadata["offdyn"]

    @property
    def contract(self) -> Contract | None:
        """Names, units and bounds of the columns; None for the robots of this suite."""
        return None if self.card["robot"] is not None else Contract.from_json(self.card["contract"])


def is_imported(name: str) -> bool:
    """Say whether an id names an imported dataset rather than one of the project's own."""
    return name.startswith(f"{NAMESPACE}/")


def check_id(name: str) -> str:
    """Return `name` if it can be the id of an imported dataset.

    Raises:
        OffDynError: It is not "imported/" and then words of letters and digits, joined by hyphens.
    """
    if len(name) > 100 or not _ID.fullmatch(name):
        raise OffDynError(
            f"dataset id '{name[:120]}' does not fit; expected {NAMESPACE}/NAME, "
            "NAME of letters, digits and single hyphens"
        )
    return name


def imported_ids(root: Path | None = None) -> list[str]:
    """Return the ids of the imported datasets under a root, sorted, by their folders alone."""
    place = root or data_root()
    recover_all(place)
    _move_metadata(place)
    files = [*place.glob(f"{NAMESPACE}/*/{_METADATA}"), *place.glob(f"{NAMESPACE}/*/{_ELSEWHERE}")]
    return sorted({f"{NAMESPACE}/{file.relative_to(place).parts[1]}" for file in files})


def _move_metadata(root: Path, name: str = f"{NAMESPACE}/*") -> None:
    """Bring datasets of before to where metadata lie now; where that is not allowed they are read as they are."""
    for file in root.glob(f"{name}/{_ELSEWHERE}"):
        with suppress(OSError):
            file.rename(file.parents[1] / _METADATA)
            file.parent.rmdir()


def read_imported_card(name: str, root: Path | None = None) -> dict[str, Any] | None:
    """Return the card of an imported dataset, or None where there is no such dataset.

    Args:
        name: Its id.
        root: Local root; by default `data_root()`.

    Raises:
        OffDynError: The id cannot be one, or the metadata are damaged or of a later format.
    """
    metadata = _read_metadata(check_id(name), root or data_root())
    return None if metadata is None else metadata["offdyn"]


def _read_metadata(name: str, root: Path) -> dict[str, Any] | None:
    recover(root, name)
    _move_metadata(root, name)
    folder = root / name
    if not folder.is_dir():
        return None
    path = next((folder / place for place in (_METADATA, _ELSEWHERE) if (folder / place).exists()), folder / _METADATA)
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OffDynError(
            f"{path}: cannot be read as JSON ({error}); expected an imported dataset's metadata"
        ) from None
    card = metadata.get("offdyn") if isinstance(metadata, dict) else None
    if not isinstance(card, dict):
        raise OffDynError(f"{path}: key 'offdyn' is missing; expected the card of an imported dataset")
    version = card.get("format")
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= FORMAT:
        raise OffDynError(f"{path}: key 'format' is {version!r}; this release reads formats up to {FORMAT}")
    check_fields(card, _CARD, str(path), "offdyn")
    if card["id"] != name:
        raise OffDynError(f"{path}: key 'offdyn.id' is {card['id'][:60]!r}; expected '{name}'")
    if card["robot"] is None:
        _check_contract(card, path)
    return metadata


def _check_contract(card: Mapping[str, Any], path: Path) -> None:
    if "contract" not in card:
        raise OffDynError(f"{path}: key 'offdyn.contract' is missing; expected it for data without a robot")
    known = {field.name for field in fields(Contract)}
    strange = sorted(set(card["contract"]) - known)
    try:
        if strange:
            raise unknown("key", strange[0], sorted(known))
        Contract.from_json(card["contract"])
    except OffDynError as error:
        raise OffDynError(f"{path}: key 'offdyn.contract': {error}") from None


def load_imported(name: str, *, root: str | os.PathLike[str] | None = None) -> ImportedDataset:
    """Load an imported dataset from the local root.

    Args:
        name: Its id, for instance "imported/hopper-medium-v2".
        root: Local root; by default `data_root()`.

    Returns:
        The dataset, memory-mapped.

    Raises:
        OffDynError: No such dataset (the message names the command), or damaged (the file and what was expected).
    """
    place = data_root() if root is None else Path(root)
    metadata = _read_metadata(check_id(name), place)
    if metadata is None:
        known = ", ".join(imported_ids(place)) or "none yet"
        raise OffDynError(
            f"dataset '{name}' is not in {place} (imported: {known}); import it with: "
            f"offdyn data import FILE --out {name}"
        )
    card, folder = metadata["offdyn"], place / name
    shapes = _schema(card)
    arrays: dict[str, Any] = {key: None for key in _STATES if key not in shapes}
    for key, expected in shapes.items():
        arrays[key] = _load(folder / "flat" / f"{key}.npy", card["files"].get(f"{key}.npy"), expected)
    return ImportedDataset(id=name, metadata=metadata, path=folder, **arrays)


def _schema(card: Mapping[str, Any]) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Return the type and shape of every array that a card describes."""
    rows, episodes = card["rows"], card["episodes"]
    if card["robot"] is None:
        contract = Contract.from_json(card["contract"])
        return step_schema(len(contract.observations), len(contract.actions), rows, episodes)
    robot = get_robot(card["robot"])
    states = {"qpos": (np.dtype("<f8"), (rows, robot.nq)), "qvel": (np.dtype("<f8"), (rows, robot.nv))}
    stored = {key: shape for key, shape in states.items() if f"{key}.npy" in card["files"]}
    return step_schema(robot.observation_dim, robot.action_dim, rows, episodes) | stored


def _load(path: Path, known: Mapping[str, Any] | None, expected: tuple[np.dtype[Any], tuple[int, ...]]) -> Any:
    if known is None or not path.is_file():
        raise OffDynError(f"{path}: missing; expected an array of {expected[0]} {list(expected[1])}")
    digest = file_digest(path)
    if digest != known["sha256"]:
        raise OffDynError(f"{path}: SHA-256 {digest}; expected {known['sha256']}; import the file again with --force")
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise OffDynError(f"{path}: cannot be read as an array ({error})") from None
    if (array.dtype, array.shape) != expected:
        found = f"{array.dtype} {list(array.shape)}"
        raise OffDynError(f"{path}: is {found}; expected {expected[0]} {list(expected[1])}")
    return array


def save_imported(arrays: Mapping[str, NDArray[Any]], card: dict[str, Any], root: Path) -> Path:
    """Write an imported dataset; it appears whole under its final name and replaces an older one.

    Args:
        arrays: The arrays of `ImportedDataset` by name, states left out where there are none.
        card: Everything but "files" and "sha256", which are filled in here.
        root: Root of the datasets.

    Returns:
        The folder of the dataset.

    Raises:
        OffDynError: Another process is writing it now, or there is no room for it.
    """
    name = check_id(card["id"])
    check_room(root / name, sum(array.nbytes for array in arrays.values()))
    with locked(root, name), staged(root, name) as stage:
        (stage / "flat").mkdir()
        card["files"] = {}
        for key, array in arrays.items():
            path = stage / "flat" / f"{key}.npy"
            write_array(path, np.ascontiguousarray(array))
            card["files"][path.name] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        card["sha256"] = combined_digest({key: facts["sha256"] for key, facts in card["files"].items()})
        write_json(stage / _METADATA, {"dataset_id": name, "offdyn": card})
        replace_folder(stage, root, name)
    _move_metadata(root)
    return root / name
