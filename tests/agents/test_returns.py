"""What rewards say of values, on rows whose answers are known."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from offdyn_agents.algorithms.registry import AGENTS, agent_class
from offdyn_agents.algorithms.returns import FACTS, episode_returns, returns_scale, told, value_bounds, value_facts
from offdyn_agents.engine.resources import Budget, Hardware
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.settings import setting_names
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.engine.training.supplies import TaskRuns, make_supply
from tests.agents.synthetic import dataset, tiny

LAYOUT = Layout(2, 1)


def rows(episodes, terminal=()):
    """Packed rows of episodes with these rewards; those that are named end in a terminal state."""
    parts, start = [], 0.0
    for number, rewards in enumerate(episodes):
        count = len(rewards)
        states = start + torch.arange(count + 1.0)[:, None].expand(-1, 2)
        ends = torch.zeros(count, dtype=torch.bool)
        ends[-1] = number in terminal
        parts.append(LAYOUT.join(states[:-1], torch.zeros(count, 1), states[1:], torch.tensor(rewards), ends))
        start += 100.0
    return torch.cat(parts)


EPISODES = [[1.0, 2.0, 3.0], [500.0] * 6, [-1.0], [2.0, 2.0]]


def test_returns_of_episodes_by_their_ends():
    np.testing.assert_allclose(episode_returns(LAYOUT, rows(EPISODES)), [6.0, 3000.0, -1.0, 4.0])
    # A terminal row ends an episode even where the next begins at its next state.
    joined = rows([[1.0, 2.0, 3.0]])
    joined[1, -1] = 0.0
    np.testing.assert_allclose(episode_returns(LAYOUT, joined), [3.0, 3.0])


def test_scale_is_that_of_the_returns_and_never_above_one():
    assert returns_scale(LAYOUT, [rows(EPISODES)]) == pytest.approx(1000.0 / 3001.0)
    assert returns_scale(LAYOUT, [rows([[6000.0]]), rows([[1000.0]]), rows([[3.0]])[:0]]) == 0.2
    assert returns_scale(LAYOUT, [rows([[1029.0], [1031.0]])]) == 1.0


@pytest.mark.parametrize(
    ("rewards", "discount", "bounds"),
    [
        ([1.0, 3.0], 0.9, (0.0, 30.0)),
        ([-2.0, -1.0], 0.9, (-20.0, 0.0)),
        ([-2.0, 3.0], 0.5, (-4.0, 6.0)),
        ([0.0, 1.0], 1.0, (0.0, float("inf"))),
        ([2.0, 3.0], 0.0, (0.0, 3.0)),
    ],
)
def test_bounds_hold_every_discounted_sum(rewards, discount, bounds):
    assert value_bounds(torch.tensor(rewards), discount) == pytest.approx(bounds)


def test_facts_of_every_run():
    context = StageContext(LAYOUT, rows(EPISODES), rows([[-7.0, 4.0]]), (0, 1, 2), updates=1)
    found = value_facts(context, scaled=True, bounded=True, discount=0.5)[FACTS]
    scale = 1000.0 / 3003.0
    expected = [[scale] * 3, [-14.0 * scale] * 3, [1000.0 * scale] * 3]
    np.testing.assert_allclose(torch.stack(found), expected, rtol=1e-6)
    plain = value_facts(replace(context, seeds=(0,)), scaled=False, bounded=False, discount=0.5)[FACTS]
    assert [float(fact) for fact in plain] == [1.0, -float("inf"), float("inf")]


def test_what_run_json_says_of_values():
    """Bounds in units of the data's rewards, whatever rewards are multiplied with; null for none."""
    facts = {FACTS: [torch.tensor(part) for part in ([0.5, 0.25], [-1.0, -float("inf")], [8.0, 4.0])]}
    assert told(facts) == {"values": {"reward_scale": [0.5, 0.25], "low": [-2.0, None], "high": [16.0, 16.0]}}
    assert told({}) == {}
    json.dumps(told(facts), allow_nan=False)


SETTINGS = {name: setting_names(agent_class(name).settings_class) for name in AGENTS}


@pytest.mark.parametrize("name", [name for name, settings in SETTINGS.items() if "value_bounds" in settings])
def test_bounds_are_told_of_every_run(name, tmp_path):
    agent = tiny(name)
    task = TaskRuns(dataset(120, 0), dataset(60, 1), (0, 1), tmp_path)
    provision = make_supply(agent, [task], Budget(1, 1, 1), Hardware(compiled=False))
    found, frozen = provision.reports[0]["values"], provision.frozen[FACTS]
    scale = np.array(found["reward_scale"])
    np.testing.assert_allclose([scale, found["low"] * scale, found["high"] * scale], torch.stack(frozen).numpy())
    assert all(low <= 0.0 <= high for low, high in zip(found["low"], found["high"], strict=True))
    free = tiny(name, **{other: "none" for other in ("value_bounds", "reward_scale") if other in SETTINGS[name]})
    assert "values" not in make_supply(free, [task], Budget(1, 1, 1), Hardware(compiled=False)).reports[0]
