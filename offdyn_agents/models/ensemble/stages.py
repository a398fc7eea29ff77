"""Ensembles of Gaussian dynamics as a stage before the policy, cached by content, and what they predict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from offdyn_agents.engine.products import exact_fast_products, threads_inside
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.stage_cache import Fitted, Keep, cached, in_precision
from offdyn_agents.engine.stages import StageContext, each_seed, resuming, shares
from offdyn_agents.models.ensemble.model import Ensemble
from offdyn_agents.models.ensemble.settings import GaussianSettings
from offdyn_agents.models.ensemble.training import EnsembleLearner

__all__ = ["fit_ensembles", "fit_in_context", "predict_all"]

VERSION = 3
"""Raised when the same settings would give another ensemble."""
PART = 16_384
"""Rows that a thread predicts before it takes others."""


def fit_in_context(
    settings: GaussianSettings, rows: Tensor, context: StageContext, target: int = 0
) -> Fitted[Ensemble]:
    """Train or find an ensemble of some rows for each seed of a stage; see `fit_ensembles`.

    Args:
        settings: How they are trained.
        rows: Packed rows [N, W] on the device.
        context: Layout, seeds, cache and hardware.
        target: How many of the last rows are of the target, where others are not.
    """
    return fit_ensembles(
        settings,
        context.layout,
        rows,
        context.seeds,
        context.cache,
        target=target,
        threads=context.threads,
        compiled=context.compiled,
        quiet=context.quiet,
        precision=context.precision,
    )


def fit_ensembles(
    settings: GaussianSettings,
    layout: Layout,
    rows: Tensor,
    seeds: Sequence[int],
    cache: Path | None,
    *,
    target: int = 0,
    threads: int = 1,
    compiled: bool = True,
    quiet: bool = True,
    precision: str = "fp32",
) -> Fitted[Ensemble]:
    """Train or find one ensemble per seed; each is kept as soon as it is trained.

    A training that was interrupted goes on from a copy that is at most a minute and an epoch old, and ends as it would
    have.

    Args:
        settings: How they are trained.
        layout: Layout of packed rows.
        rows: Packed rows [N, W] on the device.
        seeds: One per run.
        cache: Folder of results, or None to keep none.
        target: How many of the last rows are of the target, where others are not.
        threads: CPU threads.
        compiled: Whether to compile the step.
        quiet: Show no progress.
        precision: As in `StageContext`.

    Returns:
        The ensembles in the order of the seeds, and which of them diverged or never learned anything.
    """

    def compute(missing: list[int], keep: Keep) -> None:
        shared = shares(rows.device, threads, missing)
        learner = EnsembleLearner(
            settings, layout, rows.device, threads=shared[1], compiled=compiled, precision=precision
        )
        inputs = (layout.observation_dim + layout.action_dim,)
        with exact_fast_products(settings.width, inputs, settings.batch_size):
            # All of them share the compiled step, so it is compiled before there are threads.
            learner.warm_up(rows)
            fit = resuming(partial(learner.fit, rows, target=target), keep)
            passes = settings.passes(len(rows))
            each_seed("dynamics", passes, missing, fit, shared, quiet, settings.early_stopping)

    key = [rows, torch.tensor([target])] if settings.target_share and target else rows
    found = cached(in_precision("dynamics", precision), settings, key, seeds, cache, compute, VERSION, "dynamics")
    return Fitted([Ensemble.from_tensors(tensors, rows.device) for tensors in found], found.failed)


def predict_all(
    predictors: Sequence[Callable[[Tensor], Tensor]],
    rows: Tensor,
    shape: tuple[int, int],
    widths: tuple[int, ...],
    *,
    threads: int = 1,
    quiet: bool = True,
) -> list[Tensor]:
    """Predict the next states of all rows with every run's models: frozen, they would give the same at every visit.

    Args:
        predictors: One per run: packed rows [n, W] -> next states [n, members, |S|].
        rows: Packed rows [N, W].
        shape: Members and |S|.
        widths: Width of the models' hidden layers, then of their inputs.
        threads: CPU threads, each at rows of its own.
        quiet: Show no progress.

    Returns:
        [N, members, |S|] per run.
    """
    from offdyn_envs.progress import progress

    workers = threads if rows.device.type == "cpu" else 1
    tables = [rows.new_empty(len(rows), *shape) for _ in predictors]
    parts = [
        (e, table, start) for e, table in zip(predictors, tables, strict=True) for start in range(0, len(rows), PART)
    ]

    def predict(predictor: Callable[[Tensor], Tensor], table: Tensor, start: int) -> int:
        torch.set_num_threads(1)
        part = rows[start : start + PART]
        table[start : start + PART] = predictor(part)
        return len(part)

    with (
        threads_inside(1),
        exact_fast_products(widths[0], widths[1:], 512),
        progress("predictions", len(predictors) * len(rows), quiet=quiet) as advance,
        ThreadPoolExecutor(workers) as pool,
    ):
        for count in pool.map(predict, *zip(*parts, strict=True)):
            advance(count)
    return tables
