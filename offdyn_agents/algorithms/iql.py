"""Implicit Q-learning (Kostrikov et al., 2022) on target rows, source rows or both.

One update computes every part from the parameters before it: V's expectile regression towards the averaged critics,
the critics' regression towards r + gamma V(s'), and the advantage-weighted regression of the actor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from offdyn_agents.engine.agent import Agent, AgentSettings
from offdyn_agents.engine.networks import Network, Params, policy, twin, value
from offdyn_agents.engine.rows import Batch
from offdyn_agents.engine.settings import setting

__all__ = ["IQL", "IQLSettings", "expectile_loss"]


@dataclass(frozen=True)
class IQLSettings(AgentSettings):
    """Settings of IQL.

    Attributes:
        discount: gamma.
        polyak: Share of the critics that enters their averaged copies at each update.
        expectile: tau of V's regression.
        temperature: Inverse temperature of the advantage weights.
        weight_clip: Largest advantage weight.
    """

    discount: float = setting(0.99, low=0.0, high=1.0)
    polyak: float = setting(0.005, low=0.0, high=1.0)
    expectile: float = setting(0.7, low=0.0, high=1.0, open_low=True, per_run=True)
    temperature: float = setting(3.0, low=0.0, per_run=True)
    weight_clip: float = setting(100.0, low=0.0, open_low=True, infinite=True)


def expectile_loss(differences: Tensor, expectile: float | Tensor) -> Tensor:
    """Return |tau - 1(d < 0)| d^2 elementwise."""
    weights = torch.where(differences > 0, expectile, 1.0 - expectile)
    return weights * differences.square()


class IQL(Agent):
    """IQL with twin critics, a state value and a tanh-squashed mean as its actor."""

    name = "iql"
    settings_class = IQLSettings
    settings: IQLSettings
    metrics = ("value_loss", "critic_loss", "actor_loss", "q", "v", "weight")
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

    def loss(self, params: Mapping[str, Params], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the value, critic and actor losses; see `Agent.loss`."""
        with torch.no_grad():
            best = twin(params["critic_target"], batch.observations, batch.actions).amin(-2)
            targets, extra = self.targets(params, batch)
        v = value(params["value"], batch.observations)
        value_loss = expectile_loss(best - v, self.number(params, "expectile", 1)).mean(-1)
        q = twin(params["critic"], batch.observations, batch.actions)
        critic_loss = self.critic_loss(params, targets.unsqueeze(-2) - q, batch.source_rows)
        sharpened = self.number(params, "temperature", 1) * (best - v.detach())
        weights = torch.exp(sharpened).clamp(max=self.settings.weight_clip)
        errors = (policy(params["actor"], batch.observations) - batch.actions).square().mean(-1)
        actor_loss = (weights * errors).mean(-1)
        parts = (value_loss, critic_loss, actor_loss, q.mean((-2, -1)), v.mean(-1), weights.mean(-1))
        metrics = {name: part.detach() for name, part in zip(IQL.metrics, parts, strict=True)}
        return value_loss + critic_loss + actor_loss, metrics | extra

    def targets(self, params: Mapping[str, Params], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the critics' regression targets r + gamma m V(s') [*lead, B], and further metrics."""
        v_next = value(params["value"], batch.next_observations)
        return batch.rewards + self.settings.discount * batch.continues * v_next, {}

    def critic_loss(self, params: Mapping[str, Params], errors: Tensor, source_rows: int) -> Tensor:
        """Return the loss [*lead] of errors [*lead, 2, B]: squared, mean over rows, sum over critics."""
        del params, source_rows
        return errors.square().mean(-1).sum(-1)
