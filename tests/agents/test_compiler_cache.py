"""The compiler's cache: one of our own, and unfinished files in it are compiled again."""

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from offdyn_agents.engine import compiler_cache
from offdyn_agents.engine.execution import can_compile

ROOT = Path(__file__).parents[2]
VARIABLE = compiler_cache.VARIABLE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="libraries of other systems are other files")


@pytest.fixture
def library(tmp_path):
    """Give the bytes of a library that is whole."""
    found = shutil.which("true")
    paths = [path for path in (sysconfig.get_config_var("LDLIBRARY"), found) if path and os.path.isfile(path)]
    with open(paths[0], "rb") as file:
        return file.read()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Give an empty cache that a user has chosen."""
    folder = tmp_path / "cache"
    (folder / "locks").mkdir(parents=True)
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


def put(cache, name, content):
    path = cache / name[1:3] / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    lock = cache / "locks" / f"{name.partition('.')[0]}.lock"
    lock.touch()
    return path, lock


@pytest.mark.parametrize(
    ("name", "change", "broken"),
    [
        ("cabc.so", lambda whole: whole, False),
        ("cabc.main.so", lambda whole: b"", True),
        ("cabc.so", lambda whole: b"", True),
        ("cabc.so", lambda whole: whole[:-1], True),
        ("cabc.so", lambda whole: whole[: len(whole) // 2], True),
        ("cabc.so", lambda whole: whole[:40], True),
        ("cabc.so", lambda whole: b"no library" * 100, True),
        ("cabc.main.o", lambda whole: whole[:1000], True),
        ("cabc.main.cpp", lambda whole: b"int f();", False),
        ("cabc.main.cpp", lambda whole: b"", True),
        ("cabc.lock", lambda whole: b"", False),
    ],
)
def test_unfinished_files_are_removed(name, change, broken, cache, library):
    path, _ = put(cache, name, change(library))
    assert compiler_cache.remove_broken(cache) == ([path] if broken else [])
    assert path.exists() is not broken


def test_what_a_process_is_making_is_left_alone(cache):
    path, lock = put(cache, "cabc.main.so", b"")
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert compiler_cache.remove_broken(cache) == []
    assert compiler_cache.remove_broken(cache) == [path]
    assert compiler_cache.remove_broken(cache / "nowhere") == []


@pytest.mark.parametrize("chosen", ["", "/chosen", "PyTorch's"])
def test_the_cache_is_ours_unless_a_user_has_chosen_one(chosen, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # PyTorch notes its own choice in the variable when it is imported.
    monkeypatch.setenv(VARIABLE, compiler_cache._of_pytorch() if chosen == "PyTorch's" else chosen)
    compiler_cache.prepare()
    ours = str(tmp_path / "offdyn" / "compiled")
    assert os.environ[VARIABLE] == ("/chosen" if chosen == "/chosen" else ours)


def test_without_a_place_for_it_pytorch_finds_one(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv(VARIABLE, raising=False)
    assert compiler_cache.prepare() is False
    assert VARIABLE not in os.environ


@pytest.mark.parametrize("left", [True, False])
def test_compiled_again_once_where_a_broken_file_was_found(left, cache, capsys):
    calls = []

    def compile_all():
        calls.append(left)
        # A compiler that was killed by the same Ctrl-C, on another terminal say.
        if len(calls) == 1 or not left:
            if left:
                put(cache, "cabc.so", b"")
            raise OSError("cabc.so: file too short")
        return "compiled"

    if left:
        assert compiler_cache.compiling(compile_all) == "compiled"
        told = capsys.readouterr().err
        assert told == f"{cache / 'ab' / 'cabc.so'}: left unfinished by a compiler; compiled again\n"
    else:
        with pytest.raises(OSError, match="too short"):
            compiler_cache.compiling(compile_all)
        assert capsys.readouterr().err == ""
    assert len(calls) == 1 + left


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="needs a C++ compiler")
@pytest.mark.parametrize(
    ("which", "left"),
    [("*.main.so", b""), ("*.so", b"garbage"), ("*.so", None)],
    ids=["empty", "garbage", "truncated"],
)
def test_a_function_is_compiled_over_what_was_left(which, left, cache):
    first = compiled()
    assert first.stderr == ""
    libraries = list(cache.glob(f"??/{which}"))
    assert libraries
    for path in libraries:
        path.write_bytes(path.read_bytes()[:-100] if left is None else left)
    second = compiled()
    assert second.stdout == first.stdout != ""
    assert second.stderr.endswith("left unfinished by a compiler; compiled again\n") and second.stderr.count("\n") == 1
    assert compiled().stderr == ""


def compiled():
    """Compile and call a function in a process of its own, and return what it prints."""
    script = """
import torch
from offdyn_agents.engine.execution import compile_flat

def double(state, rows):
    state.add_(torch.tanh(rows @ state))

state = torch.eye(4)
compile_flat(double, [torch.eye(4), torch.eye(4)], torch.device("cpu"), 1)(state, torch.eye(4))
torch.testing.assert_close(state, torch.eye(4) + torch.tanh(torch.eye(4)))
print(state.tolist())
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_compiling_can_be_left_out(monkeypatch):
    monkeypatch.setenv("OFFDYN_COMPILE", "0")
    assert not can_compile(torch.device("cpu")) and not can_compile(torch.device("cuda"))
