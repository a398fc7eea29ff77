"""Datasets of the Adroit hand: the third part of its state is stored, simulated again and asked what if."""

import numpy as np
import pytest

import offdyn_envs
from offdyn_envs.datasets import load_dataset
from offdyn_envs.datasets.checking.check import resimulate, verify
from offdyn_envs.datasets.collecting.build import build
from offdyn_envs.datasets.describing.derived import shift_size
from offdyn_envs.datasets.gap.counterfactuals import counterfactual
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import HANDS
from offdyn_envs.tasks import DatasetId
from offdyn_envs.vector import OffDynVectorEnv


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("hands")


@pytest.mark.parametrize("name", HANDS)
def test_built_stored_and_simulated_again(name, root, monkeypatch):
    monkeypatch.setenv("OFFDYN_DATA_DIR", str(root))
    built = build(DatasetId.parse(f"{name}/broken-joint-easy/random-500"), quiet=True)
    report = verify(built.path, rows=200)
    assert (report.mode, report.largest_gap) == ("exact", 0.0)
    data = load_dataset(built.id)
    assert data.goal is not None
    assert data.goal.shape == (500, HANDS[name].goal_dim)
    np.testing.assert_array_equal(
        HANDS[name].observe(data.qpos, data.qvel, data.goal).astype(np.float32), data.observations
    )
    own = counterfactual(data, "broken-joint-easy", quiet=True)
    np.testing.assert_array_equal(own.next_observations, data.next_observations)
    np.testing.assert_array_equal(own.rewards, data.rewards)
    np.testing.assert_array_equal(own.terminations, data.terminations)
    other = counterfactual(data, "shrink-finger-hard", np.arange(100), quiet=True)
    assert not np.array_equal(other.next_observations, data.next_observations[:100])


@pytest.mark.parametrize("together", [3, 7])
def test_portions_change_no_number(together, root, monkeypatch):
    monkeypatch.setenv("OFFDYN_DATA_DIR", str(root))
    data = load_dataset(build(DatasetId.parse("adroit-pen/broken-joint-easy/random-500"), quiet=True).id)
    whole = shift_size(data, 16), resimulate(data, rows=16)
    widths = []
    make = OffDynVectorEnv.__init__
    monkeypatch.setattr(OffDynVectorEnv, "__init__", lambda self, *x, **y: widths.append(x[1]) or make(self, *x, **y))
    monkeypatch.setattr("offdyn_envs.batching.row_models.OWN_MODELS", together)
    assert (shift_size(data, 16), resimulate(data, rows=16)) == whole
    assert whole[0] > 0.0
    assert widths == [together] * 3


def test_tasks_and_names():
    task = offdyn_envs.get_task("adroit-pen-broken-joint-easy-medium")
    assert str(task.source) == "offdyn/adroit-pen/nominal/medium-1m-v0"
    assert str(task.target) == "offdyn/adroit-pen/broken-joint-easy/medium-5k-v0"
    assert task.env_id == "OffDyn/AdroitPen-broken-joint-easy-v0"
    with pytest.raises(OffDynError, match="behaviour teach adroit-hammer --dynamics nominal"):
        build(DatasetId.parse("adroit-hammer/nominal/expert-500"), quiet=True)
    with pytest.raises(OffDynError, match=r"; medium-replay exists for the four walkers alone$"):
        build(DatasetId.parse("adroit-pen/nominal/medium-replay-500"), quiet=True)
