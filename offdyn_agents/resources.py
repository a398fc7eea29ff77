"""How long to train, and on what."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from offdyn_envs.errors import OffDynError, unknown

__all__ = ["Budget", "Hardware", "choose_device"]

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Budget:
    """How long to train and how often to look up.

    Attributes:
        updates: Updates of every run.
        evaluate_every: Updates between evaluations.
        chunk: Updates per training step of Lightning.
        checkpoint_seconds: Time between checkpoints.
    """

    updates: int
    evaluate_every: int = 10_000
    chunk: int = 500
    checkpoint_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name in ("updates", "evaluate_every", "chunk"):
            if getattr(self, name) < 1:
                raise OffDynError(f"{name.replace('_', ' ')} is {getattr(self, name)}; at least 1 is allowed")

    def next_chunk(self, done: int, refill_every: int = 0) -> int:
        """Return how many updates come next after `done`; 0 at the end.

        Evaluations, and refills where there are any, fall on ends of chunks.
        """
        every = [self.evaluate_every, *([refill_every] if refill_every else [])]
        return max(0, min(self.chunk, self.updates - done, *(n - done % n for n in every)))


@dataclass(frozen=True)
class Hardware:
    """Where and how exactly to compute.

    Attributes:
        device: "cpu" or "cuda".
        precision: "fp32", or "bf16" for products with rounded operands.
        threads: CPU threads.
        compiled: Whether to compile updates.
    """

    device: str = "cpu"
    precision: str = "fp32"
    threads: int = 1
    compiled: bool = True

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)

    def products(self) -> AbstractContextManager[Any]:
        """Return the context in which a loss is computed."""
        return torch.autocast(self.device, torch.bfloat16) if self.precision == "bf16" else nullcontext()


def choose_device(name: str, cuda: bool | None = None, place: str = "this machine") -> str:
    """Return "cpu" or "cuda" for a name that may be "auto".

    Args:
        name: The name.
        cuda: Whether there is a CUDA device; None to look for one on this machine.
        place: What a message calls the place that has none.

    Raises:
        OffDynError: No such device, or none there.
    """
    cuda = torch.cuda.is_available() if cuda is None else cuda
    if name not in ("auto", "cpu", "cuda"):
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not cuda:
        raise OffDynError(f"device 'cuda' is not on {place}; cpu is allowed")
    return ("cuda" if cuda else "cpu") if name == "auto" else name
