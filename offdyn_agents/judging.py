"""How good learned target dynamics are: their error on target rows nobody saw, and on source state-actions.

What a source state-action would have led to in the target is known exactly, from the stored simulator states
(`offdyn_envs.datasets.counterfactual`). MOBODY's dynamics stand beside what it must beat: one model of the merged rows
and one of the target rows alone, both with its own networks and as Gaussian ensembles. For diagnosis, never for
training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offdyn_agents.data import Layout, pack
from offdyn_agents.dynamics import CHUNK, Ensemble
from offdyn_agents.dynamics_settings import EnsembleSettings
from offdyn_agents.mobody_dynamics import DualDynamics
from offdyn_agents.mobody_settings import DualDynamicsSettings
from offdyn_agents.mobody_stages import fit_dynamics
from offdyn_agents.stages import StageContext, fit_ensembles
from offdyn_envs.errors import OffDynError

if TYPE_CHECKING:
    from offdyn_envs.datasets.spec import Dataset

__all__ = [
    "MODELS",
    "Exam",
    "JudgeSettings",
    "Paper",
    "examine",
    "fit_models",
    "references",
    "set_paper",
    "split_target",
]

HELD_SHARE = 0.2


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


class Exam(NamedTuple):
    """Transitions of the target that models are examined on.

    Attributes:
        observations: [N, |S|].
        actions: [N, |A|].
        following: True next states, [N, |S|].
        rewards: True rewards, [N].
    """

    observations: Tensor
    actions: Tensor
    following: Tensor
    rewards: Tensor


class Paper(NamedTuple):
    """All exams of one task, and the rows to learn from.

    Attributes:
        source: Packed source rows to learn from, [N, W].
        target: Packed target rows to learn from, [M, W].
        exams: "target holdout" and "source state-actions".
        shifted: Next states of the source rows in the latter exam, as they were in the source.
        invalid: Source rows that the target's body cannot take, left out of the exam.
    """

    source: Tensor
    target: Tensor
    exams: dict[str, Exam]
    shifted: Tensor
    invalid: int


Means = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps observations and actions [N, .] to the members' next states [K, N, |S|] and rewards [K or 1, N]."""


def split_target(target: Dataset) -> int:
    """Return how many of the first target rows are for learning: whole episodes, about four fifths of the rows.

    Raises:
        OffDynError: There is one episode only.
    """
    ends = np.cumsum(target.arrays.lengths)
    if len(ends) < 2:
        raise OffDynError(f"dataset '{target.id}' has one episode; at least 2 are needed to hold one out")
    wanted = (1.0 - HELD_SHARE) * int(ends[-1])
    return int(ends[:-1][np.abs(ends[:-1] - wanted).argmin()])


def set_paper(
    source: Dataset, target: Dataset, rows: int, source_rows: int = 0, *, threads: int | None = None, quiet: bool = True
) -> Paper:
    """Make the exams of a task.

    Args:
        source: Its source dataset, with simulator states.
        target: Its target dataset; the last episodes, about a fifth of the rows, are held out.
        rows: Evenly spaced source rows that are simulated again in the target.
        source_rows: Evenly spaced source rows to learn from; 0 for all.
        threads: Threads of the simulation.
        quiet: Show no progress.

    Raises:
        OffDynError: One target episode only, or no source row that the target's body can take.
    """
    from offdyn_envs.datasets import counterfactual
    from offdyn_envs.shifts import parse_shifts

    learned = split_target(target)
    answer = counterfactual(
        source,
        parse_shifts(target.card["shifts"] or None),
        _spaced(len(source), rows),
        profile=target.card["profile"],
        num_threads=threads,
        quiet=quiet,
    )
    if not answer.valid.any():
        raise OffDynError(f"the body of '{target.id}' can take none of {len(answer)} rows of '{source.id}'")
    chosen = answer.rows[answer.valid]
    layout = Layout(source.observations.shape[1], source.actions.shape[1])
    packed = pack(target, "target")
    s, a, following, rewards, _ = layout.split(packed[learned:])
    asked = (
        _tensor(source.observations[chosen]),
        _tensor(source.actions[chosen]),
        _tensor(answer.next_observations[answer.valid]),
        _tensor(answer.rewards[answer.valid]),
    )
    table = pack(source, "source")
    return Paper(
        table[_spaced(len(table), source_rows)] if source_rows else table,
        packed[:learned],
        {"target holdout": Exam(s, a, following, rewards), "source state-actions": Exam(*asked)},
        _tensor(source.next_observations[chosen]),
        int((~answer.valid).sum()),
    )


def _spaced(total: int, count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))


def _tensor(values: Any) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32))


def fit_models(settings: JudgeSettings, context: StageContext, name: str) -> list[Means]:
    """Train or find one of `MODELS` for each seed.

    Args:
        settings: How.
        context: Rows to learn from, seeds, cache and hardware.
        name: Which model.
    """
    changes = {"mobody": {}, "single": {"structure": "single"}, "alone": {"data": "target"}}
    if name in changes:
        return [_dual(found) for found in fit_dynamics(replace(settings.dynamics, **changes[name]), context)]
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
    return [_gaussian(found) for found in ensembles]


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
        "state": _in_changes(error, exam),
        "reward": float((torch.cat(rewards) - exam.rewards).double().square().mean() / variance),
        "mse": float(error.square().mean()),
        "rank": _rank_correlation(torch.cat(spread), error.norm(dim=-1)),
    }


def references(paper: Paper) -> dict[str, dict[str, float]]:
    """Return the "state" error of two answers that need no model.

    Returns:
        For each exam that of "no change", and for the source's state-actions that of "as in the source".
    """
    found = {
        name: {"no change": _in_changes((exam.observations - exam.following).double(), exam)}
        for name, exam in paper.exams.items()
    }
    asked = paper.exams["source state-actions"]
    found["source state-actions"]["as in the source"] = _in_changes((paper.shifted - asked.following).double(), asked)
    return found


def _in_changes(error: Tensor, exam: Exam) -> float:
    """Return mean squared errors [N, |S|] in units of the mean squared change, averaged over dimensions that move."""
    change = (exam.following - exam.observations).double().square().mean(0)
    moving = change > 1e-12
    return float((error.square().mean(0)[moving] / change[moving]).mean())


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
