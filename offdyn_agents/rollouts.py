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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offdyn_agents.agent import Agent
from offdyn_agents.data import Layout, Sampler, Supply, stream
from offdyn_agents.networks import Params, member
from offdyn_agents.products import threads_inside
from offdyn_agents.termination import Termination
from offdyn_agents.update import Groups
from offdyn_envs.errors import OffDynError

__all__ = ["ModelBased", "Refill", "RolloutBuffer", "RunView"]


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


class RolloutBuffer:
    """A ring of packed rows in a memory-mapped file.

    Args:
        path: The file, float32 [capacity, width]; it is made by the first rows.
        capacity: Rows that are kept.
        width: Numbers of a row.
        device: Where rows are wanted; off the CPU a copy of the file lies there.
    """

    def __init__(self, path: Path, capacity: int, width: int, device: str | torch.device = "cpu") -> None:
        self.path, self.capacity, self.width, self.device = path, capacity, width, torch.device(device)
        self.cursor = self.fill = 0
        self._file: np.memmap[Any, np.dtype[np.float32]] | None = None
        # What was never written reads as zeros: a run that stopped early stays in its group on a GPU.
        self._kept = torch.zeros(1, width).expand(capacity, width)
        self._rows = self._kept.to(self.device)

    def add(self, rows: Tensor) -> None:
        """Write rows [n, W] over the oldest ones; of more rows than fit, the last ones stay."""
        self._open()
        rows = rows[-self.capacity :]
        first = rows[: self.capacity - self.cursor]
        self._write(self.cursor, first)
        self._write(0, rows[len(first) :])
        self.cursor = (self.cursor + len(rows)) % self.capacity
        self.fill = min(self.capacity, self.fill + len(rows))

    def rows(self, numbers: Tensor) -> Tensor:
        """Return rows [*shape, W] for numbers [*shape] below `fill`."""
        return self._rows[numbers.reshape(-1)].view(*numbers.shape, -1)

    def state(self) -> list[int]:
        """Return what a checkpoint keeps, once the rows themselves are safe: cursor and number of rows."""
        if self._file is not None:
            self._file.flush()
        return [self.cursor, self.fill]

    def restore(self, state: list[int]) -> None:
        """Go back to a state; the rows themselves are in the file.

        Raises:
            OffDynError: The file with the rows is gone, or of another size.
        """
        cursor, fill = state
        if fill and not self._there:
            raise OffDynError(
                f"'{self.path}' with the {fill} rows of the checkpoint is gone or of another size than {self._size} "
                "bytes; bring it back, or remove the run's folder to start anew"
            )
        self.cursor, self.fill = cursor, fill
        if fill:
            self._open()

    @property
    def _size(self) -> int:
        return 4 * self.capacity * self.width

    @property
    def _there(self) -> bool:
        return self.path.is_file() and self.path.stat().st_size == self._size

    def _open(self) -> None:
        """Map the file; where there is none of the right size, one without rows is made."""
        if self._file is not None:
            return
        if not self._there:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("wb") as file:
                # A sparse file: what is never written takes no room.
                file.truncate(self._size)
        self._file = np.memmap(self.path, dtype=np.float32, mode="r+", shape=(self.capacity, self.width))
        self._kept = torch.from_numpy(self._file)
        self._rows = self._kept.to(self.device)

    def _write(self, start: int, rows: Tensor) -> None:
        self._kept[start : start + len(rows)] = rows.to("cpu")
        if self._rows is not self._kept and self._rows.device.type != "cpu":
            self._rows[start : start + len(rows)] = rows


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
