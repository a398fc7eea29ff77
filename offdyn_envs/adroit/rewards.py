"""Rewards of the Adroit tasks, as D4RL and its reference returns have them.

From gymnasium-robotics 1.2.1 on, the dense rewards of door, hammer and relocate pay for the distance between hand and
object instead of charging for it (its pull request 220), under an unchanged version of the environments. Here the term
is charged; `approach=STOCK_APPROACH` brings the flipped sign back.

Poses are read from the simulator's data as they are, one physics step behind qpos.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["APPROACH", "REWARDS", "SPARSE_FAILURE", "SPARSE_SUCCESS", "STOCK_APPROACH", "Outcome"]
__all__ += ["DROP_HEIGHT", "door", "hammer", "pen", "relocate"]

REWARDS = ("dense", "sparse", "stock")
"""Reward of an environment: D4RL's, 10 for success and -0.1 otherwise, or the flipped sign of gymnasium-robotics."""

APPROACH = -0.1
STOCK_APPROACH = 0.1
SPARSE_SUCCESS, SPARSE_FAILURE = 10.0, -0.1
DROP_HEIGHT = 0.075
"""Height in m below which the pen has dropped."""


class Outcome(NamedTuple):
    """What a step achieved.

    Attributes:
        dense: The dense reward.
        success: Whether the goal is reached.
    """

    dense: float
    success: bool


def _distance(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(left - right))


def pen(data: Any, pen_length: float, target_length: float) -> Outcome:
    """Judge the pen task: turn the pen as the target is turned.

    Args:
        data: The simulator's data.
        pen_length: Length of the pen between its sites, m.
        target_length: Length of the target between its sites, m.

    Returns:
        The outcome.
    """
    position = data.body("Object").xpos
    axis = (data.site("object_top").xpos - data.site("object_bottom").xpos) / pen_length
    wanted = (data.site("target_top").xpos - data.site("target_bottom").xpos) / target_length
    distance, similarity = _distance(position, data.site("eps_ball").xpos), float(np.dot(axis, wanted))
    near = distance < 0.075
    reward = -distance + similarity
    if near and similarity > 0.9:
        reward += 10.0
    if near and similarity > 0.95:
        reward += 50.0
    if position[2] < DROP_HEIGHT:
        reward -= 5.0
    return Outcome(reward, near and similarity > 0.95)


def door(data: Any, approach: float = APPROACH) -> Outcome:
    """Judge the door task: undo the latch and swing the door open.

    Args:
        data: The simulator's data.
        approach: Factor on the distance between palm and handle.

    Returns:
        The outcome.
    """
    angle = float(data.joint("door_hinge").qpos[0])
    reward = approach * _distance(data.site("S_grasp").xpos, data.site("S_handle").xpos)
    reward += -0.1 * (angle - 1.57) * (angle - 1.57)
    reward += -1e-5 * float(np.sum(data.qvel**2))
    for opened, bonus in ((0.2, 2.0), (1.0, 8.0), (1.35, 10.0)):
        if angle > opened:
            reward += bonus
    return Outcome(reward, angle >= 1.35)


def hammer(data: Any, approach: float = APPROACH) -> Outcome:
    """Judge the hammer task: drive the nail into the board.

    Args:
        data: The simulator's data.
        approach: Factor on the distance between palm and hammer.

    Returns:
        The outcome.
    """
    handle, head, nail = data.body("Object").xpos, data.site("tool").xpos, data.site("S_target").xpos
    left = _distance(nail, data.site("nail_goal").xpos)
    reward = approach * _distance(data.site("S_grasp").xpos, handle)
    reward -= _distance(head, nail)
    reward -= 10.0 * left
    reward -= 1e-2 * float(np.linalg.norm(data.qvel))
    if handle[2] > 0.04 and head[2] > 0.04:
        reward += 2.0
    if left < 0.02:
        reward += 25.0
    if left < 0.01:
        reward += 75.0
    return Outcome(reward, left < 0.01)


def relocate(data: Any, approach: float = APPROACH) -> Outcome:
    """Judge the relocate task: carry the ball to the target.

    Args:
        data: The simulator's data.
        approach: Factor on the distance between palm and ball.

    Returns:
        The outcome.
    """
    ball, palm, target = data.body("Object").xpos, data.site("S_grasp").xpos, data.site("target").xpos
    left = _distance(ball, target)
    reward = approach * _distance(palm, ball)
    if ball[2] > 0.04:
        reward += 1.0
        reward += -0.5 * _distance(palm, target)
        reward += -0.5 * left
    if left < 0.1:
        reward += 10.0
    if left < 0.05:
        reward += 20.0
    return Outcome(reward, left < 0.1)
