"""Soft actor-critic (Haarnoja et al., 2018) on stored rows: the policy of MOPO, MOBILE and MOREC.

Twin critics, a tanh-squashed Gaussian whose standard deviation depends on the state, and a temperature that is trained
towards the entropy -|A|. One update computes every part from the parameters before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from offdyn_agents.engine.agent import Agent, AgentSettings
from offdyn_agents.engine.networks import Constant, Network, Params, detached, mlp, twin
from offdyn_agents.engine.rows import Batch
from offdyn_agents.engine.settings import setting

__all__ = ["SAC", "SACSettings", "gaussian", "squash", "squashed"]

LOG_STD = (-5.0, 2.0)
HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class SACSettings(AgentSettings):
    """Settings of soft actor-critic.

    Attributes:
        discount: gamma.
        polyak: Share of the critics that enters their averaged copies at each update.
        actor_rate: Adam's step size of the actor, annealed to 0; `learning_rate` is that of the critics.
        alpha_rate: Adam's step size of the temperature's logarithm.
        auto_alpha: Train the temperature towards the entropy -|A|, starting at 1 and never above it.
        alpha: The temperature where it is not trained.
        deterministic_backup: Leave the entropy out of the critics' targets.
        actor_critics: Critics that judge the actor: those that are trained ("online") or their averaged copies
            ("target").
    """

    discount: float = setting(0.99, low=0.0, high=1.0)
    polyak: float = setting(0.005, low=0.0, high=1.0)
    actor_rate: float = setting(1e-4, low=0.0, open_low=True)
    alpha_rate: float = setting(1e-4, low=0.0, open_low=True)
    auto_alpha: bool = setting(True)
    alpha: float = setting(0.2, low=0.0)
    deterministic_backup: bool = setting(False)
    actor_critics: str = setting("online", choices=("online", "target"))


def gaussian(actor: Params, observations: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log standard deviation [*lead, B, |A|] before squashing, for observations [*lead, B, |S|]."""
    mean, log_std = mlp(actor, observations).chunk(2, dim=-1)
    return mean, log_std.clamp(*LOG_STD)


