"""Reference returns: what uniform actions and the expert earn in each dynamics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from offdyn_agents.behaviour.evaluation import run_episodes
from offdyn_agents.behaviour.programme import PROGRAMME
from offdyn_envs.atomic import write_json
from offdyn_envs.policies import read_card
from offdyn_envs.robots import get_robot
from offdyn_envs.shipped import behaviour_path

PROTOCOL = 1
_SEED = 30_000


def default_path() -> Path:
    """The file that the benchmark reads."""
    import offdyn_envs

    return Path(str(offdyn_envs.__file__)).parent / "benchmark" / "references.json"


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
    return {name: result[name] for name in ("mean", "se", "episodes")}


def write_references(path: Path, episodes: int) -> int:
    """Measure and write the reference returns of every finished behaviour of the programme.

    The expert's are those of its deterministic actions: policies are scored with deterministic actions too, so that a
    score of 100 means as good as the expert under the same protocol.

    Args:
        path: the file; replaced as a whole.
        episodes: episodes of the random policy.

    Returns:
        How many dynamics the file covers.
    """
    table: dict[str, dict[str, Any]] = {}
    for behaviour in PROGRAMME:
        if not behaviour.done:
            continue
        card = read_card(behaviour_path(behaviour.robot, behaviour.dynamics, "expert"))
        expert = {name: card["returns"]["deterministic"][name] for name in ("mean", "se", "episodes")}
        uniform = random_returns(behaviour.robot, behaviour.dynamics, episodes)
        table.setdefault(behaviour.robot, {})[behaviour.dynamics] = {"random": uniform, "expert": expert}
    write_json(path, {"protocol": PROTOCOL, "returns": table})
    return sum(len(rows) for rows in table.values())
