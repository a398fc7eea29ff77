"""The models of a batch: one compiled model and one start pose per row, which may follow a schedule."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import mujoco
import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError
from offdyn_envs.models import compile_model, start_qpos
from offdyn_envs.robots import Robot
from offdyn_envs.robots.goals import read_goal, write_goal
from offdyn_envs.robots.measures import columns_of, measure
from offdyn_envs.schedule import Schedule
from offdyn_envs.shifts import Shift, check_shifts
from offdyn_envs.shifts.local import everywhere, here, is_local, outside

__all__ = ["RowModels", "rows_together"]

# Older versions search for islands only when asked.
_NO_ISLANDS = int(getattr(mujoco.mjtDisableBit, "mjDSBL_ISLAND", 0))

_KEPT = 256
OWN_MODELS = 64
"""Rows at a time of a robot with a goal, where each needs a model of its own, of up to some 7 MB."""


def rows_together(robot: Robot, most: int) -> int:
    """Return how many rows to simulate side by side, so that their models fit into memory.

    Args:
        robot: The robot.
        most: How many where rows of equal dynamics share a model.
    """
    return min(most, OWN_MODELS) if robot.goal else most


def _compiled(robot: Robot, profile: str, shifts: tuple[Shift, ...]) -> mujoco.MjModel:
    """Return a compiled model that does not search for islands where there is one tree, thus always one island.

    The search takes 2 to 10% of a step and changes no number there.
    """
    model = compile_model(robot, shifts, profile)
    if model.ntree == 1:
        model.opt.disableflags |= _NO_ISLANDS
    return model


class RowModels:
    """What simulates each row.

    Attributes:
        models: One compiled model per row, N; rows of equal dynamics share one, and no other environment has it. They
            do not search for islands, which changes no number but `model_hash`: compare hashes of `compile_model`.
        goals: What is written into the model of each row, then the states of its motors, then what is measured there,
            [N, G]; nothing for most robots.
        columns: Where in the sensors' data the latter is, [P].
        start_qpos: The pose around which each row's episodes start, [N, nq].
        timestep: Seconds per physics step, the same for all rows.
    """

    def __init__(
        self, robot: Robot, row_shifts: Sequence[tuple[Shift, ...]], profile: str, schedule: Schedule | None
    ) -> None:
        """Compile the rows' models.

        Args:
            robot: The robot.
            row_shifts: The shifts of each row, N.
            profile: Variant of the edits, see `offdyn_envs.shifts.PROFILES`.
            schedule: Shifts that change, appended to each row's own.

        Raises:
            OffDynError: The rows do not run at one timestep.
        """
        self._robot, self._row_shifts, self._profile, self._schedule = robot, row_shifts, profile, schedule
        self._standing = list(row_shifts)
        self._active = [outside(shifts) for shifts in row_shifts]
        self._local_rows = [row for row, shifts in enumerate(row_shifts) if is_local(shifts)]
        self._episodes = np.full(len(row_shifts), -1, dtype=np.int64)
        self._known: dict[tuple[Shift, ...], mujoco.MjModel] = {}
        for row in self._local_rows:
            check_shifts(row_shifts[row], robot)
        self.models = [self._model(shifts) for shifts in self._active]
        if robot.goal:  # What reset writes is a row's own.
            self.models = [copy.copy(model) for model in self.models]
        self.columns = columns_of(self.models[0], robot.measures)
        rest = np.zeros(robot.na + len(self.columns))
        self.goals = np.stack([np.concatenate((read_goal(model, robot.goal), rest)) for model in self.models])
        self._data = mujoco.MjData(self.models[0]) if robot.measures else None
        self.start_qpos = np.stack([start_qpos(robot, shifts, profile) for shifts in self._active])
        self.timestep = float(self.models[0].opt.timestep)
        for model in (*self.models, *(self._model(everywhere(row_shifts[row])) for row in self._local_rows)):
            self._check_timestep(model)

    def aim(self, row: int, goal: NDArray[np.float64]) -> None:
        """Write a goal into the model of a row: what reset writes, with or without the rest; motors begin with 0."""
        self.goals[row, : len(goal)] = goal
        self.goals[row, len(goal) : self._robot.acts.stop] = 0.0
        write_goal(self.models[row], self._robot.goal, goal)

    def measure(self, row: int, qpos: NDArray[np.float64], qvel: NDArray[np.float64]) -> None:
        """Measure anew what belongs to a state of a row, from which nothing has been simulated yet."""
        if self._data is not None:
            state = (qpos, qvel, self.goals[row, self._robot.acts])
            found = measure(self.models[row], self._data, self._robot.measures, state)
            self.goals[row, self.goals.shape[1] - len(found) :] = found

    def begin_episodes(self, rows: NDArray[np.intp], number: int | None = None) -> None:
        """Count a new episode of some rows and bring their models up to date.

        Args:
            rows: Indices of the rows.
            number: The episode's number; by default one more than before.
        """
        self._episodes[rows] = self._episodes[rows] + 1 if number is None else number
        if self._schedule is not None:
            counts = self._episodes[rows] if self._schedule.unit == "episode" else np.zeros_like(rows)
            self._follow(rows, counts)
        self.leave(rows)

    def leave(self, rows: Iterable[int]) -> None:
        """Give rows, which begin in states of their own, the models that hold where no local shift does."""
        for row in set(self._local_rows).intersection(rows):
            self._use(row, outside(self._standing[row]))

    def begin_step(self, elapsed: NDArray[np.int64], qpos: NDArray[np.float64], qvel: NDArray[np.float64]) -> None:
        """Bring the models up to date before a control step.

        Args:
            elapsed: Control steps since each row's reset, [N].
            qpos: Positions, [N, nq]: local shifts hold in some of them.
            qvel: Velocities, [N, nv].
        """
        if self._schedule is not None and self._schedule.unit == "step":
            rows = np.flatnonzero(np.isin(elapsed, [0, *self._schedule.times]))
            self._follow(rows, elapsed[rows])
        for row in self._local_rows:
            state = self._robot.state(qpos[row], qvel[row], self.goals[row])
            self._use(row, here(self._standing[row], self._robot, state))

    def _follow(self, rows: NDArray[np.intp], counts: NDArray[np.int64]) -> None:
        assert self._schedule is not None
        for row, count in zip(rows.tolist(), counts.tolist(), strict=True):
            wanted = self._row_shifts[row] + self._schedule.shifts_at(count)
            if wanted == self._standing[row]:
                continue
            self._standing[row] = wanted
            self._use(row, outside(wanted))
            self.start_qpos[row] = start_qpos(self._robot, self._active[row], self._profile)

    def _use(self, row: int, shifts: tuple[Shift, ...]) -> None:
        if shifts != self._active[row]:
            model = self._model(shifts)
            self._check_timestep(model)
            self.models[row], self._active[row] = copy.copy(model) if self._robot.goal else model, shifts
            write_goal(self.models[row], self._robot.goal, self.goals[row])

    def _model(self, shifts: tuple[Shift, ...]) -> mujoco.MjModel:
        """Return the model of some dynamics: a schedule comes back to the same ones again and again."""
        if shifts not in self._known:
            if len(self._known) >= _KEPT:
                del self._known[next(iter(self._known))]
            self._known[shifts] = _compiled(self._robot, self._profile, shifts)
        return self._known[shifts]

    def _check_timestep(self, model: mujoco.MjModel) -> None:
        if model.opt.timestep != self.timestep:
            raise OffDynError(
                f"all rows must run at one timestep, got {self.timestep} s and {model.opt.timestep} s; "
                "profile 'droco' changes HalfCheetah's with its severe kinematic shift"
            )
