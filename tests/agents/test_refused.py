"""A training that is refused, for whatever reason, leaves neither folders nor lock files behind."""

import fcntl
import os

import numpy as np
import pytest

from offdyn_agents.runs.locks import held, working_in
from offdyn_envs import cli
from tests.agents import stand_ins

TASK, OTHER = "hopper-gravity-0.5-medium", "walker2d-gravity-5.0-medium"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Work in an empty folder, with rows of one's own beside it."""
    rng = np.random.default_rng(0)
    rows = {key: rng.standard_normal((40, 11)).astype(np.float32) for key in ("observations", "next_observations")}
    rows |= {"actions": rng.uniform(-1, 1, (40, 3)).astype(np.float32), "rewards": np.zeros(40, np.float32)}
    rows |= {"terminations": np.zeros(40, bool), "truncations": np.arange(40) == 39}
    np.savez(tmp_path / "rows.npz", **rows)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OFFDYN_DATA_DIR", str(tmp_path / "data"))
    return folder


def train(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", *map(str, words), "--quiet", "--updates", "4", "--seeds", "1"])
    return ended.value.code, capsys.readouterr().err


def own(*words, agent="bc"):
    return [agent, "--source", "../rows.npz", "--target", "../rows.npz", "--env", "OffDyn/Hopper-v0", *words]


@pytest.mark.parametrize(
    "words",
    [
        ["nosuch", TASK],
        ["bc", "nosuch"],
        ["bc", "--track", "nosuch"],
        ["iql", TASK],
        ["bc", TASK, "--set", "nosuch=1"],
        ["bc", TASK, "--set", "width=-1"],
        ["bc", TASK, "--device", "nosuch"],
        ["bc", TASK, "--precision", "nosuch"],
        ["bc", TASK, "--schedule", "nosuch"],
        ["bc", TASK, "--variant", "a/b"],
        ["bc", TASK, "--target-rows", "7"],
        ["bc", TASK, "--judge"],
        own("--judge"),
        own("--name", "a/b"),
        own("--spec", "nosuch.yaml"),
        own("--env", "nosuch"),
        own("--env", "OffDyn/HalfCheetah-v0"),
        own("--termination", "nosuch", agent="mopo"),
        own("--set", "nosuch=1"),
        ["bc", "--source", "nosuch.npz", "--target", "../rows.npz"],
        ["bc", "--source", "imported/nosuch", "--target", "imported/nosuch"],
    ],
    ids=" ".join,
)
def test_nothing_is_left(words, place, capsys):
    code, err = train(capsys, *words)
    assert code == 2 and err.startswith("offdyn: ") and err.count("\n") == 1
    assert list(place.iterdir()) == []
    assert not (place.parent / "data").exists()


@pytest.fixture
def stood_in(monkeypatch):
    """Put small datasets in the place of the tasks'."""
    import offdyn_envs

    monkeypatch.setattr(offdyn_envs, "load_task", stand_ins.load_task)
    monkeypatch.setattr("offdyn_envs.datasets.task.available", stand_ins.available)
    monkeypatch.setattr("offdyn_agents.runs.problems.target_returns", stand_ins.target_returns)
    monkeypatch.setattr("offdyn_agents.engine.execution.can_compile", lambda _: False)


def test_nor_where_another_task_is_the_reason(place, stood_in, capsys):
    assert train(capsys, "bc", OTHER, "--set", "width=16")[0] == 0
    code, err = train(capsys, "bc", TASK, OTHER, "--set", "width=8")
    assert code == 2 and "holds a run with" in err
    assert [folder.name for folder in (place / "runs").iterdir()] == [OTHER]
    with (place / "runs" / OTHER / "bc" / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, err = train(capsys, "bc", TASK, OTHER, "--set", "width=16")
    assert code == 2 and "is being trained by" in err
    assert [folder.name for folder in (place / "runs").iterdir()] == [OTHER]


def test_nor_where_data_are_damaged(place, stood_in, capsys, monkeypatch):
    import offdyn_envs
    from offdyn_envs.errors import OffDynError

    def damaged(name):
        raise OffDynError(f"{name} is damaged")

    monkeypatch.setattr(offdyn_envs, "load_task", damaged)
    assert train(capsys, "iql", TASK) == (2, f"offdyn: {TASK} is damaged\n")
    assert list(place.iterdir()) == []


def test_folders_that_were_there_stay(tmp_path):
    folder = tmp_path / "runs" / "task" / "agent"
    (tmp_path / "runs").mkdir()
    with working_in(folder, "lock") as mine:
        assert mine and (folder / "lock").is_file()
    assert list((tmp_path / "runs").iterdir()) == []
    folder.mkdir(parents=True)
    (folder / "notes.txt").touch()
    with working_in(folder, "lock"):
        pass
    assert os.listdir(folder) == ["notes.txt"]
    with working_in(folder, "lock"):
        (folder / "run.json").touch()
    with working_in(folder, "lock"):
        pass
    assert sorted(os.listdir(folder)) == ["lock", "notes.txt", "run.json"]


def test_a_lock_file_that_was_taken_away_is_no_lock(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    with held(path) as first:
        assert first
        # Whoever has opened it meanwhile gets it once it is let go of, though nobody else can see it any more.
        monkeypatch.setattr("offdyn_agents.runs.locks.try_lock", lambda file: path.unlink() or True)
        with held(path) as second:
            assert not second
