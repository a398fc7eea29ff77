"""From the names of tasks to trained, exported policies in one run folder each."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from offdyn_agents.algorithms.registry import make_agent
from offdyn_agents.engine.agent import Agent
from offdyn_agents.engine.rollouts import ModelBased
from offdyn_agents.engine.settings import shared
from offdyn_agents.engine.training.callbacks import Evaluation
from offdyn_agents.engine.training.checkpoints import peek
from offdyn_agents.engine.training.extras import NONE
from offdyn_agents.engine.training.module import PopulationModule
from offdyn_agents.engine.training.populations import train_population, train_runs
from offdyn_agents.engine.training.supplies import BUFFERS, Provision, TaskRuns, make_supply, may_grow
from offdyn_agents.judging.rows import graded, measured
from offdyn_agents.judging.stages import RunJudge, judge_stages, judged, learned_model
from offdyn_agents.runs import growing
from offdyn_agents.runs.curves import draw_ended
from offdyn_agents.runs.locks import holder, working_in
from offdyn_agents.runs.metrics import late_evaluations
from offdyn_agents.runs.plans import FORMAT, Plan, already, initial_facts, needed, read_run
from offdyn_agents.runs.track import Arrangement, Ledger, Population, Trained, tell_not_judged
from offdyn_envs.atomic import write_json
from offdyn_envs.errors import OffDynError

__all__ = [
    "FORMAT",
    "Plan",
    "Trained",
    "arrange",
    "judge_ended",
    "make_supply",
    "need_source",
    "plan_agent",
    "read_run",
    "refuse_stopped",
    "train_population",
    "train_task",
    "train_tasks",
]

EPISODES = 10
"""Episodes of each policy at every evaluation during training."""
LOCK = "lock"
"""A file in a run folder that the process which trains in it holds."""


@dataclass(frozen=True)
class _Job:
    """A plan with the agent and the facts that belong to it."""

    plan: Plan
    agent: Agent
    facts: dict[str, Any]

    @property
    def grows(self) -> bool:
        """Whether its runs may go on beyond their last update."""
        return may_grow(self.agent, self.plan.budget)

    def group(self, *far: int) -> tuple[object, ...]:
        """What the jobs of one population have in common, this one being so many updates far."""
        sizes = (self.agent.observation_dim, self.agent.action_dim)
        settings = json.dumps(shared(self.agent.settings), sort_keys=True)
        return (self.plan.agent, sizes, settings, self.plan.budget, self.plan.hardware, self.plan.extras, *far)


def train_task(plan: Plan) -> tuple[dict[str, Any], bool]:
    """Train all seeds of one agent on one task; an interrupted run is continued, a complete one left alone.

    Returns:
        The contents of run.json, and whether anything was left to do.

    Raises:
        OffDynError: Unknown names, data that is not there, or a folder that holds a run of other settings.
    """
    (trained,) = train_tasks([plan])
    return trained.facts, trained.fresh


def train_tasks(
    plans: Sequence[Plan],
    together: int = 0,
    report: Callable[[Trained], None] = lambda trained: None,
    wait: float = 0.0,
) -> list[Trained]:
    """Train several tasks, those of equal dimensions and settings, which are equally far, in company; see `arrange`.

    Every task has its own run folder with its own checkpoint, so that it may be continued in other company. A
    population that fails, for whatever reason, does not keep the others from their end. Where `Plan.judge` asks of an
    ended run for more than its run.json says, its models are judged.

    Args:
        plans: What to train; all of one `out`.
        together: Most tasks of one population; 0 for what suits the hardware.
        report: Called with every plan's outcome as soon as it is there.
        wait: Seconds to wait for another process that trains in one of the folders.

    Returns:
        What became of each plan, in their order.

    Raises:
        OffDynError: Unknown names, data that is not there, a folder that holds a run of other settings, a damaged one,
            or one that another process trains in.
    """
    jobs = [_job(plan) for plan in plans]
    # A training that is refused leaves no folder behind.
    _need_data([job for job in jobs if not job.plan.folder.exists()])
    with ExitStack() as stack:
        for folder in dict.fromkeys(plan.folder for plan in plans):
            if not stack.enter_context(working_in(folder, LOCK, wait)):
                raise OffDynError(f"'{folder}' is being trained by {holder(folder / LOCK)}; let it end first")
            growing.settle(folder)
        jobs = [_with_folder(job) for job in jobs]
        found = _arrange(jobs, together, 1)
        _need_data([jobs[index] for population in found.populations for index in population.members])
        judge_ended(plans, found)
        ledger = Ledger(plans, found, report)
        for number, population in enumerate(found.populations):
            try:
                facts = _train_jobs([jobs[index] for index in population.members])
            except Exception as error:  # noqa: PERF203 - hours lie between two of them
                ledger.failed(number, error)
            else:
                ledger.ended(number, facts)
    return ledger.outcomes()


def arrange(plans: Sequence[Plan], together: int = 0, slots: int = 1) -> Arrangement:
    """Say which plans have nothing left to do, and which of the others are trained as one population.

    A GPU takes all that have equal dimensions and settings and are equally far, or, of several GPUs, each its share. A
    thread of a CPU trains one run at a time, so that company would only cost memory there once all threads are busy.

    Args:
        plans: What to train.
        together: Most tasks of one population; 0 for what suits the hardware.
        slots: Populations that are trained at a time.

    Raises:
        OffDynError: As `train_tasks`.
    """
    return _arrange([_with_folder(_job(plan)) for plan in plans], together, slots)


def _arrange(jobs: Sequence[_Job], together: int, slots: int) -> Arrangement:
    earlier: dict[int, dict[str, Any]] = {}
    groups: dict[tuple[object, ...], list[int]] = {}
    left: dict[int, int] = {}
    for index, job in enumerate(jobs):
        folder, total = job.plan.folder, job.plan.budget.updates
        if already(folder, job.facts, job.grows):
            # Left over where a process was killed right after its run had ended.
            _remove_rows(job)
            earlier[index] = read_run(folder)
            continue
        growing.need_rows(folder, total)
        updates, grown = peek(folder), growing.growth(folder, job.plan.seeds, total)
        left[index] = len(job.plan.seeds) * (total - updates) + (grown.work if grown else 0)
        groups.setdefault(job.group(updates, *(grown.far if grown else ())), []).append(index)
    share = math.ceil(len(left) / max(1, slots))
    populations = [
        Population(tuple(chosen), sum(left[index] for index in chosen))
        for members in groups.values()
        for chosen in _cut(members, together or _company(jobs[members[0]].plan, share))
    ]
    return Arrangement(earlier, populations)


def _company(plan: Plan, share: int) -> int:
    """Return how many tasks like a plan's a population suits, `share` being what there is for each at a time."""
    return share if plan.hardware.device == "cuda" else math.ceil(plan.hardware.threads / len(plan.seeds))


