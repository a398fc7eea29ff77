"""Behaviour cloning, by default on target rows: the baseline in every table.

L_pi = mean (tanh f(s) - a)^2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from offdyn_agents.engine.agent import DATA_CHOICES, Agent, AgentSettings
from offdyn_agents.engine.networks import Network, Params, policy
from offdyn_agents.engine.rows import Batch
from offdyn_agents.engine.settings import setting

__all__ = ["BC", "BCSettings"]


@dataclass(frozen=True)
class BCSettings(AgentSettings):
    """Settings of behaviour cloning.

    Attributes:
        data: Rows to imitate; only the target's, unless told otherwise.
    """

    data: str = setting("target", choices=DATA_CHOICES)


class BC(Agent):
    """A tanh-squashed mean fitted to the actions by least squares."""

    name = "bc"
    family = "cloning"
    settings_class = BCSettings
    settings: BCSettings
    metrics = ("actor_loss",)
    annealed = ("actor",)

    def networks(self) -> dict[str, Network]:
        """Return the actor."""
        return {"actor": self.hidden(self.observation_dim, self.action_dim)}

    def loss(self, params: Mapping[str, Params], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean over rows and action dimensions of (tanh(mu(s)) - a)^2; see `Agent.loss`."""
        loss = (policy(params["actor"], batch.observations) - batch.actions).square().mean((-2, -1))
        return loss, {"actor_loss": loss.detach()}
