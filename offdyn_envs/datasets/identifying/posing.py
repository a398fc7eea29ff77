"""From an observation to the simulator state that shows it, for robots whose observations hold their state."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import Robot
from offdyn_envs.vector import OffDynVectorEnv

__all__ = ["Pose"]

Floats = NDArray[np.float64]
FAR = 1e9
"""Beyond any bound of an observation."""
ELSEWHERE = 3.7
"""Where the robot is put to see whether it moves there as at 0."""
ALIKE = 1e-6


class Pose:
    """Reads states from observations: each entry must be a position or a velocity, perhaps clipped.

    What is not observed must not matter, as the place of a walker does not: that is tried, in the simulator.

    Args:
        robot: The robot.

    Raises:
        OffDynError: An observation holds anything else, hides a velocity, or hides a position that matters.
    """

    def __init__(self, robot: Robot) -> None:
        if robot.goal_dim:
            raise OffDynError(f"{_CANNOT.format(robot.title)}: its states have a goal beside positions and velocities")
        self._robot, size = robot, robot.nq + robot.nv
        self._places = self._find(0.1 + 0.37 * np.arange(size) / size)
        if not np.array_equal(self._places, self._find(0.4 - 0.29 * np.arange(size) / size)):
            raise OffDynError(f"{_CANNOT.format(robot.title)}: an observation is no plain position or velocity")
        # What an observation is clipped to tells no velocity.
        self._low, self._high = self._observe(np.full(size, -FAR)), self._observe(np.full(size, FAR))
        self._hidden = np.setdiff1d(np.arange(size), self._places)
        if (self._hidden >= robot.nq).any():
            velocity = int(self._hidden[self._hidden >= robot.nq][0]) - robot.nq
            raise OffDynError(f"{_CANNOT.format(robot.title)}: velocity {velocity} is not observed")
        self._check_hidden()

    def states(self, observations: NDArray[Any]) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Return the states that show observations.

        Args:
            observations: [N, |S|].

        Returns:
            qpos [N, nq] and qvel [N, nv], 0 where nothing is observed, and which rows hold no clipped number, bool [N].
        """
        state = np.zeros((len(observations), self._robot.nq + self._robot.nv))
        state[:, self._places] = observations
        whole = np.all((observations < self._high) & (observations > self._low), axis=1)
        return state[:, : self._robot.nq], state[:, self._robot.nq :], whole

    def _observe(self, state: Floats) -> Floats:
        return np.asarray(self._robot.observe(state[: self._robot.nq], state[self._robot.nq :]))

    def _find(self, state: Floats) -> NDArray[np.intp]:
        """Return which entry of the state each observation shows."""
        shown = self._observe(state)
        match = shown[:, None] == state[None, :]
        if not match.any(axis=1).all():
            entry = int(np.flatnonzero(~match.any(axis=1))[0])
            raise OffDynError(f"{_CANNOT.format(self._robot.title)}: observation {entry} is no position or velocity")
        return match.argmax(axis=1)

    def _check_hidden(self) -> None:
        """See that a step does not depend on what is not observed."""
        env = OffDynVectorEnv(self._robot, 2, autoreset_mode="disabled")
        env.reset(seed=0)
        qpos, qvel = env.qpos[[0, 0]], env.qvel[[0, 0]]
        qpos[:, self._hidden] = [[0.0], [ELSEWHERE]]
        after = env.set_state(qpos, qvel)
        for _ in range(20):  # Down to the floor.
            after = env.step(np.zeros((2, self._robot.action_dim), np.float32))[0]
        env.close()
        if np.abs(after[0] - after[1]).max() > ALIKE:
            raise OffDynError(f"{_CANNOT.format(self._robot.title)}: how it moves depends on what is not observed")


_CANNOT = "{} cannot be put into its observations, and the data hold no simulator states"
