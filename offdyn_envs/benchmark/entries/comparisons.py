"""Every entry against every other: differences of scores with intervals, over all shared tasks and for each."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from offdyn_envs.benchmark.entries.standings import CLAIM, RERUN
from offdyn_envs.benchmark.scoring.statistics import Interval, mean_difference

__all__ = ["Comparison", "compare"]

Json = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """The score of one entry minus that of another.

    Attributes:
        ours: Name of the one.
        theirs: Name of the other.
        overall: Mean over the tasks that both cover, tasks weighing the same.
        tasks: The difference on each of them.
        source: `re-run` where all scores of both are re-run, else `claim`.
    """

    ours: str
    theirs: str
    overall: Interval
    tasks: Mapping[str, Interval]
    source: str

    def turned(self) -> "Comparison":
        """Returns the same comparison seen from the other side."""
        tasks = {task: _negative(interval) for task, interval in self.tasks.items()}
        return Comparison(self.theirs, self.ours, _negative(self.overall), tasks, self.source)


def compare(standings: Json) -> list[Comparison]:
    """Returns the comparisons of all pairs with scored tasks in common, each in both directions."""
    found: list[Comparison] = []
    for ours, theirs in combinations(standings["entries"], 2):
        one = _compare(ours, theirs)
        if one is not None:
            found += [one, one.turned()]
    return found


def _compare(ours: Json, theirs: Json) -> Comparison | None:
    both = [
        name for name, task in sorted(ours["tasks"].items()) if _scored(task) and _scored(theirs["tasks"].get(name))
    ]
    if not both:
        return None
    left, right = ([entry["tasks"][name]["scores"] for name in both] for entry in (ours, theirs))
    tasks = {name: mean_difference([a], [b]) for name, a, b in zip(both, left, right, strict=True)}
    sources = {entry["tasks"][name]["source"] for entry in (ours, theirs) for name in both}
    source = CLAIM if CLAIM in sources else RERUN
    return Comparison(ours["name"], theirs["name"], mean_difference(left, right), tasks, source)


def _scored(task: Json | None) -> bool:
    return task is not None and "scores" in task


def _negative(interval: Interval) -> Interval:
    return Interval(-interval.mean, -interval.high, -interval.low)
