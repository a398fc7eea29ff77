"""The training of a stage that is killed, in a process of its own."""

import os
import signal
import subprocess
import sys

SCRIPT = """
import os, signal
from pathlib import Path
import torch
from offdyn_agents.engine.stage_cache import Unfinished
torch.set_num_threads(1)
write, times = Unfinished.write, []
def dying(copy, tensors):
    write(copy, tensors)
    times.append(1)
    if len(times) == {copies}:
        os.kill(os.getpid(), signal.SIGKILL)
Unfinished.write = dying
folder = Path({folder!r})
"""


def kill_after(copies, folder, script):
    """Run lines that train into `folder`, until so many copies of the unfinished training are written.

    The folder then holds the last copy and nothing else.
    """
    lines = SCRIPT.format(copies=copies, folder=str(folder)) + script
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", lines], env=env, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.suffix for path in folder.iterdir()] == [".partial"]
