"""Many agents on many tasks, one agent after the other: in which order, what is left, and how long it takes.

Times are those of runs that have ended in the same folder: nothing is said of an agent that was never trained there.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offdyn_agents.engine.rollouts import ModelBased
from offdyn_agents.engine.settings import place
from offdyn_agents.runs.plans import Plan, read_run
from offdyn_agents.runs.runs import arrange, plan_agent
from offdyn_agents.runs.track import Trained
from offdyn_envs.benchmark.entries.disclosed import own_seconds, seconds_an_update
from offdyn_envs.errors import OffDynError
from offdyn_envs.progress import duration

__all__ = ["Part", "outlook", "parts", "total", "train_campaign"]

Train = Callable[[Sequence[Plan]], list[Trained]]


@dataclass(frozen=True)
class Part:
    """What one agent has to do.

    Attributes:
        agent: Its name.
        plans: One a task.
        work: Seed-updates that are left.
        tasks: Tasks that are left.
        seconds: Of the runs of this agent that have ended, for a seed-update, stages included; None where none has.
    """

    agent: str
    plans: tuple[Plan, ...]
    work: int
    tasks: int
    seconds: float | None


def parts(agents: Sequence[str], make: Callable[[str], Sequence[Plan]], tell: Callable[[str], None]) -> list[Part]:
    """Return what each agent has to do, in the order in which they are trained.

    Args:
        agents: Their names.
        make: Returns the plans of an agent.
        tell: Called with a line for each agent that is left out: one that knows the true target has no place in a
            table, and one that cannot be made must not hinder the others.

    Raises:
        OffDynError: No agent is left.
    """
    found: list[tuple[tuple[Any, ...], Part]] = []
    for name in agents:
        try:
            plans = tuple(make(name))
            agent = plan_agent(plans[0])
            if agent.diagnosis:
                tell(f"{name}: left out, it is a diagnosis that knows the true target")
                continue
            arranged = arrange(plans)
        except OffDynError as error:
            tell(f"{name}: left out: {error}")
            continue
        seconds = _seconds(plans)
        # Where nothing was measured: rollouts in a model cost more than all else, then it is the size that counts.
        proxy = (seconds is None, seconds or 0.0, isinstance(agent, ModelBased), agent.parameters)
        # Those by whose results papers are compared; the others follow, cheaper ones first.
        rank = place(type(agent)) or math.inf
        left = len(plans) - len(arranged.earlier)
        part = Part(name, plans, sum(population.work for population in arranged.populations), left, seconds)
        found.append(((rank, *proxy, name), part))
    if not found:
        raise OffDynError(f"none of the agents {', '.join(agents)} can be trained")
    return [part for _, part in sorted(found, key=lambda pair: pair[0])]


def _seconds(plans: Sequence[Plan]) -> float | None:
    """Return seconds for a seed-update over an agent's ended runs of these plans."""
    ended: list[Mapping[str, Any]] = []
    for folder in {plan.folder for plan in plans}:
        if (Path(folder) / "run.json").exists():
            facts = read_run(folder)
            ended += [facts] if facts["status"] == "complete" else []
    return seconds_an_update((own_seconds(facts), len(facts["seeds"]), facts["updates"]) for facts in ended)


def outlook(found: Sequence[Part]) -> list[dict[str, Any]]:
    """Return a row for each agent: tasks done, work left, and how long that takes where it is known."""
    rows: list[dict[str, Any]] = []
    for part in found:
        known = 0.0 if not part.work else None if part.seconds is None else part.seconds * part.work
        time = "not measured yet" if known is None else duration(known) if part.work else "-"
        done = f"{len(part.plans) - part.tasks} of {len(part.plans)}"
        rows.append({"agent": part.agent, "tasks done": done, "seed-updates left": f"{part.work:,}", "time left": time})
    return rows


def total(found: Sequence[Part]) -> str:
    """Return one line on all that is left."""
    left = [part for part in found if part.work]
    if not left:
        return "nothing is left"
    known = sum(part.seconds * part.work for part in left if part.seconds is not None)
    unknown = [part.agent for part in left if part.seconds is None]
    told = f"{len(left)} of {len(found)} agents left"
    if not unknown:
        return f"{told}; about {duration(known)}"
    if len(unknown) == len(left):
        return f"{told}; how long they take is known once the first has ended"
    return f"{told}; about {duration(known)} without {', '.join(unknown)}, not measured yet"


def train_campaign(found: Sequence[Part], train: Train, tell: Callable[[str], None]) -> list[Trained]:
    """Train agent after agent; one that fails does not keep the others from their end.

    Args:
        found: What `parts` gave.
        train: Trains the plans of one agent.
        tell: Called after each agent with a line on what is left.

    Returns:
        What became of every plan of the agents that did not fail.

    Raises:
        OffDynError: Agents failed; it names them all.
    """
    outcomes: list[Trained] = []
    failed: dict[str, list[str]] = {}
    current = list(found)
    for number, part in enumerate(current):
        try:
            outcomes += train(part.plans)
        except OffDynError as error:
            failed.setdefault(str(error), []).append(part.agent)
            print(f"offdyn: {part.agent}: {error}; the others go on", file=sys.stderr, flush=True)
        current[number] = Part(part.agent, part.plans, 0, 0, _seconds(part.plans))
        if part.work:
            tell(total(current))
    if failed:
        # What hinders all of them, such as data that are not there, is said once.
        raise OffDynError("; ".join(f"{', '.join(agents)}: {why}" for why, agents in failed.items()))
    return outcomes
