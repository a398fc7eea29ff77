from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import minari
import numpy as np
import pytest

from offdyn_envs import load_dataset, load_task
from offdyn_envs.datasets.build import build
from offdyn_envs.datasets.check import verify
from offdyn_envs.datasets.hdf5 import write_hdf5
from offdyn_envs.datasets.spec import Arrays, Dataset
from offdyn_envs.datasets.staging import locked
from offdyn_envs.datasets.store import data_root, find, local_ids, read_dataset
from offdyn_envs.errors import OffDynError
from offdyn_envs.tasks import DatasetId
from tests.datasets.conftest import NOMINAL, SMALL


def assert_equal(one: Arrays, two: Arrays) -> None:
    for (key, left), (_, right) in zip(one.items(), two.items(), strict=True):
        np.testing.assert_array_equal(left, right, err_msg=key)


def test_shapes_and_types(root: Path) -> None:
    data = load_dataset(SMALL)
    assert isinstance(data, Dataset)
    assert len(data) == 500
    assert data.observations.shape == data.next_observations.shape == (500, 11)
    assert data.observations.dtype == data.rewards.dtype == np.float32
    assert data.terminations.dtype == np.bool_
    assert data.qpos.shape == data.next_qpos.shape == (500, 6)
    assert data.qpos.dtype == np.float64
    assert data.card["shifts"] == [{"kind": "gravity", "scale": 0.5}]
    inside = np.flatnonzero(~(data.terminations | data.truncations))
    np.testing.assert_array_equal(data.next_qpos[inside], data.qpos[inside + 1])


def test_minari_reads_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    ours, theirs = load_dataset(SMALL), minari.load_dataset(SMALL)
    assert theirs.total_steps == 500
    assert theirs.total_episodes == len(ours.arrays.lengths)
    assert set(minari.list_local_datasets()) == {SMALL, NOMINAL}
    for episode, start, length in zip(theirs, ours.arrays.starts, ours.arrays.lengths, strict=True):
        rows = slice(start, start + length)
        np.testing.assert_array_equal(episode.observations[:-1], ours.observations[rows])
        np.testing.assert_array_equal(episode.observations[1:], ours.next_observations[rows])
        np.testing.assert_array_equal(episode.infos["qpos"][:-1], ours.qpos[rows])
        for key in ("actions", "rewards", "terminations", "truncations"):
            np.testing.assert_array_equal(getattr(episode, key), getattr(ours, key)[rows])
    assert theirs.observation_space.contains(theirs[0].observations[0])
    assert theirs.storage.metadata["offdyn"]["sha256"] == ours.card["sha256"]


def test_minari_recovers_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    data = minari.load_dataset(SMALL)
    env = data.recover_environment()
    assert env.spec is not None
    assert env.spec.id == "OffDyn/Hopper-gravity-0.5-v0"
    [metadata] = data.storage.get_episode_metadata([0])
    episode = data[0]
    observation, _ = env.reset(seed=int(metadata["seed"]))
    np.testing.assert_array_equal(observation.astype(np.float32), episode.observations[0])
    for action, expected in zip(episode.actions, episode.observations[1:], strict=True):
        np.testing.assert_array_equal(env.step(action)[0].astype(np.float32), expected)


def test_loaded_from_the_cache_and_rebuilt_when_stale(root: Path) -> None:
    folder, reference = root / SMALL, load_dataset(SMALL)
    assert isinstance(reference.observations, np.memmap)
    np.save(folder / "flat" / "rewards.npy", np.zeros(3, np.float32))  # Wrong shape: as if written by something else.
    assert_equal(load_dataset(SMALL).arrays, read_dataset(folder).arrays)
    (folder / "flat" / "source.json").write_text('{"sha256": "of something else"}')
    (folder / "flat" / "qpos.npy").write_bytes(b"cut")
    again = load_dataset(SMALL)
    assert isinstance(again.arrays.qpos, np.memmap)
    assert_equal(again.arrays, read_dataset(folder).arrays)
    assert "stage" not in " ".join(path.name for path in (root / ".building").iterdir())


def test_read_only_root_is_read_into_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / SMALL / "flat" / "source.json").unlink()
    with locked(root, DatasetId.parse(SMALL)):  # Nobody else can write the cache now.
        data = load_dataset(SMALL)
    assert not isinstance(data.observations, np.memmap)
    assert len(data) == 500


def test_roots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OFFDYN_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_root() == tmp_path / "offdyn" / "datasets"
    monkeypatch.setenv("OFFDYN_DATA_DIR", "~/elsewhere")
    assert data_root() == Path.home() / "elsewhere"


