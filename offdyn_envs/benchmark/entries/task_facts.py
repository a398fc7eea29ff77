"""What a reader wants to know of a task beside its scores: shifts, the true gap, the behaviour, published figures."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from offdyn_envs.atomic import write_json
from offdyn_envs.benchmark.entries.published import published_scores
from offdyn_envs.benchmark.scoring.scores import Reference
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import get_robot
from offdyn_envs.shipped import behaviour_path
from offdyn_envs.tasks import Task, get_dynamics

__all__ = ["GAP_ROWS", "add_gap", "gap_command", "task_facts"]

Json = dict[str, Any]
FILE = Path(__file__).with_suffix(".json")
GAP_ROWS = 5000
"""Source rows over which the gaps of the pages are measured."""


def task_facts(task: Task, reference: Reference | None) -> Json:
    """Returns facts of a task for its page.

    Args:
        task: The task.
        reference: What its scores are made with; None where there is none.

    Returns:
        `source` and `target`: id of the data and the shifts in words; `behaviour`: the mean return of the policy that
        collected the target's data, and its score; `gap`: of the source's rows, in standard deviations of the source's
        next observations (`gap_command`); `published`: figures of papers, each with its own scale. What is not
        known is left out.
    """
    facts: Json = {side: _side(task, side) for side in ("source", "target")}
    gap = _known()["gap"].get(task.name)
    if gap is not None:
        facts["gap"] = gap
    reported = [
        {"figures": one.figures, "paper": one.paper.name, "scale": one.paper.scale}
        for one in published_scores(task.name)
    ]
    if reported:
        facts["published"] = reported
    behaviour = _behaviour(task, reference)
    return facts | ({} if behaviour is None else {"behaviour": behaviour})


def gap_command(task: str) -> str:
    """Returns the command that measures the gap of a task as its page has it."""
    return f"offdyn diagnose gap {task} --rows {GAP_ROWS}"


def add_gap(task: str, summary: Mapping[str, Any]) -> None:
    """Keeps the measured gap of a task for its page, three digits of each figure.

    Args:
        task: The task.
        summary: That of a `Gap`: "rows", "valid", "changed", "mean" and "median".

    Raises:
        OffDynError: No row could be simulated again.
    """
    if not summary["valid"]:
        raise OffDynError(f"task '{task}': none of {summary['rows']} source rows can be simulated again; it has no gap")
    known = json.loads(FILE.read_text(encoding="utf-8"))
    shares = {key: float(f"{summary[key]:.3g}") for key in ("changed", "mean", "median")}
    known["gap"][task] = {"rows": summary["rows"]} | shares
    write_json(FILE, known)


def _side(task: Task, side: str) -> Json:
    data = task.source if side == "source" else task.target
    robot = get_robot(task.robot)
    shifts = [shift.describe(robot) for shift in get_dynamics(task.robot, data.dynamics)]
    return {"data": str(data), "rows": data.row_count, "shifts": shifts}


def _behaviour(task: Task, reference: Reference | None) -> Json | None:
    """Returns what the behaviour earned while it collected: sampled actions, as its card says."""
    path = behaviour_path(task.robot, task.target.dynamics, task.quality).with_suffix(".json")
    if not path.exists():
        return None
    earned = json.loads(path.read_text(encoding="utf-8"))["returns"]["sampled"]["mean"]
    scored = reference is not None and reference.scored
    return {"return": earned} | ({"score": float(reference.normalise(earned))} if scored and reference else {})


@cache
def _known() -> Json:
    """Returns measured gaps by task; `offdyn dev task-gaps` writes them."""
    return json.loads(FILE.read_text(encoding="utf-8"))
