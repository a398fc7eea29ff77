"""Transitions as a file holds them, before they are cut into episodes; and the checks on their values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.store.source import Facts, Source
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import Walker

__all__ = ["Reading", "Rows", "check_values", "known_columns", "observation_widths", "optional", "simulator_states"]

Array = NDArray[Any]

ROUNDING = 1e-5
"""How far an action may lie outside [-1, 1]: float32 rounding of a published file, not another action range."""
STATE_GAP = 1e-4
"""Largest gap, absolute and relative, between a stored observation and the one its simulator state shows."""

LEFT_OUT = "simulator states were left out"
_ANT_GYM = 111
"""Ant with the contact forces of all 14 bodies, which MuJoCo 2 left at zero: D4RL and ODRL."""
_ANT_V5 = 105
"""Ant-v5 with the contact forces of the 13 moving bodies, which are real: Minari."""


CONTACT_NOTE = "observations held contact forces, which were dropped; rewards hold the contact cost that goes with them"


@dataclass(frozen=True)
class Reading:
    """What every reader is told.

    Attributes:
        robot: Whose data the file should hold.
        contact_forces: Accept observations of Ant with real contact forces.
        clip_actions: Clip actions outside [-1, 1] instead of refusing them.
        facts: Gets what is found on the way.
    """

    robot: Walker
    contact_forces: bool = False
    clip_actions: bool = False
    facts: Facts = field(default_factory=Facts)


@dataclass
class Rows:
    """N transitions in the order of a file.

    Attributes:
        observations: float32 [N, |S|].
        actions: float32 [N, |A|].
        rewards: float32 [N].
        terminations: bool [N].
        truncations: bool [N], as far as the file says.
        next_observations: float32 [N, |S|], or None where the file holds none.
        ends: bool [N], ends of episodes that the layout shows without a flag, or None.
        qpos: float64 [N, nq], simulator positions before each step, or None.
        qvel: float64 [N, nv], simulator velocities before each step, or None.
        unfit: bool [N], rows that hold a number that is not finite, or None for none.
    """

    observations: Array
    actions: Array
    rewards: Array
    terminations: Array
    truncations: Array
    next_observations: Array | None = None
    ends: Array | None = None
    qpos: Array | None = None
    qvel: Array | None = None
    unfit: Array | None = None


def observation_widths(robot: Walker) -> tuple[int, ...]:
    """Return the widths of observations that can be read: the robot's own and, for Ant, those with contact forces."""
    return (robot.observation_dim, _ANT_GYM, _ANT_V5) if robot.name == "ant" else (robot.observation_dim,)


def optional(group: Source, key: str, shape: tuple[int, int], facts: Facts, part: slice = slice(None)) -> Array | None:
    """Read an array of simulator states that a file may lack; one that does not fit is left out with a note.

    Args:
        group: Where it lies.
        key: Its name.
        shape: Its sizes.
        facts: Gets the note.
        part: The rows to return.

    Returns:
        float64, or None.
    """
    if not group.has(key):
        return None
    try:
        states = group.floats(key, shape, float)[part]
    except OffDynError as fault:
        if not any(note.startswith(LEFT_OUT) for note in facts.notes):  # Once, not for every episode.
            facts.notes.append(f"{LEFT_OUT}: {fault}")
        return None
    return states


def known_columns(array: Array, reading: Reading, where: str) -> Array:
    """Drop the contact forces of Ant's longer observations.

    Args:
        array: [N, width], one of `observation_widths`.
        reading: Robot, and whether 105 columns are accepted; its facts get a note where they were.
        where: File and key, for the message.

    Returns:
        [N, |S|], a copy where columns were dropped.

    Raises:
        OffDynError: 105 columns, or 111 of which the last 84 are not all zero, that are not accepted.
    """
    kept, width = reading.robot.observation_dim, array.shape[1]
    if width == kept:
        return array
    if width == _ANT_V5 and not reading.contact_forces:
        raise OffDynError(
            f"{where} has {width} columns, {kept} and {width - kept} real contact forces, and its rewards hold a "
            "contact cost that this suite has not; pass --contact-forces to drop the columns and keep those rewards"
        )
    filled = np.flatnonzero(array[:, kept:].any(axis=1))
    if len(filled) and not reading.contact_forces:
        raise OffDynError(
            f"{where} holds contact forces at row {int(filled[0])}; expected zeros in columns {kept} to {width - 1} "
            f"for {reading.robot.name}; pass --contact-forces to drop the columns and keep the rewards"
        )
    if (len(filled) or width == _ANT_V5) and CONTACT_NOTE not in reading.facts.notes:
        reading.facts.notes.append(CONTACT_NOTE)
    return array[:, :kept].copy()


