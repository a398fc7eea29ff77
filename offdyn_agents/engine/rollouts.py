"""Rows that a run makes itself, by rolling its policy out in a learned model, and where they are kept.

Every run has a ring of rows in a memory-mapped file beside its checkpoints, so that checkpoints hold a cursor and no
rows. A checkpoint is written right before every refill: a process killed in the middle of one repeats it with the same
policy and the same generator at the same cursor, and lands on the same bytes.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from offdyn_agents.engine.agent import Agent
from offdyn_agents.engine.data import Sampler, Supply, stream
from offdyn_agents.engine.networks import Params, member
from offdyn_agents.engine.products import threads_inside
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.termination import Termination
from offdyn_agents.engine.update import Groups

__all__ = ["ModelBased", "Refill", "RunView"]


@dataclass(frozen=True)
class RunView:
    """What one run shows to the agent that makes its rollouts.

    Attributes:
        seed: Its seed.
        updates: Updates it has done.
        params: Its networks and averaged copies (under "<name>_target"), and what `Agent.stages` froze, without the
            axis of runs.
        stages: Its results of `Agent.stages`.
        source: Its packed source rows [N, W]; none where batches hold none.
        target: Its packed target rows [M, W]; likewise.
        layout: Layout of packed rows.
        terminated: The robot's termination on observations.
        products: Makes the context of products that may be rounded as the loss's are, for example autocast.
        report: Numbers about this refill, by name; what is written here goes to `rollouts.jsonl`.
    """

    seed: int
    updates: int
    params: Mapping[str, Params]
    stages: Any
    source: Tensor
    target: Tensor
    layout: Layout
    terminated: Termination
    products: Callable[[], AbstractContextManager[Any]] = nullcontext
    report: dict[str, float] = field(default_factory=dict)


class ModelBased(Agent):
    """An agent whose batches hold rows of model rollouts (`RowCounts.fake` of them)."""

    family = "model-based"

    @property
    @abc.abstractmethod
    def refill_every(self) -> int:
        """Updates between two refills; the first is before the first update."""

    @property
    @abc.abstractmethod
    def capacity(self) -> int:
        """Rows that a run keeps; the oldest make room."""

    @abc.abstractmethod
    def refill(self, run: RunView, generator: torch.Generator) -> Tensor:
        """Make rows of one run, without gradients.

        Args:
            run: The run.
            generator: A fresh generator on the CPU, which depends on the run's seed and its updates only; it is all
                that may decide between two outcomes.

        Returns:
            Packed rows [n, W] on the device of the data; n may differ from one refill to the next.
        """


class Refill:
    """Makes new rows for the runs of a population.

    Args:
        agent: The agent.
        seeds: Seed of each run.
        supply: The rows of the data, and the buffers.
        sampler: Is told how many rows every run has.
        results: What the stages gave each run.
        terminations: Of each run's robot.
        products: Makes the context of products that may be rounded as the loss's are, for example autocast.
    """

    def __init__(
        self,
        agent: ModelBased,
        seeds: Sequence[int],
        supply: Supply,
        sampler: Sampler,
        results: Sequence[Any],
        terminations: Sequence[Termination],
        products: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.agent, self.seeds, self.supply, self.sampler = agent, tuple(seeds), supply, sampler
        self.results, self.terminations, self.products = results, terminations, products
        self.log: Callable[[int, dict[str, float]], None] = lambda run, facts: None

    def __call__(
        self, readable: Groups, runs: Sequence[int], updates: int, workers: int, inside: int = 1
    ) -> dict[int, str]:
        """Refill the buffers of some runs.

        Args:
            readable: What a loss may read, [R, ...].
            runs: Which runs.
            updates: Updates done.
            workers: Threads, each at a run of its own; at least one.
            inside: Threads inside an operation.

        Returns:
            Why runs cannot go on, by run: they got rows that are not finite, or none at all.
        """
        views = {run: self._view(readable, run, updates) for run in runs}

        def make(run: int, threads: int) -> Tensor:
            torch.set_num_threads(threads)
            generator = torch.Generator().manual_seed(stream(self.seeds[run], "refill", updates))
            with torch.no_grad():
                return self.agent.refill(views[run], generator)

        made: dict[int, Tensor] = {}
        # Of R runs the last R modulo workers share all threads out among them. Which ones does not depend on who was
        # stopped before: how many threads work inside an operation may change its last bits.
        left = len(self.seeds) % workers
        even = len(self.seeds) - left
        for some, threads in (
            ([run for run in runs if run < even], inside),
            ([run for run in runs if run >= even], workers * inside // max(1, left)),
        ):
            with threads_inside(threads), ThreadPoolExecutor(workers) as pool:
                made |= zip(some, pool.map(make, some, repeat(threads)), strict=True)
        failed: dict[int, str] = {}
        for run, view in views.items():
            why = self._keep(run, view, made[run])
            if why:
                failed[run] = why
        return failed

    def _keep(self, run: int, view: RunView, rows: Tensor) -> str:
        buffers = self.supply.buffers
        assert buffers is not None
        if not bool(torch.isfinite(rows).all()):
            return "a row of its model rollouts is not finite"
        buffers[run].add(rows)
        if not buffers[run].fill:
            return "its model rollouts have no rows; other settings are needed"
        self.sampler.filled(run, buffers[run].fill)
        counts = {"rows": len(rows), "cursor": buffers[run].cursor, "fill": buffers[run].fill}
        self.log(run, {"updates": view.updates, "seed": view.seed, **counts, **view.report})
        return ""

    def _view(self, readable: Groups, run: int, updates: int) -> RunView:
        rows = self.supply.run_rows
        assert rows is not None
        source, target = (self.supply.table[part.start : part.start + part.length] for part in rows[run])
        return RunView(
            seed=self.seeds[run],
            updates=updates,
            params={name: member(tensors, run) for name, tensors in readable.items()},
            stages=self.results[run] if self.results else None,
            source=source,
            target=target,
            layout=self.supply.layout,
            terminated=self.terminations[run],
            products=self.products,
        )
