"""One control step of many states: of one model, or of shifts that only an environment carries out."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import mujoco
import mujoco.rollout
import numpy as np
from numpy.typing import NDArray

from offdyn_envs.batching.row_models import rows_together
from offdyn_envs.datasets.gap.domains import Domain
from offdyn_envs.robots import Robot, State
from offdyn_envs.robots.goals import write_goal
from offdyn_envs.robots.measures import columns_of, measure
from offdyn_envs.vector import OffDynVectorEnv

__all__ = ["EnvironmentSimulator", "ModelSimulator", "make_simulator"]

Array = NDArray[Any]
CHUNK, SIDE_BY_SIDE = 4096, 256
"""States at a time, of a model and in an environment."""
_PHYSICS = mujoco.mjtState.mjSTATE_FULLPHYSICS.value
_CONTROL = mujoco.mjtState.mjSTATE_CTRL.value


class ModelSimulator:
    """One control step of many states of one model.

    Attributes:
        robot: The robot, with the timestep of the model.
        chunk: How many states it takes at a time.
        delay: How many of the last actions count, 0.
    """

    delay = 0

    def __init__(self, robot: Robot, model: mujoco.MjModel, num_threads: int) -> None:
        # Rewards are per second of the simulated model, as in the environments.
        self.robot = replace(robot, timestep=float(model.opt.timestep))
        # What reset writes is a row's own.
        self.chunk = rows_together(robot, CHUNK)
        self._models = [copy.copy(model) for _ in range(self.chunk)] if robot.goal else [model] * CHUNK
        self._columns = columns_of(model, robot.measures)
        self._datas = [mujoco.MjData(model) for _ in range(num_threads)]
        self._rollout = mujoco.rollout.Rollout(nthread=num_threads if num_threads > 1 else 0)
        size = mujoco.mj_stateSize(model, _PHYSICS)
        self._state = np.zeros((self.chunk, size))
        self._control = np.zeros((self.chunk, robot.frame_skip, robot.action_dim))
        self._trajectory = np.zeros((self.chunk, robot.frame_skip, size))
        sensors = (self.chunk, robot.frame_skip, model.nsensordata)
        self._sensed = np.zeros(sensors) if robot.measures else None

    def step(self, before: State, actions: Array, queue: Array) -> tuple[State, NDArray[np.bool_]]:
        """Do a control step.

        Args:
            before: States, [n, ...]; n up to `chunk`.
            actions: What is sent, [n, |A|].
            queue: The last actions before it, oldest first, [n, delay, |A|].

        Returns:
            The next states [n, ...], and where the simulation blew up [n].
        """
        qpos, qvel, *goal = before
        count = len(qpos)
        if not count:
            return before, np.zeros(0, dtype=bool)
        for model, row in zip(self._models, goal[0] if goal else (), strict=False):
            write_goal(model, self.robot.goal, row)
        state, control = self._state[:count], self._control[:count]
        state[:, 1:] = np.concatenate((qpos, qvel, *(each[:, self.robot.acts] for each in goal)), axis=1)
        control[:] = self.robot.control(actions)[:, None, :]
        # Rows in contact cost more than rows in flight: small portions let the threads share them evenly.
        portion = max(1, count // (8 * len(self._datas)))
        trajectory = self._trajectory[:count]
        self._rollout.rollout(
            self._models[:count],
            self._datas,
            state,
            control,
            control_spec=_CONTROL,
            skip_checks=True,
            nstep=self.robot.frame_skip,
            state=trajectory,
            sensordata=None if self._sensed is None else self._sensed[:count],
            chunk_size=portion,
        )
        after = trajectory[:, -1].copy()
        # rollout repeats the last good state of a row that diverged, so its clock falls behind; the environments keep
        # the state from before the step there.
        diverged = after[:, 0] < self.robot.dt - 0.5 * self.robot.timestep
        after[diverged] = state[diverged]
        ends = np.cumsum([1, self.robot.nq, self.robot.nv])
        _, qpos, qvel, act = np.split(after, ends, axis=1)
        return self.robot.state(
            qpos, qvel, self._goals(goal[0], (qpos, qvel, act), diverged) if goal else act
        ), diverged

    def _goals(self, goal: Array, reached: tuple[Array, Array, Array], diverged: NDArray[np.bool_]) -> Array:
        """Return the third part of the next states: what was measured on the way, anew where that led nowhere."""
        after = goal.copy()
        after[:, self.robot.acts] = reached[2]
        if self._sensed is None:
            return after
        after[:, -len(self._columns) :] = self._sensed[: len(goal), -1, self._columns]
        for row in np.flatnonzero(diverged):
            at = reached[0][row], reached[1][row], reached[2][row]
            found = measure(self._models[row], self._datas[0], self.robot.measures, at)
            after[row, -len(self._columns) :] = found
        return after

    def close(self) -> None:
        """Stop the threads."""
        self._rollout.close()


class EnvironmentSimulator:
    """One control step of many states under shifts that an environment carries out: delays and local ones.

    Attributes:
        robot: The robot, with the timestep of the model.
        chunk: How many states it takes at a time.
        delay: How many of the last actions count.
    """

    def __init__(self, robot: Robot, domain: Domain, num_threads: int) -> None:
        self.chunk = rows_together(robot, SIDE_BY_SIDE)
        self._env = OffDynVectorEnv(
            robot,
            self.chunk,
            shifts=domain.shifts,
            profile=domain.profile,
            num_threads=num_threads,
            autoreset_mode="disabled",
        )
        self.robot = self._env.robot
        self.delay = self._env.queue.shape[1]

    def step(self, before: State, actions: Array, queue: Array) -> tuple[State, NDArray[np.bool_]]:
        """Do a control step, see `ModelSimulator.step`."""
        count = len(actions)
        if not count:
            return before, np.zeros(0, dtype=bool)
        rows = np.resize(np.arange(count), self.chunk)  # The last chunk may be short.
        qpos, qvel, *goal = (values[rows] for values in before)
        self._env.set_state(qpos, qvel, queue=queue[rows], goal=goal[0] if goal else None)
        infos = self._env.step(actions[rows])[4]
        diverged = infos.get("diverged", np.zeros(self.chunk, dtype=bool))[:count]
        return self.robot.state(*(now[:count] for now in (self._env.qpos, self._env.qvel, self._env.goal))), diverged

    def close(self) -> None:
        """Stop the threads."""
        self._env.close()


def make_simulator(robot: Robot, domain: Domain, num_threads: int) -> ModelSimulator | EnvironmentSimulator:
    """Return what simulates steps in a domain."""
    if domain.shifts:
        return EnvironmentSimulator(robot, domain, num_threads)
    return ModelSimulator(robot, domain.model, num_threads)
