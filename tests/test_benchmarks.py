"""The speed measurement runs, and its peers compute the same numbers; how fast they are is not asserted."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offdyn_envs.robots import ROBOTS

FOLDER = Path(__file__).parents[1] / "benchmarks"
OURS = {"offdyn", "bare rollout", "thread pool"}


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import environment_peers

    return environment_peers


def test_environment_benchmark_runs(tmp_path):
    arguments = ["--robots", "halfcheetah", "--rows", "2", "--rounds", "1", "--turn", "8", "--json"]
    command = [sys.executable, str(FOLDER / "environments.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    (result,) = json.loads(done.stdout)["results"]
    expected = OURS | {f"{name}, own models" for name in OURS} | {"gymnasium sync", "gymnasium async", "envpool"}
    assert set(result["peers"]) | set(result["skipped"]) == expected
    assert set(result["skipped"]) <= {"envpool"}
    assert all(figures["steps/s"] > 0 for figures in result["peers"].values())
    assert result["peers"]["gymnasium sync"]["x sync"] == result["peers"]["bare rollout"]["x bare"] == 1.0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ROBOTS)
def test_bare_peers_compute_what_the_environment_does(peers, name):
    robot = ROBOTS[name]
    actions = np.random.default_rng(0).uniform(-1, 1, (60, 5, robot.action_dim)).astype(np.float32)
    recording = peers.record(robot, peers.different_rows(robot, 5), actions, threads=2)
    assert len(set(map(id, recording.models()))) == 5
    if robot.z_range is not None:
        assert (recording.before[1:] != recording.after[:-1]).any(), "no episode ended: resets were not replayed"
    for kind in (peers.OffDyn, peers.BareRollout, peers.ThreadPool):
        peer = kind(recording)
        for step in range(len(actions)):
            peer.step(step)
        assert peer.agrees(), kind
        peer.close()


def test_a_peer_that_computes_something_else_is_noticed(peers):
    robot = ROBOTS["hopper"]
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 2, 3)).astype(np.float32)
    recording = peers.record(robot, [(), ()], actions, threads=1)
    weaker = replace(recording, actions=0.9 * actions)
    for kind in (peers.OffDyn, peers.BareRollout, peers.ThreadPool):
        peer = kind(weaker)
        for step in range(len(actions)):
            peer.step(step)
        assert not peer.agrees(), kind
        peer.close()
