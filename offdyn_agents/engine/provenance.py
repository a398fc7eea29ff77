"""What made a file: the commit of the code, the versions of packages, the processor."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["git_commit", "made_by", "package_versions", "processor_name"]


def git_commit() -> str:
    """Return the commit of the code that runs, "" outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def made_by(command: str, precision: str) -> dict[str, Any]:
    """Return what a record says of how it was made, as run.json does, plain JSON.

    Args:
        command: The command that makes it from nothing.
        precision: Of its trainings.

    Returns:
        "command", "commit", "precision", and "versions" of this suite, PyTorch, MuJoCo and NumPy.
    """
    versions = package_versions("offdyn", "torch", "mujoco", "numpy")
    return {"command": command, "commit": git_commit(), "precision": precision, "versions": versions}


def package_versions(*names: str) -> dict[str, str]:
    """Return the installed versions of packages, "unknown" for those that are not installed."""
    return {name: _version(name) for name in names}


def processor_name() -> str:
    """Return the name of the processor, as far as the system says it."""
    table = Path("/proc/cpuinfo")
    for line in table.read_text(encoding="utf-8").splitlines() if table.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
