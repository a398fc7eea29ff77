"""docs/write-an-agent.md: its agents run and pass the conformance suite; other blocks are what the package has."""

import re
from pathlib import Path
from typing import ClassVar

import pytest

from offdyn_agents.algorithms import registry
from offdyn_agents.engine.agent import Agent
from offdyn_agents.testing import AgentConformance

ROOT, PACKAGE = Path(__file__).parents[2], Path(__file__).parent / "dara_like"
PAGE = (ROOT / "docs/write-an-agent.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```([\w ]*)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
AGENT, FILTER = [text for language, text in BLOCKS if language == "python"]


def defined(text, name):
    """Return a block's agent without its training, which the last lines are."""
    names = {"__name__": "tests.outside.page"}
    exec(compile(text.partition("\n\noffdyn.agents.register")[0], "write-an-agent.md", "exec"), names)
    return names[name]


class TestThePagesAgent(AgentConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def kind(cls):
        return defined(AGENT, "Cautious")

    # Not here: no other process can import what a page defines.
    test_killed_is_uninterrupted = None
    test_it_is_found_by_its_name = None


class TestThePagesFilter(TestThePagesAgent):
    settings: ClassVar = {"keep_share": 0.5}

    @pytest.fixture(scope="class")
    @classmethod
    def kind(cls):
        return defined(FILTER, "Usual")


def test_the_agents_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_REGISTERED", {})
    # Compiling takes longer than the page's run.
    monkeypatch.setattr("offdyn_agents.engine.execution.can_compile", lambda _: False)
    exec(compile(AGENT + FILTER, "write-an-agent.md", "exec"), {"__name__": "tests.outside.page"})
    assert capsys.readouterr().out.count("[") == 4
    for name, setting in (("cautious", '"source_weight": 0.3'), ("usual", '"keep_share": 0.5')):
        (facts,) = tmp_path.glob(f"runs/*/{name}*/run.json")
        assert setting in facts.read_text()


@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language != "python"])
def test_blocks_are_from_the_package(block):
    files = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".toml")]
    assert [path for path in files if block in path.read_text(encoding="utf-8")]


def test_the_page_names_every_member_of_the_contract():
    public = {name for name in (*vars(Agent), *Agent.__annotations__) if not name.startswith("_")}
    helpers = {"hidden", "parameters", "number", "settings"}
    assert not [name for name in public - helpers if f"`{name}" not in PAGE]
