"""Generator and behaviour model with the real rows that they begin with: every opponent of a discriminator has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from offdyn_agents.engine.data import stream
from offdyn_agents.engine.networks import Network, Params
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.termination import Termination
from offdyn_agents.models.dynamics_reward.discriminator import Scaling
from offdyn_agents.models.dynamics_reward.generator import Play, Settle, likelihood_loss
from offdyn_agents.models.dynamics_reward.learned import Learned
from offdyn_agents.models.dynamics_reward.settings import DynamicsRewardSettings

__all__ = ["GRADIENT_NORM", "Models", "Part", "parts_state", "restore_parts", "split_rows"]

HOLDOUT, HOLDOUT_ROWS = 0.1, 1000
GRADIENT_NORM = 1.0
LIKELIHOOD_ROWS = 256
"""Rows of a step of likelihood."""


def split_rows(rows: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the rows that train the reward, and those that are held out to judge it: a tenth, at most 1000."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(stream(seed, "reward-holdout")))
    held = min(HOLDOUT_ROWS, int(HOLDOUT * len(rows)))
    order = order.to(rows.device)
    return rows[order[held:]], rows[order[:held]]


class Models:
    """Generator and behaviour model, their likelihood, and real rows as networks see them.

    Args:
        settings: How they are trained.
        layout: Layout of packed rows.
        rows: Packed real rows [N, W] to learn from.
        random: Draws everything.
        terminated: Says which states end an episode.
        settle: Makes drawn actions such as real ones are.
    """

    def __init__(
        self,
        settings: DynamicsRewardSettings,
        layout: Layout,
        rows: Tensor,
        random: torch.Generator,
        terminated: Termination,
        settle: Settle,
    ) -> None:
        self.terminated, self.settle, self.device, self.random = terminated, settle, rows.device, random
        self.states, actions, following, *_ = layout.split(rows)
        s, a, width = layout.observation_dim, layout.action_dim, settings.width
        self.scaling = Scaling.of(self.states, actions, following, settings.changes)
        change = following - self.states
        std = change.std(0, correction=0)
        self.change = torch.stack([change.mean(0), torch.where(std < 1e-6, torch.ones_like(std), std)])
        self.real = self.scaling.inputs(self.states, actions, following)
        self.pairs, self.outputs = self.real[:, : s + a], (change - self.change[0]) / self.change[1]
        self.generator = self.initial(Network((s + a, width, width, 2 * s)))
        behaviour = self.initial(Network((s, width, width, 2 * a)))
        self.fitting = Learned(self.generator, likelihood_loss, settings.generator_rate, GRADIENT_NORM)
        self.cloning = Learned(behaviour, likelihood_loss, settings.generator_rate, GRADIENT_NORM)

    def initial(self, network: Network) -> Params:
        """Return fresh parameters on the device."""
        return [tensor.to(self.device) for tensor in network.initial(self.random)]

    def draw(self, total: int, count: int) -> Tensor:
        """Return `count` row numbers below `total`."""
        return torch.randint(total, (count,), generator=self.random).to(self.device)

    @property
    def steps(self) -> int:
        """Steps of likelihood taken."""
        return self.fitting.steps

    def pretrain(self, steps: int) -> None:
        """Take steps of likelihood with both models."""
        size = self.states.shape[1]
        for _ in range(steps):
            pairs, outputs = self.likelihood_rows()
            self.fitting.step(pairs, outputs)
            self.cloning.step(pairs[:, :size], pairs[:, size:])

    def likelihood_rows(self) -> tuple[Tensor, Tensor]:
        """Draw real rows: normalised (s, a) and changes."""
        chosen = self.draw(len(self.real), LIKELIHOOD_ROWS)
        return self.pairs[chosen], self.outputs[chosen]

    def play(self, generator: Params) -> Play:
        """Return the world that a generator makes."""
        known = (self.scaling, self.change, self.states, self.terminated, self.settle)
        return Play(generator, self.cloning.params, *known)

    def compile(self, threads: int) -> None:
        """Compile the steps."""
        size = self.states.shape[1]
        pairs, outputs = self.pairs[:1].expand(LIKELIHOOD_ROWS, -1), self.outputs[:1].expand(LIKELIHOOD_ROWS, -1)
        self.fitting.compile((pairs.clone(), outputs.clone()), threads)
        self.cloning.compile((pairs[:, :size].clone(), pairs[:, size:].clone()), threads)


class Part(Protocol):
    """What has a state of its own."""

    def state(self) -> dict[str, Tensor]:
        """Return everything that changes, by name."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned."""
        ...


def parts_state(parts: Mapping[str, Part]) -> dict[str, Tensor]:
    """Return the states of several networks in training by name."""
    return {f"{name}.{key}": tensor for name, part in parts.items() for key, tensor in part.state().items()}


def restore_parts(parts: Mapping[str, Part], state: Mapping[str, Tensor]) -> None:
    """Take back what `parts_state` returned.

    Raises:
        KeyError: Something is missing.
    """
    for name, part in parts.items():
        own = f"{name}."
        part.restore({key[len(own) :]: tensor for key, tensor in state.items() if key.startswith(own)})
