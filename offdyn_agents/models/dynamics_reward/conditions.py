"""What must hold of a dynamics reward before rollouts are filtered with it, measured against the simulator.

1. At least 95% of held-out real transitions score above the threshold .6.
2. Over the candidates of a model, r_D is strongly negatively correlated with the logarithm of their error.
3. Of ten candidates the one with the highest r_D has a lower error than a random one; for the behaviour and for others.

Off-dynamics there is a fourth, this suite's own: at most 20% of source rows are refused at once, or what a million of
them could add is lost.

The true next states of other actions come from the simulator: for diagnosis, never for training.

    offdyn diagnose reward TASK
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offdyn_agents.models.dynamics_reward.discriminator import DynamicsReward
from offdyn_agents.models.ensemble.model import Ensemble
from offdyn_agents.models.ensemble.rollouts import Proposer

__all__ = [
    "SHARE",
    "THRESHOLD",
    "Asked",
    "Conditions",
    "Ranking",
    "correlation",
    "measure_conditions",
    "other_policies",
    "rank",
    "score_candidates",
]

THRESHOLD, SHARE, STRONG, REFUSED = 0.6, 0.95, -0.5, 0.2
ELITES, DRAWS, BOUND = 5, 2, 25.0
NOISE = 0.5
"""Standard deviation of what the noisy policy adds to the behaviour's actions."""


@dataclass(frozen=True)
class Asked:
    """Transitions whose next states are the true ones.

    Attributes:
        observations: [N, |S|].
        actions: [N, |A|].
        following: [N, |S|].
    """

    observations: Tensor
    actions: Tensor
    following: Tensor


@dataclass(frozen=True)
class Ranking:
    """How well r_D ranks candidates. Errors are root mean squares in units of the standard deviations of real changes.

    Attributes:
        correlation: Of r_D with the logarithm of the error, over all candidates.
        within: Mean over states of the same correlation among the candidates of one state.
        best: Mean error of the candidate with the highest r_D.
        random: Mean error of all candidates.
        lowest: Mean of the lowest error.
        refused: Share of states in which r_D of that candidate is below the threshold: a rollout would end at once.
    """

    correlation: float
    within: float
    best: float
    random: float
    lowest: float
    refused: float


@dataclass(frozen=True)
class Conditions:
    """What was measured.

    Attributes:
        real: Share of held-out real transitions with r_D of at least .6.
        rankings: Of each policy's candidates, the behaviour's first.
        source: Of the candidates of source rows; None in a single domain.
    """

    real: float
    rankings: Mapping[str, Ranking]
    source: Ranking | None = None

    def holds(self) -> dict[str, bool]:
        """Say which of the three conditions hold, and whether source rows pass where there are any."""
        rankings, passing = self.rankings.values(), dict[str, bool]()
        if self.source is not None:
            passing[f"at most {REFUSED:.0%} of source rows are refused at once"] = self.source.refused <= REFUSED
        return {
            "real transitions pass": self.real >= SHARE,
            "r_D falls with the error": all(ranking.correlation <= STRONG for ranking in rankings),
            "the best candidate beats a random one": all(ranking.best < ranking.random for ranking in rankings),
            **passing,
        }

    def lines(self) -> list[str]:
        """Return the numbers and verdicts as text."""
        shown = {**self.rankings, **({} if self.source is None else {"source rows": self.source})}
        head = f"{'policy':<12}{'correlation':>13}{'in a state':>12}{'best r_D':>10}{'random':>9}{'lowest':>9}"
        rows = [
            f"{name:<12}{r.correlation:>13.2f}{r.within:>12.2f}{r.best:>10.3f}{r.random:>9.3f}{r.lowest:>9.3f}"
            f"{r.refused:>9.1%}"
            for name, r in shown.items()
        ]
        verdicts = [f"{'holds' if held else 'FAILS'}: {what}" for what, held in self.holds().items()]
        title = f"held-out real transitions with r_D >= {THRESHOLD}: {self.real:.1%}"
        return [title, f"{head}{'refused':>9}", *rows, *verdicts]


