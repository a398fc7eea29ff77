"""docs/own-robot.md: its code runs, short enough, and what it registers works in every command."""

import json
import re
from dataclasses import fields
from inspect import isfunction
from pathlib import Path

import pytest

import offdyn_envs
from offdyn_envs import OffDynError, Robot
from offdyn_envs.cli import main
from offdyn_envs.datasets.collecting.scripted import ScriptedBehaviour
from offdyn_envs.robots.registry import scripted_policies

PAGE = (Path(__file__).parents[1] / "docs/own-robot.md").read_text(encoding="utf-8")
FOUND = {"observation_dim", "action_dim", "nq", "nv", "na", "timestep", "model_sha256"}
"""Numbers of a robot that `register_robot` finds in its model."""
INTERNAL = {"spec", "published_spec", "state"}
(CODE,) = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
REGISTERED, TRAINED = CODE.split("for dataset in (", 1)


@pytest.fixture
def crane(own_robots, tmp_path, monkeypatch):
    """Have the page's robot in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OFFDYN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("OFFDYN_COMPILE", "0")  # It takes longer than these runs.
    names = {"__name__": "tests.page"}
    exec(compile(REGISTERED, "own-robot.md", "exec"), names)
    return names


def test_its_code_is_short():
    assert 40 < len(CODE.splitlines()) < 80


@pytest.mark.slow  # Twenty seconds, of which most are two agents.
def test_the_page_runs(crane, capsys):
    shorter = TRAINED.replace("updates=1_000", "updates=5").replace("DROCO()", "DROCO(dynamics={'epochs': 1})")
    assert len(shorter) > len(TRAINED) + 10
    exec(compile(f"for dataset in ({shorter}", "own-robot.md", "exec"), crane)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        f"offdyn/crane/{slug}/medium-5k-v0 1000 rows simulated again: exact" for slug in ("nominal", "heavy")
    ]
    assert sum(line.split()[:1] == ["seed"] for line in lines) == 2


def test_the_page_names_what_a_robot_says():
    said = {one.name for one in fields(Robot) if one.name not in FOUND}
    said |= {name for name, member in vars(Robot).items() if isfunction(member) and not name.startswith("_")}
    assert {"measures", "edit", "judge"} <= said
    assert not {name for name in said - INTERNAL if not re.search(rf"`(self\.)?{name}[(`]", PAGE)}
    named = set(re.findall(r"offdyn_envs\.([A-Za-z]\w*)", PAGE)) - {"datasets"}
    assert named >= {"GoalPart", "Measure"} and not {name for name in named if not hasattr(offdyn_envs, name)}


def command(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert not ended.value.code, arguments


def test_every_command_knows_it(crane, capsys, tmp_path):
    command("data", "build", "crane-heavy")
    command("data", "verify", "crane-heavy", "--rows", "5000")
    assert capsys.readouterr().out.count("5000 rows simulated again") == 2
    command("data", "gap", "crane-heavy", "--rows", "300")
    assert "changed      100.00%" in capsys.readouterr().out
    command("data", "info", "crane-heavy")
    assert "medium, 5,000 rows, scripted" in capsys.readouterr().out
    command("envs", "show", "Crane-heavy")
    assert "mass 2 -> 3 kg" in capsys.readouterr().out
    command("envs", "verify", "Crane-heavy")
    command("envs", "list")
    assert "OffDyn/Crane-heavy-v0" in capsys.readouterr().out
    command("train", "bc", "crane-heavy", "--updates", "5", "--seeds", "1", "--quiet")
    assert json.loads((tmp_path / "runs/crane-heavy/bc/run.json").read_text())["status"] == "complete"
    command("render", "crane-heavy", "--out", "crane.png", "--steps", "5", "--width", "64", "--height", "64")
    assert (tmp_path / "crane.png").stat().st_size


def test_scripted_policies_that_are_none(crane, capsys):
    careful = scripted_policies("crane")["medium"]
    others = [ScriptedBehaviour("crane", "medium", policy).sha256 for policy in (careful, lambda o, n: n, careful)]
    assert others[0] == others[2] != others[1]
    robot = offdyn_envs.get_robot("crane")
    for policy, words in (
        (lambda observations, noise: noise[:, 0], r"'medium' policy returns \[16\]; finite numbers \[16, 1\]"),
        (lambda observations, noise: 1 / 0, "'medium' policy fails: ZeroDivisionError"),
    ):
        offdyn_envs.register_robot(robot, behaviours={"medium": policy})
        with pytest.raises(SystemExit) as ended:
            main(["data", "build", "offdyn/crane/nominal/medium-5k-v0"])
        assert ended.value.code == 2
        assert re.search(words, capsys.readouterr().err)
    with pytest.raises(SystemExit):
        main(["data", "build", "offdyn/crane/nominal/expert-5k-v0"])
    assert "or give a scripted one" in capsys.readouterr().err
    with pytest.raises(OffDynError, match="needs a walker of the suite"):
        offdyn_envs.register_dynamics("crane", "odd", offdyn_envs.Kinematic("foot", 0.5))
