"""From the datasets of tasks to everything that the runs of a population learn from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offdyn_agents.engine.agent import NUMBERS, Agent
from offdyn_agents.engine.buffers import RolloutBuffer
from offdyn_agents.engine.data import Sampler, Supply
from offdyn_agents.engine.networks import Params
from offdyn_agents.engine.resources import Budget, Hardware
from offdyn_agents.engine.rollouts import ModelBased, Refill
from offdyn_agents.engine.rows import Layout, RowRange, RunRows, Transitions, pack
from offdyn_agents.engine.settings import shared, to_json
from offdyn_agents.engine.stages import StageContext, StageResults
from offdyn_agents.engine.termination import Termination, termination
from offdyn_agents.engine.training.checkpoints import FILE, read_checkpoint, updates_done
from offdyn_agents.engine.update import numbers
from offdyn_envs.datasets.own.contract import Contract
from offdyn_envs.errors import OffDynError

__all__ = ["BUFFERS", "Provision", "TaskRuns", "digest", "make_supply", "may_grow", "packed_tables", "settings_digest"]

BUFFERS = "buffers"
"""The folder of rollout buffers in a run folder."""


@dataclass(frozen=True)
class TaskRuns:
    """The data of one task, and the runs that learn from them.

    Attributes:
        source: Source dataset; None where the agent's batches hold none of its rows.
        target: Target dataset; likewise.
        seeds: Seeds of the runs.
        folder: The task's run folder.
        title: What messages call it.
        robot: Name of the robot, which decides what terminates model rollouts; None for data without one.
        settings: Settings of the task's own agent, which may differ from the population's in what is declared with
            `per_run=True`; None for the population's.
        terminated: What terminates model rollouts instead of the robot; None for the robot's own.
        contract: What the columns of the data are, which exported policies carry along; None for data in [-1, 1] of
            which nothing more is to be said.
        joins: The folder of earlier runs of the task that these are to join; None for none.
    """

    source: Transitions | None
    target: Transitions | None
    seeds: tuple[int, ...]
    folder: Path
    title: str = "train"
    robot: str | None = None
    settings: Any = None
    terminated: Termination | None = None
    contract: Contract | None = None
    joins: Path | None = None

    @property
    def ends(self) -> Termination:
        """What terminates model rollouts.

        Raises:
            OffDynError: No such robot.
        """
        return self.terminated or termination(self.robot)


@dataclass
class Provision:
    """What a population needs beside its own state.

    Attributes:
        supply: Rows on the device.
        sampler: Draws them.
        frozen: What stages give the loss to read, [R, ...].
        refill: Makes rows of model rollouts, for agents that have any.
        identities: SHA-256 of data and settings, of each task.
        reports: What the stages of each task say.
        failed: Why runs cannot be trained, by run: a stage of theirs failed.
    """

    supply: Supply
    sampler: Sampler
    frozen: dict[str, Params] = field(default_factory=dict)
    refill: Refill | None = None
    identities: list[dict[str, str]] = field(default_factory=list)
    reports: list[Mapping[str, Any]] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)


def digest(*tables: Tensor) -> str:
    """Return the SHA-256 of packed rows."""
    found = hashlib.sha256()
    for table in tables:
        found.update(str(tuple(table.shape)).encode())
        found.update(np.ascontiguousarray(table.cpu().numpy()).data)
    return found.hexdigest()


def may_grow(agent: Agent, budget: Budget) -> bool:
    """Say whether runs may go on beyond their last update: no rate of theirs has fallen to 0 by then."""
    return not (agent.annealed and budget.horizon)


def settings_digest(agent: Agent, settings: Any, budget: Budget, hardware: Hardware) -> str:
    """Return the SHA-256 of all that decides what updates do, beside the data and the seeds."""
    horizon = None if may_grow(agent, budget) else budget.horizon
    told = [agent.name, to_json(settings), horizon, hardware.precision]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def make_supply(
    agent: Agent,
    tasks: Sequence[TaskRuns],
    budget: Budget,
    hardware: Hardware,
    *,
    quiet: bool = True,
    cache: Path | None = None,
) -> Provision:
    """Put the rows of all tasks on the device, and train what comes before the policies.

    Args:
        agent: The agent.
        tasks: The tasks, all of the agent's dimensions.
        budget: How long.
        hardware: Where.
        quiet: Show no progress.
        cache: Folder of cached stages, None for none.

    Raises:
        OffDynError: A dataset is no dataset, or of other dimensions; or a task's folder has a checkpoint of other data
            or settings.
    """
    layout = Layout(agent.observation_dim, agent.action_dim, agent.columns)
    tables = [packed_tables(agent, task, layout) for task in tasks]
    table, rows = _joined(tables)
    table = table.to(hardware.device)
    own = [_own_settings(agent, task) for task in tasks]
    identities = [
        {"data": digest(*pair), "settings": settings_digest(agent, settings, budget, hardware)}
        for pair, settings in zip(tables, own, strict=True)
    ]
    for task, identity in zip(tasks, identities, strict=True):
        # What cannot be continued is said before the stages cost hours.
        done = updates_done(read_checkpoint(task.folder, agent.name, task.seeds, identity))
        if done > budget.updates:
            raise OffDynError(f"checkpoint '{task.folder / FILE}' has {done} updates behind it, not {budget.updates}")
        if task.joins is not None:
            read_checkpoint(task.joins, agent.name, None, identity)
    runs = sum(len(task.seeds) for task in tasks)
    results = [
        _with_facts(agent, _context(task, where, table, layout, budget, hardware, runs, quiet, cache))
        for task, where in zip(tasks, rows, strict=True)
    ]
    seeds = [seed for task in tasks for seed in task.seeds]
    of_runs = [where for task, where in zip(tasks, rows, strict=True) for _ in task.seeds]
    supply = Supply(table, layout, rows=of_runs)
    _add_results(supply, results)
    bounds = ([where.source for where in of_runs], [where.target for where in of_runs])
    keep = [columns.keep for columns in supply.columns] if supply.columns else None
    sampler = Sampler(seeds, *bounds, agent.rows(), len(table), agent.noise_width, keep)
    reports = [result.report for result in results]
    of_runs_settings = [settings for task, settings in zip(tasks, own, strict=True) for _ in task.seeds]
    frozen = _frozen(results) | {NUMBERS: numbers(of_runs_settings)}
    provision = Provision(supply, sampler, frozen, None, identities, reports, _failed(tasks, results))
    if isinstance(agent, ModelBased):
        _add_buffers(provision, agent, tasks, results, hardware)
    return provision


def _own_settings(agent: Agent, task: TaskRuns) -> Any:
    """Return the settings of a task's own agent.

    Raises:
        OffDynError: They differ from the population's in more than a population allows.
    """
    if task.settings is None:
        return agent.settings
    if shared(task.settings) != shared(agent.settings):
        raise OffDynError(f"{task.title}: its settings differ from the population's in more than numbers of a run")
    return task.settings


def packed_tables(agent: Agent, task: TaskRuns, layout: Layout) -> tuple[Tensor, Tensor]:
    """Return a task's packed source and target rows; those that no batch would hold are left out."""
    counts, found = agent.rows(), []
    for data, what, wanted in ((task.source, "source", counts.source), (task.target, "target", counts.target)):
        table = pack(data, what) if wanted and data is not None else torch.empty(0, layout.width)
        if table.shape[1] != layout.width:
            raise OffDynError(f"{what}: rows of width {table.shape[1]}; {layout.width} is this robot's")
        found.append(table)
    return found[0], found[1]


