"""Leaderboards made by hand, as a stranger with another framework would make them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import benchmark_models as models
import numpy as np

from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import get_task

HOPPER, CHEETAH = "hopper-gravity-0.5-medium", "halfcheetah-gravity-0.5-medium"
REFERENCES = {
    "protocol": 2,
    "returns": {
        robot: {
            "gravity-0.5": {
                "random": {"mean": low, "se": 0.5, "episodes": 100},
                "expert": {"mean": high, "se": 20.0, "episodes": 100},
            }
        }
        for robot, low, high in (("hopper", 20.0, 3000.0), ("halfcheetah", -250.0, 6500.0))
    },
}


def training(**changes: Any) -> dict[str, Any]:
    result = {
        "updates": 100_000,
        "wall_clock_s": 900.0,
        "device": "2 CPU cores",
        "precision": "fp32",
        "parameters": 150_000,
        "tuning_evaluations": 0,
        "hyperparameters": {"beta": 0.3, "tau": 0.005},
        "command": "offdyn train droco hopper-gravity-0.5-medium --seeds 3",
    }
    return result | changes


def entry_json(
    name: str,
    tasks: Sequence[str] = (HOPPER,),
    seeds: Sequence[int] = (0, 1, 2),
    *,
    returns: Callable[[str, int], Sequence[float]] | None = None,
    cells: Sequence[tuple[str, float, float]] = (),
    **changes: Any,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Builds entry.json and the policy files of a small entry.

    `cells` are (family, level, factor on the clean returns).
    """
    make = returns or (lambda task, seed: [100.0 + seed + 0.5 * k for k in range(10)])
    results, perturbed, files = [], [], {}
    for number, task in enumerate(tasks):
        robot = get_robot(get_task(task).robot)
        for seed in seeds:
            path = f"policies/{task}/{seed}.onnx"
            files[path] = models.policy(robot.observation_dim, robot.action_dim, seed=100 * number + seed)
            values = [float(value) for value in make(task, seed)]
            digest = hashlib.sha256(files[path]).hexdigest()
            results.append({"task": task, "seed": seed, "policy": path, "policy_sha256": digest, "returns": values})
            for family, level, factor in cells:
                shrunk = [factor * value for value in values[:5]]
                perturbed.append({"task": task, "seed": seed, "family": family, "level": level, "returns": shrunk})
    entry = {
        "schema": 1,
        "protocol": 2,
        "name": name,
        "method": name.upper(),
        "authors": ["A. Author"],
        "links": {"code": "https://example.org/code"},
        "reference": False,
        "episodes": len(results[0]["returns"]),
        "cell_episodes": 5,
        "disclosure": {"commit": "abc123", "tasks": {task: training() for task in tasks}},
        "results": results,
        "perturbed": perturbed,
    }
    return entry | changes, files


def write_entry(board: Path, entry: dict[str, Any], files: dict[str, bytes]) -> Path:
    folder = board / "submissions" / entry["name"]
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (folder / "entry.json").write_text(json.dumps(entry))
    return folder


def write_run(
    folder: Path, agent: str = "iql", task: str = HOPPER, seeds: Sequence[int] = (0, 1, 2), *, critic: bool = True
) -> Path:
    """Writes a finished, evaluated run as the agents' package does."""
    robot = get_robot(get_task(task).robot)
    rng = np.random.default_rng(0)
    for seed in seeds:
        place = folder / "seeds" / str(seed)
        place.mkdir(parents=True)
        (place / "policy.onnx").write_bytes(models.policy(robot.observation_dim, robot.action_dim, seed=seed))
        if critic:
            (place / "critic.onnx").write_bytes(models.critic(robot.observation_dim, robot.action_dim, seed=seed))
    run = {
        "format": 1,
        "agent": agent,
        "task": task,
        "seeds": list(seeds),
        "updates": 1000,
        "settings": {"tau": 0.7, "dynamics": {"epochs": 5}, "layers": [256, 256], "name": None},
        "status": "complete",
        "wall_clock_s": 12.34,
        "device": "cpu",
        "precision": "fp32",
        "parameters": 1234,
        "versions": {"torch": "2"},
        "tuning_evaluations": 0,
    }
    evaluation = {
        "protocol": 2,
        "task": task,
        "agent": agent,
        "episodes": 12,
        "clean": {str(seed): rng.normal(100, 5, size=12).tolist() for seed in seeds},
        "perturbed": [
            {"family": family, "level": level, "episodes": 4, "returns": {str(s): [50.0 + s] * 4 for s in seeds}}
            for family, level in (("gravity", 0.5), ("min-q", 0.2))
        ],
    }
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder
