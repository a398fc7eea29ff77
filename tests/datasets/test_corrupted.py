"""Hundreds of damaged datasets: loading refuses them in one line, or `verify` does; none is believed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offdyn_envs.datasets.checking.check import verify
from offdyn_envs.datasets.collecting.build import build
from offdyn_envs.datasets.store.folders import read_dataset
from offdyn_envs.datasets.store.manifest import manifest_path
from offdyn_envs.datasets.store.spec import Arrays
from offdyn_envs.errors import OffDynError
from offdyn_envs.tasks import DatasetId
from tests.datasets.conftest import NOMINAL, hide_shipped
from tests.datasets.corruption import FAULTS, HDF5, JSON_TEXTS, Fault, flip, truncate


def equal(one: Arrays, two: Arrays) -> bool:
    return all(np.array_equal(left, right) for (_, left), (_, right) in zip(one.items(), two.items(), strict=True))


def refusal(act: Callable[[], object], where: Path) -> str | None:
    """Return the message with which something is refused, None where it is not; any other error is a failure."""
    try:
        act()
    except OffDynError as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < 1500
        assert str(where) in message, "the message names the file"
        return message
    return None


def test_there_are_three_hundred() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(names) == len(set(names))
    assert len(names) >= 300


@pytest.fixture
def damaged(built_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of one dataset, alone; nothing is shipped."""
    folder = tmp_path / "root" / NOMINAL
    shutil.copytree(built_root / NOMINAL, folder)
    hide_shipped(monkeypatch, tmp_path / "datasets")
    return folder


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if not fault.flat], ids=lambda fault: fault.name)
def test_damaged_file(damaged: Path, built_root: Path, fault: Fault) -> None:
    shutil.rmtree(damaged / "flat")
    fault.damage(damaged)
    forged = fault.name.startswith("forged")  # Those are wrong all the way through.
    assert_not_believed(damaged, None if forged else read_dataset(built_root / NOMINAL).arrays)


def assert_not_believed(folder: Path, whole: Arrays | None) -> None:
    """Loading refuses, or gives what was saved; `verify` refuses."""
    loaded: list[Arrays] = []
    if refusal(lambda: loaded.append(read_dataset(folder).arrays), folder) is None and whole is not None:
        assert equal(loaded[0], whole), "loaded, and not what was saved"
    assert refusal(lambda: verify(folder, rows=60), folder) is not None


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.flat], ids=lambda fault: fault.name)
def test_damaged_cache(damaged: Path, built_root: Path, fault: Fault) -> None:
    """Flat arrays are written anew, or have wrong numbers in them: then `verify` says so."""
    fault.damage(damaged)
    whole = read_dataset(built_root / NOMINAL).arrays
    loaded = read_dataset(damaged, cache=True).arrays
    if not equal(loaded, whole):
        message = refusal(lambda: verify(damaged, rows=1), damaged / "flat")
        assert message is not None
        assert message.endswith("delete the folder flat/")
        shutil.rmtree(damaged / "flat")
        loaded = read_dataset(damaged, cache=True).arrays
    assert equal(loaded, whole)
    assert isinstance(loaded.observations, np.memmap)
    for path in (built_root / NOMINAL / "flat").iterdir():
        assert (damaged / "flat" / path.name).read_bytes() == path.read_bytes()


def test_undamaged_datasets_pass(damaged: Path) -> None:
    assert verify(damaged, rows=60).mode == "exact"
    shutil.rmtree(damaged / "flat")
    assert verify(damaged, rows=60).mode == "exact"


def other(value: Any) -> Any:
    """Return another value of the same type."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        return f"{value[:-1]}{'0' if value[-1:] != '0' else '1'}"
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [other(value[0]), *value[1:]] if value else [{"kind": "gravity", "scale": 0.5}]
    key = sorted(value)[0]
    return {**value, key: other(value[key])}


def enter(folder: Path) -> dict[str, Any]:
    """Return a manifest that holds the card of a dataset."""
    card = json.loads((folder / "data" / "metadata.json").read_text())["offdyn"]
    return {"format": 1, "datasets": {NOMINAL: {**card, "shipped": False}}, "tasks": {}}


def write_manifest(content: str | bytes) -> None:
    manifest_path().parent.mkdir(parents=True, exist_ok=True)
    manifest_path().write_bytes(content.encode() if isinstance(content, str) else content)


def test_manifest_with_another_value(damaged: Path) -> None:
    manifest = enter(damaged)
    write_manifest(json.dumps(manifest))
    assert verify(damaged, rows=1).manifest["verdict"] == "identical"
    card = manifest["datasets"][NOMINAL]
    for key in sorted(set(card) - {"sha256", "metadata_sha256"}):
        changed = {**manifest, "datasets": {NOMINAL: {**card, key: other(card[key])}}}
        write_manifest(json.dumps(changed))
        message = refusal(lambda: verify(damaged, rows=1), manifest_path())
        assert message is not None, key
        assert key in message
    write_manifest(json.dumps({**manifest, "datasets": {NOMINAL: {**card, "sha256": "0" * 64}}}))
    assert verify(damaged, rows=1).manifest["verdict"] == "different"


@pytest.mark.parametrize("name", JSON_TEXTS)
def test_manifest_that_is_none(damaged: Path, name: str) -> None:
    write_manifest(JSON_TEXTS[name])
    assert refusal(lambda: verify(damaged, rows=1), manifest_path()) is not None


def test_shipped_files_are_damaged_likewise(built_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deflated arrays in chunks are another layout of the file."""
    hide_shipped(monkeypatch, tmp_path / "datasets")
    source = build(DatasetId.parse(NOMINAL), root=tmp_path / "shipped", ship=True, num_threads=1, quiet=True).path
    whole = read_dataset(source).arrays
    assert equal(whole, read_dataset(built_root / NOMINAL).arrays)
    for seed in range(30):
        folder = tmp_path / str(seed) / NOMINAL
        shutil.copytree(source, folder)
        (flip if seed % 3 else truncate)(HDF5, seed)(folder)
        assert_not_believed(folder, whole)
