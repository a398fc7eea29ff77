"""What an exported HDF5 file says about itself, in the root attribute "offdyn": where it comes from, and checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.store.fields import Maybe, check_fields
from offdyn_envs.datasets.store.imported import CONTRACT, ImportedDataset
from offdyn_envs.datasets.store.spec import FORMAT, Arrays, Dataset
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import env_id

__all__ = ["STAMP", "check_stamp", "read_stamp", "stamp_of"]

Array = NDArray[Any]

STAMP = "offdyn"
"""The attribute."""
_STAMPED = ("observations", "actions", "next_observations", "rewards", "terminations")
_STAMP_FIELDS = {
    "format": int,
    "id": str,
    "robot": Maybe(str),
    "dynamics": Maybe(str),
    "arrays": dict.fromkeys(_STAMPED, str),
    "contract?": CONTRACT,
}


def stamp_of(dataset: Dataset | ImportedDataset) -> dict[str, Any]:
    """Return what an exported file says about itself."""
    digests = {key: _digest(getattr(dataset, key)) for key in _STAMPED}
    told = {key: dataset.card[key] for key in ("robot", "dynamics", "contract") if key in dataset.card}
    return {"format": FORMAT, "id": str(dataset.id), **told, "arrays": digests}


def _digest(array: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data.cast("B") if array.size else b"").hexdigest()


def read_stamp(group: Any, where: str) -> dict[str, Any] | None:
    """Return what an exported file says about itself, or None where it was written by something else.

    Args:
        group: The root group of the open file.
        where: The file, for the message.

    Returns:
        "robot" and "dynamics" (a slug), both None for data without a robot, which have a "contract" instead; "id"; and
        "arrays", the SHA-256 of the values of each array.

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
        if stamp["robot"] is not None:
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
