"""Settings of the ensemble dynamics, apart from the networks so that agents name them without importing the learner."""

from __future__ import annotations

from dataclasses import dataclass

from offdyn_agents.settings import setting

__all__ = ["DynamicsSettings"]


@dataclass(frozen=True)
class DynamicsSettings:
    """How the ensemble is trained.

    Attributes:
        schedule: "early-stopping" on a tenth of the rows held out, or "published": a fixed number of epochs on
            bootstrap resamples of nine tenths.
        epochs: Most epochs (the published schedule runs all of them).
        patience: Epochs without an improvement of any member after which early stopping ends.
        improvement: Relative fall of a member's hold-out error that counts as an improvement.
        members: Size of the ensemble.
        width: Width of the four hidden layers.
        batch_size: Rows of one batch of one member.
        learning_rate: Adam's step size.
        memory_gb: Predictions for all source rows are kept in memory below this size, else computed on the way.
    """

    schedule: str = setting("early-stopping", choices=("early-stopping", "published"))
    epochs: int = setting(1000, low=1)
    patience: int = setting(5, low=1)
    improvement: float = setting(0.01, low=0.0, high=1.0)
    members: int = setting(7, low=1)
    width: int = setting(200, low=1)
    batch_size: int = setting(256, low=1)
    learning_rate: float = setting(1e-3, low=0.0, open_low=True)
    memory_gb: float = setting(6.0, low=0.0, infinite=True)
