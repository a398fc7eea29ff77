"""HDF5 files made in memory: the bytes of files that HDF5 writes itself, and no crash without room."""

import resource
from pathlib import Path

import h5py
import numpy as np
import pytest

from offdyn_envs.atomic import DiskFullError
from offdyn_envs.datasets.store import hdf5
from offdyn_envs.datasets.store.folders import HDF5_NAME, file_digest, read_dataset
from offdyn_envs.datasets.store.hdf5_files import new_hdf5
from offdyn_envs.datasets.store.spec import Arrays
from offdyn_envs.shipped import shipped_root

SHIPPED = shipped_root() / "offdyn/hopper/nominal/medium-5k-v0"


def arrays_of(lengths: list[int], seed: int) -> Arrays:
    """Return arrays of a robot of its own, in episodes of given lengths."""
    rng, rows, episodes = np.random.default_rng(seed), sum(lengths), len(lengths)
    observations, states = (rng.normal(size=(n, 11)) for n in (rows, rows + episodes))
    return Arrays(
        observations=observations.astype(np.float32),
        actions=rng.normal(size=(rows, 3)).astype(np.float32),
        next_observations=observations.astype(np.float32) + 1,
        rewards=rng.normal(size=rows).astype(np.float32),
        terminations=np.zeros(rows, np.bool_),
        truncations=np.zeros(rows, np.bool_),
        lengths=np.array(lengths),
        seeds=np.arange(episodes),
        qpos=states,
        qvel=-states,
    )


@pytest.mark.parametrize("compress", [False, True])
def test_bytes_are_those_of_a_file_that_hdf5_writes(
    compress: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, own = tmp_path / "ours.hdf5", tmp_path / "own.hdf5"
    rng = np.random.default_rng(0)
    cases = [[1], [1000] * 3, *(rng.integers(1, 60, rng.integers(1, 90)).tolist() for _ in range(12))]
    for seed, lengths in enumerate(cases):
        arrays = arrays_of(lengths, seed)
        hdf5.write_hdf5(ours, arrays, "x", compress=compress, quiet=True)
        with monkeypatch.context() as patched:
            patched.setattr(hdf5, "new_hdf5", lambda path: h5py.File(path, "w", libver="v108", locking=False))
            hdf5.write_hdf5(own, arrays, "x", compress=compress, quiet=True)
        assert ours.read_bytes() == own.read_bytes()


def test_a_shipped_file_is_made_again_to_the_byte(tmp_path: Path) -> None:
    dataset = read_dataset(SHIPPED)
    hdf5.write_hdf5(tmp_path / "again.hdf5", dataset.arrays, "x", compress=True, quiet=True)
    assert file_digest(tmp_path / "again.hdf5") == dataset.card["files"][HDF5_NAME]["sha256"]


def test_what_fails_in_the_block_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyError), new_hdf5(tmp_path / "x.hdf5") as file:
        file["a"] = np.arange(5)
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_no_room(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
    try:
        with pytest.raises(DiskFullError, match=r"x\.hdf5 cannot be written: File too large"):
            hdf5.write_hdf5(tmp_path / "x.hdf5", arrays_of([50] * 20, 0), "x", quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
