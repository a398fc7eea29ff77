"""What leaves: ONNX files that pass the leaderboard's gate and compute what the networks compute."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from offdyn_agents.engine.export import critic_model, export_run, policy_model
from offdyn_agents.engine.networks import Network, member, policy, twin
from offdyn_agents.engine.update import initial_population
from offdyn_envs.benchmark.gate.gate import inspect_model
from offdyn_envs.benchmark.gate.onnx_policy import load_critic, load_policy
from tests.agents.synthetic import A, S, make


@pytest.fixture
def params():
    population = initial_population(make("iql"), [0, 1])
    return {name: member(tensors, 1) for name, tensors in population.params.items()}


def test_policy_is_the_actor(params):
    model = load_policy(policy_model(params["actor"]), observation_dim=S, action_dim=A)
    observations = torch.randn(33, S, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(model(observations), policy(params["actor"], observations), atol=1e-6)
    assert model(observations[:0]).shape == (0, A)


def test_critic_is_the_smaller_twin(params):
    model = load_critic(critic_model(params["critic"], S, A), observation_dim=S, action_dim=A)
    generator = torch.Generator().manual_seed(0)
    observations, actions = torch.randn(33, S, generator=generator), torch.rand(33, A, generator=generator)
    both = twin(params["critic"], observations, actions)
    assert both.shape == (2, 33)
    np.testing.assert_allclose(model(observations, actions), both.amin(0), atol=1e-6)


def test_graph_has_no_more_than_it_needs(params):
    import onnx

    graph = onnx.load_from_string(policy_model(params["actor"])).graph
    assert [node.op_type for node in graph.node] == ["Gemm", "Relu", "Gemm", "Relu", "Gemm", "Tanh"]
    signature = inspect_model(policy_model(params["actor"]), "policy")
    assert signature.parameters == sum(tensor.numel() for tensor in params["actor"])


def test_folder(params, tmp_path):
    export_run(params, tmp_path, S, A)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["critic.onnx", "policy.onnx", "weights.safetensors"]
    saved = load_file(tmp_path / "weights.safetensors")
    assert saved.keys() == {f"{name}.{i}" for name in params for i in range(6)}
    for name, tensors in params.items():
        for i, tensor in enumerate(tensors):
            assert torch.equal(saved[f"{name}.{i}"], tensor)
    export_run({"actor": params["actor"]}, tmp_path / "bc", S, A)
    assert sorted(path.name for path in (tmp_path / "bc").iterdir()) == ["policy.onnx", "weights.safetensors"]


def test_initial_weights_are_pytorchs():
    network = Network((50, 400, 3))
    weight, bias, *_ = network.initial(torch.Generator().manual_seed(0))
    layer = torch.nn.Linear(50, 400)
    for ours, theirs in ((weight, layer.weight.detach()), (bias, layer.bias.detach())):
        assert float(ours.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=0.02)
        assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.1)
