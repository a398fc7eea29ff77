"""The chooser of MOREC's rollouts: candidates are taken by their dynamics reward, and refused where it is low."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offdyn_agents.models.dynamics_reward.discriminator import DynamicsReward
from offdyn_agents.models.ensemble.rollouts import Candidates, Choice, choose_any

__all__ = ["RewardFilter", "softmax_choice"]


@dataclass(frozen=True)
class RewardFilter:
    """Takes one candidate for every row by softmax(r_D / temperature), or the best one at temperature 0.

    Attributes:
        reward: The discriminators that judge, all of them usable.
        temperature: kappa.
        threshold: A row whose chosen candidate has a lower reward is refused; at 0 none is, as r_D is at least .313.
        by_reward: Whether the reward chooses; otherwise a candidate is taken at random.
        products: Makes the context in which the discriminators judge, for example autocast.
    """

    reward: DynamicsReward
    temperature: float = 0.1
    threshold: float = 0.6
    by_reward: bool = True
    products: Callable[[], AbstractContextManager[Any]] = nullcontext

    def __call__(self, candidates: Candidates, generator: torch.Generator) -> Choice:
        """Choose; see `offdyn_agents.models.ensemble.rollouts.Choice`."""
        following = candidates.next_observations
        now = [tensor.expand(len(following), *tensor.shape) for tensor in (candidates.observations, candidates.actions)]
        with self.products():
            scores = self.reward(now[0], now[1], following)
        if self.by_reward:
            chosen = softmax_choice(scores, self.temperature, generator)
        else:
            chosen = choose_any(candidates, generator).chosen
        return Choice(chosen, scores.gather(0, chosen.unsqueeze(0)).squeeze(0) < self.threshold)


def softmax_choice(scores: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Draw from softmax(scores / temperature) over the first axis; the largest at temperature 0.

    Args:
        scores: [C, N].
        temperature: At least 0.
        generator: On the CPU; not touched at temperature 0.

    Returns:
        Numbers of candidates, int64 [N].
    """
    if temperature == 0.0:
        return scores.argmax(0)
    # The largest of scores with independent Gumbel noise is distributed as the softmax.
    uniform = torch.rand(scores.shape, generator=generator, dtype=torch.float64).clamp(min=1e-300)
    noise = -torch.log(-torch.log(uniform)).to(scores.device)
    return (scores.double() / temperature + noise).argmax(0)
