"""What is done and what is left of the programme."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from offdyn_agents.behaviour.programme import PROGRAMME, QUALITIES, TIERS, Behaviour, default_root, taught
from offdyn_agents.behaviour.recipes import TAUGHT
from offdyn_envs.atomic import write_text
from offdyn_envs.datasets.describing.states import Remedy
from offdyn_envs.marks import between
from offdyn_envs.policies import read_card
from offdyn_envs.shipped import behaviour_path

BEGIN, END = "<!-- missing behaviours: written by `make docs` -->", "<!-- missing behaviours end -->"


def programme_status(root: Path) -> list[dict[str, Any]]:
    """One row per behaviour of the programme, and per behaviour that a teacher teaches.

    Args:
        root: folder of all runs.

    Returns:
        Rows of plain types: tier ("D" for what is taught), robot, dynamics, algorithm, state ("done", "replay missing",
        "training" or "left"), progress (share of the budget), mean_return (of the latest training episodes, or null),
        for medium and expert the sampled returns' mean and standard error, or null; and seconds_left, what is missing
        would take of one core by the cards of finished runs of its algorithm, or null where there are none.
    """
    learned = [each for robot in TAUGHT for each in taught(robot, [])]
    return _status(PROGRAMME, "medium", root) + _status(learned, "expert", root)


def _status(behaviours: Sequence[Behaviour], of: str, root: Path) -> list[dict[str, Any]]:
    """Rows of behaviours; `of` is the quality whose card tells of the run that their budgets are about."""
    rows = [_row(behaviour, root) for behaviour in behaviours]
    pace_of = _paces(behaviours, of)
    for row, behaviour in zip(rows, behaviours, strict=True):
        units = sum(units for _, units in behaviour.stages(root)) * (1.0 - row["progress"])
        pace = pace_of(behaviour)
        row["seconds_left"] = units * pace if pace is not None else 0.0 if not units else None
    return rows


def summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is done and how long the rest would take, in a line for each tier and robot with something left.

    Args:
        rows: from `programme_status`.

    Returns:
        The lines; the first is about the whole programme.
    """
    lines = [f"{sum(row['expert'] is not None for row in rows)} of {len(rows)} have medium and expert"]
    left: dict[tuple[str, str], list[float | None]] = {}
    for row in rows:
        # A run may be over and its policies not yet measured.
        if row["expert"] is None:
            left.setdefault((row["tier"], row["robot"]), []).append(row["seconds_left"])
    for (tier, robot), seconds in left.items():
        lines.append(f"tier {tier}, {robot}: {len(seconds)} left, {_hours(seconds)}")
    return lines


def missing_table() -> str:
    """What every missing behaviour would take from its beginning, as a table in Markdown, whatever runs there are."""
    pace_of = _paces(PROGRAMME, "medium")
    rows: list[str] = []
    times: list[float | None] = []
    for behaviour in PROGRAMME:
        if not behaviour.measured:
            pace = pace_of(behaviour)
            times.append(None if pace is None else pace * sum(units for _, units in behaviour.stages(Path())))
            told = "not known" if times[-1] is None else f"{times[-1] / 60:.0f}"
            rows.append(f"| `{behaviour.robot}` | `{behaviour.dynamics}` | {told} |")
    if not rows:
        return "None is missing."
    head = ["| robot | dynamics | minutes of one core |", "|---|---|---|"]
    return "\n".join([*head, *rows, "", f"Together, {len(rows)}: {_hours(times)}."])


def write_missing(page: Path) -> None:
    """Put the table of missing behaviours between its two marks.

    Args:
        page: a Markdown file.

    Raises:
        OffDynError: the page lacks a mark.
    """
    write_text(page, between(page.read_text(encoding="utf-8"), BEGIN, END, missing_table(), f"{page}:"))


def time_told(missing: Remedy) -> str:
    """Return how long the learning of missing behaviours takes, to be put behind its command; "" where none helps."""
    if not missing.robots:
        return ""
    rows = [row for row in programme_status(default_root()) if row["robot"] in missing.robots]
    asked = [row for row in rows if not missing.dynamics or row["dynamics"] in missing.dynamics]
    return f" ({_hours([row['seconds_left'] for row in asked if row['expert'] is None])})"


def _hours(seconds: Sequence[float | None]) -> str:
    known = [x for x in seconds if x is not None]
    if len(known) < len(seconds):
        return "time not known"
    minutes = sum(known) / 60
    return f"about {minutes:.0f} min of one core" if minutes < 90 else f"about {minutes / 60:.1f} hours of one core"


def _paces(behaviours: Sequence[Behaviour], of: str) -> Callable[[Behaviour], float | None]:
    """Seconds per unit of a behaviour's learner: the median over the cards of finished runs of its algorithm.

    Those of its own robot, where there are any. Units of different algorithms cannot be compared.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for behaviour in behaviours:
        if behaviour.measured:
            card = read_card(behaviour_path(behaviour.robot, behaviour.dynamics, of))
            for robot in (behaviour.robot, "any"):
                found.setdefault((robot, card["algorithm"]), []).append(card["run_seconds"] / card["run_steps"])

    def pace(behaviour: Behaviour) -> float | None:
        algorithm = behaviour.recipe.algorithm
        values = found.get((behaviour.robot, algorithm)) or found.get(("any", algorithm))
        return median(values) if values else None

    return pace


def _tier(behaviour: Behaviour) -> str:
    return next((tier for tier, members in TIERS.items() if behaviour in members), "D")


def _row(behaviour: Behaviour, root: Path) -> dict[str, Any]:
    row: dict[str, Any] = {
        "tier": _tier(behaviour),
        "robot": behaviour.robot,
        "dynamics": behaviour.dynamics,
        "algorithm": behaviour.recipe.algorithm,
        "state": "left",
        "progress": 0.0,
        "mean_return": None,
        "medium": None,
        "expert": None,
    }
    if behaviour.measured:
        row["state"], row["progress"] = ("done" if behaviour.done else "replay missing"), 1.0
        for quality in QUALITIES:
            card = read_card(behaviour_path(behaviour.robot, behaviour.dynamics, quality))
            row[quality] = {name: card["returns"]["sampled"][name] for name in ("mean", "se")}
        return row
    _add_progress(row, behaviour, root)
    return row


def _add_progress(row: dict[str, Any], behaviour: Behaviour, root: Path) -> None:
    stages = behaviour.stages(root)
    begun = [(folder, units) for folder, units in stages if (folder / "checkpoint.pt").exists()]
    if not begun:
        return
    # Only here, so that a plain look does not wait for torch.
    from offdyn_agents.behaviour.training import Run

    row["state"] = "training"
    made = 0
    for folder, units in begun:
        run = Run(folder)
        run.load()
        if run.history:
            steps, mean_return, _ = run.history[-1]
            made += min(steps, units)
            row["mean_return"] = mean_return if math.isfinite(mean_return) else None
    row["progress"] = made / sum(units for _, units in stages)
