"""Source rows of which one half has the target's dynamics and the other has its actions turned round."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from offdyn_agents.engine.rows import Layout, pack
from offdyn_agents.engine.stages import StageContext

LAYOUT = Layout(1, 1)
SOURCE_ROWS = 10_000


def world(rows, seed, gain, rewards=0.0):
    """s, a uniform in [-1, 1], s' = s + gain a; `gain` one number or one of each row."""
    s, a = np.random.default_rng(seed).uniform(-1.0, 1.0, (2, rows, 1))
    data = SimpleNamespace(
        observations=s,
        actions=a,
        next_observations=s + np.reshape(gain, (-1, 1)) * a,
        rewards=np.broadcast_to(rewards, rows),
        terminations=np.zeros(rows),
    )
    return pack(data, "world")


def good_rows():
    """Return which source rows have the target's dynamics, bool [N]: every second one."""
    return torch.arange(SOURCE_ROWS) % 2 == 0


def planted(seeds=(0,), **more):
    """Return the context of a stage: 10,000 source rows, 1,000 of the target."""
    source = world(SOURCE_ROWS, 1, np.where(good_rows().numpy(), 0.5, -0.5))
    return StageContext(LAYOUT, source, world(1000, 0, 0.5), seeds, 1, compiled=False, **more)


def good_share(scores):
    """Return the share of good rows in the half of the highest scores [N]."""
    return float(good_rows()[scores.argsort(descending=True)[: SOURCE_ROWS // 2]].double().mean())


def earning(context):
    """Return a context of copies of its rows whose rewards are their actions."""
    source, target = context.source.clone(), context.target.clone()
    for rows in (source, target):
        rows[:, LAYOUT.reward_column] = LAYOUT.split(rows)[1][:, 0]
    return replace(context, source=source, target=target)
