"""Small worlds, each made so that one loss term or another decides what is learned in it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from tests.agents.synthetic import A, S


def rows_of(observations, actions, following, rewards, ends):
    """Transitions as agents take them."""
    parts = (observations, actions, following, rewards)
    names = ("observations", "actions", "next_observations", "rewards")
    arrays = {name: part.astype(np.float32) for name, part in zip(names, parts, strict=True)}
    return SimpleNamespace(**arrays, terminations=ends, truncations=np.zeros(len(ends), dtype=bool))


def contexts(rows, rng):
    """States whose first two numbers, of either sign, say which action is the one to tell from its opposite."""
    observations = np.zeros((rows, S))
    observations[:, :A] = rng.uniform(0.4, 1.2, (rows, A)) * rng.choice([-1.0, 1.0], (rows, A))
    return observations


def right(observations):
    """The actions that the two-sided worlds call right; their opposites are as common in the data."""
    return np.tanh(1.5 * observations[:, :A])


def slope(rows, seed, low=1.0, high=1.0, wide=0.3, narrow=0.3):
    """One step: more is better as far as the data go, and beyond is a cliff that the data do not show.

    The fifth number of a state says whether it is a rich one, whose reward is `high` and whose data are narrow, or a
    poor one, `low` and wide.
    """
    rng = np.random.default_rng(seed)
    observations = rng.standard_normal((rows, S))
    observations[:, 4] = rng.choice([-1.0, 1.0], rows)
    rich = observations[:, 4] > 0
    reach = np.where(rich, narrow, wide)[:, None]
    away = reach * rng.uniform(-1.0, 1.0, (rows, A))
    rewards = np.where(rich, high, low) + away.sum(1)
    return rows_of(observations, habit(observations) + away, observations, rewards, np.ones(rows, dtype=bool))


def habit(observations):
    """Where the data of `slope` lie."""
    return 0.3 * np.tanh(observations[:, :A])


def gain(observations, actions, wide=0.3, narrow=0.3):
    """What actions earn in `slope` above the habit, in units of the data's reach: 1 at their edge, -2 off the cliff."""
    reach = np.where(observations[:, 4] > 0, narrow, wide)[:, None]
    away = (actions - habit(observations)) / reach
    return np.where(np.abs(away) < 1.6, away, -2.0).mean(1)


def forks(rows, seed):
    """Two steps. The right action leads to a state whose outcome hangs on the second action, the wrong one to nothing.

    There the right action earns 3, but the data show it in 3 of 10 rows only and lose 3 in the others.
    """
    rng = np.random.default_rng(seed)
    observations = contexts(rows, rng)
    second, mixed, good = rng.random(rows) < 0.5, rng.random(rows) < 0.5, rng.random(rows)
    observations[:, 2] = second
    observations[:, 3] = np.where(second, np.where(mixed, 1.0, -1.0), 0.0)
    good = np.where(second & mixed, good < 0.3, good < 0.5)
    sign = np.where(good, 1.0, -1.0)
    following = observations.copy()
    following[:, 2:4] = np.stack([np.ones(rows), sign], axis=1)
    actions = sign[:, None] * right(observations) + 0.05 * rng.standard_normal((rows, A))
    rewards = np.where(second & mixed, 3.0 * sign, 0.0)
    return rows_of(observations, actions.clip(-1, 1), following, rewards, second)


def lures(rows, seed, domain):
    """Two steps. The wrong action leads to riches in the source and to loss in the target, the right one to
    nothing, but earns 2 itself.

    What the second states are worth only target rows say. One in 20 of the source's rows with the wrong action has an
    absurd reward. The source's rows tell, alone, of other states, in which the wrong action earns 1 and the right -1.
    """
    rng = np.random.default_rng(seed)
    observations, source = contexts(rows, rng), domain == "source"
    other = rng.random(rows) < (0.5 if source else 0.8)
    sign = rng.choice([-1.0, 1.0], rows)
    actions = (sign[:, None] * right(observations) + 0.05 * rng.standard_normal((rows, A))).clip(-1, 1)
    outcome = np.where(sign > 0, 0.0, 1.0 if source else -1.0)
    following = observations.copy()
    following[:, 2:4] = np.stack([np.ones(rows), outcome], axis=1)
    rewards = np.where(sign > 0, 2.0, np.where(source & (rng.random(rows) < 0.05), 100.0, 0.0))
    if source:
        observations[other, 4] = following[other, 4] = 1.0
        rewards[other] = -sign[other]
    else:
        observations[other, 2] = 1.0
        observations[other, 3] = rng.choice([-1.0, 0.0, 1.0], int(other.sum()))
        rewards[other] = 2.0 * observations[other, 3]
    return rows_of(observations, actions, following, rewards, other)