def _cut(members: Sequence[int], size: int) -> list[Sequence[int]]:
    return [members[start : start + size] for start in range(0, len(members), size)]


def plan_agent(plan: Plan) -> Agent:
    """Return the agent that a plan trains, with its settings.

    Raises:
        OffDynError: Unknown agent, task or setting, or a value out of range.
    """
    about = plan.problem
    return make_agent(plan.agent, about.robot or "", *about.sizes, plan.overrides, about.quality, about.shifts)


def need_source(plan: Plan, agent: Agent, given: bool) -> None:
    """See whether an agent that learns from source rows has some.

    Raises:
        OffDynError: It has none.
    """
    if agent.needs_source and not given:
        raise OffDynError(
            f"agent '{plan.agent}' learns from source rows (data={agent.settings.data}), and none are named; "
            "give --source, in Python source="
        )


def _job(plan: Plan) -> _Job:
    agent = plan_agent(plan)
    if plan.judge and not learned_model(agent):
        raise OffDynError(f"agent '{plan.agent}' learns no model of the target that could be judged; leave --judge out")
    plan.problem.check(agent.settings.data)
    need_source(plan, agent, plan.problem.has_source)
    return _Job(plan, agent, initial_facts(plan, agent))


def _with_folder(job: _Job) -> _Job:
    """Return a job with all seeds that its folder has, which go along with those that are asked for."""
    plan = job.plan
    seeds = growing.all_seeds(plan.folder, plan.seeds)
    if seeds == plan.seeds:
        return job
    plan = replace(plan, seeds=seeds)
    return _Job(plan, job.agent, initial_facts(plan, job.agent))


