from __future__ import annotations

import benchmark_models as models
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from offdyn_envs.benchmark.gate.gate import inspect_model
from offdyn_envs.benchmark.gate.half import halved
from offdyn_envs.benchmark.gate.onnx_policy import load_critic, load_policy


def test_weights_at_half_the_bytes_pass_the_gate_and_act_the_same_but_for_rounding() -> None:
    data = models.policy(17, 6, hidden=256)
    small = halved(data)
    assert len(small) < 0.55 * len(data)
    assert halved(data) == small == halved(small)
    assert inspect_model(small, "policy").parameters == inspect_model(data, "policy").parameters
    observations = np.random.default_rng(0).standard_normal((64, 17))
    exact, rounded = load_policy(data)(observations), load_policy(small)(observations)
    assert 0 < np.abs(exact - rounded).max() < 1e-2
    stored = onnx.load_from_string(data)
    for tensor in stored.graph.initializer:
        # What numpy makes of the weights is what the graph computes with.
        weights = numpy_helper.to_array(tensor)
        if weights.size >= 16:
            tensor.CopyFrom(numpy_helper.from_array(weights.astype(np.float16).astype(np.float32), tensor.name))
    np.testing.assert_allclose(load_policy(stored.SerializeToString())(observations), rounded, rtol=1e-6)


def test_a_critic_is_halved_too() -> None:
    critic = load_critic(halved(models.critic(11, 3)))
    assert critic(np.ones((2, 11)), np.ones((2, 3))).shape == (2,)


@pytest.mark.parametrize("value", [1e6, float("inf")])
def test_weights_that_do_not_fit_stay_as_they_are(value: float) -> None:
    model = onnx.load_from_string(models.policy(17, 6))
    first = model.graph.initializer[0]
    weights = numpy_helper.to_array(first).copy()
    weights[0, 0] = value
    first.CopyFrom(numpy_helper.from_array(weights, first.name))
    found = {tensor.name for tensor in onnx.load_from_string(halved(model.SerializeToString())).graph.initializer}
    assert first.name in found and f"{first.name}.half" not in found
