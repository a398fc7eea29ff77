"""Settings of the ensemble dynamics, apart from the networks so that agents name them without importing the learner."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from offdyn_agents.engine.settings import setting
from offdyn_envs.errors import OffDynError

__all__ = ["DynamicsSettings", "EnsembleSettings", "check_elites"]


@dataclass(frozen=True)
class EnsembleSettings:
    """How an ensemble is trained; as it stands, the form of MOPO, MOBILE and MOREC.

    Attributes:
        epochs: Most epochs.
        patience: Epochs without an improvement of any member after which early stopping ends.
        improvement: Relative fall of a member's hold-out error that counts as an improvement.
        members: Size of the ensemble.
        width: Width of the four hidden layers.
        batch_size: Rows of one batch of one member.
        learning_rate: Adam's step size.
        holdout: Share of the rows held out.
        holdout_rows: Most rows held out.
        learned_bounds: Whether the bounds of the log-variance are trained with the network.
        early_stopping: Whether training ends when no member improves any more.
    """

    epochs: int = setting(1000, low=1)
    patience: int = setting(5, low=1)
    improvement: float = setting(0.01, low=0.0, high=1.0)
    members: int = setting(7, low=1)
    width: int = setting(200, low=1)
    batch_size: int = setting(256, low=1)
    learning_rate: float = setting(1e-3, low=0.0, open_low=True)
    holdout: ClassVar[float] = 0.2
    holdout_rows: ClassVar[float] = 1000
    learned_bounds: ClassVar[bool] = True

    @property
    def early_stopping(self) -> bool:
        """Whether training ends when no member improves any more."""
        return True

    @property
    def annealed(self) -> bool:
        """Whether the rate falls to 0 over the epochs, as a cosine."""
        return False

    @property
    def standardised(self) -> bool:
        """Whether members predict (r, s' - s) in units of each one's root mean square."""
        return False


@dataclass(frozen=True)
class DynamicsSettings(EnsembleSettings):
    """How DROCO's ensemble is trained: fixed bounds of the log-variance, a tenth of the rows held out, however many.

    Attributes:
        schedule: "annealed": all epochs, the rate falling to 0; "early-stopping" on a tenth of the rows held out, or
            "published": all epochs at one rate. Members see bootstrap resamples of the nine tenths.
        outputs: "changes" lets members predict (r, s' - s) in units of each one's root mean square; "raw" as they are,
            as published: fixed bounds of the log-variance and a likelihood in raw units then fit velocities alone.
        memory_gb: Predictions for all source rows are kept in memory below this size, else computed on the way. On a
            GPU, whose memory has no other use, six tenths of all it has are allowed in any case.
    """

    epochs: int = setting(80, low=1)
    batch_size: int = setting(128, low=1)
    learning_rate: float = setting(3e-3, low=0.0, open_low=True)
    schedule: str = setting("annealed", choices=("annealed", "early-stopping", "published"))
    outputs: str = setting("changes", choices=("changes", "raw"))
    memory_gb: float = setting(6.0, low=0.0, infinite=True)
    holdout: ClassVar[float] = 0.1
    holdout_rows: ClassVar[float] = math.inf
    learned_bounds: ClassVar[bool] = False

    @property
    def early_stopping(self) -> bool:
        """Whether training ends when no member improves any more."""
        return self.schedule == "early-stopping"

    @property
    def annealed(self) -> bool:
        """Whether the rate falls to 0 over the epochs, as a cosine."""
        return self.schedule == "annealed"

    @property
    def standardised(self) -> bool:
        """Whether members predict (r, s' - s) in units of each one's root mean square."""
        return self.outputs == "changes"


def check_elites(elites: int, dynamics: EnsembleSettings) -> None:
    """Refuse more elites than there are members.

    Raises:
        OffDynError: There are more.
    """
    if elites > dynamics.members:
        raise OffDynError(f"setting elites is {elites}; at most dynamics.members, {dynamics.members}, is allowed")
