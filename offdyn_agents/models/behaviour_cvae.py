"""Conditional variational autoencoders, and the density of actions under one: who the data's behaviour was.

    z ~ q(z | x, y) = N(mean, std),      y' = decoder(x, z),      loss = mean (y - y')^2 + kl mean KL(q || N(0, 1)),

with a latent of twice the dimensions of y, and a density from samples of the encoder,

    log p(y | x) = log sum_k N(y; decoder(x, z_k), variance) [N(z_k; 0, 1) / q(z_k | x, y) / L].

What is in brackets makes it an estimate of the density (`importance`); OTDF's public code leaves it out. As behaviour
policies x = s and y = a, with a tanh behind the decoder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from offdyn_agents.engine.networks import Network, Params, mlp, stack
from offdyn_agents.engine.settings import setting
from offdyn_agents.engine.stage_cache import Fitted
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.models.short_training import Nets, ShortTraining, fit

__all__ = ["CVAE", "DECODER", "ENCODER", "CVAESettings", "behaviour", "fit_behaviour", "frozen", "unfrozen"]

ENCODER, DECODER = "encoder", "decoder"
VARIANCE = 0.1
"""Of actions about the decoder's: .4 / 4, as public code has it."""
LOG_STD = (-4.0, 15.0)
"""Between what the logarithms of the encoder's standard deviations are kept."""


@dataclass(frozen=True)
class CVAESettings:
    """How an autoencoder is trained.

    Attributes:
        updates: Steps of Adam.
        batch_size: Rows of a batch, of each dataset that it learns from.
        width: Width of the two hidden layers of encoder and decoder.
        learning_rate: Adam's step size.
        kl: Weight of the KL divergence.
    """

    updates: int = setting(10_000, low=1)
    batch_size: int = setting(128, low=1)
    width: int = setting(750, low=1)
    learning_rate: float = setting(1e-3, low=0.0, open_low=True)
    kl: float = setting(0.5, low=0.0)


@dataclass(frozen=True)
class CVAE:
    """The shape of one autoencoder, and its mathematics.

    Attributes:
        given: |x|.
        wanted: |y|.
        width: Width of the two hidden layers.
        bounded: Whether a tanh follows the decoder.
        copies: Number of them that are evaluated together, 0 for a single one without that axis.
        variance: Of y about the decoder's answer, in `log_density`.
    """

    given: int
    wanted: int
    width: int
    bounded: bool = True
    copies: int = 0
    variance: float = VARIANCE

    @property
    def latent(self) -> int:
        """Dimensions of z."""
        return 2 * self.wanted

    def networks(self) -> dict[str, Network]:
        """Return encoder and decoder."""
        hidden = (self.width, self.width)
        return {
            ENCODER: Network((self.given + self.wanted, *hidden, 2 * self.latent), self.copies),
            DECODER: Network((self.given + self.latent, *hidden, self.wanted), self.copies),
        }

    def encode(self, params: Params, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation of z, [*lead, n, 2|y|] each, of x [*lead, n, |x|] and y likewise."""
        mean, log_std = mlp(params, torch.cat([x, y], dim=-1)).chunk(2, dim=-1)
        return mean, log_std.clamp(*LOG_STD)

    def decode(self, params: Params, x: Tensor, z: Tensor) -> Tensor:
        """Return y' [*lead, n, |y|] for x [*lead, n, |x|] and z [*lead, n, 2|y|]."""
        found = mlp(params, torch.cat([x, z], dim=-1))
        return torch.tanh(found) if self.bounded else found

    def loss(self, params: Nets, x: Tensor, y: Tensor, noise: Tensor, kl: float) -> Tensor:
        """Return the loss of batches x, y and standard normal noise [*lead, n, 2|y|]; of several copies the sum."""
        mean, log_std = self.encode(params[ENCODER], x, y)
        found = self.decode(params[DECODER], x, mean + log_std.exp() * noise)
        divergence = 0.5 * (mean.square() + (2.0 * log_std).exp() - 2.0 * log_std - 1.0)
        return ((found - y).square().mean((-2, -1)) + kl * divergence.mean((-2, -1))).sum()

    def log_density(self, params: Nets, x: Tensor, y: Tensor, noise: Tensor, importance: bool = True) -> Tensor:
        """Return log p(y | x) [*lead, n] of x [*lead, n, |x|], y [*lead, n, |y|] by samples of the encoder.

        Args:
            params: Encoder and decoder.
            x: What is given.
            y: What the density is of.
            noise: Standard normal numbers [*lead, n, L * 2|y|].
            importance: Whether samples are weighed by prior over posterior, and averaged rather than added.
        """
        count = noise.shape[-1] // self.latent
        mean, log_std = (part.unsqueeze(-2) for part in self.encode(params[ENCODER], x, y))
        noises = noise.unflatten(-1, (count, self.latent)).expand(*mean.shape[:-2], count, self.latent)
        z = mean + log_std.exp() * noises
        many = x.unsqueeze(-2).expand(*z.shape[:-1], self.given)
        decoded = self.decode(params[DECODER], many.flatten(-3, -2), z.flatten(-3, -2)).unflatten(-2, z.shape[-3:-1])
        spread = 2.0 * math.pi * self.variance
        found = -0.5 * ((y.unsqueeze(-2) - decoded).square() / self.variance + math.log(spread)).sum(-1)
        if not importance:
            return found.logsumexp(-1)
        ratio = (0.5 * (noises.square() - z.square()) + log_std).sum(-1)
        return (found + ratio).logsumexp(-1) - math.log(count)


def behaviour(settings: CVAESettings, observation_dim: int, action_dim: int) -> CVAE:
    """Return the autoencoder of actions given states."""
    return CVAE(observation_dim, action_dim, settings.width)


def fit_behaviour(settings: CVAESettings, context: StageContext, *, merged: bool) -> Fitted[Nets]:
    """Train or find the behaviour policy of each seed, and tell which of them diverged.

    Args:
        settings: How.
        context: Rows, seeds, cache and hardware.
        merged: Whether of both datasets, half of a batch each; else of the target's.
    """
    layout, size = context.layout, settings.batch_size
    model = behaviour(settings, layout.observation_dim, layout.action_dim)
    source = size if merged else 0

    def loss(params: Nets, some: Tensor, more: Tensor, noises: list[Tensor]) -> Tensor:
        states, actions, *_ = layout.split(torch.cat([some, more]))
        return model.loss(params, states, actions, noises[0], settings.kl)

    noises = ((source + size, model.latent),)
    rates = (settings.updates, source, size, settings.learning_rate)
    return fit(ShortTraining("behaviour", "behaviour", model.networks(), loss, *rates, noises), settings, context)


def frozen(found: Fitted[Nets], prefix: str) -> dict[str, Params]:
    """Return the networks of all seeds as a loss reads them, [runs, ...], each name behind a prefix."""
    return {f"{prefix}_{name}": stack([nets[name] for nets in found]) for name in found[0]}


def unfrozen(params: Mapping[str, Params], prefix: str) -> Nets:
    """Return the networks that `frozen` gave a loss, by their own names."""
    return {name: params[f"{prefix}_{name}"] for name in (ENCODER, DECODER)}
