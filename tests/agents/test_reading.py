"""A method of which only an abstract is known is "our reading" of it, wherever a table or a picture has its name."""

import pytest

from offdyn_agents.algorithms.registry import AGENTS, agent_class
from offdyn_agents.algorithms.table import described
from offdyn_agents.api import comparing
from offdyn_agents.engine.resources import Budget, Hardware
from offdyn_agents.runs.curves import _labels
from offdyn_agents.runs.plans import Plan, initial_facts, run_label, run_title
from offdyn_agents.runs.runs import plan_agent

TASK = "hopper-gravity-0.5-medium"


@pytest.mark.parametrize("name", AGENTS)
def test_what_its_page_calls_our_reading_says_so_of_itself(name):
    assert (agent_class(name).reading == "our reading") == ("our reading" in described(name))


def facts_of(agent, out, variant=""):
    plan = Plan(agent, TASK, (0,), {}, Budget(10), Hardware(), out, variant=variant)
    return initial_facts(plan, plan_agent(plan))


def test_runs_carry_it_into_tables_and_pictures(tmp_path, monkeypatch):
    plain, read = facts_of("iql", tmp_path), facts_of("tabb", tmp_path, "soft")
    assert "reading" not in plain and run_title(plain) == "iql"
    # Folders are called without it.
    assert (run_label(read), run_title(read)) == ("tabb@soft", "tabb@soft (our reading)")
    assert _labels([tmp_path, tmp_path], [plain, read]) == ["iql", "tabb@soft (our reading)"]

    class Shown:
        folder, facts = tmp_path / "tabb@soft", read

    row = comparing._row(Shown(), "score", comparing.np.array([1.0, 2.0]), None)
    assert row["run"] == "tabb@soft (our reading)"
