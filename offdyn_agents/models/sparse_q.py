"""Sparse Q-learning on source rows (Xu et al., 2023), and the advantages that DVDF takes from it; its stage.

    L_V = mean [ 1(u > 0) u^2 + V(s) / alpha ],      u = (min_c Q'_c(s, a) - V(s)) / (2 alpha) + 1
    L_Q = sum_c mean (r + gamma m V(s') - Q_c(s, a))^2
    A   = min_c Q_c(s, a) - V(s)

Q' is Q's Polyak average. Actions worse than V by 2 alpha and more say nothing of V: that is what is sparse. For a large
alpha V is the mean of Q over the behaviour's actions. No policy is learned.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from offdyn_agents.engine.networks import Network, detached, twin, value
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.settings import setting
from offdyn_agents.engine.stage_cache import Fitted
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.models.short_training import Nets, ShortTraining, fit, in_chunks

__all__ = ["SparseSettings", "advantages", "fit_advantages", "training", "value_terms"]


@dataclass(frozen=True)
class SparseSettings:
    """How critics and value of the source are trained.

    Attributes:
        updates: Updates.
        batch_size: Source rows of a batch.
        width: Width of the two hidden layers.
        learning_rate: Adam's step size.
        alpha: How far below V an action still counts: 2 alpha, in units of the rewards.
        discount: gamma.
        polyak: Share of the critics that enters their averaged copies at each update.
    """

    updates: int = setting(100_000, low=1)
    batch_size: int = setting(128, low=1)
    width: int = setting(256, low=1)
    learning_rate: float = setting(3e-4, low=0.0, open_low=True)
    alpha: float = setting(0.1, low=0.0, open_low=True)
    discount: float = setting(0.99, low=0.0, high=1.0)
    polyak: float = setting(0.005, low=0.0, high=1.0)


def value_terms(advantages: Tensor, values: Tensor, alpha: float) -> Tensor:
    """Return what each row adds to V's loss, 1(u > 0) u^2 + V / alpha, of min Q' - V and V of one shape."""
    u = advantages / (2.0 * alpha) + 1.0
    return u.clamp(min=0.0).square() + values / alpha


def training(settings: SparseSettings, layout: Layout) -> ShortTraining:
    """Return how they are trained."""
    s, a, width = layout.observation_dim, layout.action_dim, settings.width
    nets = {"critic": Network((s + a, width, width, 1), 2), "value": Network((s, width, width, 1))}

    def loss(params: Nets, source: Tensor, target: Tensor, noises: list[Tensor]) -> Tensor:
        del target, noises
        observations, actions, following, rewards, continues = layout.split(source)
        best = twin(detached(params["critic_target"]), observations, actions).amin(-2)
        values = value(params["value"], observations)
        further = value(detached(params["value"]), following)
        aims = rewards + settings.discount * continues * further
        errors = aims - twin(params["critic"], observations, actions)
        value_loss = value_terms(best - values, values, settings.alpha).mean()
        return value_loss + errors.square().mean(-1).sum()

    rates = (settings.learning_rate, (), ("critic",), settings.polyak)
    return ShortTraining(
        "sparse-q", "values of the source", nets, loss, settings.updates, settings.batch_size, 0, *rates
    )


def advantages(nets: Nets, layout: Layout, rows: Tensor) -> Tensor:
    """Return A [n] of packed rows [n, W]."""
    observations, actions, *_ = layout.split(rows)
    return twin(nets["critic"], observations, actions).amin(-2) - value(nets["value"], observations)


def fit_advantages(settings: SparseSettings, context: StageContext) -> Fitted[Tensor]:
    """Train or find the values of each seed, and return the advantages [source rows] of their source rows.

    Args:
        settings: How they are trained.
        context: Rows, seeds, cache and hardware.
    """
    layout, source = context.layout, context.source
    found = fit(training(settings, layout), settings, context)
    said = [in_chunks(lambda rows, nets=nets: advantages(nets, layout, rows), source) for nets in found]
    return Fitted(said, found.failed)
