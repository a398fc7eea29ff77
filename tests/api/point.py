"""A small environment, and transitions of it: what a stranger brings along."""

from types import SimpleNamespace

import gymnasium
import numpy as np

S, A, STEPS, BOUND = 3, 2, 6, 2.0
KEYS = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")


class Point(gymnasium.Env):
    """A point that its actions, in [-2, 2], push about; it earns minus its distance from 0, and actions cost."""

    def __init__(self, push=0.1):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (S,), np.float64)
        self.action_space = gymnasium.spaces.Box(-BOUND, BOUND, (A,), np.float32)
        self.push = push

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state, self.steps = self.np_random.uniform(-1.0, 1.0, S), 0
        return self.state.copy(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.state = self.state + self.push * np.append(action, 0.0)
        self.steps += 1
        reward = -float(np.abs(self.state).sum()) - 0.01 * float(np.square(action).sum())
        return self.state.copy(), reward, False, self.steps >= STEPS, {}


class Sideways(Point):
    """One whose observations are an image."""

    def __init__(self):
        super().__init__()
        self.observation_space = gymnasium.spaces.Box(0, 255, (4, 4, 3), np.uint8)


class Broken(gymnasium.Env):
    """One that cannot be made."""

    def __init__(self):
        raise RuntimeError("the simulator\nis not here")


def no_environment():
    return 3


def transitions(episodes, seed=0, push=0.1):
    """Return what a random policy did, as a mapping of arrays."""
    env, rng, rows = Point(push), np.random.default_rng(seed), []
    for episode in range(episodes):
        state, cut = env.reset(seed=seed + episode)[0], False
        while not cut:
            action = rng.uniform(-BOUND, BOUND, A).astype(np.float32)
            following, reward, ended, cut, _ = env.step(action)
            rows.append((state, action, reward, following, ended, cut))
            state = following
    return {key: np.array(column) for key, column in zip(KEYS, zip(*rows, strict=True), strict=True)}


def as_object(arrays):
    return SimpleNamespace(**arrays)


def returns_by_hand(policy, episodes, push=0.1):
    """Run a policy without any code of offdyn."""
    from offdyn_envs.benchmark.scoring.protocol import EVALUATION_SEED

    totals = []
    for episode in range(episodes):
        env, total, cut = Point(push), 0.0, False
        state = env.reset(seed=EVALUATION_SEED + episode)[0]
        while not cut:
            state, reward, _, cut, _ = env.step(np.asarray(policy(state), dtype=np.float32))
            total += reward
        totals.append(total)
    return totals
