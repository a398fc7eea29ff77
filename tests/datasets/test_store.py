from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import minari
import numpy as np
import pytest

from offdyn_envs import load_dataset, load_task
from offdyn_envs.datasets.checking.check import verify
from offdyn_envs.datasets.collecting.build import build
from offdyn_envs.datasets.store import staging
from offdyn_envs.datasets.store.folders import data_root, read_dataset
from offdyn_envs.datasets.store.hdf5 import write_hdf5
from offdyn_envs.datasets.store.spec import Arrays, Dataset
from offdyn_envs.datasets.store.staging import locked, waiting_lock
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

    monkeypatch.setattr("offdyn_envs.datasets.store.hdf5.progress", record)
    monkeypatch.setattr("offdyn_envs.datasets.store.hdf5.EVERY", every)
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


def test_work_that_fails_takes_its_lock_away(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with pytest.raises(ZeroDivisionError), waiting_lock(root, "outer"), locked(root, "inner"):
        raise ZeroDivisionError
    assert not root.exists()
    with pytest.raises(ZeroDivisionError), locked(root, "a/b"), locked(root, "other"):
        with pytest.raises(OffDynError, match="another process"), locked(root, "other"):
            pass
        assert (root / staging.STAGING / "other.lock").exists()  # It is not ours who was refused.
        raise ZeroDivisionError
    assert not root.exists()


def test_a_lock_that_was_taken_away_is_held_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed, try_lock = [True], staging.try_lock

    def later(file: IO[Any]) -> bool | None:
        if failed:
            failed.clear()
            Path(file.name).unlink()
        return try_lock(file)

    monkeypatch.setattr(staging, "try_lock", later)
    with waiting_lock(tmp_path, "x"), pytest.raises(OffDynError, match="another process"), locked(tmp_path, "x"):
        pass


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


def test_arrays_changed_in_place_change_no_file(root: Path) -> None:
    load_dataset(SMALL)
    data = load_dataset(SMALL)
    first = float(data.observations[0, 0])
    data.observations[0, 0] = first + 1.0
    assert float(load_dataset(SMALL).observations[0, 0]) == first
