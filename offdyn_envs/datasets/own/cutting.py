"""From the rows of a file to episodes: where they end, what their last rows led to, and what is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.own.arrays import finite_rows, flags
from offdyn_envs.datasets.store.source import Facts
from offdyn_envs.errors import OffDynError

__all__ = ["OwnRows", "cut"]

Array = NDArray[Any]
LOST = "final rows without next observation"


@dataclass
class OwnRows:
    """N rows in the order of a file; what it does not hold is None.

    Attributes:
        observations: float32 [N, |S|].
        actions: float32 [N, |A|], in their own units.
        rewards: [N].
        next_observations: float32 [N, |S|].
        terminations: [N], 0 or 1.
        truncations: [N], 0 or 1.
        done: [N], 0 or 1.
        episode: [N], numbers that do not decrease.
    """

    observations: Array
    actions: Array
    rewards: Array | None
    next_observations: Array | None
    terminations: Array | None
    truncations: Array | None
    done: Array | None
    episode: Array | None


def cut(rows: OwnRows, done_means: str | None, where: str, facts: Facts) -> dict[str, Array | None]:
    """Cut rows into episodes.

    An episode ends where a flag says so and where the number of the episode changes; in files with next observations
    but neither truncations nor numbers also where the next row's observation is not this row's next one; and at the
    last row. What ends without a termination is a truncation.

    Without next observations, the next row of the same episode holds it, and the last row of every episode is left out.
    Where the row before the last one is flagged as the end, the last row held nothing but the observation that the
    episode ended in, and no termination is lost with it.

    Rows that hold a number that is not finite are left out; the row before becomes the last one, a truncation.

    Args:
        rows: Of the file.
        done_means: "termination" or "truncation", for files that know "done" only; a termination where nothing is said.
        where: The file, for messages.
        facts: Gets what was dropped, counted and taken for granted.

    Returns:
        The arrays that `from_arrays` takes; rewards are None where the file has none.

    Raises:
        OffDynError: Columns of different lengths, numbers of episodes that decrease, a flag inside an episode, or
            nothing is left.
    """
    count = _check_lengths(rows, where)
    unfit = _without_numbers(rows, count)
    terminations, truncations = _flags(rows, done_means, count, where, facts)
    last = _last_rows(rows.episode, count, where)
    flagged = terminations | truncations
    following = rows.next_observations
    if rows.episode is not None:
        _check_inside(flagged & ~last, last if following is None else None, rows.episode, where)
    ends = last | flagged
    kept = np.ones(count, dtype=bool)
    if following is None:
        lost = last if rows.episode is not None else ends
        following = np.concatenate((rows.observations[1:], rows.observations[-1:]))
        before = np.concatenate(([False], flagged[:-1] & ~lost[:-1]))
        facts.dropped[LOST] = int(lost.sum())
        facts.dropped["terminations among them"] = int((lost & terminations & ~before).sum())
        kept = ~lost
        ends = np.append(lost[1:], False)
    elif rows.episode is None and rows.truncations is None:
        ends[:-1] |= (following[:-1] != rows.observations[1:]).any(axis=1)
    if not kept.any():
        raise OffDynError(f"{where}: no row is left: every episode has one row, and no column holds next observations")
    facts.counted["ends of episodes without a flag"] = int((ends & ~flagged & kept).sum())
    truncations = truncations | (ends & ~terminations)
    arrays: dict[str, Array | None] = {
        "observations": rows.observations[kept],
        "actions": rows.actions[kept],
        "rewards": None if rows.rewards is None else rows.rewards[kept],
        "next_observations": following[kept],
        "terminations": terminations[kept],
        "truncations": truncations[kept],
    }
    return _finite(arrays, unfit[kept], np.flatnonzero(kept), where, facts)


def _without_numbers(rows: OwnRows, count: int) -> Array:
    """Return rows with a flag that is no number, bool [N]; such flags become false."""
    unfit = np.zeros(count, dtype=bool)
    for key in ("terminations", "truncations", "done"):
        array = getattr(rows, key)
        if array is not None and array.dtype.kind == "f":
            unfit |= np.isnan(array)
            setattr(rows, key, np.where(np.isnan(array), 0, array))
    return unfit


def _finite(
    arrays: dict[str, Array | None], unfit: Array, numbers: Array, where: str, facts: Facts
) -> dict[str, Array | None]:
    """Leave out rows that hold a number that is not finite.

    Args:
        arrays: Of `cut`.
        unfit: Rows that hold such a number elsewhere.
        numbers: Their rows in the file.
        where: The file, for messages.
        facts: Gets their number, and where the first one is.

    Raises:
        OffDynError: All rows do.
    """
    first = f"a flag of row {numbers[int(np.argmax(unfit))]} is not finite" if unfit.any() else ""
    for key in ("observations", "actions", "rewards", "next_observations"):
        array = arrays[key]
        found = np.zeros_like(unfit) if array is None else ~finite_rows(array)
        if found.any() and not first:
            first = f"{key} of row {numbers[int(np.argmax(found))]} is not finite"
        unfit = unfit | found
    terminations, truncations = arrays["terminations"], arrays["truncations"]
    if not first or terminations is None or truncations is None:
        return arrays
    if unfit.all():
        raise OffDynError(f"{where}: {first} ({len(unfit):,} such rows)")
    facts.dropped["rows with numbers that are not finite"] = int(unfit.sum())
    facts.counted["terminations lost with rows that are not finite"] = int((unfit & terminations).sum())
    facts.notes.append(f"rows with numbers that are not finite were dropped: {first}")
    truncations[:-1] |= unfit[1:] & ~terminations[:-1]
    return {key: None if array is None else array[~unfit] for key, array in arrays.items()}


def _check_lengths(rows: OwnRows, where: str) -> int:
    count = len(rows.observations)
    if not count:
        raise OffDynError(f"{where}: has no rows; at least one transition is needed")
    for key, array in vars(rows).items():
        if array is not None and len(array) != count:
            raise OffDynError(f"{where}: {key} has {len(array):,} rows and observations {count:,}; as many are wanted")
    if rows.next_observations is not None and rows.next_observations.shape != rows.observations.shape:
        raise OffDynError(
            f"{where}: observations have {rows.observations.shape[1]} columns and next_observations "
            f"{rows.next_observations.shape[1]}"
        )
    return count


def _flags(
    rows: OwnRows, done_means: str | None, count: int, where: str, facts: Facts
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return terminations and truncations, [N] each, with what "done" says beside them."""
    terminations = flags(rows.terminations, "terminations", count, where)
    truncations = flags(rows.truncations, "truncations", count, where)
    done = flags(rows.done, "done", count, where)
    known = rows.terminations is not None, rows.truncations is not None
    if rows.done is None or all(known):
        return terminations, truncations
    if known[0]:
        return terminations, done & ~terminations
    if known[1]:
        facts.notes.append("done without a truncation was taken for a termination")
        return done & ~truncations, truncations
    meaning = done_means or "termination"
    other = "truncation" if meaning == "termination" else "termination"
    hint = "" if done_means else f"; say --done-means {other} if it is one"
    facts.notes.append(f"done was taken for a {meaning}{hint}")
    return (done, truncations) if meaning == "termination" else (terminations, done)


