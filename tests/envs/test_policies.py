"""Behaviour policies in NumPy: files, distributions, bad files."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from offdyn_envs.errors import OffDynError
from offdyn_envs.policies import BehaviourPolicy, read_card


def make_policy(distribution="tanh-gaussian", head=True):
    rng = np.random.default_rng(0)

    def layer(inputs, outputs):
        return (
            rng.normal(size=(inputs, outputs)).astype(np.float32),
            rng.normal(size=outputs).astype(np.float32),
        )

    log_std = layer(8, 3) if head else np.full(3, -1.0, np.float32)
    return BehaviourPolicy([layer(11, 8)], layer(8, 3), log_std, (-5.0, 2.0), "tanh", distribution)


@pytest.mark.parametrize("head", (True, False))
@pytest.mark.parametrize("distribution", ("tanh-gaussian", "clipped-gaussian"))
def test_save_and_load(tmp_path, distribution, head):
    policy = make_policy(distribution, head)
    policy.save(tmp_path / "p.safetensors", {"seed": 1})
    loaded = BehaviourPolicy.load(tmp_path / "p.safetensors")
    observations = np.random.default_rng(1).normal(size=(7, 11))
    np.testing.assert_array_equal(policy.act(observations), loaded.act(observations))
    np.testing.assert_array_equal(
        policy.act(observations, np.random.default_rng(2)), loaded.act(observations, np.random.default_rng(2))
    )
    assert read_card(tmp_path / "p.safetensors") == {"seed": 1}
    assert (policy.observation_dim, policy.action_dim) == (11, 3)


@pytest.mark.parametrize("distribution", ("tanh-gaussian", "clipped-gaussian"))
def test_actions_are_float32_in_range(distribution):
    actions = make_policy(distribution).act(np.full((50, 11), 100.0), np.random.default_rng(0))
    assert actions.dtype == np.float32
    assert np.abs(actions).max() <= 1.0


def test_bad_files(tmp_path):
    with pytest.raises(OffDynError, match="no behaviour policy at"):
        BehaviourPolicy.load(tmp_path / "none.safetensors")
    make_policy().save(tmp_path / "p.safetensors", {})
    content = (tmp_path / "p.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(OffDynError, match="no readable safetensors file"):
        BehaviourPolicy.load(tmp_path / "short.safetensors")
    save_file({"x": np.zeros(1)}, tmp_path / "future.safetensors", metadata={"format": "2"})
    with pytest.raises(OffDynError, match="policy format '2'"):
        BehaviourPolicy.load(tmp_path / "future.safetensors")
