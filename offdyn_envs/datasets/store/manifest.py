"""The manifest: the cards of the datasets that were published, to check what is shipped and what is rebuilt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from offdyn_envs.atomic import write_json
from offdyn_envs.datasets.store.card import same_platform
from offdyn_envs.datasets.store.fields import check_card
from offdyn_envs.datasets.store.spec import FORMAT
from offdyn_envs.datasets.store.staging import waiting_lock
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import WALKERS
from offdyn_envs.shipped import shipped_root
from offdyn_envs.tasks import DYNAMICS, DatasetId, list_tasks

__all__ = ["SHIPPED_ROWS", "compare", "manifest_path", "parse_manifest", "read_manifest", "record", "shipped_ids"]

SE_LIMIT = 4.0
"""Largest gap of two mean returns, in standard errors of their difference, that counts as statistically equal."""
SHIPPED_ROWS = "5k"
"""Size of the datasets that the repository ships; larger ones would make it large."""


def manifest_path() -> Path:
    """Return the manifest's file, whether or not it exists."""
    return shipped_root() / "manifest.json"


def read_manifest(path: Path | None = None) -> dict[str, Any]:
    """Read the manifest.

    Args:
        path: By default the shipped one.

    Returns:
        "datasets": id -> card, with "shipped" saying whether the arrays travel with the repository; "tasks": name ->
        source, target and scoring environment. Empty where there is no manifest.

    Raises:
        OffDynError: Not JSON, of a later format, or with a damaged card; the message names the file and the key.
    """
    file = path or manifest_path()
    if not file.is_file():
        return {"format": FORMAT, "datasets": {}, "tasks": {}}
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise OffDynError(f"{file}: cannot be read as JSON ({error})") from None
    manifest = parse_manifest(text, str(file))
    for name, card in manifest["datasets"].items():
        check_card(card, _id(name, file), str(file), f"datasets.{name}")
        if not isinstance(card.get("shipped"), bool):
            raise OffDynError(f"{file}: key 'datasets.{name}.shipped' is missing; expected true or false")
    return manifest


def parse_manifest(text: str, file: str) -> dict[str, Any]:
    """Read a manifest that is in memory, without looking at its cards.

    Args:
        text: The manifest.
        file: Where it is from, for messages.

    Returns:
        As `read_manifest`.

    Raises:
        OffDynError: Not JSON, or of a later format.
    """
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OffDynError(f"{file}: cannot be read as JSON ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise OffDynError(f"{file}: key 'format' is not {FORMAT}; this release reads manifests of format {FORMAT}")
    if not isinstance(manifest.get("datasets"), dict):
        raise OffDynError(f"{file}: key 'datasets' is missing; expected the cards by dataset id")
    return manifest


def _id(name: str, file: Path) -> DatasetId:
    try:
        return DatasetId.parse(name)
    except OffDynError as error:
        raise OffDynError(f"{file}: key 'datasets': {error}") from None


def record(cards: Mapping[str, Mapping[str, Any]], shipped: bool, path: Path | None = None) -> None:
    """Put cards into the manifest, in place of older ones of the same ids.

    Args:
        cards: Id -> card.
        shipped: The arrays travel with the repository.
        path: By default the shipped manifest.
    """
    file = path or manifest_path()
    with waiting_lock(file.parent, "manifest"):  # Two builds may record at once; neither may drop the other's card.
        manifest = read_manifest(file)
        known: dict[str, Any] = manifest["datasets"]
        known.update({name: {**card, "shipped": shipped} for name, card in cards.items()})
        manifest["tasks"] = {
            task.name: {"source": str(task.source), "target": str(task.target), "environment": task.env_id}
            for task in list_tasks()
            if str(task.target) in known
        }
        write_json(file, manifest)


def compare(card: Mapping[str, Any], reference: Mapping[str, Any] | None) -> dict[str, Any]:
    """Compare a built dataset with the manifest's card of the same id.

    Args:
        card: Of the dataset.
        reference: From the manifest, or None.

    Returns:
        "verdict": "not in the manifest", "identical", "statistically equal" or "different"; and the gaps: "return_gap"
        of the mean returns in standard errors (None where either has fewer than two whole episodes; the moments then
        decide alone), "moment_gap" the largest gap of a per-dimension mean in the manifest's standard deviations, and
        "moment_limit". Another platform owes equal statistics only; the same one owes equal bits.
    """
    if reference is None:
        return {"verdict": "not in the manifest"}
    if card["sha256"] == reference["sha256"]:
        return {"verdict": "identical"}
    return_gap, moment_gap, limit = _return_gap(card, reference), _moment_gap(card, reference), _limit(card, reference)
    recipe = ("seed", "model_sha256", "platform")
    exact = all(card[key] == reference[key] for key in recipe) and same_platform(reference)
    close = (return_gap or 0.0) <= SE_LIMIT and moment_gap <= limit
    return {
        "verdict": "statistically equal" if close and not exact else "different",
        "return_gap": return_gap,
        "moment_gap": moment_gap,
        "moment_limit": limit,
    }


def _return_gap(card: Mapping[str, Any], reference: Mapping[str, Any]) -> float | None:
    ours, theirs = card["returns"], reference["returns"]
    if not ours or not theirs or not ours["se"] or not theirs["se"]:
        return None
    return abs(ours["mean"] - theirs["mean"]) / float(np.hypot(ours["se"], theirs["se"]))


def _moment_gap(card: Mapping[str, Any], reference: Mapping[str, Any]) -> float:
    gaps = [
        np.abs(np.subtract(card["moments"][key]["mean"], theirs["mean"])) / np.maximum(theirs["std"], 1e-12)
        for key, theirs in reference["moments"].items()
    ]
    return float(np.concatenate(gaps).max())


def _limit(card: Mapping[str, Any], reference: Mapping[str, Any]) -> float:
    """Return the largest gap of two means that counts as equal, in standard deviations.

    Rows of an episode are correlated, so an episode counts as one draw: an upper bound of the standard error.
    """
    return SE_LIMIT * float(np.sqrt(1.0 / card["episodes"] + 1.0 / reference["episodes"]))


def shipped_ids() -> list[DatasetId]:
    """Return the datasets that the repository ships: medium, 5,000 rows, of walkers' dynamics with a medium policy.

    A hand's are recorded alone: each is four times as large, and built from its policy in seconds.
    """
    policies = shipped_root() / "behaviours"
    return [
        DatasetId(robot, dynamics, "medium", SHIPPED_ROWS)
        for robot in WALKERS
        for dynamics in DYNAMICS[robot]
        if (policies / robot / dynamics / "medium.safetensors").is_file()
    ]
