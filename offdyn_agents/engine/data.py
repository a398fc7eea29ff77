"""Datasets on the device, and which of their rows each run sees when.

Each run draws from its own generator, on the CPU: what a seed sees depends neither on the device, nor on the other runs
of its population, nor on how its updates are cut into chunks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from offdyn_agents.engine.buffers import RolloutBuffer
from offdyn_agents.engine.rows import Layout, RowColumns, RowCounts, RunRows

__all__ = ["Predictor", "Sampler", "Supply", "stream"]

Predictor = Callable[[int, Tensor], Tensor]
"""Maps a run's number and packed rows [N, W] to predicted next states [N, members, |S|]."""

_DRAW = 2**62
_STREAMS = {"rows": 1, "noise": 2, "refill": 3, "ensemble": 4}
"""Every purpose has a stream of its own; that of the initial parameters is the bare seed."""


def stream(seed: int, purpose: str, *more: int) -> int:
    """Return the seed of a generator that serves one purpose of one run.

    A bare sum of seed and purpose would not do: PyTorch's CPU generator keeps 32 bits of what it is given.

    Args:
        seed: Seed of the run.
        purpose: "rows", "noise", "refill", "ensemble", or any other text for a stage's own stream.
        more: Further numbers at least 0, for example how many updates were done.
    """
    tag = _STREAMS.get(purpose) or int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    # Zeros at the end of the words would not count: how many there are is one of them.
    words = [seed, tag, *([len(more), *more] if more else [])]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


class Sampler:
    """Draws row numbers, and noise, for every run of a population.

    Args:
        seeds: Seed of each run.
        source: (first row, number of rows) of each run's source rows in the table; runs of several tasks differ.
        target: The same of its target rows.
        rows: Rows of each kind in a batch.
        fake: First number of the rows of model rollouts, which every run has of its own.
        noise_width: Standard normal numbers for each row of a batch.
        keep: Which source rows are drawn, bool [source rows] for each run, None for all; or None for all of every run.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        source: Sequence[tuple[int, int]],
        target: Sequence[tuple[int, int]],
        rows: RowCounts,
        fake: int = 0,
        noise_width: int = 0,
        keep: Sequence[Tensor | None] | None = None,
    ) -> None:
        self.generators = [torch.Generator().manual_seed(stream(seed, "rows")) for seed in seeds]
        self.noises = [torch.Generator().manual_seed(stream(seed, "noise")) for seed in seeds]
        self._noise_shape = (sum(rows), noise_width)
        repeats = torch.tensor(rows)
        # An empty part has no rows to draw; one row that is never drawn keeps the arithmetic whole.
        bounds = torch.tensor(
            [[a[0], max(a[1], 1), b[0], max(b[1], 1), fake, 1] for a, b in zip(source, target, strict=True)]
        ).view(len(seeds), 3, 2)
        self._starts = bounds[:, :, 0].repeat_interleave(repeats, dim=1)
        self._counts = bounds[:, :, 1].repeat_interleave(repeats, dim=1)
        self._fake = rows.fake
        self._kept: dict[int, Tensor] = {}
        for run, mask in enumerate(keep or ()):
            if mask is not None:
                self._kept[run] = mask.cpu().nonzero()[:, 0] + source[run][0]
                self._counts[run, : rows.source] = len(self._kept[run])
        self._source = rows.source

    def draw(self, updates: int, device: torch.device | str = "cpu") -> Tensor:
        """Return row numbers [R, updates, B] on a device, uniform with replacement; the same ones on every device."""
        size = self._starts.shape[1]
        drawn = [torch.randint(_DRAW, (updates, size), generator=generator) for generator in self.generators]
        numbers = torch.stack(drawn).to(device)
        places = numbers % self._counts[:, None].to(device)
        found = places + self._starts[:, None].to(device)
        for run, kept in self._kept.items():
            found[run, :, : self._source] = kept.to(device)[places[run, :, : self._source]]
        return found

    def noise(self, run: int, updates: int) -> Tensor | None:
        """Return one run's standard normal numbers [updates, B, K], None for K = 0."""
        if not self._noise_shape[1]:
            return None
        # One update at a time: PyTorch draws normal numbers in blocks, so a longer draw is not two shorter ones.
        parts = [torch.randn(self._noise_shape, generator=self.noises[run]) for _ in range(updates)]
        return torch.stack(parts)

    def filled(self, run: int, count: int) -> None:
        """Say how many rows of model rollouts a run has."""
        if self._fake:
            self._counts[run, -self._fake :] = max(count, 1)

    def state(self) -> list[list[Tensor]]:
        """Return the states of each run's generators."""
        return [[rows.get_state(), noise.get_state()] for rows, noise in zip(self.generators, self.noises, strict=True)]

    def restore(self, states: Sequence[Sequence[Tensor]]) -> None:
        """Set the generators' states."""
        for rows, noise, state in zip(self.generators, self.noises, states, strict=True):
            rows.set_state(state[0].cpu())
            noise.set_state(state[1].cpu())


