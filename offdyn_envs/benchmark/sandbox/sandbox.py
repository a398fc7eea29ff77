"""Runs one job of `worker` in a limited subprocess: the only place where a submission's bytes are parsed or executed.

The process gets limits on memory, CPU time, open files and new processes, may write no file, has no network, an empty
environment and a deadline; see `isolation`. What it prints is read up to a cap and trusted only as numbers.
"""

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from offdyn_envs.benchmark.gate.printable import printable
from offdyn_envs.benchmark.sandbox import isolation
from offdyn_envs.errors import OffDynError
from offdyn_envs.interruption import undone

__all__ = ["Limits", "require_sandbox", "run_job"]

MAX_OUTPUT = 16 * 2**20


@dataclass(frozen=True)
class Limits:
    """What a sandboxed process may use.

    Attributes:
        memory: Address space in bytes.
        cpu: Processor time in seconds.
        files: Files open at once.
        wall: Seconds until the process is killed, whatever it does.
    """

    memory: int = 3 * 2**30
    cpu: int = 300
    files: int = 64
    wall: float = 1200.0


def require_sandbox() -> None:
    """Raise an `OffDynError` where there is no sandbox."""
    if sys.platform != "linux":
        raise OffDynError(
            f"the sandbox needs Linux, this is {sys.platform}; nothing from a submission is run without it"
        )


def run_job(job: dict[str, Any], limits: Limits, label: str) -> dict[str, Any]:
    """Runs a job in a sandbox.

    Args:
        job: Plain JSON; see `worker.main`.
        limits: What the process may use.
        label: How error messages call the job.

    Returns:
        The worker's answer.

    Raises:
        OffDynError: The limits could not be set, one was exceeded, or the worker refused the job.
    """
    require_sandbox()
    with tempfile.TemporaryDirectory(prefix="offdyn-sandbox-") as folder, undone(lambda: shutil.rmtree(folder)):
        process = _start(limits, folder)
        try:
            with undone(lambda: _kill(process)):
                output, reason = _converse(process, json.dumps(job).encode(), limits)
        finally:
            _kill(process)
    return _answer(output, reason or _death(process.returncode, limits), label)


def _start(limits: Limits, folder: str) -> "subprocess.Popen[bytes]":
    root = Path(__file__).resolve().parents[3]
    numbers = {name: value for name, value in asdict(limits).items() if name != "wall"}
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    return subprocess.Popen(
        [sys.executable, "-I", "-B", isolation.__file__, str(root), json.dumps(numbers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        # Without a renderer: importing one starts a helper program, which the sandbox forbids.
        env={"PATH": "/usr/bin:/bin", "HOME": folder, "LC_ALL": "C.UTF-8", "MUJOCO_GL": "disable", **threads},
        start_new_session=True,
    )


def _converse(process: "subprocess.Popen[bytes]", question: bytes, limits: Limits) -> tuple[bytes, str | None]:
    """Sends the job and reads the answer; the second value says why reading stopped early."""
    assert process.stdin is not None and process.stdout is not None
    deadline, parts, size = time.monotonic() + limits.wall, [], 0
    try:
        process.stdin.write(question)
        process.stdin.close()
    except BrokenPipeError:
        pass  # the process is gone already; what it said, if anything, is read below
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not selector.select(remaining):
                return b"", f"took longer than {limits.wall:g} s"
            part = os.read(process.stdout.fileno(), 65536)
            if not part:
                break
            parts.append(part)
            size += len(part)
            if size > MAX_OUTPUT:
                return b"", f"printed more than {MAX_OUTPUT} bytes"
    try:
        process.wait(max(deadline - time.monotonic(), 1.0))
    except subprocess.TimeoutExpired:
        return b"", f"took longer than {limits.wall:g} s"
    return b"".join(parts), None


def _kill(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None and not stream.closed:
            try:
                stream.close()
            except BrokenPipeError:
                pass


def _death(status: int, limits: Limits) -> str | None:
    if status >= 0:
        return None
    if -status == signal.SIGXCPU:
        return f"used more than {limits.cpu} s of processor time"
    return f"crashed ({signal.Signals(-status).name})"


def _answer(output: bytes, reason: str | None, label: str) -> dict[str, Any]:
    if reason is not None:
        raise OffDynError(f"{label} {reason} in the sandbox")
    try:
        answer: Any = json.loads(output)
    except (ValueError, RecursionError):
        raise OffDynError(f"{label} ended in the sandbox without an answer") from None
    if not isinstance(answer, dict):
        raise OffDynError(f"{label} ended in the sandbox without an answer")
    if "error" in answer:
        raise OffDynError(f"{label}: {printable(answer['error'], 300)}")
    return answer
