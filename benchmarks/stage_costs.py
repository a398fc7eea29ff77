"""What stages before the policy cost, and the rollouts that need their results: published forms beside this suite's.

Every number is extrapolated from a slice of a few seconds on random rows of Walker2d's dimensions. `costs.py` writes
them down.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from row_stages import measure_clusters, measure_rows, measure_step, untrained_ensemble
from torch import Tensor
from training_peers import Work, products

from offdyn_agents.algorithms.morec import MOREC, Judged
from offdyn_agents.algorithms.registry import agent_class, make_agent, names
from offdyn_agents.engine.agent import Agent
from offdyn_agents.engine.execution import exact_fast_products, threads_inside
from offdyn_agents.engine.rollouts import ModelBased, Refill
from offdyn_agents.engine.rows import RowRange, RunRows
from offdyn_agents.engine.termination import never
from offdyn_agents.models.classifiers import ClassifierSettings
from offdyn_agents.models.classifiers import training as classifier_training
from offdyn_agents.models.clusters import ClusterSettings
from offdyn_agents.models.dual.settings import DualDynamicsSettings
from offdyn_agents.models.dual.training import DualLearner
from offdyn_agents.models.dynamics_reward.contrast import NoiseContrast
from offdyn_agents.models.dynamics_reward.discriminator import DynamicsReward
from offdyn_agents.models.dynamics_reward.scorer import distil
from offdyn_agents.models.dynamics_reward.settings import DynamicsRewardSettings, ScorerSettings
from offdyn_agents.models.dynamics_reward.training import PRETRAINING_BLOCK, Adversaries
from offdyn_agents.models.ensemble.model import Ensemble
from offdyn_agents.models.ensemble.settings import EnsembleSettings, GaussianSettings
from offdyn_agents.models.ensemble.training import EnsembleLearner
from offdyn_agents.models.short_training import Learner
from offdyn_agents.presets import forms
from offdyn_envs.robots import get_robot

ROBOT = "walker2d"
ROWS, TARGET_ROWS = 1_000_000, 5_000
FORMS = ("paper", "suite")
STOPPED = 274
"""Epochs after which early stopping ended DROCO's published ensemble on walker2d-gravity-5.0-medium."""
SLICE, STEPS = 20_000, 200
"""Source rows of a slice, and steps of trainings whose length is a number of steps."""


@dataclass
class StageCosts:
    """What was measured of one form, in seconds for all seeds.

    Attributes:
        form: "paper" or "suite".
        seeds: Number of seeds.
        threads: CPU threads.
        epochs: Epochs that early stopping is assumed to take.
        stages: Seconds of each stage of one task by name.
        notes: How each was obtained.
        refills: Seconds of one refill of rollouts by agent.
        used: Names of the stages of each agent.
    """

    form: str
    seeds: int
    threads: int
    epochs: int
    stages: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    refills: dict[str, float] = field(default_factory=dict)
    used: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, stage: str, seconds: float, note: str) -> None:
        self.stages[stage], self.notes[stage] = seconds, note

    def agent(self, name: str) -> Agent:
        return agent_of(name, ROBOT, self.form if self.form in forms(agent_class(name)) else "suite")


def rankable() -> list[str]:
    """Return the names of all agents but those that know the true target."""
    return [name for name in names() if not agent_class(name).diagnosis]


def model_stages(agent: Agent) -> tuple[str, ...]:
    """Return the names of the stages of an agent that acts in a learned model."""
    kinds = {item.name: getattr(agent.settings, item.name) for item in fields(agent.settings)}
    stages = {
        "ensemble, merged": EnsembleSettings,
        "dual dynamics": DualDynamicsSettings,
        "classifiers": ClassifierSettings,
        "dynamics reward": DynamicsRewardSettings,
        "scorers": ScorerSettings,
    }
    found = [name for name, kind in stages.items() if any(isinstance(value, kind) for value in kinds.values())]
    # Where discriminators judge in rollouts themselves there are none.
    exact = any(isinstance(value, ScorerSettings) and value.form == "exact" for value in kinds.values())
    return tuple(name for name in found if not (exact and name == "scorers"))


