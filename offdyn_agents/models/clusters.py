"""Clusters of transitions: k-means on standardised (s, a, s' - s) of both domains, once before the policy, cached."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from offdyn_agents.engine.data import stream
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.settings import setting
from offdyn_agents.engine.stage_cache import Fitted, Keep, cached
from offdyn_agents.engine.stages import Advance, StageContext, each_seed, shares
from offdyn_agents.models.short_training import in_chunks

__all__ = ["ClusterSettings", "Clusters", "fit_clusters", "k_means"]

EPSILON = 1e-6
"""Smallest standard deviation: what never changes is not blown up."""


@dataclass(frozen=True)
class ClusterSettings:
    """How clusters are found.

    Attributes:
        clusters: Most clusters.
        restarts: Beginnings, of which the one with the smallest distances counts.
        iterations: Most steps of each.
        fitted_rows: Most rows that centres are found on, drawn from both domains together.
    """

    clusters: int = setting(50, low=1)
    restarts: int = setting(10, low=1)
    iterations: int = setting(100, low=1)
    fitted_rows: int = setting(100_000, low=1)


@dataclass(frozen=True)
class Clusters:
    """Centres [K, D], and the mean and standard deviation [D] of what they are centres of."""

    centres: Tensor
    mean: Tensor
    std: Tensor

    def of(self, layout: Layout, rows: Tensor) -> Tensor:
        """Return the numbers of the nearest centres, [N], of packed rows [N, W]."""
        return in_chunks(
            lambda chunk: _nearest((_features(layout, chunk) - self.mean) / self.std, self.centres)[1], rows
        )


def _features(layout: Layout, rows: Tensor) -> Tensor:
    """Return (s, a, s' - s) [N, D] of packed rows."""
    states, actions, following, *_ = layout.split(rows)
    return torch.cat([states, actions, following - states], dim=-1)


def _nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return squared distances of points [N, D] to their nearest centres [K, D], and the centres' numbers."""
    products = points @ centres.T
    # Less |x|^2, which is the same for all centres.
    least, number = (centres.square().sum(-1) - 2.0 * products).min(-1)
    return (least + points.square().sum(-1)).clamp(min=0.0), number


def _first_centres(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return centres [K, D] as k-means++ draws them, each with a chance in proportion to its squared distance."""
    chosen = points[torch.randint(len(points), (1,), generator=generator).to(points.device)]
    distances = _nearest(points, chosen)[0]
    for _ in range(count - 1):
        if not bool(distances.any()):
            # Fewer different points than centres.
            break
        # Drawn on the CPU: the same on every device.
        place = torch.rand((), generator=generator, dtype=torch.float64) * distances.double().sum().cpu()
        number = int(torch.searchsorted(distances.double().cumsum(0).cpu(), place).clamp(max=len(points) - 1))
        chosen = torch.cat([chosen, points[number : number + 1]])
        distances = torch.minimum(distances, _nearest(points, chosen[-1:])[0])
    return chosen


def k_means(points: Tensor, settings: ClusterSettings, generator: torch.Generator, advance: Advance) -> Tensor:
    """Return centres [K, D] of points [N, D], K at most `settings.clusters`: the best of several beginnings.

    Args:
        points: Standardised.
        settings: How many, and how long.
        generator: Draws the beginnings, on the CPU.
        advance: Called after each of them.
    """
    least, best = float("inf"), points[:1]
    for _ in range(settings.restarts):
        centres = _first_centres(points, settings.clusters, generator)
        distances, number = _nearest(points, centres)
        for _ in range(settings.iterations):
            sums = torch.zeros_like(centres).index_add_(0, number, points)
            counts = torch.bincount(number, minlength=len(centres)).unsqueeze(1)
            # A centre that has lost its points stays where it is.
            centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
            before = number
            distances, number = _nearest(points, centres)
            if torch.equal(number, before):
                break
        total = float(distances.double().sum())
        if total < least:
            least, best = total, centres
        advance(1)
    return best


def fit_clusters(settings: ClusterSettings, context: StageContext) -> Fitted[Clusters]:
    """Find the clusters of each seed.

    Args:
        settings: How they are found.
        context: Rows, seeds, cache and hardware.
    """
    points = _features(context.layout, torch.cat([context.source, context.target]))
    mean, std = points.mean(0), points.std(0, correction=0).clamp(min=EPSILON)
    points = (points - mean) / std

    def compute(missing: list[int], keep: Keep) -> None:
        def one(seed: int, advance: Advance) -> None:
            generator = torch.Generator().manual_seed(stream(seed, "clusters"))
            some = torch.randperm(len(points), generator=generator)[: settings.fitted_rows].to(points.device)
            keep(seed, {"centres": k_means(points[some], settings, generator, advance)})

        shared = shares(points.device, context.threads, missing)
        each_seed("clusters", settings.restarts, missing, one, shared, context.quiet)

    found = cached("clusters", settings, points, context.seeds, context.cache, compute)
    return Fitted([Clusters(tensors["centres"].to(points.device), mean, std) for tensors in found], found.failed)
