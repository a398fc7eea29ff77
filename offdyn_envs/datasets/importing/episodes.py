"""From the rows of a file to episodes: where they end, which rows mix two of them, and what is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.importing.faults import contradicted, hidden_resets, impossible, jumps, unflagged_falls
from offdyn_envs.datasets.importing.rows import Rows
from offdyn_envs.datasets.own.arrays import leads_elsewhere
from offdyn_envs.datasets.store.source import Facts
from offdyn_envs.datasets.store.spec import Arrays
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import Walker

__all__ = ["hidden_resets", "to_episodes"]

Array = NDArray[Any]
MOST = 0.25
"""Part of the steps above which those that jump are no accident of a collector; shipped datasets have 0.02 at most."""
RESETS = "rows that lead into the next episode's reset"


def to_episodes(rows: Rows, robot: Walker, path: str, facts: Facts) -> tuple[Arrays, Array | None, Array | None]:
    """Cut rows into episodes.

    An episode ends where a flag says so, where the layout shows it, and where the next row's observation is not this
    row's next one; also at the last row. What ends without a termination is a truncation. Left out are

    - final rows of a file without next observations: what they led to is not in the file, and taking the following
      row instead would lead into the next episode. The row before becomes the last one, a truncation, so a termination
      among them is lost (counted apart);
    - rows whose next observation belongs to another episode, whatever their flags: most often its reset, since a
      collector reset before it stored the next observation, or took the next row's. The row before becomes the last
      one, a truncation;
    - rows that hold a number that is not finite. The row before becomes the last one, a truncation.

    A termination that the next observation contradicts is a time limit that was stored as one, and becomes a
    truncation.

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
    ends = _ends(rows)
    lost = np.zeros(len(ends), dtype=bool)
    if following is None:
        following, lost = np.concatenate((rows.observations[1:], rows.observations[-1:])), ends.copy()
        # Of another episode: nobody looks at them, but they may be no numbers.
        following[lost] = rows.observations[lost]
    rows, following, ends, lost = _finite(rows, following, ends, lost, path, facts)
    facts.counted["ends of episodes without a flag"] = int((ends & ~(rows.terminations | rows.truncations)).sum())
    if rows.next_observations is None:
        facts.dropped["final rows without next observation"] = int(lost.sum())
        facts.dropped["terminations among them"] = int((lost & rows.terminations).sum())
    mixed = _mixed(rows.observations, following, ends, robot) & ~lost
    thrown = _thrown(rows.observations, following, mixed | lost, robot, facts)
    # Where a collector repeats the last observation: even a robot at rest does not end in just the state it was in.
    thrown |= ends & (following == rows.observations).all(axis=1) & ~(mixed | lost)
    for what, found in ((RESETS, mixed), ("rows that no step of the robot explains", thrown)):
        if found.any():
            facts.dropped[what] = int(found.sum())
    mixed |= thrown
    _count(facts, "terminations lost with rows that lead into another episode", mixed & rows.terminations)
    ends |= mixed
    kept = ~(lost | mixed)
    if not kept.any():
        why = "every row leads into another episode" if mixed.any() else "every episode has one row"
        raise OffDynError(f"{path}: no row is left: {why}, and what it led to is not in the file")
    lengths = _lengths(ends, kept, robot, path)
    last = np.cumsum(lengths) - 1
    terminations = _believed(rows.terminations[kept], following[kept], robot, facts)
    truncations = rows.truncations[kept]
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


def _believed(terminations: Array, following: Array, robot: Walker, facts: Facts) -> Array:
    """Return the terminations that the next observations do not contradict, bool [N]; count and note the others."""
    wrong = contradicted(robot, terminations, following)
    _count(facts, "terminations that are truncations", wrong)
    if wrong.any():
        why = f"{robot.name} never terminates" if robot.z_range is None else f"the {robot.name} stands there"
        facts.notes.append(f"{int(wrong.sum()):,} terminations became truncations, as time limits are: {why}")
    believed = terminations & ~wrong
    falls = unflagged_falls(robot, believed, following)
    if falls:
        facts.notes.append(f"{falls:,} steps end in a fall and are no terminations; they were left as they are")
    return believed


def _count(facts: Facts, what: str, found: Array) -> None:
    if found.any():
        facts.counted[what] = int(found.sum())


def _ends(rows: Rows) -> Array:
    """Return the last rows of episodes, bool [N]."""
    ends = rows.terminations | rows.truncations
    if rows.ends is not None:
        ends |= rows.ends
    if rows.next_observations is not None:
        ends[:-1] |= (rows.next_observations[:-1] != rows.observations[1:]).any(axis=1)
    ends[-1] = True
    return ends


def _finite(
    rows: Rows, following: Array, ends: Array, lost: Array, path: str, facts: Facts
) -> tuple[Rows, Array, Array, Array]:
    """Leave out the rows that hold a number that is not finite; the rows before them become last ones."""
    if rows.unfit is None:
        return rows, following, ends, lost
    # Without next observations, the row before one whose observation is not finite leads nowhere either.
    unfit = rows.unfit | ~np.isfinite(following).all(axis=1)
    kept = ~unfit
    if not kept.any():
        raise OffDynError(f"{path}: no row is left: every row holds or leads to a number that is not finite")
    facts.dropped["rows with numbers that are not finite"] = int(unfit.sum())
    _count(facts, "terminations lost with rows that are not finite", unfit & rows.terminations)
    ends[:-1] |= unfit[1:]
    parts: dict[str, Any] = {key: None if array is None else array[kept] for key, array in vars(rows).items()}
    return Rows(**parts), following[kept], ends[kept], lost[kept]


def _mixed(observations: Array, following: Array, ends: Array, robot: Walker) -> Array:
    """Return rows that lead into another episode, bool [N]: by the robot's resets, and by the episodes of the file.

    Where a collector went on through a flag without a reset, the next observation is also the first one behind the
    flag: such a step does not jump, and a fall that the robot went on from is one; both are left alone.
    """
    elsewhere = np.flatnonzero(leads_elsewhere(observations, following, ends))
    shown = following[elsewhere]
    found = hidden_resets(robot, observations, following)
    found[elsewhere] |= jumps(robot, observations[elsewhere], shown) & ~robot.terminated_from_observation(shown)
    return found


def _thrown(observations: Array, following: Array, known: Array, robot: Walker, facts: Facts) -> Array:
    """Return other rows that no step explains, bool [N]; none, but a note, where most steps are like that."""
    share = float(jumps(robot, observations, following)[~known].mean()) if not known.all() else 0.0
    if share <= MOST:
        return impossible(robot, observations, following) & ~known
    facts.notes.append(
        f"{share:.0%} of the steps move further than the velocities of a {robot.name} take it: another robot, another "
        "time step, or rows of several episodes in turn"
    )
    return np.zeros_like(known)


def _lengths(ends: Array, kept: Array, robot: Walker, path: str) -> NDArray[np.int64]:
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
