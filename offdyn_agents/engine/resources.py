"""How long to train, and on what."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from offdyn_agents.engine.products import rounded_products
from offdyn_envs.errors import OffDynError, unknown

__all__ = ["Budget", "Hardware", "choose_device", "room"]

PRECISIONS = ("fp32", "tf32", "bf16")
GPU_SHARE = 0.6
"""Of a GPU's memory that may be filled for speed alone."""


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
        precision: "fp32"; or "tf32" (GPUs alone) or "bf16" for products whose operands are rounded to 10 or 7 bits.
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
        if self.precision == "tf32" and self.device == "cpu":
            raise OffDynError("precision 'tf32' is for GPUs; fp32 and bf16 are allowed on 'cpu'")

    def budget(self, updates: int, evaluate_every: int) -> Budget:
        """Return the budget of a command: chunks are longer on a GPU, where starting one costs more than its work."""
        return Budget(updates, min(evaluate_every, updates), 500 if self.device == "cpu" else 2_000)

    def products(self) -> AbstractContextManager[Any]:
        """Return the context in which a loss is computed."""
        return rounded_products(self.device, self.precision)

    @contextmanager
    def rounding(self) -> Generator[None]:
        """Let a GPU's float32 products be of this precision for the block."""
        flags: Any = torch.backends.cuda.matmul
        # Newer versions of PyTorch refuse to be asked by both names in one process.
        name, value = ("fp32_precision", "tf32") if hasattr(flags, "fp32_precision") else ("allow_tf32", True)
        before = getattr(flags, name)
        if self.precision == "tf32":
            setattr(flags, name, value)
        try:
            yield
        finally:
            setattr(flags, name, before)


def room(device: torch.device, least_gb: float) -> float:
    """Return how many bytes may be filled with what could also be computed again and again.

    Args:
        device: Where.
        least_gb: What is allowed in any case, in gigabytes (1e9 bytes).
    """
    least = least_gb * 1e9
    return least if device.type == "cpu" else max(least, GPU_SHARE * torch.cuda.mem_get_info(device)[1])


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
