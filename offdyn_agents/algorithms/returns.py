"""What the rewards of the data say of values: the bounds that no value can leave, and the scale of returns.

Both are facts of a task, found once before the first update; a loss reads them under `FACTS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offdyn_agents.engine.networks import Params
from offdyn_agents.engine.rows import Layout, last_packed

if TYPE_CHECKING:
    from offdyn_agents.engine.stages import StageContext

__all__ = [
    "FACTS",
    "beyond",
    "clipped",
    "episode_returns",
    "from_least",
    "returns_scale",
    "reward_scale",
    "told",
    "unscaled",
    "value_bounds",
    "value_facts",
]

FACTS = "rewards"
"""Where a loss finds the scale of rewards and the lower and upper bound of values, each [*lead]."""
RANGE = 1000.0
"""What the range of returns is brought to: IQL's authors divide rewards by (largest - smallest return) / 1000."""


def episode_returns(layout: Layout, rows: Tensor) -> Tensor:
    """Return the sum of the rewards of every episode of a dataset in order, float64 [episodes].

    The last one, cut by the end of the data, counts too.

    Args:
        layout: Layout of packed rows.
        rows: Packed rows [N, W] in the order in which they were collected.
    """
    totals = rows[:, layout.reward_column].double().cumsum(0)[last_packed(layout, rows)]
    return totals.diff(prepend=totals.new_zeros(1))


def returns_scale(layout: Layout, tables: Sequence[Tensor]) -> float:
    """Return what rewards are multiplied with: 1000 / (largest - smallest return), and never more than 1.

    The limit is ours: a few alike episodes have a range near 0, which would blow their rewards up.

    Args:
        layout: Layout of packed rows.
        tables: Packed rows [N, W] of each dataset.
    """
    returns = torch.cat([episode_returns(layout, rows) for rows in tables if len(rows)])
    return RANGE / max(RANGE, float(returns.max() - returns.min()))


def value_bounds(rewards: Tensor, discount: float) -> tuple[float, float]:
    """Return [min(0, smallest reward), max(0, largest)] / (1 - gamma): all discounted sums of the rewards lie there.

    Args:
        rewards: [N].
        discount: gamma; 1 bounds nothing.
    """
    low, high = min(0.0, float(rewards.min())), max(0.0, float(rewards.max()))
    horizon = float("inf") if discount == 1.0 else 1.0 / (1.0 - discount)
    return (low * horizon if low else 0.0), (high * horizon if high else 0.0)


def value_facts(
    context: StageContext, *, scaled: bool, bounded: bool, discount: float, added: Sequence[tuple[float, float]] = ()
) -> dict[str, Params]:
    """Return what a loss reads under `FACTS`: scale, lower and upper bound of every run, [runs] each.

    Args:
        context: The task's rows and seeds.
        scaled: Whether rewards are scaled; otherwise by 1.
        bounded: Whether values are bounded; otherwise by infinities.
        discount: gamma.
        added: Smallest and largest number that a method adds to each run's rewards; none by default.
    """
    layout, tables = context.layout, [rows for rows in (context.source, context.target) if len(rows)]
    scale = returns_scale(layout, tables) if scaled else 1.0
    rewards = torch.cat([rows[:, layout.reward_column] for rows in tables])
    facts: list[tuple[float, float, float]] = []
    for least, most in added or [(0.0, 0.0)] * len(context.seeds):
        ends = torch.stack([rewards.min() + min(least, 0.0), rewards.max() + max(most, 0.0)])
        low, high = value_bounds(ends, discount) if bounded else (-float("inf"), float("inf"))
        facts.append((scale, scale * low, scale * high))
    return {FACTS: [torch.tensor(fact, device=rewards.device) for fact in zip(*facts, strict=True)]}


def reward_scale(params: Mapping[str, Params], axes: int = 0) -> Tensor:
    """Return what rewards are multiplied with, as `value_facts` found it, [*lead] and so many axes of size one."""
    return params[FACTS][0][(..., *(None,) * axes)]


def unscaled(params: Mapping[str, Params], network: Params) -> Params:
    """Return a network of values of scaled rewards with its last layer in the units of the data's rewards."""
    *rest, weight, bias = network
    return [*rest, *(tensor / reward_scale(params, tensor.dim()) for tensor in (weight, bias))]


def clipped(params: Mapping[str, Params], values: Tensor) -> Tensor:
    """Return values [*lead, B] inside the bounds of each run that `value_facts` found."""
    _, low, high = (fact.unsqueeze(-1) for fact in params[FACTS])
    return values.clamp(low, high)


def from_least(params: Mapping[str, Params], values: Tensor) -> Tensor:
    """Return how far values [*lead, 2, B] are from the lower bound of each run that `value_facts` found."""
    return (values - params[FACTS][1][..., None, None]).abs()


def beyond(params: Mapping[str, Params], values: Tensor) -> Tensor:
    """Return the share of values [*lead, B] that lie outside the bounds of each run, [*lead]."""
    _, low, high = (fact.unsqueeze(-1) for fact in params[FACTS])
    return ((values < low) | (values > high)).float().mean(-1)


def told(facts: Mapping[str, Params]) -> dict[str, Any]:
    """Return what run.json says of facts: for each run the scale of rewards, and bounds in units of the data's rewards.

    Args:
        facts: What a loss reads; nothing is said where `value_facts` is not among it.

    Returns:
        "values" with "reward_scale", "low" and "high", a list each; None for a bound that is infinite.
    """
    if FACTS not in facts:
        return {}
    scale, low, high = (fact.double().cpu() for fact in facts[FACTS])
    bounds = {"low": (low / scale).tolist(), "high": (high / scale).tolist()}
    finite = {name: [bound if math.isfinite(bound) else None for bound in own] for name, own in bounds.items()}
    return {"values": {"reward_scale": scale.tolist(), **finite}}
