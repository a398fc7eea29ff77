"""Entropic optimal transport of source rows to target rows, and what it says of each source row: OTDF's stage.

With x = (s, a, s') in raw units and c_ij = 1 - cos(x_i, x_j), a chunk of n source rows goes to all M target rows by

    P = argmin_P sum_ij P_ij c_ij + epsilon sum_ij P_ij ln P_ij,     sum_j P_ij = 1 / n,     sum_i P_ij = 1 / M.

P_ij is proportional to exp(g_j - c_ij / epsilon) in each row: the potentials g of the target rows are all that has to
be found, and the cost of a source row is a mean under that softmax, whatever chunk the row is in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from offdyn_agents.engine.settings import setting
from offdyn_agents.engine.stage_cache import Keep, cached
from offdyn_agents.engine.stages import Advance, StageContext, each_seed

__all__ = ["TransportSettings", "potentials", "row_costs", "transport_costs"]

BLOCK = 10
"""Iterations of which one is done in the log domain."""
FLOOR = -60.0
"""Least logarithm of a coupling in the iterations between: what is less is nothing beside 1 / (n M)."""
CELLS = 10**8
"""Most numbers of a matrix of costs, of which there are two."""
LEAST = 1e-6
"""Least mean cost that epsilon is a share of; float32 knows a cosine no better."""


@dataclass(frozen=True)
class TransportSettings:
    """How source rows are transported.

    Attributes:
        chunk: Source rows that go to the target together, fewer where a matrix of costs would have more than 10^8
            numbers; they are shuffled first.
        epsilon: Weight of the entropy, as a share of the mean cost.
        iterations: Most iterations of a chunk.
        tolerance: Where they stop: sum over rows of |mass - 1 / n|.
        rows: Source rows whose transport is computed; all others get their cost from the mean potentials of these. 0
            for all.
        form: "row" for the mean cost of a row's mass; "mass" for the sum of mass times cost, as public code has it:
            rows of a short last chunk then look far away.
    """

    chunk: int = setting(10_000, low=1)
    epsilon: float = setting(0.05, low=0.0, open_low=True)
    iterations: int = setting(100, low=1)
    tolerance: float = setting(1e-3, low=0.0)
    rows: int = setting(0, low=0)
    form: str = setting("row", choices=("row", "mass"))


def potentials(logits: Tensor, iterations: int = 100, tolerance: float = 1e-3) -> Tensor:
    """Return the potentials g [M] of the columns, in units of epsilon, up to a constant.

    Every tenth iteration is done in the log domain, where nothing can be lost; those between scale the coupling that it
    gives, which is a tenth of the work.

    Args:
        logits: -c / epsilon, float32 [n, M].
        iterations: Most iterations.
        tolerance: Where they stop: sum over rows of |mass - 1 / n|.
    """
    n, m = logits.shape
    g, buffer = logits.new_zeros(m), torch.empty_like(logits)
    for done in range(0, iterations, BLOCK):
        f = -_log_sums(torch.add(logits, g, out=buffer), 1) - math.log(n)
        g = -_log_sums(torch.add(logits, f[:, None], out=buffer), 0) - math.log(m)
        coupling = torch.add(logits, f[:, None], out=buffer).add_(g).clamp_(min=FLOOR).exp_()
        v = torch.ones_like(g)
        sums = coupling.mv(v)
        if float((sums - 1.0 / n).abs().sum()) <= tolerance:
            break
        for _ in range(min(BLOCK, iterations - done) - 1):
            v = 1.0 / (m * coupling.T.mv(1.0 / (n * sums)))
            sums = coupling.mv(v)
        g = g + v.log()
    return g


def row_costs(logits: Tensor, g: Tensor) -> Tensor:
    """Return sum_j P_ij c_ij / sum_j P_ij [n], in units of epsilon.

    Args:
        logits: -c / epsilon, [n, M].
        g: Potentials of the columns [M].
    """
    return -((logits + g).softmax(1) * logits).sum(1)


def transport_costs(settings: TransportSettings, context: StageContext) -> Tensor:
    """Return the cost of each source row [N], on the device of the rows; found once, whatever the seeds.

    Args:
        settings: How.
        context: Rows, cache and hardware.
    """

    def compute(missing: list[int], keep: Keep) -> None:
        source, target = (_directions(context, rows) for rows in (context.source, context.target))
        size = max(min(settings.chunk, CELLS // len(target)), 1)
        chunks = torch.randperm(len(source), generator=torch.Generator().manual_seed(0)).split(size)

        def one(seed: int, advance: Advance) -> None:
            keep(seed, {"costs": _costs(settings, source, target, chunks, advance)})

        each_seed("transport", len(source), missing, one, (1, context.threads), context.quiet)

    name, rows = f"transport {len(context.source)}", (context.source, context.target)
    found = cached(name, settings, rows, (0,), context.cache, compute)
    return found[0]["costs"].to(context.source.device)


def _directions(context: StageContext, rows: Tensor) -> Tensor:
    """Return (s, a, s') of packed rows, of length 1."""
    observations, actions, following, *_ = context.layout.split(rows)
    return torch.nn.functional.normalize(torch.cat([observations, actions, following], dim=1))


def _costs(
    settings: TransportSettings, source: Tensor, target: Tensor, chunks: tuple[Tensor, ...], advance: Advance
) -> Tensor:
    """Return the cost of each source row [N]; directions of source [N, d] and target [M, d] rows."""
    # The mean over all pairs, which is that of no chunk.
    scale = settings.epsilon * max(1.0 - float(source.mean(0) @ target.mean(0)), LEAST)
    costs, common, done = source.new_empty(len(source)), target.new_zeros(len(target)), 0
    for chunk in chunks:
        places = chunk.to(source.device)
        logits = (source[places] @ target.T).sub_(1.0).clamp_(max=0.0).div_(scale)
        exact = not settings.rows or done < settings.rows
        g = potentials(logits, settings.iterations, settings.tolerance) if exact else common
        if exact:
            common = common + (g - common) * (len(chunk) / (done + len(chunk)))
        mass = len(chunk) if settings.form == "mass" else 1
        costs[places] = scale * row_costs(logits, g) / mass
        done += len(chunk)
        advance(len(chunk))
    return costs


def _log_sums(logits: Tensor, axis: int) -> Tensor:
    """Return log sum exp over an axis of a matrix that is overwritten."""
    most = logits.amax(axis, keepdim=True)
    return logits.sub_(most).exp_().sum(axis).log() + most.squeeze(axis)