class Supply:
    """The table on the device and what goes with its rows.

    Args:
        table: Packed rows [N, W].
        layout: Their layout.
        predicted: Predicted next states of each run's source rows, R times [source rows, members, |S|], or None.
        predictor: Computes what `predicted` would hold, for runs too short (or tables too large) to keep it.
        rows: Where each run's rows lie; by default every run's source rows begin the table.
        columns: What is said of each run's source rows, or None.
        buffers: Rows of model rollouts of each run, numbered from N on, or None.
    """

    def __init__(
        self,
        table: Tensor,
        layout: Layout,
        predicted: Sequence[Tensor] | None = None,
        predictor: Predictor | None = None,
        *,
        rows: Sequence[RunRows] | None = None,
        columns: Sequence[RowColumns] | None = None,
        buffers: Sequence[RolloutBuffer] | None = None,
    ) -> None:
        self.table = table
        self.layout = layout
        self.predicted = predicted
        self.predictor = predictor
        self.run_rows = rows
        self.columns = columns
        self._packed: list[tuple[Tensor, Tensor | None]] | None = None
        self.buffers = buffers

    def rows(self, numbers: Tensor) -> Tensor:
        """Return packed rows [*shape, W] of the table for row numbers [*shape]."""
        return self.table[numbers.reshape(-1)].view(*numbers.shape, -1)

    def source_start(self, run: int) -> int:
        """Return the number of a run's first source row."""
        return 0 if self.run_rows is None else self.run_rows[run].source.start

    def batches(self, runs: range, numbers: Tensor, counts: RowCounts) -> tuple[Tensor, Tensor | None]:
        """Return what some runs learn from in some updates.

        Args:
            runs: Neighbouring runs.
            numbers: Their row numbers [runs, U, B].
            counts: Rows of each kind among the B.

        Returns:
            Packed rows [U, runs, B, W] with the columns that a loss reads behind them, and predicted next states
            [U, runs, source rows, members, |S|] or None.
        """
        known = counts.source + counts.target
        # Contiguous: an update is compiled for the strides of its arguments.
        rows = self.rows(numbers[:, :, :known].transpose(0, 1).contiguous())
        source = numbers[:, :, : counts.source]
        predicted = [self.predictions(run, source[i], rows[:, i, : counts.source]) for i, run in enumerate(runs)]
        for i, run in enumerate(runs if self.columns is not None else ()):
            self._edit(rows[:, i, : counts.source], run, source[i] - self.source_start(run))
        if self.buffers is not None:
            fake = numbers[:, :, known:] - len(self.table)
            parts = [self.buffers[run].rows(fake[i]) for i, run in enumerate(runs)]
            rows = torch.cat([rows, torch.stack(parts, dim=1)], dim=2)
        if self.layout.columns:
            rows = torch.cat([rows, self._behind(runs, numbers, counts, rows)], dim=-1)
        found = [part for part in predicted if part is not None]
        return rows, torch.stack(found, dim=1) if found else None

    def _edit(self, rows: Tensor, run: int, places: Tensor) -> None:
        """Change rewards and actions of a run's source rows [U, source rows, W] at these places among them."""
        assert self.columns is not None
        columns, flat = self.columns[run], places.reshape(-1)
        if columns.rewards is not None:
            rows[..., self.layout.reward_column] += columns.rewards[flat].view(places.shape)
        if columns.actions is not None:
            rows[..., self.layout.action_columns] = columns.actions[flat].view(*places.shape, -1)

    def _behind(self, runs: range, numbers: Tensor, counts: RowCounts, rows: Tensor) -> Tensor:
        """Return what stands behind rows [U, runs, B, W]: columns of the rows with these numbers, zeros elsewhere."""
        columns = self._packed_columns()
        found = rows.new_zeros(*rows.shape[:3], columns[0][0].shape[1])
        known = counts.source + counts.target
        for i, run in enumerate(runs):
            source, target = columns[run]
            places = numbers[i, :, : counts.source] - self.source_start(run)
            found[:, i, : counts.source] = source[places.reshape(-1)].view(*places.shape, -1)
            if target is not None:
                assert self.run_rows is not None
                places = numbers[i, :, counts.source : known] - self.run_rows[run].target.start
                found[:, i, counts.source : known] = target[places.reshape(-1)].view(*places.shape, -1)
        return found

    def _packed_columns(self) -> list[tuple[Tensor, Tensor | None]]:
        """Return the columns that a loss reads of each run's source and target rows, side by side."""
        if self._packed is None:
            assert self.columns is not None
            behind = self.layout.behind
            self._packed = [
                (behind(said.extras), behind(said.target) if said.target else None) for said in self.columns
            ]
        return self._packed

    def predictions(self, run: int, numbers: Tensor, rows: Tensor) -> Tensor | None:
        """Return predicted next states of one run's source rows.

        Args:
            run: Number of the run.
            numbers: Row numbers [U, source rows].
            rows: The packed rows [U, source rows, W].

        Returns:
            [U, source rows, members, |S|], or None for agents that use none.
        """
        if self.predicted is not None:
            table = self.predicted[run]
            return table[(numbers - self.source_start(run)).reshape(-1)].view(*numbers.shape, *table.shape[1:])
        if self.predictor is None:
            return None
        flat = self.predictor(run, rows.flatten(0, 1))
        return flat.view(*numbers.shape, *flat.shape[1:])
