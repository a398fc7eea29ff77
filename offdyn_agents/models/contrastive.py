"""Encoders that tell the target's next states from the source's (IGDF; Wen et al., 2024), and their scores of rows.

With phi(s, a) and psi(s'), x_ij = phi(s_i, a_i) . psi(s'_j) for a target row i and its own next state, or one of n - 1
next states of source rows that all n rows share:

    L = -1/n^2 sum_i [ log sigma(x_ii) + sum_j log(1 - sigma(x_ij)) ],      h = cos(phi(s, a), psi(s')).

The products that are trained are not normalised, the score h is. High scores say that the target might have made the
row: psi(s') lies where phi(s, a) expects it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, softplus

from offdyn_agents.engine.networks import Network, mlp
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.settings import setting
from offdyn_agents.engine.stage_cache import Fitted
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.models.short_training import Nets, ShortTraining, fit, in_chunks

__all__ = ["EncoderSettings", "contrast", "fit_scores", "score", "standardised", "training"]

EPSILON = 1e-3
"""What the authors' code adds to standard deviations."""


@dataclass(frozen=True)
class EncoderSettings:
    """How the encoders are trained.

    Attributes:
        updates: Updates of both; 0 leaves them as they are drawn, as a port does that never calls their training.
        batch_size: Target rows of a batch; source rows are one less.
        width: Width of the two hidden layers.
        latent: Size of what they encode into.
        learning_rate: Adam's step size.
        normalise: Whether they see states standardised by the moments of all rows, source and target.
    """

    updates: int = setting(7000, low=0)
    batch_size: int = setting(128, low=2)
    width: int = setting(256, low=1)
    latent: int = setting(64, low=1)
    learning_rate: float = setting(3e-4, low=0.0, open_low=True)
    normalise: bool = setting(False)


def contrast(positives: Tensor, negatives: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits with label 1 [n] and with label 0 [n, k], over all n (k + 1)."""
    total = softplus(-positives).sum() + softplus(negatives).sum()
    return total / (positives.numel() + negatives.numel())


def training(settings: EncoderSettings, layout: Layout) -> ShortTraining:
    """Return how the encoders are trained."""
    s, a, size = layout.observation_dim, layout.action_dim, settings.batch_size
    hidden = (settings.width, settings.width, settings.latent)
    nets = {"phi": Network((s + a, *hidden)), "psi": Network((s, *hidden))}

    def loss(params: Nets, source: Tensor, target: Tensor, noises: list[Tensor]) -> Tensor:
        del noises
        phi, psi = _encoded(params, layout, target)
        others = mlp(params["psi"], layout.split(source)[2])
        return contrast((phi * psi).sum(-1), phi @ others.mT)

    return ShortTraining("igdf", "encoders", nets, loss, settings.updates, size - 1, size, settings.learning_rate)


def score(nets: Nets, layout: Layout, rows: Tensor) -> Tensor:
    """Return h in [-1, 1] of packed rows [n, W], [n]."""
    return cosine_similarity(*_encoded(nets, layout, rows), dim=-1)


def fit_scores(settings: EncoderSettings, context: StageContext) -> Fitted[Tensor]:
    """Train or find the encoders of each seed, and return the scores h [source rows] of their source rows.

    Args:
        settings: How they are trained.
        context: Rows, seeds, cache and hardware.
    """
    if settings.normalise:
        context = standardised(context)
    layout, source = context.layout, context.source
    found = fit(training(settings, layout), settings, context)
    return Fitted(
        [in_chunks(lambda rows, nets=nets: score(nets, layout, rows), source) for nets in found], found.failed
    )


def standardised(context: StageContext) -> StageContext:
    """Return the same with states, also next ones, standardised by the moments of all rows' states."""
    layout, width = context.layout, context.layout.observation_dim
    states = torch.cat([rows[:, :width] for rows in (context.source, context.target)]).double()
    mean, std = states.mean(0).float(), states.std(0, correction=0).float() + EPSILON

    def changed(rows: Tensor) -> Tensor:
        observations, actions, following, *_ = layout.split(rows)
        parts = [(observations - mean) / std, actions, (following - mean) / std, rows[:, -2:]]
        return torch.cat(parts, dim=-1)

    return replace(context, source=changed(context.source), target=changed(context.target))


def _encoded(nets: Nets, layout: Layout, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return phi(s, a) and psi(s'), [n, latent], of packed rows [n, W]."""
    observations, actions, following, *_ = layout.split(rows)
    return mlp(nets["phi"], torch.cat([observations, actions], dim=-1)), mlp(nets["psi"], following)
