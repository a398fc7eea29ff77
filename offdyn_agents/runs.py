"""One run folder: from a task's name to trained, exported policies."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from offdyn_agents.agent import Agent, agent_class
from offdyn_agents.callbacks import Checkpoints, Evaluation, ProgressLine, target_returns
from offdyn_agents.data import Layout, Sampler, Supply, Transitions, pack
from offdyn_agents.dynamics import prediction_bytes
from offdyn_agents.networks import member
from offdyn_agents.provenance import git_commit, package_versions, processor_name
from offdyn_agents.settings import build, preset, to_json, tuning
from offdyn_agents.training import Budget, Hardware, PopulationModule, fit
from offdyn_envs.atomic import write_json
from offdyn_envs.errors import OffDynError

__all__ = ["FORMAT", "Plan", "cpu_threads", "make_agent", "make_supply", "read_run", "train_population", "train_task"]

FORMAT = 1
EPISODES = 10
"""Episodes of each policy at every evaluation during training."""


@dataclass(frozen=True)
class Plan:
    """What `offdyn train` was asked for, for one task.

    Attributes:
        agent: Name of the agent.
        task: Name of the task.
        seeds: Seeds of the runs, trained as one population.
        overrides: Settings given by hand, dotted names and text.
        budget: How long.
        hardware: Where.
        out: Folder of all runs.
        quiet: Show no progress.
    """

    agent: str
    task: str
    seeds: tuple[int, ...]
    overrides: dict[str, str]
    budget: Budget
    hardware: Hardware
    out: Path
    quiet: bool = False

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.out / self.task / self.agent

    @property
    def command(self) -> str:
        """The command that makes this run from nothing."""
        words = ["offdyn", "train", self.agent, self.task, "--seeds", str(len(self.seeds))]
        words += ["--updates", str(self.budget.updates), "--precision", self.hardware.precision]
        for key, value in self.overrides.items():
            words += ["--set", f"{key}={value}"]
        return shlex.join(words)


def read_run(folder: Path) -> dict[str, Any]:
    """Read a run's run.json.

    Raises:
        OffDynError: There is none, or it is of another format.
    """
    import json

    path = folder / "run.json"
    if not path.is_file():
        raise OffDynError(f"'{folder}' is no run: it has no run.json; make one with: offdyn train")
    try:
        facts: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OffDynError(f"run '{folder}': run.json is no JSON: {error}") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise OffDynError(f"run '{folder}': run.json is not of format {FORMAT}")
    return facts


def make_agent(name: str, robot: str, observation_dim: int, action_dim: int, overrides: dict[str, str]) -> Agent:
    """Return an agent with its preset for a robot and settings given by hand.

    Raises:
        OffDynError: Unknown agent or setting, or a value out of range.
    """
    kind = agent_class(name)
    settings = build(kind.settings_class, preset(name, robot), overrides)
    return kind(settings, observation_dim, action_dim)


def train_task(plan: Plan) -> tuple[dict[str, Any], bool]:
    """Train all seeds of one agent on one task; an interrupted run is continued, a complete one left alone.

    Returns:
        The contents of run.json, and whether anything was left to do.

    Raises:
        OffDynError: Unknown names, data that is not there, or a folder that holds a run of other settings.
    """
    from offdyn_envs import load_task
    from offdyn_envs.robots import get_robot
    from offdyn_envs.tasks import get_task

    task = get_task(plan.task)
    robot = get_robot(task.robot)
    agent = make_agent(plan.agent, task.robot, robot.observation_dim, robot.action_dim, plan.overrides)
    facts = _facts(plan, agent)
    if _already(plan.folder, facts):
        return read_run(plan.folder), False
    env, source, target = load_task(plan.task)
    env.close()
    facts["data"] = {"source": str(task.source), "target": str(task.target)}
    write_json(plan.folder / "run.json", facts)
    returns = target_returns(task.robot, task.scoring, EPISODES, plan.hardware.threads)
    evaluation = Evaluation(returns, _normaliser(task.robot, task.scoring))
    module = train_population(
        agent,
        plan.seeds,
        source,
        target,
        plan.budget,
        plan.hardware,
        plan.folder,
        evaluation,
        f"{plan.task} {plan.agent}",
        quiet=plan.quiet,
        cache=plan.out / ".stages",
    )
    facts |= {"status": "complete", "wall_clock_s": round(module.seconds + module.stage_seconds, 1)}
    facts["seed_updates_per_second"] = round(len(plan.seeds) * plan.budget.updates / max(module.seconds, 1e-9), 1)
    write_json(plan.folder / "run.json", facts)
    return facts, True


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
) -> PopulationModule:
    """Train and export a population; `train_task` without the names.

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

    Returns:
        The trained module.
    """
    begun = time.monotonic()
    supply, starts = make_supply(agent, seeds, source, target, budget, hardware, quiet=quiet, cache=cache)
    runs = len(seeds)
    sampler = Sampler(seeds, [starts[0]] * runs, [starts[1]] * runs, agent.rows())
    module = PopulationModule(agent, seeds, supply, sampler, budget, hardware)
    module.stage_seconds = time.monotonic() - begun
    callbacks = [Checkpoints(folder / "checkpoints"), ProgressLine(title, evaluation, quiet)]
    fit(module, folder, [*([evaluation] if evaluation else []), *callbacks])
    _export(module, folder)
    return module


def make_supply(
    agent: Agent,
    seeds: Sequence[int],
    source: Transitions,
    target: Transitions,
    budget: Budget,
    hardware: Hardware,
    *,
    quiet: bool = True,
    cache: Path | None = None,
) -> tuple[Supply, tuple[tuple[int, int], tuple[int, int]]]:
    """Put the rows that an agent needs on the device, and what it predicts for them.

    Returns:
        The supply, and (first row, number of rows) of the source rows and of the target rows in its table.
    """
    layout = Layout(agent.observation_dim, agent.action_dim)
    wanted = agent.rows()
    parts = [(source, "source", wanted.source), (target, "target", wanted.target)]
    tables = [pack(data, what) if rows else torch.empty(0, layout.width) for data, what, rows in parts]
    for table, (_, what, _) in zip(tables, parts, strict=True):
        if table.shape[1] != layout.width:
            raise OffDynError(f"{what}: rows of width {table.shape[1]}; {layout.width} is this robot's")
    counts = [len(table) for table in tables]
    table = torch.cat(tables).to(hardware.device)
    supply = Supply(table, layout)
    dynamics = getattr(agent.settings, "dynamics", None)
    if dynamics is not None:
        _add_predictions(supply, agent, seeds, counts[0], budget, hardware, quiet, cache)
    # An empty part has no rows to draw; one row that is never drawn keeps the arithmetic of the sampler whole.
    return supply, ((0, max(counts[0], 1)), (counts[0], max(counts[1], 1)))


def _add_predictions(
    supply: Supply,
    agent: Agent,
    seeds: Sequence[int],
    source_rows: int,
    budget: Budget,
    hardware: Hardware,
    quiet: bool,
    cache: Path | None,
) -> None:
    """Train the ensembles and let the supply predict: beforehand for all source rows where that is less work."""
    from offdyn_agents.stages import fit_ensembles, predict_all

    settings = agent.settings.dynamics
    layout, table = supply.layout, supply.table
    ensembles = fit_ensembles(
        settings,
        layout,
        table[source_rows:],
        seeds,
        cache,
        threads=hardware.threads,
        compiled=hardware.compiled,
        quiet=quiet,
    )
    robust_min = agent.settings.robust_min

    def predict(run: int, rows: Tensor) -> Tensor:
        with torch.no_grad():
            return ensembles[run].next_states(layout, rows, robust_min)

    supply.predictor = predict
    members = 1 if robust_min == "coordinate" else settings.members
    needed = len(seeds) * prediction_bytes(source_rows, members, layout.observation_dim)
    worth_it = budget.updates * agent.rows().source >= source_rows
    if worth_it and needed <= settings.memory_gb * 1e9:
        supply.predicted = predict_all(
            ensembles, layout, table[:source_rows], robust_min, threads=hardware.threads, quiet=quiet
        )


def _export(module: PopulationModule, folder: Path) -> None:
    from offdyn_agents.export import export_run

    population = module.population
    for run, seed in enumerate(module.seeds):
        params = {name: member(tensors, run) for name, tensors in population.params.items()}
        agent = module.agent
        export_run(params, folder / "seeds" / str(seed), agent.observation_dim, agent.action_dim)


def _facts(plan: Plan, agent: Agent) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "agent": plan.agent,
        "task": plan.task,
        "seeds": list(plan.seeds),
        "updates": plan.budget.updates,
        "settings": to_json(agent.settings),
        "status": "running",
        "wall_clock_s": 0.0,
        "device": _device(plan.hardware),
        "precision": plan.hardware.precision,
        "parameters": agent.parameters,
        "versions": package_versions("offdyn", "torch", "lightning", "mujoco", "numpy"),
        "commit": git_commit(),
        **tuning(plan.agent),
        "command": plan.command,
    }


def _device(hardware: Hardware) -> str:
    """Return the name of the processor that trains."""
    return (
        torch.cuda.get_device_name() if hardware.device == "cuda" else f"{processor_name()}, {hardware.threads} threads"
    )


def _already(folder: Path, facts: dict[str, Any]) -> bool:
    """Whether the folder holds this run complete; a run of other settings is never continued or overwritten."""
    if not (folder / "run.json").exists():
        return False
    found = read_run(folder)
    for key in ("seeds", "updates", "precision", "settings"):
        if found.get(key) != facts[key]:
            what, old, new = _difference(key, found.get(key), facts[key])
            raise OffDynError(
                f"'{folder}' holds a run with {what} {old}, not {new}; take another --out or remove that folder"
            )
    return found.get("status") == "complete"


def _difference(key: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    while isinstance(old, dict) and isinstance(new, dict):
        inner = next(name for name in sorted({*old, *new}) if old.get(name) != new.get(name))
        key, old, new = inner, old.get(inner), new.get(inner)
    return key, old, new


def _normaliser(robot: str, dynamics: str) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
    from offdyn_envs.benchmark.scores import get_reference

    try:
        return get_reference(robot, dynamics).normalise
    except OffDynError:
        # Without measured references the raw returns are still worth showing.
        return None


def cpu_threads() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
