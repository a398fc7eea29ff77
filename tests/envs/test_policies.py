"""Behaviour policies in NumPy: files, distributions, bad files."""

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

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
    digest = hashlib.sha256((tmp_path / "p.safetensors").read_bytes()).hexdigest()
    assert read_card(tmp_path / "p.safetensors") == {"seed": 1, "policy_sha256": digest}
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


@pytest.mark.parametrize("head", (True, False))
def test_sample_is_what_act_does_with_its_noise(head):
    policy = make_policy(head=head)
    observations = np.random.default_rng(1).normal(size=(7, 11))
    noise = np.random.default_rng(2).standard_normal((7, 3), dtype=np.float32)
    sampled = policy.sample(observations, noise)
    np.testing.assert_array_equal(sampled, policy.act(observations, np.random.default_rng(2)))
    np.testing.assert_array_equal(policy.sample(observations, np.zeros_like(noise)), policy.act(observations))
    assert np.abs(sampled - policy.act(observations)).max() > 0.1


METADATA = {"format": "1", "activation": "tanh", "distribution": "tanh-gaussian", "log_std_range": "[-5, 2]"}


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"mean.weight": np.zeros((7, 3), np.float32)}, {}, r"'mean.weight' is \[7, 3\]; expected \[8, 3\]"),
        ({"hidden.0.bias": np.zeros(9, np.float32)}, {}, r"'hidden.0.weight' is \[11, 8\]; expected \[11, 9\]"),
        ({"hidden.0.weight": np.zeros(8, np.float32)}, {}, "'hidden.0.weight' is "),
        ({"hidden.0.weight": np.zeros((11, 8))}, {}, "'hidden.0.weight' is float64; expected float32"),
        ({"hidden.0.weight": None}, {}, "'hidden.0.weight' is missing"),
        ({"mean.bias": None}, {}, "'mean.bias' is missing"),
        ({"mean.bias": np.zeros((), np.float32)}, {}, "mean.weight"),
        ({"log_std": np.zeros(2, np.float32)}, {}, r"'log_std' is \[2\]; expected \[3\]"),
        ({"mean.weight": np.full((8, 3), np.nan, np.float32)}, {}, "'mean.weight' .* must hold finite"),
        ({"log_std": np.full(3, np.inf, np.float32)}, {}, "'log_std' .* must hold finite"),
        ({}, {"log_std_range": "[-5"}, "'log_std_range' is '\\[-5'; expected a list of two numbers"),
        ({}, {"log_std_range": "[1, 2, 3]"}, "expected a list of two numbers"),
        ({}, {"log_std_range": '{"low": 0, "high": 1}'}, "expected a list of two numbers"),
        ({}, {"log_std_range": "[2, -5]"}, "log_std_range is 2.0 to -5.0"),
        ({}, {"log_std_range": "[NaN, 1]"}, "log_std_range is nan to"),
        ({}, {"activation": "sine"}, "unknown activation 'sine'"),
        ({}, {"distribution": None}, "'distribution' is missing"),
    ],
)
def test_damaged_tensors(tmp_path, tensors, metadata, message):
    path = tmp_path / "p.safetensors"
    make_policy(head=False).save(path, {})
    path.with_suffix(".json").unlink()
    changed = {key: value for key, value in {**load_file(path), **tensors}.items() if value is not None}
    entries = {key: value for key, value in {**METADATA, **metadata}.items() if value is not None}
    save_file(changed, path, metadata=entries)
    with pytest.raises(OffDynError, match=message) as caught:
        BehaviourPolicy.load(path)
    assert str(path) in str(caught.value)


def test_policy_beside_the_card_of_another(tmp_path):
    """What a process leaves that is killed between the two files."""
    path = tmp_path / "p.safetensors"
    make_policy(head=False).save(path, {})
    card = path.with_suffix(".json").read_text()
    make_policy(head=True).save(path, {})
    path.with_suffix(".json").write_text(card)
    for read in (BehaviourPolicy.load, read_card):
        with pytest.raises(OffDynError, match=r"p\.json: key 'policy_sha256' is .*; expected [0-9a-f]{64}"):
            read(path)
    make_policy(head=True).save(path, {})
    assert BehaviourPolicy.load(path).action_dim == 3


@pytest.mark.parametrize(
    "returns", ([1.0], {"sampled": 1.0}, {"sampled": {"mean": "x"}}, {"sampled": {"mean": np.nan}})
)
def test_damaged_returns_of_a_card(tmp_path, returns):
    path = tmp_path / "p.safetensors"
    make_policy().save(path, {})
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**card, "returns": returns}))
    with pytest.raises(OffDynError, match=r"key 'returns' is .*; expected objects of finite numbers"):
        read_card(path)


def test_policy_that_is_not_finite_is_not_made():
    with pytest.raises(OffDynError, match=r"'mean.bias' .* must hold finite"):
        BehaviourPolicy([], (np.zeros((11, 3), np.float32), np.full(3, np.nan, np.float32)), np.zeros(3, np.float32))
