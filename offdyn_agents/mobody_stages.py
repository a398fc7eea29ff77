"""MOBODY's stages before the policy, cached by content: dynamics of two domains and DARA's classifiers.

A training of the dynamics that was interrupted goes on from a copy that is at most a minute and an epoch old, and ends
as it would have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

from offdyn_agents.classifiers import ClassifierLearner, Classifiers, ClassifierSettings
from offdyn_agents.mobody_dynamics import DualDynamics
from offdyn_agents.mobody_settings import DualDynamicsSettings
from offdyn_agents.mobody_training import DualLearner
from offdyn_agents.products import exact_fast_products, threads_inside
from offdyn_agents.stages import Fitted, Keep, StageContext, Unfinished, cached, in_precision, stage_key

__all__ = ["fit_classifiers", "fit_dynamics"]

VERSION, CLASSIFIERS_VERSION = 2, 1
"""Raised when the same settings would give other dynamics, or other classifiers."""

Advance = Callable[..., None]


def fit_dynamics(settings: DualDynamicsSettings, context: StageContext) -> Fitted[DualDynamics]:
    """Train or find the dynamics of each seed, and tell which of them diverged or never learned anything.

    Args:
        settings: How they are trained.
        context: Rows, seeds, cache and hardware.
    """
    source = context.source if settings.data == "both" else context.source[:0]
    target = context.target
    workers, inside = _shares(context)
    learner = DualLearner(
        settings,
        context.layout,
        target.device,
        threads=inside,
        compiled=context.compiled,
        precision=context.precision,
    )
    # The digest of the rows does not say where the source ends.
    name = in_precision(f"mobody dynamics {len(source)}", context.precision)

    def compute(missing: list[int], keep: Keep) -> None:
        def fit(seed: int, advance: Advance) -> None:
            copy = Unfinished(context.cache, stage_key(name, settings, (source, target), seed, VERSION))

            def report(epoch: int, error: float) -> None:
                advance(1, seed=seed, epoch=epoch, error=error)

            result = learner.fit(source, target, seed, report, save=copy.write, resume=copy.read())
            keep(seed, result.tensors(), result.failed)
            copy.remove()

        s, a, latent = context.layout.observation_dim, context.layout.action_dim, settings.latent
        with exact_fast_products(settings.width, (s, latent, latent + a, 2 * s + a), settings.batch_size):
            # All of them share the compiled steps, so they are compiled before there are threads.
            learner.warm_up(source, target)
            _each("dynamics", settings.epochs, missing, fit, (workers, inside), context.quiet)

    found = cached(name, settings, (source, target), context.seeds, context.cache, compute, VERSION, "dynamics")
    return Fitted([DualDynamics.from_tensors(tensors, target.device) for tensors in found], found.failed)


def fit_classifiers(settings: ClassifierSettings, context: StageContext) -> Fitted[Classifiers]:
    """Train or find the domain classifiers of each seed, and tell which of them diverged.

    Args:
        settings: How they are trained.
        context: Rows, seeds, cache and hardware.
    """
    source, target = context.source, context.target
    workers, inside = _shares(context)
    learner = ClassifierLearner(settings, context.layout, target.device, threads=inside, compiled=context.compiled)
    # What is done with their answer does not change them.
    kept = replace(settings, weight=0.0, clip=0.0)

    def compute(missing: list[int], keep: Keep) -> None:
        def fit(seed: int, advance: Advance) -> None:
            result = learner.fit(source, target, seed, lambda updates: advance(updates, seed=seed))
            keep(seed, result.tensors(), result.failed)

        s, a = context.layout.observation_dim, context.layout.action_dim
        with exact_fast_products(settings.width, (2 * s + a, s + a), settings.batch_size):
            learner.warm_up(source, target)
            _each("classifiers", settings.updates, missing, fit, (workers, inside), context.quiet)

    name = f"dara classifiers {len(source)}"
    found = cached(
        name, kept, (source, target), context.seeds, context.cache, compute, CLASSIFIERS_VERSION, "classifiers"
    )
    return Fitted([Classifiers.from_tensors(tensors, target.device) for tensors in found], found.failed)


def _shares(context: StageContext) -> tuple[int, int]:
    """Return how many seeds are trained at once, and the threads inside each."""
    workers = max(1, min(context.threads, len(context.seeds))) if context.target.device.type == "cpu" else 1
    return workers, max(1, context.threads // workers)


def _each(
    title: str,
    each: int,
    seeds: Sequence[int],
    fit: Callable[[int, Advance], None],
    shares: tuple[int, int],
    quiet: bool,
) -> None:
    """Call `fit` for every seed, on threads, with one progress line for all."""
    from offdyn_envs.progress import progress

    workers, inside = shares
    line: AbstractContextManager[Any] = progress(title, each * len(seeds), quiet=quiet)
    with threads_inside(inside), line as advance, ThreadPoolExecutor(workers) as pool:

        def one(seed: int) -> None:
            # PyTorch keeps the number of threads inside an operation per thread.
            torch.set_num_threads(inside)
            fit(seed, advance)

        list(pool.map(one, seeds))
