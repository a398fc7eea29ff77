"""The examples in docstrings run, and everything that a user types has one."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import offdyn
import offdyn_envs

ROOT = Path(__file__).parents[1]
PACKAGES = ("offdyn", "offdyn_envs", "offdyn_agents")
FOREIGN = ("make", "make_vec")
"""Gymnasium's own."""
OWN_ROBOT = ("Robot", "register_dynamics", "register_robot", "register_task")
ON_PAGES = {"identify": "docs/identify.md"} | dict.fromkeys(OWN_ROBOT, "docs/own-robot.md")
"""Names whose example takes a page, which tests run."""


def modules_with_examples():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if ">>> " in path.read_text(encoding="utf-8"):
                parts = path.relative_to(ROOT).with_suffix("").parts
                yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.fixture
def place(tmp_path, monkeypatch, own_robots):
    """An empty folder; what an example registers is gone after it."""
    from offdyn_agents.algorithms import registry
    from offdyn_envs.shifts import registry as kinds

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OFFDYN_COMPILE", "0")
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    before = dict(kinds._KINDS)
    yield
    kinds._KINDS.clear()
    kinds._KINDS.update(before)


# Humanoid-v5 and Pendulum-v1 are Gymnasium's, and what it warns of is not ours.
@pytest.mark.filterwarnings("ignore::UserWarning:gymnasium.*")
@pytest.mark.parametrize("name", list(modules_with_examples()))
def test_examples_run(name, place):
    failed, tried = doctest.testmod(import_module(name), optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert tried > 0 and failed == 0


@pytest.mark.parametrize("package", [offdyn, offdyn_envs, offdyn.agents], ids=lambda found: found.__name__)
def test_everything_that_a_user_types_has_an_example(package):
    for name in package.__all__:
        found = getattr(package, name)
        if callable(found) and name not in FOREIGN:
            page = ON_PAGES.get(name)
            assert ">>> " in (found.__doc__ or "") or (page and name in (ROOT / page).read_text(encoding="utf-8")), name
