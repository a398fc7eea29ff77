"""kill -9 in every stage of a whole training: the same command goes on and ends with the same weights.

The killed training is a process of its own; what goes on from its files does so here, where it can be counted how much
is done again.
"""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from offdyn_agents.algorithms.registry import agent_class
from offdyn_agents.engine.training.module import PopulationModule
from offdyn_agents.models.dual import training as mobody_training
from offdyn_agents.models.dynamics_reward import scorer as scorer_stage
from offdyn_agents.models.dynamics_reward import stage as reward_stage
from offdyn_agents.models.dynamics_reward.contrast import NoiseContrast
from offdyn_agents.models.ensemble import training as dynamics_training
from offdyn_agents.models.ensemble.model import Ensemble
from offdyn_agents.models.short_training import Learner
from offdyn_agents.testing.conformance import same, train, weights

SEEDS = (0, 1)
POINTS = {
    # Where: what is called again and again, and in which call of it the process is killed.
    "dynamics": (dynamics_training._Training, "_epoch", 5),
    "dual dynamics": (mobody_training._Training, "_epoch", 5),
    "networks": (Learner, "fit", 2),
    "dynamics reward": (NoiseContrast, "advance", 3),
    "scorers": (scorer_stage, "distil", 2),
    "predictions": (Ensemble, "next_states", 2),
    "updates": (PopulationModule, "training_step", 4),
}
CASES = [
    ("iql", "updates"),
    ("droco", "dynamics"),
    ("droco", "predictions"),
    ("droco dual", "dual dynamics"),
    ("mopo", "dynamics"),
    ("mopo", "refill"),
    ("mobody", "dual dynamics"),
    ("mobody", "networks"),
    ("mobody", "refill"),
    ("morec", "dynamics"),
    ("morec", "dynamics reward"),
    ("morec", "scorers"),
    ("morec", "refill"),
    ("morec", "updates"),
    ("otdf", "networks"),
    ("bosa", "networks"),
    ("lodada", "networks"),
]


def settings(agent):
    """More epochs than one; and so many rows a batch that DROCO's predictions are worth a table."""
    passes = {"dynamics.epochs": 3}
    more = {
        **{name: {} for name in ("iql", "otdf", "bosa", "lodada")},
        "mobody": {"dynamics.updates": 3},
        "droco": passes | {"batch_size": 32},
        "droco dual": {"ensemble": "dual", "dual.updates": 3},
    }
    return more.get(agent, passes | {"dynamics.updates": 0})


def point(agent, where):
    """Return class, method and count of a point; the fifth refill of two seeds is at update 14, after a checkpoint."""
    return POINTS.get(where) or (agent_class(agent), "refill", 5)


@contextmanager
def counted(agent, places, at=None):
    """Count the calls of points in the block, and be killed in the one that has this number."""
    calls = dict.fromkeys(places, 0)

    def counting(where):
        owner, name, _ = point(agent, where)
        real = getattr(owner, name)

        def call(*arguments, **named):
            calls[where] += 1
            if calls[where] == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        patch.setattr(owner, name, call)

    with pytest.MonkeyPatch.context() as patch:
        for where in places:
            counting(where)
        # Copies of what is not finished are written after every step of a stage, not every minute.
        for module in (dynamics_training, mobody_training, reward_stage):
            patch.setattr(module, "SAVE_SECONDS", 0.0)
        yield calls


def be_killed(agent, where, folder):
    """Train in this process until it is killed."""
    with counted(agent, [where], point(agent, where)[2]):
        run(agent, Path(folder))


def run(agent, folder):
    train(agent_class(agent.split()[0]), folder / "run", SEEDS, folder / "stages", settings(agent))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Give the folder of an agent's training without a break, and how often each of its points was called in it."""
    done = {}

    def get(agent):
        if agent not in done:
            folder = tmp_path_factory.mktemp(agent)
            with counted(agent, [where for name, where in CASES if name == agent]) as calls:
                run(agent, folder)
            done[agent] = folder, calls
        return done[agent]

    return get


@pytest.mark.parametrize(("agent", "where"), CASES)
def test_killed_and_gone_on(agent, where, unbroken, tmp_path):
    script = f"from tests.agents.test_kills import be_killed; be_killed({agent!r}, {where!r}, {str(tmp_path)!r})"
    root = Path(__file__).parents[2]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    killed = subprocess.run([sys.executable, "-c", script], cwd=root, env=env, timeout=300, check=False)
    assert killed.returncode == -signal.SIGKILL
    whole, total = unbroken(agent)
    with counted(agent, [where]) as calls:
        run(agent, tmp_path)
    # What was done before is not done again, but for predictions, seconds of work that no file keeps.
    kept = 0 if where == "predictions" else point(agent, where)[2] - 1
    assert 0 < calls[where] == total[where] - kept
    for seed in SEEDS:
        same(weights(tmp_path / "run", seed), weights(whole / "run", seed))
