"""Whether a task's data are here, can be built, or cannot: looked up by names alone, nothing is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from offdyn_envs.datasets.collecting.build import hint, missing_behaviour, offered
from offdyn_envs.datasets.store.folders import local_ids
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import HANDS, WALKERS
from offdyn_envs.shipped import shipped_root
from offdyn_envs.tasks import DatasetId, Task

__all__ = [
    "BEHAVIOUR_MISSING",
    "BUILDABLE",
    "HERE",
    "NO_REPLAY",
    "Remedy",
    "Time",
    "dataset_states",
    "next_steps",
    "refuse_unbuildable",
    "remedies",
    "task_states",
]

HERE, BUILDABLE, BEHAVIOUR_MISSING, NO_REPLAY = "here", "buildable", "behaviour missing", "no replay"
"""States, from the best to the worst; the last one is of medium-replay data that do not exist for these dynamics."""


def dataset_states(ids: Sequence[DatasetId]) -> list[str]:
    """Return the state of each dataset: `HERE`, `BUILDABLE`, `BEHAVIOUR_MISSING` or `NO_REPLAY`."""
    known = {*local_ids(), *local_ids(shipped_root())}
    return [HERE if str(one) in known else _absent(one) for one in ids]


def _absent(dataset: DatasetId) -> str:
    """Return the state of a dataset that is not here."""
    if missing_behaviour(dataset) is None:
        return BUILDABLE
    return BEHAVIOUR_MISSING if offered(dataset) else NO_REPLAY


def task_states(tasks: Sequence[Task]) -> list[str]:
    """Return the state of each task: the worse one of its source's and its target's."""
    worst = (HERE, BUILDABLE, BEHAVIOUR_MISSING, NO_REPLAY)
    sides = dataset_states([side for task in tasks for side in (task.source, task.target)])
    return [max(pair, key=worst.index) for pair in zip(sides[::2], sides[1::2], strict=True)]


@dataclass(frozen=True)
class Remedy:
    """How behaviour policies that are missing are had.

    Attributes:
        words: What to do, with the command.
        robots: Whose policies the command makes; none where no command does.
        dynamics: Under which dynamics; none for all of the robots.
    """

    words: str
    robots: tuple[str, ...] = ()
    dynamics: tuple[str, ...] = ()


Time: TypeAlias = Callable[[Remedy], str]
"""Says how long a remedy takes, to be put behind its words."""


def remedies(ids: Sequence[DatasetId]) -> list[Remedy]:
    """Return what helps where datasets cannot be built: one remedy for each kind of help, the first one's first.

    Args:
        ids: Such datasets.
    """
    kinds: dict[tuple[str, bool], list[DatasetId]] = {}
    for one in ids:
        kinds.setdefault((_family(one.robot), offered(one)), []).append(one)
    return [_remedy(alike) for alike in kinds.values()]


def _family(robot: str) -> str:
    return "walker" if robot in WALKERS else "hand" if robot in HANDS else "own"


def _remedy(ids: Sequence[DatasetId]) -> Remedy:
    """Return what helps datasets of one kind."""
    one, robots = ids[0], tuple(dict.fromkeys(each.robot for each in ids))
    if not offered(one) or _family(one.robot) == "own":
        return Remedy(hint(one))
    if all((each.robot, each.dynamics) == (one.robot, one.dynamics) for each in ids):
        return Remedy(hint(one), robots, (one.dynamics,))
    # The commands pass over what is there.
    if one.robot in WALKERS:
        named = " ".join(f"--robot {robot}" for robot in robots)
        return Remedy(f"train them with: offdyn dev behaviour train {named}", robots)
    taught = f"teach {robots[0]} --teacher FILE" if len(robots) == 1 else "teach ROBOT --teacher FILE"
    whom = "" if len(robots) == 1 else f", for ROBOT {', '.join(robots)}"
    return Remedy(f"learn them with: offdyn dev behaviour {taught}{whom}", robots)


def _not_told(remedy: Remedy) -> str:
    return ""


def next_steps(tasks: Sequence[Task], states: Sequence[str], time: Time = _not_told) -> list[str]:
    """Return what comes next: a line for each state that tasks are in, and for each kind of help that they need.

    Args:
        tasks: The tasks.
        states: Their states, as `task_states` gives them.
        time: Says how long a remedy takes.
    """
    lines: list[str] = []
    for state in dict.fromkeys(states):
        found = [task for task, own in zip(tasks, states, strict=True) if own == state]
        if state in (HERE, BUILDABLE):
            build = "" if state == HERE else f"offdyn data build {found[0].name}, then "
            lines.append(f"{state}: {build}offdyn train AGENT {found[0].name}")
        else:
            lines += _help(found, state, time)
    return lines


def _help(tasks: Sequence[Task], state: str, time: Time) -> list[str]:
    """Return a line for each kind of robot: how many tasks are in a state, and what helps."""
    lines: list[str] = []
    for family in dict.fromkeys(_family(task.robot) for task in tasks):
        alike = [task for task in tasks if _family(task.robot) == family]
        sides = [side for task in alike for side in (task.source, task.target)]
        lacking = [side for side, own in zip(sides, dataset_states(sides), strict=True) if own == state]
        lines += [f"{state} ({len(alike)}): {helps.words}{time(helps)}" for helps in remedies(lacking)]
    return lines


def refuse_unbuildable(ids: Sequence[DatasetId], time: Time = _not_told) -> None:
    """Refuse datasets that are not here and cannot be built.

    Args:
        ids: Datasets.
        time: Says how long a remedy takes.

    Raises:
        OffDynError: A behaviour policy is missing; the message names the commands that help.
    """
    states = dataset_states(ids)
    lacking = [one for one, state in zip(ids, states, strict=True) if state in (BEHAVIOUR_MISSING, NO_REPLAY)]
    if not lacking:
        return
    what = f"dataset '{lacking[0]}'" if len(ids) == 1 else f"{len(lacking)} of {len(ids)} datasets"
    helps = "; ".join(f"{helps.words}{time(helps)}" for helps in remedies(lacking))
    raise OffDynError(f"{what} cannot be built: no shipped policy would collect it; {helps}")
