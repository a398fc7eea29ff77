"""MOBODY's dynamics of two domains as a stage before the policy, cached by content.

A training that was interrupted goes on from a copy that is at most a minute and an epoch old, and ends
as it would have.
"""

from __future__ import annotations

from functools import partial

from offdyn_agents.engine.products import exact_fast_products
from offdyn_agents.engine.stage_cache import Fitted, Keep, cached, in_precision
from offdyn_agents.engine.stages import StageContext, each_seed, resuming, shares
from offdyn_agents.models.dual.model import DualDynamics
from offdyn_agents.models.dual.schedules import stretches
from offdyn_agents.models.dual.settings import DualDynamicsSettings
from offdyn_agents.models.dual.training import DualLearner

__all__ = ["fit_dynamics"]

VERSION = 3
"""Raised when the same settings would give other dynamics."""


def fit_dynamics(settings: DualDynamicsSettings, context: StageContext) -> Fitted[DualDynamics]:
    """Train or find the dynamics of each seed, and tell which of them diverged or never learned anything.

    Args:
        settings: How they are trained.
        context: Rows, seeds, cache and hardware.
    """
    source = context.source if settings.data == "both" else context.source[:0]
    target = context.target
    # The digest of the rows does not say where the source ends.
    name = in_precision(f"mobody dynamics {len(source)}", context.precision)

    def compute(missing: list[int], keep: Keep) -> None:
        shared = shares(target.device, context.threads, missing)
        learner = DualLearner(
            settings,
            context.layout,
            target.device,
            threads=shared[1],
            compiled=context.compiled,
            precision=context.precision,
        )
        s, a, latent = context.layout.observation_dim, context.layout.action_dim, settings.latent
        batch = settings.source_batch if settings.interleaved else settings.batch_size
        with exact_fast_products(settings.width, (s, latent, latent + a, 2 * s + a), batch):
            # All of them share the compiled steps, so they are compiled before there are threads.
            learner.warm_up(source, target)
            fit = resuming(partial(learner.fit, source, target), keep)
            at_most = not settings.interleaved
            each_seed("dynamics", stretches(settings), missing, fit, shared, context.quiet, at_most)

    found = cached(name, settings, (source, target), context.seeds, context.cache, compute, VERSION, "dynamics")
    return Fitted([DualDynamics.from_tensors(tensors, target.device) for tensors in found], found.failed)
