"""Tables of dynamics, datasets, tasks and tracks."""

from collections import Counter

import pytest

from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import WALKERS
from offdyn_envs.tasks import (
    DYNAMICS,
    TRACKS,
    DatasetId,
    get_dynamics,
    get_task,
    get_track,
    list_env_ids,
    list_tasks,
)


def test_counts():
    of_robots = Counter(robot.name in WALKERS for robot, _ in list_env_ids().values())
    assert of_robots == {True: 4 * 23, False: 4 * 7}
    sizes = {"mobody-32": 32, "odrl-48": 48, "droco-32": 32, "single-12": 12, "core-6": 6, "core-12": 12}
    assert {name: len(set(tasks)) for name, tasks in TRACKS.items()} == sizes
    assert all(len(tasks) == sizes[name] for name, tasks in TRACKS.items())


def test_task_is_a_pair_of_datasets_and_an_environment():
    task = get_task("hopper-gravity-0.5-medium")
    assert str(task.source) == "offdyn/hopper/nominal/medium-1m-v0"
    assert str(task.target) == "offdyn/hopper/gravity-0p5/medium-5k-v0"
    assert task.env_id == "OffDyn/Hopper-gravity-0.5-v0"
    assert task.source.row_count == 200 * task.target.row_count == 1_000_000


def test_every_dataset_id_reads_back():
    for task in list_tasks():
        for dataset in (task.source, task.target):
            assert DatasetId.parse(str(dataset)) == dataset
            assert "." not in str(dataset)


def test_tracks_hold_known_tasks():
    for track in TRACKS:
        for name in get_track(track):
            assert get_task(name).name == name


@pytest.mark.parametrize(
    ("call", "words"),
    (
        (lambda: get_task("hopper-gravity-0.5-mediun"), "did you mean 'hopper-gravity-0.5-medium'"),
        (
            lambda: get_dynamics("hopper", "gravity-.5"),
            "unknown dynamics of hopper 'gravity-.5'; did you mean 'gravity-0.5'",
        ),
        (lambda: DatasetId.parse("offdyn/hopper/gravity-0.6/medium-5k-v0"), "gravity-0p5/medium-5k-v0"),
        (
            lambda: get_task("hopper-gravity-0.5"),
            "names that begin so: hopper-gravity-0.5-random, hopper-gravity-0.5-med",
        ),
        (lambda: DatasetId("hopper", "nominal", "good", "5k"), "unknown quality 'good'"),
        (lambda: DatasetId("hopper", "nominal", "medium", "2m"), "unknown dataset size '2m'"),
        (lambda: get_track("mobody-23"), "did you mean 'mobody-32'"),
    ),
)
def test_unknown_names(call, words):
    with pytest.raises(OffDynError) as refused:
        call()
    assert words in str(refused.value)


def test_nominal_has_no_shift():
    assert all(table["nominal"] == () for table in DYNAMICS.values())


def test_tasks_go_in_both_directions():
    there, back = get_task("hopper-kinematic-severe-medium"), get_task("hopper-from-kinematic-severe-medium")
    assert (there.source.dynamics, there.target.dynamics, there.scoring) == ("nominal", *["kinematic-severe"] * 2)
    assert (back.source.dynamics, back.target.dynamics, back.scoring) == ("kinematic-severe", "nominal", "nominal")
    assert (back.source.rows, back.target.rows, back.env_id) == ("1m", "5k", "OffDyn/Hopper-v0")
