from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offdyn_envs.datasets import load_dataset
from offdyn_envs.datasets.checking.check import resimulate, verify
from offdyn_envs.datasets.collecting.build import build
from offdyn_envs.datasets.sharing.ship import record_built, ship
from offdyn_envs.datasets.store.manifest import compare, read_manifest
from offdyn_envs.datasets.store.spec import Dataset
from offdyn_envs.errors import OffDynError
from offdyn_envs.tasks import DatasetId
from tests.datasets.conftest import NOMINAL, SMALL


@pytest.mark.parametrize("name", [SMALL, NOMINAL])
def test_every_row_simulated_again_is_exact(root: Path, name: str) -> None:
    report = verify(root / name, rows=500, num_threads=2)
    assert report.mode == "exact"
    assert report.largest_gap == 0.0
    assert report.rows == 500
    assert report.manifest == {"verdict": "not in the manifest"}


def changed(dataset: Dataset, key: str, row: int, amount: float) -> Dataset:
    array = np.array(getattr(dataset.arrays, key))
    array[row] += np.asarray(amount, array.dtype)
    return replace(dataset, arrays=replace(dataset.arrays, **{key: array}))


def on_another_platform(dataset: Dataset) -> Dataset:
    card = {**dataset.card, "versions": {**dataset.card["versions"], "mujoco": "3.3.0"}}
    return replace(dataset, metadata={**dataset.metadata, "offdyn": card})


@pytest.mark.parametrize("key", ["next_observations", "rewards", "actions", "qpos"])
def test_one_changed_row_is_found(root: Path, key: str) -> None:
    data = load_dataset(SMALL)
    assert resimulate(data, rows=500) == ("exact", 0.0)
    with pytest.raises(OffDynError, match=r"row \d+ simulated again differs by .*; expected the stored values exactly"):
        resimulate(changed(data, key, 123, 1e-3 if key != "actions" else -0.5), rows=500)


def test_last_bit_counts_here_but_not_elsewhere(root: Path) -> None:
    data = load_dataset(SMALL)
    row = 77
    bit = float(np.spacing(np.abs(data.rewards[row])))
    nearly = changed(data, "rewards", row, bit)
    with pytest.raises(OffDynError, match="exactly"):
        resimulate(nearly, rows=500)
    mode, gap = resimulate(on_another_platform(nearly), rows=500)
    assert mode == "tolerance"
    assert 0 < gap < 1e-6
    with pytest.raises(OffDynError, match="expected at most 1e-05 on another"):
        resimulate(on_another_platform(changed(data, "rewards", row, 1e-3)), rows=500)


def test_wrong_dynamics_are_found(root: Path) -> None:
    data = load_dataset(SMALL)
    card = {**data.card, "shifts": [{"kind": "gravity", "scale": 0.51}]}
    with pytest.raises(OffDynError, match="simulated again differs"):
        resimulate(replace(data, metadata={**data.metadata, "offdyn": card}), rows=100)


def test_card_that_describes_other_data(root: Path) -> None:
    path = root / SMALL / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["offdyn"]["returns"]["mean"] += 1.0
    path.write_text(json.dumps(metadata))
    with pytest.raises(OffDynError, match=r"'offdyn.returns' does not describe the arrays"):
        verify(root / SMALL, rows=10)


def test_changed_cache_is_found(root: Path) -> None:
    path = root / SMALL / "flat" / "rewards.npy"
    rewards = np.load(path)
    rewards[5] += 1
    np.save(path, rewards)
    with pytest.raises(OffDynError, match=r"rewards.npy: SHA-256 .*; delete the folder flat/"):
        verify(root / SMALL, rows=10)


def test_file_checksum(root: Path) -> None:
    with (root / SMALL / "data" / "main_data.hdf5").open("ab") as file:
        file.write(b"\0")  # HDF5 ignores what follows its last object.
    with pytest.raises(OffDynError, match=r"main_data.hdf5: SHA-256 .*; expected"):
        verify(root / SMALL, rows=10)


