"""CQL (Kumar et al., NeurIPS 2020): soft actor-critic with conservative critics outside the data.

    Q_j <- argmin E (y - Q_j(s, a))^2 + w E [T log sum_i exp(q_i / T) - Q_j(s, a)],    y = r + gamma m min Q'(s', a'),

over 30 actions u_i of each row with q_i = Q_j(s, u_i) - log p(u_i): 10 uniform ones, of density 1 / 2^|A|, 10 that the
policy takes in s and 10 that it takes in s'. Actor and temperature are SAC's. w = 0 is SAC.

Networks and numbers are those of CORL, whose scores are the ones that are known: three hidden layers, orthogonal
critics, a log standard deviation with a trained scale and offset, standardised states. Two things differ, and not in
`form=paper`: the actor has two hidden layers, as that of all other agents, so that it fits an entry of the leaderboard;
and the conservative term is computed at every fourth row of a batch, which leaves its expectation. On two domains the
rows are merged (CQL* of the papers). `form=code` is the cross-domain repository's: the conservative term on source rows
alone, all of them, two hidden layers, a fixed temperature whose entropy enters y, states as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import init

from offdyn_agents.algorithms.returns import reward_scale, unscaled, value_facts
from offdyn_agents.algorithms.sac import SAC, SACSettings, squash
from offdyn_agents.algorithms.td3_bc import folded, state_moments
from offdyn_agents.engine.networks import Constant, Network, Params, mlp, twin
from offdyn_agents.engine.rows import Batch, every
from offdyn_agents.engine.settings import setting
from offdyn_envs.errors import OffDynError

if TYPE_CHECKING:
    from offdyn_agents.engine.stages import StageContext

__all__ = ["CQL", "CQLSettings"]

EACH = 10
"""Sampled actions of each of the three kinds."""
LOG_STD = (-20.0, 2.0)
HIDDEN_LAYERS = {"short-actor": (3, 2), "corl": (3, 3)}
"""Of CORL's critics and actor."""
LAST_GAIN = 1e-2


@dataclass(frozen=True)
class CQLSettings(SACSettings):
    """Settings of CQL.

    Attributes:
        weight: w; 0 leaves SAC.
        temperature: T of the conservative term.
        conservative_on: Rows of the conservative term: "all", or those of the "source" alone.
        conservative_every: The term is computed at every so-many-th of these rows: its mean over them has the
            expectation of that over all, for that share of the cost. 1 takes every row.
        networks: "corl" for three hidden layers, CORL's initial values and a log standard deviation with a trained
            scale and offset; "short-actor" for the same with two hidden layers of the actor; "plain" for the networks
            of the other agents.
        normalise: Standardise states with the moments of the rows; they are folded into the networks that are exported.
        normalise_eps: Added to the standard deviations.
        reward_scale: "returns" multiplies rewards with 1000 / (largest - smallest return of an episode), at most 1, as
            CORL does on hopper's medium data alone; "none" leaves them as they are.
        actor_rate: Adam's step size of the actor; never annealed.
        alpha_rate: Adam's step size of the temperature's logarithm.
        deterministic_backup: Leave the entropy out of y.
    """

    weight: float = setting(10.0, low=0.0)
    temperature: float = setting(1.0, low=0.0, open_low=True)
    conservative_on: str = setting("all", choices=("all", "source"))
    conservative_every: int = setting(4, low=1)
    networks: str = setting("short-actor", choices=("short-actor", "corl", "plain"))
    normalise: bool = setting(True)
    normalise_eps: float = setting(1e-3, low=0.0)
    reward_scale: str = setting("none", choices=("none", "returns"))
    actor_rate: float = setting(3e-5, low=0.0, open_low=True)
    alpha_rate: float = setting(3e-5, low=0.0, open_low=True)
    deterministic_backup: bool = setting(True)

    def __post_init__(self) -> None:
        """Refuse a conservative term on rows that a batch has none of."""
        if self.conservative_on == "source" and self.data not in ("merged", "source"):
            raise OffDynError(
                f"setting conservative_on is 'source', which data={self.data} has no rows of; "
                "conservative_on=all is allowed"
            )


@dataclass(frozen=True)
class CORLNetwork(Network):
    """A network of small first answers.

    Attributes:
        orthogonal: Orthogonal weights, sqrt(2) in hidden layers, and no biases; otherwise only the last layer differs
            from PyTorch's own, by Xavier's bound times .01.
    """

    orthogonal: bool = False

    def initial(self, generator: torch.Generator) -> Params:
        """Return one run's parameters, drawn on the CPU."""
        params = super().initial(generator)
        *hidden, last, bias = params
        bias.zero_()
        for matrix in last.reshape(-1, *last.shape[-2:]):
            draw = init.orthogonal_ if self.orthogonal else init.xavier_uniform_
            draw(matrix, LAST_GAIN, generator)
        if self.orthogonal:
            for weight in hidden[::2]:
                for matrix in weight.reshape(-1, *weight.shape[-2:]):
                    init.orthogonal_(matrix, math.sqrt(2.0), generator)
            for tensor in hidden[1::2]:
                tensor.zero_()
        return params


