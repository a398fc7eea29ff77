"""Settings that runs of one population may differ in: every run learns with its own."""

from dataclasses import replace

import pytest
import torch

from offdyn_agents.algorithms.registry import AGENTS, agent_class
from offdyn_agents.engine.agent import NUMBERS
from offdyn_agents.engine.settings import per_run_names, shared
from offdyn_agents.engine.training.module import Budget, Hardware
from offdyn_agents.engine.training.populations import train_runs
from offdyn_agents.engine.training.supplies import TaskRuns
from offdyn_agents.engine.update import initial_population
from offdyn_agents.runs.plans import Plan
from offdyn_agents.runs.runs import arrange
from offdyn_agents.testing.conformance import weights
from offdyn_envs.errors import OffDynError
from offdyn_envs.tasks import get_track
from tests.agents.synthetic import dataset, tiny

DATA = {"mild": (dataset(240, 0), dataset(120, 1)), "severe": (dataset(200, 2), dataset(100, 3))}
EVERY = [(name, number) for name in AGENTS for number in per_run_names(agent_class(name).settings_class)]


def train(agent, folder, settings):
    tasks = [TaskRuns(*DATA[task], (0, 1), folder / task, task, settings=own) for task, own in settings.items()]
    hardware = Hardware(compiled=False)
    return train_runs(agent, tasks, Budget(12, 12, 6), hardware, [], "test", quiet=True, cache=folder.parent / "stages")


def other(agent, number):
    """Settings with another value of one number, so different that it shows."""
    value = getattr(agent.settings, number)
    return replace(
        agent.settings, **{number: 0.95 if number == "expectile" else 0.01 if number == "delta" else 5 * value + 1}
    )


def test_there_are_some():
    assert {("droco", "beta"), ("droco", "delta"), ("iql", "expectile"), ("mopo", "penalty")} <= set(EVERY)
    assert per_run_names(agent_class("bc").settings_class) == ()


@pytest.mark.parametrize(("name", "number"), EVERY)
def test_each_run_learns_with_its_own(name, number, tmp_path):
    agent = tiny(name)
    changed = other(agent, number)
    module = train(agent, tmp_path / "both", {"mild": agent.settings, "severe": changed})
    kept = module.population.frozen[NUMBERS][per_run_names(type(changed)).index(number)]
    assert kept.tolist() == pytest.approx([getattr(agent.settings, number)] * 2 + [getattr(changed, number)] * 2)
    train(agent_class(name)(changed, agent.observation_dim, agent.action_dim), tmp_path / "alone", {"severe": None})
    train(agent, tmp_path / "plain", {"severe": None})
    differs = False
    for seed in (0, 1):
        mine, alone, plain = (weights(tmp_path / who / "severe", seed) for who in ("both", "alone", "plain"))
        assert all(torch.equal(mine[key], alone[key]) for key in alone)
        differs |= any(not torch.equal(mine[key], plain[key]) for key in plain)
    assert differs, "the number decides nothing"


def test_a_loss_without_runs_reads_the_setting():
    agent = tiny("droco", beta=0.25)
    assert agent.number({}, "beta", 1) == 0.25
    population = initial_population(agent, (0, 1, 2))
    assert agent.number(population.readable(), "beta", 2).shape == (3, 1, 1)


def test_what_is_no_number_of_a_run_is_refused(tmp_path):
    agent = tiny("droco")
    with pytest.raises(OffDynError, match="severe: its settings differ"):
        train(agent, tmp_path, {"mild": None, "severe": replace(agent.settings, robust_min="q")})
    assert shared(agent.settings) == shared(replace(agent.settings, beta=7.0))
    assert shared(agent.settings) != shared(replace(agent.settings, robust_min="q"))


def test_tasks_of_equal_dimensions_are_one_population(tmp_path):
    """DROCO's preset gives HalfCheetah and Walker2d, which have equal dimensions, different weights of the penalty."""
    plans = [
        Plan("droco", name, (0, 1, 2), {}, Budget(10), Hardware("cuda"), tmp_path) for name in get_track("mobody-32")
    ]
    populations = arrange(plans).populations
    assert sorted(len(population.members) for population in populations) == [8, 8, 16]
    other = [replace(plan, overrides={"robust_min": "q"}) for plan in plans[:2]]
    assert len(arrange([*other, *plans[2:4]]).populations) == 2
