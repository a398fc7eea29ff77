"""Ctrl-C and SIGTERM at random moments of whole commands: one line, the right status, and the command can be repeated.

Moments are spread over the whole life of a process, from where it takes signals in hand: before that, for hundredths of
a second, it is Python itself that starts. Ctrl-C reaches every process of a terminal, SIGTERM the command alone.
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest

from offdyn_envs.datasets.store.folders import find, read_dataset
from offdyn_envs.tasks import DatasetId

ROOT = Path(__file__).parents[1]
SHIPPED = "offdyn/hopper/gravity-0p5/medium-5k-v0"
BUILT = "offdyn/hopper/nominal/random-5k-v0"
ROWS = 1000
KINDS = (signal.SIGINT, signal.SIGTERM)
COMMANDS = ("build", "import", "train", "evaluate")
THREADS = (1, 2)
PATIENCE = 300
"""Seconds after which a command hangs."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc says when a process takes signals in hand")


def words(command: str, threads: int, inputs: Path, place: Path) -> list[str]:
    """Return the words of a command that puts what it makes into a place of its own."""
    return {
        "build": ["data", "build", BUILT, "--threads", str(threads)],
        # It has no threads of its own, but libraries' have theirs: see `environment`.
        "import": ["data", "import", str(inputs / "d4rl.hdf5"), "--robot", "hopper"],
        "train": [
            *("train", "bc", "--source", str(inputs / "rows.npz"), "--target", str(inputs / "rows.npz")),
            *("--env", "OffDyn/Hopper-v0", "--name", "own", "--seeds", "2", "--updates", "40", "--eval-every", "10"),
            *("--set", "width=16", "--threads", str(threads), "--out", str(place / "runs")),
        ],
        "evaluate": ["evaluate", str(place / "runs" / "own" / "bc"), "--threads", str(threads), "--episodes", "20"],
    }[command]


def environment(threads: int, place: Path, compiles: bool) -> dict[str, str]:
    """Return the variables of a command; without a compiler it trains as well, and starts in a tenth of the time."""
    compiler = {} if compiles else {"PATH": "", "CXX": ""}
    return {
        **os.environ,
        **compiler,
        "OFFDYN_DATA_DIR": str(place / "data"),
        "XDG_CACHE_HOME": str(place / "cache"),
        "OMP_NUM_THREADS": str(threads),
    }


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Give the folder of what commands read: rows in two formats, and a run."""
    folder = tmp_path_factory.mktemp("inputs")
    place = find(DatasetId.parse(SHIPPED))
    assert place is not None
    arrays = read_dataset(place).arrays
    keys = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
    rows = {key: np.array(getattr(arrays, key)[:ROWS]) for key in keys}
    rows["truncations"][-1] = not rows["terminations"][-1]
    np.savez(folder / "rows.npz", **rows)
    with h5py.File(folder / "d4rl.hdf5", "w") as file:
        names = {"terminations": "terminals", "truncations": "timeouts"}
        for key, array in rows.items():
            file[names.get(key, key)] = array
    seconds = finished("train", 1, folder, folder, False)
    (folder / "seconds").write_text(str(seconds))
    return folder


def start(command: str, threads: int, inputs: Path, place: Path, compiles: bool) -> "subprocess.Popen[str]":
    """Start a command in a session of its own, as a terminal does, and return it once it takes signals in hand."""
    process = subprocess.Popen(
        [sys.executable, "-m", "offdyn_envs.cli", *words(command, threads, inputs, place)],
        cwd=ROOT,
        env=environment(threads, place, compiles),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not takes_signals(process.pid):
        time.sleep(0.001)
    return process


def takes_signals(pid: int) -> bool:
    """Say whether a process has a handler for SIGTERM."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    caught = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt")), 0)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def finished(command: str, threads: int, inputs: Path, place: Path, compiles: bool, where: str = "") -> float:
    """Run a command to its end, which must be a good one, and return the seconds from where it took signals in hand."""
    process = start(command, threads, inputs, place, compiles)
    begun = time.monotonic()
    _, complaints = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and "Traceback" not in complaints, f"{where}\n{complaints}"
    return time.monotonic() - begun


def prepare(command: str, inputs: Path, place: Path) -> None:
    """Put what a command changes into its place."""
    if command == "evaluate":
        run = place / "runs" / "own" / "bc"
        for file in (inputs / "runs" / "own" / "bc").rglob("*"):
            if file.is_file():
                copy = run / file.relative_to(inputs / "runs" / "own" / "bc")
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())


