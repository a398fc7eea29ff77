"""From the rows of a file to episodes: where they end, which rows mix two of them, and what is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.importing.rows import Rows
from offdyn_envs.datasets.store.source import Facts
from offdyn_envs.datasets.store.spec import Arrays
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import Robot

__all__ = ["hidden_resets", "to_episodes"]

Array = NDArray[Any]

NORMAL_RANGE = 6.0
"""Standard deviations within which every reset velocity of a robot with normal noise lies, for all practical cases."""


def to_episodes(rows: Rows, robot: Robot, path: str, facts: Facts) -> tuple[Arrays, Array | None, Array | None]:
    """Cut rows into episodes.

    An episode ends where a flag says so, where the layout shows it, and where the next row's observation is not this
    row's next one; also at the last row. What ends without a termination is a truncation. Left out are

    - final rows of a file without next observations: what they led to is not in the file, and taking the following
      row instead would lead into the next episode. The row before becomes the last one, a truncation, so a termination
      among them is lost (counted apart);
    - rows whose next observation is the reset of the following episode: some published files were made that way.

    Args:
        rows: Checked rows.
        robot: Whose data they are.
        path: The file, for the message.
        facts: Gets what was dropped and counted.

    Returns:
        The arrays, with no simulator states (`qpos` and `qvel` have no columns) and seeds of -1; and the simulator
        states before each step, float64 [N, nq] and [N, nv], where the file holds them.

    Raises:
        OffDynError: An episode is longer than the robot's time limit, or nothing is left.
    """
    following = rows.next_observations
    ends = _ends(rows, facts)
    lost = np.zeros(len(ends), dtype=bool)
    if following is None:
        following, lost = np.concatenate((rows.observations[1:], rows.observations[-1:])), ends.copy()
        facts.dropped["final rows without next observation"] = int(lost.sum())
        facts.dropped["terminations among them"] = int((lost & rows.terminations).sum())
    mixed = _mixed(rows.observations, following, ends, robot) & ~lost
    if mixed.any():
        facts.dropped["rows that lead into the next episode's reset"] = int(mixed.sum())
        ends |= mixed
    kept = ~(lost | mixed)
    if not kept.any():
        raise OffDynError(f"{path}: key 'next_observations' is missing and every episode has one row; no row is left")
    lengths = _lengths(ends, kept, robot, path)
    last = np.cumsum(lengths) - 1
    terminations, truncations = rows.terminations[kept], rows.truncations[kept]
    truncations[last] |= ~terminations[last]
    arrays = Arrays(
        observations=rows.observations[kept],
        actions=rows.actions[kept],
        next_observations=following[kept],
        rewards=rows.rewards[kept],
        terminations=terminations,
        truncations=truncations,
        qpos=np.empty((int(kept.sum()) + len(lengths), 0)),
        qvel=np.empty((int(kept.sum()) + len(lengths), 0)),
        lengths=lengths,
        seeds=np.full(len(lengths), -1, dtype=np.int64),
    )
    return arrays, None if rows.qpos is None else rows.qpos[kept], None if rows.qvel is None else rows.qvel[kept]


def _ends(rows: Rows, facts: Facts) -> Array:
    """Return the last rows of episodes, bool [N], and count those that no flag names."""
    flagged = rows.terminations | rows.truncations
    ends = flagged.copy()
    if rows.ends is not None:
        ends |= rows.ends
    if rows.next_observations is not None:
        ends[:-1] |= (rows.next_observations[:-1] != rows.observations[1:]).any(axis=1)
    ends[-1] = True
    facts.counted["ends of episodes without a flag"] = int((ends & ~flagged).sum())
    return ends


def _mixed(observations: Array, following: Array, ends: Array, robot: Robot) -> Array:
    """Return rows that lead into a reset, bool [N].

    Looked for only in episodes that reach the time limit: a boundary goes missing where a time-out was not stored.
    """
    stops = np.flatnonzero(ends) + 1
    lengths = np.diff(stops, prepend=0)
    long = np.repeat(lengths >= robot.max_episode_steps, lengths)
    found = np.zeros(len(ends), dtype=bool)
    found[long] = hidden_resets(robot, observations[long], following[long])
    return found


def hidden_resets(robot: Robot, observations: Array, next_observations: Array) -> NDArray[np.bool_]:
    """Say which rows jump into a reset state, as no step of a simulator can.

    At rest all actuated joints stand at zero on the four robots; a reset adds noise of known size. A row counts where
    the next observation lies within that noise, the observation does not, and the joints moved further than their
    velocities allow.

    Args:
        robot: Whose observations they are.
        observations: [N, |S|].
        next_observations: [N, |S|].

    Returns:
        bool [N].
    """
    moved = _joints(robot, next_observations) - _joints(robot, observations)
    speeds = observations[:, -robot.action_dim :] + next_observations[:, -robot.action_dim :]
    jumped = np.abs(moved - 0.5 * robot.dt * speeds).max(axis=1) > 2 * robot.reset_noise
    return np.asarray(jumped & _at_rest(robot, next_observations) & ~_at_rest(robot, observations))


def _joints(robot: Robot, observations: Array) -> Array:
    positions = robot.nq - robot.skipped_qpos
    return observations[:, positions - robot.action_dim : positions]


def _at_rest(robot: Robot, observations: Array) -> Array:
    slack = 1e-4  # Of the noise: rounding to float32.
    velocity = robot.reset_noise * (NORMAL_RANGE if robot.normal_velocity_noise else 1.0)
    entries = (observations[:, -robot.nv :] / velocity, _joints(robot, observations) / robot.reset_noise)
    return np.abs(np.concatenate(entries, axis=1)).max(axis=1) <= 1.0 + slack


def _lengths(ends: Array, kept: Array, robot: Robot, path: str) -> NDArray[np.int64]:
    """Return the steps that are left of each episode; an episode without any is gone."""
    stops = np.flatnonzero(ends)
    counts = np.add.reduceat(kept.astype(np.int64), np.concatenate(([0], stops[:-1] + 1)))
    worst = int(counts.argmax())
    if counts[worst] > robot.max_episode_steps:
        raise OffDynError(
            f"{path}: key 'observations' has an episode of {int(counts[worst])} steps that ends at row "
            f"{int(stops[worst])}; expected at most {robot.max_episode_steps} for {robot.name}"
        )
    return counts[counts > 0]
