"""The scalar refrigerator, `OffDyn/Refrigerator-v0`."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError
from offdyn_envs.refrigerator.dynamics import MAX_POWER, Floats, RefrigeratorRows, powers

__all__ = ["Refrigerator", "action_space", "observation_space"]

_ONE = np.zeros(1, dtype=np.int64)


def observation_space() -> spaces.Box:
    """Return the space of (measured temperature, door): the thermometer's error has no bound."""
    return spaces.Box(np.array([-np.inf, 0.0]), np.array([np.inf, 1.0]), dtype=np.float64)


def action_space() -> spaces.Box:
    """Return the space of the cooling power."""
    return spaces.Box(0.0, MAX_POWER, (1,), np.float32)


class Refrigerator(gymnasium.Env[NDArray[Any], NDArray[Any]]):
    """Hold -2 degrees with a compressor; 2000 steps, never terminates.

    Observation [2]: the measured temperature (true temperature + N(0, .1)), and 1 where the door is open during the
    coming step, else 0. The door is observed because without it the next temperature is no function of what is
    observed: open and closed lie a degree apart at the set point, ten times the sensor's error, so a model's error
    would count how often the door was open, not how well the model generalises. With it the expected next temperature
    is a straight line in (temperature, power) for either value. The door's own course is not for a model to learn (it
    is drawn beforehand and no action moves it): a rollout of a learned model takes it from the true trajectory.

    Action [1]: the cooling power u, in [0, 30] degrees per step; what lies outside is clipped. Reward: -|T' + 2| of the
    true next temperature. Infos hold the true "temperature" and "door_clock" (see `state`), which no agent sees.
    The door opens for 20 steps; from one opening to the next it takes 200 to 399 steps, uniformly, the first one comes
    after 0 to 199. Source: the synthetic task of MOREC (arXiv 2310.05422).

    Args:
        render_mode: Must be None.

    Raises:
        OffDynError: A render mode was asked for.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        if render_mode is not None:
            raise OffDynError(f"the refrigerator does not render; render_mode must be None, got '{render_mode}'")
        self.render_mode = None
        self.observation_space = observation_space()
        self.action_space = action_space()
        self._rows = RefrigeratorRows(1)

    @property
    def state(self) -> tuple[float, int]:
        """True temperature, and the door clock: below 0 steps until the door opens, else steps it has been open."""
        return float(self._rows.temperature[0]), int(self._rows.door_clock[0])

    def set_state(self, temperature: float, door_clock: int) -> Floats:
        """Put the refrigerator into a state.

        Args:
            temperature: True temperature.
            door_clock: Below 0: the door opens after that many steps; 0 to 19: it has been open for so many.

        Returns:
            An observation of it, [2]; like any other it draws the thermometer's error.

        Raises:
            OffDynError: A value out of range.
        """
        self._rows.set_state(_ONE, np.asarray([temperature]), np.asarray([door_clock]))
        return self._observe()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """Start an episode at 10 degrees.

        Args:
            seed: Seeds the door and the thermometer.
            options: Unused.

        Returns:
            The observation [2] and infos.
        """
        super().reset(seed=seed, options=options)
        self._rows.reset(_ONE, [self.np_random])
        return self._observe(), self._infos()

    def step(self, action: NDArray[Any]) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Advance one control step.

        Args:
            action: Cooling power, [1].

        Returns:
            Observation [2], reward, terminated (False), truncated (False: the time limit is a wrapper's) and infos.

        Raises:
            OffDynError: A wrong shape or an action that is not finite.
        """
        rewards = self._rows.advance(_ONE, powers(np.asarray(action)[None], 1), [self.np_random])
        return self._observe(), float(rewards[0]), False, False, self._infos()

    def _observe(self) -> Floats:
        return self._rows.observe(_ONE, [self.np_random])[0]

    def _infos(self) -> dict[str, Any]:
        temperature, door_clock = self.state
        return {"temperature": temperature, "door_clock": door_clock}
