"""A population without run folders, for a program that trains it with a `lightning.Trainer` of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from offdyn_agents.engine.agent import Agent
from offdyn_agents.engine.resources import Budget, Hardware
from offdyn_agents.engine.rollouts import ModelBased
from offdyn_agents.engine.termination import Termination
from offdyn_agents.engine.training.supplies import Provision, TaskRuns, make_supply
from offdyn_envs.datasets.own.arrays import OwnData, from_arrays
from offdyn_envs.errors import OffDynError

__all__ = ["bare_task", "supplied"]


def bare_task(
    agent: Any,
    source: Any,
    target: Any,
    seeds: int | Sequence[int],
    folder: str | Path | None,
    robot: str | None,
    terminated: Termination | None,
) -> tuple[Agent, TaskRuns]:
    """Return an agent of the data's sizes, and the data as runs take them.

    Args:
        agent: An agent, or what makes one of given sizes (`sized(observation_dim, action_dim)`).
        source: A dataset, or a mapping or object of arrays.
        target: Likewise.
        seeds: Seeds of the runs.
        folder: Where rollouts and exported policies go; None for a temporary folder.
        robot: Robot that says where episodes end.
        terminated: What says so in its place.

    Raises:
        OffDynError: Data that are none or do not fit each other, or an agent with a learned model of which nobody says
            where episodes end.
    """
    pair = [_data(data, what) for data, what in ((source, "source"), (target, "target"))]
    sizes = [(data.observations.shape[1], data.actions.shape[1]) for data in pair]
    made = agent if isinstance(agent, Agent) else agent.sized(*sizes[1])
    if len({*sizes, (made.observation_dim, made.action_dim)}) > 1:
        raise OffDynError(
            f"source has {sizes[0]} observations and actions, target {sizes[1]}, the agent "
            f"{(made.observation_dim, made.action_dim)}; equal numbers are needed"
        )
    if (
        isinstance(made, ModelBased)
        and robot is None
        and terminated is None
        and any(d.terminations.any() for d in pair)
    ):
        raise OffDynError(
            "the data hold terminations, and model rollouts need to know where episodes end: give robot= or terminated="
        )
    place = Path(tempfile.mkdtemp(prefix="offdyn-")) if folder is None else Path(folder)
    own = pair[1]
    contract = own.contract if isinstance(own, OwnData) else None
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    return made, TaskRuns(pair[0], pair[1], numbers, place, made.name, robot, terminated=terminated, contract=contract)


def _data(data: Any, what: str) -> Any:
    """Return a dataset as it is, and arrays checked."""
    plain = isinstance(data, Mapping) or not hasattr(data, "lengths")
    return from_arrays(data, what) if plain else data


def supplied(agent: Agent, task: TaskRuns, budget: Budget, hardware: Hardware, quiet: bool) -> Provision:
    """Train what comes before the policies, kept in the task's folder, and return what the population needs."""
    return make_supply(agent, [task], budget, hardware, quiet=quiet, cache=task.folder / ".stages")
