"""How good learned target dynamics are: their error on target rows nobody saw, and on source state-actions.

MOBODY's dynamics stand beside what it must beat: one model of the merged rows and one of the target rows alone, both
with its own networks and as Gaussian ensembles. For diagnosis, never for training. Models are trained where other
stages are and examined on the CPU: the same models have the same errors whatever trained them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offdyn_agents.data import Layout
from offdyn_agents.dynamics import CHUNK, Ensemble
from offdyn_agents.dynamics_reward.settings import DynamicsRewardSettings
from offdyn_agents.dynamics_settings import EnsembleSettings
from offdyn_agents.ensemble_stages import fit_ensembles
from offdyn_agents.exams import Exam, Paper, in_changes, references, set_paper
from offdyn_agents.mobody_dynamics import DualDynamics
from offdyn_agents.mobody_settings import DualDynamicsSettings
from offdyn_agents.mobody_stages import fit_dynamics
from offdyn_agents.settings import setting
from offdyn_agents.stages import StageContext
from offdyn_agents.termination import termination

if TYPE_CHECKING:
    from offdyn_agents.resources import Hardware
    from offdyn_envs.datasets.spec import Dataset

__all__ = [
    "MODELS",
    "REWARD",
    "USUAL",
    "JudgeSettings",
    "Terms",
    "examine",
    "fit_gaussians",
    "fit_models",
    "judge",
    "judge_datasets",
]


@dataclass(frozen=True)
class JudgeSettings:
    """How the judged models are trained.

    Attributes:
        dynamics: MOBODY's dynamics; the models of merged and of target rows with its networks take the rest from here.
        ensemble: The Gaussian ensembles.
        dynamics_reward: MOREC's reward.
        discriminators: Discriminators in it.
        elites: Members of a Gaussian ensemble, the best on held-out rows, that are examined and that propose candidates
            for the reward to judge.
        draws: Candidates of each elite.
        candidate_bound: Bound of the size of every number of a candidate.
    """

    dynamics: DualDynamicsSettings = field(default_factory=DualDynamicsSettings)
    ensemble: EnsembleSettings = field(default_factory=EnsembleSettings)
    dynamics_reward: DynamicsRewardSettings = field(default_factory=DynamicsRewardSettings)
    discriminators: int = setting(40, low=1)
    elites: int = setting(5, low=1)
    draws: int = setting(2, low=1)
    candidate_bound: float = setting(25.0, low=0.0, open_low=True, infinite=True)


@dataclass(frozen=True)
class Terms:
    """What models are asked.

    Attributes:
        rows: Source rows that are simulated again in the target.
        source_rows: Source rows to learn from; 0 for all.
        holdout: One of `offdyn_agents.exams.HOLDOUTS`.
    """

    rows: int = 20_000
    source_rows: int = 0
    holdout: str = "episodes"


MODELS = {
    "mobody": "an action encoder for each domain",
    "single": "MOBODY's networks, one action encoder, merged rows",
    "plain": "MOBODY's networks without latent states, merged rows",
    "alone": "MOBODY's networks, target rows alone",
    "merged": "Gaussian ensemble, merged rows (MOPO)",
    "target": "Gaussian ensemble, target rows alone",
    "source": "Gaussian ensemble, source rows alone",
}
USUAL = ("mobody", "single", "alone", "merged", "target")
"""Those that are judged unless others are asked for."""
REWARD = "morec"
"""What stands among names of models for MOREC's dynamics reward, which is no model but judges one."""


Means = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps observations and actions [N, .] to the members' next states [K, N, |S|] and rewards [K or 1, N]."""
CPU = torch.device("cpu")


def fit_models(settings: JudgeSettings, context: StageContext, name: str) -> list[Means]:
    """Train or find one of `MODELS` for each seed.

    Args:
        settings: How.
        context: Rows to learn from, seeds, cache and hardware.
        name: Which model.

    Returns:
        The models, on the CPU.

    Raises:
        OffDynError: A training failed.
    """
    changes = {
        "mobody": {"structure": "dual", "data": "both"},
        "single": {"structure": "single", "data": "both"},
        "plain": {"structure": "plain", "data": "both"},
        "alone": {"data": "target"},
    }
    if name in changes:
        dynamics = replace(settings.dynamics, **changes[name])
        return [
            _dual(DualDynamics.from_tensors(found.tensors(), CPU)) for found in fit_dynamics(dynamics, context).sound()
        ]
    return [_gaussian(found, settings.elites) for found in fit_gaussians(settings, context, name)]


def fit_gaussians(settings: JudgeSettings, context: StageContext, name: str) -> list[Ensemble]:
    """Train or find the Gaussian ensembles of some rows, one for each seed.

    Args:
        settings: How.
        context: Rows to learn from, seeds, cache and hardware.
        name: "merged", "target" or "source".

    Returns:
        The ensembles, on the CPU.

    Raises:
        OffDynError: A training failed.
    """
    alone = {"target": context.target, "source": context.source}
    ensembles = fit_ensembles(
        settings.ensemble,
        context.layout,
        alone[name] if name in alone else torch.cat([context.source, context.target]),
        context.seeds,
        context.cache,
        threads=context.threads,
        compiled=context.compiled,
        quiet=context.quiet,
        precision=context.precision,
    )
    return [Ensemble.from_tensors(found.tensors(), CPU) for found in ensembles.sound()]


