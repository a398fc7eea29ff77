"""Reference returns: what uniform actions, the expert and the unadapted nominal expert earn in each dynamics.

From the first release on a table is frozen with its protocol version: better experts are for the next version.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from offdyn_agents.behaviour.evaluation import evaluate, run_episodes
from offdyn_agents.behaviour.programme import PROGRAMME, Behaviour, taught
from offdyn_agents.behaviour.recipes import TAUGHT
from offdyn_envs.atomic import write_json
from offdyn_envs.benchmark.scoring.protocol import PROTOCOL
from offdyn_envs.benchmark.scoring.scores import REFERENCES_PATH
from offdyn_envs.policies import BehaviourPolicy, read_card
from offdyn_envs.progress import progress
from offdyn_envs.robots import get_robot
from offdyn_envs.shipped import behaviour_path

TRANSFER_EPISODES = 100
_SEED = 30_000
_FIGURES = ("mean", "se", "episodes")


def default_path() -> Path:
    """The file that the benchmark reads."""
    return REFERENCES_PATH


def random_returns(robot: str, dynamics: str, episodes: int) -> dict[str, Any]:
    """Returns of uniform actions.

    Args:
        robot: robot name.
        dynamics: dynamics slug.
        episodes: number of episodes.

    Returns:
        mean, se and episodes.
    """
    rng = np.random.default_rng(_SEED)
    size = (episodes, get_robot(robot).action_dim)
    result = run_episodes(
        lambda _: rng.uniform(-1.0, 1.0, size).astype(np.float32), robot, dynamics, episodes, _SEED
    ).summary()
    return {name: result[name] for name in _FIGURES}


def transfer_returns(robot: str, dynamics: str, episodes: int = TRANSFER_EPISODES) -> dict[str, Any]:
    """Returns of the nominal robot's expert, with deterministic actions and without adaptation.

    Args:
        robot: robot name.
        dynamics: dynamics slug.
        episodes: number of episodes.

    Returns:
        mean, se and episodes, and the policy's SHA-256.
    """
    path = behaviour_path(robot, "nominal", "expert")
    policy = BehaviourPolicy.load(path)
    result = evaluate(policy, robot, dynamics, episodes, _SEED, sampled=False).summary()
    return {name: result[name] for name in _FIGURES} | {"policy_sha256": read_card(path)["policy_sha256"]}


def reference_entry(behaviour: Behaviour, episodes: int, known: dict[str, Any]) -> dict[str, Any]:
    """The reference returns of one behaviour's dynamics.

    The expert's are those of its deterministic actions: policies are scored with deterministic actions too, so that a
    score of 100 means as good as the expert under the same protocol.

    Args:
        behaviour: the behaviour.
        episodes: episodes of the random policy.
        known: what an earlier table says; figures of the same policies are kept.

    Returns:
        "random"; "expert" where it exists; and "transfer" where the nominal robot's expert exists.
    """
    robot, dynamics = behaviour.robot, behaviour.dynamics
    uniform = known.get("random", {})
    if uniform.get("episodes") != episodes:
        uniform = random_returns(robot, dynamics, episodes)
    entry = {"random": uniform}
    if behaviour.measured:
        card = read_card(behaviour_path(robot, dynamics, "expert"))
        expert = {name: card["returns"]["deterministic"][name] for name in _FIGURES}
        entry["expert"] = expert | {"policy_sha256": card["policy_sha256"]}
    nominal = behaviour_path(robot, "nominal", "expert")
    if nominal.exists():
        transfer = known.get("transfer", {})
        if transfer.get("policy_sha256") != read_card(nominal)["policy_sha256"]:
            transfer = transfer_returns(robot, dynamics)
        entry["transfer"] = transfer
    return entry


def write_references(path: Path, episodes: int) -> tuple[int, int]:
    """Measure and write the reference returns of all dynamics of the programme, and of those that have been taught.

    Args:
        path: the file; replaced as a whole. Figures in it that belong to the same policies are kept.
        episodes: episodes of the random policy.

    Returns:
        How many dynamics the file covers, and how many of them have an expert.
    """
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["returns"] if path.exists() else {}
    table: dict[str, dict[str, Any]] = {}
    behaviours = [*PROGRAMME, *(each for robot in TAUGHT for each in taught(robot, []) if each.measured)]
    with progress("reference returns", len(behaviours)) as advance:
        for behaviour in behaviours:
            before = known.get(behaviour.robot, {}).get(behaviour.dynamics, {})
            table.setdefault(behaviour.robot, {})[behaviour.dynamics] = reference_entry(behaviour, episodes, before)
            advance(1)
    write_json(path, {"protocol": PROTOCOL, "returns": table})
    entries = [entry for rows in table.values() for entry in rows.values()]
    return len(entries), sum("expert" in entry for entry in entries)
