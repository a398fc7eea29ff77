"""The papers' own ablations: each study a method and its variants, each variant some settings that differ.

A variant that is the method as it stands shares the folder `<out>/<task>/<agent>` with `offdyn train`; the others have
`<out>/<task>/<agent>@<variant>`. Tables lie in `<out>/ablations`. Stages are cached for all of them in one place, so
that what a variant leaves as it is (the ensemble of another beta, the dynamics reward of another threshold) is trained
once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from offdyn_agents.ablations.morec import MOREC, MOREC_WANDER
from offdyn_agents.ablations.study import FULL, Study, Variant, sweep
from offdyn_agents.algorithms.registry import agent_class
from offdyn_agents.models.dual.settings import BY_FORM
from offdyn_agents.presets import counting
from offdyn_envs.errors import OffDynError, unknown

if TYPE_CHECKING:
    from offdyn_agents.runs.evaluation import EvaluationPlan
    from offdyn_agents.runs.plans import Plan
    from offdyn_agents.runs.track import Trained

__all__ = [
    "STUDIES",
    "Study",
    "Variant",
    "ablation_row",
    "get_study",
    "joined",
    "over_tasks",
    "run_study",
    "variant_plans",
]


TERMS = ("format", "study", "agent", "seeds", "updates", "schedule", "settings", "precision", "protocol", "episodes")
"""What the rows of one table have in common."""
_PAPER = {"dynamics.form": "paper", **{f"dynamics.{name}": str(value) for name, value in BY_FORM["paper"].items()}}
"""MOBODY's dynamics as published."""
_WHOLE_STATES = {
    "dynamics.form": "paper",
    **{f"dynamics.{name}": str(value) for name, value in BY_FORM["difference"].items()},
    **{"dynamics.representation_loss": "false", "dynamics.standardise": "true"},
}
"""MOBODY's dynamics as published in what networks predict; all else is as it is here."""
_DRAWN = {"dynamics.latent_noise": "true"}
_MOBODY = Study(
    "mobody",
    "mobody",
    "what shared dynamics with two action encoders, and target-Q-weighted cloning, are worth (arXiv 2506.08460)",
    (
        FULL,
        Variant("single-encoder", "one action encoder for both domains", {"dynamics.structure": "single"}),
        Variant("own-encoder", "psi_trg of its own instead of psi_src + c", {"dynamics.target_encoder": "own"}),
        Variant("no-anchor", "source outcomes are not shown to psi_trg", {"dynamics.anchor": "0"}),
        Variant(
            "blocks",
            "a pass over the source, then three over the target, twice: as many source rows, at a constant rate",
            {"dynamics.schedule": "blocks", "dynamics.decay": "none", "dynamics.epochs": "2"},
        ),
        Variant("whole-states", "s' is predicted, not its change, and there is no anchor", _WHOLE_STATES),
        Variant("few-target-rows", "32 target rows in a batch, not 64", {"dynamics.target_batch": "32"}),
        Variant("constant-rate", "the dynamics' learning rate does not fall", {"dynamics.decay": "none"}),
        Variant("latent-noise", "z is drawn while the dynamics are trained", {"dynamics.latent_noise": "true"}),
        Variant("representation", "with L_rep of weight .1", {"dynamics.representation": "0.1"}),
        Variant("divergence", "with KL of weight .05 on drawn z", {**_DRAWN, "dynamics.divergence": "0.05"}),
        Variant("paper-form", "dynamics as published, with the code's weights of losses", _PAPER),
        Variant(
            "paper-weights", "dynamics as published, all of the paper", _PAPER | {"dynamics.loss_weights": "paper"}
        ),
        Variant("no-cycle-loss", "dynamics as published without L_cycle", _PAPER | {"dynamics.cycle_loss": "false"}),
        Variant(
            "no-representation-loss",
            "dynamics as published without L_rep and L_cycle, as in the first year of the public code",
            _PAPER | {"dynamics.representation_loss": "false"},
        ),
        Variant(
            "raw-uncertainty",
            "u, its limit and beta in units of states, as published",
            {"uncertainty": "paper", "uncertainty_limit": "10", "beta": "0.1"},
        ),
        Variant("paper-cloning", "imitation weighted as in the paper", {"bc_weight": "paper"}),
        Variant("equal-cloning", "source rows imitated as much as target rows", {"target_share": "0.5"}),
        Variant("constant-rates", "rates of actor and critics that do not fall", {"decay": "none"}),
        Variant("mopo-dynamics", "no latent states: one f(s, a) for both domains", {"dynamics.structure": "plain"}),
        Variant("plain-cloning", "every data action imitated alike", {"bc_weight": "plain"}),
        Variant("awr-cloning", "imitation weighted by advantage, as in IQL", {"bc_weight": "awr"}),
    ),
)
_TARGET_LEAD = Variant("target-lead", "target rows have nine tenths of the actor's loss", {"target_share": "0.9"})
_UNBOUNDED = Variant("unbounded", "values are not clipped to what rewards allow", {"value_bounds": "none"})
_RAW_REWARDS = Variant("raw-rewards", "rewards are not divided by the range of returns", {"reward_scale": "none"})
_DROCO = Study(
    "droco",
    "droco",
    "what bounded values, scaled rewards and a finite ball are worth; each is ours, not arXiv 2512.02486's",
    (
        FULL,
        _UNBOUNDED,
        _RAW_REWARDS,
        Variant("endless-ball", "predictions of the target's ensemble may be anywhere", {"radius": "inf"}),
        Variant("signed-penalty", "u below 0 is a bonus", {"penalty_clamp": "false"}),
        Variant("no-penalty", "values of source rows are not lowered", {"beta": "0"}),
        Variant("dual-ball", "the ball of MOBODY's dynamics", {"ensemble": "dual"}),
        Variant("raw-outputs", "the ensemble predicts next states in raw units", {"dynamics.outputs": "raw"}),
        Variant("constant-rate", "the ensemble's learning rate does not fall", {"dynamics.schedule": "published"}),
        Variant(
            "early-stopping",
            "the ensemble's training ends when no member improves, at one rate",
            {"dynamics.schedule": "early-stopping"},
        ),
        Variant(
            "published-ensemble",
            "the ensemble of form=paper: raw outputs, until no member improves",
            {
                "dynamics.outputs": "raw",
                "dynamics.schedule": "early-stopping",
                "dynamics.epochs": "1000",
                "dynamics.learning_rate": "0.001",
                "dynamics.batch_size": "256",
            },
        ),
        _TARGET_LEAD,
    ),
)
_IQL = Study(
    "iql",
    "iql",
    "what bounded values and scaled rewards are worth in IQL; the latter are its authors', in code",
    (FULL, _UNBOUNDED, _RAW_REWARDS, _TARGET_LEAD),
)
_TD3_BC = Study(
    "td3-bc",
    "td3-bc",
    "what bounded values are worth in TD3-BC, and standardised states, which its paper has in one domain",
    (FULL, _UNBOUNDED, Variant("standardised", "states are standardised", {"normalise": "true"})),
)
_DROCO_BETA = Study(
    "droco-beta",
    "droco",
    "how much pessimism on source rows (arXiv 2512.02486); 0 is none, its search grid begins at .1",
    sweep("beta", "beta", ("0", "0.1", "0.3", "0.5", "1", "2")),
)
_DROCO_DELTA = Study(
    "droco-delta",
    "droco",
    "where the Huber loss on source rows turns linear (arXiv 2512.02486); inf is the squared loss",
    sweep("delta", "delta", ("3", "10", "30", "50", "inf")),
)
_DROCO_TARGET_SIZE = Study(
    "droco-target-size",
    "droco",
    "how many target rows are needed; a task's own target has 5,000",
    tuple(Variant(f"target-{rows}", f"{rows} target rows", {}, rows) for rows in ("500", "5k", "50k", "100k")),
)
STUDIES: Mapping[str, Study] = {
    study.name: study
    for study in (_MOBODY, MOREC, MOREC_WANDER, _DROCO, _IQL, _TD3_BC, _DROCO_BETA, _DROCO_DELTA, _DROCO_TARGET_SIZE)
}
"""All studies by name. Values of sweeps beyond the published ones are ours."""


