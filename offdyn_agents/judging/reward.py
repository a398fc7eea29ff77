"""How well MOREC's dynamics reward r_D tells good candidates of a model from bad ones, by their true errors.

The conditions are those of `offdyn_agents.models.dynamics_reward.conditions`, on the exams of a task: held-out target
rows, other policies in the same states, and source state-actions. For diagnosis, never for training.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offdyn_agents.judging.exams import HOLDOUT, SOURCE, Paper
from offdyn_agents.judging.models import CPU, JudgeSettings, fit_gaussians
from offdyn_agents.models.dynamics_reward.conditions import (
    THRESHOLD,
    Asked,
    Conditions,
    Ranking,
    other_policies,
    rank,
    score_candidates,
)
from offdyn_agents.models.dynamics_reward.discriminator import DynamicsReward
from offdyn_agents.models.dynamics_reward.stage import fit_dynamics_reward
from offdyn_agents.models.ensemble.rollouts import Proposer

if TYPE_CHECKING:
    from offdyn_agents.engine.stages import StageContext
    from offdyn_agents.models.ensemble.model import Ensemble

__all__ = ["BEHAVIOUR", "judge_reward"]

BEHAVIOUR = "behaviour"
"""The policy whose transitions the hold-out holds."""
ROWS, BINS = 1000, 10


def judge_reward(
    paper: Paper,
    settings: JudgeSettings,
    context: StageContext,
    ensemble: str,
    *,
    seed: int = 0,
    prefix: str = "dynamics_reward.",
) -> dict[str, Any]:
    """Train or find the dynamics reward and the ensembles that propose candidates, and compare r_D with true errors.

    Errors are root mean squares in units of the standard deviations of real changes.

    Args:
        paper: The exams.
        settings: How reward and ensembles are trained, and how many candidates are drawn.
        context: Seeds, cache and hardware; its rows are those of the paper.
        ensemble: "merged", "target" or "source": the rows of the ensembles. The reward takes target rows as the real
            ones, but with "source", where there are none.
        seed: Of the reward, which all ensembles share.
        prefix: What stands before the names of the reward's settings where they are set.

    Returns:
        "discriminators"; "threshold", below which they would end a rollout; "real", the share of held-out real
        transitions with r_D of at least .6; "rankings", for each policy one `Ranking` for each seed's ensemble;
        "holds", which conditions hold, likewise; "bins", for each policy candidates of all seeds in ten equal parts by
        r_D: mean "r_D" and "low", "median", "high" of their errors (10%, 50%, 90%).

    Raises:
        OffDynError: A training failed.
    """
    real = context.source if ensemble == "source" else context.target
    found = fit_dynamics_reward(
        settings.dynamics_reward,
        context.layout,
        real,
        context.cache,
        source=context.source if ensemble == "merged" else None,
        terminated=context.terminated,
        seed=seed,
        threads=context.threads,
        compiled=context.compiled,
        quiet=context.quiet,
    )
    usable = found.thinned(settings.discriminators).usable(settings.dynamics_reward, prefix)
    reward = DynamicsReward.from_tensors(usable.tensors(), CPU)
    asked, scale = _asked(paper, context.threads), _scale(context, real)
    held = asked[BEHAVIOUR]
    share = reward.passing(held.observations, held.actions, held.following, THRESHOLD)
    rankings: dict[str, list[Ranking]] = {name: [] for name in asked}
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in asked}
    for model in fit_gaussians(settings, context, ensemble):
        for name, transitions in asked.items():
            pairs[name].append(score_candidates(reward, _proposer(model, settings), transitions, scale))
            rankings[name].append(rank(*pairs[name][-1], settings.threshold))
    places = range(len(context.seeds))
    holds = [Conditions(share, {name: ranks[place] for name, ranks in rankings.items()}).holds() for place in places]
    return {
        "discriminators": len(reward),
        "threshold": settings.threshold,
        "real": share,
        "holds": {what: [held[what] for held in holds] for what in holds[0]},
        "rankings": {name: [asdict(ranking) for ranking in ranks] for name, ranks in rankings.items()},
        "bins": {name: _bins(parts) for name, parts in pairs.items()},
    }


def _asked(paper: Paper, threads: int) -> dict[str, Asked]:
    """Return transitions with true next states by policy, the behaviour's first; at most `ROWS` of each."""
    from offdyn_envs.datasets.gap.measure import spaced

    found: dict[str, Asked] = {}
    for name, exam in paper.exams.items():
        numbers = spaced(len(exam.rewards), ROWS).tolist()
        found[name] = Asked(*(part[numbers] for part in exam[:3]))
    rows = paper.held_rows[spaced(len(paper.held_rows), ROWS)].tolist()
    others = other_policies(paper.held, rows, threads=threads)
    return {BEHAVIOUR: found[HOLDOUT], **others, SOURCE: found[SOURCE]}


def _scale(context: StageContext, rows: Tensor) -> Tensor:
    """Return the standard deviations of real changes, [|S|]."""
    states, _, following, *_ = context.layout.split(rows.cpu())
    return (following - states).std(0).clamp(min=1e-6)


def _proposer(ensemble: Ensemble, settings: JudgeSettings) -> Proposer:
    return Proposer(ensemble, settings.elites, settings.draws, settings.candidate_bound)


def _bins(candidates: list[tuple[Tensor, Tensor]]) -> dict[str, list[float]]:
    """Return means of r_D and quantiles of errors in equal parts by r_D, of scores and errors of every seed."""
    scores, errors = (torch.cat([part.flatten() for part in parts]) for parts in zip(*candidates, strict=True))
    parts = [part for part in scores.argsort(stable=True).tensor_split(BINS) if len(part)]
    found = {"r_D": [float(scores[part].mean()) for part in parts]}
    for name, share in (("low", 0.1), ("median", 0.5), ("high", 0.9)):
        found[name] = [float(errors[part].quantile(share)) for part in parts]
    return found
