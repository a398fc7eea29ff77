"""What a discriminator sees of a transition, in units in which a small error shows.

(s, a, s' - s) by the mean and standard deviation of real rows is z. Where changes follow from states and actions almost
linearly, an error of a change that is small beside its spread is still far off the real rows: jointly whitened,

    W z,   W = V diag(max(lambda, floor))^(-1/2) V^T,   V diag(lambda) V^T the correlations of z (ZCA),

the residual of the linear map is itself an input of unit size. With (s, a) whitened alone, directions that the data
hardly visit count as much as others, and the change is an input as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Inputs", "Standardised", "standard_units", "whitening"]

CONSTANT = 1e-6
"""Standard deviation below which a number does not vary, and keeps its size."""
PREFIX = "scaling."


class Inputs(Protocol):
    """How discriminators see transitions."""

    def inputs(self, observations: Tensor, actions: Tensor, following: Tensor) -> Tensor:
        """Return what a discriminator sees of transitions, [*shape, 2 |S| + |A|]."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return the numbers by name."""
        ...


def standard_units(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of columns [N, n]; 1 for what does not vary."""
    std = values.std(0, correction=0)
    return values.mean(0), torch.where(std < CONSTANT, torch.ones_like(std), std)


def whitening(values: Tensor, floor: float) -> Tensor:
    """Return the matrix W [n, n] of ZCA for standardised columns [N, n], for rows on its left: values @ W.

    Args:
        values: Numbers of mean 0 and standard deviation 1, or all 0.
        floor: The smallest eigenvalue of their correlations that is told from smaller ones.
    """
    z = values.double()
    correlations = z.mT @ z / len(z)
    # What does not vary is as good as a number of its own.
    correlations += torch.diag((correlations.diagonal() < CONSTANT).double())
    eigenvalues, vectors = torch.linalg.eigh(correlations)
    return ((vectors * eigenvalues.clamp(min=floor).rsqrt()) @ vectors.mT).to(values.dtype)


@dataclass(frozen=True)
class Standardised:
    """Transitions (s, a, s' - s) by mean and standard deviation of real ones, and whitened if there is a matrix.

    Attributes:
        mean: [2 |S| + |A|].
        std: Likewise.
        matrix: What standardised rows are multiplied with, [2 |S| + |A|, 2 |S| + |A|]; None for nothing.
    """

    mean: Tensor
    std: Tensor
    matrix: Tensor | None = None

    @staticmethod
    def of(observations: Tensor, actions: Tensor, following: Tensor, kind: str, floor: float) -> Standardised:
        """Return the units of real transitions [N, .].

        Args:
            observations: s.
            actions: a.
            following: s'.
            kind: What is whitened: "whitened", all of (s, a, s' - s) jointly; "pairs", (s, a); "standardised", nothing.
            floor: See `whitening`.
        """
        values = torch.cat([observations, actions, following - observations], dim=-1)
        mean, std = standard_units(values)
        if kind == "standardised":
            return Standardised(mean, std)
        count = values.shape[1] if kind == "whitened" else values.shape[1] - following.shape[1]
        matrix = torch.eye(values.shape[1], dtype=values.dtype, device=values.device)
        matrix[:count, :count] = whitening(((values - mean) / std)[:, :count], floor)
        return Standardised(mean, std, matrix)

    def inputs(self, observations: Tensor, actions: Tensor, following: Tensor) -> Tensor:
        """Return what a discriminator sees of transitions, [*shape, 2 |S| + |A|]."""
        z = (torch.cat([observations, actions, following - observations], dim=-1) - self.mean) / self.std
        if self.matrix is None:
            return z
        # Rounded to bf16 the residual would be lost among what it is a difference of.
        with torch.autocast(z.device.type, enabled=False):
            return z @ self.matrix

    def tensors(self) -> dict[str, Tensor]:
        """Return the numbers by name."""
        own = {f"{PREFIX}mean": self.mean, f"{PREFIX}std": self.std}
        return own if self.matrix is None else own | {f"{PREFIX}matrix": self.matrix}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> Standardised:
        """Return what `tensors` described.

        Raises:
            KeyError: Something is missing.
        """
        return Standardised(tensors[f"{PREFIX}mean"], tensors[f"{PREFIX}std"], tensors.get(f"{PREFIX}matrix"))