def agent_of(name: str, robot: str, form: str = "suite") -> Agent:
    body = get_robot(robot)
    overrides = {} if form == "suite" else {"form": form}
    return make_agent(name, robot, body.observation_dim, body.action_dim, overrides, "medium")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def measure_stages(costs: StageCosts, folder: Path) -> None:
    """Measure all stages of a form, and the rollouts that need their results."""
    work = Work.random(costs.agent("droco"), 1, folder, rows=(40_000, TARGET_ROWS, 1))
    source, target = work.supply.table[: work.source], work.supply.table[work.source :]
    with exact_fast_products(*products(work.agent)):
        _target_ensemble(costs, work, target)
        plain = _merged_ensemble(costs, work, source)
        for name in rankable():
            agent = costs.agent(name)
            costs.used[name] = (
                model_stages(agent) if isinstance(agent, ModelBased) else _judging(costs, agent, source, target)
            )
        _classifiers(costs, source, target)
        learn = _contrast if costs.form == "suite" else _adversaries
        reward = learn(costs, source, target, plain)
        dual = _dual(costs, source, target)
        models = {"dual dynamics": dual, "ensemble, merged": plain, "dynamics reward": Judged(plain, reward)}
        known: dict[tuple[str, int], float] = {}
        for name, stages in costs.used.items():
            agent = costs.agent(name)
            if not isinstance(agent, ModelBased):
                continue
            # Rollouts of one length in one kind of model cost the same, whatever else the agents do.
            kind = [stage for stage in models if stage in stages][-1], getattr(agent.settings, "horizon", 0)
            if kind not in known:
                say(f"{costs.form}: rollouts, {name}")
                known[kind] = _refill(agent, models[kind[0]], costs.threads, folder) * costs.seeds
            costs.refills[name] = known[kind]


def _judging(costs: StageCosts, agent: Agent, source: Tensor, target: Tensor) -> tuple[str, ...]:
    """Measure what an agent does before the policy, whatever it is; return the names of these stages."""
    say(f"{costs.form}: stages, {agent.name}")
    found: list[str] = []
    each, trainings = measure_rows(agent, source, target, costs.seeds, costs.threads)

    def add(title: str, seconds: float, note: str) -> None:
        found.append(f"{title}, {agent.name}")
        costs.add(found[-1], seconds, f"{agent.name}: {note}")

    for training in trainings:
        if isinstance(training, GaussianSettings):
            found.append("ensemble, target")
        elif isinstance(training, ClusterSettings):
            points = torch.randn(SLICE, source.shape[1] - 2, generator=torch.Generator().manual_seed(0))
            once = measure_clusters(training, points, partial(_side_by_side, costs))
            add("clusters", once * costs.seeds, f"{training.restarts} beginnings; at most: no step settles early")
        else:
            step = measure_step(training, source, target, partial(_side_by_side, costs)) * costs.seeds
            at_most = "; at most: held-out rows may end it" if training.holdout else ""
            note = f"{training.updates:,} updates of {1e3 * step:.1f} ms{at_most}"
            add(training.title, step * training.updates, note)
    if each is not None:
        add("rows", each * ROWS, f"{1e6 * each:.1f} us a source row")
    return tuple(found)


def _side_by_side(costs: StageCosts, train: Callable[[int], Any]) -> float:
    """Return the seconds of one training, of as many as threads on cores that are free."""

    def call(number: int) -> None:
        torch.set_num_threads(1)
        train(number)

    with threads_inside(1), ThreadPoolExecutor(costs.threads) as pool:
        begun = time.process_time()
        list(pool.map(call, range(costs.threads)))
        return (time.process_time() - begun) / costs.threads**2


