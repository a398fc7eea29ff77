"""What the repository ships: complete, whole, made by the policies beside it, and small."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import minari
import numpy as np
import pytest

from offdyn_envs.datasets.checking.check import verify
from offdyn_envs.datasets.store.folders import local_ids, read_dataset
from offdyn_envs.datasets.store.manifest import read_manifest, shipped_ids
from offdyn_envs.policies import BehaviourPolicy, read_card
from offdyn_envs.robots import get_robot
from offdyn_envs.shipped import REPLAY, shipped_root
from offdyn_envs.tasks import DYNAMICS, DatasetId
from tests.datasets.conftest import hide_shipped, make_policy

SHIPPED = shipped_ids()
FROZEN: dict[str, str] = json.loads(Path(__file__).with_name("sha256.json").read_text(encoding="utf-8"))
"""SHA-256 of datasets that were published. They never change; add new ones."""


def test_datasets_policies_and_manifest_belong_together() -> None:
    folders = set(local_ids(shipped_root()))
    assert {str(dataset) for dataset in SHIPPED} <= folders, "run: offdyn dev ship"
    manifest = read_manifest()
    assert {name for name, card in manifest["datasets"].items() if card["shipped"]} == folders
    for task in manifest["tasks"].values():
        assert task["target"] in manifest["datasets"]


def test_minari_reads_what_is_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(shipped_root()))
    found = minari.list_local_datasets()
    assert set(found) == set(local_ids(shipped_root()))
    for name in found:
        theirs, ours = minari.load_dataset(name), read_dataset(shipped_root() / name)
        joined = np.concatenate([episode.observations[1:] for episode in theirs])
        np.testing.assert_array_equal(joined, ours.next_observations)


def test_every_policy_belongs_to_its_card() -> None:
    policies = sorted((shipped_root() / "behaviours").rglob("*.safetensors"))
    assert policies
    for path in policies:
        policy, card = BehaviourPolicy.load(path), read_card(path)
        robot = get_robot(card["robot"])
        assert (policy.observation_dim, policy.action_dim) == (robot.observation_dim, robot.action_dim)
        if path.stem not in REPLAY:  # Those are steps on the way; what they collect has a card of its own.
            assert card["returns"]["sampled"]["episodes"] >= 100


def test_the_repository_stays_small() -> None:
    files = [path for path in shipped_root().rglob("*") if path.is_file() and ".building" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 200e6


def test_no_published_dataset_has_changed() -> None:
    known = read_manifest()["datasets"]
    assert len(FROZEN) >= 46
    assert FROZEN == {name: known.get(name, {}).get("sha256") for name in FROZEN}


def test_data_of_taught_hands_are_not_shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hide_shipped(monkeypatch, tmp_path)
    assert shipped_ids() == []
    taught = [(robot, slug) for robot in ("adroit-pen", "adroit-door") for slug in DYNAMICS[robot]]
    for robot, slug in (("hopper", "nominal"), *taught):
        make_policy(robot, 0, 4).save(tmp_path / "behaviours" / robot / slug / "medium.safetensors", {})
    assert [str(one) for one in shipped_ids()] == ["offdyn/hopper/nominal/medium-5k-v0"]


@pytest.mark.parametrize("dataset", SHIPPED, ids=str)
def test_shipped_dataset(dataset: DatasetId) -> None:
    folder = shipped_root() / str(dataset)
    report = verify(folder, rows=1000)
    assert report.manifest["verdict"] == "identical"
    data = read_dataset(folder)
    assert len(data) == 5000
    [behaviour] = data.card["behaviour"]
    policy = shipped_root() / behaviour["policy"]
    assert behaviour["policy_sha256"] == hashlib.sha256(policy.read_bytes()).hexdigest()
    assert behaviour["returns"] == json.loads(policy.with_suffix(".json").read_text())["returns"]["sampled"]
    assert (folder / "data" / "main_data.hdf5").stat().st_size < 3e6