def measure_conditions(
    reward: DynamicsReward, ensemble: Ensemble, held: Asked, others: Mapping[str, Asked], scale: Tensor, seed: int = 0
) -> Conditions:
    """Measure the three conditions.

    Args:
        reward: Usable discriminators.
        ensemble: The model that proposes candidates.
        held: Held-out real transitions of the behaviour.
        others: Transitions of other policies by name.
        scale: Standard deviations of real changes, [|S|]: the unit of errors.
        seed: Of the candidates.
    """
    propose = Proposer(ensemble, ELITES, DRAWS, BOUND)
    real = reward.passing(held.observations, held.actions, held.following, THRESHOLD)
    rankings = {
        name: rank(*score_candidates(reward, propose, asked, scale, seed))
        for name, asked in {"behaviour": held, **others}.items()
    }
    return Conditions(real, rankings)


def score_candidates(
    reward: DynamicsReward, propose: Proposer, asked: Asked, scale: Tensor, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Draw candidates for the next states of N transitions and compare them with the true ones.

    Args:
        reward: Usable discriminators.
        propose: Draws C candidates for each.
        asked: The transitions.
        scale: The unit of errors, [|S|].
        seed: Of the candidates.

    Returns:
        r_D and true errors of the candidates, both float64 [C, N].
    """
    with torch.no_grad():
        drawn = propose(asked.observations, asked.actions, torch.Generator().manual_seed(seed)).next_observations
    count = len(drawn)
    scores = reward(asked.observations.expand(count, -1, -1), asked.actions.expand(count, -1, -1), drawn)
    errors = ((drawn - asked.following) / scale).square().mean(-1).sqrt()
    return scores.double(), errors.double()


def rank(scores: Tensor, errors: Tensor, threshold: float = THRESHOLD) -> Ranking:
    """Compare rewards and errors of candidates, both [C, N]; rollouts would end below the threshold."""
    logs = errors.clamp(min=1e-12).log()
    within = correlation(scores, logs)
    # Where all candidates score the same, the reward says nothing of them.
    best = errors.gather(0, scores.argmax(0).unsqueeze(0)).mean()
    pooled = correlation(scores.reshape(-1, 1), logs.reshape(-1, 1))
    refused = (scores.amax(0) < threshold).double().mean()
    figures = (pooled, within.mean(), best, errors.mean(), errors.amin(0).mean(), refused)
    return Ranking(*(float(figure) for figure in figures))


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return the correlation of columns [C, N], 0 where one does not vary."""
    a, b = first - first.mean(0), second - second.mean(0)
    norm = (a.square().sum(0) * b.square().sum(0)).sqrt()
    return torch.where(norm > 1e-12, (a * b).sum(0) / norm.clamp(min=1e-12), torch.zeros_like(norm))


def other_policies(dataset: Any, rows: Sequence[int], seed: int = 0, *, threads: int | None = None) -> dict[str, Asked]:
    """Let other policies act in the states of some rows of a dataset and simulate what follows.

    Args:
        dataset: A dataset with simulator states, as `offdyn_envs.load_dataset` returns it.
        rows: Numbers of rows.
        seed: Of the actions.
        threads: Threads of the simulation; by default all usable cores.

    Returns:
        "noisy": the behaviour's actions with noise; "random": uniform actions.

    Raises:
        OffDynError: The dataset has no simulator states.
    """
    from offdyn_envs.datasets.gap.counterfactuals import counterfactual

    rng, numbers = np.random.default_rng(seed), np.asarray(rows)
    behaviour = np.asarray(dataset.actions)
    noisy = behaviour + rng.normal(0.0, NOISE, behaviour.shape)
    policies = {"noisy": np.clip(noisy, -1.0, 1.0), "random": rng.uniform(-1.0, 1.0, behaviour.shape)}
    found: dict[str, Asked] = {}
    for name, actions in policies.items():
        acted = actions.astype(np.float32)
        changed = replace(dataset, arrays=replace(dataset.arrays, actions=acted))
        answer = counterfactual(changed, dataset.card["shifts"], numbers, num_threads=threads, quiet=True)
        valid = answer.valid
        parts = (np.asarray(dataset.observations)[numbers], acted[numbers], answer.next_observations)
        found[name] = Asked(*(torch.from_numpy(np.ascontiguousarray(part[valid])) for part in parts))
    return found


if __name__ == "__main__":
    # An earlier spelling.
    from offdyn_envs.cli import main

    main(["diagnose", "reward", *sys.argv[1:]])
