"""Whom the discriminator is up against: a Gaussian over the change of the state, and a model of the behaviour.

The generator is a policy whose state is (s, a) and whose action is s'. The behaviour model acts in it. Both are
networks that give mean and log standard deviation of normalised numbers and begin with maximum likelihood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from offdyn_agents.engine.networks import Params, mlp
from offdyn_agents.engine.policy_gradient import log_density
from offdyn_agents.engine.termination import Termination
from offdyn_agents.models.dynamics_reward.discriminator import Scaling

__all__ = ["Play", "Rollouts", "Settle", "as_drawn", "likelihood_loss", "surrogate_loss"]

Settle = Callable[[Tensor], Tensor]
LOG_STD = (-4.0, 1.0)
REACH = 2.0
"""Rollouts stay within so many times the half-width of what real states span: a wild generator must stay finite."""


def heads(params: Params, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log standard deviation [*lead, B, n] of a Gaussian network."""
    mean, log_std = mlp(params, inputs).chunk(2, dim=-1)
    return mean, log_std.clamp(*LOG_STD)


def likelihood_loss(params: Params, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Return the mean negative log density of outputs [B, n] given inputs [B, m]."""
    return -log_density(*heads(params, inputs), outputs).mean()


def surrogate_loss(
    params: Params,
    inputs: Tensor,
    outputs: Tensor,
    density: Tensor,
    gains: Tensor,
    real_inputs: Tensor,
    real_outputs: Tensor,
    *,
    clip: float,
    likelihood: float,
) -> Tensor:
    """Return PPO's clipped objective, to be minimised, plus a share of the likelihood loss on real rows.

    Args:
        params: The generator.
        inputs: Normalised (s, a) of rollouts, [B, |S| + |A|].
        outputs: The normalised changes that were drawn, [B, |S|].
        density: Their log densities when they were drawn, [B].
        gains: Advantages, [B].
        real_inputs: Normalised (s, a) of real rows, [M, |S| + |A|].
        real_outputs: Their normalised changes, [M, |S|].
        clip: Half-width of the interval in which a ratio of densities may gain.
        likelihood: Weight of the likelihood loss.
    """
    ratio = (log_density(*heads(params, inputs), outputs) - density).clamp(-10.0, 10.0).exp()
    surrogate = torch.minimum(ratio * gains, ratio.clamp(1.0 - clip, 1.0 + clip) * gains).mean()
    return likelihood * likelihood_loss(params, real_inputs, real_outputs) - surrogate


def as_drawn(actions: Tensor) -> Tensor:
    """Leave actions as they are."""
    return actions


class Rollouts(NamedTuple):
    """What the generator did, T steps of N rollouts.

    Attributes:
        observations: s, [T, N, |S|].
        actions: a, [T, N, |A|].
        changes: The drawn normalised changes, [T, N, |S|].
        following: s', [T, N, |S|].
        following_actions: What the behaviour model does in s', [T, N, |A|].
        ended: Whether the next row is another rollout's, [T, N].
    """

    observations: Tensor
    actions: Tensor
    changes: Tensor
    following: Tensor
    following_actions: Tensor
    ended: Tensor


@dataclass(frozen=True)
class Play:
    """The generator as a world in which the behaviour model acts, from real states.

    Attributes:
        generator: Parameters of the generator.
        behaviour: Parameters of the behaviour model.
        scaling: Normalisation of transitions.
        change: Mean and standard deviation of real changes, [2, |S|]: what the generator's numbers are measured in.
        starts: Real states, [M, |S|].
        terminated: Says which states end an episode; a rollout goes on from another real state.
        settle: Makes drawn actions [N, |A|] such as real ones are, for example where a number of them is 0 or 1.
    """

    generator: Params
    behaviour: Params
    scaling: Scaling
    change: Tensor
    starts: Tensor
    terminated: Termination
    settle: Settle = as_drawn

    def roll_out(self, count: int, horizon: int, generator: torch.Generator) -> Rollouts:
        """Return `count` rollouts of `horizon` steps."""
        steps: list[tuple[Tensor, ...]] = []
        with torch.no_grad():
            observations = self._fresh(count, generator)
            actions = self._act(observations, generator)
            for step in range(horizon):
                changes, following = self._draw(observations, actions, generator)
                following_actions = self._act(following, generator)
                ended = self.terminated(following)
                steps.append((observations, actions, changes, following, following_actions, ended))
                observations, actions = following, following_actions
                if step + 1 < horizon and bool(ended.any()):
                    fresh = self._fresh(count, generator)
                    observations = torch.where(ended[:, None], fresh, observations)
                    actions = torch.where(ended[:, None], self._act(fresh, generator), actions)
        found = Rollouts(*(torch.stack(column) for column in zip(*steps, strict=True)))
        found.ended[-1] = True
        return found

    def _fresh(self, count: int, generator: torch.Generator) -> Tensor:
        return self.starts[torch.randint(len(self.starts), (count,), generator=generator).to(self.starts.device)]

    def _act(self, observations: Tensor, generator: torch.Generator) -> Tensor:
        size = observations.shape[-1]
        centre, scale = self.scaling.centre, self.scaling.scale
        mean, log_std = heads(self.behaviour, (observations - centre[:size]) * scale[:size])
        drawn = _normal(mean, generator) * log_std.exp() + mean
        return self.settle(drawn.clamp(-1.0, 1.0) / scale[size:] + centre[size:])

    def _draw(self, observations: Tensor, actions: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        mean, log_std = heads(self.generator, self.scaling.pairs(observations, actions))
        changes = mean + log_std.exp() * _normal(mean, generator)
        size = observations.shape[-1]
        centre, scale = self.scaling.centre[:size], self.scaling.scale[:size]
        reached = (observations + self.change[0] + changes * self.change[1] - centre) * scale
        # What does not vary in the data keeps its size, so its bound is a number of its own units.
        return changes, reached.clamp(-REACH * 0.8, REACH * 0.8) / scale + centre


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw on the CPU, so that a seed means the same on every device."""
    return torch.randn(like.shape, generator=generator).to(like.device)
