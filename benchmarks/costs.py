"""What training costs on this machine: short slices, extrapolated, written as COSTS.md.

    python benchmarks/costs.py --out benchmarks/COSTS.md

Every number comes from a slice of a few seconds on random rows of a robot's dimensions (HalfCheetah and Walker2d share
theirs), untrained models and fp32, five seeds on all cores; what a whole training takes is a product of these. Seconds
are processor time over the number of threads: what others run on the machine hardly touches them, but neither do they
show when a core has nothing to do. Walker2d's dimensions come first. When `--minutes` are over, what is left is scaled
from these by the number of trained parameters, and marked. Compiling takes most of the time of a first run and is
cached by PyTorch for the next; it is no part of the figures.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor
from training import population, speeds
from training_peers import Work, products

from offdyn_agents.algorithms import registry
from offdyn_agents.algorithms.morec import Judged
from offdyn_agents.engine.agent import Agent
from offdyn_agents.engine.execution import exact_fast_products, threads_inside
from offdyn_agents.engine.provenance import processor_name
from offdyn_agents.engine.rollouts import ModelBased, Refill
from offdyn_agents.engine.rows import RowRange, RunRows
from offdyn_agents.engine.termination import never
from offdyn_agents.engine.training.module import Hardware
from offdyn_agents.models.classifiers import training as classifier_training
from offdyn_agents.models.dual.training import DualLearner
from offdyn_agents.models.dynamics_reward.contrast import NoiseContrast
from offdyn_agents.models.dynamics_reward.discriminator import DynamicsReward
from offdyn_agents.models.dynamics_reward.scorer import distil
from offdyn_agents.models.ensemble.model import Ensemble, ensemble_network, initial_ensemble
from offdyn_agents.models.ensemble.settings import EnsembleSettings
from offdyn_agents.models.ensemble.stages import predict_all
from offdyn_agents.models.ensemble.training import EnsembleLearner
from offdyn_agents.models.short_training import Learner
from offdyn_agents.runs.runs import make_agent
from offdyn_envs.atomic import atomic_write
from offdyn_envs.batching.threads import usable_threads
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import TRACKS, get_task
from offdyn_envs.vector import OffDynVectorEnv

SHAPES = ("walker2d", "hopper", "ant")
SAME = {"halfcheetah": "walker2d"}
UPDATES_LIKE = {"morec": "mopo", "morec-mobile": "mobile"}
AGENTS = tuple(name for name in registry.AGENTS if name not in UPDATES_LIKE)
"""Agents whose updates are those of another; only their stages and rollouts differ."""
ROWS, TARGET_ROWS, UPDATES, EVERY, EPISODES = 1_000_000, 5_000, 1_000_000, 10_000, 10
"""Source rows, target rows and updates of a task of the tracks, updates between evaluations, and their episodes."""
STEPS = 200
"""Steps of MOBODY's dynamics that are timed."""
HOUR = 3600.0


@dataclass
class Costs:
    """What was measured, in seconds for all seeds unless said otherwise.

    Attributes:
        seeds: Number of seeds.
        threads: CPU threads.
        epochs: Epochs that early stopping is assumed to take.
        speeds: Seed-updates per second by (agent, robot).
        scaled: Those of them that were not measured.
        stages: Seconds of each stage by name, of one task.
        notes: How each was obtained.
        refills: Seconds of one refill of all seeds by agent.
        evaluation: Seconds of one evaluation of full episodes by robot.
    """

    seeds: int
    threads: int
    epochs: int
    speeds: dict[tuple[str, str], float] = field(default_factory=dict)
    scaled: set[tuple[str, str]] = field(default_factory=set)
    stages: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    refills: dict[str, float] = field(default_factory=dict)
    evaluation: dict[str, float] = field(default_factory=dict)


