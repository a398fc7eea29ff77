"""Names in any spelling, and what is said of names that are none."""

import pytest

from offdyn_agents.algorithms.registry import check_name
from offdyn_envs.commands.options import Filter
from offdyn_envs.errors import OffDynError, spelled, unknown
from offdyn_envs.tasks import DatasetId, get_task
from offdyn_envs.verification.subjects import find_subject

ENV, DATASET = "OffDyn/Hopper-gravity-0.5-v0", "offdyn/hopper/gravity-0p5/medium-5k-v0"


@pytest.mark.parametrize(
    "name", [ENV, "Hopper-gravity-0.5", "hopper-gravity-0.5", "offdyn/hopper-GRAVITY-0p5-v0", "Hopper_gravity_0.5"]
)
def test_environments(name):
    assert find_subject(name).name == ENV


@pytest.mark.parametrize("name", [DATASET, "Hopper/gravity-0.5/medium-5k", "offdyn/hopper/gravity-0.5/medium-5k"])
def test_datasets(name):
    assert str(DatasetId.parse(name)) == DATASET


@pytest.mark.parametrize(
    "name", ["Hopper-Gravity-0p5-Medium", " hopper_gravity_0.5_medium", "hopper-gravity-0.5-medium"]
)
def test_tasks(name):
    assert get_task(name).name == "hopper-gravity-0.5-medium"


@pytest.mark.parametrize(("name", "agent"), [("IQL", "iql"), ("TD3_BC", "td3-bc"), ("morec-MOBILE", "morec-mobile")])
def test_agents(name, agent):
    assert check_name(name) == agent


def test_what_may_mean_two_names_means_none():
    assert spelled("A_b", ["a-b", "A-B"]) is None
    assert spelled("a-b", ["a-b", "A-B"]) == "a-b"
    assert spelled(None, ["none"]) == "none"


@pytest.mark.parametrize(
    ("name", "names", "said"),
    [
        ("tow", ["one", "two"], "did you mean 'two'? allowed: one, two"),
        ("n-13", [f"n-{i}" for i in range(100, 300, 2)], "unknown thing 'n-13'; did you mean"),
        ("n", ["n-1", "n-2", *map(str, range(20))], "names that begin so: n-1, n-2; 22 in all"),
        ("N", [f"n-{i}" for i in range(30)], "names that begin so: n-0, n-1, n-2, n-3, ...; 30 in all"),
        ("zzzz", [f"n-{i}" for i in range(30)], "allowed: n-0, n-1, n-2, n-3, ... (30 in all)"),
    ],
)
def test_messages_show_the_nearest(name, names, said):
    assert said in str(unknown("thing", name, names))


def test_messages_name_the_command_that_lists():
    assert str(unknown("thing", "x", map(str, range(30)), "offdyn things")).endswith("`offdyn things` lists all 30")


def test_filters():
    tasks = Filter("Hopper", "gravity").tasks()
    assert {task.dynamics for task in tasks} == {f"gravity-{scale}" for scale in (0.1, 0.5, 2.0, 5.0)}
    assert {task.robot for task in tasks} == {"hopper"}
    one = Filter(shift="gravity-0p5", track="mobody-32").tasks()
    assert [task.name for task in one] == [
        f"{robot}-gravity-0.5-medium" for robot in ("halfcheetah", "hopper", "walker2d", "ant")
    ]
    rows = [{"dataset": DATASET}, {"dataset": "offdyn/hopper/nominal/random-1m-v0"}, {"dataset": "not known here"}]
    assert Filter(track="core-12").rows(rows) == rows[:1]
    with pytest.raises(OffDynError, match="did you mean 'hopper'"):
        Filter(robot="hoper")