def squashed(actor: Params, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draw actions.

    Args:
        actor: Mean and log standard deviation, with leading axes [*lead].
        observations: [*lead, B, |S|].
        noise: Standard normal numbers [*lead, B, |A|].

    Returns:
        Actions tanh(u) [*lead, B, |A|] with u = mean + std * noise, and their log density [*lead, B].
    """
    return squash(*gaussian(actor, observations), noise)


def squash(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return actions tanh(mean + std * noise) [..., |A|] and their log density [...]; shapes broadcast."""
    raw = mean + log_std.exp() * noise
    # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u)), which keeps its digits where tanh(u) rounds to 1.
    slope = 2.0 * (math.log(2.0) - raw - functional.softplus(-2.0 * raw))
    density = -0.5 * noise.square() - log_std - HALF_LOG_2PI - slope
    return torch.tanh(raw), density.sum(-1)


class SAC(Agent):
    """Twin critics, a tanh-Gaussian actor and its temperature.

    A row's noise holds the next action's numbers first, |A| of them, then those of the present action.
    """

    name = "sac"
    family = "model-free"
    settings_class = SACSettings
    settings: SACSettings
    metrics = ("critic_loss", "actor_loss", "q", "alpha", "entropy")
    averaged = ("critic",)
    annealed = ("actor",)
    most_alpha: ClassVar[float] = 1.0
    """What a trained temperature never exceeds."""

    @property
    def noise_width(self) -> int:
        """Standard normal numbers that a row needs."""
        return 2 * self.action_dim

    @property
    def polyak(self) -> float:
        """Share of the critics that enters their averaged copies."""
        return self.settings.polyak

    @property
    def rates(self) -> dict[str, float]:
        """Step sizes that differ from `learning_rate`."""
        return {"actor": self.settings.actor_rate, "alpha": self.settings.alpha_rate}

    def networks(self) -> dict[str, Network | Constant]:
        """Return twin critics, actor and, where it is trained, the temperature's logarithm."""
        s, a = self.observation_dim, self.action_dim
        networks: dict[str, Network | Constant] = {
            "critic": self.hidden(s + a, 1, copies=2),
            "actor": self.hidden(s, 2 * a),
        }
        return networks | ({"alpha": Constant()} if self.settings.auto_alpha else {})

    def deterministic(self, params: Mapping[str, Params]) -> Params:
        """Return the network of the mean: the actor without the outputs for the standard deviation."""
        *hidden, weight, bias = params["actor"]
        return [*hidden, weight[..., : self.action_dim], bias[..., : self.action_dim]]

    def loss(self, params: Mapping[str, Params], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the critic, actor and temperature losses; see `Agent.loss`."""
        assert batch.noise is not None
        with torch.no_grad():
            alpha = self.temperature(params)
            targets, extra = self.targets(params, batch, alpha)
        q = twin(params["critic"], batch.observations, batch.actions)
        critic_loss = (targets.unsqueeze(-2) - q).square().mean(-1).sum(-1)
        judges = [
            t.detach() for t in params[{"online": "critic", "target": "critic_target"}[self.settings.actor_critics]]
        ]
        noise = batch.noise[..., self.action_dim : 2 * self.action_dim]
        actions, density = self.draw(params, batch.observations, noise)
        value = twin(detached(judges), batch.observations, actions).amin(-2)
        actor_loss = (alpha * density - value).mean(-1)
        entropy = -density.detach().mean(-1)
        loss = critic_loss + actor_loss
        if self.settings.auto_alpha:
            loss = loss + params["alpha"][0] * (entropy + self.action_dim)
        parts = (critic_loss, actor_loss, q.mean((-2, -1)), alpha.squeeze(-1).expand_as(loss), entropy)
        return loss, {name: part.detach() for name, part in zip(SAC.metrics, parts, strict=True)} | extra

    def law(self, params: Mapping[str, Params], observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation [*lead, B, |A|] of actions before squashing."""
        return gaussian(params["actor"], observations)

    def draw(self, params: Mapping[str, Params], observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the policy's actions [*lead, B, |A|] and log densities [*lead, B] for noise [*lead, B, |A|]."""
        return squash(*self.law(params, observations), noise)

    def temperature(self, params: Mapping[str, Params]) -> Tensor:
        """Return alpha with an axis for rows, [*lead, 1]."""
        if not self.settings.auto_alpha:
            return params["actor"][0].new_full((1,), self.settings.alpha)
        return params["alpha"][0].exp().clamp(max=self.most_alpha).unsqueeze(-1)

    def targets(self, params: Mapping[str, Params], batch: Batch, alpha: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the critics' targets r + gamma m (min Q'(s', a') - alpha log pi(a'|s')) and further metrics.

        Args:
            params: As in `loss`.
            batch: Likewise.
            alpha: The temperature, [*lead, 1].

        Returns:
            Targets [*lead, B]; tensors [*lead] by name.
        """
        assert batch.noise is not None
        values, density = self.judged(params, batch.next_observations, batch.noise[..., : self.action_dim])
        values = self.bounded(params, values)
        if not self.settings.deterministic_backup:
            values = values - alpha * density
        return batch.rewards + self.settings.discount * batch.continues * values, {}

    def judged(self, params: Mapping[str, Params], states: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return min Q' [*lead, B] of actions that the policy takes in states [*lead, B, |S|], and log densities."""
        actions, density = self.draw(params, states, noise)
        return twin(params["critic_target"], states, actions).amin(-2), density

    def bounded(self, params: Mapping[str, Params], values: Tensor) -> Tensor:
        """Return next values [*lead, B] inside the bounds that a method gives them, by default none."""
        del params
        return values
