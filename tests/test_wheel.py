"""The wheel, installed outside the checkout and without network, makes an environment and builds a dataset."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Python runs this file before anything else: whatever tries to reach another machine fails at once.
NO_NETWORK = """
import socket
def refuse(*arguments, **options):
    raise OSError("the test allows no network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""
USE = """
import gymnasium, offdyn, offdyn_envs, pathlib, sys
from offdyn_envs.cli import main
assert pathlib.Path(offdyn_envs.__file__).is_relative_to(sys.argv[1]), offdyn_envs.__file__
assert pathlib.Path(offdyn.__file__).is_relative_to(sys.argv[1]), offdyn.__file__
assert offdyn.agents.BC().name == "bc" and offdyn.make("OffDyn/Hopper-v0")
env = gymnasium.make("offdyn_envs:OffDyn/Hopper-gravity-0.5-v0")
env.reset(seed=0)
main(["data", "build", "offdyn/hopper/gravity-0p5/medium-5k-v0"])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


def test_wheel_works_outside_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "sitecustomize.py").write_text(NO_NETWORK)
    env = os.environ | {"PYTHONPATH": str(site), "OFFDYN_DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run(
        [sys.executable, "-c", USE, str(site)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "5,000 rows" in done.stdout
    assert "manifest: not in the manifest" not in done.stdout
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "from offdyn_envs import load_dataset; print(len(load_dataset('offdyn/hopper/gravity-0p5/medium-5k-v0')))",
        ],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.strip() == "5000"


def test_wheel_carries_every_file_of_the_packages(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    for package in ("offdyn", "offdyn_envs", "offdyn_agents"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert path.relative_to(ROOT).as_posix() in inside
    assert "offdyn_envs/shipped/manifest.json" in inside
    assert {"offdyn/py.typed", "offdyn_envs/py.typed", "offdyn_agents/py.typed"} <= inside
    behaviours = ROOT / "datasets" / "behaviours"
    policies = list(behaviours.rglob("*.safetensors"))
    assert policies
    for path in policies:
        name = path.relative_to(behaviours).as_posix()
        assert f"offdyn_envs/shipped/behaviours/{name}" in inside
        assert f"offdyn_envs/shipped/behaviours/{name}".replace(".safetensors", ".json") in inside
