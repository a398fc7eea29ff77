"""What an agent is: its networks, and one loss that is a pure function of parameters and batch, for one run.

Every tensor may carry a run axis in front. A loss reduces over the axes of its own run only, so that the loss of a
population of R runs has shape [R], and the gradient of its sum is every run's own gradient.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from offdyn_agents.engine.networks import Constant, Network, Params, policy
from offdyn_agents.engine.rows import Batch, RowColumns, RowCounts
from offdyn_agents.engine.settings import SUITE, per_run_names, setting
from offdyn_agents.engine.stage_cache import Fitted
from offdyn_agents.engine.stages import StageContext, StageResults

__all__ = ["DATA_CHOICES", "NUMBERS", "Agent", "AgentSettings"]

DATA_CHOICES = ("merged", "source", "target", "oracle")
"""Which rows an agent may learn from; the variants of a method are this setting, not further classes."""
NUMBERS = "numbers"
"""Where, beside the networks, a loss finds the settings that runs differ in; see `Agent.number`."""


@dataclass(frozen=True)
class AgentSettings:
    """Settings that every agent has.

    Attributes:
        data: Rows to learn from: "merged" (half of a batch from each), "source", "target", or "oracle": the target
            rows of the large dataset that the target would have if it were not scarce.
        batch_size: B, rows of one batch.
        width: Width of the two hidden layers.
        learning_rate: Adam's step size.
        form: "suite" for this suite's form of the method, "paper" or "code" for one that was published: the settings
            that the preset has under `forms`.
    """

    data: str = setting("merged", choices=DATA_CHOICES)
    batch_size: int = setting(256, low=2)
    width: int = setting(256, low=1)
    learning_rate: float = setting(3e-4, low=0.0, open_low=True)
    form: str = setting(SUITE, choices=(SUITE, "paper", "code"))


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
    """Names of what `loss` reports, in order; the first in every phase, the others may be left out of some."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Metrics among them that only some settings have."""
    averaged: ClassVar[tuple[str, ...]] = ()
    """Networks that have a Polyak-averaged copy, which `loss` finds under "<name>_target"."""
    annealed: ClassVar[tuple[str, ...]] = ()
    """Networks whose learning rate is cosine-annealed to 0 over training."""
    diagnosis: ClassVar[bool] = False
    """Whether it reads what no method may know, the true target: its runs have no place on a leaderboard."""
    reading: ClassVar[str] = ""
    """What tables say behind its name, as "our reading" of a method of which only an abstract is known."""

    family: ClassVar[str | None] = None
    """Kind of the method on the leaderboard, by which its page filters: one of its `METHOD_FAMILIES`."""

    def __init__(self, settings: Any, observation_dim: int, action_dim: int) -> None:
        self.settings = settings
        self.observation_dim = observation_dim
        self.action_dim = action_dim

    def number(self, params: Mapping[str, Params], name: str, axes: int = 0) -> Any:
        """Return a setting that runs of one population may differ in, for a loss or a refill to read.

        Args:
            params: As `loss` gets them, or a `RunView` has them.
            name: Its name; the setting is declared with `per_run=True`.
            axes: Axes of size one that follow the leading ones, to broadcast against rows and more.

        Returns:
            Float32 [*lead, 1, ...]; the plain setting where `params` knows nothing of runs.
        """
        if NUMBERS not in params:
            return getattr(self.settings, name)
        found = params[NUMBERS][per_run_names(self.settings_class).index(name)]
        return found[(..., *(None,) * axes)]

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases that updates go through in turn, over and over; a delayed actor has ("critic", "both")."""
        return ("",)

    @property
    def noise_width(self) -> int:
        """Standard normal numbers that `loss` needs for each row of a batch, K."""
        return 0

    @property
    def columns(self) -> Mapping[str, int]:
        """What `loss` finds in `Batch.columns`: names, and their widths, 0 for one number of a row."""
        return {}

    @property
    def ratings(self) -> Mapping[str, float]:
        """Columns of its stages that rate source rows, more being better, with the share that is kept by each.

        By name; 1 where none is dropped by it. By default none: there is nothing to grade before the policy is trained.
        """
        return {}

    @abc.abstractmethod
    def networks(self) -> Mapping[str, Network | Constant]:
        """Return the trained networks by name."""

    def trained(self, phase: str) -> tuple[str, ...]:
        """Return the networks that an update of a phase changes."""
        del phase
        return tuple(self.networks())

    def averaging(self, phase: str) -> tuple[str, ...]:
        """Return the networks whose averaged copies an update of a phase moves."""
        del phase
        return self.averaged

    @property
    def rates(self) -> Mapping[str, float]:
        """Adam's step sizes of the networks whose own is not `learning_rate`."""
        return {}

    def stages(self, context: StageContext) -> StageResults:
        """Train what comes before the policy, for all seeds of one task.

        Args:
            context: The rows, the seeds, where results are cached, and the hardware.

        Returns:
            Results of every run; by default none.
        """
        del context
        return StageResults()

    def row_columns(self, context: StageContext) -> Fitted[RowColumns]:
        """Return what the stages say of every source row, for each seed, if need be without what else they learn.

        Args:
            context: As `stages` gets it.
        """
        found = self.stages(context)
        return Fitted(found.columns, found.failed)

    def facts(self, context: StageContext) -> Mapping[str, Params]:
        """Return what the loss reads of the task's rows and nothing has to be trained for, by name.

        Args:
            context: As `stages` gets it.

        Returns:
            Tensors [runs, ...], frozen as those in `StageResults.frozen`; by default none.
        """
        del context
        return {}

    def told(self, facts: Mapping[str, Params]) -> Mapping[str, Any]:
        """Return what run.json says, under "stages", of the facts that the loss reads; by default nothing.

        Args:
            facts: Those of `facts`, or what `stages` froze in their place.
        """
        del facts
        return {}

    @abc.abstractmethod
    def loss(self, params: Mapping[str, Params], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of one run (all its parts added: they have no parameters in common) and its metrics.

        Args:
            params: Networks, averaged copies under "<name>_target", and what `stages` froze for the loss; each with
                leading axes [*lead].
            batch: Transitions with the same leading axes.

        Returns:
            Loss [*lead] and the tensors [*lead] that `metrics` names, as far as this phase has them.
        """

    def deterministic(self, params: Mapping[str, Params]) -> Params:
        """Return the network whose tanh is the deterministic policy: what acts, and what is exported."""
        return params["actor"]

    def exported(self, params: Mapping[str, Params]) -> dict[str, Params]:
        """Return the networks that are written at the end, of states as they come, for the parameters of one run."""
        return {name: params[name] for name in self.networks()} | {"actor": self.deterministic(params)}

    def act(self, params: Mapping[str, Params], observations: Tensor) -> Tensor:
        """Return deterministic actions [*lead, batch, |A|] for observations [*lead, batch, |S|]."""
        return policy(self.deterministic(params), observations)

    def rows(self) -> RowCounts:
        """Return how many rows of each dataset a batch holds."""
        size = self.settings.batch_size
        half = size // 2
        counts = {"source": RowCounts(size, 0), "merged": RowCounts(half, size - half)}
        return counts.get(self.settings.data, RowCounts(0, size))

    @property
    def needs_source(self) -> bool:
        """Whether it learns from source rows; without, they need not be there."""
        return self.rows().source > 0

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
