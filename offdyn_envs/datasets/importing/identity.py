"""Which imported dataset a file becomes, and whether it is there already."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offdyn_envs.datasets.store.folders import HDF5_NAME
from offdyn_envs.datasets.store.imported import NAMESPACE, check_id, read_imported_card
from offdyn_envs.errors import OffDynError

__all__ = ["Imported", "already", "default_id", "stem"]


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        card: Of the dataset.
        path: Its folder.
        imported: False where it was there already.
    """

    card: Mapping[str, Any]
    path: Path
    imported: bool


def stem(path: Path) -> str:
    """Return the name of a file, or of the folder of a Minari dataset."""
    return path.parents[1].name if path.name == HDF5_NAME and len(path.parents) > 1 else path.stem or path.name


def default_id(name: str) -> str:
    """Return the id that a file of this name gets.

    Raises:
        OffDynError: The name has no letter or digit.
    """
    words = re.findall(r"[A-Za-z0-9]+", re.sub(r"(?<=\d)\.(?=\d)", "p", name))  # gravity_0.5: gravity-0p5.
    if not words:
        raise OffDynError(f"no id can be made from '{name[:60]}'; pass --out {NAMESPACE}/NAME")
    return check_id(f"{NAMESPACE}/{'-'.join(words)[:80].rstrip('-')}")


def already(identity: Mapping[str, Any], root: Path) -> Imported | None:
    """Return the dataset of that id if it was made from this file in this way.

    Args:
        identity: What makes two imports the same, as keys of the card; "layout" and "sha256" are those of its source.
        root: Root of the datasets.

    Raises:
        OffDynError: It was made from another one.
    """
    folder = root / identity["id"]
    card = read_imported_card(identity["id"], root)
    if card is None:
        return None
    found = {**card, **{key: card["source"][key] for key in ("layout", "sha256")}}
    for key, value in identity.items():
        before = found.get(key, False)  # Options that a card does not know were not there.
        if before != value:
            raise OffDynError(
                f"{folder}: was imported with {key} {before!s}, not {value!s}; --force replaces it, "
                "--out gives the new one another id"
            )
    return Imported(card, folder, False)
