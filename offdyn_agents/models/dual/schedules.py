"""In what order MOBODY's dynamics see their rows, and at what rate they learn from them.

Interleaved, the default, every step is on source and target rows, and the rate falls to 0 over a number of steps that
is fixed. In blocks, as published, an epoch is one pass over the source rows, then some over the target rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from offdyn_agents.engine.update import scales
from offdyn_agents.models.dual.model import DOMAINS
from offdyn_agents.models.dual.parts import Part
from offdyn_agents.models.dual.settings import DualDynamicsSettings

__all__ = ["BOTH", "Parts", "Step", "domains_of", "rates", "steps", "stretches", "total_steps"]

BOTH = "both"
"""The step on rows of both domains."""
JUDGEMENTS = 40
"""How often members are judged where steps are interleaved."""

Parts = Mapping[str, Part]
Step = tuple[str, list[Tensor]]
"""What kind of step, and row numbers [members, batch] of each of its domains."""


def stretches(settings: DualDynamicsSettings) -> int:
    """Return in how many parts, each judged at its end, training comes: at most, where it may end early."""
    return min(JUDGEMENTS, settings.updates) if settings.interleaved else settings.epochs


def domains_of(settings: DualDynamicsSettings) -> dict[str, tuple[str, ...]]:
    """Return which domains' rows each kind of step takes."""
    if settings.data == "target":
        return {"target": ("target",)}
    return {BOTH: DOMAINS} if settings.interleaved else {domain: (domain,) for domain in DOMAINS}


def steps(settings: DualDynamicsSettings, parts: Parts, epoch: int, generator: torch.Generator) -> Iterator[Step]:
    """Return the steps of one part of the training.

    Args:
        settings: The schedule.
        parts: The rows of each domain.
        epoch: Which part, from 1.
        generator: Draws rows.
    """
    return (
        _interleaved(settings, parts, epoch, generator) if settings.interleaved else _blocks(settings, parts, generator)
    )


def _interleaved(
    settings: DualDynamicsSettings, parts: Parts, epoch: int, generator: torch.Generator
) -> Iterator[Step]:
    """Yield the steps of a stretch."""
    count = stretches(settings)
    taken = settings.updates * epoch // count - settings.updates * (epoch - 1) // count
    ((kind, domains),) = domains_of(settings).items()
    drawn = [parts[domain].draws(taken, generator) for domain in domains]
    yield from ((kind, list(numbers)) for numbers in zip(*drawn, strict=True))


def _blocks(settings: DualDynamicsSettings, parts: Parts, generator: torch.Generator) -> Iterator[Step]:
    """Yield the steps of an epoch."""
    passes = {"source": 1, "target": settings.target_passes}
    shares = {"source": settings.source_share, "target": 1.0}
    for domain, part in parts.items():
        for _ in range(passes[domain]):
            yield from ((domain, [numbers]) for numbers in part.orders(generator, shares[domain]))


def rates(settings: DualDynamicsSettings, parts: Parts, taken: Mapping[str, int], kind: str) -> Tensor:
    """Return what Adam multiplies with, [2, 3]: of what all kinds of steps train, and of what one of them does alone.

    Args:
        settings: The schedule.
        parts: The rows of each domain.
        taken: Steps of each kind that were done.
        kind: Which kind comes.
    """
    together, alone = sum(taken.values()), taken[kind]
    found = torch.cat([scales(settings.learning_rate, done, 1) for done in (together, alone)])
    if settings.decay == "cosine":
        found[:, 0] *= 0.5 * (1.0 + math.cos(math.pi * together / total_steps(settings, parts)))
    return found


def total_steps(settings: DualDynamicsSettings, parts: Parts) -> int:
    """Return the most steps there may be."""
    if settings.interleaved:
        return settings.updates
    counts = {domain: len(part.kept) // part.batch for domain, part in parts.items()}
    shares = {"source": settings.source_share, "target": float(settings.target_passes)}
    return settings.epochs * sum(max(1, round(shares[domain] * count)) for domain, count in counts.items())
