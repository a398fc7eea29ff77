"""Runs policies of an entry again: those of a task in one sandboxed process, all their episodes in one batch.

Several processes work side by side, each on one thread; what they find does not depend on how many there are.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from offdyn_envs.attacks import MIN_Q_SAMPLES
from offdyn_envs.batching.threads import usable_threads
from offdyn_envs.benchmark.entries.submissions import Entry, Result
from offdyn_envs.benchmark.gate.printable import printable
from offdyn_envs.benchmark.sandbox.sandbox import Limits, run_job
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.cells import Cell, full_grid
from offdyn_envs.benchmark.scoring.critics import find_critic
from offdyn_envs.benchmark.scoring.grid import HELD_OUT
from offdyn_envs.benchmark.scoring.rollouts import target_sigma
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import Task, get_dynamics, get_task

__all__ = [
    "Plan",
    "Rerun",
    "Source",
    "asks",
    "cells_of",
    "drawn_salt",
    "evaluation_seed",
    "job",
    "look",
    "rerun",
    "sources",
]

TOGETHER = 5
"""Most policies of one sandboxed process: the seeds of a task that a place needs."""

LONGEST_SALT = 200

Json = dict[str, Any]


def drawn_salt() -> str:
    """Return a salt that nobody knows before."""
    return secrets.token_hex(8)


@dataclass(frozen=True)
class Plan:
    """How an entry is re-run.

    Attributes:
        episodes: Clean episodes per policy, at least 2.
        perturbed: Whether the robustness grid is run as well, and held-out dynamics; a place needs both.
        salt: Mixed into the seeds, so that nobody knows them who makes an entry; drawn where none is given.
        limits: Replaces the limits of each sandboxed process.
    """

    episodes: int = protocol.CLEAN_EPISODES
    perturbed: bool = True
    salt: str = field(default_factory=drawn_salt)
    limits: Limits | None = None

    def __post_init__(self) -> None:
        if not self.salt.strip() or not self.salt.isprintable() or len(self.salt) > LONGEST_SALT:
            raise OffDynError(
                f"salt '{printable(self.salt, 40)}': 1 to {LONGEST_SALT} printable characters are allowed; without one "
                "the seeds could be known before"
            )
        if self.episodes < 2:
            raise OffDynError(f"verification over {self.episodes} episodes: at least 2 are needed")


@dataclass(frozen=True)
class Source:
    """What the attacks on the policies of a task need.

    Attributes:
        reference: Path of the suite's critic, or None.
        sigma: The unit of the attacks, [|S|], or None.
    """

    reference: str | None = None
    sigma: list[float] | None = None


@dataclass(frozen=True)
class Rerun:
    """What a policy earned.

    Attributes:
        result: The claim.
        clean: Returns in the unperturbed target.
        cells: Returns in each cell of the robustness grid, and in claimed ones beyond it.
        held_out: Returns in held-out dynamics; none where they were left out.
        measures: The isolation in force.
    """

    result: Result
    clean: list[float]
    cells: dict[Cell, list[float]]
    held_out: list[float]
    measures: list[str]


def evaluation_seed(entry: Entry, salt: str) -> int:
    """Returns the first reset seed of an entry's re-run.

    It follows from all policies of the entry and from a salt that is made after the submission, so that nobody can
    tune a policy to it, memorise it, or search for policies whose seed is a good one.
    """
    parts = [f"protocol {entry.protocol}", salt, *sorted(entry.policy_hashes.values())]
    return int.from_bytes(hashlib.sha256("\n".join(parts).encode()).digest()[:6], "big")


def sources(entry: Entry) -> dict[str, Source]:
    """Return what the attacks of an entry's cells need, by task.

    Raises:
        OffDynError: The suite has no critic of a task, or its target dataset is not on this machine.
    """
    attacked = {task: {cell.family for cell in cells_of(entry, task)} & set(protocol.ATTACKS) for task in entry.tasks}
    return {task: _source(task, families) for task, families in sorted(attacked.items()) if families}


def cells_of(entry: Entry, task: str) -> tuple[Cell, ...]:
    """Return the cells that are run again: all of the grid, whatever is claimed, and claimed ones beyond it."""
    claimed = [Cell(cell.family, cell.level) for cell in entry.perturbed if cell.task == task]
    return tuple(dict.fromkeys((*full_grid(task), *claimed)))


def _source(task: str, families: set[str]) -> Source:
    critic = find_critic(task)
    if critic is None and protocol.MIN_Q in families:
        raise OffDynError(f"the suite has no reference critic of '{task}', which its min-q cells need")
    if critic is None:
        return Source(None, target_sigma(get_task(task)).tolist())
    return Source(str(critic.path), list(critic.sigma))


@dataclass(frozen=True)
class _Group:
    """Policies of one task that share a process, and what is asked of each."""

    task: str
    results: tuple[Result, ...]
    asked: tuple[Json, ...] = ()
    cells: tuple[Cell, ...] = ()


def rerun(entry: Entry, plan: Plan, found: Mapping[str, Source]) -> list[Rerun]:
    """Run all policies of an entry again.

    Args:
        entry: A checked entry.
        plan: How it is re-run.
        found: What attacks need, by task.

    Returns:
        What each policy earned, in the order of the entry's results.

    Raises:
        OffDynError: A policy breaks a rule of the gate, does not match its hash, fails, or exceeds a limit, or two
            policies of a task have the same weights.
    """
    # A file that is refused is found in seconds, not after the hours of the others.
    look(entry, plan)
    groups = [_asking(entry, group, plan) for group in _groups(entry)]
    answers = _each(
        groups, lambda group: _run(entry, group, plan, found.get(group.task, Source())), f"verify {entry.name}"
    )
    return [one for group, answer in zip(groups, answers, strict=True) for one in _split(group, answer, plan.perturbed)]


def look(entry: Entry, plan: Plan) -> set[str]:
    """Pass all files of an entry through the gate and the probe.

    Args:
        entry: A checked entry.
        plan: Its limits hold here too.

    Returns:
        The digests of its policies' weights, as `weights_digest` tells them.

    Raises:
        OffDynError: As `rerun`.
    """
    groups, seeds = _groups(entry), dict[tuple[str, str], int]()
    answers = _each(groups, lambda group: _look(entry, group, plan), f"look at {entry.name}")
    for group, answer in zip(groups, answers, strict=True):
        for result, policy in zip(group.results, answer["policies"], strict=True):
            twin = seeds.setdefault((result.task, policy["weights"]), result.seed)
            if twin != result.seed:
                where = f"entry '{entry.name}': task '{result.task}' seed {result.seed}"
                raise OffDynError(f"{where} has the same weights as seed {twin}; every seed is a run of its own")
    return {weights for _, weights in seeds}


def _each(groups: Sequence[_Group], work: Callable[[_Group], Json], title: str) -> list[Json]:
    from offdyn_envs.progress import progress

    answers: list[Json] = []
    with ThreadPoolExecutor(usable_threads()) as pool:
        waiting = [pool.submit(work, group) for group in groups]
        try:
            with progress(title, sum(len(group.results) for group in groups)) as advance:
                for group, future in zip(groups, waiting, strict=True):
                    answers.append(future.result())
                    advance(len(group.results))
        finally:
            for future in waiting:
                future.cancel()
    return answers


def _groups(entry: Entry) -> list[_Group]:
    groups: list[_Group] = []
    for task in entry.tasks:
        own = [result for result in entry.results if result.task == task]
        groups += [_Group(task, tuple(own[start : start + TOGETHER])) for start in range(0, len(own), TOGETHER)]
    return groups


def _asking(entry: Entry, group: _Group, plan: Plan) -> _Group:
    """Return a group with its episodes: the clean ones first, then those of each cell, then the held-out."""
    cells = cells_of(entry, group.task) if plan.perturbed else ()
    played = (*cells, Cell(HELD_OUT, 1.0)) if plan.perturbed else ()
    asked = asks(plan.episodes, played, protocol.CELL_EPISODES, evaluation_seed(entry, plan.salt))
    return _Group(group.task, group.results, tuple(asked), cells)


def asks(episodes: int, cells: Sequence[Cell], cell_episodes: int, seed: int) -> list[Json]:
    """Return what a sandboxed process is asked of each policy.

    Args:
        episodes: Clean episodes, which come first.
        cells: The cells that follow.
        cell_episodes: Episodes of each.
        seed: First reset seed of all of them.
    """
    kinds = [(None, None, episodes), *((cell.family, cell.level, cell_episodes) for cell in cells)]
    return [{"family": family, "level": level, "episodes": count, "seed": seed} for family, level, count in kinds]


def job(task: Task, policies: Sequence[Json], source: Source, asked: Sequence[Json]) -> Json:
    """Return what a sandboxed process is told, as `worker.run` takes it.

    Args:
        task: The task.
        policies: `name`, `policy` and `critic` of each.
        source: What attacks need.
        asked: The episodes.
    """
    return {
        "robot": task.robot,
        "shifts": [shift.to_json() for shift in get_dynamics(task.robot, task.scoring)],
        "policies": list(policies),
        "reference": source.reference,
        "sigma": source.sigma,
        "cells": list(asked),
    }


def _look(entry: Entry, group: _Group, plan: Plan) -> Json:
    """Pass the files of a group through the gate and the probe; where their process fails, find out whose fault it is.

    Raises:
        OffDynError: As `rerun`.
    """
    try:
        return _run(entry, group, plan, Source())
    except OffDynError:
        for result in group.results:
            _run(entry, _Group(group.task, (result,)), plan, Source())
        raise


def _run(entry: Entry, group: _Group, plan: Plan, source: Source) -> Json:
    """Let a sandboxed process run the episodes of a group."""
    task = get_task(group.task)
    policies = [
        {
            "name": f"seed {result.seed}",
            "policy": str(entry.folder / result.policy),
            "critic": None if result.critic is None else str(entry.folder / result.critic),
        }
        for result in group.results
    ]
    label = f"entry '{entry.name}': task '{group.task}'"
    if len(group.results) == 1:
        label += f" seed {group.results[0].seed}"
    answer = run_job(job(task, policies, source, group.asked), plan.limits or _limits(task.robot, group), label)
    _check_answer(answer, group, label)
    return answer


def _limits(robot: str, group: _Group) -> Limits:
    """Generous for honest policies of the largest robot on a slow machine, and still an end for the others."""
    horizon, policies = get_robot(robot).max_episode_steps, len(group.results)
    steps = policies * sum(ask["episodes"] * horizon for ask in group.asked)
    attacked = (protocol.MIN_Q, protocol.MIN_Q_OWN)
    inferences = policies * sum(
        ask["episodes"] * horizon * (1 + MIN_Q_SAMPLES if ask["family"] in attacked else 1) for ask in group.asked
    )
    cpu = round(60 + 2e-3 * steps + 5e-4 * inferences)
    return Limits(cpu=cpu, wall=120.0 + 6.0 * cpu)


def _check_answer(answer: Json, group: _Group, label: str) -> None:
    named = [(result.policy_sha256, result.critic_sha256) for result in group.results]
    if [(one["sha256"], one["critic_sha256"]) for one in answer["policies"]] != named:
        raise OffDynError(f"{label}: the file that ran is not the one that the entry names")
    wanted = [[ask["episodes"] for ask in group.asked]] * len(named)
    if [[len(values) for values in own] for own in answer["returns"]] != wanted:
        raise OffDynError(f"{label}: the sandbox answered with other numbers of returns than were asked for")
    for result, own in zip(group.results, answer["returns"], strict=True):
        failed = sum(value is None for values in own for value in values)
        if failed:
            raise OffDynError(
                f"{label}: {failed} episodes of seed {result.seed} failed because the policy gave a non-finite action"
            )


def _split(group: _Group, answer: Json, perturbed: bool) -> list[Rerun]:
    found: list[Rerun] = []
    for result, returns in zip(group.results, answer["returns"], strict=True):
        clean, *rest = returns
        held_out = rest.pop() if perturbed else []
        found.append(Rerun(result, clean, dict(zip(group.cells, rest, strict=True)), held_out, answer["measures"]))
    return found
