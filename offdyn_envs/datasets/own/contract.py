"""What the columns of own data are: names, units, bounds of actions, time step. Policies carry it along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offdyn_envs.errors import OffDynError

__all__ = ["Contract", "plain_contract"]

Floats = NDArray[Any]
SLACK = 1e-5
"""How far beyond its bound an action may lie, in units of half the range: what rounding to float32 does."""


@dataclass(frozen=True)
class Contract:
    """The meaning of observations and actions, in the order of their columns.

    Attributes:
        observations: Name of every observation.
        actions: Name of every action.
        observation_units: Unit of each, "" where none is known.
        action_units: Likewise.
        action_low: Smallest value of each action in its own unit; -1 means -1 to a policy.
        action_high: Largest value of each.
        time_step: Seconds between two rows; None where unknown.
    """

    observations: tuple[str, ...]
    actions: tuple[str, ...]
    observation_units: tuple[str, ...]
    action_units: tuple[str, ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    time_step: float | None = None

    def __post_init__(self) -> None:
        sizes = {"observation_units": self.observations, "action_units": self.actions}
        sizes |= {"action_low": self.actions, "action_high": self.actions}
        for name, wanted in sizes.items():
            if len(getattr(self, name)) != len(wanted):
                raise OffDynError(f"{name} has {len(getattr(self, name))} values; {len(wanted)} are wanted")
        for name, low, high in zip(self.actions, self.action_low, self.action_high, strict=True):
            if not (np.isfinite(low) and np.isfinite(high) and low < high):
                raise OffDynError(
                    f"bounds of action '{name}' are [{low}, {high}]; finite numbers, low < high, are allowed"
                )

    @property
    def scaled(self) -> bool:
        """Whether an action in its own units differs from the same action in [-1, 1]."""
        return set(self.action_low) != {-1.0} or set(self.action_high) != {1.0}

    def to_policy(self, actions: Floats, where: str) -> NDArray[np.float32]:
        """Map actions [N, |A|] from their own units to [-1, 1].

        Args:
            actions: In their own units.
            where: What messages call the data.

        Raises:
            OffDynError: An action lies outside its bounds; the line names the row, the action and its bounds.
        """
        low, high = np.array(self.action_low), np.array(self.action_high)
        wide = np.asarray(actions, dtype=np.float64)
        found = wide if not self.scaled else (wide - low) * (2.0 / (high - low)) - 1.0
        outside = np.abs(found) > 1.0 + SLACK
        if outside.any():
            row, column = np.argwhere(outside)[0].tolist()
            bounds = f"[{self.action_low[column]:g}, {self.action_high[column]:g}]"
            raise OffDynError(
                f"{where}: action '{self.actions[column]}' of row {row} is {wide[row, column]:g}; {bounds} is allowed "
                f"({int(outside.any(axis=1).sum()):,} rows lie outside)"
            )
        return np.clip(found, -1.0, 1.0).astype(np.float32)

    def clipped(self, actions: Floats) -> tuple[NDArray[np.float64], int]:
        """Put actions [N, |A|] in their own units within their bounds.

        Returns:
            The actions, and the number of rows with one that lay outside by more than rounding.
        """
        low, high = np.array(self.action_low), np.array(self.action_high)
        wide = np.asarray(actions, dtype=np.float64)
        slack = 0.5 * SLACK * (high - low)
        outside = (wide < low - slack) | (wide > high + slack)
        return np.clip(wide, low, high), int(outside.any(axis=1).sum())

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Contract:
        """Return what `to_json` gave."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in told.items()
        }
        return cls(**values)


def plain_contract(
    observation_dim: int,
    action_dim: int,
    action_low: ArrayLike = -1.0,
    action_high: ArrayLike = 1.0,
    time_step: float | None = None,
) -> Contract:
    """Return the contract of data of which nothing is known but their sizes.

    Args:
        observation_dim: |S|.
        action_dim: |A|.
        action_low: Smallest value of each action, or of all.
        action_high: Largest value of each, or of all.
        time_step: Seconds between two rows.
    """
    low, high = (
        tuple((np.full(action_dim, bound) if np.size(bound) == 1 else np.ravel(bound)).astype(np.float64).tolist())
        for bound in (action_low, action_high)
    )
    return Contract(
        tuple(f"observation_{i}" for i in range(observation_dim)),
        tuple(f"action_{i}" for i in range(action_dim)),
        ("",) * observation_dim,
        ("",) * action_dim,
        low,
        high,
        time_step,
    )
