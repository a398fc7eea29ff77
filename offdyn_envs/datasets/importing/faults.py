"""What a file says that its robot cannot have done: steps into another episode, terminations of a robot that stands."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.store.spec import Arrays
from offdyn_envs.robots import Walker

__all__ = ["contradicted", "fall_bonus_paid", "hidden_resets", "impossible", "jumps", "unflagged_falls"]

Array = NDArray[Any]
Bools = NDArray[np.bool_]

NORMAL_RANGE = 6.0
"""Standard deviations within which every reset velocity of a robot with normal noise lies, for all practical cases."""
DRIFT = 2.8
"""Mean distance per coordinate, in units of time step x reset noise, that no step to rest covers beyond its velocities.

The largest of 23,000 steps that end at rest is 2.5 (HalfCheetah at a tenth of gravity, at zero actions); of resets from
random positions one in ten thousand lies below, and from robots that move they are many times larger.
"""
LEAP = 1.0
"""Likewise in units of the reset noise, for steps that end anywhere: contacts of HalfCheetah reach it in 1 of 100."""
MIDWAY = 0.25
"""How far the mean velocity of a step may lie from the middle of those around it, in parts of their difference."""
FARTHEST = 4.0
"""Likewise, and no step reaches it: the largest of the 220,000 shipped ones is 1.7, of bang-bang control 2.6."""
SLACK = 1e-3
"""Part of a bound by which a number may lie beyond it: rounding, also to half precision."""
DOUBTFUL = 0.25
"""Part of the alive bonus by which rewards may differ from those of the robot, in the median."""
DOUBT = 2e-3
"""Metres and radians from the end of a healthy range within which a termination is believed, whatever is rounded."""


def hidden_resets(robot: Walker, observations: Array, next_observations: Array) -> Bools:
    """Say which rows jump into a reset state, as no step of a simulator can.

    At rest all actuated joints stand at zero on the four robots; a reset adds noise of known size. A row counts where
    the next observation lies within that noise and the step jumps there.

    Args:
        robot: Whose observations they are.
        observations: [N, |S|].
        next_observations: [N, |S|].

    Returns:
        bool [N].
    """
    found = np.zeros(len(observations), dtype=bool)
    resting = np.flatnonzero(_at_rest(robot, next_observations))
    moved = _beyond(robot, observations[resting], next_observations[resting])
    found[resting] = moved > DRIFT * robot.dt * robot.reset_noise
    return found


def jumps(robot: Walker, observations: Array, next_observations: Array) -> Bools:
    """Say which steps move further than velocities midway between those before and after them take the robot.

    Contacts do that too at times: a sign only where something else says that the step leads into another episode.

    Args:
        robot: Whose observations they are.
        observations: [N, |S|].
        next_observations: [N, |S|].

    Returns:
        bool [N].
    """
    return _beyond(robot, observations, next_observations) > LEAP * robot.reset_noise


def impossible(robot: Walker, observations: Array, next_observations: Array) -> Bools:
    """Say which steps jump further than any contact throws a robot, wherever they end.

    Args:
        robot: Whose observations they are.
        observations: [N, |S|].
        next_observations: [N, |S|].

    Returns:
        bool [N].
    """
    return _beyond(robot, observations, next_observations) > FARTHEST * robot.reset_noise


def _beyond(robot: Walker, observations: Array, next_observations: Array) -> Array:
    """Return how far each step moves beyond what the velocities around it allow, mean over coordinates, [N].

    A clipped velocity allows any distance: the true one is not in the data. One beyond the clip does not.
    """
    positions, velocities = _derivatives(robot)
    moved = next_observations[:, positions].astype(np.float64) - observations[:, positions]
    pace = observations[:, velocities].astype(np.float64), next_observations[:, velocities].astype(np.float64)
    middle, spread = 0.5 * robot.dt * (pace[0] + pace[1]), robot.dt * np.abs(pace[1] - pace[0])
    beyond = np.maximum(np.abs(moved - middle) - MIDWAY * spread, 0.0)
    fastest = np.maximum(*map(np.abs, pace))
    clipped = (fastest >= robot.velocity_clip) & (fastest <= robot.velocity_clip * (1.0 + SLACK))
    return np.where(clipped, 0.0, beyond).mean(axis=1)


def _derivatives(robot: Walker) -> tuple[list[int], list[int]]:
    """Return the columns of observed positions whose velocities are observed too, and the columns of those.

    All of a planar robot; height and joints of the Ant, whose rotation is a quaternion.
    """
    positions, width, joints = robot.nq - robot.skipped_qpos, robot.observation_dim, robot.action_dim
    if robot.nq == robot.nv:
        return list(range(positions)), list(range(width - positions, width))
    return [0, *range(positions - joints, positions)], [positions + 2, *range(width - joints, width)]


def _at_rest(robot: Walker, observations: Array) -> Bools:
    velocity = robot.reset_noise * (NORMAL_RANGE if robot.normal_velocity_noise else 1.0)
    positions = robot.nq - robot.skipped_qpos
    joints = observations[:, positions - robot.action_dim : positions]
    with np.errstate(over="ignore"):  # What is too large is not at rest.
        entries = (observations[:, -robot.nv :] / velocity, joints / robot.reset_noise)
    return np.asarray(np.abs(np.concatenate(entries, axis=1)).max(axis=1) <= 1.0 + SLACK)


def contradicted(robot: Walker, terminations: Array, next_observations: Array) -> Bools:
    """Say which terminations the next observation contradicts: the robot stands, or never terminates at all.

    A termination is believed near the end of a healthy range, and for Hopper where a velocity is clipped: behind the
    clip it may be beyond the bound that ends an episode.

    Args:
        robot: Whose observations they are.
        terminations: bool [N].
        next_observations: [N, |S|].

    Returns:
        bool [N].
    """
    if robot.z_range is None:
        return terminations.astype(bool)
    rows = np.flatnonzero(terminations)
    shown, found = next_observations[rows], np.zeros(len(terminations), dtype=bool)
    narrow = {key: _narrowed(getattr(robot, key)) for key in ("z_range", "angle_range") if getattr(robot, key)}
    stands = ~replace(robot, **narrow).terminated_from_observation(shown)
    if isfinite(robot.state_limit):
        stands &= np.abs(shown[:, -robot.nv :]).max(axis=1, initial=0.0) < robot.velocity_clip
    found[rows] = stands
    return found


def _narrowed(healthy: tuple[float, float]) -> tuple[float, float]:
    return healthy[0] + DOUBT, healthy[1] - DOUBT


def unflagged_falls(robot: Walker, terminations: Array, next_observations: Array) -> int:
    """Count the steps that end in a fall by the robot's rule and are no terminations."""
    return int((robot.terminated_from_observation(next_observations) & ~terminations).sum())


def fall_bonus_paid(robot: Walker, data: Arrays) -> bool | None:
    """Say whether rewards pay the alive bonus on the step that falls, as environments before version 5 do.

    Forward speed is taken from the observed velocities; where rewards are not this robot's nothing can be said.

    Args:
        robot: Whose data they are.
        data: Rows of an import.

    Returns:
        None where there is no fall, or the rewards are others.
    """
    column, fell = robot.nq - robot.skipped_qpos, data.terminations
    if not robot.alive_bonus or not fell.any() or fell.all():
        return None
    pace = data.observations[:, column].astype(np.float64) + data.next_observations[:, column]
    cost = robot.control_cost * np.square(data.actions.astype(np.float64)).sum(axis=1)
    bonus = data.rewards - 0.5 * pace + cost
    if np.median(np.abs(bonus[~fell] - robot.alive_bonus)) > DOUBTFUL * robot.alive_bonus:
        return None
    return bool(np.median(bonus[fell]) > 0.5 * robot.alive_bonus)
