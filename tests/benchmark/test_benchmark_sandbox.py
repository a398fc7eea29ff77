from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import benchmark_models as models
import numpy as np
import pytest

from offdyn_envs.benchmark.gate.onnx_policy import load_critic, load_policy
from offdyn_envs.benchmark.sandbox import isolation, sandbox
from offdyn_envs.benchmark.scoring import grid, rollouts
from offdyn_envs.benchmark.scoring.cells import Cell
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import get_robot
from offdyn_envs.shifts import Gravity

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")

LIMITS = sandbox.Limits(cpu=60, wall=120)


def job(policy: Path, *, robot: str = "hopper", episodes: int = 3, **changes: Any) -> dict[str, Any]:
    cells = [{"family": None, "level": None, "episodes": episodes, "seed": 11}]
    critic = changes.pop("critic", None)
    policies = [{"name": "seed 0", "policy": str(policy), "critic": critic}]
    base = {"robot": robot, "shifts": [], "policies": policies, "reference": None, "sigma": None, "cells": cells}
    return base | changes


def saved(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "policy.onnx"
    path.write_bytes(data)
    return path


def test_the_sandbox_plays_what_the_library_plays(tmp_path: Path) -> None:
    path = saved(tmp_path, models.policy(11, 3))
    (tmp_path / "critic.onnx").write_bytes(models.critic(11, 3))
    (tmp_path / "reference.onnx").write_bytes(models.critic(11, 3, seed=1))
    cells = [
        {"family": None, "level": None, "episodes": 3, "seed": 11},
        {"family": "gravity", "level": 2.0, "episodes": 2, "seed": 11},
        {"family": "min-q", "level": 0.2, "episodes": 2, "seed": 11},
        {"family": "min-q-own", "level": 0.2, "episodes": 2, "seed": 11},
        {"family": "held-out", "level": 1.0, "episodes": 4, "seed": 11},
    ]
    changes = {"cells": cells, "critic": str(tmp_path / "critic.onnx"), "reference": str(tmp_path / "reference.onnx")}
    asked = job(path, shifts=[{"kind": "gravity", "scale": 0.5}], sigma=[0.5] * 11, **changes)
    other = tmp_path / "other.onnx"
    other.write_bytes(models.policy(11, 3, seed=1))
    asked["policies"].append({"name": "seed 1", "policy": str(other), "critic": None})
    asked["cells"] = cells[:3]
    both = sandbox.run_job(asked, LIMITS, "policies")
    assert both["returns"][0] != both["returns"][1]
    asked |= {"cells": cells, "policies": asked["policies"][:1]}
    answer = sandbox.run_job(asked, LIMITS, "policy")
    policy, critic = load_policy(path), load_critic(tmp_path / "critic.onnx")
    reference = load_critic(changes["reference"])
    kinds: list[Any] = [None, *(Cell(cell["family"], cell["level"]) for cell in cells[1:])]
    asks = [grid.Ask(kind, cell["episodes"], 11) for kind, cell in zip(kinds, cells, strict=True)]
    judges = grid.Judges([0.5] * 11, reference, [critic])
    found = grid.grid_returns([policy], get_robot("hopper"), [Gravity(0.5)], asks, judges)
    assert answer["returns"] == [[returns[0].tolist() for returns in found]]
    (seen,) = answer["returns"]
    assert len({tuple(seen[2]), tuple(seen[3]), tuple(seen[0][:2])}) == 3
    assert answer["policies"][0]["sha256"] == policy.sha256
    assert {"resource-limits"} < set(answer["measures"])
    alone = rollouts.episode_returns(policy, "hopper", [Gravity(0.5)], 3, 11)
    np.testing.assert_allclose(seen[0], alone, rtol=1e-4)


def test_unbounded_allocation_is_stopped(tmp_path: Path) -> None:
    path = saved(tmp_path, models.memory_bomb(11, 3))
    with pytest.raises(OffDynError, match=r"fails in inference|memory|crashed"):
        sandbox.run_job(job(path), LIMITS, "policy")


def test_a_graph_that_never_ends_is_stopped_by_processor_time(tmp_path: Path) -> None:
    path = saved(tmp_path, models.time_bomb(11, 3))
    with pytest.raises(OffDynError, match="used more than 2 s of processor time"):
        sandbox.run_job(job(path), sandbox.Limits(cpu=2, wall=120), "policy")


def test_a_graph_that_never_ends_is_stopped_by_the_clock(tmp_path: Path) -> None:
    path = saved(tmp_path, models.time_bomb(11, 3))
    begun = time.monotonic()
    with pytest.raises(OffDynError, match="took longer than 2 s"):
        sandbox.run_job(job(path), sandbox.Limits(cpu=600, wall=2), "policy")
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"junk", "no ONNX file"),
        (models.policy(17, 6), "this task's is 11"),
        (models.external_data("/etc/passwd"), "external data"),
    ],
)
def test_the_gate_stands_inside_the_sandbox(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(OffDynError, match=message):
        sandbox.run_job(job(saved(tmp_path, data)), LIMITS, "policy")


def test_an_attack_without_what_it_needs_is_refused(tmp_path: Path) -> None:
    cells = [{"family": "min-q", "level": 0.2, "episodes": 2, "seed": 11}]
    path = saved(tmp_path, models.policy(11, 3))
    with pytest.raises(OffDynError, match="standard deviations"):
        sandbox.run_job(job(path, cells=cells), LIMITS, "policy")
    with pytest.raises(OffDynError, match="needs a critic"):
        sandbox.run_job(job(path, cells=cells, sigma=[1.0] * 11), LIMITS, "policy")


PROBE = """
import json, os, socket, subprocess, sys, threading
sys.path.insert(0, sys.argv[1])
import isolation
measures = isolation.restrict({"memory": 2**30, "cpu": 20, "files": 32})
def outcome(attempt):
    try:
        attempt()
    except BaseException as error:
        return type(error).__name__
    return "worked"
attempts = {
    "socket": lambda: socket.create_connection(("127.0.0.1", int(sys.argv[3])), 1),
    "write": lambda: open(sys.argv[2] + "/written", "w").write("x"),
    "delete": lambda: os.unlink(sys.argv[2] + "/victim"),
    "program": lambda: os.execv("/bin/true", ["true"]),
    "fork": lambda: os._exit(0) if os.fork() == 0 else None,
    "signal": lambda: os.kill(os.getppid(), 0),
    "memory": lambda: bytearray(2**31),
    "files": lambda: [os.open("/dev/zero", os.O_RDONLY) for _ in range(64)],
}
print(json.dumps({"measures": measures, **{name: outcome(attempt) for name, attempt in attempts.items()}}))
"""


def test_what_a_process_cannot_do_any_more(tmp_path: Path) -> None:
    import socket

    (tmp_path / "victim").write_text("here")
    with socket.create_server(("127.0.0.1", 0)) as server:
        arguments = [str(Path(isolation.__file__).parent), str(tmp_path), str(server.getsockname()[1])]
        done = subprocess.run(
            [sys.executable, "-I", "-c", textwrap.dedent(PROBE), *arguments], capture_output=True, text=True, check=True
        )
    found = json.loads(done.stdout)
    measures = found.pop("measures")
    assert found["memory"] == "MemoryError"
    assert found["files"] == "OSError"
    assert found["socket"] != "worked"
    if "seccomp" in measures:
        assert {found[name] for name in ("program", "fork", "signal")} == {"PermissionError"}
    if "landlock" in measures:
        assert {found["write"], found["delete"]} == {"PermissionError"}
        assert (tmp_path / "victim").exists()
    # Without Landlock a file may appear, but nothing can be written into it.
    assert not (tmp_path / "written").exists() or (tmp_path / "written").read_text() == ""


def test_a_process_that_cannot_set_its_limits_refuses(tmp_path: Path) -> None:
    path = saved(tmp_path, models.policy(11, 3))
    with pytest.raises(OffDynError, match="cannot set its limits"):
        sandbox.run_job(job(path), sandbox.Limits(memory=2**70), "policy")


@pytest.mark.parametrize("text", ["", "[]", "not json", "[" * 100_000, '"x"'])
def test_an_answer_that_is_no_answer_is_refused(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "fake.py"
    script.write_text(f"print({text!r})")
    monkeypatch.setattr(sandbox.isolation, "__file__", str(script))
    with pytest.raises(OffDynError, match="without an answer"):
        sandbox.run_job({}, LIMITS, "policy")


def test_endless_output_and_crashes_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "fake.py"
    monkeypatch.setattr(sandbox.isolation, "__file__", str(script))
    script.write_text("while True: print('x' * 100000)")
    with pytest.raises(OffDynError, match="printed more than"):
        sandbox.run_job({}, LIMITS, "policy")
    script.write_text("import os; os.abort()")
    with pytest.raises(OffDynError, match=r"crashed \(SIGABRT\)"):
        sandbox.run_job({}, LIMITS, "policy")
    script.write_text('print(\'{"error": "bad\\\\u001b[2J\\\\nline"}\')')
    with pytest.raises(OffDynError, match="bad") as caught:
        sandbox.run_job({}, LIMITS, "policy")
    assert str(caught.value).isprintable()
