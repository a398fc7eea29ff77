"""Many agents on many tasks, one agent after the other: in which order, what is left, and how long it takes.

Times are those of runs that have ended in the same folder, on the same robot where there are any; where there are none,
those of other machines, which are called estimated.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offdyn_agents.engine.rollouts import ModelBased
from offdyn_agents.presets import place
from offdyn_agents.runs.plans import Plan, needed, read_run
from offdyn_agents.runs.rates import estimate, shipped
from offdyn_agents.runs.runs import arrange, plan_agent
from offdyn_agents.runs.track import Arrangement, Trained
from offdyn_agents.runs.variants import REFERENCES
from offdyn_envs.benchmark.entries.disclosed import own_seconds, seconds_an_update
from offdyn_envs.errors import OffDynError
from offdyn_envs.progress import duration

if TYPE_CHECKING:
    from offdyn_envs.tasks import DatasetId

__all__ = ["Part", "figures", "need_data", "outlook", "parts", "total", "train_campaign", "with_data"]

Train = Callable[[Sequence[Plan]], list[Trained]]


@dataclass(frozen=True)
class Part:
    """What one agent has to do.

    Attributes:
        agent: Its name, with the variant.
        plans: One a task.
        work: Seed-updates that are left.
        tasks: Tasks that are left.
        seconds: About how long that takes; None where nothing is known.
        estimated: Whether runs of other robots or machines say so.
        needs: Datasets of the tasks that are left.
    """

    agent: str
    plans: tuple[Plan, ...]
    work: int
    tasks: int
    seconds: float | None
    estimated: bool = False
    needs: tuple[DatasetId, ...] = ()


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
        part = _part(name, plans, arranged)
        pace = part.seconds / part.work if part.seconds and part.work else None
        # Where nothing is known: rollouts in a model cost more than all else, then it is the size that counts.
        proxy = (name in REFERENCES, pace is None, pace or 0.0, isinstance(agent, ModelBased), agent.parameters)
        # Those by whose results papers are compared; the others follow, cheaper ones first, and then the references.
        rank = math.inf if name in REFERENCES else place(type(agent)) or math.inf
        found.append(((rank, *proxy, name), part))
    if not found:
        raise OffDynError(f"none of the agents {', '.join(agents)} can be trained")
    return [part for _, part in sorted(found, key=lambda pair: pair[0])]


def _part(name: str, plans: tuple[Plan, ...], arranged: Arrangement) -> Part:
    """Return what is left of plans, and how long it takes: of each population the mean pace of its members."""
    work = sum(population.work for population in arranged.populations)
    paces = {
        plan.problem.robot: _pace(plans, plan)
        for population in arranged.populations
        for plan in (plans[index] for index in population.members)
    }
    seconds: float | None = 0.0
    for population in arranged.populations:
        known = [paces[plans[index].problem.robot][0] for index in population.members]
        sure = [pace for pace in known if pace is not None]
        seconds = None if seconds is None or len(sure) < len(known) else seconds + population.work * _mean(sure)
    left = [plan for index, plan in enumerate(plans) if index not in arranged.earlier]
    needs = tuple(dataset for plan in left for dataset in needed(plan, plan_agent(plan)))
    return Part(name, plans, work, len(left), seconds, any(estimated for _, estimated in paces.values()), needs)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _pace(plans: Sequence[Plan], plan: Plan) -> tuple[float | None, bool]:
    """Return seconds for a seed-update of a plan, and whether they are from another robot or another machine."""
    wanted = plan.problem.robot
    robots = {one.problem.robot for one in plans}
    here = {robot: _seconds([one for one in plans if one.problem.robot == robot]) for robot in robots}
    own = here.pop(wanted)
    if own is not None:
        return own, False
    hardware = plan.hardware
    usual = {robot: estimate(shipped(), plan.agent, robot, hardware.device, hardware.precision) for robot in robots}
    # This machine's other robots, by how much more this one took elsewhere.
    scaled = [
        seconds * (usual[wanted] or 1.0) / (usual[robot] or 1.0)
        for robot, seconds in here.items()
        if seconds is not None
    ]
    pace = _mean(scaled) if scaled else usual[wanted]
    return pace, pace is not None


def _seconds(plans: Sequence[Plan]) -> float | None:
    """Return seconds for a seed-update over an agent's ended runs of these plans."""
    ended: list[Mapping[str, Any]] = []
    for folder in {plan.folder for plan in plans}:
        if (Path(folder) / "run.json").exists():
            facts = read_run(folder)
            ended += [facts] if facts["status"] == "complete" else []
    return seconds_an_update((own_seconds(facts), len(facts["seeds"]), facts["updates"]) for facts in ended)