class CQL(SAC):
    """SAC with the conservative term.

    A row's noise goes on after SAC's with [30, |A|] numbers: uniform actions, then those of s, then those of s'.
    """

    name = "cql"
    settings_class = CQLSettings
    settings: CQLSettings  # pyright: ignore[reportIncompatibleVariableOverride]
    metrics = (*SAC.metrics, "conservative")
    annealed = ()
    most_alpha = math.inf

    @property
    def noise_width(self) -> int:
        """Standard normal numbers that a row needs."""
        return super().noise_width + (3 * EACH * self.action_dim if self.settings.weight else 0)

    @property
    def deep(self) -> bool:
        """Whether networks are CORL's, the actor's depth aside."""
        return self.settings.networks in HIDDEN_LAYERS

    @property
    def rates(self) -> dict[str, float]:
        """Step sizes that differ from `learning_rate`."""
        rate = self.settings.actor_rate
        return super().rates | ({"log_std_scale": rate, "log_std_offset": rate} if self.deep else {})

    def networks(self) -> dict[str, Network | Constant]:
        """Return SAC's networks, in CORL's shapes with the scale and offset of the log standard deviation."""
        found = super().networks()
        if not self.deep:
            return found
        s, a = self.observation_dim, self.action_dim
        critic, actor = ((self.settings.width,) * layers for layers in HIDDEN_LAYERS[self.settings.networks])
        return found | {
            "critic": CORLNetwork((s + a, *critic, 1), copies=2, orthogonal=True),
            "actor": CORLNetwork((s, *actor, 2 * a)),
            "log_std_scale": Constant(1.0),
            "log_std_offset": Constant(-1.0),
        }

    def law(self, params: Mapping[str, Params], observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation [*lead, B, |A|] of actions before squashing."""
        mean, log_std = mlp(params["actor"], observations).chunk(2, dim=-1)
        if self.deep:
            scale, offset = (params[name][0][..., None, None] for name in ("log_std_scale", "log_std_offset"))
            log_std = scale * log_std + offset
        return mean, log_std.clamp(*LOG_STD)

    def facts(self, context: StageContext) -> dict[str, Params]:
        """Return the moments of all states and the scale of rewards, where they are wanted."""
        settings, found = self.settings, dict[str, Params]()
        if settings.normalise:
            found["moments"] = state_moments(context, settings.normalise_eps)
        if settings.reward_scale == "returns":
            found |= value_facts(context, scaled=True, bounded=False, discount=settings.discount)
        return found

    def scale(self, params: Mapping[str, Params], axes: int = 0) -> Tensor | float:
        """Return what rewards are multiplied with, [*lead] and so many axes of size one."""
        return reward_scale(params, axes) if self.settings.reward_scale == "returns" else 1.0

    def loss(self, params: Mapping[str, Params], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return SAC's loss and the weighted conservative term; see `Agent.loss`."""
        batch = self._seen(params, batch)
        loss, metrics = super().loss(params, batch)
        term = self.conservative(params, batch) if self.settings.weight else torch.zeros_like(loss)
        metrics |= {"q": metrics["q"] / self.scale(params), "conservative": term.detach()}
        return loss + self.settings.weight * term, metrics

    def conservative(self, params: Mapping[str, Params], batch: Batch) -> Tensor:
        """Return mean [T log sum_i exp(q_i / T) - Q(s, a)], summed over critics, [*lead]."""
        assert batch.noise is not None
        # Source rows come first.
        count = batch.source_rows if self.settings.conservative_on == "source" else batch.actions.shape[-2]
        states, following, own, noise = (
            every(rows[..., :count, :], self.settings.conservative_every)
            for rows in (batch.observations, batch.next_observations, batch.actions, batch.noise)
        )
        with torch.no_grad():
            actions, density = self._samples(params, states, following, noise[..., super().noise_width :])
        repeated = states.unsqueeze(-2).expand(*actions.shape[:-1], states.shape[-1])
        q = twin(params["critic"], repeated.flatten(-3, -2), actions.flatten(-3, -2))
        q = q.unflatten(-1, (-1, 3 * EACH)) - density.unsqueeze(-3)
        heat = self.settings.temperature
        high = heat * torch.logsumexp(q / heat, dim=-1)
        return (high - twin(params["critic"], states, own)).mean(-1).sum(-1)

    def _samples(
        self, params: Mapping[str, Params], states: Tensor, following: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return 30 actions [*lead, B, 30, |A|] for each row and the logarithms of their densities [*lead, B, 30]."""
        uniform, *noises = noise.unflatten(-1, (3 * EACH, self.action_dim)).split(EACH, dim=-2)
        # The normal distribution function takes normal numbers to uniform ones.
        actions = [torch.erf(uniform / math.sqrt(2.0))]
        densities = [torch.full_like(uniform[..., 0], -self.action_dim * math.log(2.0))]
        for some, drawn in zip((states, following), noises, strict=True):
            mean, log_std = self.law(params, some)
            found, density = squash(mean.unsqueeze(-2), log_std.unsqueeze(-2), drawn)
            actions.append(found)
            densities.append(density)
        return torch.cat(actions, dim=-2), torch.cat(densities, dim=-1)

    def _seen(self, params: Mapping[str, Params], batch: Batch) -> Batch:
        """Return a batch with scaled rewards and standardised states, where that is wanted."""
        batch = batch._replace(rewards=batch.rewards * self.scale(params, 1))
        if not self.settings.normalise:
            return batch
        mean, std = params["moments"]
        states, following = ((part - mean) / std for part in (batch.observations, batch.next_observations))
        return batch._replace(observations=states, next_observations=following)

    def deterministic(self, params: Mapping[str, Params]) -> Params:
        """Return the network of the mean, of states as they come."""
        mean = super().deterministic(params)
        return folded(mean, *params["moments"]) if self.settings.normalise else mean

    def exported(self, params: Mapping[str, Params]) -> dict[str, Params]:
        """Return the networks of states as they come, critics in the units of the data's rewards."""
        found = super().exported(params)
        critic = unscaled(params, found["critic"]) if self.settings.reward_scale == "returns" else found["critic"]
        if self.settings.normalise:
            critic = folded(critic, *(tensor.unsqueeze(-3) for tensor in params["moments"]))
        return found | {"critic": critic}
