"""Rollouts of a policy in MOBODY's learned target: rows that are certain enough, their rewards less beta u."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from offdyn_agents.engine.rollouts import RunView

if TYPE_CHECKING:
    from offdyn_agents.models.dual.model import DualDynamics

__all__ = ["Imagined"]


@dataclass
class Imagined:
    """Rows of one refill, as they are made.

    Attributes:
        run: Whose learned dynamics are asked; its report gets the share of rows kept and the mean u of each part.
        beta: Weight with which u is taken off rewards, a scalar.
        unit: In what u is measured; see `DualDynamics.predict`.
        limit: Rows with a larger u are dropped, and so is what would follow them.
        generator: On the CPU.
        parts: Packed rows [n, W] that were kept, of each step.
        tried: Rows imagined, also those that were dropped.
    """

    run: RunView
    beta: Tensor
    unit: str
    limit: float
    generator: torch.Generator
    parts: list[Tensor] = field(default_factory=list)
    tried: int = 0

    def roll_out(self, name: str, act: Callable[[Tensor], Tensor], observations: Tensor, length: int) -> None:
        """Add rollouts of a policy.

        Args:
            name: Of the starts; steps are reported as "<name>_<step>".
            act: Maps observations [n, |S|] to actions [n, |A|].
            observations: First states [N, |S|].
            length: Most steps; a rollout ends earlier where an episode does or where u is over the limit.
        """
        for step in range(1, length + 1):
            if not len(observations):
                break
            observations = self.step(f"{name}_{step}", observations, act(observations))

    def step(self, name: str, observations: Tensor, actions: Tensor) -> Tensor:
        """Add one step from states [N, |S|] with actions [N, |A|], and return the states from which rollouts go on."""
        run = self.run
        dynamics: DualDynamics = run.stages
        found = dynamics.predict(observations, actions, self.generator, self.unit)
        ends, kept = run.terminated(found.following), found.uncertainty <= self.limit
        rewards = found.rewards - self.beta * found.uncertainty
        self.parts.append(run.layout.join(observations, actions, found.following, rewards, ends)[kept])
        self.tried += len(observations)
        run.report[f"{name}_kept"] = float(kept.float().mean())
        run.report[f"{name}_uncertainty"] = float(found.uncertainty.mean())
        return found.following[kept & ~ends]