def test_manifest_of_what_is_shipped(root: Path, tmp_path: Path) -> None:
    dataset = DatasetId("hopper", "gravity-0.5", "random", "500")
    [built] = ship([dataset], num_threads=1, quiet=True)
    manifest = read_manifest()
    card = manifest["datasets"][SMALL]
    assert built.path.is_relative_to(tmp_path / "datasets")
    assert card["shipped"]
    assert card["sha256"] == load_dataset(SMALL).card["sha256"]  # Built twice, shipped once: the same arrays.
    assert verify(root / SMALL, rows=10).manifest == {"verdict": "identical"}


def test_record_built_leaves_shipped_cards(root: Path) -> None:
    dataset = DatasetId("hopper", "gravity-0.5", "random", "500")
    ship([dataset], num_threads=1, quiet=True)
    record_built([build(DatasetId.parse(name), quiet=True) for name in (SMALL, NOMINAL)])
    shipped = {name: card["shipped"] for name, card in read_manifest()["datasets"].items()}
    assert shipped == {SMALL: True, NOMINAL: False}


def altered(card: Any, **changes: Any) -> Any:
    return {**card, "sha256": "0" * 64, **changes}


def test_comparison_with_the_manifest(root: Path) -> None:
    card = load_dataset(SMALL).card
    assert compare(card, None)["verdict"] == "not in the manifest"
    assert compare(card, card)["verdict"] == "identical"
    assert compare(card, altered(card))["verdict"] == "different"  # Same recipe, same platform: bits are owed.
    elsewhere = altered(card, platform={**card["platform"], "machine": "aarch64"})
    assert compare(card, elsewhere)["verdict"] == "statistically equal"
    returns = {**card["returns"], "mean": card["returns"]["mean"] + 10 * card["returns"]["se"]}
    far = compare(card, {**elsewhere, "returns": returns})
    assert far["verdict"] == "different"
    assert far["return_gap"] == pytest.approx(10 / np.sqrt(2))
    moments = {key: {**values, "mean": list(values["mean"])} for key, values in card["moments"].items()}
    moments["rewards"]["mean"][0] += 10 * moments["rewards"]["std"][0]
    assert compare(card, {**elsewhere, "moments": moments})["verdict"] == "different"


def test_comparison_without_a_whole_episode(root: Path) -> None:
    card = {**load_dataset(SMALL).card, "returns": None, "lengths": None, "episodes": 1}
    elsewhere = altered(card, platform={**card["platform"], "machine": "aarch64"})
    report = compare(card, elsewhere)
    assert (report["verdict"], report["return_gap"], report["moment_gap"]) == ("statistically equal", None, 0.0)
    actions = {**card["moments"]["actions"], "std": [1e-3] * 3, "mean": [9.0] * 3}
    far = compare(card, {**elsewhere, "moments": {**card["moments"], "actions": actions}})
    assert far["verdict"] == "different"
    assert far["moment_gap"] > far["moment_limit"] == pytest.approx(4 * np.sqrt(2))


RECORD = """
import sys
from offdyn_envs.datasets.store.manifest import record
from pathlib import Path
import json
card = json.loads(Path(sys.argv[1]).read_text())
for number in range(10):
    scale = (0.1, 0.5, 2.0, 5.0)[number % 4]
    kind, rows = ("gravity", "friction")[number // 4 % 2], (500, 5000)[number // 8]
    name = f"offdyn/hopper/{kind}-{str(scale).replace('.', 'p')}/random-{'500' if rows == 500 else '5k'}-v0"
    own = {"id": name, "dynamics": f"{kind}-{scale}", "rows": rows}
    record({name: {**card, **own}}, shipped=False, path=Path(sys.argv[2]))
"""


def test_two_processes_record_at_once(root: Path, tmp_path: Path) -> None:
    cards, manifest = [], tmp_path / "both" / "manifest.json"
    for quality in ("random", "expert"):
        cards.append(tmp_path / f"{quality}.json")
        cards[-1].write_text(json.dumps({**load_dataset(SMALL).card, "quality": quality}))
    processes = [
        subprocess.Popen([sys.executable, "-c", RECORD.replace("random-", f"{quality}-"), str(card), str(manifest)])
        for quality, card in zip(("random", "expert"), cards, strict=True)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert len(read_manifest(manifest)["datasets"]) == 20
