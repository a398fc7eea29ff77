"""An agent of another package: built, installed beside offdyn, used like one of its own; no line here knows of it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT, PACKAGE = Path(__file__).parents[2], Path(__file__).parent / "dara_like"
TASK = "hopper-gravity-0.5-medium"
TRAIN = """
import sys
from tests.agents import stand_ins
stand_ins.install()
from offdyn_envs.cli import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Install a copy of the package from its source; give the copy's folder, and an environment that has it."""
    folder = tmp_path_factory.mktemp("outside")
    source, site = folder / "dara_like", folder / "site-packages"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", str(site), str(source)], check=True)
    path = os.pathsep.join([str(site), str(ROOT)])
    return source, os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def run(installed, *words, cwd=None):
    folder, environment = installed
    line = [sys.executable, *map(str, words)]
    return subprocess.run(line, env=environment, cwd=cwd or folder, capture_output=True, text=True, check=False)


def test_the_command_knows_it(installed):
    done = run(installed, "-m", "offdyn_envs.cli", "train", "dara-like", TASK, "--settings", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row["setting"]: row for row in json.loads(done.stdout)}
    assert rows["dara.updates"]["value"] == "5000" and rows["expectile"]["meaning"] == "tau of V's regression."
    assert "leaves IQL" not in str(rows) and rows["data"]["allowed"] == "merged"
    done = run(installed, "-m", "offdyn_envs.cli", "train", "dara-lke", TASK)
    assert done.returncode == 2 and "did you mean 'dara-like'?" in done.stderr


def test_it_trains_on_a_task(installed, tmp_path):
    small = ["--set", "width=16", "--set", "batch_size=32", "--set", "dara.updates=5", "--set", "dara.width=16"]
    more = ["--updates", 12, "--eval-every", 6, "--seeds", 2, "--quiet", *small]
    done = run(installed, "-c", TRAIN, "train", "dara-like", TASK, "--out", tmp_path, *more, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / TASK / "dara-like"
    facts = json.loads((folder / "run.json").read_text())
    assert (facts["agent"], facts["status"], facts["tuning_evaluations"]) == ("dara-like", "complete", None)
    assert len(facts["stages"]["rows"]) == 2
    assert (folder / "seeds/1/policy.onnx").exists() and (folder / "seeds/1/critic.onnx").exists()


def test_it_passes_the_conformance_suite(installed):
    done = run(installed, "-m", "pytest", "-q", "-W", "error::pytest.PytestWarning", "tests")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 passed" in done.stdout, done.stdout
