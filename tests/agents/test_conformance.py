"""What every agent must do, whatever it learns: an agent joins by being in the registry."""

import numpy as np
import pytest
import torch

from offdyn_agents.algorithms.registry import agent_class, names
from offdyn_agents.engine.networks import twin
from offdyn_agents.testing import AgentConformance, CompiledConformance
from offdyn_agents.testing.conformance import SEEDS, train
from offdyn_envs.benchmark.gate.onnx_policy import load_critic, load_policy
from tests.agents.synthetic import A, S, dataset


class TestEveryAgent(AgentConformance):
    @pytest.fixture(scope="class", params=names())
    @classmethod
    def kind(cls, request):
        return agent_class(request.param)

    # Slow: test_kills.py kills in every stage.
    test_killed_is_uninterrupted = pytest.mark.slow(AgentConformance.test_killed_is_uninterrupted)


@pytest.mark.slow
class TestEveryAgentCompiled(CompiledConformance):
    @pytest.fixture(params=names())
    def kind(self, request):
        return agent_class(request.param)


def test_standardised_states_are_folded_into_what_is_saved(tmp_path):
    module = train(agent_class("td3-bc"), tmp_path, settings={"data": "target", "normalise": "true"})
    data = dataset(64, 3)
    observations = torch.from_numpy(data.observations)
    acted = module.act(observations.expand(2, -1, -1))
    for run, seed in enumerate(SEEDS):
        policy = load_policy(tmp_path / "seeds" / str(seed) / "policy.onnx", observation_dim=S, action_dim=A)
        np.testing.assert_allclose(policy(data.observations), acted[run], atol=1e-5)
        critic = load_critic(tmp_path / "seeds" / str(seed) / "critic.onnx", observation_dim=S, action_dim=A)
        params = {name: [t[run] for t in tensors] for name, tensors in module.population.readable().items()}
        mean, std = params["moments"]
        standard = (observations - mean) / std
        expected = twin(params["critic"], standard, torch.from_numpy(data.actions)).amin(0)
        np.testing.assert_allclose(critic(data.observations, data.actions), expected, atol=1e-5, rtol=1e-5)
