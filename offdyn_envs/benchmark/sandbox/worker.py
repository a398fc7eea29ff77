"""What happens inside the sandbox: the gate, inference and the rollouts of policies of one task.

`isolation` imports this after its limits stand. The job comes as JSON on standard input, the answer goes to standard
output.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from offdyn_envs.benchmark.gate.onnx_policy import load_critic, load_policy
from offdyn_envs.benchmark.scoring.cells import Cell
from offdyn_envs.benchmark.scoring.grid import Ask, Judges, grid_returns
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import Robot, get_robot
from offdyn_envs.shifts import parse_shifts

__all__ = ["main", "run"]


def main(measures: list[str]) -> None:
    """Reads one job, prints one answer.

    Args:
        measures: The isolation in force; part of the answer.
    """
    try:
        answer = {**run(json.load(sys.stdin)), "measures": measures}
    except MemoryError:
        answer = {"error": "ran out of the sandbox's memory"}
    except OffDynError as error:
        answer = {"error": str(error)}
    except Exception as error:  # whatever a submission provokes must come back as one line
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer, allow_nan=False), flush=True)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Evaluates policies of one task.

    Args:
        job: `robot`; `shifts` of the scoring environment; `policies`, a list of {`name`, `policy` and `critic`, a path
            or null}; `reference`, the path of the suite's critic or null; `sigma`, the target's standard deviations or
            null; `cells`, a list of {family or null, level, episodes, seed}.

    Returns:
        `policies`, with `sha256`, `critic_sha256` or null, `parameters` and `weights` (see `weights_digest`) each, and
        `returns` [policy][cell]: a list each, null for a failed episode.

    Raises:
        OffDynError: A policy breaks a rule, or fails while it runs.
    """
    robot = get_robot(job["robot"])
    loaded = [_load(one, robot) for one in job["policies"]]
    policies, own = [policy for policy, _ in loaded], [critic for _, critic in loaded]
    reference = None if job["reference"] is None else _critic(job["reference"], robot, "reference critic")
    asked = [_ask(cell) for cell in job["cells"]]
    judges = Judges(job["sigma"], reference, own)
    found = grid_returns(policies, robot, parse_shifts(job["shifts"] or None), asked, judges)
    return {
        "policies": [
            {
                "sha256": policy.sha256,
                "critic_sha256": None if critic is None else critic.sha256,
                "parameters": policy.signature.parameters,
                "weights": policy.weights,
            }
            for policy, critic in loaded
        ],
        "returns": [
            [[float(value) if np.isfinite(value) else None for value in cell[member]] for cell in found]
            for member in range(len(policies))
        ],
    }


def _load(one: dict[str, Any], robot: Robot) -> tuple[Any, Any]:
    """Return a policy and its critic, behind the gate; errors begin with its name."""
    name, widths = one["name"], {"observation_dim": robot.observation_dim, "action_dim": robot.action_dim}
    policy = load_policy(Path(one["policy"]), label=f"{name}: policy", **widths)
    return policy, None if one["critic"] is None else _critic(one["critic"], robot, f"{name}: critic")


def _critic(path: str, robot: Robot, label: str) -> Any:
    return load_critic(Path(path), label=label, observation_dim=robot.observation_dim, action_dim=robot.action_dim)


def _ask(cell: dict[str, Any]) -> Ask:
    kind = None if cell["family"] is None else Cell(cell["family"], cell["level"])
    return Ask(kind, cell["episodes"], cell["seed"])
