"""Planted data for methods that judge source rows: half of them follow the target's dynamics, half its mirror's.

|S| = |A| = 1, s and a uniform in +-1; target s' = s + .5 a, source half of that and half s' = s - .5 a.
"""

import torch

from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.stages import StageContext

LAYOUT = Layout(1, 1)
SLOPE = 0.5
SOURCE_ROWS, TARGET_ROWS = 10_000, 1_000


def rows_of(states, actions, slopes):
    """Packed rows with the reward a."""
    ends = torch.zeros(len(states), dtype=torch.bool)
    return LAYOUT.join(states, actions, states + slopes * actions, actions[:, 0], ends)


def planted(seed=0, seeds=(0,), cache=None, slopes=(SLOPE, -SLOPE)):
    """Return the context of a stage, and which source rows are of the target's kind, bool [10,000]."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(count):
        return torch.rand(count, 1, generator=generator) * 2.0 - 1.0

    good = torch.arange(SOURCE_ROWS) % 2 == 0
    source = rows_of(
        uniform(SOURCE_ROWS), uniform(SOURCE_ROWS), torch.where(good, *map(torch.tensor, slopes)).unsqueeze(1)
    )
    target = rows_of(uniform(TARGET_ROWS), uniform(TARGET_ROWS), SLOPE)
    return StageContext(LAYOUT, source, target, tuple(seeds), 1, cache=cache, compiled=False), good
