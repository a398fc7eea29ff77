"""Runs beside each other: scores with intervals, and how far each is from the first."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_agents.api.run import EPISODES, Run, load_run
from offdyn_agents.api.table import Table
from offdyn_agents.runs.evaluation import EvaluationPlan, clean_returns
from offdyn_agents.runs.own_pairs import OwnPair
from offdyn_agents.runs.plans import marked
from offdyn_envs.batching.threads import usable_threads
from offdyn_envs.benchmark.scoring.statistics import student_quantile, t_interval
from offdyn_envs.errors import OffDynError

__all__ = ["compare"]

Floats = NDArray[np.float64]


def compare(*runs: Run | str | Path, episodes: int = EPISODES) -> Table:
    """Score runs of one problem in its environment and compare each with the first.

    Args:
        runs: Runs, or their folders.
        episodes: Episodes of each policy; returns that are there already, of as many episodes, are taken.

    Returns:
        A row for each run: "run", "seeds", "score" (or "return", without reference returns), "low" and "high" of its
        95% t interval over seeds, and "difference" to the first run with its 95% interval after Welch, "difference_low"
        and "difference_high"; None where there are fewer than two seeds.

    Raises:
        OffDynError: Fewer than two runs, or runs of different problems.

    Examples:
        >>> import offdyn
        >>> from offdyn_agents.testing import dataset
        >>> target = dataset(100, seed=1, observation_dim=3, action_dim=1)
        >>> budget = {"seeds": 2, "updates": 20, "eval_every": 20, "env": "Pendulum-v1", "progress": False}
        >>> agents = offdyn.agents.BC(width=16), offdyn.agents.BC(width=32)
        >>> runs = [offdyn.fit(agent, None, target, **budget) for agent in agents]
        >>> offdyn.compare(*runs, episodes=2).columns
        ['run', 'seeds', 'return', 'low', 'high', 'difference', 'difference_low', 'difference_high']
    """
    if len(runs) < 2:
        raise OffDynError(f"compare takes two runs or more, not {len(runs)}")
    loaded = [run if isinstance(run, Run) else load_run(run) for run in runs]
    scored = {_scored_in(run) for run in loaded}
    if len(scored) > 1:
        raise OffDynError(f"runs of {', '.join(sorted(scored))} cannot be compared; runs of one task are needed")
    plan = EvaluationPlan(episodes, 1, usable_threads(), True)
    normalise = loaded[0].problem.normalise()
    what = "return" if normalise is None else "score"
    values = [_by_seed(run, plan, normalise) for run in loaded]
    firsts = [None, *(values[:1] * (len(values) - 1))]
    return Table(_row(run, what, own, first) for run, own, first in zip(loaded, values, firsts, strict=True))


def _scored_in(run: Run) -> str:
    """Return what tells one problem from another: its name, and for own data the environment."""
    if not isinstance(run.problem, OwnPair):
        return run.problem.title
    place = run.problem.place
    return f"{run.problem.title} in {place.title if place else 'no environment'}"


def _by_seed(run: Run, plan: EvaluationPlan, normalise: Any) -> Floats:
    """Return the mean score or return of every seed."""
    if isinstance(run.problem, OwnPair) and run.problem.place and run.problem.place.told is None:
        # An environment that only this program has: what the folder keeps may be of another one.
        means = np.array(run.evaluate(episodes=plan.episodes).column("return"))
    else:
        means = np.array([np.mean(values) for values in clean_returns(run.folder, plan).values()])
    return means if normalise is None else normalise(means)


def _row(run: Run, what: str, own: Floats, first: Floats | None) -> dict[str, Any]:
    row: dict[str, Any] = {"run": f"{run.folder.name}{marked(run.facts)}", "seeds": len(own), what: float(own.mean())}
    if len(own) > 1:
        interval = t_interval(own)
        row |= {"low": float(interval.low), "high": float(interval.high)}
    if first is not None:
        row["difference"] = float(own.mean() - first.mean())
        half = _welch(own, first)
        if half is not None:
            row |= {"difference_low": row["difference"] - half, "difference_high": row["difference"] + half}
    return row


def _welch(left: Floats, right: Floats) -> float | None:
    """Return half the width of the 95% interval of a difference of two means with variances of their own."""
    if min(len(left), len(right)) < 2:
        return None
    parts = [float(values.var(ddof=1)) / len(values) for values in (left, right)]
    if not sum(parts):
        return 0.0
    freedom = sum(parts) ** 2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (left, right), strict=True))
    return float(student_quantile(0.975, freedom)) * math.sqrt(sum(parts))