def product(command: str, place: Path) -> str:
    """Return a digest of what a command makes, of what must not depend on interruptions."""
    pattern = {
        "build": f"data/{BUILT}/flat/*.npy",
        "import": "data/imported/**/*.npy",
        "train": "runs/own/bc/seeds/*/weights.safetensors",
        "evaluate": "runs/own/bc/evaluation.json",
    }[command]
    files = sorted(place.glob(pattern))
    assert files, f"{command} has made nothing"
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(place).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def half_done(place: Path) -> list[Path]:
    """Return the temporary files and folders that are left."""
    return [path for path in place.rglob("*") if path.name.endswith(".part") or ".stage-" in path.name]


@dataclass
class Whole:
    """A command that was left alone.

    Attributes:
        seconds: How long it took from where it took signals in hand.
        digest: Of what it made.
    """

    seconds: float
    digest: str


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """Give a function that runs a command to its end, once."""

    @cache
    def get(command, threads, compiles):
        if (command, threads, compiles) == ("train", 1, False):
            return Whole(float((inputs / "seconds").read_text()), product(command, inputs))
        place = tmp_path_factory.mktemp("whole")
        prepare(command, inputs, place)
        return Whole(finished(command, threads, inputs, place, compiles), product(command, place))

    return get


@dataclass
class Storm:
    """What has come of some moments.

    Attributes:
        statuses: How often each status was seen.
        slowest: Seconds from a signal to the end.
    """

    statuses: Counter = field(default_factory=Counter)
    slowest: float = 0.0


def strike(storm, kind, moment, command, threads, inputs, place, compiles=False):
    """Send a signal after so many seconds and check everything that is owed then."""
    prepare(command, inputs, place)
    process = start(command, threads, inputs, place, compiles)
    time.sleep(moment)
    sent = time.monotonic()
    ended = process.poll() is not None
    if not ended and kind == signal.SIGINT:
        os.killpg(process.pid, kind)
    elif not ended:
        process.send_signal(kind)
    told, complaints = process.communicate(timeout=PATIENCE)
    where = f"{command}, {threads} threads, {kind.name} after {moment:.3f} s: {process.returncode}\n{told}{complaints}"
    storm.statuses[process.returncode] += 1
    storm.slowest = max(storm.slowest, time.monotonic() - sent)
    # The last instants of Python know no handlers any more: a shell shows a process that ends by a signal alike.
    assert process.returncode in (0, 128 + kind, -kind), where
    assert "Traceback" not in complaints and "not compiled" not in complaints, where
    assert process.returncode != 128 + kind or "interrupted" in complaints.splitlines()[-1], where
    assert not half_done(place), where
    return where


def again(where, command, threads, inputs, place, digest, compiles=False):
    """Repeat a command, which then makes what it would have made at once."""
    finished(command, threads, inputs, place, compiles, f"repeated after {where}")
    assert product(command, place) == digest, where


@pytest.mark.parametrize("command", COMMANDS)
def test_a_moment_of_each(command, inputs, whole, tmp_path):
    draw, threads = random.Random(command), 2
    undisturbed, storm = whole(command, 1, False), Storm()
    where = ""
    for kind in KINDS:
        moment = draw.uniform(0.0, undisturbed.seconds)
        where = strike(storm, kind, moment, command, threads, inputs, tmp_path)
    again(where, command, threads, inputs, tmp_path, undisturbed.digest)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("command", COMMANDS)
def test_twenty_moments(command, threads, kind, inputs, whole, tmp_path):
    draw = random.Random(f"{command} {threads} {kind.name}")
    undisturbed, storm = whole(command, threads, False), Storm()
    for number in range(20):
        place = tmp_path / str(number)
        moment = draw.uniform(0.0, 1.05 * undisturbed.seconds)
        where = strike(storm, kind, moment, command, threads, inputs, place)
        again(where, command, threads, inputs, place, undisturbed.digest)
    print(f"{command}, {threads} threads, {kind.name}: {dict(storm.statuses)}, at most {storm.slowest:.2f} s")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_twenty_moments_of_a_training_that_compiles(kind, inputs, whole, tmp_path):
    draw = random.Random(kind.name)
    undisturbed, storm = whole("train", 2, True), Storm()
    for number in range(20):
        # In turns from nothing, and with what an interrupted compiler has left.
        place = tmp_path / str(number - number % 2)
        moment = draw.uniform(0.0, undisturbed.seconds)
        where = strike(storm, kind, moment, "train", 2, inputs, place, compiles=True)
        if number % 2:
            again(where, "train", 2, inputs, place, undisturbed.digest, compiles=True)
    print(f"compiling train, {kind.name}: {dict(storm.statuses)}, at most {storm.slowest:.2f} s")
