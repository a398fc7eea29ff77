"""Datasets on the device, and which of their rows each run sees when.

Rows are packed: one transition is one contiguous line of the table, so that drawing a batch touches each row once. Each
run draws from its own generator, on the CPU: what a seed sees depends neither on the device, nor on the other runs of
its population, nor on how its updates are cut into chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from offdyn_agents.agent import Batch, RowCounts
from offdyn_envs.errors import OffDynError

__all__ = ["Layout", "Sampler", "Supply", "Transitions", "pack"]

Predictor = Callable[[int, Tensor], Tensor]
"""Maps a run's number and packed rows [N, W] to predicted next states [N, members, |S|]."""

_DRAW = 2**62


class Transitions(Protocol):
    """What is needed of a dataset: `offdyn_envs.load_dataset` returns it, and tests make it from arrays."""

    observations: Any
    actions: Any
    next_observations: Any
    rewards: Any
    terminations: Any


class Layout:
    """Where the parts of a transition lie in a packed row.

    Args:
        observation_dim: |S|.
        action_dim: |A|.
    """

    def __init__(self, observation_dim: int, action_dim: int) -> None:
        self.observation_dim = observation_dim
        self.action_dim = action_dim
        self.width = 2 * observation_dim + action_dim + 2

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return s, a, s', r and m = 1 - terminated of rows [*lead, W], as views."""
        s, a = self.observation_dim, self.action_dim
        observations, actions, following, tail = rows.split([s, a, s, 2], dim=-1)
        return observations, actions, following, tail[..., 0], tail[..., 1]

    def batch(self, rows: Tensor, predicted: Tensor | None, source_rows: int) -> Batch:
        """Return packed rows [*lead, B, W] as a batch."""
        observations, actions, following, rewards, continues = self.split(rows)
        return Batch(observations, actions, rewards, following, continues, predicted, source_rows)


def pack(data: Transitions, where: str) -> Tensor:
    """Return a dataset as one float32 table [N, W].

    Args:
        data: The dataset.
        where: Its name, for the message.

    Raises:
        OffDynError: Shapes that do not belong together, no rows, or numbers that are not finite.
    """
    observations, actions = np.asarray(data.observations), np.asarray(data.actions)
    following, rewards = np.asarray(data.next_observations), np.asarray(data.rewards)
    continues = 1.0 - np.asarray(data.terminations, dtype=np.float32)
    count = len(rewards)
    if not count or observations.shape != following.shape or not len(observations) == len(actions) == count:
        raise OffDynError(
            f"{where}: observations {observations.shape}, next observations {following.shape}, actions {actions.shape}"
            f" and rewards {rewards.shape} are no dataset; equal, positive numbers of rows are allowed"
        )
    table = np.concatenate(
        [observations, actions, following, rewards[:, None], continues[:, None]], axis=1, dtype=np.float32
    )
    if not np.isfinite(table).all():
        raise OffDynError(f"{where}: row {int(np.argmin(np.isfinite(table).all(axis=1)))} is not finite")
    return torch.from_numpy(table)


class Sampler:
    """Draws row numbers for every run of a population.

    Args:
        seeds: Seed of each run.
        source: (first row, number of rows) of each run's source rows in the table; runs of several tasks differ.
        target: The same of its target rows.
        rows: Rows of each kind in a batch.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        source: Sequence[tuple[int, int]],
        target: Sequence[tuple[int, int]],
        rows: RowCounts,
    ) -> None:
        self.generators = [torch.Generator().manual_seed(_mix(seed)) for seed in seeds]
        repeats = torch.tensor([rows.source, rows.target])
        bounds = torch.tensor([[*a, *b] for a, b in zip(source, target, strict=True)]).view(len(seeds), 2, 2)
        self._starts = bounds[:, :, 0].repeat_interleave(repeats, dim=1)
        self._counts = bounds[:, :, 1].repeat_interleave(repeats, dim=1)

    def draw(self, updates: int) -> Tensor:
        """Return row numbers [R, updates, B], uniform with replacement."""
        size = self._starts.shape[1]
        drawn = [torch.randint(_DRAW, (updates, size), generator=generator) for generator in self.generators]
        return torch.stack(drawn) % self._counts[:, None] + self._starts[:, None]

    def state(self) -> list[Tensor]:
        """Return the generators' states."""
        return [generator.get_state() for generator in self.generators]

    def restore(self, states: Sequence[Tensor]) -> None:
        """Set the generators' states."""
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state.cpu())


class Supply:
    """The table on the device and what goes with its rows.

    Args:
        table: Packed rows [N, W].
        layout: Their layout.
        predicted: Predicted next states of the first rows, [R, source rows, members, |S|], or None.
        predictor: Computes what `predicted` would hold, for runs too short (or tables too large) to keep it.
    """

    def __init__(
        self,
        table: Tensor,
        layout: Layout,
        predicted: Sequence[Tensor] | None = None,
        predictor: Predictor | None = None,
    ) -> None:
        self.table = table
        self.layout = layout
        self.predicted = predicted
        self.predictor = predictor

    def rows(self, numbers: Tensor) -> Tensor:
        """Return packed rows [*shape, W] for row numbers [*shape]."""
        return self.table[numbers.reshape(-1)].view(*numbers.shape, -1)

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
            return table[numbers.reshape(-1)].view(*numbers.shape, *table.shape[1:])
        if self.predictor is None:
            return None
        flat = self.predictor(run, rows.flatten(0, 1))
        return flat.view(*numbers.shape, *flat.shape[1:])


def _mix(seed: int) -> int:
    # Apart from the generator that draws the initial parameters of the same seed.
    return int(np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0] >> 1)
