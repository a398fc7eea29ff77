"""Packed rows: what one transition is on the device, and what a batch of them is to a loss.

One transition is one contiguous line of a table, so that drawing a batch touches each row once.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offdyn_envs.errors import OffDynError

__all__ = ["Batch", "Layout", "RowCounts", "RowRange", "RunRows", "Transitions", "last_packed", "last_rows", "pack"]


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
        """Return packed rows [*lead, B, W], and what goes with them, as a batch."""
        observations, actions, following, rewards, continues = self.split(rows)
        parts = (observations, actions, rewards, following, continues)
        return Batch(*parts, predicted, counts.source, counts.fake, noise, phase)

    @property
    def reward_column(self) -> int:
        """Where r lies in a packed row."""
        return self.width - 2


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
