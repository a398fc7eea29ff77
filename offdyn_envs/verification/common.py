"""Checks that fit every environment: Gymnasium's checker, JSON round trip, pickle, twins."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from offdyn_envs.verification.results import CheckFailed, Facts
from offdyn_envs.verification.subjects import Subject

__all__ = ["TWIN_STEPS", "check_with_gymnasium", "compare_twins", "same_outcome"]

TWIN_STEPS = 50
# The checker remarks upon unbounded observations (the robots') and actions outside [-1, 1] (the refrigerator's power).
_ADVICE = ("A Box observation space", "For Box action spaces, we recommend")
Env = gymnasium.Env[Any, Any]


def check_with_gymnasium(subject: Subject) -> Facts:
    """Run Gymnasium's own checker; its warnings count as faults.

    Args:
        subject: The environment.

    Returns:
        No facts.

    Raises:
        CheckFailed: What the checker says.
    """
    env = subject.make().unwrapped
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env, skip_render_check=True)
    env.close()
    said = [line for line in (str(one.message) for one in caught) if not any(text in line for text in _ADVICE)]
    if said:
        raise CheckFailed(f"Gymnasium's checker: {' '.join(said[0].split())}")
    return {}


def compare_twins(subject: Subject) -> Facts:
    """Compare the environment with one made from its specification as JSON and with a pickled one, bit for bit.

    Args:
        subject: The environment.

    Returns:
        No facts.

    Raises:
        CheckFailed: Which twin differs, and when.
    """
    env = subject.make()
    assert env.spec is not None
    twins: dict[str, Env] = {
        "made from JSON": gymnasium.make(EnvSpec.from_json(env.spec.to_json())),
        "pickled": pickle.loads(pickle.dumps(env.unwrapped)),
        "made again": subject.make(),
    }
    start, rng = env.reset(seed=11), np.random.default_rng(3)
    for name, twin in twins.items():
        if not np.array_equal(twin.reset(seed=11)[0], start[0]):
            raise CheckFailed(f"the environment {name} starts otherwise with the same seed")
    for step in range(TWIN_STEPS):
        action = random_action(env, rng)
        expected = env.step(action)
        for name, twin in twins.items():
            if not same_outcome(expected, twin.step(action)):
                raise CheckFailed(f"the environment {name} goes another way at step {step + 1}")
        if expected[2]:
            for one in (env, *twins.values()):
                one.reset(seed=12 + step)
    for one in (env, *twins.values()):
        one.close()
    return {}


def random_action(env: Env, rng: np.random.Generator) -> Any:
    """Draw an action uniformly from a bounded space.

    Args:
        env: The environment.
        rng: Source of chance.

    Returns:
        The action, [|A|].
    """
    space = env.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    return rng.uniform(space.low, space.high).astype(space.dtype)


def same_outcome(expected: Any, got: Any) -> bool:
    """Say whether two steps returned the same observation, reward and termination, bit for bit."""
    return np.array_equal(expected[0], got[0]) and tuple(expected[1:3]) == tuple(got[1:3])
