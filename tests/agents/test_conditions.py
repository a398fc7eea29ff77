"""`offdyn diagnose reward`: the conditions of a task and of a dataset, and what their record says of itself."""

import json
from dataclasses import replace

import pytest

from offdyn_agents.engine.provenance import git_commit
from offdyn_agents.judging.conditions import check, condition_settings
from offdyn_agents.judging.exams import HOLDOUT, SOURCE
from offdyn_agents.judging.models import Terms
from offdyn_agents.judging.report import judge_task
from offdyn_agents.models.dynamics_reward.conditions import Conditions, Ranking
from offdyn_agents.models.ensemble.settings import PUBLISHED
from offdyn_envs import cli
from offdyn_envs.errors import OffDynError
from tests.agents.test_judging import TASK, datasets  # noqa: F401 - a fixture
from tests.agents.test_run_judging import ENSEMBLE, HARDWARE, REWARD, dotted, task  # noqa: F401 - a fixture

OVERRIDES = REWARD | dotted("dynamics", ENSEMBLE) | {"discriminators": "2", "elites": "2"}
GOOD = Ranking(-0.9, -0.9, 0.1, 0.2, 0.05, 0.0)
THREE = ["real transitions pass", "r_D falls with the error", "the best candidate beats a random one"]
FOURTH = "at most 20% of source rows are refused at once"


@pytest.fixture
def dataset(datasets, monkeypatch):  # noqa: F811
    monkeypatch.setattr("offdyn_envs.load_dataset", lambda name: datasets[1])
    return str(datasets[1].id)


def test_a_task_is_judged_as_by_diagnose_judge(task, tmp_path):  # noqa: F811
    record, (found, other) = check(TASK, OVERRIDES, (0, 1), 0, tmp_path, HARDWARE)
    prefixed = dotted("dynamics_reward", REWARD) | dotted("ensemble", ENSEMBLE)
    overrides = prefixed | {"discriminators": "2", "elites": "2"}
    judged = judge_task(TASK, ("morec",), 1, overrides, Terms(holdout="fresh"), tmp_path, HARDWARE, True)["reward"]
    assert list(record["rankings"]) == ["behaviour", "noisy", "random"]
    for policy, rankings in record["rankings"].items():
        assert rankings[0] == judged["rankings"][policy][0], policy
    assert record["real"] == [found.real, other.real] and found.real == judged["real"]
    # Another seed has another reward and another model.
    assert record["rankings"]["behaviour"][0] != record["rankings"]["behaviour"][1]
    assert list(record["holds"]) == [*THREE, FOURTH]
    refused = [ranking["refused"] for ranking in record["source"]]
    assert record["holds"][FOURTH] == [share <= 0.2 for share in refused]
    assert record["settings"]["dynamics_reward"]["source_fakes"] == 0.5
    assert (record["rows"]["source"], record["rows"]["target"], record["rows"][HOLDOUT]) == (5000, 500, 1000)
    assert record["rows"][SOURCE] + record["rows"]["invalid"] == 1000


def test_a_dataset_has_no_fakes_of_a_source(dataset, tmp_path):
    record, found = check(dataset, OVERRIDES, (0, 1), 300, tmp_path, HARDWARE)
    assert record["settings"]["dynamics_reward"]["source_fakes"] == 0.0
    assert [one.source for one in found] == [None, None] and "source" not in record
    assert list(record["holds"]) == THREE
    assert record["rows"] == {"learned from": 270, "held out": 30}
    assert record["rankings"]["noisy"][0] != record["rankings"]["noisy"][1]


def test_a_record_says_what_it_was_made_with(task, dataset, tmp_path):  # noqa: F811
    words = " ".join(f"--set {key}={value}" for key, value in OVERRIDES.items())
    record, _ = check(dataset, OVERRIDES, (0,), 300, tmp_path, HARDWARE)
    assert record["command"] == f"offdyn diagnose reward {dataset} --seeds 1 --precision fp32 --rows 300 {words}"
    asked = {"elites": "2"} | dotted("ensemble", ENSEMBLE) | dotted("dynamics_reward", REWARD)
    rounded, terms = replace(HARDWARE, precision="bf16"), Terms(holdout="fresh")
    judged = judge_task(TASK, ("morec",), 1, asked, terms, tmp_path, rounded, True)
    begins = f"offdyn diagnose judge {TASK} --seeds 1 --models morec --holdout fresh --rows 300 --precision bf16 --set "
    assert judged["command"].startswith(f"{begins}elites=2 ")
    written = json.loads((tmp_path / TASK / "judge/judge.json").read_text())
    for found, precision, seeds in ((record, "fp32", [0]), (written, "bf16", [0])):
        assert (found["precision"], found["seeds"], found["commit"]) == (precision, seeds, git_commit())
        assert {"offdyn", "torch", "mujoco", "numpy"} <= set(found["versions"])
        assert found["rows"] and found["wall_clock_s"] >= 0.0


def test_source_rows_may_not_be_refused_at_once():
    for refused, held in ((0.2, True), (0.21, False)):
        found = Conditions(0.95, {"behaviour": GOOD}, replace(GOOD, correlation=0.0, refused=refused))
        # What is said of source rows is beside the method's own conditions.
        assert found.holds() == dict.fromkeys(THREE, True) | {FOURTH: held}
        assert f"{'holds' if held else 'FAILS'}: {FOURTH}" in found.lines()
        assert any(line.startswith("source rows") and line.endswith(f"{refused:.1%}") for line in found.lines())
    alone = Conditions(0.949, {"behaviour": GOOD})
    assert alone.holds() == dict.fromkeys(THREE, True) | {THREE[0]: False}
    assert not any(line.startswith("source rows") for line in alone.lines())


def test_settings_are_the_rewards_or_those_of_morec():
    found = condition_settings("hopper", "medium", {"iterations": "7", "dynamics.updates": "9", "form": "paper"})
    assert (found.dynamics_reward.iterations, found.ensemble.updates) == (7, 9)
    assert (found.dynamics_reward.opponent, found.dynamics_reward.changes) == ("ppo", "states")
    assert {key: getattr(found.ensemble, key) for key in PUBLISHED} == PUBLISHED
    with pytest.raises(OffDynError, match="nosuch"):
        condition_settings("hopper", "medium", {"nosuch": "1"})


def test_the_command_prints_every_seed(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [word for key, value in OVERRIDES.items() for word in ("--set", f"{key}={value}")]
    command = ["diagnose", "reward", dataset, "--rows", "300", "--quiet", "--threads", "1", *words]

    def said(*more):
        with pytest.raises(SystemExit) as ended:
            cli.main([*command, *more])
        assert not ended.value.code
        return capsys.readouterr().out

    lines = said("--seeds", "2").splitlines()
    assert [line for line in lines if line.startswith(dataset)] == [f"{dataset}, seed 0", f"{dataset}, seed 1"]
    assert sum(line.startswith(("holds", "FAILS")) for line in lines) == 6
    record = json.loads(said("--json"))
    assert (record["dataset"], record["seeds"], len(record["real"])) == (dataset, [0], 1)


@pytest.mark.parametrize("name", ["nosuch", "offdyn/hopper/nosuch"])
def test_an_unknown_name_is_told_in_one_line(name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["diagnose", "reward", name])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert name.rpartition("/")[2] in error and len(error.splitlines()) == 1
