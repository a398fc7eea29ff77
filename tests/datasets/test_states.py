"""What helps where a task's data are not here: the one command, and how long it takes."""

import re

import pytest

from offdyn_agents.behaviour.reports import programme_status, time_told
from offdyn_envs import cli
from offdyn_envs.datasets.describing import states
from offdyn_envs.errors import OffDynError
from offdyn_envs.tasks import get_task

EASY = "hopper-kinematic-foot-easy-medium"
TRAIN = "offdyn dev behaviour train --robot hopper --dynamics kinematic-foot-easy"


@pytest.fixture
def nothing_trained(monkeypatch, tmp_path):
    """No policy is shipped but those of gravity."""
    asked = states.missing_behaviour

    def missing(dataset):
        if dataset.robot != "hopper" or "kinematic" in dataset.dynamics or "morphology" in dataset.dynamics:
            return tmp_path / f"{dataset.quality}.safetensors"
        return asked(dataset)

    monkeypatch.setattr(states, "missing_behaviour", missing)


def offdyn(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    output = capsys.readouterr()
    return ended.value.code, output.out, output.err


def test_training_refuses_with_the_command_that_helps_and_its_time(nothing_trained, monkeypatch, capsys):
    monkeypatch.setattr("offdyn_agents.behaviour.reports.programme_status", lambda root: ROWS)
    code, out, err = offdyn(capsys, "train", "iql", EASY)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.rstrip().endswith(f"train it with: {TRAIN} (about 10 min of one core)")
    code, _, err = offdyn(
        capsys, "train", "iql", EASY, "hopper-kinematic-foot-hard-medium", "hopper-gravity-0.5-medium"
    )
    assert code == 2
    words = "2 of 3 datasets cannot be built: no shipped policy would collect it; train them with: "
    assert f"{words}offdyn dev behaviour train --robot hopper (about 3.2 hours of one core)" in err


ROWS = [
    {"robot": "hopper", "dynamics": dynamics, "expert": expert, "seconds_left": seconds}
    for dynamics, expert, seconds in (
        ("kinematic-foot-easy", None, 600.0),
        ("kinematic-foot-hard", None, 10_800.0),
        ("nominal", {"mean": 1.0}, 1e9),
    )
]


def test_its_time_is_that_of_the_status():
    row = next(row for row in programme_status_of("hopper") if row["seconds_left"])
    told = time_told(states.Remedy("", ("hopper",), (row["dynamics"],)))
    assert re.fullmatch(r" \(about [\d.]+ (min|hours) of one core\)", told)
    assert time_told(states.Remedy("ask somebody")) == ""


def programme_status_of(robot):
    from offdyn_agents.behaviour.programme import default_root

    return [row for row in programme_status(default_root()) if row["robot"] == robot]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([EASY], TRAIN),
        (["hopper-gravity-0.5-medium-replay"], "medium-replay exists for nominal and severe dynamics, the sources"),
        (["adroit-pen-broken-joint-easy-medium"], "offdyn dev behaviour teach adroit-pen --dynamics broken-joint-easy"),
    ],
)
def test_what_cannot_be_trained_says_what_else(nothing_trained, names, words):
    with pytest.raises(OffDynError, match=re.escape(words)):
        states.refuse_unbuildable([get_task(name).target for name in names])


def test_the_list_of_tasks_says_what_comes_next_for_each_state(nothing_trained):
    tasks = [get_task(name) for name in (EASY, "hopper-gravity-0.5-medium", "hopper-gravity-2.0-medium")]
    lines = states.next_steps(tasks, [states.BEHAVIOUR_MISSING, states.BUILDABLE, states.HERE])
    assert lines == [
        f"behaviour missing: train it with: {TRAIN}",
        "buildable: offdyn data build hopper-gravity-0.5-medium, then offdyn train AGENT hopper-gravity-0.5-medium",
        "here: offdyn train AGENT hopper-gravity-2.0-medium",
    ]


def test_tasks_prints_them(nothing_trained, capsys):
    out = offdyn(capsys, "tasks", "--track", "odrl-48", "--robot", "hopper")[1]
    assert out.endswith("behaviour missing: train them with: offdyn dev behaviour train --robot hopper\n")