@pytest.mark.parametrize("every", [100, 7, 1])
def test_progress_reaches_the_end(root: Path, monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    seen: list[tuple[int, list[int]]] = []

    @contextmanager
    def record(description: str, total: int, **options: object) -> Generator[Callable[[int], None], None, None]:
        seen.append((total, []))
        yield seen[-1][1].append

    monkeypatch.setattr("offdyn_envs.datasets.hdf5.progress", record)
    monkeypatch.setattr("offdyn_envs.datasets.hdf5.EVERY", every)
    data = read_dataset(root / SMALL)
    write_hdf5(root / "copy.hdf5", data.arrays, "copy")
    episodes = len(data.arrays.lengths)
    assert [(total, sum(moves), len(moves)) for total, moves in seen] == [
        (episodes, episodes, -(-episodes // every))
    ] * 2


def test_missing_dataset_names_the_command(root: Path) -> None:
    wanted = "offdyn/ant/nominal/expert-1m-v0"
    with pytest.raises(OffDynError, match=f"offdyn data build {wanted}"):
        load_dataset(wanted)
    with pytest.raises(OffDynError, match=r"offdyn data build hopper-gravity-0\.5-medium"):
        load_task("hopper-gravity-0.5-medium")


def test_load_task_pairs_two_datasets(root: Path) -> None:
    env, source, target = load_task(source=NOMINAL, target=SMALL)
    assert env.spec is not None
    assert env.spec.id == "OffDyn/Hopper-gravity-0.5-v0"
    assert (str(source.id), str(target.id)) == (NOMINAL, SMALL)
    with pytest.raises(OffDynError, match="one robot"):
        load_task(source="offdyn/ant/nominal/random-500-v0", target=SMALL)
    with pytest.raises(OffDynError, match="together"):
        load_task(source=NOMINAL)
    with pytest.raises(OffDynError, match=r"did you mean 'hopper-gravity-0\.5-medium'"):
        load_task("hoper-gravity-0.5-medium")


def test_build_leaves_what_is_there_alone(root: Path) -> None:
    dataset = DatasetId.parse(SMALL)
    before = (root / SMALL / "data" / "main_data.hdf5").stat().st_mtime_ns
    assert not build(dataset, quiet=True).built
    with pytest.raises(OffDynError, match="seed 0, not 4; --force"):
        build(dataset, seed=4, quiet=True)
    assert (root / SMALL / "data" / "main_data.hdf5").stat().st_mtime_ns == before
    old = load_dataset(SMALL)
    assert build(dataset, seed=4, force=True, num_threads=1, quiet=True).built
    assert load_dataset(SMALL).card["seed"] == 4
    assert build(dataset, seed=0, force=True, num_threads=1, quiet=True).sha256 == old.card["sha256"]


def test_two_builds_at_once(root: Path) -> None:
    dataset = DatasetId("hopper", "gravity-2.0", "random", "500")
    with locked(root, dataset), pytest.raises(OffDynError, match="another process"):
        build(dataset, quiet=True)
    assert build(dataset, num_threads=1, quiet=True).built


CHILD = """
import sys
sys.path.insert(0, {repository!r})
{work}
"""
BUILD = """
from offdyn_envs.datasets.build import build
from offdyn_envs.tasks import DatasetId
build(DatasetId.parse("offdyn/hopper/nominal/random-5k-v0"), num_threads=1, quiet=True)
"""
LOAD = """
from offdyn_envs import load_dataset
load_dataset("offdyn/hopper/nominal/random-5k-v0")
"""


def kill_when(work: str, place: Path, pattern: str, delay: float) -> bool:
    """Start work in a process and kill it `delay` seconds after a file appears; True if it was killed in the middle."""
    code = CHILD.format(repository=str(Path(__file__).parents[2]), work=work)
    environment = {**os.environ, "OFFDYN_DATA_DIR": str(place), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    try:
        while child.poll() is None and time.monotonic() < deadline and not appeared(place, pattern):
            time.sleep(0.0005)
        time.sleep(delay)
    finally:
        child.send_signal(signal.SIGKILL)
        status = child.wait()
    return status == -signal.SIGKILL


def appeared(place: Path, pattern: str) -> bool:
    """Whether a file exists by now; a folder that vanishes while it is listed is one that was renamed."""
    try:
        return any(place.glob(pattern))
    except FileNotFoundError:
        return False


def assert_whole_or_absent(folder: Path) -> None:
    if folder.exists():
        assert verify(folder, rows=50).mode == "exact"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("whole")
    build(DatasetId.parse("offdyn/hopper/nominal/random-5k-v0"), root=place, num_threads=1, quiet=True)
    return place


def test_kill_during_build(tmp_path: Path, whole: Path) -> None:
    name = "offdyn/hopper/nominal/random-5k-v0"
    rng, killed = random.Random(0), 0
    stage = ".building/*stage-*"
    for pattern in (
        ".building/*lock",
        f"{stage}/data/main_data.hdf5",
        f"{stage}/data/metadata.json",
        f"{stage}/flat/q*",
    ):
        killed += kill_when(BUILD, tmp_path, pattern, rng.choice((0.0, 0.01, 0.05)))
        assert_whole_or_absent(tmp_path / name)
    assert killed >= 2
    built = build(DatasetId.parse(name), root=tmp_path, num_threads=1, quiet=True)
    assert built.sha256 == read_dataset(whole / name).card["sha256"]
    assert not list(tmp_path.glob(stage))
    assert_whole_or_absent(built.path)
    again = BUILD.replace("quiet=True", "quiet=True, force=True")
    for delay in (0.0, 0.01):
        kill_when(again, tmp_path, f"{stage}/flat/source.json", delay)  # About to take the place of the old one.
        assert find(DatasetId.parse(name), tmp_path) == built.path
        assert verify(built.path, rows=50).mode == "exact"


# Renames its way to the final name and dies before or after a given one of them.
REPLACE_AND_DIE = """
import os, signal
from pathlib import Path
from offdyn_envs.datasets.build import build
from offdyn_envs.tasks import DatasetId
rename, left = Path.rename, {left}
def counted(self, target):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = counted
build(DatasetId.parse({name!r}), seed=4, force=True, num_threads=1, quiet=True)
"""


@pytest.mark.parametrize(("renames", "seed"), [(0, 0), (1, 0), (2, 4)])
def test_killed_while_replacing_leaves_the_old_or_the_new_one(root: Path, renames: int, seed: int) -> None:
    work = REPLACE_AND_DIE.format(left=renames, name=SMALL)
    code = CHILD.format(repository=str(Path(__file__).parents[2]), work=work)
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), stderr=subprocess.DEVNULL, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (root / SMALL).exists() == (renames != 1)
    assert local_ids() == sorted((SMALL, NOMINAL))
    assert load_dataset(SMALL).card["seed"] == seed
    assert verify(root / SMALL, rows=50).mode == "exact"
    assert build(DatasetId.parse(SMALL), seed=seed, quiet=True).built is False
    build(DatasetId.parse(SMALL), force=True, num_threads=1, quiet=True)
    assert [path.name for path in (root / ".building").glob(f"{SMALL.replace('/', '__')}*")] == [
        f"{SMALL.replace('/', '__')}.lock"
    ]


def test_failed_replacement_keeps_the_old_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if target == root / SMALL and "stage-" in self.name:
            raise OSError("no space left")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no space left"):
        build(DatasetId.parse(SMALL), seed=4, force=True, num_threads=1, quiet=True)
    assert load_dataset(SMALL).card["seed"] == 0
    assert verify(root / SMALL, rows=50).mode == "exact"


def test_kill_during_cache_conversion(tmp_path: Path, whole: Path) -> None:
    import shutil

    name = "offdyn/hopper/nominal/random-5k-v0"
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    for pattern in (".building/*stage-*/flat", ".building/*stage-*/flat/rewards.npy"):
        shutil.rmtree(tmp_path / name / "flat", ignore_errors=True)
        kill_when(LOAD, tmp_path, pattern, 0.0)
        data = load_dataset(name, root=tmp_path)
        assert isinstance(data.observations, np.memmap)
        assert_equal(data.arrays, read_dataset(whole / name).arrays)
    assert not list(tmp_path.glob(".building/*stage-*"))


def test_shipped_dataset_is_found(root: Path, tmp_path: Path) -> None:
    shipped = tmp_path / "datasets"
    dataset = DatasetId("hopper", "gravity-5.0", "random", "500")
    build(dataset, root=shipped, ship=True, num_threads=1, quiet=True)
    data = load_dataset(dataset)
    assert data.path.is_relative_to(shipped)
    assert not (data.path / "flat").exists()
    assert len(data) == 500
    assert not build(dataset, quiet=True).built
    other = build(dataset, seed=1, num_threads=1, quiet=True)  # Beside the shipped one, not in its place.
    assert other.path.is_relative_to(root)
    assert load_dataset(dataset).card["seed"] == 1
    assert read_dataset(data.path).card["seed"] == 0
