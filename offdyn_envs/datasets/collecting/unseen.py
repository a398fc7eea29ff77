"""Transitions that a dataset might have held and does not: its own behaviours again, from another seed."""

from __future__ import annotations

from typing import Any

from offdyn_envs.batching.threads import usable_threads
from offdyn_envs.datasets.collecting.build import ingredients
from offdyn_envs.datasets.collecting.collect import collect, concatenate
from offdyn_envs.datasets.store.spec import Arrays, Dataset
from offdyn_envs.errors import OffDynError

__all__ = ["collect_unseen"]

SEED_STEP = 2**31
"""Added to the seed of the dataset: no dataset is built with such a seed, so that no two episodes are alike."""


def collect_unseen(dataset: Dataset, rows: int, *, num_threads: int | None = None) -> Arrays:
    """Collect transitions under a dataset's dynamics with the behaviours that made it; the same ones at every call.

    Args:
        dataset: A dataset collected in this simulator by shipped behaviours.
        rows: N; behaviours of one dataset share them equally.
        num_threads: Threads of the simulation, on which the result does not depend; by default all usable cores.

    Returns:
        N transitions in whole episodes, the last one of every behaviour cut.

    Raises:
        OffDynError: The dataset came from elsewhere, or a behaviour is not here or has been trained again since.
    """
    if not isinstance(dataset, Dataset):
        given: Any = dataset
        name = getattr(given, "id", None) or type(given).__name__
        raise OffDynError(f"'{name}' was not collected in this simulator: nobody can collect more of it")
    parts = ingredients(dataset.id)
    for part, told in zip(parts, dataset.card["behaviour"], strict=True):
        if part.facts.get("policy_sha256") != told.get("policy_sha256"):
            raise OffDynError(f"dataset '{dataset.id}' was collected by another '{told['name']}' policy than is here")
    share, left = divmod(rows, len(parts))
    return concatenate(
        [
            collect(
                dataset.id.robot,
                dataset.id.dynamics,
                part.behaviour,
                share + (number < left),
                seed=dataset.card["seed"] + SEED_STEP,
                part=number,
                num_threads=num_threads or usable_threads(),
            )
            for number, part in enumerate(parts)
        ]
    )