def check_values(rows: Rows, path: str, facts: Facts, clip_actions: bool = False) -> None:
    """Find the rows whose numbers are not finite, and check that actions were executed.

    What rounding moved beyond +-1 is put back.

    Args:
        rows: Changed in place.
        path: The file, for the message.
        facts: Gets the number of rounded and of clipped actions, and a note on what is not finite.
        clip_actions: Clip actions further outside [-1, 1] too.

    Raises:
        OffDynError: No row is finite, or an action is outside [-1, 1]; the message names file, key and row.
    """
    _find_unfit(rows, path, facts)
    _check_actions(rows, path, facts, clip_actions)


def _find_unfit(rows: Rows, path: str, facts: Facts) -> None:
    """Mark rows that are not finite, and leave simulator states out that are not finite elsewhere."""
    unfit = np.zeros(len(rows.rewards), dtype=bool) if rows.unfit is None else rows.unfit.copy()
    first = f"key 'terminals' or 'timeouts' is not finite at row {int(np.argmax(unfit))}" if unfit.any() else ""
    for key in ("observations", "actions", "rewards", "next_observations"):
        array: Array | None = getattr(rows, key)
        if array is None or np.isfinite(array).all():
            continue
        found = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        first = first or f"key '{key}' is not finite at row {int(np.flatnonzero(found)[0])}"
        unfit |= found
    if unfit.all():
        raise OffDynError(f"{path}: {first}; expected finite numbers")
    rows.unfit = None
    if first:
        rows.unfit, rows.actions = unfit, np.where(unfit[:, None], np.float32(0.0), rows.actions)
        facts.notes.append(f"rows with numbers that are not finite were dropped: {first}")
    for key in ("qpos", "qvel"):
        states: Array | None = getattr(rows, key)
        if states is not None and not np.isfinite(states[~unfit]).all():
            rows.qpos = rows.qvel = None
            facts.notes.append(f"{LEFT_OUT}: infos/{key} is not finite")


def _check_actions(rows: Rows, path: str, facts: Facts, clip_actions: bool) -> None:
    beyond = np.abs(rows.actions) > 1.0
    if not beyond.any():
        return
    largest = np.abs(rows.actions).max(axis=1)
    row, far = int(largest.argmax()), largest > 1.0 + ROUNDING
    if far.any() and not clip_actions:
        raise OffDynError(
            f"{path}: key 'actions' has magnitude {float(largest[row]):.6g} at row {row}; expected values in [-1, 1]; "
            f"--clip-actions clips them ({int(far.sum()):,} rows)"
        )
    if far.any():
        facts.counted["rows with clipped actions"] = int(far.sum())
    rounded = int((beyond & (np.abs(rows.actions) <= 1.0 + ROUNDING)).sum())
    if rounded:
        facts.counted["actions rounded to 1"] = rounded
    rows.actions = np.clip(rows.actions, -1.0, 1.0)


def simulator_states(rows: Rows, robot: Walker, facts: Facts) -> None:
    """Keep simulator states only where the observations follow from them.

    Some files store the state after the step, or of another robot; those are left out and a note says so.

    Args:
        rows: Changed in place.
        robot: Whose data they are.
        facts: Gets the note.
    """
    if rows.qpos is None or rows.qvel is None:
        rows.qpos = rows.qvel = None
        return
    fit = slice(None) if rows.unfit is None else ~rows.unfit
    shown = robot.observe(rows.qpos[fit], rows.qvel[fit])
    if not np.allclose(shown, rows.observations[fit], rtol=STATE_GAP, atol=STATE_GAP):
        rows.qpos = rows.qvel = None
        facts.notes.append("infos/qpos and infos/qvel are not the states that the observations show: left out")
