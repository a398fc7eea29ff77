"""Tables of dynamics, datasets, tasks and tracks."""

import pytest

from offdyn_envs.errors import OffDynError
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
    assert len(list_env_ids()) == 4 * 9
    assert len(TRACKS["mobody-32"]) == 32 == len(set(TRACKS["mobody-32"]))


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
        (lambda: get_dynamics("gravity-.5"), "unknown dynamics 'gravity-.5'; did you mean 'gravity-0.5'"),
        (lambda: DatasetId.parse("offdyn/hopper/gravity-0.5/medium-5k-v0"), "gravity-0p5/medium-5k-v0"),
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
    assert DYNAMICS["nominal"] == ()
