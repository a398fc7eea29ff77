"""Rollouts of a policy in an ensemble of Gaussian dynamics: what MOPO, MOBILE and MOREC learn from beside real rows.

At each step every elite proposes next states and rewards drawn from its Gaussian; a chooser takes one of these
candidates for every row and may refuse them all, which ends that rollout. MOPO and MOBILE choose at random; MOREC
chooses by its dynamics reward.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.termination import Termination
from offdyn_agents.models.ensemble.model import CHUNK, Ensemble

__all__ = ["Candidates", "Choice", "Choose", "Proposer", "RolloutModel", "choose_any", "roll_out"]


class Candidates(NamedTuple):
    """What may come next, for N rows.

    Attributes:
        observations: s, [N, |S|].
        actions: a, [N, |A|].
        next_observations: Drawn next states, [C, N, |S|].
        rewards: Drawn rewards, [C, N].
        uncertainty: The largest over all members of the norm of the standard deviations of (r, s'), [N].
    """

    observations: Tensor
    actions: Tensor
    next_observations: Tensor
    rewards: Tensor
    uncertainty: Tensor


class Choice(NamedTuple):
    """What a chooser says.

    Attributes:
        chosen: Number of the candidate that comes next, int64 [N].
        refused: Where none of them is good enough: the rollout ends with this transition; bool [N].
    """

    chosen: Tensor
    refused: Tensor


Choose = Callable[[Candidates, torch.Generator], Choice]
Act = Callable[[Tensor, torch.Generator], Tensor]
"""Maps observations [N, |S|] to actions [N, |A|]."""


def choose_any(candidates: Candidates, generator: torch.Generator) -> Choice:
    """Choose uniformly and refuse nothing."""
    count, rows = candidates.rewards.shape
    chosen = torch.randint(count, (rows,), generator=generator).to(candidates.rewards.device)
    return Choice(chosen, torch.zeros_like(chosen, dtype=torch.bool))


class Proposer:
    """Draws candidates from an ensemble.

    Args:
        ensemble: All members, as their uncertainty counts.
        elites: How many of the best members draw.
        samples: Draws of each.
        clip: Bound of the size of every number of (r, s').
    """

    def __init__(self, ensemble: Ensemble, elites: int, samples: int = 1, clip: float = math.inf) -> None:
        self.ensemble, self.best = ensemble, ensemble.ranking[:elites]
        self.samples, self.clip = samples, clip

    def __call__(self, observations: Tensor, actions: Tensor, generator: torch.Generator) -> Candidates:
        """Return elites * samples candidates for observations [N, |S|] and actions [N, |A|]."""
        rewards, states, variances = self.ensemble.predict(observations, actions)
        stds = variances.sqrt()
        means = torch.cat([rewards.unsqueeze(-1), states], dim=-1)[self.best]
        noise = torch.randn(self.samples, *means.shape, generator=generator).to(means.device)
        drawn = (means + stds[self.best] * noise).flatten(0, 1).clamp(-self.clip, self.clip)
        uncertainty = stds.square().sum(-1).sqrt().amax(0)
        return Candidates(observations, actions, drawn[..., 1:], drawn[..., 0], uncertainty)


@dataclass(frozen=True)
class RolloutModel:
    """The world in which a policy is rolled out.

    Attributes:
        propose: Draws candidates.
        terminated: Says which next states end an episode.
        choose: Takes one candidate for every row.
        penalty: Weight with which the uncertainty is taken off the reward.
        drop_refused: Leave transitions out whose candidates were all refused, instead of storing them as ends.
    """

    propose: Proposer
    terminated: Termination
    choose: Choose = choose_any
    penalty: float = 0.0
    drop_refused: bool = False

    def step(self, observations: Tensor, actions: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return packed rows [n, W] of N rows and the states [m, |S|] from which the rollouts go on."""
        candidates = self.propose(observations, actions, generator)
        choice = self.choose(candidates, generator)
        index = (choice.chosen, torch.arange(len(observations), device=observations.device))
        following = candidates.next_observations[index]
        rewards = candidates.rewards[index] - self.penalty * candidates.uncertainty
        ends = self.terminated(following) | choice.refused
        rows = Layout(observations.shape[-1], actions.shape[-1]).join(observations, actions, following, rewards, ends)
        return rows[~choice.refused] if self.drop_refused else rows, following[~ends]


def roll_out(
    model: RolloutModel, act: Act, starts: Tensor, horizon: int, generator: torch.Generator, *, chunk: int = CHUNK
) -> Tensor:
    """Roll a policy out in a model.

    Args:
        model: The world.
        act: The policy, which may draw from the generator.
        starts: First states, [N, |S|].
        horizon: Most steps of a rollout; it ends earlier where an episode does or where a chooser refuses.
        generator: On the CPU, so that a seed means the same rollouts on every device.
        chunk: Rows computed at once: few enough for the members' activations to stay in a core's cache.

    Returns:
        Packed rows [n, W], those of the first step first.
    """
    observations = starts
    parts: list[Tensor] = []
    with torch.no_grad():
        for _ in range(horizon):
            if not len(observations):
                break
            steps = [model.step(part, act(part, generator), generator) for part in observations.split(chunk)]
            parts += [rows for rows, _ in steps]
            observations = torch.cat([following for _, following in steps])
    return torch.cat(parts)
