"""What a user of Python brings to a training: Lightning callbacks, loggers, arguments of the trainer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from offdyn_envs.errors import OffDynError, unknown

__all__ = ["NONE", "QUIET", "Extras"]


@dataclass(frozen=True, eq=False)
class Extras:
    """What a user of Python brings to a training.

    Attributes:
        callbacks: Lightning callbacks, called after the training's own.
        loggers: Lightning loggers, beside the run's own; they get the settings as hyperparameters.
        trainer: Further arguments of `lightning.Trainer`.

    Raises:
        OffDynError: An argument of the trainer that training sets itself.
    """

    callbacks: tuple[Callback, ...] = ()
    loggers: tuple[Logger, ...] = ()
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, items, kind in (("callbacks", self.callbacks, Callback), ("loggers", self.loggers, Logger)):
            for item in items:
                if not isinstance(item, kind):
                    raise OffDynError(f"{what}: {type(item).__name__} is no lightning.pytorch {kind.__name__}")
        known = inspect.signature(lightning.Trainer).parameters
        for name in self.trainer:
            if name in TAKEN:
                raise OffDynError(f"trainer: '{name}' is set by {TAKEN[name]}; other arguments of Trainer are allowed")
            if name not in known:
                raise unknown("argument of trainer", name, [other for other in known if other not in TAKEN])


TAKEN = {
    "accelerator": "device=",
    "devices": "device=",
    "strategy": "the training itself, whose runs are side by side in one process",
    "precision": "precision=",
    "max_epochs": "updates=",
    "max_steps": "updates=",
    "logger": "loggers=",
    "callbacks": "callbacks=",
    "plugins": "the training itself, which keeps a checkpoint for each task",
    "default_root_dir": "out=",
}
"""Arguments of the trainer that are not a user's, and what to use in their place."""
NONE = Extras()
QUIET: Mapping[str, Any] = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
"""What Lightning would do beside training."""
