"""Small datasets without a simulator, and trainings that are cut short or counted."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from offdyn_agents.engine.training.module import PopulationModule

__all__ = ["A", "Killed", "Rows", "S", "dataset", "first_updates", "killed_at"]

S, A = 5, 2
"""|S| and |A|."""


@dataclass
class Rows:
    """Transitions, as datasets hold them.

    Attributes:
        observations: [N, |S|].
        actions: [N, |A|], in [-1, 1].
        next_observations: [N, |S|].
        rewards: [N].
        terminations: [N].
        truncations: [N].
        gap: How far each next state is from what the dynamics without noise give, [N]: made data know it.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    next_observations: NDArray[np.float32]
    rewards: NDArray[np.float32]
    terminations: NDArray[np.bool_]
    truncations: NDArray[np.bool_]
    gap: NDArray[np.float64]


def dataset(rows: int, seed: int, noise: float = 0.05, observation_dim: int = S, action_dim: int = A) -> Rows:
    """Return transitions of linear dynamics with noise; the reward likes small states.

    Args:
        rows: N.
        seed: Decides states, actions and noise; the dynamics are always the same.
        noise: Standard deviation of what is added to next states.
        observation_dim: |S|.
        action_dim: |A|.
    """
    rng = np.random.default_rng(seed)
    observations = rng.standard_normal((rows, observation_dim)).astype(np.float32)
    actions = rng.uniform(-1, 1, (rows, action_dim)).astype(np.float32)
    mix = np.random.default_rng(99).standard_normal((action_dim, observation_dim)).astype(np.float32)
    disturbance = noise * rng.standard_normal(observations.shape)
    change = 0.3 * actions @ mix - 0.1 * observations + disturbance
    return Rows(
        observations=observations,
        actions=actions,
        next_observations=(observations + change).astype(np.float32),
        rewards=-np.square(observations).mean(axis=1).astype(np.float32),
        terminations=rng.random(rows) < 0.02,
        truncations=np.zeros(rows, dtype=bool),
        gap=np.abs(disturbance).mean(axis=1),
    )


class Killed(Exception):
    """Stops a training as hard as one process can stop itself."""


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, updates: int) -> Generator[None]:
    """Whatever trains in the block must reach this update, and dies there."""
    real = PopulationModule.training_step

    def step(self: PopulationModule, batch: Any, batch_idx: int) -> None:
        if self.updates_done >= updates:
            raise Killed
        real(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(PopulationModule, "training_step", step)
        yield


@contextmanager
def first_updates(monkeypatch: pytest.MonkeyPatch) -> Generator[list[int]]:
    """Give the list of how many updates there were before each chunk that is trained in the block: none twice."""
    real, begun = PopulationModule.training_step, list[int]()

    def step(self: PopulationModule, batch: Any, batch_idx: int) -> None:
        before = self.updates_done
        real(self, batch, batch_idx)
        if self.updates_done > before:
            begun.append(before)

    with monkeypatch.context() as patch:
        patch.setattr(PopulationModule, "training_step", step)
        yield begun
