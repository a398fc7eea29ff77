"""What a run's score is held against: the random policy, the target's own behaviour, the expert."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from offdyn_agents.runs.metrics import read_metrics
from offdyn_envs.errors import OffDynError

__all__ = ["reference_scores", "score_lines"]

BEHAVIOUR = "target's behaviour"


def reference_scores(facts: Mapping[str, Any]) -> dict[str, float]:
    """Return scores beside which a run's own stands, from the lowest kind of policy to the highest.

    Args:
        facts: What its run.json says.

    Returns:
        Normalised scores by name; nothing for own data and for tasks without reference returns. The behaviour's is that
        of the target dataset's whole episodes, where it is known.
    """
    from offdyn_envs.benchmark.scoring.scores import task_reference
    from offdyn_envs.tasks import get_task

    if "pair" in facts or task_reference(str(facts["task"])) is None:
        return {}
    behaviour = _behaviour(get_task(str(facts["task"])).target)
    return {"random": 0.0, **({} if behaviour is None else {BEHAVIOUR: behaviour}), "expert": 100.0}


def _behaviour(target: Any) -> float | None:
    """Return the score of a target dataset's behaviour: from its card, or from the manifest's where it is not here."""
    from offdyn_envs.datasets.describing.derived import score
    from offdyn_envs.datasets.store.folders import find, read_metadata
    from offdyn_envs.datasets.store.manifest import read_manifest

    try:
        folder = find(target)
        card = read_manifest()["datasets"].get(str(target)) if folder is None else read_metadata(folder)["offdyn"]
        found = None if card is None else score(card)
    except OffDynError:
        # A picture or a line the less is no reason to fail.
        return None
    return None if found is None else found["mean"]


def score_lines(folder: Path, facts: Mapping[str, Any], label: str) -> list[str]:
    """Return a run's score in its place among the references, a line for each, the lowest first.

    Args:
        folder: The run's folder.
        facts: What its run.json says, with "late".
        label: What the run is called.

    Returns:
        Lines for a terminal; none where there is no score or nothing to hold it against.
    """
    late, references = facts.get("late") or {}, reference_scores(facts)
    if "score" not in late or not references:
        return []
    scores = read_metrics(folder / "metrics.csv")["score"]
    own = {f"{label}, last evaluation": float(scores[np.isfinite(scores)][-1])}
    if late["evaluations"] > 1:
        own[f"{label}, mean of the last {late['evaluations']}"] = float(late["score"])
    shown = sorted([*references.items(), *own.items()], key=lambda item: item[1])
    width = max(len(name) for name, _ in shown)
    return [f"  {name:<{width}}  {score:6.1f}{'  <-' if name in own else ''}" for name, score in shown]
