"""How long to train, and on what."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from offdyn_agents.engine.products import rounded_products
from offdyn_envs.errors import OffDynError, unknown

__all__ = ["SCHEDULES", "Budget", "Hardware", "choose_device", "room"]

SCHEDULES = ("cosine", "constant")
"""What becomes of the rates of an agent's annealed networks."""

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
        schedule: "cosine", annealed rates fall to 0 over the whole training; or "constant", they stay as they are, so
            that the training may go on later.
        until: Where to stop on the way, so that others may join; 0 for nowhere.
    """

    updates: int
    evaluate_every: int = 10_000
    chunk: int = 500
    checkpoint_seconds: float = 120.0
    schedule: str = "cosine"
    until: int = 0

    def __post_init__(self) -> None:
        for name in ("updates", "evaluate_every", "chunk"):
            if getattr(self, name) < 1:
                raise OffDynError(f"{name.replace('_', ' ')} is {getattr(self, name)}; at least 1 is allowed")
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)

    @property
    def end(self) -> int:
        """The updates after which training stops, at its end or on the way."""
        return min(self.until, self.updates) if self.until else self.updates

    @property
    def horizon(self) -> int:
        """The updates over which annealed rates fall; 0 where they do not."""
        return self.updates if self.schedule == "cosine" else 0

    def next_chunk(self, done: int, refill_every: int = 0) -> int:
        """Return how many updates come next after `done`; 0 at the end.

        Evaluations, and refills where there are any, fall on ends of chunks.
        """
        every = [self.evaluate_every, *([refill_every] if refill_every else [])]
        return max(0, min(self.chunk, self.end - done, *(n - done % n for n in every)))

    def chunk_begun(self, done: int, refill_every: int = 0) -> int:
        """Return where the chunk begins that `done` lies in: `done` itself where a chunk ends there."""
        begun = 0
        while (size := self.next_chunk(begun, refill_every)) and begun + size <= done:
            begun += size
        return begun


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

    def budget(self, updates: int, evaluate_every: int, schedule: str = "cosine") -> Budget:
        """Return the budget of a command: chunks are longer on a GPU, where starting one costs more than its work."""
        chunk = 500 if self.device == "cpu" else 2_000
        return Budget(updates, min(evaluate_every, updates), chunk, schedule=schedule)

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