def verdicts(rows, seed, good=0.5):
    """One step. The right action earns 1, the wrong one costs 1, on top of what a state gives anyway: 3 or -3.

    A share `good` of the actions is right.
    """
    rng = np.random.default_rng(seed)
    observations, sign = contexts(rows, rng), np.where(rng.random(rows) < good, 1.0, -1.0)
    observations[:, 4] = rng.choice([-1.0, 1.0], rows)
    actions = (sign[:, None] * right(observations) + 0.05 * rng.standard_normal((rows, A))).clip(-1, 1)
    rewards = 3.0 * observations[:, 4] + sign
    return rows_of(observations, actions, observations, rewards, np.ones(rows, dtype=bool))


def impostors(rows, seed, domain):
    """One step. All actions earn 1, but what the wrong one leads to in the source never happens in the target.

    The target's actions are nearly all wrong in half of the states, nearly all right in the others.
    """
    rng = np.random.default_rng(seed)
    observations, source = contexts(rows, rng), domain == "source"
    observations[:, 4] = rng.choice([-1.0, 1.0], rows)
    share = 0.5 if source else np.where(observations[:, 4] > 0, 0.96, 0.04)
    sign = np.where(rng.random(rows) < share, 1.0, -1.0)
    actions = (sign[:, None] * right(observations) + 0.05 * rng.standard_normal((rows, A))).clip(-1, 1)
    following = observations.copy()
    following[:, 2] = np.where(sign < 0, 3.0 if source else -3.0, 0.0)
    following += 0.5 * rng.standard_normal((rows, S))
    return rows_of(observations, actions, following, np.ones(rows), np.ones(rows, dtype=bool))


def storms(rows, seed):
    """The more of the first action, the more it earns, and the less certain is where it leads."""
    rng = np.random.default_rng(seed)
    observations, actions = rng.standard_normal((rows, S)), rng.uniform(-1.0, 1.0, (rows, A))
    noise = 0.1 + 0.5 * (1.0 + actions[:, :1])
    following = 0.5 * observations + noise * rng.standard_normal((rows, S))
    rewards = 3.0 + 0.1 * actions[:, 0] + observations[:, 1]
    return rows_of(observations, actions, following, rewards, np.zeros(rows, dtype=bool))


def mirages(rows, seed, domain, lure=3.0):
    """What a state's second number earns, actions decide, and the source lies about them.

    The first action raises it in the target and lowers it in the source. The second one, above 0, which only source
    rows show, raises it in the source to what the target has never seen.
    """
    rng = np.random.default_rng(seed)
    source = domain == "source"
    observations, actions = rng.uniform(-1.0, 1.0, (rows, S)), rng.uniform(-1.0, 1.0, (rows, A))
    following = 0.5 * observations
    following[:, 1] = 0.5 * actions[:, 0]
    if source:
        following[:, 1] = lure * actions[:, 1].clip(min=0.0) - 0.5 * actions[:, 0]
    else:
        actions[:, 1] = -np.abs(actions[:, 1])
    following += 0.05 * rng.standard_normal((rows, S))
    return rows_of(observations, actions, following, 0.4 + observations[:, 1], np.zeros(rows, dtype=bool))


def mirrors(rows, seed, domain, *, marked):
    """An action does in the target what its opposite does in the source.

    Where rows are marked, the fifth number of a state says which domain it is, and rewards are of opposite signs.
    """
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).standard_normal((A, S))
    observations, actions = rng.standard_normal((rows, S)), rng.uniform(-1.0, 1.0, (rows, A))
    sign = 1.0 if domain == "source" else -1.0
    change = np.tanh(0.5 * observations + sign * actions @ mix)
    if marked:
        observations[:, 4], change[:, 4] = sign, 0.0
    rewards = sign * (observations + change)[:, :2].sum(1)
    return rows_of(observations, actions, observations + change, rewards, np.zeros(rows, dtype=bool))
