"""Stages before the policy, cached by content: what was computed once from the same data and settings is found again.

A stage's key is the SHA-256 of its name and version, its settings, the rows it learns from and its seed. An agent's
`stages` gets a `StageContext` for each task and returns `StageResults`; `cached` finds or computes what is costly. What
has failed is told by run, and the population stops those runs before their first update.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from offdyn_agents.data import Layout
from offdyn_agents.dynamics import Ensemble
from offdyn_agents.dynamics_settings import EnsembleSettings
from offdyn_agents.dynamics_training import EnsembleLearner
from offdyn_agents.networks import Params
from offdyn_agents.products import exact_fast_products, threads_inside
from offdyn_agents.settings import to_json
from offdyn_agents.termination import Termination, never
from offdyn_envs.atomic import atomic_write
from offdyn_envs.errors import OffDynError

__all__ = [
    "Fitted",
    "Keep",
    "StageContext",
    "StageResults",
    "Unfinished",
    "cached",
    "each_seed",
    "fit_ensembles",
    "in_precision",
    "predict_all",
    "shares",
    "stage_key",
]

VERSION = 3
"""Raised when the same settings would give another ensemble."""

IRRELEVANT = ("memory_gb",)
WHY = "failed"
"""Under what name a failed result's file says why."""
PART = 16_384
"""Rows that a thread predicts before it takes others."""


T = TypeVar("T")
Tensors = Mapping[str, Tensor]
Advance = Callable[..., None]


class Keep(Protocol):
    """Takes a stage's result."""

    def __call__(self, seed: int, tensors: Tensors, failed: str = "") -> None:
        """Take the result of a seed.

        Args:
            seed: The seed.
            tensors: The result, by name.
            failed: Why it must not be used; "" where all is well.
        """


class Fitted(list[T]):
    """A stage's results in the order of the seeds.

    Args:
        results: One for each seed; what has failed is there as it ended, of the shapes of a result.
        failed: Why results must not be used, by place.
    """

    def __init__(self, results: Iterable[T], failed: Mapping[int, str]) -> None:
        super().__init__(results)
        self.failed = dict(failed)

    def sound(self) -> Fitted[T]:
        """Return itself if all of it may be used.

        Raises:
            OffDynError: A training failed.
        """
        for why in self.failed.values():
            raise OffDynError(f"{why}; other settings are needed")
        return self


@dataclass(frozen=True)
class StageContext:
    """What an agent's stages may use, for all seeds of one task.

    Attributes:
        layout: Layout of packed rows.
        source: Packed source rows [N, W] on the device; none where the agent's batches hold none.
        target: Packed target rows [M, W]; likewise.
        seeds: Seeds of the task's runs.
        updates: Updates of the policy to come.
        population: Runs of the whole population, also those of other tasks: memory is shared among them.
        cache: Folder of results, None to keep none.
        robot: Name of the robot, None for data without one.
        terminated: The robot's termination on observations.
        threads: CPU threads.
        compiled: Whether to compile.
        quiet: Show no progress.
        precision: "bf16" rounds the operands of products in the losses of learned dynamics; other stages are short.
    """

    layout: Layout
    source: Tensor
    target: Tensor
    seeds: tuple[int, ...]
    updates: int
    population: int = 1
    cache: Path | None = None
    robot: str | None = None
    terminated: Termination = never
    threads: int = 1
    compiled: bool = True
    quiet: bool = True
    precision: str = "fp32"


@dataclass(frozen=True)
class StageResults:
    """What an agent's stages give to the runs of one task, in the order of their seeds.

    Attributes:
        results: Anything, one for each run: `refill` finds it as `RunView.stages`.
        frozen: Networks that the loss reads and no update changes, by name; tensors [runs, ...].
        rewards: What is added to the rewards of each run's source rows, [source rows] each.
        predicted: Predicted next states of each run's source rows, [source rows, members, |S|] each.
        predictors: Compute the same of packed rows [N, W], where it is not kept.
        report: What `run.json` says about the stages, plain JSON values.
        failed: Why runs cannot be trained, by place among the task's runs. All else has something in their places too,
            which nothing reads but for its shape.
    """

    results: Sequence[Any] = ()
    frozen: Mapping[str, Params] = field(default_factory=dict)
    rewards: Sequence[Tensor] = ()
    predicted: Sequence[Tensor] = ()
    predictors: Sequence[Callable[[Tensor], Tensor]] = ()
    report: Mapping[str, Any] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)


