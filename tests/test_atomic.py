"""Files appear whole or not at all."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from offdyn_envs.atomic import (
    DiskFullError,
    append_bytes,
    atomic_write,
    check_room,
    refuse_full,
    room,
    write_array,
    write_bytes,
    write_json,
    write_together,
)

KILLED = """
import os, signal, sys
from offdyn_envs.atomic import atomic_write
with atomic_write(sys.argv[1]) as path:
    path.write_text("half of the new con")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_leaves_the_old_content(tmp_path):
    final = tmp_path / "page.html"
    final.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(final)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert final.read_text() == "old"
    with atomic_write(final) as path:
        path.write_text("new")
    assert final.read_text() == "new"


def test_error_leaves_the_old_content_and_no_other_file(tmp_path):
    final = tmp_path / "x.json"
    write_json(final, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(final, {"a": float("nan")})
    with pytest.raises(RuntimeError), atomic_write(final) as path:
        path.write_text("half")
        raise RuntimeError
    assert json.loads(final.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_bytes_are_deterministic(tmp_path):
    write_json(tmp_path / "a", {"b": 1, "a": [0.1]})
    write_json(tmp_path / "b", {"a": [0.1], "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@contextmanager
def limit(size):
    """Limit the size of files for the block alone: pytest may write its report to a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_leaves_the_old_content_and_no_new_folder(tmp_path):
    old, new = tmp_path / "old", tmp_path / "a" / "b" / "new"
    write_bytes(old, b"12")
    for path in (old, new):
        with limit(10), pytest.raises(DiskFullError) as refused:
            write_bytes(path, b"x" * 1_000)
        needed = "1,000 bytes are needed, files may have 10 bytes at most (ulimit -f)"
        assert str(refused.value) == f"{path} cannot be written: File too large; {needed}"
    assert old.read_bytes() == b"12"
    assert list(tmp_path.iterdir()) == [old]
    write_bytes(new, b"x" * 10)


def test_texts_that_belong_together_change_together(tmp_path):
    old, new = {"a": "1", "b": "2"}, {"a": "3" * 9, "b": "4" * 11}
    for texts in (old, new):
        write_together({tmp_path / name: text for name, text in texts.items()})
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == texts
    for names in ("ab", "ba"):
        with limit(10), pytest.raises(DiskFullError, match=f"{tmp_path / 'b'} cannot be written"):
            write_together({tmp_path / name: old[name] * 10 + old[name] * (name == "b") for name in names})
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == new


@pytest.mark.parametrize("before", [None, b"line\n"])
def test_what_is_added_is_added_whole_or_not_at_all(before, tmp_path):
    path = tmp_path / "log"
    if before is not None:
        append_bytes(path, before)
    with limit(12), pytest.raises(DiskFullError):
        append_bytes(path, b"123456789012345\n")
    assert (path.read_bytes() if path.exists() else None) == before
    append_bytes(path, b"123456\n")
    assert path.read_bytes() == (before or b"") + b"123456\n"


def test_arrays_are_as_numpy_writes_them(tmp_path):
    array = np.arange(600.0, dtype=np.float32).reshape(200, 3)
    np.save(tmp_path / "numpy.npy", array)
    write_array(tmp_path / "ours.npy", array)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()
    with limit(1_000), pytest.raises(DiskFullError, match="2,400 bytes are needed"):
        write_array(tmp_path / "full.npy", array)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "No space left on device; 7 bytes are needed, 5,000 bytes are free"),
        (errno.EDQUOT, "Disk quota exceeded; 7 bytes are needed"),
    ],
)
def test_a_full_disk_and_a_quota(number, told, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000))
    with pytest.raises(DiskFullError) as refused, room(tmp_path / "x", 7):
        raise OSError(number, os.strerror(number))
    assert str(refused.value) == f"{tmp_path / 'x'} cannot be written: {told}"
    with pytest.raises(PermissionError), room(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "no", "elsewhere")
    with pytest.raises(OSError, match="Input/output error") as other, room(tmp_path / "x"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert other.value.filename == str(tmp_path / "x")


def test_work_that_cannot_fit_is_refused_before_it_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000))
    check_room(tmp_path / "not" / "there", 5_000)
    with pytest.raises(DiskFullError, match=r"x cannot be written: .*; 5,001 bytes are needed, 5,000 bytes are free"):
        check_room(tmp_path / "x", 5_001)


@pytest.mark.parametrize("said", ["x.s: No space left on device", "File size limit exceeded signal terminated cc1plus"])
def test_other_programs_without_room(said, tmp_path):
    with pytest.raises(DiskFullError, match=f"{tmp_path} cannot be written"):
        refuse_full(RuntimeError(said), tmp_path)
    refuse_full(RuntimeError("no such compiler"), tmp_path)
