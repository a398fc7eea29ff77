"""`import offdyn_envs` is quick, opens nothing but code, compiles nothing and loads no heavy library."""

import json
import subprocess
import sys

LIMIT = 0.7
HEAVY = (
    *("torch", "lightning", "mujoco", "gymnasium_robotics", "h5py", "minari", "onnx", "onnxruntime", "matplotlib"),
    *("typer", "rich", "pooch", "safetensors", "jsonschema", "PIL", "imageio"),
)
# Runs in a process of its own: what is imported, what is opened, how long it takes.
PROBE = """
import json, sys, time
events = []
watched = ("open", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.mkdir", "os.remove", "os.rename")
sys.addaudithook(lambda event, details: events.append((event, str(details[0]))) if event in watched else None)
begun = time.process_time()
import offdyn_envs
seconds = time.process_time() - begun
print(json.dumps({"seconds": seconds, "events": events, "modules": sorted(sys.modules)}))
"""


def probe(folder):
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, cwd=folder)
    return json.loads(done.stdout)


def test_import_is_quick(tmp_path):
    """Processor time, best of five: a wall clock would also measure what else runs on the machine."""
    seconds = [probe(tmp_path)["seconds"] for _ in range(5)]
    assert min(seconds) < LIMIT, seconds


def test_import_loads_no_heavy_library(tmp_path):
    loaded = {name.partition(".")[0] for name in probe(tmp_path)["modules"]}
    assert "offdyn_envs" in loaded
    assert loaded.isdisjoint((*HEAVY, "offdyn_agents"))


def test_import_opens_only_code(tmp_path):
    """No model, no data, no network, no process; and it leaves nothing behind."""
    events = [(event, path) for event, path in probe(tmp_path)["events"] if "__pycache__" not in path]
    assert events
    strangers = [
        (event, path) for event, path in events if event != "open" or not path.endswith((".py", ".pyc", ".so"))
    ]
    assert strangers == []
    assert list(tmp_path.iterdir()) == []
