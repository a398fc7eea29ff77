"""`import offdyn` and `import offdyn_envs` are quick, open nothing but code and load no heavy library."""

import importlib
import json
import subprocess
import sys

import pytest

import offdyn
from offdyn_agents.algorithms.registry import class_names, names

LIMIT = 0.7
HEAVY = (
    *("torch", "lightning", "mujoco", "gymnasium_robotics", "h5py", "minari", "onnx", "onnxruntime", "matplotlib"),
    *("typer", "rich", "pooch", "safetensors", "jsonschema", "PIL", "imageio"),
)
# Runs in a process of its own: what is imported, what is opened, how long it takes.
PROBE = """
import importlib, json, sys, time
events = []
watched = ("open", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.mkdir", "os.remove", "os.rename")
sys.addaudithook(lambda event, details: events.append((event, str(details[0]))) if event in watched else None)
begun = time.process_time()
importlib.import_module(sys.argv[1])
seconds = time.process_time() - begun
print(json.dumps({"seconds": seconds, "events": events, "modules": sorted(sys.modules)}))
"""

both = pytest.mark.parametrize("package", ["offdyn", "offdyn_envs"])


def probe(folder, package):
    command = [sys.executable, "-c", PROBE, package]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return json.loads(done.stdout)


@both
def test_import_is_quick(tmp_path, package):
    """Processor time, best of five: a wall clock would also measure what else runs on the machine."""
    seconds = [probe(tmp_path, package)["seconds"] for _ in range(5)]
    assert min(seconds) < LIMIT, seconds


@both
def test_import_loads_no_heavy_library(tmp_path, package):
    loaded = {name.partition(".")[0] for name in probe(tmp_path, package)["modules"]}
    assert package in loaded
    assert loaded.isdisjoint((*HEAVY, "offdyn_agents"))


@both
def test_import_opens_only_code(tmp_path, package):
    """No model, no data, no network, no process; and it leaves nothing behind."""
    events = [(event, path) for event, path in probe(tmp_path, package)["events"] if "__pycache__" not in path]
    assert events
    strangers = [
        (event, path) for event, path in events if event != "open" or not path.endswith((".py", ".pyc", ".so"))
    ]
    assert strangers == []
    assert list(tmp_path.iterdir()) == []


def test_names_are_known_without_torch():
    """Checking a name, of an agent or of the API, is no reason to load what trains."""
    code = """
import sys, offdyn
assert "fit" in dir(offdyn) and "DROCO" in dir(offdyn.agents)
assert offdyn.agents.names() and offdyn.Gravity(0.5) and offdyn.OffDynError and offdyn.__version__
assert "torch" not in sys.modules and "lightning" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_name_of_the_front_door_is_there():
    assert dir(offdyn) == offdyn.__all__ == sorted(offdyn.__all__)
    assert set(offdyn._PLACES) | {"agents"} == set(offdyn.__all__)
    for name in offdyn.__all__:
        assert getattr(offdyn, name) is not None
    assert offdyn.make("OffDyn/Hopper-v0").spec.id == "OffDyn/Hopper-v0"
    with pytest.raises(AttributeError, match="module 'offdyn' has no attribute 'fitt'"):
        _ = offdyn.fitt


def test_the_front_door_names_every_agent():
    assert sorted(class_names().values()) == sorted(names())
    assert dir(offdyn.agents) == sorted([*class_names(), "names", "register"])
    with pytest.raises(AttributeError, match="unknown agent 'DROC'; did you mean 'DROCO'"):
        _ = offdyn.agents.DROC
    assert not hasattr(offdyn.agents, "__wrapped__")


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("offdyn_envs.datasets.build", "offdyn_envs.datasets.collecting.build"),
        ("offdyn_envs.benchmark.scores", "offdyn_envs.benchmark.scoring.scores"),
    ],
)
def test_former_names_of_modules_have_all_that_they_had(former, now):
    old, new = importlib.import_module(former), importlib.import_module(now)
    assert sorted(old.__all__) == sorted(new.__all__)
    assert all(getattr(old, name) is getattr(new, name) for name in new.__all__)
