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
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from agents import turn_of
from stage_costs import FORMS, ROWS, TARGET_ROWS, StageCosts, agent_of, measure_stages, rankable, say
from training import speeds

from offdyn_agents.engine.provenance import processor_name
from offdyn_agents.engine.rollouts import ModelBased
from offdyn_agents.engine.training.module import Hardware
from offdyn_envs.atomic import atomic_write
from offdyn_envs.batching.threads import usable_threads
from offdyn_envs.robots import get_robot
from offdyn_envs.tasks import TRACKS, get_task
from offdyn_envs.vector import OffDynVectorEnv

SHAPES = ("walker2d", "hopper", "ant")
SAME = {"halfcheetah": "walker2d"}
UPDATES_LIKE = {"morec": "mopo", "morec-mobile": "mobile"}
"""Agents whose updates are those of another; only their stages and rollouts differ."""
AGENTS = tuple(name for name in rankable() if name not in UPDATES_LIKE)
BOTH = ("mobody", "mopo", "droco", "iql", "td3-bc", "otdf", "cql")
"""Agents whose updates are measured in the published form too."""
UPDATES, EVERY, EPISODES = 1_000_000, 10_000, 10
"""Updates of a task of the tracks, updates between evaluations, and their episodes."""
PARTS = ("stages", "updates", "rollouts", "evaluation")
HOUR = 3600.0


@dataclass
class Costs:
    """What was measured, in seconds for all seeds unless said otherwise.

    Attributes:
        seeds: Number of seeds.
        threads: CPU threads.
        forms: What stages and rollouts cost, by form.
        speeds: Seed-updates per second by (agent, robot), and by (agent, "paper") of the published form.
        scaled: Those of them that were not measured.
        evaluation: Seconds of one evaluation of full episodes by robot.
    """

    seeds: int
    threads: int
    forms: Mapping[str, StageCosts]
    speeds: dict[tuple[str, str], float] = field(default_factory=dict)
    scaled: set[tuple[str, str]] = field(default_factory=set)
    evaluation: dict[str, float] = field(default_factory=dict)


def measure_policy(costs: Costs, name: str, robot: str, form: str = "suite") -> None:
    """Measure one agent's updates at one robot's dimensions."""
    with tempfile.TemporaryDirectory() as folder:
        hardware = Hardware("cpu", "fp32", costs.threads)
        # Short turns: an update of MOBILE takes as long as twenty of others.
        turn = turn_of(name, robot, costs.seeds, hardware, folder, updates=20, form=form)
        turn()
        key = name, robot if form == "suite" else form
        costs.speeds[key] = statistics.median(speeds(turn, 1.0)[1] for _ in range(3)) * costs.threads


def scale_policy(costs: Costs, name: str, robot: str) -> None:
    """Take one agent's updates from those at Walker2d's dimensions."""
    known, wanted = (agent_of(name, which).parameters for which in (SHAPES[0], robot))
    costs.speeds[name, robot] = costs.speeds[name, SHAPES[0]] * known / wanted
    costs.scaled.add((name, robot))


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


