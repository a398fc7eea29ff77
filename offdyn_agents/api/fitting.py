"""`offdyn.fit`: train an agent on anybody's transitions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from offdyn_agents.api.recipe import Recipe, recipe
from offdyn_agents.api.run import Run, thread_number
from offdyn_agents.engine.resources import Hardware, choose_device
from offdyn_agents.engine.settings import DEFAULT_UPDATES
from offdyn_agents.engine.training.extras import Extras
from offdyn_agents.runs.console import count, seed_numbers
from offdyn_agents.runs.own_pairs import OwnPair
from offdyn_agents.runs.plans import Plan
from offdyn_agents.runs.problems import NamedTask
from offdyn_agents.runs.runs import need_source, plan_agent, train_tasks
from offdyn_agents.runs.variants import named
from offdyn_envs.benchmark.scoring.environments import Place, find_place
from offdyn_envs.datasets.own.arrays import OwnData, from_arrays
from offdyn_envs.datasets.own.contract import Contract, plain_contract
from offdyn_envs.datasets.store.imported import ImportedDataset
from offdyn_envs.datasets.store.spec import Dataset
from offdyn_envs.errors import OffDynError, beginning
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import env_id, list_tasks

__all__ = ["fit"]


def fit(
    agent: str | type[Any] | Recipe,
    source: Any,
    target: Any,
    *,
    seeds: int | Sequence[int] = 5,
    updates: int | str = DEFAULT_UPDATES,
    env: Any = None,
    out: str | Path | None = None,
    name: str = "",
    termination: Any = None,
    eval_every: int | str | None = None,
    device: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
    callbacks: Any = (),
    loggers: Any = (),
    trainer: Mapping[str, Any] | None = None,
    progress: bool = True,
    judge: bool | None = False,
) -> Run:
    """Train all seeds of an agent on a source and a target.

    Args:
        agent: `offdyn.agents.NAME(setting=value)`, the name of an agent, or an agent's class.
        source: Plentiful transitions of other dynamics: a dataset of this suite, a Minari dataset, the name or path of
            a dataset, or a mapping or object of arrays: `observations` [N, |S|], `actions` [N, |A|], `rewards` [N],
            `next_observations` [N, |S|], `terminations` [N], and perhaps `truncations` [N], `action_low` and
            `action_high` [|A|], which are mapped to [-1, 1]. None for agents that learn from target rows alone.
        target: Scarce transitions of the dynamics that count, likewise.
        seeds: Number of runs (seeds 0 to n - 1), or their seeds; trained side by side.
        updates: Updates of every run; "100k" and "1m" are numbers too. The default, 20,000 as for `offdyn train`, is a
            first look; results take 100,000.
        env: What scores: a Gymnasium id, "module:Class", an environment, or a function that makes one. By default that
            of the target's dynamics where it is a dataset of this suite (returns; scores where the pair is a task's);
            without one nothing is scored, and all else works.
        out: Folder of runs; the run lies in OUT/NAME/AGENT, and the same call goes on there or finds it complete. By
            default a folder of its own below `runs`.
        name: What the pair is called; by default after the data.
        termination: What ends episodes inside learned models: a robot's name, "learned", "never" or a function of
            observations [N, |S|]. By default the data's robot, else "learned" where the data hold terminations.
        eval_every: Updates between evaluations; by default a tenth of all, at most 10,000.
        device: "auto", "cpu" or "cuda".
        precision: "fp32", "bf16", or "tf32" on a GPU.
        threads: CPU threads; all by default.
        callbacks: Lightning callbacks, or one; `trainer.lightning_module` is a `PopulationModule`.
        loggers: Lightning loggers, or one, beside the run's own CSV file and TensorBoard; they get the settings as
            hyperparameters.
        trainer: Further arguments of `lightning.Trainer`.
        progress: Show progress.
        judge: Say in run.json how far learned dynamics are from the truth, on tasks of the suite, before the first
            update: None for the agent's own, True for those of merged and of target rows beside them. It takes a while.

    Returns:
        The run.

    Raises:
        OffDynError: What is given is not allowed; one line says what and why, before anything is written.

    Examples:
        >>> import offdyn
        >>> from offdyn_agents.testing import dataset
        >>> source, target = dataset(500, seed=0), dataset(100, seed=1)
        >>> run = offdyn.fit(offdyn.agents.IQL(width=16), source, target, seeds=2, updates=20, progress=False)
        >>> run.policy(seed=1)(target.observations[:3]).shape
        (3, 2)
    """
    chosen = recipe(agent)
    place = None if env is None else find_place(env)
    plentiful = None if source is None else _data(source, "source", place)
    problem = _problem(plentiful, _data(target, "target", place), place, termination, name)
    hardware = Hardware(choose_device(device), precision, thread_number(threads))
    total = count(updates)
    every = min(10_000, max(1, total // 10)) if eval_every is None else count(eval_every)
    plan = Plan(
        chosen.name,
        problem.title,
        seed_numbers(seeds),
        dict(chosen.settings),
        hardware.budget(total, every),
        hardware,
        Path("runs") if out is None else Path(out),
        not progress,
        judge=judge,
        pair=problem if isinstance(problem, OwnPair) else None,
        extras=Extras(_several(callbacks), _several(loggers), dict(trainer or {})),
    )
    plan = named(plan)
    need_source(plan, plan_agent(plan), source is not None)
    if out is None:
        plan = replace(plan, variant=_fresh(plan))
    train_tasks([plan])
    return Run(plan.folder, problem)


def _data(data: Any, what: str, place: Place | None) -> Any:
    """Return data as runs take them: a name stays a name, arrays are checked."""
    if isinstance(data, Path):
        data = str(data)
    if isinstance(data, str | Dataset | ImportedDataset | OwnData):
        return data
    if _is_minari(data):
        from offdyn_envs.datasets.own.reading import read_own

        return read_own(data)
    return from_arrays(data, what, _contract(data, what, place))


def _several(items: Any) -> tuple[Any, ...]:
    """Return what a list holds, or the one thing that is none, as Lightning's trainer takes both."""
    return tuple(items) if isinstance(items, list | tuple) else (items,)


