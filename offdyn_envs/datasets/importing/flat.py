"""The two flat layouts: D4RL (episode ends flagged) and ODRL/OTDF (episode ends only visible as breaks)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.importing.rows import Reading, Rows, known_columns, observation_widths, optional
from offdyn_envs.datasets.store.source import Source

__all__ = ["read_d4rl", "read_odrl"]


def read_d4rl(source: Source, reading: Reading) -> Rows:
    """Read D4RL's layout.

    Keys: observations, actions, rewards, terminals; timeouts, next_observations, infos/qpos and infos/qvel where they
    exist. Other keys are left alone.

    Args:
        source: The file.
        reading: The robot, and what is accepted.

    Returns:
        The rows of the file.

    Raises:
        OffDynError: A key is missing or does not fit; the message names the file, the key and what was expected.
    """
    rows = _common(source, reading)
    if source.has("timeouts"):  # D4RL's first files have none; ends show as resets.
        rows.truncations = source.flags("timeouts", len(rows.rewards), rows.unfit)
    if source.has("next_observations"):
        rows.next_observations = _observations(source, "next_observations", len(rows.rewards), reading)
    if source.has("infos/qpos") and source.has("infos/qvel"):
        rows.qpos = optional(source, "infos/qpos", (len(rows.rewards), reading.robot.nq), reading.facts)
        rows.qvel = optional(source, "infos/qvel", (len(rows.rewards), reading.robot.nv), reading.facts)
    return rows


def read_odrl(source: Source, reading: Reading) -> Rows:
    """Read the layout of ODRL and OTDF.

    Keys: observations, actions, next_observations, rewards, terminals; the last two [N, 1] or [N]. There are no
    timeouts: an episode ends where the next row's observation is not this row's next one.

    Args:
        source: The file.
        reading: The robot, and what is accepted.

    Returns:
        The rows of the file.

    Raises:
        OffDynError: A key is missing or does not fit; the message names the file, the key and what was expected.
    """
    rows = _common(source, reading)
    rows.next_observations = _observations(source, "next_observations", len(rows.rewards), reading)
    return rows


def _common(source: Source, reading: Reading) -> Rows:
    observations = _observations(source, "observations", None, reading)
    count = len(observations)
    unfit = np.zeros(count, dtype=bool)
    terminations = source.flags("terminals", count, unfit)
    return Rows(
        observations=observations,
        actions=source.floats("actions", (count, reading.robot.action_dim)),
        rewards=source.column("rewards", count),
        terminations=terminations,
        truncations=terminations & False,
        unfit=unfit,
    )


def _observations(source: Source, key: str, rows: int | None, reading: Reading) -> NDArray[Any]:
    array = source.floats(key, (rows, observation_widths(reading.robot)))
    if not len(array):
        raise source.fault(key, "has no rows", "at least 1")
    return known_columns(array, reading, f"{source.path}: key '{key}'")
