"""Publishing datasets: the tree of files that a static HTTP server or a Minari remote offers for download.

::

    DIR/manifest.json                                        cards, tasks, and size and SHA-256 of every data file
    DIR/offdyn/namespace_metadata.json                       ids of all datasets and namespaces, for Minari
    DIR/offdyn/<robot>/[<dynamics>/]namespace_metadata.json  likewise, one for each namespace
    DIR/offdyn/<robot>/<dynamics>/<name>/data/               metadata.json and main_data.hdf5

`DIR` is the document root of a server and the content of a `gcp://` bucket; `DIR/offdyn` is the content of the dataset
repository `ORG/offdyn` behind `hf://ORG`. The hidden `DIR/.building` holds nothing that has to be uploaded.

A manifest names only datasets that lie beside it whole, also while this runs and wherever it is killed: an entry is
taken out before its files are replaced and put in afterwards.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from offdyn_envs.atomic import room, write_json
from offdyn_envs.datasets.sharing.sources import FILE_FACTS, FILES
from offdyn_envs.datasets.store.fields import Each, check_fields
from offdyn_envs.datasets.store.folders import data_root, file_digest, find, local_ids, read_dataset
from offdyn_envs.datasets.store.manifest import compare, parse_manifest, read_manifest
from offdyn_envs.datasets.store.spec import FORMAT
from offdyn_envs.datasets.store.staging import STAGING, locked, recover_all, replace_folder, staged, waiting_lock
from offdyn_envs.errors import OffDynError
from offdyn_envs.progress import progress
from offdyn_envs.shipped import shipped_root
from offdyn_envs.tasks import DatasetId, list_tasks

__all__ = ["Published", "print_published", "publish"]

NAMESPACE_FILE = "namespace_metadata.json"
NAMESPACE = "offdyn"
PART = ".part"
DESCRIPTION = "Datasets for off-dynamics offline reinforcement learning"


@dataclass(frozen=True)
class Published:
    """What happened to a dataset.

    Attributes:
        id: The dataset.
        path: Its folder in the published tree.
        published: False where the same one was there already.
        bytes: Size of its files.
    """

    id: DatasetId
    path: Path
    published: bool
    bytes: int


def publish(folder: Path, datasets: Sequence[DatasetId] | None = None, *, quiet: bool = False) -> list[Published]:
    """Write datasets into a published tree; those that it has already stay in it.

    Args:
        folder: The tree: new, empty, or written by an earlier call.
        datasets: Which ones; by default all that are built, downloaded or shipped here.
        quiet: No progress bar.

    Returns:
        One entry per dataset.

    Raises:
        OffDynError: Nothing to publish, a dataset is missing, damaged or not the one of this release's manifest, or
            the folder holds something else. What was published before the failing dataset stays.
    """
    chosen = datasets or [DatasetId.parse(name) for name in sorted({*local_ids(), *local_ids(shipped_root())})]
    if not chosen:
        raise OffDynError(f"nothing to publish in {data_root()}; build a dataset first: offdyn data build TASK")
    places = {dataset: _place(dataset) for dataset in chosen}
    _check_folder(folder)
    notice = "" if quiet else f"waiting for another process that publishes to {folder}"
    with waiting_lock(folder, "publish", notice), _new_tree(folder):
        manifest = _read_tree(folder)
        with progress("publish", len(chosen), quiet=quiet) as advance:
            done: list[Published] = []
            for dataset, place in places.items():
                done.append(_publish_one(folder, manifest, dataset, place))
                advance(dataset=str(dataset))
        _write_index(folder, manifest)
    return done


def _place(dataset: DatasetId) -> Path:
    place = find(dataset)
    if place is None:
        raise OffDynError(f"dataset '{dataset}' is not on this machine; build it with: offdyn data build {dataset}")
    return place


def _check_folder(folder: Path) -> None:
    """Refuse a folder with something else in it."""
    for root in (data_root(), shipped_root()):
        if folder.resolve().is_relative_to(root.resolve()):
            raise OffDynError(f"{folder} lies in {root}, where the datasets are read from; expected another folder")
    if folder.exists() and not folder.is_dir():
        raise OffDynError(f"{folder} is a file; expected a folder")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    # Another process may be writing the first manifest now, or have been killed while it did.
    others = [name for name in names if name != STAGING and not name.startswith(".manifest.json.")]
    if others and not (folder / "manifest.json").is_file():
        raise OffDynError(f"{folder} holds '{others[0]}' and no manifest.json; expected an empty folder or a tree")


@contextmanager
def _new_tree(folder: Path) -> Generator[None]:
    """Let a tree in which nothing has been published be as it was."""
    path, fresh = folder / "manifest.json", not (folder / "manifest.json").exists()
    try:
        yield
    except BaseException:
        if fresh and {place.name for place in folder.iterdir()} <= {STAGING, path.name}:
            path.unlink(missing_ok=True)
        raise


def _read_tree(folder: Path) -> dict[str, Any]:
    """Read the manifest of the tree, without the entries whose files are not there."""
    path = folder / "manifest.json"
    for stale in (folder / STAGING).glob("*stage-*"):  # We hold the one lock: a killed process left it.
        shutil.rmtree(stale, ignore_errors=True)
    for stale in folder.rglob(f".*.json.*{PART}"):
        stale.unlink()
    recover_all(folder)
    if not path.is_file():
        manifest = {"format": FORMAT, "datasets": {}, "tasks": {}, "files": {}}
        write_json(path, manifest)  # The next call knows the folder by it, however soon this one is killed.
        return manifest
    manifest = parse_manifest(path.read_text(encoding="utf-8", errors="replace"), str(path))
    check_fields(manifest.get("files"), Each(FILE_FACTS), str(path), "files")
    for name in list(manifest["datasets"]):
        facts = [(folder / file, manifest["files"].get(file)) for file in _files(name)]
        if not all(fact and file.is_file() and file.stat().st_size == fact["bytes"] for file, fact in facts):
            _take_out(manifest, name)
    return manifest


def _files(name: str) -> list[str]:
    return [f"{name}/data/{file}" for file in FILES]


def _take_out(manifest: dict[str, Any], name: str) -> bool:
    for file in _files(name):
        manifest["files"].pop(file, None)
    return manifest["datasets"].pop(name, None) is not None


def _publish_one(folder: Path, manifest: dict[str, Any], dataset: DatasetId, place: Path) -> Published:
    """Check a dataset, copy it into the tree, check the copy, and enter it into the manifest."""
    name = str(dataset)
    card = dict(read_dataset(place, dataset).card)
    reference = read_manifest()["datasets"].get(name)
    if compare(card, reference)["verdict"] == "different":
        raise OffDynError(f"{place}: not the dataset of that id in the manifest of this release")
    facts = {file: _facts(place / "data" / file) for file in FILES}
    if any(facts[file] != known for file, known in card["files"].items() if file in facts):
        raise OffDynError(f"{place}: its files are not those that its metadata.json describes")
    size = sum(fact["bytes"] for fact in facts.values())
    entry = {**card, "shipped": bool(reference and reference.get("shipped"))}
    if manifest["datasets"].get(name) == entry and _same_files(folder / name, facts):
        return Published(dataset, folder / name, False, size)
    if _take_out(manifest, name):
        _write_index(folder, manifest)
    with locked(folder, dataset), staged(folder, name) as stage:
        (stage / "data").mkdir()
        for file in FILES:
            copy = stage / "data" / file
            with room(copy, facts[file]["bytes"]):
                shutil.copyfile(place / "data" / file, copy)
        if not _same_files(stage, facts):
            raise OffDynError(f"{place}: changed while it was copied; publish it again")
        replace_folder(stage, folder, name)
    manifest["datasets"][name] = entry
    manifest["files"].update({f"{name}/data/{file}": fact for file, fact in facts.items()})
    _write_index(folder, manifest)
    return Published(dataset, folder / name, True, size)


def _facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_digest(path)}


def _same_files(folder: Path, facts: Mapping[str, Any]) -> bool:
    return all(
        (folder / "data" / file).is_file() and _facts(folder / "data" / file) == fact for file, fact in facts.items()
    )


def _write_index(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest and Minari's namespaces for the datasets that are in the manifest."""
    names = sorted(manifest["datasets"])
    known = set(names)
    manifest["tasks"] = {
        task.name: {"source": str(task.source), "target": str(task.target), "environment": task.env_id}
        for task in list_tasks()
        if {str(task.source), str(task.target)} <= known
    }
    inner = sorted({path for name in names for path in _namespaces(name)})
    write_json(
        folder / NAMESPACE / NAMESPACE_FILE, {"description": DESCRIPTION, "datasets": names, "namespaces": inner}
    )
    for path in inner:
        write_json(
            folder / path / NAMESPACE_FILE,
            {
                "description": f"{DESCRIPTION}: {path.removeprefix(f'{NAMESPACE}/')}",
                "datasets": [name for name in names if name.startswith(f"{path}/")],
            },
        )
    write_json(folder / "manifest.json", manifest)


def _namespaces(name: str) -> Iterable[str]:
    """Return the namespaces of a dataset below the first: offdyn/hopper, offdyn/hopper/gravity-0p5."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(2, len(parts))]


def print_published(folder: Path, done: Sequence[Published], as_json: bool) -> None:
    """Print what was published and how to offer it.

    Args:
        folder: The tree.
        done: One entry per dataset.
        as_json: Print a JSON list instead.
    """
    if as_json:
        rows = [{**asdict(item), "id": str(item.id), "path": str(item.path)} for item in done]
        print(json.dumps(rows, indent=2, allow_nan=False))
        return
    for item in done:
        print(f"{item.id}: {'published' if item.published else 'was there'}, {item.bytes:,} bytes")
    print(f"offer it: serve {folder} with any static HTTP server and set OFFDYN_DATA_URL to its address,")
    print(f"or upload {folder / NAMESPACE} as the dataset repository ORG/{NAMESPACE} and use --url hf://ORG")
