"""Transitions that somebody has in memory: checked, cut into episodes, actions mapped to [-1, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.own.contract import Contract, plain_contract
from offdyn_envs.datasets.store.spec import array_digests, combined_digest
from offdyn_envs.errors import OffDynError

__all__ = ["NEEDED", "OwnData", "finite_rows", "flags", "from_arrays", "leads_elsewhere"]

NEEDED = ("observations", "actions", "rewards", "next_observations", "terminations")
OPTIONAL = ("truncations",)
WIDE = ("observations", "actions", "next_observations")


@dataclass(frozen=True, eq=False)
class OwnData:
    """N transitions of any robot; episodes in order.

    Attributes:
        name: What messages call the data.
        observations: float32 [N, |S|].
        actions: float32 [N, |A|] in [-1, 1]; `contract` says what that is in the user's units.
        rewards: float32 [N].
        next_observations: float32 [N, |S|]; at the end of an episode the state it ended in.
        terminations: bool [N]; do not bootstrap from the next observation where true.
        truncations: bool [N]; the episode was cut here and would have gone on.
        lengths: int64 [E], steps of each episode.
        contract: What the columns are.
        notes: What a user should know: rows that were dropped, what was taken for granted.
    """

    name: str
    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    next_observations: NDArray[np.float32]
    terminations: NDArray[np.bool_]
    truncations: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    contract: Contract
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rewards)

    def __repr__(self) -> str:
        return f"OwnData('{self.name}', rows={len(self)}, episodes={len(self.lengths)})"

    @property
    def sha256(self) -> str:
        """SHA-256 of names, types, shapes and values of all arrays; the same for the same data from any file."""
        return combined_digest(array_digests({key: getattr(self, key) for key in (*NEEDED, *OPTIONAL)}))


def from_arrays(data: Any, where: str, contract: Contract | None = None) -> OwnData:
    """Check transitions in memory and return them as agents read them.

    Args:
        data: A mapping or an object with `observations` [N, |S|], `actions` [N, |A|], `rewards` [N],
            `next_observations` [N, |S|], `terminations` [N], and perhaps `truncations` [N]. Without these an episode
            also ends where the next row does not go on from a row's next observation.
        where: What messages call the data, for instance "source".
        contract: Names, units and bounds of actions; by default actions must lie in [-1, 1].

    Returns:
        The data.

    Raises:
        OffDynError: An array is missing, ragged or of another length, a number is not finite, or an action lies outside
            its bounds.
    """
    arrays = {key: _array(data, key, where) for key in (*NEEDED, *OPTIONAL)}
    rows = _check_shapes(arrays, where)
    for key in ("observations", "actions", "rewards", "next_observations"):
        arrays[key] = _finite(arrays[key], key, where)
    terminations, truncations = (flags(arrays[key], key, rows, where) for key in ("terminations", "truncations"))
    sizes = (arrays["observations"].shape[1], arrays["actions"].shape[1])
    own = contract or plain_contract(*sizes)
    if (len(own.observations), len(own.actions)) != sizes:
        raise OffDynError(
            f"{where}: {sizes[0]} observations and {sizes[1]} actions; "
            f"{len(own.observations)} and {len(own.actions)} were declared"
        )
    observations = arrays["observations"].astype(np.float32)
    following = arrays["next_observations"].astype(np.float32)
    ends = terminations | truncations
    if arrays["truncations"] is None:
        breaks = (observations[1:] != following[:-1]).any(axis=1)
        truncations[:-1] = breaks & ~terminations[:-1]
        ends = terminations | truncations
    if not ends[-1]:
        truncations[-1] = ends[-1] = True
    return OwnData(
        where,
        observations,
        own.to_policy(arrays["actions"], where),
        arrays["rewards"].astype(np.float32),
        following,
        terminations,
        truncations,
        np.diff(np.flatnonzero(ends), prepend=-1).astype(np.int64),
        own,
        _notes(observations, following, ends),
    )


def leads_elsewhere(observations: NDArray[Any], next_observations: NDArray[Any], ends: NDArray[Any]) -> NDArray[Any]:
    """Say which last rows of episodes lead to the first observation of an episode in the file, bool [N].

    Args:
        observations: [N, |S|].
        next_observations: [N, |S|].
        ends: Last rows of episodes, bool [N].
    """
    last = np.flatnonzero(ends)
    first = observations[np.concatenate(([0], last[:-1] + 1)) if len(last) else last]
    beginnings = {row.tobytes() for row in first + 0.0}  # Without the sign of zero, which numbers have and bytes keep.
    found = np.zeros(len(observations), dtype=bool)
    found[last] = [row.tobytes() in beginnings for row in next_observations[last] + 0.0]
    return found


def _notes(observations: NDArray[Any], following: NDArray[Any], ends: NDArray[Any]) -> tuple[str, ...]:
    found = int(leads_elsewhere(observations, following, ends).sum())
    if not found:
        return ()
    return (
        f"{found:,} episodes end in the first observation of another one: where a reset was stored as the next "
        "observation, those rows are wrong; leave next observations out of the file's columns to drop them",
    )


def _array(data: Any, key: str, where: str) -> Any:
    """Return one array as it comes; None where an optional one is missing."""
    found = data.get(key) if isinstance(data, Mapping) else getattr(data, key, None)
    if found is None:
        if key in OPTIONAL:
            return None
        raise OffDynError(f"{where}: {key} is missing; {', '.join(NEEDED)} are needed")
    if hasattr(found, "detach"):
        found = found.detach().cpu()
    try:
        array = np.asarray(found)
    except ValueError:
        raise OffDynError(f"{where}: {key} is ragged; rows of one length are allowed") from None
    if array.dtype.kind not in "biuf":
        raise OffDynError(f"{where}: {key} is of type {array.dtype}; numbers in rows of one length are allowed")
    return array


def _check_shapes(arrays: dict[str, Any], where: str) -> int:
    """Bring columns [N, 1] to [N] and return N."""
    for key, array in arrays.items():
        if array is None:
            continue
        wide = key in WIDE
        if not wide and array.ndim == 2 and array.shape[1] == 1:
            arrays[key] = array = array[:, 0]
        if array.ndim != (2 if wide else 1):
            raise OffDynError(f"{where}: {key} has shape {array.shape}; {'[N, size]' if wide else '[N]'} is allowed")
    lengths = {key: len(array) for key, array in arrays.items() if array is not None}
    rows = lengths["observations"]
    if not rows:
        raise OffDynError(f"{where}: has no rows; at least one transition is needed")
    for key, length in lengths.items():
        if length != rows:
            raise OffDynError(f"{where}: {key} has {length:,} rows and observations {rows:,}; as many are wanted")
    widths = arrays["observations"].shape[1], arrays["next_observations"].shape[1]
    if widths[0] != widths[1]:
        raise OffDynError(f"{where}: observations have {widths[0]} columns and next_observations {widths[1]}")
    return rows


def _finite(array: NDArray[Any], key: str, where: str) -> NDArray[np.float64]:
    good = finite_rows(array)
    if not good.all():
        first = int(np.argmin(good))
        raise OffDynError(f"{where}: {key} of row {first} is not finite ({int((~good).sum()):,} such rows)")
    return array.astype(np.float64)


def finite_rows(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Say which rows of an array [N] or [N, width] are finite as float32, bool [N]."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(array.astype(np.float32))
    return np.asarray(finite.reshape(len(array), -1).all(axis=1))


def flags(array: Any, key: str, rows: int, where: str) -> NDArray[np.bool_]:
    """Return truth values [N] of an array of 0 and 1; all false where there is none.

    Raises:
        OffDynError: A value is neither 0 nor 1.
    """
    if array is None:
        return np.zeros(rows, dtype=bool)
    strange = ~np.isin(array, (0, 1))
    if strange.any():
        raise OffDynError(f"{where}: {key} of row {int(np.argmax(strange))} is {array[strange][0]}; 0 or 1 is allowed")
    return array.astype(bool)
