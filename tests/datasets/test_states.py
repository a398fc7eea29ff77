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
    """No policy is shipped but those of Hopper, less its kinematic and morphology levels, and no dataset is here."""
    asked = states.missing_behaviour

    def missing(dataset):
        if dataset.robot != "hopper" or "kinematic" in dataset.dynamics or "morphology" in dataset.dynamics:
            return tmp_path / f"{dataset.quality}.safetensors"
        return asked(dataset)

    monkeypatch.setattr(states, "missing_behaviour", missing)
    monkeypatch.setattr(states, "local_ids", lambda *root: [])


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


def test_the_time_of_a_hand_is_told_as_soon_as_one_was_taught(monkeypatch):
    rows = [{"robot": "adroit-pen", "dynamics": slug, "expert": None, "seconds_left": 600.0} for slug in ("a", "b")]
    monkeypatch.setattr("offdyn_agents.behaviour.reports.programme_status", lambda root: [*ROWS, *rows])
    assert time_told(states.Remedy("", ("adroit-pen",))) == " (about 20 min of one core)"
    assert time_told(states.Remedy("", ("adroit-pen",), ("a",))) == " (about 10 min of one core)"
    rows[0]["seconds_left"] = None
    assert time_told(states.Remedy("", ("adroit-pen",))) == " (time not known)"


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
        f"behaviour missing (1): train it with: {TRAIN}",
        "buildable: offdyn data build hopper-gravity-0.5-medium, then offdyn train AGENT hopper-gravity-0.5-medium",
        "here: offdyn train AGENT hopper-gravity-2.0-medium",
    ]


TEACH = "learn them with: offdyn dev behaviour teach"


def test_each_kind_of_help_has_a_line_with_its_tasks(nothing_trained):
    hands = [f"adroit-{hand}-nominal-{quality}" for hand in ("pen", "door") for quality in ("medium", "medium-replay")]
    names = [EASY, *hands, "ant-nominal-medium-replay", "hopper-gravity-0.5-medium-replay", "ant-nominal-expert"]
    tasks = [get_task(name) for name in names]
    lacking = states.task_states(tasks)
    missing, none = states.BEHAVIOUR_MISSING, states.NO_REPLAY
    assert lacking == [missing, missing, none, missing, none, missing, none, missing]
    assert states.next_steps(tasks, lacking, lambda helps: f" <{', '.join(helps.robots)}>") == [
        "behaviour missing (3): train them with: offdyn dev behaviour train --robot hopper --robot ant <hopper, ant>",
        f"behaviour missing (2): {TEACH} ROBOT --teacher FILE, for ROBOT adroit-pen, adroit-door "
        "<adroit-pen, adroit-door>",
        "no replay (2): medium-replay exists for the four walkers alone <>",
        "no replay (1): medium-replay exists for nominal and severe dynamics, the sources <>",
    ]
    pen = [get_task(f"adroit-pen-nominal-{quality}") for quality in ("medium", "expert")]
    helps = "learn it with: offdyn dev behaviour teach adroit-pen --dynamics nominal --teacher FILE"
    assert states.next_steps(pen, states.task_states(pen)) == [f"behaviour missing (2): {helps}"]
    pen.append(get_task("adroit-pen-broken-joint-easy-medium"))
    [line] = states.next_steps(pen, states.task_states(pen))
    assert line == f"behaviour missing (3): {TEACH} adroit-pen --teacher FILE"


def test_a_refusal_names_every_command_that_helps(nothing_trained):
    names = ("adroit-pen-nominal-medium", EASY, "hopper-gravity-0.5-medium", "hopper-gravity-0.5-medium-replay")
    with pytest.raises(OffDynError) as refused:
        states.refuse_unbuildable([get_task(name).target for name in names])
    assert str(refused.value) == (
        "3 of 4 datasets cannot be built: no shipped policy would collect it; learn it with: offdyn dev behaviour "
        f"teach adroit-pen --dynamics nominal --teacher FILE; train it with: {TRAIN}; "
        "medium-replay exists for nominal and severe dynamics, the sources"
    )


def test_tasks_prints_them_with_their_times(nothing_trained, monkeypatch, capsys):
    monkeypatch.setattr("offdyn_agents.behaviour.reports.programme_status", lambda root: ROWS)
    out = offdyn(capsys, "tasks", "--track", "odrl-48", "--robot", "hopper")[1]
    helps = "train them with: offdyn dev behaviour train --robot hopper (about 3.2 hours of one core)"
    assert out.endswith(f"behaviour missing (12): {helps}\n")