def stage_key(name: str, settings: Any, rows: Tensor | Sequence[Tensor], seed: int, version: int = VERSION) -> str:
    """Return the key of a stage's result: 64 hexadecimal digits.

    Args:
        name: Name of the stage.
        settings: Its settings, a dataclass.
        rows: The tensors it learns from.
        seed: Its seed.
        version: Raised when the same settings and rows would give another result.
    """
    kept = {key: value for key, value in to_json(settings).items() if key not in IRRELEVANT}
    digest = hashlib.sha256(json.dumps([name, version, kept, seed], sort_keys=True).encode())
    for tensor in [rows] if isinstance(rows, Tensor) else rows:
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return digest.hexdigest()


def in_precision(name: str, precision: str) -> str:
    """Return what a stage is called whose products are of some precision: rounded ones give another result."""
    return f"{name} bf16" if precision == "bf16" else name


def cached(
    name: str,
    settings: Any,
    rows: Tensor | Sequence[Tensor],
    seeds: Sequence[int],
    cache: Path | None,
    compute: Callable[[list[int], Keep], None],
    version: int = 1,
    title: str = "",
) -> Fitted[Tensors]:
    """Find a stage's results, and compute those that are missing; each is kept as soon as it is there.

    What failed is kept apart, with its reason: the same training would fail again.

    Args:
        name: Name of the stage.
        settings: Its settings, a dataclass.
        rows: The tensors it learns from.
        seeds: One result for each; no seed twice.
        cache: Folder of results, None to keep none.
        compute: Is given the seeds that are missing and calls `keep(seed, tensors by name)` for each, from any thread,
            with a reason where they must not be used.
        version: Raised when the same settings and rows would give another result.
        title: What messages call the stage, where that is not its name.

    Returns:
        The results in the order of the seeds, contiguous and on the CPU.
    """
    keys = {seed: stage_key(name, settings, rows, seed, version) for seed in seeds} if cache is not None else {}
    found: dict[int, Tensors] = {}
    reasons: dict[int, str] = {}
    for seed, key in keys.items():
        sound, broken = _load(_result(cache, key)), _load_failed(_failure(cache, key))
        if sound is not None:
            found[seed] = sound
        elif broken is not None:
            found[seed], reasons[seed] = broken

    def keep(seed: int, tensors: Tensors, failed: str = "") -> None:
        # As a file gives them back: other strides would round products otherwise.
        found[seed] = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        path = (_failure if failed else _result)(cache, keys.get(seed, ""))
        _save(path, found[seed], {WHY: failed} if failed else None)
        if failed:
            reasons[seed] = failed

    missing = [seed for seed in seeds if seed not in found]
    if missing:
        compute(missing, keep)
    failed = {place: f"{title or name}: {reasons[seed]}" for place, seed in enumerate(seeds) if seed in reasons}
    return Fitted([found[seed] for seed in seeds], failed)


class Unfinished:
    """The copy of a training that has not ended, in a file beside the results.

    Args:
        cache: Folder of results, None to keep no copy.
        key: Key of the result to come.
    """

    def __init__(self, cache: Path | None, key: str) -> None:
        self._path = None if cache is None else cache / f"{key}.partial"

    def read(self) -> Tensors | None:
        """Return the tensors that were written last, by name; None where there are none."""
        return _load(self._path)

    def write(self, tensors: Tensors) -> None:
        """Replace the copy."""
        _save(self._path, {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})

    def remove(self) -> None:
        """Remove the copy, once the training has ended."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


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
        threads: CPU threads.
        compiled: Whether to compile the step.
        quiet: Show no progress.
        precision: As in `StageContext`.

    Returns:
        The ensembles in the order of the seeds, and which of them diverged or never learned anything.
    """

    def compute(missing: list[int], keep: Keep) -> None:
        inputs = (layout.observation_dim + layout.action_dim,)
        with exact_fast_products(settings.width, inputs, settings.batch_size):
            _fit(settings, layout, rows, missing, keep, cache, threads, compiled, quiet, precision)

    found = cached(in_precision("dynamics", precision), settings, rows, seeds, cache, compute, VERSION, "dynamics")
    return Fitted([Ensemble.from_tensors(tensors, rows.device) for tensors in found], found.failed)


