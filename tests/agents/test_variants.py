"""Folders of runs that learn from other rows, or were given a name, and the tools that read them."""

import json
import shlex

import pytest

from offdyn_agents.engine.training.module import Budget, Hardware
from offdyn_agents.runs.plans import Plan
from offdyn_agents.runs.variants import named
from offdyn_envs.errors import OffDynError
from tests.agents.test_commands import TASK, data, offdyn, train  # noqa: F401 - a fixture

PAIRS = [
    ("iql", {}, "", "iql"),
    ("iql", {"data": "target"}, "", "iql@data-target"),
    ("iql", {"data": "oracle", "beta": "1"}, "", "iql@data-oracle"),
    # What the preset says anyway is no variant, nor are other settings.
    ("iql", {"data": "merged"}, "", "iql"),
    ("iql", {"learning_rate": "0.1"}, "", "iql"),
    ("bc", {}, "", "bc"),
    ("bc", {"data": "target"}, "", "bc"),
    ("bc", {"data": "merged"}, "", "bc@data-merged"),
    ("td3-bc", {"data": "source"}, "", "td3-bc@data-source"),
    ("droco", {}, "500", "droco@target-500"),
    ("droco", {}, "5k", "droco"),
    ("iql", {"data": "target"}, "500", "iql@data-target+target-500"),
]


def plan(agent="iql", overrides=None, rows="", tmp_path=None):
    budget, hardware = Budget(12, 12, 6), Hardware("cpu", "fp32", 1)
    return Plan(agent, TASK, (0, 1), overrides or {}, budget, hardware, tmp_path, True, rows)


@pytest.mark.parametrize(("agent", "overrides", "rows", "folder"), PAIRS)
def test_rows_name_the_folder(agent, overrides, rows, folder, tmp_path):
    asked = named(plan(agent, {k: v for k, v in overrides.items() if k != "beta"}, rows, tmp_path))
    assert asked.folder == tmp_path / TASK / folder
    # The command that makes the run again finds the same folder.
    words = shlex.split(asked.command)
    assert ("--variant" in words) == ("@" in folder)


def test_a_name_by_hand_stands_for_all(tmp_path):
    asked = named(plan(overrides={"data": "target"}, tmp_path=tmp_path), "low-rate_2.0+x")
    assert asked.folder == tmp_path / TASK / "iql@low-rate_2.0+x"
    assert "--variant low-rate_2.0+x" in asked.command


@pytest.mark.parametrize("name", ["..", "a/b", "-a", "a b", "a@b", "x" * 65, "é", ".hidden", "a\n"])
def test_what_is_no_name_is_refused(name, tmp_path):
    with pytest.raises(OffDynError, match="is no name; up to 64 letters") as caught:
        named(plan(tmp_path=tmp_path), name)
    assert len(str(caught.value)) < 300


def test_unknown_rows_are_refused_as_before(tmp_path):
    with pytest.raises(OffDynError, match="unknown value of setting data 'targt'; did you mean 'target'"):
        named(plan(overrides={"data": "targt"}, tmp_path=tmp_path))


def test_variants_stand_side_by_side_and_go_through_every_tool(data, tmp_path, capsys):  # noqa: F811
    assert train(capsys, tmp_path, "--seeds", 3, agent="iql")[0] == 0
    code, out, err = train(capsys, tmp_path, "--seeds", 3, "--set", "data=target", agent="iql")
    assert (code, err) == (0, "")
    run = tmp_path / TASK / "iql@data-target"
    assert f"next: offdyn evaluate {run}" in out
    plain, facts = (json.loads((folder / "run.json").read_text()) for folder in (tmp_path / TASK / "iql", run))
    assert "variant" not in plain
    assert (facts["agent"], facts["variant"], facts["settings"]["data"]) == ("iql", "data-target", "target")
    assert plain["settings"]["data"] == "merged"
    assert train(capsys, tmp_path, "--seeds", 3, "--set", "data=target", agent="iql")[1] == f"{run}: already complete\n"

    code, out, err = offdyn(capsys, "curves", run)
    assert (code, out) == (0, f"{run / 'curves.png'}\n")
    code, out, err = offdyn(capsys, "evaluate", run, "--episodes", 10, "--cell-episodes", 10, "--quiet")
    assert (code, err) == (0, "")
    assert f"{TASK} iql@data-target" in out
    board = tmp_path / "board"
    code, out, err = offdyn(capsys, "leaderboard", "add", run, "--name", "target-iql", "--leaderboard", board)
    assert (code, err) == (0, "")
    entry = json.loads((board / "submissions/target-iql/entry.json").read_text())
    assert entry["method"] == "iql@data-target"
    assert entry["disclosure"]["tasks"][TASK]["hyperparameters"]["data"] == "target"
    command = entry["disclosure"]["tasks"][TASK]["command"]
    assert "--set data=target" in command
    assert "--variant data-target" in command


def test_the_command_of_an_unfinished_variant_goes_on_in_its_folder(data, tmp_path, capsys):  # noqa: F811
    assert train(capsys, tmp_path, "--set", "data=source", "--variant", "mine", agent="bc")[0] == 0
    run = tmp_path / TASK / "bc@mine"
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(facts | {"status": "running"}))
    code, _, err = offdyn(capsys, "evaluate", run)
    assert code == 2
    told = shlex.split(err.split("finish it with: offdyn ")[1])
    code, _, err = offdyn(capsys, *told, "--quiet")
    assert (code, err) == (0, "")
    assert json.loads((run / "run.json").read_text())["status"] == "complete"
    assert [path.name for path in (tmp_path / TASK).iterdir()] == ["bc@mine"]


def test_variant_option(data, tmp_path, capsys):  # noqa: F811
    words = ("--variant", "fast", "--set", "learning_rate=0.001")
    assert train(capsys, tmp_path, *words, agent="bc")[0] == 0
    assert (tmp_path / TASK / "bc@fast/seeds/0/policy.onnx").exists()
    code, _, err = train(capsys, tmp_path, "--variant", "a/b", agent="bc")
    assert code == 2
    assert "variant 'a/b' is no name" in err
    assert err.count("\n") == 1
