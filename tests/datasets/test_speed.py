"""The measurement of building and loading runs, and leaves nothing behind; how fast it is is not asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from offdyn_envs.datasets.store.folders import read_metadata
from tests.datasets.conftest import NOMINAL

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "datasets.py"


def test_dataset_benchmark_runs(built_root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), NOMINAL, "--root", str(tmp_path), "--threads", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (result,) = json.loads(done.stdout)["results"]
    card = read_metadata(built_root / NOMINAL)["offdyn"]
    assert {key: result[key] for key in ("rows", "episodes", "sha256")} == {
        key: card[key] for key in ("rows", "episodes", "sha256")
    }
    assert set(result["seconds"]) == {"build", "load", "first load", "load again"}
    assert all(0 < times["quiet"] for times in result["seconds"].values())
    assert list(tmp_path.iterdir()) == []
