"""Packed rows: what one transition is on the device, and what a batch of them is to a loss.

One transition is one contiguous line of a table, so that drawing a batch touches each row once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offdyn_envs.errors import OffDynError

__all__ = [
    "Batch",
    "Layout",
    "RowColumns",
    "RowCounts",
    "RowRange",
    "RunRows",
    "Transitions",
    "every",
    "last_packed",
    "last_rows",
    "pack",
]


class Batch(NamedTuple):
    """Transitions of one update; source rows first, then target rows, then rows of model rollouts.

    Attributes:
        observations: s, [*lead, B, |S|].
        actions: a, [*lead, B, |A|].
        rewards: r, [*lead, B].
        next_observations: s', [*lead, B, |S|].
        continues: 1 - terminated, [*lead, B].
        predicted: next states of the source rows under an ensemble, [*lead, source rows, members, |S|]; None for
            agents that use none.
        source_rows: Number of source rows among the B.
        fake_rows: Number of rows of model rollouts among the B, at the end.
        noise: Standard normal numbers from the run's own generator, [*lead, B, K] with K = `Agent.noise_width`; None
            where that is 0.
        phase: Which of `Agent.phases` this update is.
        columns: What `Agent.columns` names, of the source rows, [*lead, source rows] or [*lead, source rows, k].
        target_columns: The same of the target rows; zeros where no stage speaks of them.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    continues: Tensor
    predicted: Tensor | None
    source_rows: int
    fake_rows: int = 0
    noise: Tensor | None = None
    phase: str = ""
    columns: Mapping[str, Tensor] = {}
    target_columns: Mapping[str, Tensor] = {}


@dataclass(frozen=True)
class RowColumns:
    """What a stage says of each of one run's N source rows; None says nothing.

    Attributes:
        rewards: Added to r, [N].
        actions: In the place of a, [N, |A|].
        keep: Rows that are drawn, bool [N]; the others never are.
        extras: What a loss reads beside the rows, by the names of `Agent.columns`, [N] or [N, k].
        target: The same of each of the run's M target rows, [M] or [M, k]; nothing where all are alike.
    """

    rewards: Tensor | None = None
    actions: Tensor | None = None
    keep: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    target: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def named(self) -> dict[str, Tensor]:
        """Return all columns that there are, by name."""
        own = {"rewards": self.rewards, "actions": self.actions, "keep": self.keep}
        return {name: column for name, column in own.items() if column is not None} | dict(self.extras)

    def figures(self) -> dict[str, dict[str, float]]:
        """Return mean, standard deviation, smallest and largest number of each column, and the share that is kept."""
        found = {name: _figures(column) for name, column in self.named().items() if name != "keep"}
        found |= {f"target {name}": _figures(column) for name, column in self.target.items()}
        kept = {} if self.keep is None else {"keep": {"share": float(self.keep.double().mean())}}
        return found | kept

    def fault(self, rows: int, target: int = 0) -> str:
        """Return why runs cannot learn with these columns of so many source and target rows; "" where they can."""
        for columns, size, what in ((self.named(), rows, "column"), (self.target, target, "target column")):
            for name, column in columns.items():
                if len(column) != size:
                    return f"{what} '{name}' has {len(column)} rows, not {size}"
                if not bool(torch.isfinite(column).all()):
                    return f"{what} '{name}' is not finite"
        weights = self.extras.get("weights")
        if weights is not None and bool((weights < 0).any()):
            return "column 'weights' has numbers below 0"
        return "column 'keep' keeps no row" if self.keep is not None and not bool(self.keep.any()) else ""


def _figures(column: Tensor) -> dict[str, float]:
    wide = column.double()
    numbers = (wide.mean(), wide.std(correction=0), wide.min(), wide.max())
    return {name: float(number) for name, number in zip(("mean", "std", "min", "max"), numbers, strict=True)}


class RowCounts(NamedTuple):
    """Rows of one batch that come from each dataset, and from the run's own model rollouts."""

    source: int
    target: int
    fake: int = 0


class RowRange(NamedTuple):
    """Neighbouring rows of a table."""

    start: int
    length: int


class RunRows(NamedTuple):
    """Where the rows of one run lie in the table; runs of several tasks differ."""

    source: RowRange
    target: RowRange


class Transitions(Protocol):
    """What is needed of a dataset: `offdyn_envs.load_dataset` returns it, and tests make it from arrays."""

    observations: Any
    actions: Any
    next_observations: Any
    rewards: Any
    terminations: Any


