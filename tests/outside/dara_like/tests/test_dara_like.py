"""The conformance suite over the agent, and that it learns what it is for."""

from dataclasses import replace

import numpy as np
from dara_like import DARALike

from offdyn_agents.algorithms.iql import IQL
from offdyn_agents.testing import AgentConformance, small_agent
from offdyn_agents.testing.conformance import SEEDS, SOURCE, TARGET, same, train, weights


class TestDARALike(AgentConformance):
    agent = "dara-like"


def test_without_a_weight_it_is_iql(tmp_path):
    train(DARALike, tmp_path / "ours", settings={"dara.weight": 0.0})
    train(IQL, tmp_path / "iql")
    for seed in SEEDS:
        same(weights(tmp_path / "ours", seed), weights(tmp_path / "iql", seed))


def test_what_the_target_never_does_is_worth_less(tmp_path):
    """Half of the source moves the other way; the classifiers must find it."""
    from offdyn_agents.engine.resources import Budget, Hardware
    from offdyn_agents.engine.training.supplies import TaskRuns, make_supply

    strange = np.arange(len(SOURCE.rewards)) % 2 == 0
    moved = SOURCE.observations + 2.0 * np.where(strange, -1.0, 1.0)[:, None]
    source = replace(SOURCE, next_observations=moved.astype(np.float32))
    target = replace(TARGET, next_observations=TARGET.observations + np.float32(2.0))
    agent = small_agent(DARALike, {"dara.updates": 300, "dara.learning_rate": 3e-3, "dara.noise": 0.1})
    tasks = [TaskRuns(source, target, SEEDS, tmp_path)]
    supply = make_supply(agent, tasks, Budget(1), Hardware(compiled=False)).supply
    for more in [columns.rewards for columns in supply.columns]:
        assert float(more[strange].mean()) < float(more[~strange].mean()) - 0.3
