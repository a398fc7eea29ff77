"""What happens inside the sandbox: the gate, inference and the rollouts of one policy.

`isolation` imports this after its limits stand. The job comes as JSON on standard input, the answer goes to standard
output.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from offdyn_envs.attacks import Attack, MinQAttack, RandomAttack
from offdyn_envs.benchmark.gate.onnx_policy import OnnxCritic, OnnxPolicy, load_critic, load_policy
from offdyn_envs.benchmark.scoring.protocol import ATTACKS, Cell, cell_shifts
from offdyn_envs.benchmark.scoring.rollouts import episode_returns
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import get_robot
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
    """Evaluates one policy.

    Args:
        job: `robot`; `shifts` of the scoring environment; `policy`, a path; `critic`, a path or null; `sigma`, the
            target's standard deviations or null; `cells`, a list of {family or null, level, episodes, seed}.

    Returns:
        `sha256` of the policy, `critic_sha256` or null, `parameters`, and `returns`: one list a cell, null for a
        failed episode.

    Raises:
        OffDynError: The policy breaks a rule, or fails while it runs.
    """
    robot = get_robot(job["robot"])
    widths = {"observation_dim": robot.observation_dim, "action_dim": robot.action_dim}
    policy = load_policy(Path(job["policy"]), label="policy", **widths)
    critic = None if job["critic"] is None else load_critic(Path(job["critic"]), label="critic", **widths)
    shifts = parse_shifts(job["shifts"] or None)
    returns: list[list[float | None]] = []
    for cell in job["cells"]:
        attack = _attack(cell, policy, critic, job["sigma"])
        inside = shifts if cell["family"] is None else cell_shifts(shifts, Cell(cell["family"], cell["level"]))
        values = episode_returns(policy, robot, inside, cell["episodes"], cell["seed"], attack=attack)
        returns.append([float(value) if np.isfinite(value) else None for value in values])
    return {
        "sha256": policy.sha256,
        "critic_sha256": None if critic is None else critic.sha256,
        "parameters": policy.signature.parameters,
        "returns": returns,
    }


def _attack(
    cell: dict[str, Any], policy: OnnxPolicy, critic: OnnxCritic | None, sigma: list[float] | None
) -> Attack | None:
    if cell["family"] not in ATTACKS:
        return None
    if sigma is None:
        raise OffDynError(f"the {cell['family']} attack needs the standard deviations of the target dataset")
    if cell["family"] == "random":
        return RandomAttack(cell["level"], sigma)
    if critic is None:
        raise OffDynError("the min-q attack needs a critic, and the entry has none")
    return MinQAttack(cell["level"], sigma, policy, critic)
