"""Fixed sets of states on which shifts are measured: kept as recipes, not as files.

A set is what a seeded rollout of the nominal robot visits: 16 rows of 1,000 control steps, episodes restarting where
they end, every eighth step kept: 2,000 states with the actions taken in them. One set acts uniformly at random, another
one samples the shipped medium behaviour policy, because random actions hardly reach some joints' limits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.policies import BehaviourPolicy
from offdyn_envs.robots import Robot
from offdyn_envs.shipped import behaviour_path
from offdyn_envs.vector import OffDynVectorEnv

__all__ = ["RECIPE", "States", "flat_state", "policy_states", "random_states"]

Floats = NDArray[np.float64]
ROWS, STEPS, EVERY, SEED = 16, 1000, 8, 0

RECIPE = {"rows": ROWS, "steps": STEPS, "every": EVERY, "seed": SEED}
"""How a set is drawn."""


@dataclass(frozen=True)
class States:
    """A set of states, and an action in each.

    Attributes:
        qpos: Positions, [N, nq].
        qvel: Velocities, [N, nv].
        goal: Goals, with what is measured, [N, G].
        actions: float32, [N, |A|].
        std: Standard deviation of every dimension of `flat_state` over the set, the unit of all sizes, [D].
    """

    qpos: Floats
    qvel: Floats
    goal: Floats
    actions: NDArray[np.float32]
    std: Floats


def flat_state(robot: Robot, qpos: Floats, qvel: Floats) -> Floats:
    """Return positions and velocities side by side, without the horizontal position, on which nothing depends.

    Unlike an observation it is not clipped.

    Args:
        robot: The robot.
        qpos: Positions, [N, nq].
        qvel: Velocities, [N, nv].

    Returns:
        [N, D] with D = |S|.
    """
    return np.concatenate((qpos[:, robot.skipped_qpos :], qvel), axis=1)


@lru_cache(maxsize=4)
def random_states(robot: Robot) -> States:
    """Return the states that random actions visit.

    Args:
        robot: The robot.

    Returns:
        2,000 states.
    """
    rng = np.random.default_rng(SEED)
    return _roll_out(robot, lambda _: rng.uniform(-1.0, 1.0, (ROWS, robot.action_dim)).astype(np.float32))


@lru_cache(maxsize=4)
def policy_states(robot: Robot) -> States | None:
    """Return the states that the shipped nominal medium policy visits, its actions sampled.

    Args:
        robot: The robot.

    Returns:
        2,000 states; None where no such policy has been shipped.
    """
    path = behaviour_path(robot.name, "nominal", "medium")
    if not path.exists():
        return None
    policy, rng = BehaviourPolicy.load(path), np.random.default_rng(SEED)
    return _roll_out(robot, lambda observations: policy.act(observations, rng))


def _roll_out(robot: Robot, act: Callable[[Floats], NDArray[np.float32]]) -> States:
    env = OffDynVectorEnv(robot, ROWS, autoreset_mode="same_step")
    observations, _ = env.reset(seed=SEED)
    kept: list[tuple[Floats, Floats, Floats, NDArray[np.float32]]] = []
    for step in range(STEPS):
        actions = act(observations)
        if step % EVERY == 0:
            kept.append((env.qpos, env.qvel, env.goal, actions))
        observations = env.step(actions)[0]
    env.close()
    qpos, qvel, goal, actions = (np.concatenate(part) for part in zip(*kept, strict=True))
    return States(qpos, qvel, goal, actions, flat_state(robot, qpos, qvel).std(axis=0))