def get_study(name: str) -> Study:
    """Return a study by name.

    Raises:
        OffDynError: No such study; the message names the nearest.
    """
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return STUDIES[name]


def variant_plans(study: Study, plans: Sequence[Plan]) -> list[tuple[Variant, Plan]]:
    """Return the plan of every variant on every task; those that are the same run have the same folder.

    Args:
        study: The study.
        plans: The plan of the method as it stands for every task, with settings by hand for all variants.

    Returns:
        Task by task, the variants in their order.

    Raises:
        OffDynError: A setting by hand that is the study's to vary, or an unknown one or a value out of range.
    """
    for key in study.varied:
        if any(key in plan.overrides for plan in plans):
            raise OffDynError(f"setting '{key}' is what study {study.name} varies; leave it out, or choose variants")
    return [(variant, _variant_plan(variant, plan)) for plan in plans for variant in study.variants]


def _variant_plan(variant: Variant, plan: Plan) -> Plan:
    from offdyn_agents.runs.runs import plan_agent

    # What is set for all variants is left out where it counts for nothing: the epochs of blocks in interleaved steps.
    problem = plan.problem
    kind, robot = agent_class(plan.agent), problem.robot or ""
    given = counting(kind, robot, problem.quality, plan.overrides, variant.settings, problem.shifts)
    changed = replace(
        plan,
        overrides=given | dict(variant.settings),
        target_rows=variant.target_rows,
        variant=variant.name,
    )
    same = not changed.problem.other_target and plan_agent(changed).settings == plan_agent(plan).settings
    return plan if same else changed


