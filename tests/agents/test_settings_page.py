"""The list of an agent's settings: all of them, each explained, with the values that training would take."""

import json

import pytest

from offdyn_agents.algorithms.registry import AGENTS, agent_class, make_agent
from offdyn_agents.engine.settings import build, setting_names, to_json
from offdyn_agents.runs.settings_page import setting_rows
from offdyn_envs import cli
from offdyn_envs.errors import OffDynError

TASK = "hopper-gravity-0.5-medium"


def flat(tree, prefix=""):
    found = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@pytest.mark.parametrize("agent", AGENTS)
def test_every_setting_is_there_and_explained(agent):
    rows = setting_rows(agent, TASK)
    kind = agent_class(agent).settings_class
    assert [row["setting"] for row in rows] == setting_names(kind)
    assert all(row["meaning"] and row["allowed"] for row in rows)
    # Read back as they stand, the values are those that the agent would train with, the defaults those of its class.
    values = {row["setting"]: row["value"] for row in rows}
    assert build(kind, values) == make_agent(agent, "hopper", 11, 3, {}, "medium").settings
    defaults = {row["setting"]: row["default"] or row["value"] for row in rows}
    assert flat(to_json(build(kind, defaults))) == flat(to_json(kind()))


def test_a_class_explains_what_it_inherits_in_its_own_words():
    rows = {row["setting"]: row for row in setting_rows("droco", TASK)}
    assert rows["delta"]["allowed"] == "a number above 0"
    assert rows["robust_min"]["allowed"].startswith("value, ")
    assert rows["dynamics.members"]["allowed"] == "a whole number at least 1"
    assert "bounds" not in rows["dynamics.epochs"]["meaning"]
    assert {row["setting"]: row for row in setting_rows("morec-mobile")}["discriminators"]["value"] == "10"


def shown(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", *words])
    output = capsys.readouterr()
    return ended.value.code, output.out, output.err


def test_the_command(capsys):
    code, out, err = shown(capsys, "mobody", TASK, "--settings", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == setting_rows("mobody", TASK)
    code, out, err = shown(capsys, "mobody", "--settings")
    assert (code, err) == (0, "")
    assert "dara.form" in out and "Settings of mobody" in out
    code, _, err = shown(capsys, "mobody", TASK, "ant-gravity-0.5-medium", "--settings")
    assert (code, err) == (2, "offdyn: --settings shows those of one task, not of 2\n")
    assert shown(capsys, "mobdy", "--settings")[0] == 2
    # What is given with it counts, or is refused, as in training.
    code, out, _ = shown(capsys, "td3-bc", "--settings", "--set", "data=target", "--set", "alpha=1", "--json")
    values = {row["setting"]: row["value"] for row in json.loads(out)}
    assert (values["data"], values["normalise"], values["alpha"]) == ("target", "true", "1.0")
    code, _, err = shown(capsys, "td3-bc", "--settings", "--set", "alhpa=1")
    assert code == 2 and "did you mean 'alpha'" in err
    assert shown(capsys, "mobody", "--track", "core-12", "--settings")[0] == 2


def test_unknown_tasks_are_refused():
    with pytest.raises(OffDynError, match="hopper"):
        setting_rows("iql", "hoper-gravity-0.5-medium")
