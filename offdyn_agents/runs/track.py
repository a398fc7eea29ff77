"""Many plans: the populations they train in, what became of each, and how long the rest will take."""

from __future__ import annotations

import heapq
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offdyn_agents.runs.plans import Plan
from offdyn_envs.errors import OffDynError, out_of_memory
from offdyn_envs.progress import duration

__all__ = [
    "Arrangement",
    "Ledger",
    "Population",
    "Trained",
    "duration",
    "first_line",
    "population_title",
    "reason",
    "tell_not_judged",
    "time_left",
]


@dataclass(frozen=True)
class Trained:
    """What became of one plan.

    Attributes:
        plan: The plan.
        facts: The contents of run.json.
        fresh: Whether anything was left to do.
    """

    plan: Plan
    facts: dict[str, Any]
    fresh: bool


@dataclass(frozen=True)
class Population:
    """Plans that are trained together.

    Attributes:
        members: Their numbers among all plans.
        work: Updates that are left, summed over all seeds.
    """

    members: tuple[int, ...]
    work: int


@dataclass(frozen=True)
class Arrangement:
    """How plans are trained.

    Attributes:
        earlier: The run.json of each plan that has nothing left to do, by its number.
        populations: The others.
    """

    earlier: Mapping[int, dict[str, Any]]
    populations: Sequence[Population]


class Ledger:
    """Keeps and reports outcomes, and says after every population how long the others will take.

    Args:
        plans: All plans.
        arrangement: How they are trained.
        report: Called with every plan's outcome as soon as it is there.
        slots: Populations trained at a time.
    """

    def __init__(
        self, plans: Sequence[Plan], arrangement: Arrangement, report: Callable[[Trained], None], slots: int = 1
    ) -> None:
        self._plans, self._populations, self._report, self._slots = plans, arrangement.populations, report, slots
        self._works = [population.work for population in arrangement.populations]
        self._ended: list[int] = []
        self._errors: list[Exception] = []
        self._outcomes: dict[int, Trained] = {}
        for index, facts in arrangement.earlier.items():
            self._keep(Trained(plans[index], facts, False), index)
        self._begun = time.monotonic()

    def ended(self, number: int, facts: Sequence[dict[str, Any]]) -> None:
        """Take down what became of a population's plans, in the order of its members."""
        self._ended.append(number)
        for index, told in zip(self._populations[number].members, facts, strict=True):
            self._keep(Trained(self._plans[index], told, True), index)
        if len(self._works) > 1 and not self._plans[0].quiet:
            print(self.outlook(time.monotonic() - self._begun), file=sys.stderr, flush=True)

    def failed(self, number: int, error: Exception) -> None:
        """Take down that nothing more will come of a population, and why; the others go on."""
        # What its training held in memory, a GPU's too, must not be held by its traceback while the others train.
        traceback.clear_frames(error.__traceback__)
        error = error if isinstance(error, OffDynError) else out_of_memory(error) or error
        self._works[number] = 0
        self._errors.append(error)
        others = len(self._ended) + len(self._errors) < len(self._populations)
        told = reason(error)
        if not isinstance(error, OffDynError):
            # Lines of ours name what they are about, and `outcomes` names them all.
            told = f"{population_title(self._plans, self._populations[number])}: {told}"
        elif not others:
            return
        print(f"offdyn: {told}{'; the others go on' if others else ''}", file=sys.stderr, flush=True)

    def outlook(self, elapsed: float) -> str:
        """Return one line on what is done and left after so many seconds."""
        done, count = len(self._ended), len(self._works)
        speed = sum(self._works[number] for number in self._ended) / max(elapsed, 1e-9)
        left = time_left(self._works, self._ended, elapsed, self._slots)
        told = f"{done} of {count} populations done ({len(self._outcomes)} of {len(self._plans)} tasks)"
        told += f", {count - done} left; {speed:,.0f} seed-updates/s all told"
        return told if left is None or done == count else f"{told}; about {duration(left)} left"

    def outcomes(self) -> list[Trained]:
        """Return what became of each plan, in their order.

        Raises:
            OffDynError: Populations failed; it names them all. The first of what else was raised comes before; a line
                on each has been printed.
        """
        for error in self._errors:
            if not isinstance(error, OffDynError):
                raise error
        if self._errors:
            raise OffDynError("; ".join(dict.fromkeys(str(error) for error in self._errors)))
        return [self._outcomes[index] for index in range(len(self._plans))]

    def _keep(self, outcome: Trained, index: int) -> None:
        self._outcomes[index] = outcome
        self._report(outcome)


def population_title(plans: Sequence[Plan], population: Population) -> str:
    """Return a population's first task and agent, and how many more it has."""
    first, more = plans[population.members[0]], len(population.members) - 1
    return f"{first.task} {first.agent}" + (f" and {more} more" if more else "")


def tell_not_judged(plan: Plan, error: Exception) -> None:
    """Say that what an ended run learned could not be judged, and why: no reason to train no others."""
    told = f"{plan.task} {plan.agent}: learned dynamics not judged: {reason(error)}"
    print(f"offdyn: {told}", file=sys.stderr, flush=True)


def reason(error: Exception) -> str:
    """Return why something failed, in one line: what was raised, on whichever machine, and of what kind."""
    cause = getattr(error, "cause", None)
    error = cause if isinstance(cause, Exception) else error
    return first_line(error) if isinstance(error, OffDynError) else f"{type(error).__name__}: {first_line(error)}"


def first_line(error: Exception) -> str:
    """Return the first line of what an exception says."""
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return lines[0] if lines else repr(error)


def time_left(works: Sequence[float], ended: Sequence[int], elapsed: float, slots: int = 1) -> float | None:
    """Estimate the seconds until all populations are trained.

    With one population at a time this is the work left over the measured speed. With several at a time the ones that
    are under way count too: the speed is that which brings the last one that has ended to its place in the schedule.

    Args:
        works: Work of each population, in the order in which they begin.
        ended: Numbers of those that have ended.
        elapsed: Seconds that have passed.
        slots: Populations trained at a time.

    Returns:
        Seconds; None where nothing was measured yet.
    """
    busy = [0.0] * max(1, slots)
    ends: list[float] = []
    for work in works:
        ends.append(busy[0] + work)
        heapq.heapreplace(busy, ends[-1])
    reached = max((ends[number] for number in ended), default=0.0)
    return elapsed * (max(ends) / reached - 1.0) if reached > 0 else None
