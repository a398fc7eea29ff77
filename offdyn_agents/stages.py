"""Stages before the policy, cached by content: what was computed once from the same data and settings is found again.

A stage's key is the SHA-256 of its name and version, its settings, the rows it learns from and its seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offdyn_agents.data import Layout
from offdyn_agents.dynamics import Ensemble, EnsembleLearner
from offdyn_agents.dynamics_settings import EnsembleSettings
from offdyn_agents.execution import exact_fast_products, threads_inside
from offdyn_agents.settings import to_json
from offdyn_envs.atomic import atomic_write

__all__ = ["fit_ensembles", "predict_all", "stage_key"]

VERSION = 1
"""Raised when the same settings would give another ensemble."""

IRRELEVANT = ("memory_gb",)
PART = 16_384
"""Rows that a thread predicts before it takes others."""


def stage_key(name: str, settings: Any, rows: Tensor, seed: int) -> str:
    """Return the key of a stage's result: 64 hexadecimal digits."""
    kept = {key: value for key, value in to_json(settings).items() if key not in IRRELEVANT}
    digest = hashlib.sha256(json.dumps([name, VERSION, kept, seed], sort_keys=True).encode())
    digest.update(np.ascontiguousarray(rows.cpu().numpy()).data)
    return digest.hexdigest()


def fit_ensembles(
    settings: EnsembleSettings,
    layout: Layout,
    rows: Tensor,
    seeds: Sequence[int],
    cache: Path | None,
    *,
    threads: int = 1,
    compiled: bool = True,
    quiet: bool = True,
) -> list[Ensemble]:
    """Train or find one ensemble per seed; each is kept as soon as it is trained.

    Args:
        settings: How they are trained.
        layout: Layout of packed rows.
        rows: Packed rows [N, W] on the device.
        seeds: One per run.
        cache: Folder of results, or None to keep none.
        threads: CPU threads.
        compiled: Whether to compile the step.
        quiet: Show no progress.

    Returns:
        The ensembles in the order of the seeds.
    """
    paths = [
        None if cache is None else cache / f"{stage_key('dynamics', settings, rows, s)}.safetensors" for s in seeds
    ]
    found = [_load(path, rows.device) for path in paths]
    missing = [i for i, ensemble in enumerate(found) if ensemble is None]
    if missing:
        inputs = (layout.observation_dim + layout.action_dim,)
        with exact_fast_products(settings.width, inputs, settings.batch_size):
            wanted = [(seeds[i], paths[i]) for i in missing]
            fresh = _fit(settings, layout, rows, wanted, threads, compiled, quiet)
        for i, ensemble in zip(missing, fresh, strict=True):
            found[i] = ensemble
    return [ensemble for ensemble in found if ensemble is not None]


def _fit(
    settings: EnsembleSettings,
    layout: Layout,
    rows: Tensor,
    wanted: Sequence[tuple[int, Path | None]],
    threads: int,
    compiled: bool,
    quiet: bool,
) -> list[Ensemble]:
    from offdyn_envs.progress import progress

    workers = max(1, min(threads, len(wanted))) if rows.device.type == "cpu" else 1
    inside = max(1, threads // workers)
    learner = EnsembleLearner(settings, layout, rows.device, threads=inside, compiled=compiled)
    total = settings.epochs * len(wanted)
    with threads_inside(inside), progress("dynamics", total, quiet=quiet) as advance:

        def fit(one: tuple[int, Path | None]) -> Ensemble:
            torch.set_num_threads(inside)
            seed, path = one
            ensemble = learner.fit(rows, seed, lambda epoch, error: advance(1, seed=seed, epoch=epoch, error=error))
            _save(path, ensemble)
            return ensemble

        # All of them share the compiled step, so it is compiled before there are threads.
        learner.warm_up(rows)
        if workers == 1:
            return [fit(one) for one in wanted]
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(fit, wanted))


def predict_all(
    ensembles: Sequence[Ensemble],
    layout: Layout,
    rows: Tensor,
    robust_min: str = "value",
    *,
    threads: int = 1,
    quiet: bool = True,
) -> list[Tensor]:
    """Predict the next states of all rows with every ensemble: frozen, they would give the same at every visit.

    Args:
        ensembles: One per run.
        layout: Layout of packed rows.
        rows: Packed rows [N, W].
        robust_min: As in `Ensemble.next_states`.
        threads: CPU threads, each at rows of its own.
        quiet: Show no progress.

    Returns:
        [N, members, |S|] per run.
    """
    from offdyn_envs.progress import progress

    workers = threads if rows.device.type == "cpu" else 1
    members = 1 if robust_min == "coordinate" else len(ensembles[0].params[0])
    tables = [rows.new_empty(len(rows), members, layout.observation_dim) for _ in ensembles]
    parts = [
        (e, table, start) for e, table in zip(ensembles, tables, strict=True) for start in range(0, len(rows), PART)
    ]
    width, inputs = ensembles[0].params[2].shape[-1], layout.observation_dim + layout.action_dim

    def predict(ensemble: Ensemble, table: Tensor, start: int) -> int:
        torch.set_num_threads(1)
        part = rows[start : start + PART]
        with torch.no_grad():
            table[start : start + PART] = ensemble.next_states(layout, part, robust_min)
        return len(part)

    with (
        threads_inside(1),
        exact_fast_products(width, (inputs,), 512),
        progress("predictions", len(ensembles) * len(rows), quiet=quiet) as advance,
        ThreadPoolExecutor(workers) as pool,
    ):
        for count in pool.map(predict, *zip(*parts, strict=True)):
            advance(count)
    return tables


def _load(path: Path | None, device: torch.device) -> Ensemble | None:
    if path is None or not path.exists():
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return Ensemble.from_tensors(load_file(path), device)
    except (SafetensorError, KeyError):
        # It is only a cache: what is damaged is computed again.
        return None


def _save(path: Path | None, ensemble: Ensemble) -> None:
    if path is None:
        return
    from safetensors.torch import save_file

    with atomic_write(path) as temporary:
        save_file({name: tensor.cpu().contiguous() for name, tensor in ensemble.tensors().items()}, temporary)
