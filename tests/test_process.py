"""The command where something that is taken for granted is missing: streams, characters, a home directory, memory."""

import errno
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from offdyn_agents.runs.track import Ledger
from offdyn_envs import interruption, process
from offdyn_envs.datasets.store.folders import cache_root, data_root
from offdyn_envs.errors import OffDynError, out_of_memory

ROOT = Path(__file__).parents[1]
SHIPPED = "offdyn/hopper/gravity-0p5/medium-5k-v0"
LIST, CARD, BAD = "tasks", f"data info {SHIPPED}", "nosuch"

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full, /proc or resource limits")


def shell(words, redirection="", **variables):
    """Run the command in a shell, where `$?` is the status of the command itself."""
    line = f'{{ "{sys.executable}" -m offdyn_envs.cli {words}; echo "status $?" >&3; }} {redirection}'
    read, write = os.pipe()
    done = subprocess.Popen(
        ["bash", "-c", f"exec 3>&{write}; {line}"],
        cwd=ROOT,
        env=os.environ | variables,
        pass_fds=[write],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    printed, complaints = done.communicate(timeout=120)
    with os.fdopen(read) as told:
        status = int(told.read().split()[1])
    assert b"Traceback" not in complaints and b"Exception ignored" not in complaints, complaints
    return status, printed, complaints.decode()


@linux
@pytest.mark.parametrize(
    ("words", "redirection", "why"),
    [
        (LIST, ">/dev/full", "No space left on device"),
        (CARD, ">/dev/full", "No space left on device"),
        (LIST, ">&-", "Bad file descriptor"),
    ],
)
def test_output_that_cannot_be_written(words, redirection, why):
    assert shell(words, redirection)[::2] == (2, f"offdyn: standard output: {why}\n")


@linux
@pytest.mark.parametrize("words", [LIST, "--help"])
def test_a_reader_that_has_gone(words):
    status, _, complaints = shell(words, "| true")
    assert status in (0, 1, 128 + signal.SIGPIPE)
    assert complaints == ""


@linux
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&-"])
def test_work_does_without_standard_error_and_input(redirection):
    status, printed, complaints = shell(LIST, redirection)
    assert (status, complaints) == (0, "") and b"hopper-gravity-0.5-medium" in printed
    assert shell(BAD, redirection)[0] == 2


@linux
def test_a_file_is_not_taken_for_a_stream_that_is_closed(tmp_path):
    # Where the numbers 0 to 2 are free, the next files get them, and what is printed goes into a dataset.
    status, _, _ = shell(
        f"data export {SHIPPED} {tmp_path / 'rows.hdf5'} --layout d4rl", "<&- >&- 2>&-", OFFDYN_DATA_DIR=str(tmp_path)
    )
    assert status == 2  # It has printed what it did, in vain.
    status, _, complaints = shell(
        f"data import {tmp_path / 'rows.hdf5'} --robot hopper", OFFDYN_DATA_DIR=str(tmp_path / "data")
    )
    assert (status, complaints) == (0, "")


@pytest.mark.parametrize("words", [CARD, "train --help"])
def test_output_in_ascii(words):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    status, printed, complaints = shell(words, **ascii_only)
    assert (status, complaints) == (0, "")
    assert printed.isascii()
    if words == CARD:
        assert b" +- " in printed and b"|*" in printed


def test_every_character_can_be_written():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "ascii", process._LOSSY)
    # The codec's error handler is there once a stream has been made.
    process._stream(process._Notes(os.open(os.devnull, os.O_WRONLY), "wb"), None).close()
    stream.write("café ± … █▏ σ \udcff 机")
    stream.flush()
    assert raw.getvalue() == rb"cafe +- ... #| \u03c3 " + b"\xff" + rb" \u673a"


