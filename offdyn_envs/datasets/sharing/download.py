"""Downloading datasets, so that each appears whole, verified and ready to load, or not at all.

A download grows in a hidden folder of the local root, where a killed process leaves it to the next one. There it is
checked against the server's manifest, against its own card and against the manifest of this release, its flat arrays
are written, and only then it gets its final name.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

from offdyn_envs.atomic import DiskFullError
from offdyn_envs.datasets.sharing.sources import Source, open_source
from offdyn_envs.datasets.store.folders import data_root, find, prepare, read_metadata
from offdyn_envs.datasets.store.manifest import compare, read_manifest
from offdyn_envs.datasets.store.staging import kept, locked, replace_folder, waiting_lock
from offdyn_envs.errors import OffDynError
from offdyn_envs.tasks import DatasetId

__all__ = ["Downloaded", "download", "download_all", "print_downloaded"]


@dataclass(frozen=True)
class Downloaded:
    """What a download did.

    Attributes:
        id: The dataset.
        path: Its folder.
        downloaded: False where it was there already.
        seconds: Wall-clock time.
        sha256: Of the arrays.
        rows: N.
    """

    id: DatasetId
    path: Path
    downloaded: bool
    seconds: float
    sha256: str
    rows: int


def download(
    dataset: DatasetId,
    *,
    url: str | None = None,
    root: Path | None = None,
    force: bool = False,
    quiet: bool = False,
) -> Downloaded:
    """Download a dataset, unless it is there.

    Args:
        dataset: What to download.
        url: Where from, as for `open_source`.
        root: Where to put it; by default the local root.
        force: Replace a dataset that is there.
        quiet: No progress bars.

    Returns:
        Where it is and what was done.

    Raises:
        OffDynError: No address; not offered there; the connection broke off too often (what arrived is kept, the next
            call continues); or what came is not what was promised (nothing is kept).
    """
    return _download(dataset, lambda: open_source(url), root or data_root(), force, quiet)


def _download(dataset: DatasetId, origin: Callable[[], Source], root: Path, force: bool, quiet: bool) -> Downloaded:
    begun, name = time.perf_counter(), f"{dataset}.download"
    there = None if force else find(dataset, root)
    if there is not None:
        return _done(dataset, there, False, 0.0)
    source = origin()
    with waiting_lock(root, name, "" if quiet else f"waiting for another process that downloads {dataset}"):
        there = None if force else find(dataset, root)
        if there is not None:  # The other process finished it.
            return _done(dataset, there, False, time.perf_counter() - begun)
        with kept(root, name) as folder:
            source.fetch(dataset, folder, quiet)
            _accept(dataset, folder, source)
            with locked(root, dataset):
                _remove_notes(folder)
                replace_folder(folder, root, str(dataset))
    return _done(dataset, root / str(dataset), True, time.perf_counter() - begun)


def _accept(dataset: DatasetId, folder: Path, source: Source) -> None:
    """Check a complete download and write its flat arrays, or remove it."""
    try:
        card = prepare(folder, dataset)["offdyn"]
        if compare(card, read_manifest()["datasets"].get(str(dataset)))["verdict"] == "different":
            raise OffDynError("it is not the dataset of that id in the manifest of this release")
    except DiskFullError:  # No fault of what came: the same command goes on with it.
        raise
    except OffDynError as error:
        shutil.rmtree(folder)
        raise OffDynError(f"dataset '{dataset}' from {source.name} is refused and removed: {error}") from None


def _remove_notes(folder: Path) -> None:
    """Remove what is no part of a dataset."""
    for path in folder.iterdir():
        if path.name not in ("data", "flat"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _done(dataset: DatasetId, path: Path, downloaded: bool, seconds: float) -> Downloaded:
    card = read_metadata(path, dataset)["offdyn"]
    return Downloaded(dataset, path, downloaded, seconds, card["sha256"], card["rows"])


def download_all(
    names: Iterable[str], *, url: str | None = None, force: bool = False, quiet: bool = False
) -> list[Downloaded]:
    """Download datasets by name, one after the other.

    Args:
        names: Tasks (source and target), ids of datasets, or ids behind an address: "hf://org/offdyn/hopper/...".
        url: Where the ids without an address come from, as for `open_source`.
        force: Replace existing datasets.
        quiet: No progress bars.

    Returns:
        One entry per dataset, each once, in order.

    Raises:
        OffDynError: As `download`; datasets before the failing one are there.
    """
    from offdyn_envs.datasets.collecting.build import resolve

    wanted: dict[DatasetId, str | None] = {}
    for name in names:
        place, rest = _split(name)
        wanted.update(dict.fromkeys(resolve([rest]), place or url))
    opened = cache(open_source)  # One look at a server's manifest serves all of its datasets.
    return [
        _download(dataset, partial(opened, address), data_root(), force, quiet) for dataset, address in wanted.items()
    ]


def _split(name: str) -> tuple[str | None, str]:
    """Split an id behind an address into the two."""
    if "://" not in name:
        return None, name
    place, found, rest = name.rpartition("/offdyn/")
    if not found:
        raise OffDynError(f"'{name[:200]}' names no dataset; expected an address followed by /offdyn/...")
    return place, f"offdyn/{rest}"


def print_downloaded(done: Sequence[Downloaded], as_json: bool) -> None:
    """Print what a download did.

    Args:
        done: One entry per dataset.
        as_json: Print a JSON list instead.
    """
    if as_json:
        rows = [{**asdict(item), "id": str(item.id), "path": str(item.path)} for item in done]
        print(json.dumps([{"dataset": row.pop("id"), **row} for row in rows], indent=2, allow_nan=False))
        return
    for item in done:
        what = f"downloaded in {item.seconds:.1f} s and verified" if item.downloaded else "was there"
        print(f"{item.id}: {what}, {item.rows:,} rows, SHA-256 {item.sha256}")
        print(f"  {item.path}")