def _is_minari(data: Any) -> bool:
    return type(data).__module__.partition(".")[0] == "minari"


def _contract(data: Any, what: str, place: Place | None) -> Contract | None:
    """Return the bounds of actions that arrays bring along, or those of the environment."""
    low, high = _bound(data, what, "action_low"), _bound(data, what, "action_high")
    if (low is None) != (high is None):
        given, missing = ("action_low", "action_high") if high is None else ("action_high", "action_low")
        raise OffDynError(f"{what}: {given} without {missing}; both or neither is allowed")
    widths = _width(data, "observations"), _width(data, "actions")
    if widths[0] is None or widths[1] is None:
        return None
    if low is None and place is not None and (bounds := place.action_bounds()):
        low, high = bounds
        place.check(widths[0], widths[1], low, high)
    if low is None or high is None:
        return None
    return plain_contract(widths[0], widths[1], low, high)


def _bound(data: Any, what: str, key: str) -> Any:
    found = _part(data, key)
    try:
        return None if found is None else np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError):
        raise OffDynError(f"{what}: {key} is {beginning(found, 80)}; a number for each action is allowed") from None


def _width(data: Any, key: str) -> int | None:
    """Return the columns of an array; None for what is no table, which `from_arrays` tells."""
    try:
        return np.shape(_part(data, key))[1]
    except (IndexError, ValueError):
        return None


def _part(data: Any, key: str) -> Any:
    return data.get(key) if isinstance(data, Mapping) else getattr(data, key, None)


def _problem(source: Any, target: Any, place: Place | None, termination: Any, name: str) -> NamedTask | OwnPair:
    """Return the suite's task whose data these are, if its environment scores and nothing else is asked for.

    Else the pair, which without another environment is scored in that of a target of the suite.
    """
    task = _task_of(source, target)
    if task is not None and not name and termination is None and (place is None or task.scored_in(place)):
        return task
    if place is None and isinstance(target, Dataset):
        place = find_place(env_id(get_robot(target.id.robot), target.id.dynamics))
    pair = OwnPair(source, target, place, termination, name)
    pair.inspect()
    return pair


def _task_of(source: Any, target: Any) -> NamedTask | None:
    """Return the task whose data these are; without a source only if no other task has that target."""
    if not isinstance(target, Dataset) or not isinstance(source, Dataset | None):
        return None
    sources = {task.name: task.source for task in list_tasks() if task.target == target.id}
    found = [name for name, its in sources.items() if source is None or its == source.id]
    return NamedTask(found[0]) if len(found) == 1 else None


def _fresh(plan: Plan) -> str:
    """Return a variant's name with which a run gets a folder that is not there yet."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(1000):
        variant = "-".join([*([plan.variant] if plan.variant else []), stamp, *([str(number)] if number else [])])
        if not replace(plan, variant=variant).folder.exists():
            return variant
    raise OffDynError(f"'{plan.folder.parent}' holds a thousand runs of this second; give out=")
