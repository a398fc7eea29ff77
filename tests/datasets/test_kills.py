"""kill -9 at any moment of a build or of a conversion: what is there is whole, and running it again finishes it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import minari
import numpy as np
import pytest

from offdyn_envs import load_dataset
from offdyn_envs.datasets.checking.check import verify
from offdyn_envs.datasets.collecting.build import build
from offdyn_envs.datasets.store.folders import find, local_ids, read_dataset
from offdyn_envs.tasks import DatasetId
from tests.datasets.conftest import NOMINAL, SMALL
from tests.datasets.test_store import assert_equal

NAME = "offdyn/hopper/nominal/random-5k-v0"
MOMENTS = 20

CHILD = """
import sys
sys.path.insert(0, {repository!r})
import offdyn_envs.datasets.collecting.build
print("begun", flush=True)
{work}
"""
BUILD = """
from offdyn_envs.datasets.collecting.build import build
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
    child = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
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
    build(DatasetId.parse(NAME), root=place, num_threads=1, quiet=True)
    return place


def test_kill_during_build(tmp_path: Path, whole: Path) -> None:
    rng, killed = random.Random(0), 0
    stage = ".building/*stage-*"
    for pattern in (
        ".building/*lock",
        f"{stage}/data/main_data.hdf5",
        f"{stage}/data/metadata.json",
        f"{stage}/flat/q*",
    ):
        killed += kill_when(BUILD, tmp_path, pattern, rng.choice((0.0, 0.01, 0.05)))
        assert_whole_or_absent(tmp_path / NAME)
    assert killed >= 2
    built = build(DatasetId.parse(NAME), root=tmp_path, num_threads=1, quiet=True)
    assert built.sha256 == read_dataset(whole / NAME).card["sha256"]
    assert not list(tmp_path.glob(stage))
    assert_whole_or_absent(built.path)
    again = BUILD.replace("quiet=True", "quiet=True, force=True")
    for delay in (0.0, 0.01):
        kill_when(again, tmp_path, f"{stage}/flat/source.json", delay)  # About to take the place of the old one.
        assert find(DatasetId.parse(NAME), tmp_path) == built.path
        assert verify(built.path, rows=50).mode == "exact"


# Renames its way to the final name and dies before or after a given one of them.
REPLACE_AND_DIE = """
import os, signal
from pathlib import Path
from offdyn_envs.datasets.collecting.build import build
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


def test_kill_during_cache_conversion(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    for pattern in (".building/*stage-*/flat", ".building/*stage-*/flat/rewards.npy"):
        shutil.rmtree(tmp_path / NAME / "flat", ignore_errors=True)
        kill_when(LOAD, tmp_path, pattern, 0.0)
        data = load_dataset(NAME, root=tmp_path)
        assert isinstance(data.observations, np.memmap)
        assert_equal(data.arrays, read_dataset(whole / NAME).arrays)
    assert not list(tmp_path.glob(".building/*stage-*"))


def seconds(work: str, place: Path) -> float:
    """Do work in a process to its end; return how long it took, without the imports."""
    child = start(work, place)
    begun = time.monotonic()
    assert child.wait(timeout=300) == 0
    return time.monotonic() - begun


def start(work: str, place: Path) -> subprocess.Popen[bytes]:
    """Start work in a process and wait until it has imported what it needs."""
    code = CHILD.format(repository=str(Path(__file__).parents[2]), work=work)
    environment = {**os.environ, "OFFDYN_DATA_DIR": str(place), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout as lines:
        assert lines.readline() == b"begun\n"
    return child


def kill_after(work: str, place: Path, delay: float) -> bool:
    """Kill work after a time; True where it was not done by then."""
    child = start(work, place)
    time.sleep(delay)
    child.kill()
    return child.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_kill_at_random_moments_of_a_build(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    rng, killed, place = random.Random(1), 0, tmp_path / NAME
    longest = seconds(BUILD, tmp_path)
    shutil.rmtree(place)
    for _ in range(MOMENTS):
        killed += kill_after(BUILD, tmp_path, rng.uniform(0, longest))
        assert local_ids(tmp_path) == list(minari.list_local_datasets()) == ([NAME] if place.exists() else [])
        assert_whole_or_absent(place)
        shutil.rmtree(place, ignore_errors=True)
    assert killed >= MOMENTS // 2
    assert build(DatasetId.parse(NAME), root=tmp_path, num_threads=1, quiet=True).sha256 == sha256_of(whole)
    assert not list(tmp_path.glob(".building/*stage-*"))


@pytest.mark.slow
def test_kill_at_random_moments_of_a_replacement(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    rng, killed = random.Random(2), 0
    longest = seconds(BUILD.replace("quiet=True", "quiet=True, force=True"), tmp_path)
    for moment in range(MOMENTS):
        work = BUILD.replace("quiet=True", f"quiet=True, force=True, seed={moment % 2}")
        killed += kill_after(work, tmp_path, rng.uniform(0, longest))
        assert local_ids(tmp_path) == [NAME]  # Puts the old one back where the new one had not come yet.
        assert read_dataset(tmp_path / NAME).card["seed"] in (0, 1)
        assert verify(tmp_path / NAME, rows=50).mode == "exact"
    assert killed >= MOMENTS // 2
    built = build(DatasetId.parse(NAME), root=tmp_path, force=True, num_threads=1, quiet=True)
    assert built.sha256 == sha256_of(whole)
    assert not list(tmp_path.glob(".building/*stage-*"))


@pytest.mark.slow
def test_kill_at_random_moments_of_a_conversion(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    rng, killed, flat = random.Random(3), 0, tmp_path / NAME / "flat"
    shutil.rmtree(flat)
    longest = seconds(LOAD, tmp_path)
    for _ in range(MOMENTS):
        shutil.rmtree(flat, ignore_errors=True)
        killed += kill_after(LOAD, tmp_path, rng.uniform(0, longest))
        if flat.exists():
            assert {path.name for path in flat.iterdir()} == {path.name for path in (whole / NAME / "flat").iterdir()}
        assert verify(tmp_path / NAME, rows=1).mode == "exact"
        assert_equal(load_dataset(NAME, root=tmp_path).arrays, load_dataset(NAME, root=whole).arrays)
    assert killed >= MOMENTS // 2
    assert not list(tmp_path.glob(".building/*stage-*"))


def sha256_of(root: Path) -> str:
    return read_dataset(root / NAME).card["sha256"]
