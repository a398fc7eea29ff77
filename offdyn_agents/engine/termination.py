"""Which observations end an episode, as batched functions of tensors: a learned model is rolled out without a state."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import Robot, Walker, get_robot

__all__ = ["Termination", "never", "tells_its_end", "terminated", "termination"]

Termination = Callable[[Tensor], Tensor]
"""Maps observations [..., |S|] to whether they end an episode, bool [...]."""


def terminated(robot: Walker, observations: Tensor) -> Tensor:
    """Say which observations end an episode; equal to `Walker.terminated_from_observation`.

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

    Where a robot's observations do not tell, the termination raises an `OffDynError` when it is asked.

    Raises:
        OffDynError: No such robot.
    """
    if robot is None:
        return never
    known = get_robot(robot)
    if isinstance(known, Walker):
        return lambda observations: terminated(known, observations)
    return lambda observations: _of_arrays(known, observations)


def tells_its_end(robot: Robot) -> bool:
    """Say whether a robot's observations tell the end of an episode."""
    return robot.terminated_from_observation(np.zeros(robot.observation_dim)) is not None


def _of_arrays(robot: Robot, observations: Tensor) -> Tensor:
    ends = robot.terminated_from_observation(observations.detach().cpu().numpy())
    if ends is None:
        raise OffDynError(f"robot '{robot.name}' does not say which observations end an episode; it has to be learned")
    return torch.from_numpy(np.asarray(ends)).to(observations.device)
