"""The batched environment: one process, one compiled model per row, physics on `mujoco.rollout`.

Rows may hold different shifts. Every row computes what the scalar environment computes, bit for bit, for any number of
threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from offdyn_envs.attacks import Attack, make_attack
from offdyn_envs.batching.arguments import (
    autoreset,
    row_mask,
    seeds_of_rows,
    shifts_of_rows,
    whole_number,
)
from offdyn_envs.batching.crew import Crew
from offdyn_envs.batching.row_models import RowModels
from offdyn_envs.batching.step_timers import stop_step_timers
from offdyn_envs.batching.threads import threads_for
from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.robots import Robot, State, get_robot
from offdyn_envs.robots.registry import is_robot, known_robot
from offdyn_envs.scalar.arguments import check_observe_shifts, finite_numbers
from offdyn_envs.scalar.plain import PlainSpec
from offdyn_envs.schedule import Schedule, episode_option, make_schedule
from offdyn_envs.shifts import Shifts, check_profile, parse_shifts
from offdyn_envs.shifts.context import context_of_rows
from offdyn_envs.shifts.delay import ActionQueue, delay_of
from offdyn_envs.shifts.noise import STREAM, noises_of
from offdyn_envs.tasks import get_dynamics

__all__ = ["OffDynVectorEnv"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
_PHYSICS = mujoco.mjtState.mjSTATE_FULLPHYSICS.value
_PARAMETERS = (
    *("robot", "num_envs", "dynamics", "shifts", "row_shifts", "profile", "num_threads", "max_episode_steps"),
    *("autoreset_mode", "attack", "schedule", "observe_shifts", "render_mode"),
)


class OffDynVectorEnv(VectorEnv[Floats, NDArray[Any], Any]):
    """N rows of one robot, each under its own dynamics.

    MuJoCo's step timers (`MjData.timer`) are turned off in this process, see `offdyn_envs.batching.step_timers`.

    Args:
        robot: A robot or its name.
        num_envs: N, the number of rows.
        dynamics: A named dynamics for all rows.
        shifts: More shifts for all rows, applied after those of `dynamics`: one or a list.
        row_shifts: One more list of shifts (or one shift, or None) per row, applied last; N entries.
        profile: Variant of the edits, see `offdyn_envs.shifts.PROFILES`.
        num_threads: Threads that share the physics; by default a usable processor for every four rows. Results do not
            depend on it.
        max_episode_steps: Control steps until truncation.
        autoreset_mode: "next_step" (Gymnasium's default), "same_step" or "disabled".
        attack: An observation attack, as a value or a plain JSON object.
        schedule: Shifts that change between episodes or at a step, appended to each row's own; every row counts its
            own episodes.
        observe_shifts: Append the strength of each of a row's shifts to its observation, never attacked; all rows must
            have the same shifts but for their strength. `context_names` says which is which.
        render_mode: Must be None; render the scalar environment instead.

    Raises:
        OffDynError: An unknown name, parameter or value.
    """

    spec: EnvSpec | None = cast(Any, PlainSpec())

    def __init__(
        self,
        robot: str | Robot,
        num_envs: int,
        dynamics: str = "nominal",
        shifts: Shifts = None,
        row_shifts: Sequence[Shifts] | None = None,
        profile: str = "default",
        num_threads: int | None = None,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = "next_step",
        attack: Mapping[str, Any] | Attack | None = None,
        schedule: Mapping[str, Any] | Schedule | None = None,
        observe_shifts: bool = False,
        render_mode: str | None = None,
        **unexpected: Any,
    ) -> None:
        for name in unexpected:
            raise unknown("parameter of the batched environment", name, _PARAMETERS)
        self.robot = known_robot(robot)
        self.num_envs = whole_number("num_envs", num_envs)
        limit = self.robot.max_episode_steps if max_episode_steps is None else max_episode_steps
        self.max_episode_steps = whole_number("max_episode_steps", limit)
        if render_mode is not None:
            raise OffDynError("the batched environment does not render; use gymnasium.make for render_mode")
        self.autoreset_mode = autoreset(autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}
        self.attack = None if attack is None else make_attack(attack, self.robot)
        common = get_dynamics(self.robot.name, dynamics) + parse_shifts(shifts)
        self.row_shifts = shifts_of_rows(common, row_shifts, self.num_envs)
        self.profile = check_profile(profile)
        self.schedule = None if schedule is None else make_schedule(schedule, self.robot, self.row_shifts)
        threads = threads_for(self.num_envs) if num_threads is None else num_threads
        self.num_threads = min(whole_number("num_threads", threads), self.num_envs)
        observed = self.row_shifts if check_observe_shifts(observe_shifts, schedule) else ((),) * self.num_envs
        self.context_names, self._context = context_of_rows(observed)
        self._build_spaces()
        self._build_physics()

    def _build_spaces(self) -> None:
        dims = self.robot.observation_dim + len(self.context_names), self.robot.action_dim
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (dims[0],), np.float64)
        self.single_action_space = spaces.Box(-1.0, 1.0, (dims[1],), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def _build_physics(self) -> None:
        rows = self.num_envs
        self._rows = RowModels(self.robot, self.row_shifts, self.profile, self.schedule)
        self.robot = robot = replace(self.robot, timestep=self._rows.timestep)
        base = self._rows.models[0]
        self._hire()
        size = mujoco.mj_stateSize(base, _PHYSICS)
        self._state = np.zeros((rows, size))
        self._trajectory = np.zeros((rows, robot.frame_skip, size))
        self._control = np.zeros((rows, robot.frame_skip, robot.action_dim))
        sensors = (rows, robot.frame_skip, base.nsensordata)
        self._sensed = np.zeros(sensors) if robot.measures else None
        self._steps = np.zeros(rows, dtype=np.int64)
        self._done = np.zeros(rows, dtype=bool)
        self._unstarted = set(range(rows))
        self._rngs = [np.random.default_rng() for _ in range(rows)]
        self._attack_rngs = [np.random.default_rng() for _ in range(rows)]
        self._noise_rngs = [np.random.default_rng() for _ in range(rows)]
        self._noises = [noises_of(shifts) for shifts in self.row_shifts]
        self._disturbed = self.attack is not None or any(self._noises)
        self._queue = ActionQueue([delay_of(shifts) for shifts in self.row_shifts], robot.action_dim)
        self._last = self._state
        self._qpos = slice(1, 1 + robot.nq)
        self._qvel = slice(self._qpos.stop, self._qpos.stop + robot.nv)
        self._act = slice(self._qvel.stop, self._qvel.stop + robot.na)

    def _hire(self) -> None:
        stop_step_timers()
        self._crew = Crew(self._rows.models[0], self.num_envs, self.num_threads)
        if self.closed:
            self._crew.close()

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled and copied: all but the threads."""
        return {name: value for name, value in vars(self).items() if name != "_crew"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what was pickled, and start threads of one's own."""
        vars(self).update(state)
        self._hire()

    @property
    def models(self) -> Sequence[mujoco.MjModel]:
        """The compiled model of each row now, N; rows of equal dynamics share one.

        What is changed in one holds in this environment only, in all rows of these dynamics.
        """
        return tuple(self._rows.models)

    @property
    def qpos(self) -> Floats:
        """Current positions, [N, nq]; a copy."""
        return self._state[:, self._qpos].copy()

    @property
    def qvel(self) -> Floats:
        """Current velocities, [N, nv]; a copy."""
        return self._state[:, self._qvel].copy()

    @property
    def queue(self) -> Floats:
        """Actions sent in the last K control steps, oldest first, [N, K, |A|]; a copy.

        K is the longest delay of any row; positions, velocities, goal and this are the whole state.
        """
        return self._queue.sent.copy()

    @property
    def goal(self) -> Floats:
        """What the last reset wrote into each row's model, and what else belongs to its state, [N, G]; a copy.

        The states of its motors, and what the last physics step measured. Nothing for most robots.
        """
        return self._rows.goals.copy()

    @property
    def last_qpos(self) -> Floats:
        """Positions right after the last physics step, before any reset, [N, nq]; a copy."""
        return self._last[:, self._qpos].copy()

    @property
    def last_qvel(self) -> Floats:
        """Velocities right after the last physics step, before any reset, [N, nv]; a copy."""
        return self._last[:, self._qvel].copy()

    def set_state(
        self,
        qpos: NDArray[Any],
        qvel: NDArray[Any],
        mask: Bools | None = None,
        queue: Floats | None = None,
        goal: NDArray[Any] | None = None,
    ) -> Floats:
        """Put rows into given states and start a fresh episode there.

        Args:
            qpos: Positions, [N, nq].
            qvel: Velocities, [N, nv].
            mask: Which rows to set, [N]; all where left out.
            queue: Actions under way, as `queue` returns them, [N, K, |A|]; none have been sent where left out.
            goal: Goals, as `goal` returns them, [N, G]; they stay where left out. Without the last numbers, those that
                are measured, these are measured anew; without the motors' states, too, these are 0.

        Returns:
            The observations of all rows, [N, |S|], never attacked and without noise.

        Raises:
            OffDynError: Other shapes, or numbers of the chosen rows that are not finite.
        """
        chosen = row_mask("mask", mask, self.num_envs)
        parts = (("qpos", qpos, self.robot.nq, self._qpos), ("qvel", qvel, self.robot.nv, self._qvel))
        checked = [
            (where, finite_numbers(name, value, (self.num_envs, size), chosen=chosen))
            for name, value, size, where in parts
        ]
        goals = None if goal is None else self._goals(goal, chosen)
        under_way = None if queue is None else finite_numbers("queue", queue, self._queue.sent.shape, chosen=chosen)
        self._state[chosen, 0] = 0.0
        for where, value in checked:
            self._state[chosen, where] = value[chosen]
        self._rows.leave(np.flatnonzero(chosen).tolist())
        for row in np.flatnonzero(chosen).tolist():
            self._aim(row, None if goals is None else goals[row])
        self._begin(chosen)
        if under_way is not None:
            self._queue.sent[chosen] = under_way[chosen]
        return self._with_context(self._observe())

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Start episodes.

        Args:
            seed: Row i gets `seed + i`, or the i-th of N seeds; None continues the rows' streams.
            options: `{"reset_mask": bool [N]}` resets only those rows; `{"episode": k}` sets the count of episodes
                that a schedule follows.

        Returns:
            Observations, [N, |S|], and empty infos.
        """
        episode = episode_option(options, ("episode", "reset_mask"))
        mask = (options or {}).get("reset_mask")
        chosen = row_mask("reset_mask", mask, self.num_envs)
        for row, row_seed in enumerate(seeds_of_rows(seed, self.num_envs)):
            if row_seed is not None and chosen[row]:
                self._rngs[row] = np.random.default_rng(row_seed)
                self._attack_rngs[row] = np.random.default_rng([row_seed, 1])
                self._noise_rngs[row] = np.random.default_rng([row_seed, STREAM])
        self._reset_rows(chosen, episode)
        return self._seen(chosen if mask is not None else None), {}

    def step(self, actions: NDArray[Any]) -> tuple[Floats, Floats, Bools, Bools, dict[str, Any]]:
        """Advance every row by one control step.

        Args:
            actions: Motor commands, [N, |A|], meant to lie in [-1, 1].

        Returns:
            Observations [N, |S|], rewards [N], terminations [N], truncations [N] and infos. With "same_step", rows
            that ended show the first observation of the next episode and `infos["final_obs"]` [N, |S|] holds the last
            one of the old (valid where `infos["_final_obs"]`). `infos["diverged"]` [N] appears when a simulation blew
            up; such a row keeps its state and terminates.

        Raises:
            ResetNeeded: A row has not been started yet, by `reset` or `set_state`.
            OffDynError: A wrong shape, or an action that is not finite.
        """
        actions = np.asarray(actions)
        if (
            actions.dtype.kind not in "fiu"
            or actions.shape != self.action_space.shape
            or not np.isfinite(actions).all()
        ):
            raise OffDynError(
                f"actions must be finite numbers of shape {self.action_space.shape}, got {actions.dtype} "
                f"of shape {actions.shape}"
            )
        if self._unstarted:
            self._crew.check_open()
            raise ResetNeeded("Cannot call env.step() before calling env.reset()")
        waiting = self._done.copy() if self.autoreset_mode == AutoresetMode.NEXT_STEP else None
        before = self._parts(self._state)
        diverged = self._advance(actions)
        rewards, terminations, truncations = self._judge(before, actions, diverged)
        infos: dict[str, Any] = {"diverged": diverged} if diverged.any() else {}
        self._last = self._state
        if waiting is not None and waiting.any():
            self._last = self._state.copy()
            self._reset_rows(waiting)
            rewards[waiting], terminations[waiting], truncations[waiting] = 0.0, False, False
        self._done = terminations | truncations
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._done.any():
            return self._step_and_reset(rewards, terminations, truncations, infos)
        return self._seen(None), rewards, terminations, truncations, infos

    def _goals(self, goal: NDArray[Any], chosen: Bools) -> Floats:
        """Return goals that were given, checked, [N, G] or without what is measured, or without motors either."""
        rows, size = self._rows.goals.shape
        widths = (size, self.robot.acts.start, self.robot.acts.stop)
        return finite_numbers("goal", goal, *((rows, width) for width in widths), chosen=chosen)

    def _aim(self, row: int, goal: Floats | None) -> None:
        """Give a row, whose positions and velocities stand, a goal; measure what it does not say."""
        if goal is not None:
            self._rows.aim(row, goal)
            self._state[row, self._act] = self._rows.goals[row, self.robot.acts]
        if goal is None or len(goal) < self._rows.goals.shape[1]:
            self._rows.measure(row, self._state[row, self._qpos], self._state[row, self._qvel])

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the physics threads."""
        self._crew.close()

    def _advance(self, actions: NDArray[Any]) -> Bools:
        self._rows.begin_step(self._steps, self._state[:, self._qpos], self._state[:, self._qvel])
        self._control[:] = self.robot.control(self._queue.send(actions))[:, None, :]
        self._crew.simulate(self._rows.models, self._state, self._control, self._trajectory, self._sensed)
        after = self._trajectory[:, -1].copy()
        # The simulation repeats the last good state of a row that diverged, so its clock falls behind.
        diverged = after[:, 0] - self._state[:, 0] < self.robot.dt - 0.5 * self.robot.timestep
        if diverged.any():
            after[diverged] = self._state[diverged]
        self._state = after
        if self.robot.na or self._sensed is not None:
            self._take_rest(np.flatnonzero(diverged).tolist())
        self._steps += 1
        return diverged

    def _take_rest(self, diverged: list[int]) -> None:
        """Take the states of the motors, and what was measured, into the third part of the states."""
        aims = self._rows.goals[:, : self.robot.acts.start]
        measured = [] if self._sensed is None else [self._sensed[:, -1, self._rows.columns]]
        self._rows.goals = np.concatenate((aims, self._state[:, self._act], *measured), axis=1)
        self._rows.leave(diverged)
        for row in diverged:
            self._aim(row, None)

    def _judge(self, before: State, actions: NDArray[Any], diverged: Bools) -> tuple[Floats, Bools, Bools]:
        rewards, fallen = self.robot.judge(before, self._parts(self._state), actions)
        return rewards, fallen | diverged, self._steps >= self.max_episode_steps

    def _parts(self, state: Floats) -> State:
        return self.robot.state(state[:, self._qpos], state[:, self._qvel], self._rows.goals)

    def _step_and_reset(
        self, rewards: Floats, terminations: Bools, truncations: Bools, infos: dict[str, Any]
    ) -> tuple[Floats, Floats, Bools, Bools, dict[str, Any]]:
        ended = self._done.copy()
        # Each observation that a policy may see is attacked once: the last of an episode, the first of the next one.
        infos["final_obs"], infos["_final_obs"] = self._seen(ended), ended
        infos["final_info"], infos["_final_info"] = {}, ended
        going_on = self._seen(~ended) if self._disturbed else None
        self._last = self._state.copy()
        self._reset_rows(ended)
        first = self._seen(ended)
        observations = first if going_on is None else np.where(ended[:, None], first, going_on)
        return observations, rewards, terminations, truncations, infos

    def _reset_rows(self, chosen: Bools, episode: int | None = None) -> None:
        rows = np.flatnonzero(chosen)
        self._rows.begin_episodes(rows, episode)
        for row in rows:
            qpos, qvel, *goal = self.robot.sample_reset(self._rngs[row], self._rows.start_qpos[row])
            self._state[row, 0] = 0.0
            self._state[row, self._qpos] = qpos
            self._state[row, self._qvel] = qvel
            self._aim(int(row), goal[0] if goal else np.zeros(0) if self.robot.na else None)
        self._begin(chosen)

    def _begin(self, chosen: Bools) -> None:
        self._steps[chosen] = 0
        self._done[chosen] = False
        self._queue.clear(chosen)
        self._unstarted.difference_update(np.flatnonzero(chosen).tolist())

    def _observe(self) -> Floats:
        return self.robot.observe(*self._parts(self._state))

    def _seen(self, rows: Bools | None) -> Floats:
        """Return all observations, those of `rows` (None: of all rows) noisy and attacked."""
        observations = self._observe()
        if not self._disturbed or (rows is not None and not rows.any()):
            return self._with_context(observations)
        index = np.arange(self.num_envs) if rows is None else np.flatnonzero(rows)
        for row in index:
            for noise in self._noises[row]:
                observations[row] = noise.disturb(observations[row], self._noise_rngs[row])
        if self.attack is not None:
            observations[index] = self.attack.perturb(observations[index], [self._attack_rngs[row] for row in index])
        return self._with_context(observations)

    def _with_context(self, observations: Floats) -> Floats:
        return np.concatenate([observations, self._context], axis=1) if self.context_names else observations


def __getattr__(name: str) -> Any:
    """Return what makes a batch of a robot, by its name: Gymnasium's entry point."""
    # Pickle and torch ask every module for names of others: a module has to say that it lacks them.
    if not is_robot(name):
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return partial(OffDynVectorEnv, get_robot(name))