def agent_of(name: str, robot: str) -> Agent:
    body = get_robot(robot)
    return make_agent(name, robot, body.observation_dim, body.action_dim, {}, "medium")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def measure_policy(costs: Costs, name: str, robot: str) -> None:
    """Measure one agent's updates at one robot's dimensions."""
    agent = agent_of(name, robot)
    with tempfile.TemporaryDirectory() as folder:
        work = Work.random(agent, costs.seeds, Path(folder), rows=(20_000, TARGET_ROWS, 20_000))
        # Short turns: an update of MOBILE takes as long as twenty of others.
        turn = population(work, Hardware("cpu", "fp32", costs.threads), updates=20)
        turn()
        costs.speeds[name, robot] = statistics.median(speeds(turn, 1.0)[1] for _ in range(3)) * costs.threads


def scale_policy(costs: Costs, name: str, robot: str) -> None:
    """Take one agent's updates from those at Walker2d's dimensions."""
    known, wanted = (agent_of(name, which).parameters for which in (SHAPES[0], robot))
    costs.speeds[name, robot] = costs.speeds[name, SHAPES[0]] * known / wanted
    costs.scaled.add((name, robot))


def at_once(function: Callable[[int], object], threads: int) -> float:
    """Return the seconds of as many calls as threads, side by side, on cores that are free."""

    def call(number: int) -> None:
        torch.set_num_threads(1)
        function(number)

    with threads_inside(1), ThreadPoolExecutor(threads) as pool:
        begun = time.process_time()
        list(pool.map(call, range(threads)))
        return (time.process_time() - begun) / threads


def measure_stages(costs: Costs, folder: Path) -> None:
    """Measure all stages, and the rollouts that need their results, at Walker2d's dimensions."""
    robot, threads = SHAPES[0], costs.threads
    droco = Work.random(agent_of("droco", robot), 1, folder, rows=(40_000, TARGET_ROWS, 1))
    layout, table = droco.supply.layout, droco.supply.table
    source, target = table[: droco.source], table[droco.source :]
    seeds = costs.seeds / threads
    with exact_fast_products(*products(droco.agent)):
        ensemble = _ensembles(costs, droco, source, target, seeds)
        say("predictions")
        settings = droco.agent.settings.dynamics
        begun = time.process_time()
        shape, widths = (settings.members, layout.observation_dim), (settings.width, layout.width)
        predict_all([partial(ensemble.next_states, layout)], source, shape, widths, threads=threads)
        each = (time.process_time() - begun) / threads / len(source)
        costs.stages["predictions"] = each * ROWS * costs.seeds
        costs.notes["predictions"] = f"DROCO: {1e6 * each:.1f} us a source row and seed, {settings.members} members"
        _classifiers(costs, source, target, seeds)
        reward = _dynamics_reward(costs, source, target, ensemble)
        dual = _dual(costs, source, target, seeds)
        for name, result in (("mobody", dual), ("mopo", ensemble), ("morec", Judged(ensemble, reward))):
            say(f"rollouts: {name}")
            costs.refills[name] = refill(agent_of(name, robot), result, threads, folder) * seeds
    costs.refills["mobile"], costs.refills["morec-mobile"] = costs.refills["mopo"], costs.refills["morec"]


