"""Logged steps simulated again under many candidate dynamics at once, and how far they end from what was logged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.batching.row_models import rows_together
from offdyn_envs.datasets.identifying.logs import Logs
from offdyn_envs.shifts import Shift
from offdyn_envs.shifts.delay import delay_of
from offdyn_envs.vector import OffDynVectorEnv

__all__ = ["Replay"]

Floats = NDArray[np.float64]
BATCH = 256
"""Rows that are simulated side by side, of all candidates together."""
MOST_MODELS = 64
"""Candidates at a time; each has a model of its own."""


class Replay:
    """Simulates from logged states.

    Every row is simulated as the environments do it, to the last bit, delayed actions included. Its first state is the
    logged one; the steps after the first go on from what was simulated.

    Attributes:
        rows: Where the simulations start, int64 [n].
        simulated: Control steps that have been simulated so far.

    Args:
        logs: The logs.
        rows: Where to start, [n].
        horizon: How many steps to simulate.
        known: Shifts that hold under every candidate, before its own.
        threads: Threads of the simulation; the errors do not depend on it.
        advance: Called with the number of steps that have been simulated.
    """

    def __init__(
        self,
        logs: Logs,
        rows: NDArray[np.int64],
        horizon: int,
        known: tuple[Shift, ...],
        threads: int,
        advance: Callable[[int], object] | None = None,
    ) -> None:
        self.logs, self.rows, self.horizon = logs, rows, horizon
        self._known, self._threads, self._advance = known, threads, advance

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, chosen: NDArray[Any]) -> Replay:
        """Return a replay of some of the rows."""
        return Replay(self.logs, self.rows[chosen], self.horizon, self._known, self._threads, self._advance)

    def errors(self, candidates: Sequence[tuple[Shift, ...]], *, stored: bool = False) -> Floats:
        """Return what was simulated minus what was logged, in changes of one step.

        Args:
            candidates: The shifts of each, C.
            stored: Round what was simulated as datasets store it, so that equal bits are an error of 0.

        Returns:
            [C, n, H, D]: only the D dimensions that move.
        """
        parts = [candidates[first : first + MOST_MODELS] for first in range(0, len(candidates), MOST_MODELS)]
        return np.concatenate([self._errors(part, stored) for part in parts])

    def _errors(self, candidates: Sequence[tuple[Shift, ...]], stored: bool) -> Floats:
        count, moving = len(candidates), self.logs.moving
        width = min(len(self), max(1, rows_together(self.logs.robot, BATCH) // count))
        found = np.empty((count, len(self), self.horizon, int(moving.sum())))
        env = OffDynVectorEnv(
            self.logs.robot,
            count * width,
            row_shifts=[self._known + shifts for shifts in candidates for _ in range(width)],
            profile=self.logs.profile,
            num_threads=self._threads,
            autoreset_mode="disabled",
        )
        steps = max(delay_of(self._known + shifts) for shifts in candidates)
        try:
            for first in range(0, len(self), width):
                part = slice(first, min(first + width, len(self)))
                rows = self.rows[part]
                walked = self._walk(env, np.tile(np.resize(rows, width), count), steps)
                if stored:
                    walked = walked.astype(np.float32).astype(np.float64)
                walked = walked.reshape(count, width, self.horizon, -1)[:, : len(rows)]
                logged = self.logs.arrays.next_observations[rows[:, None] + np.arange(self.horizon)]
                found[:, part] = (walked - logged)[..., moving] / self.logs.spread[moving]
                if self._advance is not None:
                    self._advance(count * len(rows) * self.horizon)
        finally:
            env.close()
        return found

    def _walk(self, env: OffDynVectorEnv, rows: NDArray[np.int64], steps: int) -> Floats:
        """Return what rows show after each step, [N, H, |S|]."""
        logs = self.logs
        goal = None if logs.goal is None else logs.goal[rows]
        env.set_state(logs.qpos[rows], logs.qvel[rows], queue=logs.arrays.under_way(rows, steps), goal=goal)
        shown = [env.step(np.asarray(logs.arrays.actions[rows + step]))[0] for step in range(self.horizon)]
        return np.stack(shown, axis=1)
