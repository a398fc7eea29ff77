"""Threads that share the physics of a batch: the caller works too, so two threads need one wake-up, not three."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import mujoco
import mujoco.rollout
import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError

__all__ = ["Crew", "rows_at_a_time"]

PAUSE = 1e-4
"""Seconds between two looks at whether helpers are done with a job that was interrupted."""
_CONTROL = mujoco.mjtState.mjSTATE_CTRL.value

Floats = NDArray[np.float64]


def rows_at_a_time(rows: int, threads: int) -> int:
    """Return how many rows a thread takes at a time.

    Rows in contact cost more than rows in flight, so there are several helpings for each thread. But a helping costs
    three microseconds of Python, which only one thread runs at a time: the more threads, the more rows at least.
    """
    return max(rows // (8 * threads), min(max(4, threads), -(-rows // threads)))


@dataclass(frozen=True)
class _Job:
    """One control step of a batch.

    Attributes:
        helpings: Rows nobody has taken yet; a list's `pop` is atomic.
        models: One compiled model per row, N.
        state: Full physics states before, [N, size].
        control: Controls of every physics step, [N, T, nu].
        trajectory: Where the states after every physics step go, [N, T, size].
        sensed: Where what the sensors measured in every physics step goes, [N, T, nsensordata]; None where nobody asks.
        busy: One item for each helper that may be at work on it; its `append` and `pop` are atomic.
        results: How it ended for each helper.
    """

    helpings: list[slice]
    models: Sequence[mujoco.MjModel]
    state: Floats
    control: Floats
    trajectory: Floats
    sensed: Floats | None
    busy: list[None] = field(default_factory=list[None])
    results: SimpleQueue[Exception | None] = field(default_factory=SimpleQueue)


def _work(job: _Job, data: mujoco.MjData, simulate: mujoco.rollout.Rollout) -> None:
    while job.helpings:
        try:
            rows = job.helpings.pop()
        except IndexError:  # Another thread was faster.
            return
        simulate.rollout(
            job.models[rows],
            [data],
            job.state[rows],
            job.control[rows],
            control_spec=_CONTROL,
            skip_checks=True,
            nstep=job.control.shape[1],
            state=job.trajectory[rows],
            sensordata=None if job.sensed is None else job.sensed[rows],
        )


def _attempt(job: _Job, data: mujoco.MjData, simulate: mujoco.rollout.Rollout) -> Exception | None:
    try:
        _work(job, data, simulate)
    except Exception as error:
        return error
    return None


def _help(model: mujoco.MjModel, jobs: SimpleQueue[_Job | None]) -> None:
    """Work on jobs until one is None; a thread's life. One that can have no memory says so to whoever waits for it."""
    tools: tuple[mujoco.MjData, mujoco.rollout.Rollout] | None = None
    trouble: Exception | None = None
    try:
        tools = mujoco.MjData(model), mujoco.rollout.Rollout(nthread=0)
    except Exception as failure:
        trouble = failure
    while (job := jobs.get()) is not None:
        job.busy.append(None)
        error = trouble if tools is None else _attempt(job, *tools)
        job.busy.pop()
        job.results.put(error)


def _dismiss(jobs: SimpleQueue[Any], helpers: int) -> None:
    for _ in range(helpers):
        jobs.put(None)


class Crew:
    """The calling thread and `threads - 1` helpers."""

    def __init__(self, model: mujoco.MjModel, rows: int, threads: int) -> None:
        """Start the helpers.

        Args:
            model: Any of the models to come; all have equal sizes.
            rows: N, the number of rows.
            threads: How many threads work, the caller among them.
        """
        self._model = model
        self._own = mujoco.MjData(model), mujoco.rollout.Rollout(nthread=0)
        size = rows_at_a_time(rows, threads)
        self._helpings = [slice(first, min(rows, first + size)) for first in range(0, rows, size)]
        self._helpers = threads - 1
        self._start()
        _crews.add(self)

    def simulate(
        self,
        models: Sequence[mujoco.MjModel],
        state: Floats,
        control: Floats,
        trajectory: Floats,
        sensed: Floats | None = None,
    ) -> None:
        """Do one control step of every row, from a cold solver.

        Args:
            models: One compiled model per row, N.
            state: Full physics states before, [N, size].
            control: Controls of every physics step, [N, T, nu].
            trajectory: Filled with the states after every physics step, [N, T, size]; a row that diverges repeats its
                last good state.
            sensed: Filled with what the sensors measured in every physics step, [N, T, nsensordata].

        Raises:
            OffDynError: The crew has been closed.
        """
        self.check_open()
        if self._forked:
            self._end.detach()
            self._start()
        job = _Job(self._helpings.copy(), models, state, control, trajectory, sensed)
        try:
            for _ in range(self._helpers):
                self._jobs.put(job)
            results = [_attempt(job, *self._own), *(job.results.get() for _ in range(self._helpers))]
        except BaseException:
            # Interrupted, wherever: nobody may be at work on arrays that the caller lets go. A helper that finds the
            # job in the queue later has nothing left to do.
            job.helpings.clear()
            while job.busy:
                time.sleep(PAUSE)
            raise
        errors = [error for error in results if error is not None]
        if errors:
            raise errors[0]

    def check_open(self) -> None:
        """Raise an `OffDynError` if the crew has been closed."""
        if not self._end.alive:
            raise OffDynError("the environment is closed: it cannot step any more")

    def close(self) -> None:
        """Send the helpers home."""
        self._end()

    def _start(self) -> None:
        self._forked = False
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._end = weakref.finalize(self, _dismiss, self._jobs, self._helpers)
        for _ in range(self._helpers):
            # The threads know the queue, not the crew: it can be collected while they wait.
            arguments = self._model, self._jobs
            threading.Thread(target=_help, args=arguments, daemon=True, name="offdyn-physics").start()

    def lose_helpers(self) -> None:
        """Take note that this process is a fork, which has the queues but not the threads; the next job starts them."""
        if self._helpers and self._end.alive:
            self._forked = True


_crews: weakref.WeakSet[Crew] = weakref.WeakSet()


def _lose_helpers() -> None:
    for crew in list(_crews):
        crew.lose_helpers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lose_helpers)
