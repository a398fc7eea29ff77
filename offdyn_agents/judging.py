"""How good learned target dynamics are: their error on target rows nobody saw, and on source state-actions.

MOBODY's dynamics stand beside what it must beat: one model of the merged rows and one of the target rows alone, both
with its own networks and as Gaussian ensembles. For diagnosis, never for training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from offdyn_agents.dynamics import CHUNK, Ensemble
from offdyn_agents.dynamics_settings import EnsembleSettings
from offdyn_agents.exams import Exam, Paper, in_changes
from offdyn_agents.mobody_dynamics import DualDynamics
from offdyn_agents.mobody_settings import DualDynamicsSettings
from offdyn_agents.mobody_stages import fit_dynamics
from offdyn_agents.stages import StageContext, fit_ensembles

__all__ = ["MODELS", "JudgeSettings", "examine", "fit_models", "judge"]


@dataclass(frozen=True)
class JudgeSettings:
    """How the judged models are trained.

    Attributes:
        dynamics: MOBODY's dynamics; the models of merged and of target rows with its networks take the rest from here.
        ensemble: The Gaussian ensembles.
    """

    dynamics: DualDynamicsSettings = field(default_factory=DualDynamicsSettings)
    ensemble: EnsembleSettings = field(default_factory=EnsembleSettings)


MODELS = {
    "mobody": "an action encoder for each domain",
    "single": "MOBODY's networks, one action encoder, merged rows",
    "alone": "MOBODY's networks, target rows alone",
    "merged": "Gaussian ensemble, merged rows (MOPO)",
    "target": "Gaussian ensemble, target rows alone",
}


Means = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps observations and actions [N, .] to the members' next states [K, N, |S|] and rewards [K or 1, N]."""


def fit_models(settings: JudgeSettings, context: StageContext, name: str) -> list[Means]:
    """Train or find one of `MODELS` for each seed.

    Args:
        settings: How.
        context: Rows to learn from, seeds, cache and hardware.
        name: Which model.

    Raises:
        OffDynError: A training failed.
    """
    changes = {"mobody": {}, "single": {"structure": "single"}, "alone": {"data": "target"}}
    if name in changes:
        dynamics = replace(settings.dynamics, **changes[name])
        return [_dual(found) for found in fit_dynamics(dynamics, context).sound()]
    rows = context.target if name == "target" else torch.cat([context.source, context.target])
    ensembles = fit_ensembles(
        settings.ensemble,
        context.layout,
        rows,
        context.seeds,
        context.cache,
        threads=context.threads,
        compiled=context.compiled,
        quiet=context.quiet,
    )
    return [_gaussian(found) for found in ensembles.sound()]


def _dual(dynamics: DualDynamics) -> Means:
    def means(observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        states = dynamics.means(observations, actions)
        following = states[dynamics.elites].mean(0)
        return states[dynamics.elites], dynamics.rewards(observations, actions, following)

    return means


def _gaussian(ensemble: Ensemble) -> Means:
    elites = ensemble.elites(5)

    def means(observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        rewards, states, _ = elites.predict(observations, actions)
        return states, rewards

    return means


def examine(model: Means, exam: Exam) -> dict[str, float]:
    """Return the errors of a model's mean prediction (over its elites).

    Args:
        model: The model.
        exam: What it is asked.

    Returns:
        "state": squared error of s', each dimension in units of its mean squared change, mean over dimensions (1 is the
        error of predicting no change). "reward": squared error in units of the rewards' variance. "mse": mean squared
        error of s' as it is. "rank": rank correlation over rows between the spread of the members (largest distance
        from their mean) and the error of the mean.
    """
    states: list[Tensor] = []
    rewards: list[Tensor] = []
    spread: list[Tensor] = []
    with torch.no_grad():
        for s, a in zip(exam.observations.split(CHUNK), exam.actions.split(CHUNK), strict=True):
            following, reward_means = model(s, a)
            states.append(following.mean(0))
            rewards.append(reward_means.mean(0))
            spread.append(torch.linalg.vector_norm(following - following.mean(0), dim=-1).amax(0))
    error = (torch.cat(states) - exam.following).double()
    variance = exam.rewards.double().var(correction=0).clamp(min=1e-12)
    return {
        "state": in_changes(error, exam),
        "reward": float((torch.cat(rewards) - exam.rewards).double().square().mean() / variance),
        "mse": float(error.square().mean()),
        "rank": _rank_correlation(torch.cat(spread), error.norm(dim=-1)),
    }


def _rank_correlation(left: Tensor, right: Tensor) -> float:
    """Return Spearman's correlation, 0 where one of both is constant."""
    ranks = [values.argsort().argsort().double() for values in (left, right)]
    a, b = (rank - rank.mean() for rank in ranks)
    if float(left.max()) == float(left.min()) or float(right.max()) == float(right.min()):
        return 0.0
    return float((a * b).sum() / (a.norm() * b.norm()))


def judge(
    paper: Paper, settings: JudgeSettings, context: StageContext, names: Sequence[str] = tuple(MODELS)
) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Train the models and examine them.

    Args:
        paper: The exams.
        settings: How the models are trained.
        context: Seeds, cache and hardware; its rows are those of the paper.
        names: Which of `MODELS`.

    Returns:
        For each model and each exam the figures of `examine`, one dict per seed.
    """
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for name in names:
        models = fit_models(settings, context, name)
        found[name] = {exam: [examine(model, asked) for model in models] for exam, asked in paper.exams.items()}
    return found
