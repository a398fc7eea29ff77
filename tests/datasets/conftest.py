from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from offdyn_envs.datasets.collecting.build import build
from offdyn_envs.policies import BehaviourPolicy
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import DatasetId

SMALL = "offdyn/hopper/gravity-0p5/random-500-v0"
NOMINAL = "offdyn/hopper/nominal/random-500-v0"


def make_policy(robot: str, seed: int, width: int = 64) -> BehaviourPolicy:
    """Return a policy with random weights."""
    rng, body = np.random.default_rng(seed), get_robot(robot)

    def layer(inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
        weights = rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)
        return weights.astype(np.float32), np.zeros(outputs, np.float32)

    hidden = [layer(body.observation_dim, width), layer(width, width)]
    std = np.full(body.action_dim, -0.5, np.float32)
    return BehaviourPolicy(
        hidden, layer(width, body.action_dim), std, activation="tanh", distribution="clipped-gaussian"
    )


@pytest.fixture(scope="session")
def behaviours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of behaviour policies: medium and expert, nominal Hopper."""
    root = tmp_path_factory.mktemp("behaviours")
    for seed, name in enumerate(("medium", "expert")):
        card = {"returns": {"sampled": {"mean": 10.0 * seed, "se": 1.0, "episodes": 100}}}
        make_policy("hopper", seed).save(root / "hopper" / "nominal" / f"{name}.safetensors", card)
    return root


@pytest.fixture(scope="session")
def built_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with two small datasets; do not change them."""
    root = tmp_path_factory.mktemp("datasets")
    for name in (SMALL, NOMINAL):
        build(DatasetId.parse(name), root=root, num_threads=1, quiet=True)
    return root


@pytest.fixture
def root(built_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small datasets to damage, set as the local root, with nothing shipped."""
    place = tmp_path / "root"
    shutil.copytree(built_root, place)
    monkeypatch.setenv("OFFDYN_DATA_DIR", str(place))
    hide_shipped(monkeypatch, tmp_path / "datasets")
    return place


def hide_shipped(monkeypatch: pytest.MonkeyPatch, instead: Path) -> None:
    """Let an empty folder stand for what is shipped."""
    for module in (
        "store.folders",
        "collecting.build",
        "store.manifest",
        "sharing.ship",
        "describing.show",
        "checking.check",
    ):
        monkeypatch.setattr(f"offdyn_envs.datasets.{module}.shipped_root", lambda: instead)
