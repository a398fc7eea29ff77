"""What pages of methods say beside their own parts: the list of faults, which rows methods take, and no speed twice."""

import ast
import dataclasses
import re
from pathlib import Path

from offdyn_agents.algorithms.registry import AGENTS, agent_class
from offdyn_agents.engine.settings import bounds_of, parse_overrides
from offdyn_agents.presets import chosen
from offdyn_agents.runs.rates import shipped

ROOT = Path(__file__).parents[2]
METHODS = ROOT / "docs/methods"
NUMBERS = ("None", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
PAGE = (METHODS / "README.md").read_text()


def docstrings():
    """Return the docstrings of all tests of agents by name; of several of one name, joined."""
    found = {}
    for file in Path(__file__).parent.glob("test_*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[node.name] = found.get(node.name, "") + (ast.get_docstring(node) or "")
    return found


def test_every_fault_has_the_test_that_names_it():
    rows = re.findall(r"^\| (F\d+) \|.*\| (-|`\w+`) \|$", PAGE, re.MULTILINE)
    assert [number for number, _ in rows] == [f"F{number}" for number in range(1, 25)]
    told = docstrings()
    named = {number: test.strip("`") for number, test in rows if test != "-"}
    assert {number: bool(re.search(rf"\b{number}\b", told[test])) for number, test in named.items()} == dict.fromkeys(
        named, True
    )


def test_shares_of_planted_rows_are_those_of_their_tests():
    rows = re.findall(r"^\| `([^`]+)` \| .* \| ([\d% to]+) \| `(test_\w+)` \|$", PAGE, re.MULTILINE)
    told = docstrings()
    for words, shares, test in rows:
        agent, *settings = words.split()
        chosen(agent_class(agent), overrides=parse_overrides(settings))
        for share in re.findall(r"\d+", shares):
            assert re.search(rf"(?<!\d){share}%|\.{share}", told[test]), words
    filters = {name for name in AGENTS if agent_class(name).family == "filtering or reweighting"}
    assert {words.split()[0] for words, *_ in rows} >= filters - {"srpo", "oracle-filter"}


def test_methods_that_take_merged_rows_alone_are_told():
    def choices(name):
        fields = {item.name: item for item in dataclasses.fields(agent_class(name).settings_class)}
        return bounds_of(fields["data"]).choices

    (told,) = re.findall(r"take `merged` alone: (.*?)\.\n", PAGE, re.DOTALL)
    assert re.findall(r"`([\w-]+)`", told) == [name for name in AGENTS if choices(name) == ("merged",)]


def test_speed_beside_iql_is_that_of_the_plans():
    """The page and the estimates of `offdyn train --plan` are of one run of benchmarks/agents.py."""
    section = (ROOT / "docs/speed.md").read_text().partition("### All agents beside IQL\n")[2].partition("\n## ")[0]
    shown = {name: float(times) for name, times in re.findall(r"^\| `([\w-]+)` \| \d+ \| ([\d.]+) \|$", section, re.M)}
    assert shown == shipped()["times_iql"] and list(shown.values()) == sorted(shown.values())
    assert {*shown} == {name for name in AGENTS if not agent_class(name).diagnosis}
    slow = sum(times > 3.0 for times in shown.values())
    assert f"{NUMBERS[slow]} take more than three times as long" in section


def test_speed_is_told_on_one_page():
    for page in METHODS.glob("*.md"):
        text = page.read_text()
        assert not re.search(r"times\s+as\s+costly|updates per second|seed-updates/s|\d x IQL", text), page
