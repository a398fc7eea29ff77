"""Implicit Q-learning (Kostrikov et al., 2022) on target rows, source rows or both.

    V(s)    <- argmin E |tau - 1(d < 0)| d^2,       d = min_j Q'_j(s, a) - V(s)
    Q_j     <- argmin E (k r + gamma m clip(V(s')) - Q_j(s, a))^2
    pi      <- argmin E min(exp(3 d), 100) |pi(s) - a|^2

k divides rewards by the range of returns / 1000, as the authors' own code does for locomotion; the paper does not say
so, and ports for two domains dropped it, which leaves a fifth to a third of all weights at their cap. The clip keeps
values inside what the data's rewards allow; it is ours. `form=paper` is without both. One update computes every part
from the parameters before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offdyn_agents.algorithms.returns import beyond, clipped, reward_scale, told, unscaled, value_facts
from offdyn_agents.engine.agent import Agent, AgentSettings
from offdyn_agents.engine.networks import Network, Params, policy, twin, value
from offdyn_agents.engine.rows import Batch
from offdyn_agents.engine.settings import setting

if TYPE_CHECKING:
    from offdyn_agents.engine.stages import StageContext

__all__ = ["IQL", "IQLSettings", "expectile_loss", "mean_of_domains"]


@dataclass(frozen=True)
class IQLSettings(AgentSettings):
    """Settings of IQL.

    Attributes:
        discount: gamma.
        polyak: Share of the critics that enters their averaged copies at each update.
        expectile: tau of V's regression.
        temperature: Inverse temperature of the advantage weights.
        weight_clip: Largest advantage weight.
        reward_scale: "returns" multiplies rewards with 1000 / (largest - smallest return of an episode), at most 1;
            "none" leaves them as they are. Reported values are in the data's own units either way.
        value_bounds: "rewards" clips V(s') to [min(0, smallest reward), max(0, largest)] / (1 - gamma); "none" does
            not. A clip to an interval that holds the fixed point keeps the contraction.
        target_share: Weight of target rows in the actor's loss, where a batch has rows of both domains.
    """

    discount: float = setting(0.99, low=0.0, high=1.0)
    polyak: float = setting(0.005, low=0.0, high=1.0)
    expectile: float = setting(0.7, low=0.0, high=1.0, open_low=True, per_run=True)
    temperature: float = setting(3.0, low=0.0, per_run=True)
    weight_clip: float = setting(100.0, low=0.0, open_low=True, infinite=True)
    reward_scale: str = setting("returns", choices=("returns", "none"))
    value_bounds: str = setting("rewards", choices=("rewards", "none"))
    target_share: float = setting(0.5, low=0.0, high=1.0)


def expectile_loss(differences: Tensor, expectile: float | Tensor) -> Tensor:
    """Return |tau - 1(d < 0)| d^2 elementwise."""
    weights = torch.where(differences > 0, expectile, 1.0 - expectile)
    return weights * differences.square()


def mean_of_domains(losses: Tensor, source_rows: int, share: float) -> Tensor:
    """Return the mean over rows [*lead] of losses [*lead, B], in which target rows have a share; .5 is the plain mean.

    Args:
        losses: Source rows first, then target rows.
        source_rows: Number of source rows.
        share: Weight of the mean over target rows; that over source rows has the rest.
    """
    rows = losses.shape[-1]
    if share == 0.5 or source_rows in (0, rows):
        return losses.mean(-1)
    source, target = losses.split([source_rows, rows - source_rows], dim=-1)
    return (1.0 - share) * source.mean(-1) + share * target.mean(-1)


class IQL(Agent):
    """IQL with twin critics, a state value and a tanh-squashed mean as its actor."""

    name = "iql"
    family = "model-free"
    settings_class = IQLSettings
    settings: IQLSettings
    metrics = ("value_loss", "critic_loss", "actor_loss", "q", "v", "weight", "capped", "outside")
    optional = ("outside",)
    averaged = ("critic",)
    annealed = ("actor",)

    @property
    def polyak(self) -> float:
        """Share of the critics that enters their averaged copies."""
        return self.settings.polyak

    def networks(self) -> dict[str, Network]:
        """Return twin critics, value and actor."""
        s, a = self.observation_dim, self.action_dim
        return {"critic": self.hidden(s + a, 1, copies=2), "value": self.hidden(s, 1), "actor": self.hidden(s, a)}

    def facts(self, context: StageContext) -> dict[str, Params]:
        """Return the scale of rewards and the bounds of values, where they are wanted."""
        scaled, bounded = self.settings.reward_scale == "returns", self.settings.value_bounds == "rewards"
        if not scaled and not bounded:
            return {}
        return value_facts(context, scaled=scaled, bounded=bounded, discount=self.settings.discount)

    def bounded(self, params: Mapping[str, Params], values: Tensor) -> Tensor:
        """Return values [*lead, B] inside their bounds, where they have some."""
        return values if self.settings.value_bounds == "none" else clipped(params, values)

    def outside(self, params: Mapping[str, Params], values: Tensor) -> dict[str, Tensor]:
        """Return the share of values [*lead, B] that `bounded` moves, as a metric; nothing where it moves none."""
        return {} if self.settings.value_bounds == "none" else {"outside": beyond(params, values)}

    def told(self, facts: Mapping[str, Params]) -> dict[str, Any]:
        """Return the scale of rewards and the bounds of values."""
        return told(facts)

    def scale(self, params: Mapping[str, Params], axes: int = 0) -> Tensor | float:
        """Return what rewards are multiplied with, [*lead] and so many axes of size one."""
        return reward_scale(params, axes) if self.settings.reward_scale == "returns" else 1.0

    def exported(self, params: Mapping[str, Params]) -> dict[str, Params]:
        """Return the networks; critics and value in the units of the data's rewards."""
        found = super().exported(params)
        if self.settings.reward_scale == "none":
            return found
        return found | {name: unscaled(params, found[name]) for name in ("critic", "value")}

    def loss(self, params: Mapping[str, Params], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the value, critic and actor losses; see `Agent.loss`."""
        scale = self.scale(params)
        batch = batch._replace(rewards=batch.rewards * self.scale(params, 1))
        with torch.no_grad():
            best = twin(params["critic_target"], batch.observations, batch.actions).amin(-2)
            targets, extra = self.targets(params, batch)
        v = value(params["value"], batch.observations)
        value_loss = expectile_loss(best - v, self.number(params, "expectile", 1)).mean(-1)
        q = twin(params["critic"], batch.observations, batch.actions)
        critic_loss = self.critic_loss(params, targets.unsqueeze(-2) - q, batch)
        sharpened = self.number(params, "temperature", 1) * (best - v.detach())
        free = torch.exp(sharpened)
        weights = free.clamp(max=self.settings.weight_clip)
        capped = (free > self.settings.weight_clip).float().mean(-1)
        errors = (policy(params["actor"], batch.observations) - batch.actions).square().mean(-1)
        actor_loss = self.actor_loss(weights, errors, batch.source_rows)
        means = (q.mean((-2, -1)) / scale, v.mean(-1) / scale, weights.mean(-1), capped)
        parts = (value_loss, critic_loss, actor_loss, *means)
        metrics = {name: part.detach() for name, part in zip(IQL.metrics, parts, strict=False)}
        return value_loss + critic_loss + actor_loss, metrics | extra

    def actor_loss(self, weights: Tensor, errors: Tensor, source_rows: int) -> Tensor:
        """Return the mean over rows [*lead] of weighted errors [*lead, B], in which target rows have their share."""
        return mean_of_domains(weights * errors, source_rows, self.settings.target_share)

    def targets(self, params: Mapping[str, Params], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the critics' regression targets r + gamma m V(s') [*lead, B], and further metrics.

        Args:
            params: As `loss` gets them.
            batch: Likewise, its rewards scaled.
        """
        free = value(params["value"], batch.next_observations)
        targets = batch.rewards + self.settings.discount * batch.continues * self.bounded(params, free)
        return targets, self.outside(params, free)

    def critic_loss(self, params: Mapping[str, Params], errors: Tensor, batch: Batch) -> Tensor:
        """Return the loss [*lead] of errors [*lead, 2, B]: squared, mean over rows, sum over critics."""
        del params, batch
        return errors.square().mean(-1).sum(-1)
