"""Files appear whole or not at all."""

import json
import signal
import subprocess
import sys

import pytest

from offdyn_envs.atomic import atomic_write, write_json

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
