"""Many episodes of one environment side by side, restartable at any step.

The learners handle resets and time limits here rather than in the environment, so that the complete state of the
collection (positions, velocities, elapsed steps, generator) is a handful of arrays in a checkpoint: a resumed run then
goes on exactly where it stopped.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_agents.behaviour.checkpoint import as_array
from offdyn_envs.models import start_qpos
from offdyn_envs.robots import get_robot
from offdyn_envs.robots.goals import goal_size
from offdyn_envs.tasks import get_dynamics
from offdyn_envs.vector import OffDynVectorEnv

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """What one vector step led to, before finished rows start anew.

    Attributes:
        next_observations: observations after the step [N, |S|], final ones where an episode ended.
        rewards: rewards [N].
        terminated: episodes that ended by the robot's rule [N].
        truncated: episodes that only ran out of time [N].
        observations: observations to act on next [N, |S|]: first ones where an episode ended.
    """

    next_observations: Floats
    rewards: Floats
    terminated: Bools
    truncated: Bools
    observations: Floats


class Collector:
    """Rows of one environment that restart themselves.

    Attributes:
        observations: what the next actions answer to [N, |S|].
        action_dim: |A|.
        finished: undiscounted returns of the latest finished episodes, newest last.
    """

    def __init__(
        self, robot: str, dynamics: str, rows: int, seed: int, *, memory: int = 100, staggered: bool = True
    ) -> None:
        """Start `rows` episodes.

        Args:
            robot: robot name, such as "hopper".
            dynamics: dynamics slug, such as "gravity-0.5".
            rows: episodes side by side.
            seed: seed of every reset.
            memory: how many finished episodes the running return covers.
            staggered: start the rows of a robot that never falls, and of a hand, at different ages, or all of them
                would end together.
        """
        self._robot = get_robot(robot)
        self._rest = start_qpos(self._robot, get_dynamics(robot, dynamics))
        self._env = OffDynVectorEnv(
            robot, rows, dynamics=dynamics, max_episode_steps=2**31 - 1, autoreset_mode="disabled", num_threads=1
        )
        self._env.reset(seed=seed)
        self.action_dim = self._robot.action_dim
        self._rng = np.random.default_rng(seed)
        self._elapsed = np.zeros(rows, dtype=np.int64)
        self._returns = np.zeros(rows)
        self.finished: deque[float] = deque(maxlen=memory)
        self._restart(np.ones(rows, dtype=np.bool_))
        if staggered and getattr(self._robot, "z_range", None) is None:
            self._elapsed = np.arange(rows) * self._robot.max_episode_steps // rows

    @property
    def mean_return(self) -> float:
        """Mean undiscounted return of the remembered episodes; NaN before the first one ends."""
        return float(np.mean(self.finished)) if self.finished else float("nan")

    def step(self, actions: NDArray[np.float32]) -> Outcome:
        """Advance every row by one step and restart the finished ones.

        Args:
            actions: actions [N, |A|] in [-1, 1].

        Returns:
            The outcome of the step.
        """
        next_observations, rewards, terminated, _, _ = self._env.step(actions)
        self._elapsed += 1
        self._returns += rewards
        truncated = (self._elapsed >= self._robot.max_episode_steps) & ~terminated
        done = terminated | truncated
        next_observations = np.array(next_observations)
        if done.any():
            self.finished.extend(float(value) for value in self._returns[done])
            self._restart(done)
        else:
            self.observations = next_observations
        return Outcome(next_observations, np.array(rewards), np.array(terminated), truncated, self.observations)

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, as arrays and plain types."""
        return {
            "qpos": np.array(self._env.qpos),
            "qvel": np.array(self._env.qvel),
            "elapsed": self._elapsed.copy(),
            "returns": self._returns.copy(),
            "finished": list(self.finished),
            **({"goal": self._env.goal} if self._robot.goal_dim else {}),
            "rng": json.dumps(self._rng.bit_generator.state),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state.

        Args:
            state: what `state` returned, for the same robot, dynamics and number of rows.
        """
        self._elapsed = as_array(state["elapsed"])
        self._returns = as_array(state["returns"])
        self.finished = deque(state["finished"], maxlen=self.finished.maxlen)
        self._rng.bit_generator.state = json.loads(state["rng"])
        goal = as_array(state["goal"]) if "goal" in state else None
        self.observations = self._env.set_state(as_array(state["qpos"]), as_array(state["qvel"]), goal=goal)

    def _restart(self, mask: Bools) -> None:
        qpos, qvel = np.array(self._env.qpos), np.array(self._env.qvel)
        goals = np.zeros((len(mask), goal_size(self._robot.goal)))
        for row in np.flatnonzero(mask):
            qpos[row], qvel[row], *goal = self._robot.sample_reset(self._rng, self._rest)
            if goal:
                goals[row] = goal[0]
        self._elapsed[mask] = 0
        self._returns[mask] = 0.0
        self.observations = self._env.set_state(qpos, qvel, mask, goal=goals if self._robot.goal_dim else None)
