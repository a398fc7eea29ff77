"""Settings of the ensemble dynamics, apart from the networks so that agents name them without importing the learner."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from offdyn_agents.engine.settings import setting
from offdyn_envs.errors import OffDynError

__all__ = ["PUBLISHED", "DynamicsSettings", "EnsembleSettings", "GaussianSettings", "check_elites"]

PUBLISHED: dict[str, Any] = {
    "schedule": "early-stopping",
    "outputs": "raw",
    "target_share": 0.0,
    "learning_rate": 1e-3,
}
"""How MOPO, MOBILE, MICRO and MOREC were published: raw outputs, trained until no member improves any more."""


@dataclass(frozen=True)
class GaussianSettings:
    """What all Gaussian ensembles have in common.

    Attributes:
        epochs: Most passes over the rows.
        patience: Epochs without an improvement of any member after which early stopping ends.
        improvement: Relative fall of a member's hold-out error that counts as an improvement.
        members: Size of the ensemble.
        width: Width of the four hidden layers.
        batch_size: Rows of one batch of one member.
        learning_rate: Adam's step size.
        schedule: "annealed": all steps, the rate falling to 0; "early-stopping" on the rows held out, or "published":
            all epochs at one rate. Members see bootstrap resamples of the other rows.
        outputs: "changes" lets members predict (r, s' - s) in units of each one's root mean square, in which held-out
            errors are then too; "raw" as they are, as published: the loss, the bounds of the log-variance and the
            choice of elites then see velocities alone.
        holdout: Share of the rows held out.
        holdout_rows: Most rows held out.
        learned_bounds: Whether the bounds of the log-variance are trained with the network.
        updates: Most steps where they are annealed; 0 for as many as `epochs` passes make.
        target_share: Share of target rows in what members of a merged ensemble see, and in the rows held out; 0 for
            their share of all rows.
    """

    epochs: int = setting(80, low=1)
    patience: int = setting(5, low=1)
    improvement: float = setting(0.01, low=0.0, high=1.0)
    members: int = setting(7, low=1)
    width: int = setting(200, low=1)
    batch_size: int = setting(256, low=1)
    learning_rate: float = setting(3e-3, low=0.0, open_low=True)
    schedule: str = setting("annealed", choices=("annealed", "early-stopping", "published"))
    outputs: str = setting("changes", choices=("changes", "raw"))
    holdout: ClassVar[float] = 0.2
    holdout_rows: ClassVar[float] = 1000
    learned_bounds: ClassVar[bool] = True
    updates: ClassVar[int] = 0
    target_share: ClassVar[float] = 0.0

    @property
    def early_stopping(self) -> bool:
        """Whether training ends when no member improves any more."""
        return self.schedule == "early-stopping"

    @property
    def annealed(self) -> bool:
        """Whether the rate falls to 0 over all steps, as a cosine."""
        return self.schedule == "annealed"

    @property
    def standardised(self) -> bool:
        """Whether members predict (r, s' - s) in units of each one's root mean square."""
        return self.outputs == "changes"

    def held(self, rows: int) -> int:
        """Return how many of some rows are held out."""
        return max(1, int(min(self.holdout_rows, round(self.holdout * rows))))

    def steps(self, rows: int) -> int:
        """Return the most steps of a training on some rows."""
        steps = self.epochs * self._pass(rows)
        return min(steps, self.updates) if self.annealed and self.updates else steps

    def passes(self, rows: int) -> int:
        """Return the most passes over some rows, the last of which may be cut short."""
        return math.ceil(self.steps(rows) / self._pass(rows))

    def _pass(self, rows: int) -> int:
        """Return the steps of a pass over those of some rows that are not held out."""
        return max(1, (rows - self.held(rows)) // self.batch_size)


@dataclass(frozen=True)
class EnsembleSettings(GaussianSettings):
    """How the ensemble of MOPO, MOBILE, MICRO and MOREC is trained: learned bounds of the log-variance.

    On a million source and 5,000 target rows the steps are 2.5 passes, a quarter of what early stopping is allowed in
    this suite's recorded runs, with a third of its error on target rows (docs/results/learned-dynamics.md).

    Attributes:
        updates: Most steps where they are annealed; 0 for as many as `epochs` passes make.
        target_share: Share of target rows in what members of a merged ensemble see, and in the rows held out; 0 for
            their share of all rows.
    """

    updates: int = setting(10_000, low=0)  # pyright: ignore[reportIncompatibleVariableOverride]
    target_share: float = setting(0.2, low=0.0, high=0.9)  # pyright: ignore[reportIncompatibleVariableOverride]


@dataclass(frozen=True)
class DynamicsSettings(GaussianSettings):
    """How DROCO's ensemble is trained: fixed bounds of the log-variance, a tenth of the rows held out, however many.

    Attributes:
        memory_gb: Predictions for all source rows are kept in memory below this size, else computed on the way. On a
            GPU, whose memory has no other use, six tenths of all it has are allowed in any case.
    """

    batch_size: int = setting(128, low=1)
    memory_gb: float = setting(6.0, low=0.0, infinite=True)
    holdout: ClassVar[float] = 0.1
    holdout_rows: ClassVar[float] = math.inf
    learned_bounds: ClassVar[bool] = False


def check_elites(elites: int, dynamics: GaussianSettings) -> None:
    """Refuse more elites than there are members.

    Raises:
        OffDynError: There are more.
    """
    if elites > dynamics.members:
        raise OffDynError(f"setting elites is {elites}; at most dynamics.members, {dynamics.members}, is allowed")
