"""Which observations end an episode, as batched functions of tensors: a learned model is rolled out without a state."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from offdyn_envs.robots import Robot, get_robot

__all__ = ["Termination", "never", "terminated", "termination"]

Termination = Callable[[Tensor], Tensor]
"""Maps observations [..., |S|] to whether they end an episode, bool [...]."""


def terminated(robot: Robot, observations: Tensor) -> Tensor:
    """Say which observations end an episode; equal to `Robot.terminated_from_observation`.

    Args:
        robot: The robot.
        observations: [..., |S|], of any floating type; limits are compared in that type, as NumPy does.

    Returns:
        True where the robot has fallen, bool [...].
    """
    if robot.z_range is None:
        return never(observations)
    (low, high), height = robot.z_range, observations[..., 0]
    healthy = (low < height) & (height < high) if robot.z_open else (low <= height) & (height <= high)
    if robot.angle_range is not None:
        angle = observations[..., 1]
        healthy = healthy & (robot.angle_range[0] < angle) & (angle < robot.angle_range[1])
    if robot.state_limit < float("inf"):
        rest = observations[..., 1:]
        healthy = healthy & ((-robot.state_limit < rest) & (rest < robot.state_limit)).all(-1)
    elif robot.angle_range is None:
        healthy = healthy & torch.isfinite(observations).all(-1)
    return ~healthy


def never(observations: Tensor) -> Tensor:
    """Say that no observation ends an episode: bool [...] for [..., |S|]."""
    return torch.zeros(observations.shape[:-1], dtype=torch.bool, device=observations.device)


def termination(robot: str | None) -> Termination:
    """Return the termination of a robot by name; None for data without a robot, which never ends.

    Raises:
        OffDynError: No such robot.
    """
    if robot is None:
        return never
    known = get_robot(robot)
    return lambda observations: terminated(known, observations)