def _remove_rows(job: _Job) -> None:
    """Remove the rows of model rollouts of an ended run, but for one that may go on."""
    if not job.grows:
        shutil.rmtree(job.plan.folder / BUFFERS, ignore_errors=True)


def _train_jobs(jobs: Sequence[_Job]) -> list[dict[str, Any]]:
    """Train jobs of one group and return what their run.json says in the end."""
    plan, agent = jobs[0].plan, jobs[0].agent
    tasks = [_load(job) for job in jobs]
    growing.catch_up(agent, [job.plan for job in jobs], tasks, lambda chosen: _evaluations([jobs[i] for i in chosen]))
    for job in jobs:
        growing.remove_evaluations(job.plan.folder)
        _carry_judged(job.plan.folder, job.facts)
        write_json(job.plan.folder / "run.json", job.facts)

    def identified(provision: Provision) -> None:
        for job, identity, report in zip(jobs, provision.identities, provision.reports, strict=True):
            job.facts["data"]["sha256"] = identity["data"]
            job.facts["settings_sha256"] = identity["settings"]
            job.facts["stages"] = {**job.facts.get("stages", {}), **report}
            write_json(job.plan.folder / "run.json", job.facts)
        _judge(jobs, tasks, provision)

    evaluations = _evaluations(jobs)
    more = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
    title = f"{plan.task} {plan.label}{more}"
    module = train_runs(
        agent,
        tasks,
        plan.budget,
        plan.hardware,
        evaluations,
        title,
        quiet=plan.quiet,
        cache=plan.out / ".stages",
        identified=identified,
        extras=plan.extras or NONE,
    )
    for part, job in enumerate(jobs):
        job.facts.update(_outcome(module, part))
        job.facts["late"] = late_evaluations(
            job.plan.folder / "metrics.csv", job.plan.seeds, job.plan.problem.normalise()
        )
        # Before the run counts as ended: an interruption in between is made good by the same command.
        draw_ended(job.plan.folder, job.facts, job.plan.quiet)
        write_json(job.plan.folder / "run.json", job.facts)
        _remove_rows(job)
    return [job.facts for job in jobs]


def _carry_judged(folder: Path, facts: dict[str, Any]) -> None:
    """Take the figures of an earlier, interrupted training over from a run's run.json into the facts of this one."""
    if (folder / "run.json").exists():
        found = judged(read_run(folder))
        if found:
            facts["stages"] = {"judged": found}


def _need_data(jobs: Sequence[_Job]) -> None:
    """Say at once which datasets are missing, not when their turn comes days later.

    Raises:
        OffDynError: Datasets are not on this machine, and there is no server to fetch them from.
    """
    from offdyn_envs.datasets.task import require_available

    require_available(dict.fromkeys(name for job in jobs for name in needed(job.plan, job.agent)))


def judge_ended(plans: Sequence[Plan], found: Arrangement) -> None:
    """Judge the models of ended runs for which that was asked with `Plan.judge` and has not been done.

    Args:
        plans: All plans.
        found: What `arrange` said of them; its facts are brought up to date.
    """
    for index, facts in found.earlier.items():
        if plans[index].judge:
            try:
                _judge_ended_run(plans[index], facts)
            except Exception as error:
                tell_not_judged(plans[index], error)


def _judge_ended_run(plan: Plan, facts: dict[str, Any]) -> None:
    job = _with_folder(_job(plan))
    stopped = {seed for seed, told in facts.get("stopped", {}).items() if told["updates"] == 0}
    failed = [place for place, seed in enumerate(job.plan.seeds) if str(seed) in stopped]
    judge = _run_judge(job)
    judge_stages(judge, _load(job), facts["data"]["sha256"], failed, facts)
    write_json(plan.folder / "run.json", facts)


def _run_judge(job: _Job) -> RunJudge:
    """Return what judges the models of a job."""
    plan, compare = job.plan, bool(job.plan.judge)
    source = partial(plan.problem.source_of_exams, fetch=compare)
    return RunJudge(job.agent, plan.hardware, plan.out / ".stages", compare, plan.quiet, source)


