"""Agents by name: this package's own, other packages' by entry points, a program's own; faults are told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from offdyn_agents.algorithms import registry
from offdyn_agents.algorithms.iql import IQL
from offdyn_agents.engine.agent import Agent
from offdyn_envs.errors import OffDynError


class Mine(IQL):
    name = "mine"


class Nameless(IQL):
    pass


class Abstract(Agent):
    name = "abstract"


class Odd(IQL):
    name = "my/agent"


class Unset(IQL):
    name = "unset"
    settings_class = dict


class Metricless(IQL):
    name = "metricless"
    metrics = "loss"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {})
    registry._outside.cache_clear()
    yield
    registry._outside.cache_clear()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Lay packages with entry points on the path, as an installation would."""
    monkeypatch.syspath_prepend(tmp_path)

    def lay(package, points, code=""):
        monkeypatch.delitem(sys.modules, package, raising=False)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[offdyn.agents]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))
        (tmp_path / f"{package}.py").write_text(code)

    return lay


def refused(call, *given):
    with pytest.raises(OffDynError) as caught:
        call(*given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_agent_is_found_under_the_name_that_its_class_has():
    assert set(registry.AGENTS) <= set(registry.names())
    for name in registry.names():
        assert registry.agent_class(name).name == name
        assert registry.class_names()[registry.agent_class(name).__name__] == name


def test_a_program_registers_its_own():
    assert registry.register(Mine) == "mine"
    assert registry.names()[-1] == "mine"
    assert registry.agent_class("mine") is Mine
    assert registry.class_names()["Mine"] == "mine"
    # A notebook's cell that is run twice defines the class again.
    again = type("Mine", (IQL,), {"name": "mine", "__module__": Mine.__module__})
    registry.register(again)
    assert registry.agent_class("mine") is again


def test_a_path_with_a_name_is_imported_when_it_is_used(install):
    install("late_agent", {}, "raise ValueError('too early')\n")
    assert registry.register("late_agent:Late", "late") == "late"
    assert "late" in registry.names()
    assert "ValueError: too early" in refused(registry.agent_class, "late")
    assert registry.register(f"{__name__}:Mine") == "mine"
    assert registry.agent_class("mine") is Mine


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((Nameless,), "agent 'iql' of this program cannot be registered: agent 'iql' of offdyn exists"),
        (("a.b:C", "droco"), "agent 'droco' of offdyn exists; take another name"),
        ((Odd,), "agent 'my/agent' of this program: this is no name; up to 64 lower-case letters"),
        (("a.b:C", "Mine"), "this is no name"),
        (("a.b:C", ""), "this is no name"),
        (("a.b.C", "mine"), "'a.b.C' is no path; module:Class is allowed"),
        (("a.b.C",), "'a.b.C' is no path; module:Class is allowed"),
        (("no_such_module:C",), "cannot be loaded from no_such_module:C: ModuleNotFoundError"),
        ((Mine, "yours"), "agent 'yours' of this program: its class says name = 'mine'; both must be the same"),
        ((dict,), "<class 'dict'> is no class that inherits from offdyn_agents.engine.agent.Agent"),
        ((None,), "None is no class that inherits"),
        ((Abstract,), "class Abstract lacks loss, networks"),
        ((Unset,), "settings_class dict is no dataclass"),
        ((Metricless,), "class Metricless has no metrics that is a tuple"),
    ],
)
def test_what_is_no_agent_is_refused(given, message):
    before = registry.names()
    assert message in refused(registry.register, *given)
    assert registry.names() == before


def test_a_class_that_is_registered_already_stays_what_it_is():
    assert registry.register(IQL) == "iql"
    assert registry.agent_class("iql") is IQL


GOOD = """
from offdyn_agents.algorithms.iql import IQL

class Good(IQL):
    name = "good"
"""


def test_other_packages_name_theirs(install):
    install("other_agents", {"good": "other_agents:Good"}, GOOD)
    assert "good" in registry.names()
    assert registry.class_names()["Good"] == "good"
    assert registry.agent_class("good").__module__ == "other_agents"
    assert "did you mean 'good'?" in refused(registry.check_name, "goood")
    assert "agent 'good' of package other_agents exists" in refused(registry.register, "a:B", "good")


@pytest.mark.parametrize(
    ("point", "code", "message"),
    [
        ({"bad": "bad_agents:Bad"}, "import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ({"bad": "bad_agents:Bad"}, "1 / 0", "agent 'bad' of package bad_agents cannot be loaded"),
        ({"bad": "bad_agents:Bad"}, "", "AttributeError"),
        ({"bad": "bad_agents:Bad"}, "Bad = 3", "3 is no class that inherits"),
        ({"bad": "bad_agents:Good"}, GOOD, "its class says name = 'good'; both must be the same"),
        ({"bad": "bad_agents"}, "", "'bad_agents' is no path; module:Class is allowed"),
        ({"Bad": "bad_agents:Bad"}, GOOD, "agent 'Bad' of package bad_agents: this is no name"),
    ],
)
def test_a_broken_one_is_told_when_it_is_used_and_breaks_nothing_else(install, point, code, message):
    install("bad_agents", point, code)
    (name,) = point
    assert name in registry.names() and registry.class_names()
    assert registry.agent_class("iql") is IQL
    assert message in refused(registry.agent_class, name)


def test_no_entry_point_breaks_the_help(install, tmp_path):
    install("bad_agents", {"fine": "no_such:Thing", "odd[/b] name": "bad_agents:Bad", "worse": "!"}, "1 / 0")
    (tmp_path / "bad_agents-1.0.dist-info/METADATA").unlink()
    command = [sys.executable, "-m", "offdyn_envs.cli", "train", "--help"]
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert "fine" in done.stdout and "droco" in done.stdout and done.stderr == ""


def test_a_name_that_two_packages_claim_is_nobodys(install):
    install("one_agents", {"good": "one_agents:Good"}, GOOD)
    install("two_agents", {"good": "two_agents:Good"}, GOOD)
    message = refused(registry.agent_class, "good")
    assert message.startswith("agent 'good' is claimed by package one_agents and package two_agents; only one")


def test_this_packages_own_agents_cannot_be_taken_over(install):
    install("other_agents", {"iql": "other_agents:Good"}, GOOD)
    assert registry.agent_class("iql") is IQL


def test_names_are_known_without_torch():
    code = """
import sys
from offdyn_agents.algorithms import registry
registry.check_name("droco"), registry.class_names()["DROCO"], registry.register("a.b:C", "mine")
print("torch" in sys.modules, "mine" in registry.names())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
