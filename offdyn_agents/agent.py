"""What an agent is: its networks, and one loss that is a pure function of parameters and batch, for one run.

Every tensor may carry a run axis in front. A loss reduces over the axes of its own run only, so that the loss of a
population of R runs has shape [R], and the gradient of its sum is every run's own gradient.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from offdyn_agents.networks import Network, Params, policy
from offdyn_agents.settings import setting
from offdyn_envs.errors import unknown

__all__ = ["AGENTS", "Agent", "AgentSettings", "Batch", "RowCounts", "agent_class"]


class Batch(NamedTuple):
    """Transitions of one update; source rows first, then target rows.

    Attributes:
        observations: s, [*lead, B, |S|].
        actions: a, [*lead, B, |A|].
        rewards: r, [*lead, B].
        next_observations: s', [*lead, B, |S|].
        continues: 1 - terminated, [*lead, B].
        predicted: next states of the source rows under an ensemble, [*lead, source rows, members, |S|]; None for
            agents that use none.
        source_rows: Number of source rows among the B.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    continues: Tensor
    predicted: Tensor | None
    source_rows: int


class RowCounts(NamedTuple):
    """Rows of one batch that come from each dataset."""

    source: int
    target: int


@dataclass(frozen=True)
class AgentSettings:
    """Settings that every agent has.

    Attributes:
        data: Rows to learn from: "target", "source", or "merged" (half of a batch from each).
        batch_size: B, rows of one batch.
        width: Width of the two hidden layers.
        learning_rate: Adam's step size.
    """

    data: str = setting("merged", choices=("target", "source", "merged"))
    batch_size: int = setting(256, low=2)
    width: int = setting(256, low=1)
    learning_rate: float = setting(3e-4, low=0.0, open_low=True)


class Agent(abc.ABC):
    """The mathematics of one agent.

    Args:
        settings: Its settings.
        observation_dim: |S|.
        action_dim: |A|.
    """

    name: ClassVar[str]
    settings_class: ClassVar[type[Any]]
    metrics: ClassVar[tuple[str, ...]]
    """Names of what `loss` reports, in order."""
    averaged: ClassVar[tuple[str, ...]] = ()
    """Networks that have a Polyak-averaged copy, which `loss` finds under "<name>_target"."""
    annealed: ClassVar[tuple[str, ...]] = ()
    """Networks whose learning rate is cosine-annealed to 0 over training."""

    def __init__(self, settings: Any, observation_dim: int, action_dim: int) -> None:
        self.settings = settings
        self.observation_dim = observation_dim
        self.action_dim = action_dim

    @abc.abstractmethod
    def networks(self) -> dict[str, Network]:
        """Return the trained networks by name."""

    @abc.abstractmethod
    def loss(self, params: Mapping[str, Params], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of one run (all its parts added: they have no parameters in common) and its metrics.

        Args:
            params: Networks and averaged copies, each with leading axes [*lead].
            batch: Transitions with the same leading axes.

        Returns:
            Loss [*lead] and the tensors [*lead] that `metrics` names.
        """

    def act(self, params: Mapping[str, Params], observations: Tensor) -> Tensor:
        """Return deterministic actions [*lead, batch, |A|] for observations [*lead, batch, |S|]."""
        return policy(params["actor"], observations)

    def rows(self) -> RowCounts:
        """Return how many rows of each dataset a batch holds."""
        size = self.settings.batch_size
        half = size // 2
        return {"source": RowCounts(size, 0), "target": RowCounts(0, size), "merged": RowCounts(half, size - half)}[
            self.settings.data
        ]

    def hidden(self, inputs: int, outputs: int, copies: int = 0) -> Network:
        """Return a network with the agent's two hidden layers."""
        return Network((inputs, self.settings.width, self.settings.width, outputs), copies)

    @property
    def polyak(self) -> float:
        """Share of a network that enters its averaged copy at each update."""
        return 0.0

    @property
    def parameters(self) -> int:
        """Number of trained numbers of one run."""
        return sum(torch.Size(shape).numel() for net in self.networks().values() for shape in net.shapes())


AGENTS = {"iql": "offdyn_agents.iql:IQL", "droco": "offdyn_agents.droco:DROCO", "bc": "offdyn_agents.bc:BC"}
"""Where the class of every agent lives."""


def agent_class(name: str) -> type[Agent]:
    """Return an agent's class by name.

    Raises:
        OffDynError: No such agent; the message names the nearest.
    """
    from importlib import import_module

    if name not in AGENTS:
        raise unknown("agent", name, AGENTS)
    module, _, attribute = AGENTS[name].partition(":")
    return getattr(import_module(module), attribute)
