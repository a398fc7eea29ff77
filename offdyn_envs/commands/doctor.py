"""`offdyn doctor`: what this machine has of what offdyn uses."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from offdyn_envs.commands.options import Json
from offdyn_envs.errors import OffDynError

__all__ = ["doctor", "findings"]

PACKAGES = (
    "offdyn",
    "numpy",
    "gymnasium",
    "mujoco",
    "minari",
    "torch",
    "lightning",
    "onnxruntime",
    "matplotlib",
    "pillow",
    "pyarrow",
    "gymnasium-robotics",
    "ray",
)
NO = "no"


def doctor(json_output: Json = False) -> None:
    """Check this machine: versions, processor, GPU, off-screen rendering, data folder and free space."""
    from offdyn_envs.report import print_record

    print_record("offdyn on this machine", findings(), json_output)


def findings() -> dict[str, Any]:
    """Return what was found, in the order to show; nothing is installed or changed."""
    from offdyn_envs.batching.threads import usable_threads

    compiler = next((path for name in _compilers() if (path := shutil.which(name))), None)
    return {
        "Python": f"{platform.python_version()}, {sys.executable}",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "packages": [f"{name} {_version(name)}" for name in PACKAGES],
        "processor": _processor(_cpu_facts()),
        "threads": usable_threads(),
        "C++ compiler": compiler or f"{NO}: updates are not compiled and several times slower; install g++",
        "GPU": _gpu(),
        "drawing": _drawing(),
        **_data(),
    }


def _compilers() -> tuple[str, ...]:
    return (os.environ.get("CXX", ""), "g++", "clang++", "c++")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "is not installed"


def _cpu_facts() -> dict[str, str]:
    """Return what Linux tells of the first processor; nothing elsewhere."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8").split("\n\n")[0].splitlines() if table.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _processor(facts: Mapping[str, str]) -> str:
    """Name the processor and its wide units: AMX makes bf16 fast, AVX2 is what fp32 needs."""
    flags = facts.get("flags", "").split()
    units = [name for name, flag in (("AVX2", "avx2"), ("AVX-512", "avx512f"), ("AMX", "amx_tile")) if flag in flags]
    name = facts.get("model name") or platform.processor() or platform.machine()
    told = f"{name}; {', '.join(units) or 'units unknown'}"
    return told if "AMX" in units or not units else f"{told}; no AMX: --precision bf16 is no faster here"


def _gpu() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return f"{NO} (nvidia-smi is not here)"
    try:
        asked = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{NO} ({type(error).__name__})"
    lines = done.stdout.strip().splitlines()
    return "; ".join(lines) if done.returncode == 0 and lines else f"{NO} (nvidia-smi finds none)"


def _drawing() -> str:
    from offdyn_envs.rendering.gl import make_context

    try:
        make_context(16, 16).free()
    except OffDynError as error:
        return f"{NO}: {error}"
    return f"works, with {os.environ.get('MUJOCO_GL') or 'the default of MuJoCo'}"


def _data() -> dict[str, Any]:
    from offdyn_envs.datasets.store.folders import DATA_DIR_VARIABLE, data_root, local_ids
    from offdyn_envs.shipped import shipped_root

    root = data_root()
    there = next((place for place in (root, *root.parents) if place.exists()), Path("/"))
    free = shutil.disk_usage(there).free
    built = local_ids() if root.is_dir() else []
    return {
        "data folder": f"{root} (${DATA_DIR_VARIABLE} chooses another)",
        "datasets": f"{len(built)} built, {len(local_ids(shipped_root()))} shipped",
        "free there": f"{free / 1e9:.1f} GB; a source of a million rows takes 0.4 to 1.2 GB",
    }
