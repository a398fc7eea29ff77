"""Stages before the policy: what an agent's `stages` gets and gives, and how seeds are trained side by side.

`stages` gets a `StageContext` for each task and returns `StageResults`; what is costly is cached
(`offdyn_agents.engine.stage_cache`). What has failed is told by run, and the population stops those runs before their
first update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from offdyn_agents.engine.networks import Params
from offdyn_agents.engine.products import threads_inside
from offdyn_agents.engine.rows import Layout, RowColumns
from offdyn_agents.engine.stage_cache import Keep, Tensors
from offdyn_agents.engine.termination import Termination, never

__all__ = ["Advance", "StageContext", "StageResults", "TrainedStage", "each_seed", "resuming", "shares"]

Advance = Callable[..., None]
"""Takes units of progress, and numbers to show beside them."""


class TrainedStage(Protocol):
    """What a training returns."""

    @property
    def failed(self) -> str:
        """Why it must not be used; "" where all is well."""
        ...

    def tensors(self) -> Tensors:
        """Return it by name."""
        ...


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
        domains: The source and the target dataset themselves, for diagnosis; agents learn from the rows alone.
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
    domains: tuple[Any, Any] = (None, None)


@dataclass(frozen=True)
class StageResults:
    """What an agent's stages give to the runs of one task, in the order of their seeds.

    Attributes:
        results: Anything, one for each run: `refill` finds it as `RunView.stages`.
        frozen: Networks that the loss reads and no update changes, by name; tensors [runs, ...].
        columns: What is said of each run's source rows.
        predicted: Predicted next states of each run's source rows, [source rows, members, |S|] each.
        predictors: Compute the same of packed rows [N, W], where it is not kept.
        report: What `run.json` says about the stages, plain JSON values.
        failed: Why runs cannot be trained, by place among the task's runs. All else has something in their places too,
            which nothing reads but for its shape.
    """

    results: Sequence[Any] = ()
    frozen: Mapping[str, Params] = field(default_factory=dict)
    columns: Sequence[RowColumns] = ()
    predicted: Sequence[Tensor] = ()
    predictors: Sequence[Callable[[Tensor], Tensor]] = ()
    report: Mapping[str, Any] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)


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


def resuming(train: Callable[..., TrainedStage], keep: Keep) -> Callable[[int, Advance], None]:
    """Return what `each_seed` calls for trainings that go on from a copy where there is one.

    Args:
        train: Is given a seed, a function to call after every epoch with its number and error, `save` to write a copy
            and `resume`, the copy or None.
        keep: Takes the results.
    """

    def fit(seed: int, advance: Advance) -> None:
        copy = keep.copy(seed)

        def report(epoch: int, error: float) -> None:
            advance(1, seed=seed, epoch=epoch, error=error)

        result = train(seed, report, save=copy.write, resume=copy.read())
        keep(seed, result.tensors(), result.failed)
        copy.remove()

    return fit
