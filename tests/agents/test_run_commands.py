"""`offdyn runs`, `compare`, `evaluate FOLDER`, `agents`, and what training says before and after."""

import json

import pytest

from offdyn_agents.algorithms import registry
from offdyn_agents.runs.references import reference_scores, score_lines
from offdyn_envs import cli
from offdyn_envs.benchmark.scoring.protocol import PROTOCOL

TASK = "hopper-gravity-0.5-medium"
FACTS = {
    "format": 1,
    "agent": "iql",
    "task": TASK,
    "seeds": [0, 1],
    "updates": 24,
    "settings": {},
    "status": "complete",
}


def offdyn(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    output = capsys.readouterr()
    return ended.value.code, output.out, output.err


@pytest.fixture
def folder(tmp_path):
    """Three runs: evaluated, with late evaluations, damaged."""
    for name, more in (("iql", {}), ("bc", {"agent": "bc", "late": {"evaluations": 2, "returns": {}, "score": 12.34}})):
        run = tmp_path / TASK / name
        run.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps(FACTS | more))
    clean = {"0": [1700.0, 1720.0], "1": [900.0, 920.0]}
    result = {"protocol": PROTOCOL, "task": TASK, "agent": "iql", "episodes": 2, "clean": clean, "perturbed": []}
    (tmp_path / TASK / "iql/evaluation.json").write_text(json.dumps(result))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/run.json").write_text("{")
    return tmp_path


def test_runs_are_listed(capsys, folder):
    code, out, err = offdyn(capsys, "runs", folder, "--json")
    rows = {row["run"]: row for row in json.loads(out)}
    assert (code, err, set(rows)) == (0, "", {"broken", f"{TASK}/iql", f"{TASK}/bc"})
    assert (rows[f"{TASK}/bc"]["score"], rows[f"{TASK}/bc"]["evaluated"]) == (12.3, False)
    # Between the random policy and the target's behaviour, which returns 1,719 and scores 48.
    assert rows[f"{TASK}/iql"]["evaluated"] and 20 < rows[f"{TASK}/iql"]["score"] < 48
    assert rows["broken"]["status"] == "damaged" and "no JSON" in rows["broken"]["problem"]
    assert "3 runs" in offdyn(capsys, "runs", folder)[1]
    assert offdyn(capsys, "runs", folder / "none")[0] == 2


def test_compare_refuses_what_cannot_be_compared(capsys, folder):
    run = folder / TASK / "iql"
    assert "two runs or more" in offdyn(capsys, "compare", run)[2]
    other = folder / "other"
    other.mkdir()
    (other / "run.json").write_text(json.dumps(FACTS | {"task": "ant-gravity-5.0-medium"}))
    code, _, err = offdyn(capsys, "compare", run, other)
    assert (code, "cannot be compared" in err) == (2, True)


def test_compare_tells_differences_with_intervals(capsys, folder):
    first, second = folder / TASK / "iql", folder / TASK / "bc"
    for run, agent, add in ((first, "iql", 0.0), (second, "bc", 100.0)):
        (run / "contract").mkdir()
        clean = {"0": [1700.0 + add, 1720.0 + add], "1": [900.0 + add, 920.0 + add]}
        told = {"protocol": PROTOCOL, "task": TASK, "agent": agent, "episodes": 2, "clean": clean, "perturbed": []}
        (run / "evaluation.json").write_text(json.dumps(told))
        facts = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(facts | {"agent": agent}))
    code, out, err = offdyn(capsys, "compare", first, second, "--episodes", 2, "--json")
    assert (code, err) == (0, "")
    ours, theirs = json.loads(out)
    assert theirs["difference"] == pytest.approx(theirs["score"] - ours["score"])
    assert theirs["difference_low"] < 0 < theirs["difference"] < theirs["difference_high"]
    assert ours["difference"] is None
    assert "difference" in offdyn(capsys, "compare", first, second, "--episodes", 2)[1]


def test_agents_are_listed_without_importing_them(capsys):
    code, out, _ = offdyn(capsys, "agents", "--json")
    rows = {row["agent"]: row["what it is"] for row in json.loads(out)}
    assert code == 0 and list(rows) == list(registry.names())
    assert rows["iql"].startswith("Implicit Q-learning")


def test_references_stand_in_their_order(tmp_path):
    assert reference_scores(FACTS) == {
        "random": 0.0,
        "target's behaviour": pytest.approx(48.1, abs=0.1),
        "expert": 100.0,
    }
    assert reference_scores(FACTS | {"pair": {"env": None}}) == {}
    (tmp_path / "metrics.csv").write_text("updates,loss,score,return_0\n5,1,20,1\n10,1,70.04,1\n15,1,,\n")
    told = score_lines(tmp_path, FACTS | {"late": {"evaluations": 2, "returns": {}, "score": 45.0}}, "iql")
    assert [line.split("  ")[1] for line in told] == [
        "random",
        "iql, mean of the last 2",
        "target's behaviour",
        "iql, last evaluation",
        "expert",
    ]
    assert told[3].split()[-2:] == ["70.0", "<-"]
    assert score_lines(tmp_path, FACTS, "iql") == []


def test_doctor(capsys):
    code, out, _ = offdyn(capsys, "doctor", "--json")
    found = json.loads(out)
    assert code == 0 and found["threads"] >= 1
    assert {"Python", "packages", "processor", "GPU", "drawing", "data folder", "free there"} <= set(found)
