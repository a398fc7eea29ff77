"""Time to build a dataset, to load it from its flat cache, and to load it the first time, from its HDF5 file alone.

    python benchmarks/datasets.py                                     # 1,000,000 rows of each robot, about 15 minutes
    python benchmarks/datasets.py offdyn/hopper/nominal/random-100k-v0 --json

Everything is built into a temporary folder and removed again. "quiet" is about what the wall clock would show on a
machine with nothing else to do: the main thread's processor time, and no less than an equal part of all threads'.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco

from offdyn_envs.batching.threads import usable_threads
from offdyn_envs.datasets.collecting.build import build
from offdyn_envs.datasets.loading import load_dataset
from offdyn_envs.tasks import DatasetId

DEFAULT = [
    "offdyn/halfcheetah/nominal/medium-1m-v0",
    "offdyn/hopper/nominal/medium-1m-v0",
    "offdyn/walker2d/nominal/medium-1m-v0",
    "offdyn/ant/nominal/medium-1m-v0",
    "offdyn/hopper/nominal/random-1m-v0",
]


def timed(work: Callable[[], Any], threads: int = 1) -> dict[str, float]:
    """Return seconds on the wall clock and on a quiet machine; files that were read stay in the page cache."""
    wall, own, every = time.perf_counter(), time.thread_time(), time.process_time()
    work()
    wall, own, every = time.perf_counter() - wall, time.thread_time() - own, time.process_time() - every
    return {"wall": wall, "quiet": max(own, every / threads)}


def measure(name: str, root: Path, threads: int, quiet: bool) -> dict[str, Any]:
    """Build and load one dataset."""
    dataset = DatasetId.parse(name)
    times = {"build": timed(lambda: build(dataset, root=root, num_threads=threads, quiet=quiet), threads)}
    loads = [timed(lambda: load_dataset(dataset, root=root)) for _ in range(5)]
    times["load"] = min(loads, key=lambda item: item["wall"])
    shutil.rmtree(root / name / "flat")
    times["first load"] = timed(lambda: load_dataset(dataset, root=root))
    times["load again"] = timed(lambda: load_dataset(dataset, root=root))
    data = load_dataset(dataset, root=root)
    sizes = {part: sum(file.stat().st_size for file in (data.path / part).iterdir()) / 1e6 for part in ("data", "flat")}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    facts = {"rows": len(data), "episodes": len(data.arrays.lengths), "sha256": data.card["sha256"]}
    return {"dataset": name, **facts, "seconds": times, "MB": sizes, "peak MB": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", default=DEFAULT)
    parser.add_argument("--threads", type=int, default=usable_threads())
    parser.add_argument("--root", type=Path, help="where the temporary folder is made")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    machine = {"cores": usable_threads(), "mujoco": mujoco.__version__, "load average before": os.getloadavg()}
    if not arguments.json:
        print(", ".join(f"{name} {value}" for name, value in machine.items()))
    results: list[dict[str, Any]] = []
    for name in arguments.datasets:
        with tempfile.TemporaryDirectory(dir=arguments.root) as root:
            results.append(measure(name, Path(root), arguments.threads, arguments.json))
        if not arguments.json:
            print_result(results[-1])
    if arguments.json:
        print(json.dumps({"machine": machine, "results": results}, indent=2))


def print_result(result: dict[str, Any]) -> None:
    """Print one result of `measure`."""
    print(f"{result['dataset']}: {result['rows']:,} rows, {result['episodes']:,} episodes")
    for what, seconds in result["seconds"].items():
        print(f"  {what:<12}{seconds['wall']:>9.2f} s{seconds['quiet']:>9.2f} s on a quiet machine")
    sizes = ", ".join(f"{part} {size:,.0f} MB" for part, size in result["MB"].items())
    print(f"  {sizes}, peak memory {result['peak MB']:,.0f} MB", flush=True)


if __name__ == "__main__":
    main()
