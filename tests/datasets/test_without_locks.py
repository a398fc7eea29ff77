"""File systems without locks (Lustre mounted without them, some of NFS): work goes on, and nothing else is touched."""

import errno
import fcntl
import os

import h5py
import numpy as np
import pytest

from offdyn_agents.runs.locks import held
from offdyn_envs.datasets.collecting.build import build
from offdyn_envs.datasets.importing.exporters import export
from offdyn_envs.datasets.importing.importer import import_file
from offdyn_envs.datasets.store import staging
from offdyn_envs.datasets.store.folders import read_dataset
from offdyn_envs.datasets.store.imported import load_imported
from offdyn_envs.datasets.store.staging import locked, recover, waiting_lock
from offdyn_envs.tasks import DatasetId

NAME = DatasetId.parse("offdyn/hopper/gravity-2p0/random-500-v0")
KINDS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]


@pytest.fixture(params=KINDS, ids=errno.errorcode.get)
def lockless(request, monkeypatch):
    """Answer every flock with an error, and every locked opening of an HDF5 file too."""

    def refuse(descriptor, operation):
        raise OSError(request.param, os.strerror(request.param))

    real = h5py.File

    def opened(path, mode="r", *, locking=None, **more):
        if locking is not False:
            raise OSError(request.param, "Unable to lock file")
        return real(path, mode, locking=locking, **more)

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(h5py, "File", opened)
    staging._warn_lockless.cache_clear()


def test_build_export_and_import_work_with_one_line_of_warning(lockless, tmp_path, capsys):
    built = build(NAME, root=tmp_path, num_threads=1, quiet=True)
    assert built.built
    whole = read_dataset(built.path)  # From the HDF5 file: a good file is not called damaged.
    export(whole, tmp_path / "a.hdf5", "odrl")
    import_file(tmp_path / "a.hdf5", root=tmp_path, out="imported/a", force=True)
    again = load_imported("imported/a", root=tmp_path)
    assert np.array_equal(again.observations, whole.observations)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "this file system has no locks" in lines[0]


def test_nobody_waits(lockless, tmp_path):
    with waiting_lock(tmp_path, "publish"), held(tmp_path / "lock") as mine:
        assert mine


def test_what_another_process_may_be_writing_is_left_alone(lockless, tmp_path):
    stage = tmp_path / staging.STAGING / f"{str(NAME).replace('/', '__')}.stage-other"
    stage.mkdir(parents=True)
    with locked(tmp_path, NAME):
        assert stage.is_dir()


def test_a_replacement_that_was_killed_is_put_back(lockless, tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "PATIENCE", 0.2)
    old = staging._old(tmp_path, str(NAME))
    old.mkdir(parents=True)
    (tmp_path / str(NAME)).parent.mkdir(parents=True)
    recover(tmp_path, str(NAME))
    assert (tmp_path / str(NAME)).is_dir()


def test_another_error_of_a_lock_names_the_file(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output error") as caught, locked(tmp_path, NAME):
        pass
    assert str(caught.value.filename).endswith(".lock")