def _target_ensemble(costs: StageCosts, work: Work, target: Tensor) -> None:
    say(f"{costs.form}: ensemble of the target")
    settings = work.agent.settings.dynamics
    few = replace(settings, epochs=8, patience=1000)
    learner = EnsembleLearner(few, work.supply.layout, target.device)
    learner.warm_up(target)
    epoch = _side_by_side(costs, lambda seed: learner.fit(target, seed)) / few.epochs * costs.seeds
    epochs = settings.epochs if settings.schedule == "annealed" else STOPPED
    costs.add("ensemble, target", epoch * epochs, f"DROCO, TABB: {epochs} epochs of {epoch:.2f} s")


def _merged_ensemble(costs: StageCosts, work: Work, source: Tensor) -> Ensemble:
    """Measure MOPO's ensemble; return an untrained one."""
    say(f"{costs.form}: ensemble of merged rows")
    settings, layout = costs.agent("mopo").settings.dynamics, work.supply.layout
    part = source[:SLICE]
    few = replace(settings, epochs=1)
    learner = EnsembleLearner(few, layout, source.device)
    learner.warm_up(part)
    steps = replace(few, updates=0).steps(ROWS + TARGET_ROWS)
    epoch = _side_by_side(costs, lambda seed: learner.fit(part, seed)) * steps / few.steps(SLICE) * costs.seeds
    # Early stopping ends who knows when.
    epochs, how = (settings.steps(ROWS + TARGET_ROWS) / steps, "") if settings.annealed else (costs.epochs, ", assumed")
    note = f"MOPO, MOBILE, MICRO, MOREC: {epochs:.3g} epochs of {epoch:.0f} s{how}"
    costs.add("ensemble, merged", epoch * epochs, note)
    return untrained_ensemble(settings, layout)


def _classifiers(costs: StageCosts, source: Tensor, target: Tensor) -> None:
    say(f"{costs.form}: classifiers")
    agent = costs.agent("mobody")
    settings = agent.settings.dara
    few = replace(settings, updates=STEPS)
    learner = Learner(classifier_training(few, Work.layout(agent)), target.device)
    learner.warm_up(source, target)
    step = _side_by_side(costs, lambda seed: learner.fit(source, target, seed)) / STEPS * costs.seeds
    costs.add("classifiers", step * settings.updates, f"MOBODY: {settings.updates:,} updates of {1e3 * step:.1f} ms")