def _joined(tables: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[RunRows]]:
    """Return all tables as one, and where each task's rows lie in it; tasks with the same rows share them."""
    kept: list[tuple[Tensor, int]] = []
    end = 0

    def place(table: Tensor) -> RowRange:
        nonlocal end
        for other, start in kept:
            if torch.equal(table, other):
                return RowRange(start, len(table))
        kept.append((table, end))
        end += len(table)
        return RowRange(end - len(table), len(table))

    rows = [RunRows(*(place(part) for part in pair)) for pair in tables]
    return torch.cat([table for table, _ in kept]), rows


def _context(
    task: TaskRuns,
    where: RunRows,
    table: Tensor,
    layout: Layout,
    budget: Budget,
    hardware: Hardware,
    runs: int,
    quiet: bool,
    cache: Path | None,
) -> StageContext:
    source, target = (table[part.start : part.start + part.length] for part in where)
    return StageContext(
        layout,
        source,
        target,
        task.seeds,
        budget.updates,
        runs,
        cache,
        task.robot,
        task.ends,
        hardware.threads,
        hardware.compiled,
        quiet,
        hardware.precision,
        (task.source, task.target),
    )


def _with_facts(agent: Agent, context: StageContext) -> StageResults:
    """Return what an agent's stages give, with the facts that its loss reads, and with what there is to say of columns.

    Runs whose columns have a fault have failed.
    """
    facts, results = agent.facts(context), agent.stages(context)
    faults = {
        place: columns.fault(len(context.source), len(context.target)) for place, columns in enumerate(results.columns)
    }
    failed = {place: why for place, why in faults.items() if why} | dict(results.failed)
    told = [None if place in failed else columns.figures() for place, columns in enumerate(results.columns)]
    frozen = {**facts, **results.frozen}
    report = {**results.report, **agent.told(frozen), **({"rows": told} if told else {})}
    return replace(results, frozen=frozen, failed=failed, report=report)


def _add_results(supply: Supply, results: Sequence[StageResults]) -> None:
    """Give the supply what stages made for the rows of the data."""
    supply.columns = [part for result in results for part in result.columns] or None
    if all(result.predicted for result in results):
        supply.predicted = [part for result in results for part in result.predicted]
    predictors = [predictor for result in results for predictor in result.predictors]

    def predict(run: int, rows: Tensor) -> Tensor:
        return predictors[run](rows)

    supply.predictor = predict if predictors else None


def _frozen(results: Sequence[StageResults]) -> dict[str, Params]:
    """Return what the stages of all tasks freeze, as one population's."""
    return {
        name: [torch.cat(tensors) for tensors in zip(*(result.frozen[name] for result in results), strict=True)]
        for name in results[0].frozen
    }


def _failed(tasks: Sequence[TaskRuns], results: Sequence[StageResults]) -> dict[int, str]:
    """Return why runs of the whole population cannot be trained."""
    found, start = dict[int, str](), 0
    for task, result in zip(tasks, results, strict=True):
        found |= {start + place: why for place, why in result.failed.items()}
        start += len(task.seeds)
    return found


def _add_buffers(
    provision: Provision,
    agent: ModelBased,
    tasks: Sequence[TaskRuns],
    results: Sequence[StageResults],
    hardware: Hardware,
) -> None:
    supply = provision.supply
    seeds = [seed for task in tasks for seed in task.seeds]
    paths = [task.folder / BUFFERS / f"{seed}.f32" for task in tasks for seed in task.seeds]
    supply.buffers = [RolloutBuffer(path, agent.capacity, supply.layout.width, hardware.device) for path in paths]
    of_runs = [item for result in results for item in result.results]
    terminations = [task.ends for task in tasks for _ in task.seeds]
    provision.refill = Refill(agent, seeds, supply, provision.sampler, of_runs, terminations, hardware.products)
