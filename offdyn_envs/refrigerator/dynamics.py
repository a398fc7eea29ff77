"""What a refrigerator does: the transition and the reward as batched functions, and rows of refrigerators in a state.

All temperatures are in degrees Celsius; the cooling power u is in degrees per control step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offdyn_envs.errors import OffDynError

__all__ = [
    "EPISODE_STEPS",
    "MAX_POWER",
    "OPEN_STEPS",
    "OUTDOOR_TEMPERATURE",
    "SENSOR_NOISE",
    "SET_POINT",
    "START_TEMPERATURE",
    "STEPS_BETWEEN_OPENINGS",
    "RefrigeratorRows",
    "powers",
    "reward",
    "step_temperature",
]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

START_TEMPERATURE = 10.0
OUTDOOR_TEMPERATURE = 15.0
SET_POINT = -2.0
SENSOR_NOISE = 0.1
"""Standard deviation of the thermometer's error."""
EPISODE_STEPS = 2000
OPEN_STEPS = 20
"""Steps that the door stays open."""
STEPS_BETWEEN_OPENINGS = 200
"""Fewest steps from one opening to the next: any 200 steps in a row see at most one opening and 20 open steps."""
MAX_POWER = 30.0
"""Bound of the action: the strongest controller of the experiments (p = 1.5) asks for 28.1 at 15 degrees, where an
uncooled box ends up, plus its noise. So no controller is cut short there."""

# Share of the difference to the outdoor temperature that is left after a step.
KEPT_CLOSED, KEPT_OPEN = 0.98, 0.92
# (1 - kept) * OUTDOOR_TEMPERATURE, as the source prints them.
GAIN_CLOSED, GAIN_OPEN = 0.3, 1.2


def step_temperature(temperature: ArrayLike, action: ArrayLike, door_open: ArrayLike) -> Floats:
    """Return the true next temperature; the arguments broadcast against each other.

    Closed: T' = .98 (T - u) + .3. Open: T' = .92 (T - u) + 1.2.

    Args:
        temperature: T, true temperatures, [...].
        action: u, executed cooling power, [...], meant to lie in [0, `MAX_POWER`].
        door_open: Whether the door is open during the step, [...].

    Returns:
        T', float64 [...].
    """
    cooled = np.asarray(temperature, dtype=np.float64) - np.asarray(action, dtype=np.float64)
    opened = np.asarray(door_open).astype(bool)
    return np.where(opened, KEPT_OPEN * cooled + GAIN_OPEN, KEPT_CLOSED * cooled + GAIN_CLOSED)


def reward(next_temperature: ArrayLike) -> Floats:
    """Return -|T' + 2|, the distance from the set point after the step, [...].

    Args:
        next_temperature: T', true temperatures, [...].
    """
    return -np.abs(np.asarray(next_temperature, dtype=np.float64) - SET_POINT)


def powers(actions: ArrayLike, rows: int) -> Floats:
    """Return the cooling powers that actions lead to: a compressor cannot heat, nor exceed its power.

    Args:
        actions: Actions of a batch, [N, 1].
        rows: N.

    Returns:
        Executed powers, [N], in [0, `MAX_POWER`].

    Raises:
        OffDynError: A wrong shape or a number that is not finite.
    """
    given = np.asarray(actions)
    if given.shape != (rows, 1) or given.dtype.kind not in "fiu" or not np.isfinite(given).all():
        raise OffDynError(f"actions must be finite numbers of shape {(rows, 1)}, got {given.dtype} {given.shape}")
    return np.clip(given[:, 0].astype(np.float64), 0.0, MAX_POWER)


class RefrigeratorRows:
    """N refrigerators; the scalar environment has one, the batched environment and `collect` have many.

    The state of a row is its temperature and its door clock. The clock counts up: below 0 it says in how many steps the
    door opens, from 0 to 19 for how many it has been open. Rows draw from their own generators, in an order that does
    not depend on the other rows: the clock at reset and when the door closes, then the thermometer.

    Args:
        count: N.
    """

    def __init__(self, count: int) -> None:
        self.temperature: Floats = np.full(count, START_TEMPERATURE)
        self.door_clock: NDArray[np.int64] = np.full(count, -1, dtype=np.int64)

    @property
    def door_open(self) -> Bools:
        """Whether the door is open during the next step, [N]."""
        return self.door_clock >= 0

    def reset(self, rows: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        """Start episodes: the first opening comes within 200 steps, at a uniform time.

        Args:
            rows: Indices of the rows that start.
            rngs: One generator per row, N.
        """
        self.temperature[rows] = START_TEMPERATURE
        for row in rows:
            self.door_clock[row] = -rngs[row].integers(STEPS_BETWEEN_OPENINGS)

    def set_state(self, rows: NDArray[np.int64], temperature: ArrayLike, door_clock: ArrayLike) -> None:
        """Put rows into given states.

        Args:
            rows: Indices of the rows.
            temperature: True temperatures, one per index.
            door_clock: Whole numbers below 20, one per index.

        Raises:
            OffDynError: A wrong shape, or a value out of range.
        """
        degrees, clock = np.asarray(temperature), np.asarray(door_clock)
        if degrees.shape != rows.shape or degrees.dtype.kind not in "fiu" or not np.isfinite(degrees).all():
            raise OffDynError(f"temperature must be {len(rows)} finite numbers, got {str(temperature)[:60]!r}")
        if clock.shape != rows.shape or clock.dtype.kind not in "iu" or (clock >= OPEN_STEPS).any():
            raise OffDynError(
                f"door_clock must be {len(rows)} whole numbers below {OPEN_STEPS} (below 0: steps until the door "
                f"opens), got {str(door_clock)[:60]!r}"
            )
        self.temperature[rows] = degrees
        self.door_clock[rows] = clock

    def advance(self, rows: NDArray[np.int64], power: Floats, rngs: Sequence[np.random.Generator]) -> Floats:
        """Take one control step with some rows.

        Args:
            rows: Indices of the rows, [M].
            power: Executed cooling powers, [M].
            rngs: One generator per row, N.

        Returns:
            Rewards, [M].
        """
        after = step_temperature(self.temperature[rows], power, self.door_open[rows])
        self.temperature[rows] = after
        self.door_clock[rows] += 1
        for row in rows[self.door_clock[rows] == OPEN_STEPS]:
            wait = STEPS_BETWEEN_OPENINGS - OPEN_STEPS + rngs[row].integers(STEPS_BETWEEN_OPENINGS)
            self.door_clock[row] = -wait
        return reward(after)

    def observe(self, rows: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> Floats:
        """Read the thermometers of some rows; each reading draws its error.

        Args:
            rows: Indices of the rows, [M].
            rngs: One generator per row, N.

        Returns:
            Observations (measured temperature, door), [M, 2].
        """
        noise = np.array([rngs[row].normal(0.0, SENSOR_NOISE) for row in rows], dtype=np.float64)
        return np.stack((self.temperature[rows] + noise, self.door_open[rows].astype(np.float64)), axis=1)