def run_study(
    study: Study,
    plans: Sequence[Plan],
    evaluation: EvaluationPlan,
    report: Callable[[Trained], None] = lambda trained: None,
    together: int = 0,
) -> dict[str, Any]:
    """Train and score every variant on every task; what was done before is left alone, what was begun continued.

    Args:
        study: The study.
        plans: As for `variant_plans`; all of one `out` and one budget.
        evaluation: Clean episodes of every final policy.
        report: Called with every run's outcome as soon as it is trained.
        together: Most variants of tasks trained side by side, as in `train_tasks`; those that differ in numbers of the
            loss alone may be. 0 for what suits the hardware.

    Returns:
        A record, plain JSON: what was asked, and one row for each task and variant. See `ablation_row`.

    Raises:
        OffDynError: As `variant_plans` and `train_tasks`.
    """
    from offdyn_agents.engine.provenance import git_commit, package_versions
    from offdyn_agents.runs.plans import DEFAULTS
    from offdyn_agents.runs.runs import train_tasks
    from offdyn_envs.benchmark.scoring import protocol
    from offdyn_envs.progress import progress

    pairs, schedule = variant_plans(study, plans), plans[0].budget.schedule
    unique = {plan.folder: plan for _, plan in pairs}
    outcomes = train_tasks(list(unique.values()), together, report)
    trained = {outcome.plan.folder: outcome.facts for outcome in outcomes}
    rows: list[dict[str, Any]] = []
    with progress(f"evaluate {study.name}", len(pairs), quiet=evaluation.quiet) as advance:
        for variant, plan in pairs:
            rows.append(ablation_row(variant, plan, trained[plan.folder], evaluation))
            advance(1)
    return {
        "format": 1,
        "study": study.name,
        "agent": study.agent,
        "about": study.about,
        "tasks": [plan.task for plan in plans],
        "seeds": list(plans[0].seeds),
        "updates": plans[0].budget.updates,
        **({} if schedule == DEFAULTS["schedule"] else {"schedule": schedule}),
        "settings": dict(plans[0].overrides),
        "precision": plans[0].hardware.precision,
        "protocol": protocol.PROTOCOL,
        "episodes": evaluation.episodes,
        "versions": package_versions("offdyn", "torch", "lightning", "mujoco", "numpy"),
        "commit": git_commit(),
        "rows": rows,
        "over tasks": over_tasks(study, rows),
    }