def _contrast(costs: StageCosts, source: Tensor, target: Tensor, ensemble: Ensemble) -> DynamicsReward:
    """Measure discriminators against widened guesses, and the scorer that learns from them; return a scorer."""
    say("suite: dynamics reward")
    agent = costs.agent("morec")
    assert isinstance(agent, MOREC)
    settings, layout = agent.settings.dynamics_reward, Work.layout(agent)
    few = replace(settings, guess_updates=STEPS, updates=STEPS)
    with threads_inside(costs.threads):
        training = NoiseContrast(few, layout, target, 0, source)
        training.compile(costs.threads)
        begun = time.process_time()
        while training.done < training.length:
            training.advance()
        step = (time.process_time() - begun) / costs.threads / STEPS
    note = f"MOREC, once for all seeds: {settings.updates:,} steps of {1e3 * step:.0f} ms"
    costs.add("dynamics reward", step * settings.updates, note)
    say("suite: scorers")
    scorer = agent.settings.scorer
    small = replace(scorer, starts=scorer.starts // 10, updates=STEPS)
    found: list[DynamicsReward] = []

    def train(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        starts = torch.cat([source[: small.starts // 2], target[: small.starts // 2]])
        asked = (small, layout, starts, training.result(), agent.proposer(ensemble), generator)
        found.append(DynamicsReward.from_tensors(distil(*asked), target.device))

    each = _side_by_side(costs, train) * scorer.updates / STEPS
    costs.add("scorers", each * costs.seeds, f"MOREC: {each:.0f} s a seed")
    return found[0]


def _adversaries(costs: StageCosts, source: Tensor, target: Tensor, ensemble: Ensemble) -> DynamicsReward:
    """Measure discriminators against a generator that PPO trains; return as many as judge in rollouts."""
    say("paper: dynamics reward")
    agent = costs.agent("morec")
    settings = agent.settings.dynamics_reward
    with threads_inside(costs.threads):
        training = Adversaries(
            replace(settings, pretraining=PRETRAINING_BLOCK, iterations=4), Work.layout(agent), target
        )
        training.compile(costs.threads)
        begun = time.process_time()
        training.advance()
        block = (time.process_time() - begun) / costs.threads
        training.advance()
        begun = time.process_time()
        for _ in range(3):
            training.advance()
        iteration = (time.process_time() - begun) / costs.threads / 3
    seconds = block * settings.pretraining / PRETRAINING_BLOCK + iteration * settings.iterations
    note = f"MOREC, once for all seeds: {settings.iterations:,} iterations of {1e3 * iteration:.0f} ms"
    costs.add("dynamics reward", seconds, note)
    newest, count = training.result().thinned(1), agent.settings.discriminators
    params = [tensor.expand(count, *tensor.shape[1:]).contiguous() for tensor in newest.params]
    return DynamicsReward(params, torch.ones(count), torch.zeros(count), newest.scaling)


def _dual(costs: StageCosts, source: Tensor, target: Tensor) -> object:
    say(f"{costs.form}: dynamics of MOBODY")
    agent = costs.agent("mobody")
    settings, part = agent.settings.dynamics, source[:SLICE]
    few = replace(settings, updates=STEPS) if settings.interleaved else replace(settings, epochs=1)
    learner = DualLearner(few, Work.layout(agent), target.device)
    learner.warm_up(part, target)
    found: list[object] = []
    spent = _side_by_side(costs, lambda seed: found.append(learner.fit(part, target, seed))) * costs.seeds
    if settings.interleaved:
        step, count = spent / STEPS, settings.updates
        costs.add("dual dynamics", step * count, f"MOBODY: {count:,} steps of {1e3 * step:.1f} ms")
        return found[0]

    def steps(rows: int) -> int:
        passes = settings.target_passes * ((TARGET_ROWS - 500) // settings.batch_size)
        return (rows - 1000) // settings.batch_size + passes

    epoch = spent / steps(SLICE) * steps(ROWS)
    costs.add("dual dynamics", epoch * costs.epochs, f"MOBODY: {costs.epochs} epochs of {epoch:.0f} s, assumed")
    return found[0]


def _refill(agent: Agent, result: object, threads: int, folder: Path) -> float:
    """Return the seconds of one refill of one run, from a part of it; no rollout ends early."""
    assert isinstance(agent, ModelBased)
    settings = agent.settings
    if agent.name == "mobody":
        share, few = 10.0, replace(settings, source_starts=settings.source_starts // 10, target_starts=200)
    else:
        steps = 2 if agent.name == "morec" else 1
        share = settings.starts * settings.horizon / (2000.0 * steps)
        few = replace(settings, starts=2000, horizon=steps)
        few = replace(few, threshold=0.0) if agent.name == "morec" else few
    agent = type(agent)(few, agent.observation_dim, agent.action_dim)
    work = Work.random(agent, threads, folder, rows=(SLICE, TARGET_ROWS, 1000))
    work.supply.run_rows = [RunRows(RowRange(0, work.source), RowRange(work.source, TARGET_ROWS))] * threads
    runs = range(threads)
    make = Refill(agent, runs, work.supply, work.sampler(), [result] * threads, [never] * threads)
    readable = work.population().readable()
    make(readable, runs, 0, threads)
    begun = time.process_time()
    make(readable, runs, 0, threads)
    return (time.process_time() - begun) / threads**2 * share
