"""The checks of the refrigerator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from offdyn_envs.verification.common import check_with_gymnasium, compare_twins, random_action
from offdyn_envs.verification.results import CheckFailed, Facts
from offdyn_envs.verification.subjects import Subject

__all__ = ["refrigerator_checks"]


def refrigerator_checks(subject: Subject) -> Mapping[str, Callable[[], Facts]]:
    """Return the checks of the refrigerator by name.

    Args:
        subject: The environment.

    Returns:
        Functions that return facts or raise `CheckFailed`.
    """
    checks: dict[str, Callable[[Subject], Facts]] = {
        "batched": _refrigerator_batched,
        "re-simulation": _refrigerator_resimulation,
        "checker": check_with_gymnasium,
        "twins": compare_twins,
    }
    return {name: partial(check, subject) for name, check in checks.items()}


def _refrigerator_batched(subject: Subject) -> Facts:
    """A row of the batched refrigerator equals the scalar one."""
    from offdyn_envs.refrigerator import RefrigeratorVectorEnv

    batch, scalar, rng = RefrigeratorVectorEnv(3), subject.make().unwrapped, np.random.default_rng(2)
    same = np.array_equal(batch.reset(seed=7)[0][1], scalar.reset(seed=8)[0])
    for _ in range(500):  # Long enough for the door to open.
        actions = rng.uniform(0.0, 2.0, (3, 1)).astype(np.float32)
        observations, rewards, *_ = batch.step(actions)
        observation, reward, *_ = scalar.step(actions[1])
        same &= np.array_equal(observations[1], observation) and rewards[1] == reward
    if not same:
        raise CheckFailed("scalar and batched environment differ")
    return {"robot": subject.title}


def _refrigerator_resimulation(subject: Subject) -> Facts:
    """The true temperature repeats bit for bit from (temperature, door clock)."""
    env, again, rng = subject.make(), subject.make(), np.random.default_rng(3)
    hot: Any = env.unwrapped
    cold: Any = again.unwrapped
    env.reset(seed=0)
    again.reset(seed=1)
    for step in range(500):
        action, before = random_action(env, rng), hot.state
        env.step(action)
        cold.set_state(*before)
        cold.step(action)
        if hot.state[0] != cold.state[0]:
            raise CheckFailed(f"step {step + 1} does not repeat from (temperature, door clock)")
    return {}
