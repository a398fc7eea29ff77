"""Policies of every agent fit an entry of the leaderboard: five seeds on six tasks."""

import pytest
import torch

from offdyn_agents.algorithms.registry import AGENTS, make_agent
from offdyn_agents.engine.export import policy_model
from offdyn_envs.benchmark.gate.half import halved
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import get_task, get_track

SIZES = {}


def stored(agent):
    """Return the bytes of an agent's policy as an entry stores it, which its widths alone decide."""
    drawn = {name: network.initial(torch.Generator().manual_seed(0)) for name, network in agent.networks().items()}
    # Agents that standardise states fold the moments into the first layer.
    drawn["moments"] = [torch.zeros(1, agent.observation_dim), torch.ones(1, agent.observation_dim)]
    actor = agent.deterministic(drawn)
    shapes = tuple(tuple(tensor.shape) for tensor in actor)
    if shapes not in SIZES:
        SIZES[shapes] = len(halved(policy_model(actor)))
    return SIZES[shapes]


@pytest.mark.parametrize("name", AGENTS)
def test_five_seeds_on_core_6_fit_an_entry(name):
    robots = [get_robot(get_task(task).robot) for task in get_track("core-6")]
    agents = [make_agent(name, robot.name, robot.observation_dim, robot.action_dim, {}, "medium") for robot in robots]
    total = protocol.RANKED_SEEDS * sum(map(stored, agents))
    assert 0 < total <= protocol.ENTRY_BYTES