def last_rows(data: Any) -> NDArray[np.bool_]:
    """Return which rows of a dataset are the last of their episode, bool [N].

    An episode ends where `terminations` or, if there are any, `truncations` say so, where the next row does not go on
    from a row's next observation, and at the end.

    Args:
        data: Arrays [N, ...]; `observations` may be missing too.
    """
    last = np.array(data.terminations, dtype=bool)
    truncations, observations = getattr(data, "truncations", None), getattr(data, "observations", None)
    if truncations is not None:
        last |= np.asarray(truncations, dtype=bool)
    if observations is not None:
        last[:-1] |= (np.asarray(observations)[1:] != np.asarray(data.next_observations)[:-1]).any(axis=1)
    last[-1:] = True
    return last


class Layout:
    """Where the parts of a transition lie in a packed row.

    Args:
        observation_dim: |S|.
        action_dim: |A|.
        columns: What follows a packed row in a batch, names and widths, 0 for one number: `Agent.columns`.
    """

    def __init__(self, observation_dim: int, action_dim: int, columns: Mapping[str, int] | None = None) -> None:
        self.observation_dim = observation_dim
        self.action_dim = action_dim
        self.columns = dict(columns or {})
        self.width = 2 * observation_dim + action_dim + 2

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return s, a, s', r and m = 1 - terminated of rows [*lead, W], as views."""
        s, a = self.observation_dim, self.action_dim
        observations, actions, following, tail = rows.split([s, a, s, 2], dim=-1)
        return observations, actions, following, tail[..., 0], tail[..., 1]

    def join(self, observations: Tensor, actions: Tensor, following: Tensor, rewards: Tensor, ends: Tensor) -> Tensor:
        """Return packed rows [*lead, W]; the inverse of `split`, from terminations (bool) instead of m."""
        tail = torch.stack([rewards, (~ends).to(rewards.dtype)], dim=-1)
        return torch.cat([observations, actions, following, tail], dim=-1)

    def batch(
        self,
        rows: Tensor,
        predicted: Tensor | None,
        counts: RowCounts,
        noise: Tensor | None = None,
        phase: str = "",
    ) -> Batch:
        """Return packed rows [*lead, B, W], columns behind them, and what goes with them, as a batch."""
        observations, actions, following, rewards, continues = self.split(rows[..., : self.width])
        parts = (observations, actions, rewards, following, continues)
        source, target, _ = rows[..., self.width :].split(list(counts), dim=-2)
        columns = (self._columns(source), self._columns(target))
        return Batch(*parts, predicted, counts.source, counts.fake, noise, phase, *columns)

    def _columns(self, packed: Tensor) -> dict[str, Tensor]:
        """Return columns by name of what stands behind rows, [*lead, rows, .]."""
        if not self.columns:
            return {}
        parts = packed.split([max(width, 1) for width in self.columns.values()], dim=-1)
        named = zip(self.columns.items(), parts, strict=True)
        return {name: part if width else part.squeeze(-1) for (name, width), part in named}

    def behind(self, columns: Mapping[str, Tensor]) -> Tensor:
        """Return the columns of N rows that a loss reads, as they stand behind packed rows, [N, .]."""
        return torch.cat([columns[name].reshape(-1, max(width, 1)) for name, width in self.columns.items()], 1)

    @property
    def reward_column(self) -> int:
        """Where r lies in a packed row."""
        return self.width - 2

    @property
    def action_columns(self) -> slice:
        """Where a lies in a packed row."""
        return slice(self.observation_dim, self.observation_dim + self.action_dim)


def every(rows: Tensor, step: int) -> Tensor:
    """Return one of each `step` rows [*lead, n, k], always at the same place, and at least one."""
    return rows[..., min(step // 2, rows.shape[-2] - 1) :: step, :]


def last_packed(layout: Layout, rows: Tensor) -> Tensor:
    """Return which packed rows [N, W] of a dataset in order are the last of their episode, bool [N].

    An episode ends with a terminal row, where the next row does not begin at a row's next state, and at the end.

    Args:
        layout: Layout of packed rows.
        rows: Packed rows [N, W].
    """
    observations, _, following, _, continues = layout.split(rows)
    last = continues == 0.0
    last[:-1] |= (observations[1:] != following[:-1]).any(-1)
    last[-1:] = True
    return last


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
