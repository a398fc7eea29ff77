"""Datasets on disk: Minari HDF5 for interchange, flat memory-mapped arrays for training.

A dataset is the folder `<root>/<id>/` with `data/metadata.json` and `data/main_data.hdf5` as Minari reads them and,
under the local root, `flat/*.npy` beside them. The folder is written elsewhere under the root and renamed at the end:
under its final name it is whole, whenever the process is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offdyn_envs.atomic import write_json
from offdyn_envs.datasets.store.fields import check_card
from offdyn_envs.datasets.store.flat import read_flat, write_flat
from offdyn_envs.datasets.store.hdf5 import read_hdf5, write_hdf5
from offdyn_envs.datasets.store.spec import FORMAT, Arrays, Dataset, array_digests, combined_digest, schema
from offdyn_envs.datasets.store.staging import locked, recover, recover_all, replace_folder, staged
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import get_robot
from offdyn_envs.shipped import shipped_root
from offdyn_envs.tasks import DatasetId

__all__ = [
    "available",
    "cache_root",
    "data_root",
    "find",
    "local_ids",
    "prepare",
    "read_dataset",
    "read_metadata",
    "save",
]

DATA_DIR_VARIABLE = "OFFDYN_DATA_DIR"
HDF5_NAME = "main_data.hdf5"


def data_root() -> Path:
    """Return the folder of locally built datasets.

    It is `$OFFDYN_DATA_DIR`, else `$XDG_CACHE_HOME/offdyn/datasets`, else `~/.cache/offdyn/datasets`. Set
    `MINARI_DATASETS_PATH` to it to read the same datasets with Minari.
    """
    chosen = os.environ.get(DATA_DIR_VARIABLE)
    return _at_home(DATA_DIR_VARIABLE, chosen) if chosen else cache_root() / "datasets"


def cache_root() -> Path:
    """Return the folder of what can be made again: `$XDG_CACHE_HOME/offdyn`, else `~/.cache/offdyn`.

    Raises:
        OffDynError: There is no home directory.
    """
    variable = "XDG_CACHE_HOME"
    return _at_home(variable, os.environ.get(variable) or "~/.cache") / "offdyn"


def _at_home(variable: str, path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        home = path.partition("/")[0]
        whose = "no home directory is known" if home == "~" else f"{variable} is '{path}', but '{home}' has no home"
        raise OffDynError(f"{whose}; set {DATA_DIR_VARIABLE} to the folder for datasets") from None


def find(dataset: DatasetId, root: Path | None = None) -> Path | None:
    """Return the folder of a dataset that exists, or None: the local root first, then what is shipped."""
    for place in (root or data_root(), shipped_root()):
        recover(place, str(dataset))
        folder = place / str(dataset)
        if (folder / "data").is_dir():
            return folder
    return None


def available(dataset: DatasetId) -> bool:
    """Say whether a dataset can be loaded without building it."""
    return find(dataset) is not None


def local_ids(root: Path | None = None) -> list[str]:
    """Return the ids of the datasets under a root, sorted, by their folders alone."""
    place = root or data_root()
    recover_all(place)
    return sorted(folder.parent.relative_to(place).as_posix() for folder in place.glob("offdyn/*/*/*/data"))


def read_dataset(folder: Path, expected: DatasetId | None = None, *, cache: bool = False) -> Dataset:
    """Read the dataset in a folder.

    Args:
        folder: Holds `data/` and perhaps `flat/`.
        expected: The id it must have; by default its own.
        cache: Use the flat arrays beside the HDF5 file and write them where they are missing or stale.

    Returns:
        The dataset, memory-mapped if `cache`.

    Raises:
        OffDynError: Damaged or not a dataset of this format; the message names the file, the key and what was expected.
    """
    metadata = read_metadata(folder, expected)
    dataset = DatasetId.parse(metadata["dataset_id"])
    arrays = _read_flat(folder, dataset, metadata) if cache else None
    if arrays is None:
        arrays = _read_checked(folder, dataset, metadata)
        if cache and _write_flat_beside(folder, arrays, metadata):
            arrays = _read_flat(folder, dataset, metadata) or arrays
    return Dataset(dataset, metadata, arrays, folder)


def read_metadata(folder: Path, expected: DatasetId | None = None) -> dict[str, Any]:
    """Read and check metadata.json.

    Args:
        folder: Holds `data/`.
        expected: The id it must have.

    Returns:
        The metadata; the card is at "offdyn".

    Raises:
        OffDynError: Missing, not JSON, of a later format, of another dataset, or without a needed key.
    """
    path = folder / "data" / "metadata.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OffDynError(f"{path}: missing; expected the metadata of a dataset") from None
    except (OSError, ValueError, RecursionError) as error:
        raise OffDynError(f"{path}: cannot be read as JSON ({error})") from None
    card = metadata.get("offdyn") if isinstance(metadata, dict) else None
    if not isinstance(card, dict):
        raise OffDynError(f"{path}: key 'offdyn' is missing; expected the card of an offdyn dataset")
    version = card.get("format")
    if not isinstance(version, int) or version > FORMAT or version < 1:
        raise OffDynError(f"{path}: key 'format' is {version!r}; this release reads formats up to {FORMAT}")
    check_card(card, _check_id(path, metadata, expected), str(path), "offdyn")
    return metadata


def prepare(folder: Path, dataset: DatasetId) -> dict[str, Any]:
    """Check a folder that is to become a dataset, from its HDF5 file up, and write its flat arrays.

    Args:
        folder: Holds `data/`; not under its final name yet.
        dataset: The id it must have.

    Returns:
        The metadata.

    Raises:
        OffDynError: What is wrong: the file, the key and what was expected.
    """
    metadata = read_metadata(folder, dataset)
    path, known = folder / "data" / HDF5_NAME, metadata["offdyn"]["files"].get(HDF5_NAME, {})
    digest = file_digest(path)
    if digest != known.get("sha256"):
        raise OffDynError(f"{path}: SHA-256 {digest}; expected {known.get('sha256')}, as metadata.json says")
    arrays = _read_checked(folder, dataset, metadata)
    shutil.rmtree(folder / "flat", ignore_errors=True)
    write_flat(folder / "flat", arrays, _flat_facts(folder, metadata))
    return metadata


def _check_id(path: Path, metadata: Mapping[str, Any], expected: DatasetId | None) -> DatasetId:
    name = metadata.get("dataset_id")
    if not isinstance(name, str) or (expected is not None and name != str(expected)):
        raise OffDynError(f"{path}: key 'dataset_id' is {name!r}; expected '{expected or 'the id of a dataset'}'")
    try:
        return DatasetId.parse(name)
    except OffDynError as error:
        raise OffDynError(f"{path}: key 'dataset_id': {error}") from None


def _read_checked(folder: Path, dataset: DatasetId, metadata: Mapping[str, Any]) -> Arrays:
    """Read the HDF5 file, check every value and every checksum."""
    path, card = folder / "data" / HDF5_NAME, metadata["offdyn"]
    arrays = read_hdf5(path, get_robot(dataset.robot), card["rows"], card["episodes"])
    for key, digest in array_digests(arrays).items():
        if card["arrays"][key] != digest:
            raise OffDynError(f"{path}: '{key}' has SHA-256 {digest}; expected {card['arrays'][key]}")
    return arrays


def save(
    arrays: Arrays,
    metadata: dict[str, Any],
    root: Path,
    *,
    compress: bool = False,
    flat: bool = True,
    quiet: bool = False,
) -> Path:
    """Write a dataset; it appears whole under its final name and replaces an older one.

    Call it inside `locked`. The checksums are filled in here.

    Args:
        arrays: Validated arrays.
        metadata: Everything but the checksums; its "dataset_id" names the folder.
        root: Root of the datasets.
        compress: Small file, slow to write: for datasets that are shipped.
        flat: Write the flat arrays too.
        quiet: No progress bar.

    Returns:
        The folder of the dataset.
    """
    name = metadata["dataset_id"]
    final = root / name
    with staged(root, name) as stage:
        data = stage / "data"
        data.mkdir()
        write_hdf5(data / HDF5_NAME, arrays, name, compress=compress, quiet=quiet)
        digests = array_digests(arrays)
        card = metadata["offdyn"]
        card["arrays"], card["sha256"] = digests, combined_digest(digests)
        card["files"] = {
            HDF5_NAME: {"bytes": (data / HDF5_NAME).stat().st_size, "sha256": file_digest(data / HDF5_NAME)}
        }
        metadata["dataset_size"] = round(card["files"][HDF5_NAME]["bytes"] / 1e6, 1)
        card["metadata_sha256"] = metadata_digest(metadata)
        write_json(data / "metadata.json", metadata)
        if flat:
            write_flat(stage / "flat", arrays, _flat_facts(stage, metadata))
        replace_folder(stage, root, metadata["dataset_id"])
    return final


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def metadata_digest(metadata: Mapping[str, Any]) -> str:
    """Return the SHA-256 of metadata.json: its values as JSON, keys sorted, no spaces, less the key that holds it."""
    card = {key: value for key, value in metadata["offdyn"].items() if key != "metadata_sha256"}
    values = {**metadata, "offdyn": card}
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _flat_facts(folder: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the flat arrays were made from: if it still holds, they are up to date."""
    size = (folder / "data" / HDF5_NAME).stat().st_size
    return {"format": FORMAT, "sha256": metadata["offdyn"]["sha256"], "bytes": size}


def _write_flat_beside(folder: Path, arrays: Arrays, metadata: Mapping[str, Any]) -> bool:
    """Replace the flat arrays of a dataset; False where the folder cannot be written or is being written."""
    root = folder.parents[3]
    try:
        with locked(root, DatasetId.parse(metadata["dataset_id"])), staged(root, metadata["dataset_id"]) as stage:
            write_flat(stage / "flat", arrays, _flat_facts(folder, metadata))
            if (folder / "flat").exists():
                (folder / "flat").rename(stage / "old")
            (stage / "flat").rename(folder / "flat")
    except (OSError, OffDynError):
        return False
    return True


def _read_flat(folder: Path, dataset: DatasetId, metadata: Mapping[str, Any]) -> Arrays | None:
    """Memory-map the flat arrays; None where they are missing, stale or damaged."""
    card = metadata["offdyn"]
    expected = schema(get_robot(dataset.robot), card["rows"], card["episodes"])
    try:
        facts = _flat_facts(folder, metadata)
    except OSError:
        return None  # No HDF5 file: its reader says so.
    return read_flat(folder / "flat", facts, expected)