def _last_rows(episode: Array | None, count: int, where: str) -> NDArray[np.bool_]:
    """Return the last rows of episodes by their numbers, and of the file, bool [N]."""
    last = np.zeros(count, dtype=bool)
    last[-1] = True
    if episode is None:
        return last
    odd = ~np.isfinite(episode) | (episode != np.floor(episode)) if episode.dtype.kind == "f" else last & False
    if odd.any():
        row = int(np.argmax(odd))
        raise OffDynError(
            f"{where}: the number of the episode is {episode[row]} at row {row}; whole numbers are allowed"
        )
    down = np.flatnonzero(episode[1:] < episode[:-1])
    if len(down):
        row = int(down[0]) + 1
        raise OffDynError(
            f"{where}: the number of the episode is {episode[row]:g} at row {row}, after {episode[row - 1]:g}; rows in "
            "the order of their episodes are wanted"
        )
    last[:-1] = episode[1:] != episode[:-1]
    return last


def _check_inside(flagged: Array, last: Array | None, episode: Array, where: str) -> None:
    """Refuse flags inside an episode; `last` is given where the row before the last one may have one too."""
    if last is not None:
        flagged = flagged & ~np.append(last[1:], False)
    if flagged.any():
        row = int(np.argmax(flagged))
        raise OffDynError(
            f"{where}: row {row} ends an episode, but episode {episode[row]:g} goes on behind it; an end at the last "
            "row of an episode is allowed"
        )
