"""Whether a task's data are here, can be built, or cannot: looked up by names alone, nothing is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from offdyn_envs.datasets.collecting.build import hint, missing_behaviour
from offdyn_envs.datasets.store.folders import local_ids
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import WALKERS
from offdyn_envs.shipped import REPLAY, shipped_root
from offdyn_envs.tasks import DatasetId, Task

__all__ = [
    "BEHAVIOUR_MISSING",
    "BUILDABLE",
    "HERE",
    "Remedy",
    "dataset_states",
    "next_steps",
    "refuse_unbuildable",
    "remedy",
    "task_states",
]

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


@dataclass(frozen=True)
class Remedy:
    """How behaviour policies that are missing are had.

    Attributes:
        words: What to do, with the command.
        robots: What `offdyn dev behaviour train` is given as --robot; none where the policies are not trained.
        dynamics: Likewise as --dynamics; none for all of the robots.
    """

    words: str
    robots: tuple[str, ...] = ()
    dynamics: tuple[str, ...] = ()


def remedy(ids: Sequence[DatasetId]) -> Remedy:
    """Return what helps where datasets cannot be built.

    Args:
        ids: Such datasets, at least one.
    """
    trained = {(one.robot, one.dynamics): one for one in ids if one.robot in WALKERS and not _wants_replay(one)}
    if len(trained) > 1:
        # The command passes over what is there.
        robots = tuple(dict.fromkeys(robot for robot, _ in trained))
        named = " ".join(f"--robot {robot}" for robot in robots)
        return Remedy(f"train them with: offdyn dev behaviour train {named}", robots)
    one = next(iter(trained.values()), ids[0])
    words = hint(one, _missing(one))
    return Remedy(words, (one.robot,), (one.dynamics,)) if trained else Remedy(words)


def next_steps(tasks: Sequence[Task], states: Sequence[str]) -> list[str]:
    """Return a line for each state that tasks are in, with the command that comes next.

    Args:
        tasks: The tasks.
        states: Their states, as `task_states` gives them.
    """
    lines: list[str] = []
    for state in dict.fromkeys(states):
        found = [task for task, own in zip(tasks, states, strict=True) if own == state]
        if state == BEHAVIOUR_MISSING:
            sides = [side for task in found for side in (task.source, task.target) if missing_behaviour(side)]
            lines.append(f"{state}: {remedy(sides).words}")
        else:
            build = "" if state == HERE else f"offdyn data build {found[0].name}, then "
            lines.append(f"{state}: {build}offdyn train AGENT {found[0].name}")
    return lines


def refuse_unbuildable(ids: Sequence[DatasetId], time: Callable[[Remedy], str] = lambda remedy: "") -> None:
    """Refuse datasets that are not here and cannot be built.

    Args:
        ids: Datasets.
        time: Says how long the training of policies takes, to be put behind its command.

    Raises:
        OffDynError: A behaviour policy is missing; the message names the command that helps.
    """
    lacking = [one for one, state in zip(ids, dataset_states(ids), strict=True) if state == BEHAVIOUR_MISSING]
    if not lacking:
        return
    what = f"dataset '{lacking[0]}'" if len(ids) == 1 else f"{len(lacking)} of {len(ids)} datasets"
    helps = remedy(lacking)
    raise OffDynError(f"{what} cannot be built: no shipped policy would collect it; {helps.words}{time(helps)}")


def _missing(dataset: DatasetId) -> str:
    """Return the name of the first policy that a dataset lacks."""
    path = missing_behaviour(dataset)
    return "" if path is None else path.stem


def _wants_replay(dataset: DatasetId) -> bool:
    return _missing(dataset) in REPLAY
