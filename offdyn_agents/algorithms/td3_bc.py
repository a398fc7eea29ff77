"""TD3 with a behaviour-cloning term (Fujimoto and Gu, 2021): a deterministic actor that stays close to the data.

    L_Q  = sum_j mean (r + gamma m min_j Q'_j(s', a') - Q_j(s, a))^2,     a' = clip(pi'(s') + clip(noise))
    L_pi = mean (pi(s) - a)^2 - lambda mean Q_1(s, pi(s)),                lambda = alpha / mean |Q_1(s, pi(s))|

Q' and pi' are averaged copies, and only every second update trains the actor, as in TD3. One update computes every
part from the parameters before it: the actor is judged by the critic as it was before the critic's step of the same
update.

Ours departs in two things: min Q' is clipped to what the data's rewards allow (`value_bounds=none` is published), and
states of two domains together are not standardised (`normalise=true` is, as published for one).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offdyn_agents.algorithms.returns import beyond, clipped, told, value_facts
from offdyn_agents.engine.agent import Agent, AgentSettings
from offdyn_agents.engine.networks import Network, Params, detached, mlp, policy, twin
from offdyn_agents.engine.rows import Batch
from offdyn_agents.engine.settings import setting

if TYPE_CHECKING:
    from offdyn_agents.engine.stages import StageContext

__all__ = ["TD3BC", "TD3BCSettings", "folded", "state_moments"]


@dataclass(frozen=True)
class TD3BCSettings(AgentSettings):
    """Settings of TD3-BC.

    Attributes:
        discount: gamma.
        polyak: Share of critics and actor that enters their averaged copies, at the updates that train the actor.
        alpha: Weight of the normalised Q against the cloning term.
        target_noise: Standard deviation of the noise on target actions.
        target_noise_clip: Its bound.
        actor_delay: Updates of the critics for each one of the actor.
        value_bounds: "rewards" clips min Q'(s', a') to [min(0, smallest reward), max(0, largest)] / (1 - gamma); "none"
            does not, as published: values then run away where the merged dynamics disagree (ant).
        normalise: Standardise states with the moments of the rows (the single-domain form, which the preset has for
            rows of one domain); they are folded into the networks that are exported.
        normalise_eps: Added to the standard deviations.
    """

    discount: float = setting(0.99, low=0.0, high=1.0)
    polyak: float = setting(0.005, low=0.0, high=1.0)
    alpha: float = setting(2.5, low=0.0, per_run=True)
    target_noise: float = setting(0.2, low=0.0)
    target_noise_clip: float = setting(0.5, low=0.0)
    actor_delay: int = setting(2, low=1)
    value_bounds: str = setting("rewards", choices=("rewards", "none"))
    normalise: bool = setting(False)
    normalise_eps: float = setting(1e-3, low=0.0)


def folded(network: Params, mean: Tensor, std: Tensor) -> Params:
    """Return the network f with f(x) = network((x - mean) / std) in the first inputs.

    Args:
        network: Its parameters, W0 [*lead, in, out].
        mean: Of the first k inputs, [*lead, 1, k], or with axes of size one that broadcast against lead.
        std: Likewise.
    """
    first, bias, *rest = network
    size = mean.shape[-1]
    scaled = first[..., :size, :] / std.mT
    return [torch.cat([scaled, first[..., size:, :]], dim=-2), bias - mean @ scaled, *rest]


def state_moments(context: StageContext, eps: float) -> Params:
    """Return mean and standard deviation, plus eps, of the states of all rows, [runs, 1, |S|] each."""
    states, *_ = context.layout.split(torch.cat([context.source, context.target]))
    mean, std = states.mean(0), states.std(0, correction=0) + eps
    return [t.expand(len(context.seeds), 1, -1).clone() for t in (mean, std)]


class TD3BC(Agent):
    """Twin critics and a tanh actor, each with an averaged copy."""

    name = "td3-bc"
    family = "model-free"
    settings_class = TD3BCSettings
    settings: TD3BCSettings
    metrics = ("critic_loss", "actor_loss", "q", "cloning", "outside")
    optional = ("outside",)
    averaged = ("critic", "actor")

    @property
    def polyak(self) -> float:
        """Share of the networks that enters their averaged copies."""
        return self.settings.polyak

    @property
    def phases(self) -> tuple[str, ...]:
        """The critics' updates and, every so many, one of both."""
        return ("critic",) * (self.settings.actor_delay - 1) + ("both",)

    @property
    def noise_width(self) -> int:
        """One number for each dimension of a target action."""
        return self.action_dim

    def networks(self) -> dict[str, Network]:
        """Return twin critics and actor."""
        s, a = self.observation_dim, self.action_dim
        return {"critic": self.hidden(s + a, 1, copies=2), "actor": self.hidden(s, a)}

    def trained(self, phase: str) -> tuple[str, ...]:
        """Return the networks that an update of a phase changes."""
        return ("critic",) if phase == "critic" else ("critic", "actor")

    def averaging(self, phase: str) -> tuple[str, ...]:
        """Return the networks whose copies move: all, with the actor's updates."""
        return () if phase == "critic" else self.averaged

    def facts(self, context: StageContext) -> dict[str, Params]:
        """Return the moments of all states and the bounds of values, where they are wanted."""
        settings, frozen = self.settings, dict[str, Params]()
        if settings.value_bounds == "rewards":
            frozen |= value_facts(context, scaled=False, bounded=True, discount=settings.discount)
        if settings.normalise:
            frozen["moments"] = state_moments(context, settings.normalise_eps)
        return frozen

    def told(self, facts: Mapping[str, Params]) -> dict[str, Any]:
        """Return the bounds of values."""
        return told(facts)

    def deterministic(self, params: Mapping[str, Params]) -> Params:
        """Return the actor of states as they come."""
        return folded(params["actor"], *params["moments"]) if self.settings.normalise else params["actor"]

    def exported(self, params: Mapping[str, Params]) -> dict[str, Params]:
        """Return critics and actor of states as they come."""
        found = super().exported(params)
        if self.settings.normalise:
            mean, std = (tensor.unsqueeze(-3) for tensor in params["moments"])
            found["critic"] = folded(params["critic"], mean, std)
        return found

    def loss(self, params: Mapping[str, Params], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the critics' loss, in the phase "both" with the actor's; see `Agent.loss`."""
        states, following = (self._states(params, t) for t in (batch.observations, batch.next_observations))
        with torch.no_grad():
            targets, metrics = self._targets(params, batch, following)
        q = twin(params["critic"], states, batch.actions)
        critic_loss = self.critic_loss(params, q, targets, batch)
        metrics |= {"critic_loss": critic_loss, "q": q.mean((-2, -1))}
        loss = critic_loss
        if batch.phase == "both":
            actions = policy(params["actor"], states)
            # The first critic alone judges the actor, as in TD3.
            judge = [tensor[..., 0, :, :] for tensor in detached(params["critic"])]
            value = mlp(judge, torch.cat([states, actions], dim=-1)).squeeze(-1)
            weight = self.number(params, "alpha") / value.detach().abs().mean(-1)
            near = self.near(params, batch, actions)
            actor_loss = near - weight * value.mean(-1)
            metrics |= {"actor_loss": actor_loss, self.metrics[3]: near}
            loss = loss + actor_loss
        return loss, {name: metric.detach() for name, metric in metrics.items()}

    def critic_loss(self, params: Mapping[str, Params], q: Tensor, targets: Tensor, batch: Batch) -> Tensor:
        """Return the loss [*lead] of values [*lead, 2, B] and targets [*lead, B]: mean over rows, sum over critics."""
        del params, batch
        return (targets.unsqueeze(-2) - q).square().mean(-1).sum(-1)

    def near(self, params: Mapping[str, Params], batch: Batch, actions: Tensor) -> Tensor:
        """Return what keeps actions [*lead, B, |A|] near the data, [*lead]: their squared distance from its own."""
        del params
        return (actions - batch.actions).square().mean((-2, -1))

    def _states(self, params: Mapping[str, Params], observations: Tensor) -> Tensor:
        if not self.settings.normalise:
            return observations
        mean, std = params["moments"]
        return (observations - mean) / std

    def _targets(
        self, params: Mapping[str, Params], batch: Batch, following: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return r + gamma m min Q'(s', clip(pi'(s') + clip(noise))) [*lead, B], and metrics."""
        assert batch.noise is not None
        settings = self.settings
        drawn = batch.noise[..., : self.action_dim]
        noise = (settings.target_noise * drawn).clamp(-settings.target_noise_clip, settings.target_noise_clip)
        actions = (policy(params["actor_target"], following) + noise).clamp(-1.0, 1.0)
        values = twin(params["critic_target"], following, actions).amin(-2)
        metrics = dict[str, Tensor]()
        if settings.value_bounds == "rewards":
            metrics["outside"] = beyond(params, values)
            values = clipped(params, values)
        return batch.rewards + settings.discount * batch.continues * values, metrics
