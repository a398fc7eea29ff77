"""Whether a task's data are here, can be built, or cannot: looked up by names alone, nothing is opened."""

from __future__ import annotations

from collections.abc import Sequence

from offdyn_envs.datasets.collecting.build import missing_behaviour
from offdyn_envs.datasets.store.folders import local_ids
from offdyn_envs.errors import OffDynError
from offdyn_envs.shipped import shipped_root
from offdyn_envs.tasks import DatasetId, Task

__all__ = ["BEHAVIOUR_MISSING", "BUILDABLE", "HERE", "dataset_states", "refuse_unbuildable", "task_states"]

HERE, BUILDABLE, BEHAVIOUR_MISSING = "here", "buildable", "behaviour missing"


def dataset_states(ids: Sequence[DatasetId]) -> list[str]:
    """Return the state of each dataset: `HERE`, `BUILDABLE` or `BEHAVIOUR_MISSING`."""
    known = {*local_ids(), *local_ids(shipped_root())}
    return [
        HERE if str(one) in known else BUILDABLE if missing_behaviour(one) is None else BEHAVIOUR_MISSING for one in ids
    ]


def task_states(tasks: Sequence[Task]) -> list[str]:
    """Return the state of each task: the worse one of its source's and its target's."""
    worst = (HERE, BUILDABLE, BEHAVIOUR_MISSING)
    sides = dataset_states([side for task in tasks for side in (task.source, task.target)])
    return [max(pair, key=worst.index) for pair in zip(sides[::2], sides[1::2], strict=True)]


def refuse_unbuildable(ids: Sequence[DatasetId]) -> None:
    """Refuse datasets that are not here and cannot be built.

    Raises:
        OffDynError: A behaviour policy is missing; the message names the command that shows what there is.
    """
    for one, state in zip(ids, dataset_states(ids), strict=True):
        if state == BEHAVIOUR_MISSING:
            raise OffDynError(
                f"dataset '{one}' cannot be built: no shipped policy would collect it; tasks with data: "
                f"offdyn tasks --robot {one.robot} --available"
            )