def _judge(jobs: Sequence[_Job], tasks: Sequence[TaskRuns], provision: Provision) -> None:
    """Judge what the stages of a population's runs learned, where they have learned a model of the target."""
    start = 0
    for job, task, identity in zip(jobs, tasks, provision.identities, strict=True):
        plan, runs = job.plan, range(start, start + len(task.seeds))
        start = runs.stop
        if plan.judge is not False and plan.pair is None and learned_model(job.agent):
            failed = [run - runs.start for run in provision.failed if run in runs]
            judge_stages(_run_judge(job), task, identity["data"], failed, job.facts)
            write_json(plan.folder / "run.json", job.facts)
        _grade_rows(job, task, provision, runs)


def _grade_rows(job: _Job, task: TaskRuns, provision: Provision, runs: range) -> None:
    """Put into run.json how what was said of source rows goes with their exact gap, where that can be known."""
    columns = provision.supply.columns
    told = job.facts["stages"].get("rows")
    if job.plan.judge is False or job.plan.pair is not None or not columns or not told:
        return
    try:
        gap = measured(task.source, task.target, threads=job.plan.hardware.threads)
    except OffDynError as error:
        if not job.plan.quiet:
            print(f"{job.plan.task} {job.plan.label}: source rows not graded: {error}", file=sys.stderr)
        return
    job.facts["stages"]["rows"] = graded(job.agent.ratings, columns[runs.start : runs.stop], told, gap)
    write_json(job.plan.folder / "run.json", job.facts)


def _outcome(module: PopulationModule, part: int) -> dict[str, Any]:
    """Return what run.json says about a task's runs after training."""
    runs = module.runs_of(part)
    stopped = {
        str(module.seeds[run]): {"updates": module.stopped[run][0], "why": module.stopped[run][1]}
        for run in range(runs.start, runs.stop)
        if module.stopped[run]
    }
    speed = len(module.seeds) * module.updates_done / max(module.seconds, 1e-9)
    facts: dict[str, Any] = {"status": "diverged", "stopped": stopped} if stopped else {"status": "complete"}
    facts["wall_clock_s"] = round(module.seconds + module.stage_seconds, 1)
    facts["seed_updates_per_second"] = round(speed, 1)
    facts["population"] = {"tasks": len(module.parts), "runs": len(module.seeds)}
    return facts


def _load(job: _Job) -> TaskRuns:
    """Load what one job learns from, and note its name in the facts."""
    plan, problem = job.plan, job.plan.problem
    found = problem.load(job.agent.settings.data, job.agent.needs_source)
    job.facts["data"] = dict(found.names)
    title = f"{plan.task} {plan.label}"
    terminated, report = None, dict[str, Any]()
    if isinstance(job.agent, ModelBased):
        terminated, report = problem.terminated(found, plan.out / ".stages", plan.hardware, plan.quiet)
    if report:
        job.facts["stages"] = {**job.facts.get("stages", {}), "termination": report}
    return TaskRuns(
        found.source,
        found.target,
        plan.seeds,
        plan.folder,
        title,
        problem.robot,
        job.agent.settings,
        terminated,
        problem.contract,
    )


def _evaluations(jobs: Sequence[_Job]) -> list[Evaluation]:
    """Return what scores policies during training, where there is an environment."""
    found: list[Evaluation] = []
    for part, job in enumerate(jobs):
        returns = job.plan.problem.returns(EPISODES, job.plan.hardware.threads)
        if returns is not None:
            found.append(Evaluation(returns, job.plan.problem.normalise(), part))
    return found


def refuse_stopped(outcomes: Sequence[Trained]) -> None:
    """Raise if a run among the outcomes has diverged.

    Raises:
        OffDynError: One line that names them all.
    """
    found = [
        f"{outcome.plan.task} seed {seed} at update {told['updates']}"
        for outcome in outcomes
        for seed, told in outcome.facts.get("stopped", {}).items()
    ]
    if found:
        raise OffDynError(f"diverged, without a policy: {', '.join(found)}; other settings are needed")