def _ensembles(costs: Costs, work: Work, source: Tensor, target: Tensor, seeds: float) -> Ensemble:
    """Measure DROCO's ensemble, and take MOPO's step to cost the same; return one of MOPO's form."""
    say("dynamics: ensemble")
    settings, layout = work.agent.settings.dynamics, work.supply.layout
    few = replace(settings, epochs=8, patience=1000)
    learner = EnsembleLearner(few, layout, target.device)
    learner.warm_up(target)
    epoch = at_once(lambda seed: learner.fit(target, seed), costs.threads) / few.epochs
    costs.stages["ensemble, target"] = epoch * seeds * costs.epochs
    costs.notes["ensemble, target"] = f"DROCO: {epoch * seeds:.2f} s an epoch of all seeds"
    steps = (TARGET_ROWS - min(settings.holdout_rows, round(settings.holdout * TARGET_ROWS))) // settings.batch_size
    long = epoch / steps * ((ROWS + TARGET_ROWS - int(EnsembleSettings.holdout_rows)) // settings.batch_size)
    costs.stages["ensemble, merged"] = long * seeds * costs.epochs
    costs.notes["ensemble, merged"] = (
        f"MOPO, MOBILE, MOREC: {long * seeds:.0f} s an epoch of all seeds, from DROCO's step"
    )
    mopo = agent_of("mopo", SHAPES[0]).settings.dynamics
    params = initial_ensemble(
        mopo, ensemble_network(mopo, layout.observation_dim, layout.action_dim), torch.Generator().manual_seed(0)
    )
    whole = [tensor.expand(mopo.members, *tensor.shape[1:]).contiguous() for tensor in params]
    width = layout.observation_dim + layout.action_dim
    return Ensemble(whole, torch.zeros(width), torch.ones(width), torch.arange(mopo.members))


def _classifiers(costs: Costs, source: Tensor, target: Tensor, seeds: float) -> None:
    say("classifiers")
    agent = agent_of("mobody", SHAPES[0])
    settings, layout = agent.settings.dara, Work.layout(agent)
    few = replace(settings, updates=200)
    learner = Learner(classifier_training(few, layout), target.device)
    learner.warm_up(source, target)
    step = at_once(lambda seed: learner.fit(source, target, seed), costs.threads) / few.updates
    costs.stages["classifiers"] = step * settings.updates * seeds
    costs.notes["classifiers"] = (
        f"MOBODY: {1e3 * step * seeds:.1f} ms an update of all seeds, {settings.updates} updates"
    )


def _dynamics_reward(costs: Costs, source: Tensor, target: Tensor, ensemble: Ensemble) -> DynamicsReward:
    """Measure the discriminators' training and a scorer's; return a scorer."""
    say("dynamics reward")
    agent = agent_of("morec", SHAPES[0])
    settings, layout = agent.settings.dynamics_reward, Work.layout(agent)
    few = replace(settings, guess_updates=200, updates=200)
    with threads_inside(costs.threads):
        training = NoiseContrast(few, layout, target, 0, source)
        training.compile(costs.threads)
        begun = time.process_time()
        while training.done < training.length:
            training.advance()
        spent = (time.process_time() - begun) / costs.threads
    scale = settings.updates / few.updates
    costs.stages["dynamics reward"] = spent * scale
    costs.notes["dynamics reward"] = f"MOREC, once for all seeds: {settings.updates} steps of {5 * spent:.0f} ms"
    say("scorers")
    small = replace(agent.settings.scorer, starts=agent.settings.scorer.starts // 10, updates=200)
    found: list[DynamicsReward] = []

    def train(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        starts = torch.cat([source[: small.starts // 2], target[: small.starts // 2]])
        asked = (small, layout, starts, training.result(), agent.proposer(ensemble), generator)
        found.append(DynamicsReward.from_tensors(distil(*asked), target.device))

    each = at_once(train, costs.threads) * agent.settings.scorer.updates / small.updates
    costs.stages["scorers"] = each * costs.seeds / costs.threads
    costs.notes["scorers"] = f"MOREC: {each:.0f} s a seed, from a twentieth of it"
    return found[0]


def _dual(costs: Costs, source: Tensor, target: Tensor, seeds: float) -> object:
    say("dynamics: MOBODY")
    agent = agent_of("mobody", SHAPES[0])
    settings = agent.settings.dynamics
    few = replace(settings, updates=STEPS)
    learner = DualLearner(few, Work.layout(agent), target.device)
    part = source[:20_000]
    learner.warm_up(part, target)
    found: list[object] = []
    step = at_once(lambda seed: found.append(learner.fit(part, target, seed)), costs.threads) / STEPS
    costs.stages["dual dynamics"] = step * settings.updates * seeds
    costs.notes["dual dynamics"] = f"MOBODY: {1e3 * step * seeds:.1f} ms a step of all seeds, {settings.updates} steps"
    return found[0]


def refill(agent: Agent, result: object, threads: int, folder: Path) -> float:
    """Return the seconds of one refill of as many runs as threads, from a part of it; no rollout ends early."""
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
    work = Work.random(agent, threads, folder, rows=(20_000, TARGET_ROWS, 1000))
    where = RunRows(RowRange(0, work.source), RowRange(work.source, TARGET_ROWS))
    work.supply.run_rows = [where] * threads
    runs = range(threads)
    make = Refill(agent, runs, work.supply, work.sampler(), [result] * threads, [never] * threads)
    readable = work.population().readable()
    make(readable, runs, 0, threads)
    begun = time.process_time()
    make(readable, runs, 0, threads)
    return (time.process_time() - begun) / threads * share


def measure_evaluation(costs: Costs, robot: str) -> None:
    """Measure one evaluation; rows whose episode ends begin another, as if all were full."""
    env = OffDynVectorEnv(robot, costs.seeds * EPISODES, num_threads=costs.threads)
    env.reset(seed=0)
    actions = np.zeros((costs.seeds * EPISODES, get_robot(robot).action_dim), dtype=np.float32)
    begun = time.process_time()
    for _ in range(100):
        env.step(actions)
    costs.evaluation[robot] = (time.process_time() - begun) / costs.threads * 10.0
    env.close()


STAGES = {
    "droco": ("ensemble, target", "predictions"),
    "mobody": ("dual dynamics", "classifiers"),
    "mopo": ("ensemble, merged",),
    "mobile": ("ensemble, merged",),
    "morec": ("ensemble, merged", "dynamics reward", "scorers"),
    "morec-mobile": ("ensemble, merged", "dynamics reward", "scorers"),
}


def parts_of(costs: Costs, name: str, robot: str) -> dict[str, float]:
    """Return the hours of one task by part."""
    shape = SAME.get(robot, robot)
    rate = costs.speeds[UPDATES_LIKE.get(name, name), shape]
    agent = agent_of(name, robot)
    refills = UPDATES / agent.refill_every * costs.refills[name] if isinstance(agent, ModelBased) else 0.0
    parts = {
        "stages": sum(costs.stages[stage] for stage in STAGES.get(name, ())),
        "updates": UPDATES * costs.seeds / rate,
        "rollouts": refills,
        "evaluation": UPDATES / EVERY * costs.evaluation[robot],
    }
    return {part: seconds / HOUR for part, seconds in parts.items()}


def hours(value: float) -> str:
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def page(costs: Costs, machine: str) -> str:
    """Return the text of COSTS.md."""
    every = [*AGENTS, *UPDATES_LIKE]
    robots = ("hopper", "halfcheetah", "walker2d", "ant")

    def rate(name: str, robot: str) -> str:
        key = (UPDATES_LIKE.get(name, name), SAME.get(robot, robot))
        return f"{costs.speeds[key]:.0f}" + ("*" if key in costs.scaled else "")

    speeds = [[name, *(rate(name, robot) for robot in robots)] for name in every]
    stages = [[s, f"{hours(v / HOUR)} h", costs.notes[s]] for s, v in costs.stages.items()]
    refills = [[name, f"{_every(name):,}", f"{s:.1f}", _rollout_note(name)] for name, s in costs.refills.items()]
    walker = [(name, parts_of(costs, name, SHAPES[0])) for name in every]
    tasks = [
        [name, *(hours(parts[p]) for p in ("stages", "updates", "rollouts", "evaluation")), hours(sum(parts.values()))]
        for name, parts in walker
    ]
    tracks = [[name, *(_track(costs, name, track) for track in TRACKS)] for name in every]
    return PAGE.format(
        machine=machine,
        seeds=costs.seeds,
        threads=costs.threads,
        epochs=costs.epochs,
        rows=f"{ROWS:,}",
        target=f"{TARGET_ROWS:,}",
        updates=f"{UPDATES:,}",
        episodes=EPISODES,
        every=f"{EVERY:,}",
        speeds=table(("agent", *robots), speeds),
        stages=table(("stage", "one task, all seeds", "how"), stages),
        refills=table(("agent", "updates between", "seconds, all seeds", "how"), refills),
        tasks=table(("agent", "stages", "updates", "rollouts", "evaluation", "total"), tasks),
        tracks=table(("agent", *(f"{t} ({len(names)} tasks)" for t, names in TRACKS.items())), tracks),
    )


def _every(name: str) -> int:
    agent = agent_of(name, SHAPES[0])
    assert isinstance(agent, ModelBased)
    return agent.refill_every


def _rollout_note(name: str) -> str:
    if name == "mobody":
        return "from a tenth of the rows"
    like = "as MOPO" if name == "mobile" else "as MOREC" if name == "morec-mobile" else ""
    return like or "from 2,000 rollouts of a step or two; at most: no rollout ends early"


def _track(costs: Costs, name: str, track: str) -> str:
    total = sum(sum(parts_of(costs, name, get_task(task).robot).values()) for task in TRACKS[track])
    return f"{total / 24:.1f} d"


PAGE = """# What training costs

Written by `python benchmarks/costs.py`; measured on {machine}, {threads} threads, fp32, {seeds} seeds as one
population.

**All of it is extrapolated from slices of a few seconds** on random rows and untrained models. Seconds are processor
time over the number of threads, as if both cores were free and never waited: a little less than a clock on the wall
will show, and much less on a busy machine. Not in it: compiling (about a minute for each agent and each robot's
dimensions, cached) and building the datasets. MOPO, MOBILE and MOREC roll out at most what is counted here: rollouts
that end early, as most of MOREC's are meant to, cost less, and with them so do tasks and tracks. bf16 costs less on
processors with AMX: see the README for the ratio that `benchmarks/training.py` measures.

## Updates

Seed-updates per second of the policy stage at each robot's dimensions (* scaled from Walker2d's by the number of
trained parameters). MOREC's updates are MOPO's, and MOBILE's with the other penalty.

{speeds}
## Stages before the policy

At Walker2d's dimensions, {rows} source rows and {target} target rows. Where early stopping decides, {epochs} epochs are
assumed; an epoch is extrapolated from its steps. Stages are cached: other settings of the policy find them again.

{stages}
## Rollouts of the policy in the model

One refill of all seeds at Walker2d's dimensions.

{refills}
## One task

Hours for {seeds} seeds of {updates} updates at Walker2d's dimensions; {episodes} full episodes of every seed each
{every} updates.

{tasks}
## A whole track

Days for {seeds} seeds of {updates} updates on every task, on this one machine, one task after the other: tasks that
share a population gain nothing here, where both cores are busy with one task already.

{tracks}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/COSTS.md"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_threads())
    parser.add_argument("--epochs", type=int, default=30, help="epochs that early stopping is assumed to take")
    parser.add_argument("--minutes", type=float, default=5.0, help="when to stop measuring other dimensions")
    parser.add_argument("--machine", default="", help="what the page calls the machine")
    chosen = parser.parse_args()
    costs = Costs(chosen.seeds, chosen.threads, chosen.epochs)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        measure_stages(costs, Path(folder))
    for robot in ("hopper", "halfcheetah", "walker2d", "ant"):
        measure_evaluation(costs, robot)
    for robot in SHAPES:
        for name in AGENTS:
            late = robot != SHAPES[0] and time.monotonic() - begun > 60.0 * chosen.minutes
            say(f"{name}, {robot}{': scaled' if late else ''}")
            (scale_policy if late else measure_policy)(costs, name, robot)
    with atomic_write(chosen.out) as temporary:
        temporary.write_text(page(costs, chosen.machine or processor_name()), encoding="utf-8")
    say(f"{chosen.out}: {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
