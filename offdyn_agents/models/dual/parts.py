"""The rows that MOBODY's dynamics are trained on: units, what is held out, and what each member sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from offdyn_agents.engine.rows import Layout, last_packed
from offdyn_agents.models.dual.settings import DualDynamicsSettings

__all__ = ["Part", "Units", "episodes", "error_weights"]

HOLDOUT = 0.2
HOLDOUT_ROWS = {"source": 1000, "target": 500}
EPISODE_ROWS = 1000
"""Most rows held out as whole episodes, but for the first of them."""
SMALLEST = 1e-6
"""What varies less than this is left in its own units."""


LARGEST_WEIGHT = 100.0
"""What an error counts at most: a dimension that hardly moves in one domain is not all of its loss."""


class Units(NamedTuple):
    """What networks take states and changes in.

    Attributes:
        center: A state of zeros, [|S|].
        scale: A step of one, [|S|].
        change: D, the root mean squared change of each dimension, [|S|].
    """

    center: Tensor
    scale: Tensor
    change: Tensor

    @classmethod
    def of(cls, tables: Sequence[Tensor], layout: Layout, settings: DualDynamicsSettings) -> Units:
        """Return the units of packed rows [N, W] of each domain.

        In the difference form all domains count alike, however many rows they have. In the paper's form all rows do,
        and states stay raw unless they are to be standardised.
        """
        tables = [table for table in tables if len(table)]
        parts = [layout.split(table) for table in tables]
        change = torch.stack([(following - s).square().mean(0) for s, _, following, *_ in parts]).mean(0).sqrt()
        if settings.differences:
            center = torch.stack([s.mean(0) for s, *_ in parts]).mean(0)
            scale = torch.stack([(s - center).square().mean(0) for s, *_ in parts]).mean(0).sqrt()
        else:
            states = torch.cat([table[:, : layout.observation_dim] for table in tables])
            if not settings.standardise:
                return cls(torch.zeros_like(states[0]), torch.ones_like(states[0]), _positive(change))
            center, scale = states.mean(0), states.std(0, correction=0)
        return cls(center, _positive(scale), _positive(change))

    def seen(self, rows: Tensor, layout: Layout, settings: DualDynamicsSettings) -> Tensor:
        """Return packed rows as they are learned: states in these units, (s' - s) / D for s' in the difference form."""
        if not settings.differences and not settings.standardise:
            return rows
        s, a, following, *_ = layout.split(rows)
        after = (following - s) / self.change if settings.differences else (following - self.center) / self.scale
        return torch.cat([(s - self.center) / self.scale, a, after, rows[:, -2:]], dim=-1)


def error_weights(rows: Tensor, units: Units, layout: Layout) -> Tensor:
    """Return what squared errors of (s' - s) / D and of rewards count: in units of these rows' own.

    Args:
        rows: Packed rows [N, W] of a domain.
        units: Those of D.
        layout: Layout of packed rows.

    Returns:
        [|S| + 1]: over the mean square of (s' - s) / D, and over the variance of rewards.
    """
    s, _, following, rewards, _ = layout.split(rows)
    squares = ((following - s) / units.change).square().mean(0)
    own = torch.cat([squares, rewards.var(correction=0)[None]])
    return torch.where(own < SMALLEST, torch.ones_like(own), own.clamp(min=1.0 / LARGEST_WEIGHT).reciprocal())


def _positive(scale: Tensor) -> Tensor:
    return torch.where(scale < SMALLEST, torch.ones_like(scale), scale)


def episodes(rows: Tensor, layout: Layout) -> Tensor:
    """Return the number of the episode of each packed row [N, W], int64 [N], on the CPU.

    It ends where the next row does not go on from s'. Rows that were picked here and there are episodes of their own.
    """
    ends = last_packed(layout, rows)[:-1]
    return torch.cat([torch.zeros(1, dtype=torch.int64), ends.cpu().long().cumsum(0)])


def _held_episodes(rows: Tensor, layout: Layout, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the numbers of rows held out, whole episodes of about a fifth of the rows, and of the others.

    Neighbours of a row tell what it is: errors at rows held out one by one are too small. Where every episode is more
    than half of the rows, their last fifth is held out.
    """
    numbers, count = episodes(rows, layout), len(rows)
    lengths, wanted = numbers.bincount(), min(HOLDOUT * count, EPISODE_ROWS)
    order = torch.randperm(len(lengths), generator=generator)
    order = order[lengths[order] <= count / 2]
    if not len(order):
        kept = count - max(1, int(wanted))
        return torch.arange(kept, count), torch.arange(kept) if kept else torch.arange(count)
    held, total = torch.zeros(len(lengths), dtype=torch.bool), 0
    for number, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        if not total or total + length / 2 <= wanted:
            held[number] = True
            total += length
        if total >= wanted:
            break
    return held[numbers].nonzero()[:, 0], (~held[numbers]).nonzero()[:, 0]


class Part:
    """The rows of one domain.

    Args:
        rows: Packed rows [N, W] as they are in the dataset.
        units: What they are learned in.
        domain: Which.
        layout: Layout of packed rows.
        settings: How they are learned.
        generator: Draws what is held out, and resamples.

    Attributes:
        rows: Packed rows as they are learned.
        weights: What errors count in the difference form, [|S| + 1].
        held: Those held out, [n, W].
        kept: Numbers of the others.
        batch: Rows of one step of one member.
        resample: Which of the others each member sees, [members, kept].
    """

    def __init__(
        self,
        rows: Tensor,
        units: Units,
        domain: str,
        layout: Layout,
        settings: DualDynamicsSettings,
        generator: torch.Generator,
    ) -> None:
        self.rows = seen = units.seen(rows, layout, settings)
        self.weights = error_weights(rows, units, layout)
        if settings.differences:
            held, self.kept = _held_episodes(rows, layout, generator)
            self.held = seen[held.to(seen.device)]
        else:
            order = torch.randperm(len(rows), generator=generator)
            count = min(int(HOLDOUT * len(rows)), HOLDOUT_ROWS[domain]) or min(1, len(rows) - 1)
            self.held = seen[order[:count].to(seen.device)] if count else seen
            self.kept = order[count:]
        self.batch = min(_batch(settings, domain), len(self.kept))
        # Every member has its own bootstrap resample of the rows; interleaved, its own order of them is enough.
        self.resample = (
            torch.arange(len(self.kept)).expand(settings.members, -1)
            if settings.interleaved
            else torch.randint(len(self.kept), (settings.members, len(self.kept)), generator=generator)
        )

    def orders(self, generator: torch.Generator, share: float = 1.0) -> list[Tensor]:
        """Return the row numbers [members, batch] of a pass, on the CPU."""
        visited = max(self.batch, int(share * len(self.kept)))
        order = [own[torch.randperm(len(own), generator=generator)[:visited]] for own in self.resample]
        numbers = self.kept[torch.stack(order)]
        return list(numbers[:, : visited - visited % self.batch].split(self.batch, dim=1))

    def draws(self, steps: int, generator: torch.Generator) -> Tensor:
        """Return row numbers [steps, members, batch] drawn with replacement, on the CPU."""
        members, count = self.resample.shape
        places = torch.randint(count, (steps, members, self.batch), generator=generator)
        return (
            self.kept[self.resample.gather(1, places.transpose(0, 1).reshape(members, -1))]
            .view(members, steps, self.batch)
            .transpose(0, 1)
        )


def _batch(settings: DualDynamicsSettings, domain: str) -> int:
    """Return the rows of a step of one member that come from a domain."""
    if not settings.interleaved:
        return settings.batch_size
    if settings.data == "target":
        return settings.source_batch + settings.target_batch
    sizes: Mapping[str, int] = {"source": settings.source_batch, "target": settings.target_batch}
    return sizes[domain]
