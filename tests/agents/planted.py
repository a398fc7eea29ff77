"""Source rows of which one half has the target's dynamics and the other has its actions turned round."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from offdyn_agents.engine.rows import Layout, pack
from offdyn_agents.engine.stages import StageContext

LAYOUT = Layout(1, 1)
SOURCE_ROWS = 10_000


def world(rows, seed, gain, rewards=0.0, unit=1.0):
    """s, a uniform in [-1, 1], s' = s + gain a; `gain` one number or one of each row, states in some unit."""
    s, a = np.random.default_rng(seed).uniform(-1.0, 1.0, (2, rows, 1))
    data = SimpleNamespace(
        observations=unit * s,
        actions=a,
        next_observations=unit * (s + np.reshape(gain, (-1, 1)) * a),
        rewards=np.broadcast_to(rewards, rows),
        terminations=np.zeros(rows),
    )
    return pack(data, "world")


def good_rows(count=SOURCE_ROWS):
    """Return which source rows have the target's dynamics, bool [N]: every second one."""
    return torch.arange(count) % 2 == 0


def context(source, target, seeds=(0,), **more):
    """Return the context of a stage on packed rows."""
    return StageContext(LAYOUT, source, target, seeds, 1, compiled=False, **more)


def planted(seeds=(0,), rows=SOURCE_ROWS, target=1000, unit=1.0, **more):
    """Return the context of a stage: 10,000 source rows, 1,000 of the target, or as many as are wanted."""
    source = world(rows, 1, np.where(good_rows(rows).numpy(), 0.5, -0.5), unit=unit)
    return context(source, world(target, 0, 0.5, unit=unit), seeds, **more)


def good_share(scores):
    """Return the share of good rows in the half of the highest scores [N]."""
    best = scores.argsort(descending=True)[: len(scores) // 2]
    return float(good_rows(len(scores))[best].double().mean())


def earning(given):
    """Return a context of copies of its rows whose rewards are their actions."""
    source, target = given.source.clone(), given.target.clone()
    for rows in (source, target):
        rows[:, LAYOUT.reward_column] = LAYOUT.split(rows)[1][:, 0]
    return replace(given, source=source, target=target)
