"""`offdyn ablate STUDY TASK --dynamics-only`: what the dynamics of a study's variants err, without a policy.

A question about dynamics needs none. Models are those that `offdyn train` would make, found or kept in the same cache
of stages, so that an ablation with policies goes on from here; all variants of a task sit the same exams.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from offdyn_agents.ablations.studies import Study, Variant, get_study, variant_plans
from offdyn_envs.errors import OffDynError

if TYPE_CHECKING:
    from offdyn_agents.engine.agent import Agent
    from offdyn_agents.judging.models import JudgeSettings
    from offdyn_agents.runs.plans import Plan

__all__ = ["dynamics_rows", "dynamics_variants", "judge_study", "title"]

TERMS = ("format", "study", "seeds", "settings", "precision", "holdout")
"""What the rows of one table have in common."""
Record = dict[str, Any]


def dynamics_variants(study: Study, plan: Plan) -> list[tuple[Variant, Agent]]:
    """Return those variants of a study that have dynamics of their own, the first of each, with their agents.

    Args:
        study: The study.
        plan: The plan of the method as it stands.

    Raises:
        OffDynError: The study's agent learns no model, or none of its variants is about one.
    """
    from offdyn_agents.judging.stages import learned_model
    from offdyn_agents.runs.runs import plan_agent

    found: dict[Any, tuple[Variant, Agent]] = {}
    for variant, changed in variant_plans(study, [plan]):
        agent = plan_agent(changed)
        if not learned_model(agent):
            raise OffDynError(f"study {study.name}: agent '{study.agent}' learns no model; leave --dynamics-only out")
        if not variant.target_rows:
            found.setdefault(_dynamics(agent), (variant, agent))
    if not found:
        raise OffDynError(f"study {study.name} varies no dynamics; leave --dynamics-only out")
    return list(found.values())


def _dynamics(agent: Agent) -> tuple[str, JudgeSettings]:
    """Return what decides an agent's errors: its model's name and settings."""
    from offdyn_agents.judging.models import JudgeSettings
    from offdyn_agents.judging.stages import judge_settings, learned_model

    own = judge_settings(agent)
    # The rest is of MOREC's reward.
    return learned_model(agent), JudgeSettings(own.dynamics, own.members, own.ensemble, elites=own.elites)


def judge_study(
    study: Study, plans: Sequence[Plan], earlier: Mapping[str, Any], keep: Callable[[Record], None]
) -> Record:
    """Train or find the dynamics of a study's variants on every task, and judge them.

    Args:
        study: The study.
        plans: The plan of the method as it stands for every task.
        earlier: A record of the same study; rows of tasks and variants that are not asked for stay, where its terms
            are the same.
        keep: Is given the record after every variant: hours may lie between two of them.

    Returns:
        Plain JSON: "study", "agent", "about", "seeds", "settings" by hand, "precision", "holdout", "versions",
        "commit", "tasks" with "rows" and "references" of each, and "rows", one for each task and variant: "settings"
        that differ, "model", "seconds" of training and judging, and "errors", see `judge`.

    Raises:
        OffDynError: As `dynamics_variants`, or a task's true outcomes cannot be had.
    """
    from offdyn_agents.engine.provenance import git_commit, package_versions
    from offdyn_agents.judging.exams import references
    from offdyn_agents.judging.judge import exam_room, judge, plain_json, row_counts
    from offdyn_agents.judging.models import Terms
    from offdyn_envs import load_task

    chosen = {plan.task: dynamics_variants(study, plan) for plan in plans}
    first, terms = plans[0], Terms(holdout="fresh")
    record: Record = {
        "format": 1,
        "study": study.name,
        "agent": study.agent,
        "about": study.about,
        "seeds": list(first.seeds),
        "settings": dict(first.overrides),
        "precision": first.hardware.precision,
        "holdout": terms.holdout,
        "versions": package_versions("offdyn", "torch", "mujoco", "numpy"),
        "commit": git_commit(),
        "tasks": {},
        "rows": [],
    }
    if all(earlier.get(term) == record[term] for term in TERMS):
        record |= {"tasks": dict(earlier["tasks"]), "rows": list(earlier["rows"])}
    for plan in plans:
        hardware = plan.hardware
        env, source, target = load_task(plan.task)
        env.close()
        paper, context = exam_room(source, target, plan.seeds, terms, hardware, plan.out / ".stages", plan.quiet)
        record["tasks"][plan.task] = plain_json({"rows": row_counts(paper), "references": references(paper)})
        for variant, agent in chosen[plan.task]:
            begun, (model, settings) = time.monotonic(), _dynamics(agent)
            errors = judge(paper, settings, context, (model,))[model]
            row = {
                "task": plan.task,
                "variant": variant.name,
                "about": variant.about,
                "settings": dict(variant.settings),
                "model": model,
                "seconds": round(time.monotonic() - begun, 1),
                "errors": plain_json(errors),
            }
            record["rows"] = _with_row(record, row)
            keep(record)
    return record


def _with_row(record: Record, row: Record) -> list[Record]:
    """Return the rows of a record with one more, which takes the place of an earlier one, in the study's order."""
    rows = {(old["task"], old["variant"]): old for old in (*record["rows"], row)}
    names = [variant.name for variant in get_study(record["study"]).variants]
    return [rows[task, name] for task in record["tasks"] for name in names if (task, name) in rows]


def title(record: Mapping[str, Any]) -> str:
    """Return what a record's table is about."""
    return f"{record['study']}: error of s' in units of its change, mean and 95% interval over seeds"


def dynamics_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a record's table.

    Args:
        record: What `judge_study` made.
    """
    from offdyn_agents.judging.report import table

    rows: list[dict[str, Any]] = []
    for row in record["rows"]:
        one = {"errors": {row["model"]: row["errors"]}, "references": {}}
        figures = table(one)[0]
        errors = {name: figures[name] for exam in row["errors"] for name in (exam, f"MSE, {exam}")}
        words = {"task": row["task"], "variant": row["variant"], "what": row["about"]}
        rows.append({**words, **errors, "seconds": f"{row['seconds']:,.0f}"})
    return rows