def parts_of(costs: Costs, name: str, robot: str, form: str = "suite") -> dict[str, float]:
    """Return the hours of one task by part; where nothing else was measured, updates cost the same in both forms."""
    shape, known, like = SAME.get(robot, robot), costs.forms[form], UPDATES_LIKE.get(name, name)
    rate = costs.speeds[like, shape] if form == "suite" else costs.speeds.get((like, form), costs.speeds[like, shape])
    agent = agent_of(name, robot)
    refills = UPDATES / agent.refill_every * known.refills[name] if isinstance(agent, ModelBased) else 0.0
    parts = {
        "stages": sum(known.stages[stage] for stage in known.used[name]),
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
    robots = ("hopper", "halfcheetah", "walker2d", "ant")
    paper, suite = costs.forms["paper"], costs.forms["suite"]

    def rate(name: str, robot: str) -> str:
        key = (UPDATES_LIKE.get(name, name), SAME.get(robot, robot))
        return f"{costs.speeds[key]:.0f}" + ("*" if key in costs.scaled else "")

    speeds = [[name, *(rate(name, robot) for robot in robots)] for name in rankable()]
    thousand = [
        [name, *(f"{1000 * costs.seeds / costs.speeds[name, key]:.1f}" for key in ("paper", SHAPES[0]))]
        for name in BOTH
    ]
    stages = [[name, *(_stage(form, name) for form in (paper, suite)), _how(costs, name)] for name in suite.stages]
    refills = [
        [name, f"{_every(name):,}", f"{paper.refills[name]:.1f}", f"{seconds:.1f}", _rollout_note(name)]
        for name, seconds in suite.refills.items()
    ]
    walker = [(name, *(parts_of(costs, name, SHAPES[0], form) for form in FORMS)) for name in rankable()]
    tasks = [
        [name, *(hours(parts[p]) for p in PARTS), hours(sum(parts.values())), hours(sum(published.values()))]
        for name, published, parts in walker
    ]
    tracks = [[name, *(_track(costs, name, track) for track in TRACKS)] for name in rankable()]
    return PAGE.format(
        machine=machine,
        seeds=costs.seeds,
        threads=costs.threads,
        epochs=suite.epochs,
        rows=f"{ROWS:,}",
        target=f"{TARGET_ROWS:,}",
        updates=f"{UPDATES:,}",
        episodes=EPISODES,
        every=f"{EVERY:,}",
        speeds=table(("agent", *robots), speeds),
        thousand=table(("agent", "published form", "this suite's"), thousand),
        stages=table(("stage", "published form", "this suite's", "how, published; this suite's"), stages),
        refills=table(("agent", "updates between", "published form", "this suite's", "how"), refills),
        tasks=table(("agent", *PARTS, "total", "total, published form"), tasks),
        tracks=table(("agent", *(f"{t} ({len(names)} tasks)" for t, names in TRACKS.items())), tracks),
    )


def _stage(form: StageCosts, name: str) -> str:
    return f"{form.stages[name]:,.0f} s" if name in form.stages else "-"


def _how(costs: Costs, name: str) -> str:
    return "; ".join(form.notes[name] for form in costs.forms.values() if name in form.notes)


def _every(name: str) -> int:
    agent = agent_of(name, SHAPES[0])
    assert isinstance(agent, ModelBased)
    return agent.refill_every


def _rollout_note(name: str) -> str:
    if name == "mobody":
        return "from a tenth of the rows"
    return "from 2,000 rollouts of a step or two; at most: no rollout ends early"


def _track(costs: Costs, name: str, track: str) -> str:
    total = sum(sum(parts_of(costs, name, get_task(task).robot).values()) for task in TRACKS[track])
    return f"{total / 24:.1f} d"


PAGE = """# What training costs

Written by `python benchmarks/costs.py`. Measured on {machine}, threads: {threads}, fp32, {seeds} seeds
as one population.

**All of it is extrapolated from slices of a few seconds** on random rows and untrained models. Seconds are processor
time over the number of threads, as if its cores were free and never waited: a little less than a clock on the wall
will show, and much less on a busy machine. Not in it: compiling (about a minute for each agent and each robot's
dimensions, cached) and building the datasets. MOPO, MOBILE and MOREC roll out at most what is counted here: rollouts
that end early, as most of MOREC's are meant to, cost less, and with them so do tasks and tracks. bf16 costs less on
processors with AMX: see the README for the ratio that `benchmarks/training.py` measures.

## Updates

Seed-updates per second of the policy stage at each robot's dimensions (* scaled from Walker2d's by the number of
trained parameters). MOREC's updates are MOPO's, and MOBILE's with the other penalty.

{speeds}
Seconds of 1,000 updates of all seeds at Walker2d's dimensions, in the published form (`--set form=paper`) and as they
are here:

{thousand}
Others are taken to cost the same in both.

## Stages before the policy

One task, all seeds, at Walker2d's dimensions, {rows} source rows and {target} target rows. Where early stopping
decides, {epochs} epochs are assumed; an epoch is extrapolated from its steps. Stages are cached: other settings of the
policy find them again.

{stages}
## Rollouts of the policy in the model

Seconds of one refill of all seeds at Walker2d's dimensions.

{refills}
## One task

Hours for {seeds} seeds of {updates} updates at Walker2d's dimensions; {episodes} full episodes of every seed each
{every} updates.

{tasks}
## A whole track

Days for {seeds} seeds of {updates} updates on every task, on this one machine, one task after the other: tasks that
share a population gain nothing here, where all threads are busy with one task already.

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
    begun = time.monotonic()
    forms = {form: StageCosts(form, chosen.seeds, chosen.threads, chosen.epochs) for form in FORMS}
    for form in forms.values():
        with tempfile.TemporaryDirectory() as folder:
            measure_stages(form, Path(folder))
    costs = Costs(chosen.seeds, chosen.threads, forms)
    for name in BOTH:
        say(f"{name}, published form")
        measure_policy(costs, name, SHAPES[0], "paper")
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