def joined(record: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with those rows of an earlier one that it lacks: tasks and variants may be run one at a time.

    Args:
        record: What `run_study` made.
        earlier: Likewise, or nothing; where it is of other terms, such as another budget, none of it is taken.
    """
    if any(earlier.get(term) != record.get(term) for term in TERMS):
        return dict(record)
    study = get_study(record["study"])
    rows = {(row["task"], row["variant"]): row for row in (*earlier["rows"], *record["rows"])}
    tasks = list(dict.fromkeys([*earlier["tasks"], *record["tasks"]]))
    kept = [rows[task, v.name] for task in tasks for v in study.variants if (task, v.name) in rows]
    return {**record, "tasks": tasks, "rows": kept, "over tasks": over_tasks(study, kept)}


def ablation_row(variant: Variant, plan: Plan, facts: Mapping[str, Any], evaluation: EvaluationPlan) -> dict[str, Any]:
    """Score one run.

    Args:
        variant: What it is.
        plan: How it was trained.
        facts: Its run.json.
        evaluation: Clean episodes of every policy.

    Returns:
        "task", "variant", "about"; "settings" and "target_rows" that differ; "folder" under `out`; "seconds" of work;
        "returns" and "scores", the mean of each seed by its name; "stopped", the seeds that diverged, which have none;
        "return" and "score", each with "mean", "low" and "high" (95% t interval over seeds, None for fewer than two).
        Where a task has no reference returns that are far enough apart, there are no scores.
    """
    from offdyn_agents.runs.evaluation import clean_returns
    from offdyn_envs.benchmark.scoring.scores import task_reference

    # A run's folder may have more seeds than are asked for.
    asked = set(map(str, plan.seeds))
    clean = clean_returns(plan.folder, evaluation)
    means = {seed: sum(values) / len(values) for seed, values in clean.items() if seed in asked}
    reference = task_reference(plan.task)
    scores = {seed: float(reference.normalise(value)) for seed, value in means.items()} if reference else {}
    return {
        "task": plan.task,
        "variant": variant.name,
        "about": variant.about,
        "settings": dict(variant.settings),
        "target_rows": variant.target_rows,
        "folder": plan.folder.relative_to(plan.out).as_posix(),
        "seconds": facts["wall_clock_s"],
        "returns": means,
        "scores": scores,
        "stopped": sorted(asked & set(facts.get("stopped", {})), key=int),
        "return": _interval(list(means.values())),
        "score": _interval(list(scores.values())),
    }


def over_tasks(study: Study, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what each variant scores over all tasks that are scored, where these are at least two.

    Args:
        study: The study.
        rows: Of all its variants on all tasks.

    Returns:
        "variant", "tasks" that have a score, and the interquartile mean over tasks and seeds with its 95% stratified
        bootstrap interval, "iqm", "low", "high".
    """
    from offdyn_envs.benchmark.scoring.statistics import stratified_bootstrap

    found: list[dict[str, Any]] = []
    for variant in study.variants:
        strata = [list(row["scores"].values()) for row in rows if row["variant"] == variant.name and row["scores"]]
        if len(strata) > 1:
            iqm, low, high = stratified_bootstrap(strata)
            found.append({"variant": variant.name, "tasks": len(strata), "iqm": iqm, "low": low, "high": high})
    return found


def _interval(values: Sequence[float]) -> dict[str, float | None] | None:
    from offdyn_envs.benchmark.scoring.statistics import t_interval

    if not values:
        return None
    if len(values) < 2:
        return {"mean": values[0], "low": None, "high": None}
    return t_interval(values)._asdict()
