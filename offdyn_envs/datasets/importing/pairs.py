"""Pairing any two datasets of one robot, imported ones included."""

from __future__ import annotations

from typing import Any

import gymnasium

from offdyn_envs.datasets.loading import load_dataset
from offdyn_envs.datasets.store.imported import ImportedDataset, is_imported, load_imported
from offdyn_envs.datasets.store.spec import Dataset
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import DatasetId, env_id

__all__ = ["AnyDataset", "load_any", "load_pair"]

AnyDataset = Dataset | ImportedDataset


def load_any(name: str | DatasetId) -> AnyDataset:
    """Load a dataset by id, one of the project's own or an imported one.

    Args:
        name: For instance "offdyn/hopper/gravity-0p5/medium-5k-v0" or "imported/hopper-medium-v2".

    Returns:
        The dataset.

    Raises:
        OffDynError: Unknown, not here, or damaged.
    """
    return load_imported(name) if isinstance(name, str) and is_imported(name) else load_dataset(name)


def load_pair(
    source: str | DatasetId, target: str | DatasetId
) -> tuple[gymnasium.Env[Any, Any], AnyDataset, AnyDataset]:
    """Load two datasets and the environment of the target's dynamics.

    Args:
        source: Id of the plentiful dataset.
        target: Id of the scarce one.

    Returns:
        (env, source, target).

    Raises:
        OffDynError: Not here or damaged, two robots, or a target that was imported without its dynamics.
    """
    pair = load_any(source), load_any(target)
    robots = [str(item.card["robot"]) for item in pair]
    if robots[0] != robots[1]:
        raise OffDynError(f"source is a {robots[0]} and target a {robots[1]}; expected one robot")
    dynamics = pair[1].card["dynamics"]
    if dynamics is None:
        raise OffDynError(
            f"target '{target}' was imported without its dynamics, so no environment can score it; "
            "import it again with --dynamics and --force"
        )
    return gymnasium.make(env_id(get_robot(robots[1]), dynamics)), *pair