def need_data(found: Sequence[Part]) -> None:
    """Say which datasets are missing of all agents, before the first is trained.

    Raises:
        OffDynError: Datasets are not on this machine, and there is no server to fetch them from; it names them and the
            command that builds them.
    """
    from offdyn_envs.datasets.task import require_available

    require_available(dict.fromkeys(dataset for part in found for dataset in part.needs))


def with_data(found: Sequence[Part], tell: Callable[[str], None]) -> list[Part]:
    """Return the agents without those references whose datasets are missing and of no use to the others.

    Args:
        found: What `parts` gave.
        tell: Called with a line for each reference that is left out.
    """
    common = {dataset for part in found if part.agent not in REFERENCES for dataset in part.needs}
    kept: list[Part] = []
    for part in found:
        own = [dataset for dataset in part.needs if dataset not in common]
        try:
            need_data([replace(part, needs=tuple(own))])
        except OffDynError as error:
            tell(f"{part.agent}: left out: {error}")
        else:
            kept.append(part)
    return kept


def outlook(found: Sequence[Part]) -> list[dict[str, Any]]:
    """Return a row for each agent, in words: tasks done, work left, and how long that takes where it is known."""
    return [
        {
            "agent": part.agent,
            "tasks done": f"{len(part.plans) - part.tasks} of {len(part.plans)}",
            "seed-updates left": f"{part.work:,}",
            "time left": _time(part) if part.work else "-",
        }
        for part in found
    ]


def _time(part: Part) -> str:
    if part.seconds is None:
        return "not measured yet"
    return f"{duration(part.seconds)}{', estimated' if part.estimated else ''}"


def figures(found: Sequence[Part]) -> dict[str, Any]:
    """Return the same in numbers, with the total: times in seconds, None where nothing is known of an agent."""
    rows: list[dict[str, Any]] = [
        {
            "agent": part.agent,
            "tasks": len(part.plans),
            "tasks_done": len(part.plans) - part.tasks,
            "seed_updates_left": part.work,
            "seconds_left": part.seconds if part.seconds is None else round(part.seconds, 1),
            "estimated": part.estimated,
        }
        for part in found
    ]
    known = [row for row in rows if row["seconds_left"] is not None]
    summed = {key: sum(row[key] for row in rows) for key in ("tasks", "tasks_done", "seed_updates_left")}
    return {
        "agents": rows,
        "total": {
            "agents_left": sum(part.work > 0 for part in found),
            **summed,
            "seconds_left": round(sum(row["seconds_left"] for row in known), 1),
            "estimated": any(row["estimated"] for row in known),
            "not_measured": [row["agent"] for row in rows if row["seconds_left"] is None],
        },
    }


def total(found: Sequence[Part]) -> str:
    """Return one line on all that is left."""
    left = [part for part in found if part.work]
    if not left:
        return "nothing is left"
    known = [part for part in left if part.seconds is not None]
    unknown = [part.agent for part in left if part.seconds is None]
    told = f"{len(left)} of {len(found)} agents left"
    if not known:
        return f"{told}; how long they take is known once the first has ended"
    time = duration(sum(part.seconds or 0.0 for part in known))
    guessed = [part for part in known if part.estimated]
    time += ", estimated" + ("" if len(guessed) == len(known) else " in part") if guessed else ""
    return f"{told}; about {time}" + (f"; without {', '.join(unknown)}, not measured yet" if unknown else "")


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
        current[number] = replace(part, work=0, tasks=0, seconds=0.0, estimated=False)
        if part.work:
            tell(total(current))
    if failed:
        # What hinders all of them, such as a full disk, is said once.
        raise OffDynError("; ".join(f"{', '.join(agents)}: {why}" for why, agents in failed.items()))
    return outcomes
