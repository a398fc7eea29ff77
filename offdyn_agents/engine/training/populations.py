"""From data in memory to trained, exported policies in one run folder for each task."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from offdyn_agents.engine.agent import Agent
from offdyn_agents.engine.rows import Transitions
from offdyn_agents.engine.training.callbacks import Checkpoints, Evaluation, LossLines, ProgressLine
from offdyn_agents.engine.training.extras import NONE, Extras
from offdyn_agents.engine.training.module import Budget, Hardware, Part, PopulationModule, fit
from offdyn_agents.engine.training.supplies import Provision, TaskRuns, make_supply
from offdyn_envs.errors import OffDynError

__all__ = ["train_population", "train_runs"]


def train_population(
    agent: Agent,
    seeds: Sequence[int],
    source: Transitions,
    target: Transitions,
    budget: Budget,
    hardware: Hardware,
    folder: Path,
    evaluation: Evaluation | None = None,
    title: str = "train",
    *,
    quiet: bool = False,
    cache: Path | None = None,
    robot: str | None = None,
) -> PopulationModule:
    """Train and export a population on one task; `train_task` without the names.

    Args:
        agent: The agent.
        seeds: Seeds of the runs.
        source: Source dataset.
        target: Target dataset.
        budget: How long.
        hardware: Where.
        folder: The run's folder.
        evaluation: Scores policies during training; None for none.
        title: What the progress line says.
        quiet: Show no progress.
        cache: Folder of cached stages, None for none.
        robot: Name of the robot, for agents that roll out models.

    Returns:
        The trained module.

    Raises:
        OffDynError: A run diverged; the others are trained and exported.
    """
    tasks = [TaskRuns(source, target, tuple(seeds), folder, title, robot)]
    evaluations = [evaluation] if evaluation else []
    module = train_runs(agent, tasks, budget, hardware, evaluations, title, quiet=quiet, cache=cache)
    stopped = [run for run in range(len(module.seeds)) if module.stopped[run]]
    if stopped:
        raise OffDynError(module.describe_stop(stopped[0]))
    return module


def train_runs(
    agent: Agent,
    tasks: Sequence[TaskRuns],
    budget: Budget,
    hardware: Hardware,
    evaluations: Sequence[Evaluation],
    title: str,
    *,
    quiet: bool,
    cache: Path | None,
    identified: Callable[[Provision], None] = lambda provision: None,
    extras: Extras = NONE,
) -> PopulationModule:
    """Train and export the runs of some tasks as one population; what stops on the way has no policies yet.

    Args:
        agent: The agent.
        tasks: The tasks and their seeds.
        budget: How long.
        hardware: Where.
        evaluations: Score policies during training; none for none.
        title: What the progress line says.
        quiet: Show no progress.
        cache: Folder of cached stages, None for none.
        identified: Called once the stages are there, before the first update.
        extras: A user's own callbacks, loggers and arguments of the trainer.

    Returns:
        The trained module; it says which runs were stopped.
    """
    begun = time.monotonic()
    provision = make_supply(agent, tasks, budget, hardware, quiet=quiet, cache=cache)
    seconds = time.monotonic() - begun
    identified(provision)
    parts = [
        Part(task.folder, task.title, task.seeds, identity, task.contract)
        for task, identity in zip(tasks, provision.identities, strict=True)
    ]
    module = PopulationModule(
        agent,
        parts,
        provision.supply,
        provision.sampler,
        budget,
        hardware,
        provision.frozen,
        provision.refill,
        provision.failed,
    )
    module.stage_seconds = seconds
    fit(module, [*evaluations, LossLines(), Checkpoints(), ProgressLine(title, evaluations, quiet)], extras)
    if budget.end == budget.updates:
        for part in range(len(parts)):
            module.export(part)
    return module