def _dual(dynamics: DualDynamics) -> Means:
    def means(observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        states = dynamics.means(observations, actions)
        following = states[dynamics.elites].mean(0)
        return states[dynamics.elites], dynamics.rewards(observations, actions, following)

    return means


def _gaussian(ensemble: Ensemble, count: int) -> Means:
    elites = ensemble.elites(min(count, len(ensemble.ranking)))

    def means(observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        rewards, states, _ = elites.predict(observations, actions)
        return states, rewards

    return means


def examine(model: Means, exam: Exam) -> dict[str, Any]:
    """Return the errors of a model's mean prediction (over its elites).

    Args:
        model: The model.
        exam: What it is asked.

    Returns:
        "state": squared error of s', each dimension in units of its mean squared change, mean over dimensions (1 is the
        error of predicting no change). "reward": squared error in units of the rewards' variance. "mse": mean squared
        error of s' as it is. "rank": rank correlation over rows between the spread of the members (largest distance
        from their mean) and the error of the mean. "dimensions": what "state" is the mean of, a list [|S|] with NaN for
        dimensions that do not move.
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
    dimensions, moving = in_changes(error, exam)
    return {
        "state": float(dimensions[moving].mean()),
        "reward": float((torch.cat(rewards) - exam.rewards).double().square().mean() / variance),
        "mse": float(error.square().mean()),
        "rank": _rank_correlation(torch.cat(spread), error.norm(dim=-1)),
        "dimensions": dimensions.tolist(),
    }


def _rank_correlation(left: Tensor, right: Tensor) -> float:
    """Return Spearman's correlation, 0 where one of both is constant."""
    ranks = [values.argsort().argsort().double() for values in (left, right)]
    a, b = (rank - rank.mean() for rank in ranks)
    if float(left.max()) == float(left.min()) or float(right.max()) == float(right.min()):
        return 0.0
    return float((a * b).sum() / (a.norm() * b.norm()))


def judge(
    paper: Paper, settings: JudgeSettings, context: StageContext, names: Sequence[str] = USUAL
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Train the models and examine them.

    Args:
        paper: The exams.
        settings: How the models are trained.
        context: Seeds, cache and hardware; its rows are those of the paper.
        names: Which of `MODELS`.

    Returns:
        For each model and each exam the figures of `examine`, one dict per seed.
    """
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name in names:
        models = fit_models(settings, context, name)
        found[name] = {exam: [examine(model, asked) for model in models] for exam, asked in paper.exams.items()}
    return found


def judge_datasets(
    source: Dataset,
    target: Dataset,
    settings: JudgeSettings,
    names: Sequence[str],
    seeds: Sequence[int],
    terms: Terms,
    hardware: Hardware,
    cache: Path,
    *,
    reward_on: str = "",
    quiet: bool = True,
) -> dict[str, Any]:
    """Train or find models of the datasets of a task, and judge them.

    Args:
        source: The source dataset, with simulator states.
        target: The target dataset.
        settings: How the models are trained.
        names: Which of `MODELS`.
        seeds: Models of each kind.
        terms: What they are asked.
        hardware: Where they are trained.
        cache: Folder of cached stages.
        reward_on: Which Gaussian ensemble ("merged", "target", "source") proposes the candidates on which MOREC's
            dynamics reward is judged; "" to leave that out.
        quiet: Show no progress.

    Returns:
        Plain JSON, numbers that are not finite as None: "seeds"; "holdout"; "elites" of Gaussian ensembles; "rows"
        learned from and asked about;
        "references" and "errors", see `references` and `judge`; "reward", see `judge_reward`.

    Raises:
        OffDynError: The exams cannot be made (see `set_paper`), or a training failed.
    """
    from offdyn_agents.judging_reward import judge_reward

    paper = set_paper(
        source, target, terms.rows, terms.source_rows, holdout=terms.holdout, threads=hardware.threads, quiet=quiet
    )
    context = StageContext(
        Layout(source.observations.shape[1], source.actions.shape[1]),
        paper.source.to(hardware.device),
        paper.target.to(hardware.device),
        tuple(seeds),
        0,
        cache=cache,
        robot=target.id.robot,
        terminated=termination(target.id.robot),
        threads=hardware.threads,
        compiled=hardware.compiled,
        quiet=quiet,
        precision=hardware.precision,
    )
    rows = {"source": len(paper.source), "target": len(paper.target), "invalid": paper.invalid}
    record: dict[str, Any] = {
        "seeds": list(seeds),
        "holdout": terms.holdout,
        "elites": settings.elites,
        "rows": rows | {exam: len(asked.rewards) for exam, asked in paper.exams.items()},
        "references": references(paper),
        "errors": judge(paper, settings, context, names),
    }
    if reward_on:
        record["reward"] = judge_reward(paper, settings, context, reward_on)
    return _plain(record)


def _plain(value: Any) -> Any:
    """Return JSON with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
