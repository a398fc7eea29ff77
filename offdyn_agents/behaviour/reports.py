"""What is done and what is left of the programme."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from offdyn_agents.behaviour.programme import PROGRAMME, QUALITIES, Behaviour
from offdyn_envs.policies import read_card
from offdyn_envs.shipped import behaviour_path


def programme_status(root: Path) -> list[dict[str, Any]]:
    """One row per behaviour of the programme.

    Args:
        root: folder of all runs.

    Returns:
        Rows of plain types: robot, dynamics, algorithm, state ("done", "training" or "left"), progress (share of the
        budget), mean_return (of the latest training episodes, or null), and for medium and expert the sampled
        returns' mean and standard error, or null.
    """
    return [_row(behaviour, root) for behaviour in PROGRAMME]


def _row(behaviour: Behaviour, root: Path) -> dict[str, Any]:
    row: dict[str, Any] = {
        "robot": behaviour.robot,
        "dynamics": behaviour.dynamics,
        "algorithm": behaviour.algorithm,
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