def _fit(
    settings: EnsembleSettings,
    layout: Layout,
    rows: Tensor,
    seeds: Sequence[int],
    keep: Keep,
    cache: Path | None,
    threads: int,
    compiled: bool,
    quiet: bool,
    precision: str,
) -> None:
    workers, inside = shares(rows.device, threads, seeds)
    learner = EnsembleLearner(settings, layout, rows.device, threads=inside, compiled=compiled, precision=precision)

    def fit(seed: int, advance: Advance) -> None:
        copy = Unfinished(cache, stage_key(in_precision("dynamics", precision), settings, rows, seed))

        def report(epoch: int, error: float) -> None:
            advance(1, seed=seed, epoch=epoch, error=error)

        ensemble = learner.fit(rows, seed, report, save=copy.write, resume=copy.read())
        keep(seed, ensemble.tensors(), ensemble.failed)
        copy.remove()

    # All of them share the compiled step, so it is compiled before there are threads.
    learner.warm_up(rows)
    each_seed("dynamics", settings.epochs, seeds, fit, (workers, inside), quiet, settings.early_stopping)


def shares(device: torch.device, threads: int, seeds: Sequence[int]) -> tuple[int, int]:
    """Return how many seeds are trained at once, and the threads inside each."""
    if device.type != "cpu":
        return 1, 1
    workers = max(1, min(threads, len(seeds)))
    return workers, max(1, threads // workers)


def each_seed(
    title: str,
    each: int,
    seeds: Sequence[int],
    fit: Callable[[int, Advance], None],
    shared: tuple[int, int],
    quiet: bool,
    at_most: bool = False,
) -> None:
    """Call `fit` for every seed, on threads, with one progress line for all.

    Args:
        title: What is done.
        each: Units of progress of a seed.
        seeds: The seeds.
        fit: Is given a seed, and what to call with units that are done.
        shared: What `shares` gave.
        quiet: Show no progress.
        at_most: Whether `each` is a bound that training, stopped early, seldom reaches.
    """
    from offdyn_envs.progress import progress

    workers, inside = shared
    line: AbstractContextManager[Any] = progress(title, each * len(seeds), quiet=quiet, at_most=at_most)
    with threads_inside(inside), line as advance, ThreadPoolExecutor(workers) as pool:

        def one(seed: int) -> None:
            # PyTorch keeps the number of threads inside an operation per thread.
            torch.set_num_threads(inside)
            fit(seed, advance)

        list(pool.map(one, seeds))


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


def _result(cache: Path | None, key: str) -> Path | None:
    """Return the file of a sound result."""
    return None if cache is None else cache / f"{key}.safetensors"


def _failure(cache: Path | None, key: str) -> Path | None:
    """Return the file of a result that must not be used."""
    return None if cache is None else cache / f"{key}.failed"


def _load_failed(path: Path | None) -> tuple[Tensors, str] | None:
    """Return a result that must not be used, and why."""
    if path is None or not path.exists():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            why = (file.metadata() or {}).get(WHY, "")
            return {name: file.get_tensor(name) for name in file.keys()}, why
    except SafetensorError:
        return None


def _load(path: Path | None) -> Tensors | None:
    if path is None or not path.exists():
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError:
        # It is only a cache: what is damaged is computed again.
        return None


def _save(path: Path | None, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    if path is None:
        return
    from safetensors.torch import save_file

    with atomic_write(path) as temporary:
        save_file(dict(tensors), temporary, metadata)
