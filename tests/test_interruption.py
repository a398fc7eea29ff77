"""Ctrl-C and SIGTERM: long computations stop where they can go on, say so in one line, and exit with 128 + signal."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from offdyn_envs.datasets import counterfactual, identify, load_dataset
from offdyn_envs.interruption import Interrupted, asked, deferred
from offdyn_envs.progress import progress
from offdyn_envs.verification import commands

SHIPPED = "offdyn/hopper/gravity-0p5/medium-5k-v0"

BATCH = """
import os, signal, sys, threading
import gymnasium, numpy as np, offdyn_envs
env = gymnasium.make_vec("OffDyn/HalfCheetah-v0", num_envs=64, num_threads=int(sys.argv[1]))
env.reset(seed=0)
# A shell that starts tests in the background has Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
while True:
    env.step(np.zeros((64, 6), np.float32))
"""
TRAIN = """
import os, signal, sys, threading
from tests.agents import stand_ins
stand_ins.install()
from offdyn_agents.engine.training.module import PopulationModule
real = PopulationModule.training_step
def step(self, batch, batch_idx):
    real(self, batch, batch_idx)
    if self.updates_done == 6:
        os.kill(os.getpid(), int(sys.argv[2]))
PopulationModule.training_step = step
from offdyn_envs.cli import main
words = "train bc hopper-gravity-0.5-medium --updates 12 --seeds 2 --eval-every 3 --threads 2 --set width=16 --out"
main([*words.split(), sys.argv[1]])
"""


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_the_next_report_of_progress_stops_and_says_where(kind, capsys):
    before = signal.getsignal(kind)
    with pytest.raises(Interrupted) as stopped, progress("collect", 100, start=10, quiet=True) as advance:
        advance(5)
        signal.raise_signal(kind)
        assert asked() == kind
        advance(5)
    assert str(stopped.value) == "collect: interrupted at 20 of 100; repeat the command to resume"
    assert stopped.value.signum == kind
    assert signal.getsignal(kind) == before
    assert asked() == 0
    assert "once more to stop at once" in capsys.readouterr().err


def test_what_keeps_nothing_says_so(capsys):
    """Where no file says how far it came, repeating the command begins anew."""
    with pytest.raises(Interrupted) as stopped, progress("fitting", 100, quiet=True, resumes=False) as advance:
        signal.raise_signal(signal.SIGTERM)
        advance(5)
    assert str(stopped.value) == "fitting: interrupted at 5 of 100; nothing was kept"
    assert "stopping; once more to stop at once" in capsys.readouterr().err
    with pytest.raises(Interrupted, match=r"^interrupted; nothing was kept$"), progress("fitting", 1, resumes=False):
        signal.raise_signal(signal.SIGTERM)


class Stopped(Exception):
    """Where a test has seen enough."""


@pytest.mark.parametrize(
    ("module", "work"),
    (
        ("offdyn_envs.datasets.gap.counterfactuals", lambda: counterfactual(load_dataset(SHIPPED), "nominal")),
        ("offdyn_envs.datasets.identifying.identify", lambda: identify(SHIPPED, free="gravity", rows=9)),
        ("offdyn_envs.progress", lambda: commands.envs_verify(["hopper"])),
    ),
)
def test_who_keeps_nothing(module, work, monkeypatch):
    def progress(*_, resumes=True, **__):
        raise Stopped(resumes)

    monkeypatch.setattr(sys.modules[module], "progress", progress)
    with pytest.raises(Stopped, match="False"):
        work()


def test_a_second_signal_stops_at_once():
    # A shell that starts the tests in the background has Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _second_signal()
    finally:
        signal.signal(signal.SIGINT, before)


def _second_signal():
    with pytest.raises(KeyboardInterrupt) as stopped, deferred():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert not isinstance(stopped.value, Interrupted)
    assert asked() == 0


def test_work_that_is_done_ends_before_the_signal_is_delivered():
    done = []
    with pytest.raises(Interrupted), progress("collect", 10, quiet=True) as advance:
        signal.raise_signal(signal.SIGINT)
        advance(10)
        done.append(True)
    assert done == [True]


def test_blocks_inside_each_other_and_in_other_threads_leave_handlers_alone():
    before = signal.getsignal(signal.SIGINT)

    def elsewhere():
        with progress("other", 1, quiet=True) as advance:
            advance(1)

    with deferred():
        inside = signal.getsignal(signal.SIGINT)
        with progress("inner", 1, quiet=True) as advance:
            advance(1)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGINT) == inside != before
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("threads", ["1", "2"])
def test_ctrl_c_in_a_loop_over_the_batched_environment(threads, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BATCH, threads], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode in (-signal.SIGINT, 130), done.stderr
    assert "KeyboardInterrupt" in done.stderr


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_training_keeps_its_checkpoint_and_goes_on(kind, tmp_path):
    command = [sys.executable, "-c", TRAIN, str(tmp_path), str(int(kind))]
    stopped = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    run = tmp_path / "hopper-gravity-0.5-medium" / "bc"
    assert stopped.returncode == 128 + kind, stopped.stderr
    assert "interrupted at 6 of 12; repeat the command to resume" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert (run / "checkpoints" / "last.ckpt").is_file()
    begun = time.monotonic()
    whole = subprocess.run([*command[:-1], "0"], capture_output=True, text=True, check=False, timeout=300)
    assert whole.returncode == 0, whole.stderr
    assert (run / "seeds" / "1" / "policy.onnx").is_file()
    assert time.monotonic() - begun < 300


@pytest.mark.parametrize(
    "variables",
    [
        {"LOCAL_RANK": "1"},
        {"RANK": "3"},
        {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_PROCID": "2", "SLURM_JOB_NAME": "job"},
    ],
    ids=str,
)
def test_one_process_is_one_training_whatever_a_scheduler_says(variables, tmp_path):
    command = [sys.executable, "-c", TRAIN, str(tmp_path), "0"]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False, timeout=300)
    run = tmp_path / "hopper-gravity-0.5-medium" / "bc"
    assert done.returncode == 0, done.stderr
    assert (run / "metrics.csv").read_text().count("\n") == 5
    assert any((run / "tensorboard").glob("events.out.tfevents.*"))
