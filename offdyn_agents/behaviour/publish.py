"""Choose a finished run's medium and expert, measure them, and write the policy files with their cards."""

from __future__ import annotations

import platform
import subprocess
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from offdyn_agents.behaviour.evaluation import Evaluation, evaluate, find_expert, find_medium
from offdyn_agents.behaviour.export import policy_from_snapshot
from offdyn_agents.behaviour.programme import Behaviour
from offdyn_agents.behaviour.training import Learner, Run
from offdyn_envs.errors import OffDynError
from offdyn_envs.models import compile_model, model_hash
from offdyn_envs.policies import BehaviourPolicy
from offdyn_envs.robots import get_robot
from offdyn_envs.shipped import behaviour_path
from offdyn_envs.tasks import get_dynamics

SELECTION_EPISODES = 30
CARD_EPISODES = 100
# Policies are chosen and reported on different episodes, or the report would be too good.
_SELECTION_SEED, _CARD_SEED = 10_000, 20_000


def publish(behaviour: Behaviour, learner: Learner, run: Run) -> dict[str, dict[str, Any]]:
    """Write `medium` and `expert` of a finished run.

    Args:
        behaviour: the behaviour.
        learner: its learner, restored to the end of the run.
        run: the run.

    Returns:
        The two cards.

    Raises:
        OffDynError: no policy of the run qualifies as medium.
    """
    measure = partial(_measure, behaviour, run)
    history = [(steps, training) for steps, training, _ in run.history]
    expert_steps, _ = find_expert(history, measure)
    expert_returns = _report(behaviour, _policy(run, expert_steps))
    expert = expert_returns["sampled"].mean
    medium_steps, _ = find_medium([steps for steps, _ in history], expert, measure)
    medium_returns = _report(behaviour, _policy(run, medium_steps))
    share = medium_returns["sampled"].mean / expert
    if not 1 / 3 <= share <= 2 / 3:
        raise OffDynError(f"{behaviour}: the medium's share of the expert's return is {share:.3f} on fresh episodes")
    common = _common_card(behaviour, learner, run)
    cards: dict[str, dict[str, Any]] = {}
    for quality, steps, returns in (("expert", expert_steps, expert_returns), ("medium", medium_steps, medium_returns)):
        card = {
            **common,
            "quality": quality,
            "training_steps": steps,
            "returns": {kind: evaluation.summary() for kind, evaluation in returns.items()},
            "share_of_expert": returns["sampled"].mean / expert,
        }
        _policy(run, steps).save(behaviour_path(behaviour.robot, behaviour.dynamics, quality), card)
        cards[quality] = card
    return cards


def git_commit() -> str:
    """Commit of the code that runs, "unknown" outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _policy(run: Run, steps: int) -> BehaviourPolicy:
    return policy_from_snapshot(run.snapshot(steps))


def _measure(behaviour: Behaviour, run: Run, steps: int) -> float:
    policy = _policy(run, steps)
    return evaluate(policy, behaviour.robot, behaviour.dynamics, SELECTION_EPISODES, _SELECTION_SEED).mean


def _report(behaviour: Behaviour, policy: BehaviourPolicy) -> dict[str, Evaluation]:
    return {
        kind: evaluate(
            policy, behaviour.robot, behaviour.dynamics, CARD_EPISODES, _CARD_SEED, sampled=kind == "sampled"
        )
        for kind in ("sampled", "deterministic")
    }


def _common_card(behaviour: Behaviour, learner: Learner, run: Run) -> dict[str, Any]:
    model = compile_model(get_robot(behaviour.robot), get_dynamics(behaviour.dynamics))
    return {
        "format": 1,
        "robot": behaviour.robot,
        "dynamics": behaviour.dynamics,
        "algorithm": learner.algorithm,
        "settings": learner.settings.to_json(),
        "seed": learner.seed,
        "training_unit": "environment steps" if learner.unit == "steps" else "critic updates",
        "run_steps": learner.steps,
        "run_seconds": round(run.seconds, 1),
        "model_hash": model_hash(model),
        "versions": {"mujoco": _version("mujoco"), "numpy": _version("numpy"), "torch": _version("torch")},
        "processor": platform.machine(),
        "git_commit": git_commit(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
