"""The batched refrigerator; every row computes what the scalar one computes, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from offdyn_envs.errors import OffDynError, shown, unknown
from offdyn_envs.refrigerator.dynamics import EPISODE_STEPS, Bools, Floats, RefrigeratorRows, powers
from offdyn_envs.refrigerator.environment import action_space, observation_space

__all__ = ["RefrigeratorVectorEnv"]

_AUTORESET = {mode.name.lower(): mode for mode in AutoresetMode}


class RefrigeratorVectorEnv(VectorEnv[Floats, NDArray[Any], Any]):
    """N refrigerators; see `offdyn_envs.refrigerator.Refrigerator` for the task.

    Args:
        num_envs: N.
        max_episode_steps: Control steps until truncation.
        autoreset_mode: "next_step" (Gymnasium's default), "same_step" or "disabled".
        render_mode: Must be None.

    Raises:
        OffDynError: A value out of range.
    """

    def __init__(
        self,
        num_envs: int,
        max_episode_steps: int = EPISODE_STEPS,
        autoreset_mode: str | AutoresetMode = "next_step",
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None:
            raise OffDynError(f"the refrigerator does not render; render_mode must be None, got '{render_mode}'")
        self.num_envs = _count("num_envs", num_envs)
        self.max_episode_steps = _count("max_episode_steps", max_episode_steps)
        if not isinstance(autoreset_mode, AutoresetMode):
            if autoreset_mode not in _AUTORESET:
                raise unknown("autoreset mode", autoreset_mode, _AUTORESET)
            autoreset_mode = _AUTORESET[autoreset_mode]
        self.autoreset_mode = autoreset_mode
        self.metadata = {"render_modes": [], "autoreset_mode": autoreset_mode}
        self.single_observation_space, self.single_action_space = observation_space(), action_space()
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._rows = RefrigeratorRows(self.num_envs)
        self._all = np.arange(self.num_envs)
        self._rngs = [np.random.default_rng() for _ in range(self.num_envs)]
        self._steps = np.zeros(self.num_envs, dtype=np.int64)
        self._done = np.zeros(self.num_envs, dtype=bool)
        self._unstarted = set(range(self.num_envs))
        self._observations = np.zeros((self.num_envs, 2))

    @property
    def temperature(self) -> Floats:
        """True temperatures, [N]; a copy."""
        return self._rows.temperature.copy()

    @property
    def door_clock(self) -> NDArray[np.int64]:
        """Below 0 the steps until the door opens, else the steps it has been open, [N]; a copy."""
        return self._rows.door_clock.copy()

    def set_state(self, temperature: ArrayLike, door_clock: ArrayLike) -> Floats:
        """Put all rows into given states and start fresh episodes there.

        Args:
            temperature: True temperatures, [N].
            door_clock: Whole numbers below 20, [N]; see `door_clock`.

        Returns:
            Observations, [N, 2]; like any other they draw the thermometers' errors.

        Raises:
            OffDynError: A wrong shape, or a value out of range.
        """
        self._rows.set_state(self._all, temperature, door_clock)
        self._begin(self._all)
        return self._observations.copy()

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Start episodes.

        Args:
            seed: Row i gets `seed + i`, or the i-th of N seeds; None continues the rows' streams.
            options: `{"reset_mask": bool [N]}` resets only those rows.

        Returns:
            Observations, [N, 2] (in rows that are not reset the last ones), and empty infos.

        Raises:
            OffDynError: A wrong number of seeds, or a mask that is none.
        """
        mask = (options or {}).get("reset_mask")
        chosen = np.ones(self.num_envs, dtype=bool) if mask is None else np.asarray(mask)
        if chosen.shape != (self.num_envs,) or chosen.dtype != np.bool_ or not chosen.any():
            raise OffDynError(f"reset_mask must be {self.num_envs} booleans, at least one of them true")
        for row, row_seed in enumerate(_seeds(seed, self.num_envs)):
            if row_seed is not None and chosen[row]:
                self._rngs[row] = np.random.default_rng(row_seed)
        self._start(np.flatnonzero(chosen))
        return self._observations.copy(), {}

    def step(self, actions: NDArray[Any]) -> tuple[Floats, Floats, Bools, Bools, dict[str, Any]]:
        """Advance every row by one control step.

        Args:
            actions: Cooling powers, [N, 1].

        Returns:
            Observations [N, 2], rewards [N], terminations [N] (all False), truncations [N] and infos. With "same_step",
            `infos["final_obs"]` [N, 2] holds the last observation of rows that ended (where `infos["_final_obs"]`).

        Raises:
            ResetNeeded: A row has not been started yet, by `reset` or `set_state`.
            OffDynError: A wrong shape or an action that is not finite.
        """
        power = powers(actions, self.num_envs)
        if self._unstarted:
            raise ResetNeeded("Cannot call env.step() before calling env.reset()")
        waiting = self._done & (self.autoreset_mode == AutoresetMode.NEXT_STEP)
        going_on = np.flatnonzero(~waiting)
        rewards = np.zeros(self.num_envs)
        rewards[going_on] = self._rows.advance(going_on, power[going_on], self._rngs)
        self._steps += 1
        self._observe(going_on)
        self._start(np.flatnonzero(waiting))
        self._done = self._steps >= self.max_episode_steps
        truncations, infos = self._done.copy(), dict[str, Any]()
        if self.autoreset_mode == AutoresetMode.SAME_STEP and truncations.any():
            infos = {"final_obs": self._observations.copy(), "_final_obs": truncations.copy()}
            infos |= {"final_info": {}, "_final_info": truncations.copy()}
            self._start(np.flatnonzero(truncations))
        return self._observations.copy(), rewards, np.zeros(self.num_envs, dtype=bool), truncations, infos

    def _start(self, rows: NDArray[np.int64]) -> None:
        self._rows.reset(rows, self._rngs)
        self._begin(rows)

    def _begin(self, rows: NDArray[np.int64]) -> None:
        self._steps[rows], self._done[rows] = 0, False
        self._unstarted.difference_update(rows.tolist())
        self._observe(rows)

    def _observe(self, rows: NDArray[np.int64]) -> None:
        self._observations[rows] = self._rows.observe(rows, self._rngs)


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise OffDynError(f"{name} must be a whole number above 0, got {shown(value)}")
    return int(value)


def _seeds(seed: int | Sequence[int | None] | None, num_envs: int) -> list[int | None]:
    if seed is None or isinstance(seed, int | np.integer):
        return [None if seed is None else int(seed) + row for row in range(num_envs)]
    if len(seed) != num_envs:
        raise OffDynError(f"seed must be one number or {num_envs}, got {len(seed)}")
    return list(seed)