def test_streams_of_somebody_else_are_left_alone(monkeypatch):
    mine = io.StringIO()
    monkeypatch.setattr(sys, "stdout", mine)
    monkeypatch.setattr(sys, "stderr", mine)
    for name in ("excepthook", "__excepthook__"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    monkeypatch.setattr(process.threading, "excepthook", process.threading.excepthook)
    monkeypatch.setattr(process, "take_command", lambda: None)
    process.begin()
    assert sys.stdout is mine and sys.stderr is mine


@pytest.mark.parametrize(
    ("argv", "original", "answer"),
    [
        (["/usr/bin/offdyn", "tasks"], ["python", "/usr/bin/offdyn", "tasks"], True),
        (["-m", "tasks"], ["python", "-m", "offdyn_envs.cli", "tasks"], True),
        (["-m"], ["python", "-m", "pytest", "tests"], False),
        (["offdyn.py"], ["python", "offdyn.py"], False),
        (["-c"], ["python", "-c", "import offdyn"], False),
        ([], [], False),
    ],
    ids=str,
)
def test_which_process_is_the_command(argv, original, answer, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", original)
    assert interruption.is_command() is answer


@pytest.fixture
def homeless(monkeypatch):
    """Run as a user whom nobody knows."""
    pwd = pytest.importorskip("pwd")

    def unknown(*_):
        raise KeyError("uid not found")

    for name in ("HOME", "XDG_CACHE_HOME", "OFFDYN_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    return monkeypatch


def test_no_home_directory(homeless, tmp_path):
    for place in (data_root, cache_root):
        with pytest.raises(OffDynError, match=r"^no home directory is known; set OFFDYN_DATA_DIR to the folder"):
            place()
    homeless.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_root() == tmp_path / "offdyn" / "datasets"
    homeless.setenv("OFFDYN_DATA_DIR", "/data")
    assert data_root() == Path("/data")


@pytest.mark.parametrize("words", [CARD, f"data build {SHIPPED}"])
def test_a_home_that_nobody_has(words):
    status, printed, complaints = shell(words, OFFDYN_DATA_DIR="~nosuchuser/x")
    assert (status, printed) == (2, b"")
    assert complaints == (
        "offdyn: OFFDYN_DATA_DIR is '~nosuchuser/x', but '~nosuchuser' has no home; set OFFDYN_DATA_DIR to the folder "
        "for datasets\n"
    )


def no_memory_of_numpy():
    np.empty((1 << 57,), dtype=np.float64)


def no_memory_of_torch():
    import torch

    torch.empty(1 << 60)


def no_memory_wrapped():
    try:
        no_memory_of_numpy()
    except MemoryError:
        raise RuntimeError("could not be imported") from None


def no_memory_of_the_system():
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def no_memory_of_python():
    raise MemoryError


@pytest.mark.parametrize(
    ("fail", "says"),
    [
        (no_memory_of_numpy, "not enough memory: Unable to allocate 1.00 EiB for an array"),
        (no_memory_of_torch, "not enough memory: "),
        (no_memory_wrapped, "not enough memory: Unable to allocate"),
        (no_memory_of_the_system, "not enough memory: [Errno 12]"),
        (no_memory_of_python, "not enough memory"),
    ],
)
def test_memory_that_cannot_be_had(fail, says):
    with pytest.raises(Exception) as raised:
        fail()
    known = out_of_memory(raised.value)
    assert known is not None and str(known).startswith(says)


@pytest.mark.parametrize("error", [ValueError("no valid model"), OSError(errno.ENOENT, "No such file"), KeyError("x")])
def test_other_errors_are_not_for_want_of_memory(error):
    assert out_of_memory(error) is None


def test_a_population_without_memory_fails_in_one_line(capsys):
    from types import SimpleNamespace

    from offdyn_agents.runs.track import Arrangement, Population

    plans = [SimpleNamespace(task="hopper", agent="bc", quiet=True)]
    ledger = Ledger(plans, Arrangement({}, [Population((0,), 1)]), lambda trained: None)
    ledger.failed(0, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    with pytest.raises(OffDynError, match=r"^not enough memory: DefaultCPUAllocator: can't allocate memory"):
        ledger.outcomes()
    assert capsys.readouterr().err == ""


@linux
@pytest.mark.parametrize("megabytes", [60, 100])
def test_too_little_memory_to_import(megabytes):
    status, _, complaints = limited(LIST, megabytes)
    assert status == 2
    assert complaints.startswith("offdyn: not enough memory") and complaints.count("\n") == 1


def limited(words, megabytes):
    """Run the command with so much address space."""
    import resource

    done = subprocess.run(
        [sys.executable, "-m", "offdyn_envs.cli", *words.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20)),
    )
    return done.returncode, done.stdout, done.stderr


@linux
def test_an_error_close_to_the_limit_is_for_want_of_memory(monkeypatch):
    numbers = {"limits": 100 << 20, "status": 81 << 10}
    monkeypatch.setattr("offdyn_envs.errors._number", lambda file, line, word: numbers[file])
    known = out_of_memory(RuntimeError("Caught an unknown exception!"))
    assert str(known) == "not enough memory, this process may have 100 MB: RuntimeError: Caught an unknown exception!"
    numbers["status"] = 79 << 10
    assert out_of_memory(RuntimeError("Caught an unknown exception!")) is None


def test_what_is_half_done_is_removed(tmp_path):
    script = f"""
import os, signal
from offdyn_envs.atomic import atomic_write
from offdyn_envs.interruption import take_command
take_command()
with atomic_write({str(tmp_path / "file")!r}) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGTERM)
    while True:
        pass
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (143, "interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("early", [True, False])
def test_a_block_that_may_end_at_once(early):
    script = f"""
import signal
from offdyn_envs.interruption import at_once, take_command
from offdyn_envs.progress import progress
take_command()
with progress("train", 100, quiet=True) as advance:
    if {early}:
        signal.raise_signal(signal.SIGINT)
    with at_once():
        signal.raise_signal(signal.SIGINT)
        print("went on", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 130 and done.stdout == ""
    assert done.stderr.splitlines()[-1] == "interrupted"


@linux
def test_no_other_process_is_started_for_a_window_that_nobody_wants(tmp_path):
    """A signal would leave it behind, with a complaint of its own."""
    said = "print('started', file=sys.stderr)"
    hook = f"import sys\nsys.addaudithook(lambda event, _: event == 'subprocess.Popen' and {said})"
    (tmp_path / "sitecustomize.py").write_text(hook)
    variables = {"PYTHONPATH": str(tmp_path), "DISPLAY": "", "MUJOCO_GL": "", "PYGLFW_LIBRARY": ""}
    command = "import mujoco, subprocess; subprocess.run('true')"
    plain = subprocess.run([sys.executable, "-c", command], env=os.environ | variables, capture_output=True, text=True)
    # MuJoCo alone starts one, beside the one that is asked for here.
    assert plain.stderr.count("started") == 2
    assert shell("envs show OffDyn/Hopper-gravity-0.5-v0", **variables)[::2] == (0, "")
