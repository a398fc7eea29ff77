"""Where datasets are downloaded from: a static HTTP(S) server of a published tree, or a Minari remote."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from offdyn_envs.atomic import write_json
from offdyn_envs.datasets.sharing.transfer import fetch_file, fetch_text
from offdyn_envs.datasets.sharing.web import check_url
from offdyn_envs.datasets.store.fields import check_card, check_fields
from offdyn_envs.datasets.store.folders import HDF5_NAME, read_metadata
from offdyn_envs.datasets.store.manifest import parse_manifest
from offdyn_envs.errors import OffDynError
from offdyn_envs.tasks import DatasetId

__all__ = [
    "DATA_URL_VARIABLE",
    "DEFAULT_URL",
    "FILES",
    "FILE_FACTS",
    "HttpSource",
    "Source",
    "configured_url",
    "open_source",
]

DATA_URL_VARIABLE = "OFFDYN_DATA_URL"
DEFAULT_URL: str | None = None
"""Where downloads come from when nothing else is said; None while the project runs no server of its own."""

FILES = ("metadata.json", HDF5_NAME)
"""Files of a dataset that are transferred; the flat arrays are made here."""
FILE_FACTS: Mapping[str, Any] = {"bytes": int, "sha256": str}
_WANTED = "wanted.json"


class Source(Protocol):
    """A place that datasets come from."""

    @property
    def name(self) -> str:
        """Its address, for messages."""
        ...

    def fetch(self, dataset: DatasetId, folder: Path, quiet: bool) -> None:
        """Put the files of a dataset into `folder/data`, continuing what an earlier call left in `folder`."""
        ...


class HttpSource:
    """A static HTTP(S) server of the tree that `offdyn data publish` writes.

    Attributes:
        name: The base address.
    """

    def __init__(self, url: str) -> None:
        self.name = check_url(url)
        self._manifest: dict[str, Any] | None = None

    def fetch(self, dataset: DatasetId, folder: Path, quiet: bool) -> None:
        """Fetch both files, each checked against the server's manifest.

        Args:
            dataset: Which one.
            folder: Where to.
            quiet: No progress bar.

        Raises:
            OffDynError: The server does not offer the dataset, breaks off, or sends something else.
        """
        card, wanted = self._offer(dataset)
        _begin(folder, wanted)
        _check_space(folder, wanted)
        for file, facts in wanted.items():
            url = f"{self.name}/{dataset}/data/{file}"
            fetch_file(
                url, folder / "data" / file, facts["bytes"], facts["sha256"], name=f"{dataset} {file}", quiet=quiet
            )
        found = read_metadata(folder, dataset)["offdyn"]
        if found != {key: value for key, value in card.items() if key != "shipped"}:
            shutil.rmtree(folder)
            raise OffDynError(f"{self.name}/manifest.json: the card of '{dataset}' is not the one in its metadata.json")

    def _offer(self, dataset: DatasetId) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the card and the files of a dataset as the server's manifest has them."""
        if self._manifest is None:
            where = f"{self.name}/manifest.json"
            manifest = parse_manifest(fetch_text(where), where)
            check_fields(manifest.get("files"), dict, where, "files")
            self._manifest = manifest
        where, card = f"{self.name}/manifest.json", self._manifest["datasets"].get(str(dataset))
        if card is None:
            raise OffDynError(f"dataset '{dataset}' is not offered by {self.name}")
        check_card(card, dataset, where, f"datasets.{dataset}")
        wanted: dict[str, Any] = {}
        for file in FILES:
            path = f"{dataset}/data/{file}"
            facts = self._manifest["files"].get(path)
            check_fields(facts, FILE_FACTS, where, f"files.{path}")
            wanted[file] = {key: facts[key] for key in FILE_FACTS}
        return card, wanted


def _begin(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Keep what an earlier download left only if it was of the same files."""
    note = folder / _WANTED
    try:
        same = json.loads(note.read_text(encoding="utf-8")) == wanted
    except (OSError, ValueError):
        same = False
    if not same:
        shutil.rmtree(folder)
        folder.mkdir()
        write_json(note, wanted)
    (folder / "data").mkdir(exist_ok=True)


def _check_space(folder: Path, wanted: Mapping[str, Any]) -> None:
    here = sum(path.stat().st_size for path in (folder / "data").iterdir())
    missing = sum(facts["bytes"] for facts in wanted.values()) - here
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise OffDynError(f"{folder}: {missing:,} bytes are to come and {free:,} are free")


def configured_url() -> str | None:
    """Return the address that `load_dataset` downloads from: `$OFFDYN_DATA_URL`, else `DEFAULT_URL`, else None."""
    return os.environ.get(DATA_URL_VARIABLE) or DEFAULT_URL


def open_source(url: str | None = None) -> Source:
    """Return the place to download from; nothing is opened yet.

    Args:
        url: A base address "http(s)://...", or a Minari remote "hf://..." or "gcp://...". By default
            `configured_url()`, else `$MINARI_REMOTE`.

    Raises:
        OffDynError: No address given or configured, or not an address.
    """
    from offdyn_envs.datasets.sharing.remote import REMOTE_SCHEMES, MinariSource

    address = url or configured_url() or os.environ.get("MINARI_REMOTE")
    if not address:
        raise OffDynError(
            f"no address to download from: set {DATA_URL_VARIABLE} or give --url, for instance https://host/path"
        )
    if address.partition("://")[0] in REMOTE_SCHEMES:
        return MinariSource(address)
    return HttpSource(address)
