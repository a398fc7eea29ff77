"""A robot as a scalar environment, on a model compiled from its shifts.

The state is Markov in (time, qpos, qvel, act), because the solver's warm start is zeroed before every control step.
Scalar, batched and re-simulated transitions then agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from offdyn_envs.attacks import Attack, make_attack
from offdyn_envs.errors import OffDynError
from offdyn_envs.models import compile_model, overwrite_model, start_qpos
from offdyn_envs.robots import Robot, State
from offdyn_envs.robots.goals import read_goal, write_goal
from offdyn_envs.robots.measures import columns_of
from offdyn_envs.scalar.arguments import check_observe_shifts, check_rendering, check_seed, finite_numbers
from offdyn_envs.scalar.base import ScalarEnvironment
from offdyn_envs.schedule import Schedule, episode_option, make_schedule
from offdyn_envs.shifts import Shift, Shifts, check_profile, check_shifts, parse_shifts, shifts_to_json
from offdyn_envs.shifts.context import context_of
from offdyn_envs.shifts.delay import ActionQueue, delay_of
from offdyn_envs.shifts.local import everywhere, here, is_local, outside
from offdyn_envs.shifts.noise import STREAM, noises_of
from offdyn_envs.tasks import get_dynamics

__all__ = ["OwnRobot", "ShiftedRobot"]

_RENDERING = (
    "render_mode",
    "width",
    "height",
    "camera_id",
    "camera_name",
    "default_camera_config",
    "max_geom",
    "visual_options",
)
_DIVERGENCE = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)


class ShiftedRobot(ScalarEnvironment):
    """A robot whose dynamics may be shifted; the part that all environments share.

    Args:
        dynamics: A named dynamics, for instance "gravity-0.5".
        shifts: More shifts, one or a list, as values or plain JSON objects, applied after those of `dynamics`.
        profile: Variant of the edits, see `offdyn_envs.shifts.PROFILES`.
        attack: An observation attack, as a value or a plain JSON object (see `offdyn_envs.attacks.make_attack`).
        schedule: Shifts that change between episodes or at a step, appended to the others (see
            `offdyn_envs.schedule.make_schedule`).
        observe_shifts: Append the strength of each shift, those of `dynamics` included, to the observation, never
            attacked; `context_names` says which is which.
        rendering: `render_mode`, `width`, `height`, `camera_id`, `camera_name`, `default_camera_config`, `max_geom`
            and `visual_options` of Gymnasium's MuJoCo environments.

    Raises:
        OffDynError: An unknown name, parameter or value.
    """

    robot: Robot
    parameters: ClassVar[tuple[str, ...]] = ("dynamics", "shifts", "profile", "attack", "schedule", "observe_shifts")
    reset_options: ClassVar[tuple[str, ...]] = ("episode",)

    def __init__(
        self,
        dynamics: str = "nominal",
        shifts: Shifts = None,
        profile: str = "default",
        attack: Mapping[str, Any] | Attack | None = None,
        schedule: Mapping[str, Any] | Schedule | None = None,
        observe_shifts: bool = False,
        **rendering: Any,
    ) -> None:
        check_rendering(rendering, _RENDERING, self.parameters)
        extra = parse_shifts(shifts)
        self.shifts = get_dynamics(self.robot.name, dynamics) + extra
        self.profile = check_profile(profile)
        self.attack = None if attack is None else make_attack(attack, self.robot)
        self._attack_rng = np.random.default_rng()
        self.schedule = None if schedule is None else make_schedule(schedule, self.robot, (self.shifts,))
        observed = self.shifts if check_observe_shifts(observe_shifts, schedule) else ()
        self.context_names, self._context = context_of(observed)
        self._episode, self._elapsed = -1, 0
        self._active = outside(self.shifts)
        self._noises, self._noise_rng = noises_of(self.shifts), np.random.default_rng()
        self._queue = ActionQueue([delay_of(self.shifts)], self.robot.action_dim)
        super().__init__(**self._stock_kwargs() | rendering)
        if len(self._context):
            size = self.robot.observation_dim + len(self._context)
            self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self.init_qpos = start_qpos(self.robot, self.shifts, self.profile)
        # A stock class has recorded its own arguments for pickling; these are ours.
        json_shifts = shifts_to_json(extra) or None
        given = {"dynamics": dynamics, "shifts": json_shifts, "profile": profile, "attack": attack}
        EzPickle.__init__(self, **given, schedule=schedule, observe_shifts=observe_shifts, **rendering)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Start an episode.

        Args:
            seed: Seeds the reset noise, and the attack with a stream of its own.
            options: `{"episode": k}` sets the count of episodes that a schedule follows.

        Returns:
            The observation [|S|], attacked where an attack is set, and infos.

        Raises:
            OffDynError: An unknown option, or a number that counts nothing.
        """
        check_seed(seed)
        episode = episode_option(options, self.reset_options)
        self._episode = self._episode + 1 if episode is None else episode
        self._elapsed = 0
        self._follow(outside)
        self._queue.clear()
        if seed is not None:
            self._attack_rng = np.random.default_rng([seed, 1])
            self._noise_rng = np.random.default_rng([seed, STREAM])
        return super().reset(seed=seed, options=options)

    def reset_model(self) -> NDArray[np.float64]:
        """Draw and set the first state; the noise is the same for every dynamics.

        Returns:
            The observation, [|S|].
        """
        self._begin()
        return self._seen()

    def _begin(self) -> None:
        qpos, qvel, *goal = self.robot.sample_reset(self.np_random, self.init_qpos)
        if goal:
            self.goal = goal[0]
        self.set_state(qpos, qvel)

    def step(self, action: NDArray[Any]) -> tuple[NDArray[np.float64], Any, bool, Literal[False], dict[str, Any]]:
        """Advance one control step.

        Args:
            action: Motor commands, [|A|], meant to lie in [-1, 1].

        Returns:
            Observation [|S|], reward, terminated, truncated (False: the time limit is a wrapper's) and infos: those of
            Gymnasium's v5 classes, parts of the reward among them, and `diverged`, whether the simulation blew up (the
            state before is kept). `reset` returns the same names.
        """
        action = np.asarray(action)
        if is_local(self.shifts) or (self.schedule is not None and self.schedule.unit == "step"):
            self._follow(lambda shifts: here(shifts, self.robot, self._state()))
        self._elapsed += 1
        time, act = self.data.time, self.data.act.copy()
        before = self.robot.state(self.data.qpos.copy(), self.data.qvel.copy(), self._goal)
        self.do_simulation(self.robot.control(self._arriving(action)), self.frame_skip)
        diverged = any(self.data.warning[kind].number > 0 for kind in _DIVERGENCE)
        if diverged:
            self.data.time, self.data.qpos[:], self.data.qvel[:], self.data.act[:] = time, before.qpos, before.qvel, act
            if len(self._columns):
                self.set_state(self.data.qpos.copy(), self.data.qvel.copy())
        self._take_rest()
        reward, terminated, info = self._judge(before, action)
        if self.render_mode == "human":
            self.render()
        return self._seen(), reward, terminated or diverged, False, info | {"diverged": diverged}

    def set_state(self, qpos: NDArray[np.float64], qvel: NDArray[np.float64]) -> None:
        """Set positions and velocities; what a robot measures is up to date then, and its motors keep their states.

        Args:
            qpos: Positions, [nq].
            qvel: Velocities, [nv].

        Raises:
            OffDynError: A wrong shape, or values that are not finite.
        """
        positions = finite_numbers("qpos", qpos, (self.model.nq,))
        velocities = finite_numbers("qvel", qvel, (self.model.nv,))
        if is_local(self.shifts):
            self._follow(outside)
        if len(self._columns):  # What is left of earlier steps would show in what sensors feel.
            self.data.ctrl[:], self.data.qacc_warmstart[:] = 0.0, 0.0
        super().set_state(positions, velocities)
        self._take_rest()

    def _take_rest(self) -> None:
        """Take the states of the motors, and what was measured, into the third part of the state."""
        if self.robot.na or len(self._columns):
            aim = self._goal[: self.robot.acts.start]
            self._goal = np.concatenate((aim, self.data.act, self.data.sensordata[self._columns]))

    def _stock_kwargs(self) -> dict[str, Any]:
        """Return the arguments of the class that simulates."""
        return {}

    def _state(self) -> State:
        return self.robot.state(self.data.qpos, self.data.qvel, self._goal)

    def _judge(self, before: State, action: NDArray[Any]) -> tuple[float, bool, dict[str, Any]]:
        """Return the reward of a step, whether it ends the episode, and infos."""
        after = self._state()
        reward, terminated = self.robot.judge(before, after, action)
        return float(reward), bool(terminated), self._said(before, after, action)

    def _said(self, before: State, after: State, action: NDArray[Any]) -> dict[str, Any]:
        said = self.robot.info(before, after, action).items()
        return {name: _plain(value) if np.ndim(value) == 0 else value for name, value in said}

    def _get_reset_info(self) -> dict[str, Any]:
        state = self._state()
        return self._said(state, state, np.zeros(self.robot.action_dim)) | {"diverged": False}

    def _follow(self, chosen: Callable[[tuple[Shift, ...]], tuple[Shift, ...]]) -> None:
        """Bring the model to what the schedule asks for now, and of local shifts to those that are chosen."""
        wanted = self.shifts
        if self.schedule is not None:
            count = self._episode if self.schedule.unit == "episode" else self._elapsed
            wanted += self.schedule.shifts_at(count)
        wanted = chosen(wanted)
        if wanted == self._active:
            return
        model = compile_model(self.robot, wanted, self.profile)
        if model.opt.timestep != self.robot.timestep:
            raise OffDynError(f"schedule: the timestep may not change, from {self.robot.timestep} s")
        overwrite_model(self.model, model)
        write_goal(self.model, self.robot.goal, self._goal)
        self.init_qpos = start_qpos(self.robot, wanted, self.profile)
        self._active = wanted

    @property
    def is_plain(self) -> bool:
        """Whether nothing but the shifts tells the environment from the robot's own: a batch of them does the same."""
        apart = self.attack is not None or self.schedule is not None or len(self._context) > 0
        return not apart and self.profile == "default"

    @property
    def goal(self) -> NDArray[np.float64]:
        """What the last reset wrote into the model, and what else belongs to the state, [G]; a copy.

        The states of the motors, and what the last physics step measured. It may be set without the latter, which
        `set_state` measures anew, and without both: motors then begin with 0. Nothing for most robots.
        """
        return self._goal.copy()

    @goal.setter
    def goal(self, value: NDArray[Any]) -> None:
        acts = self.robot.acts
        given = finite_numbers("goal", value, self._goal.shape, (acts.stop,), (acts.start,)).astype(np.float64)
        begun = np.zeros(max(0, acts.stop - len(given)))
        self._goal = np.concatenate((given, begun, self._goal[len(given) + len(begun) :]))
        write_goal(self.model, self.robot.goal, self._goal)
        self.data.act[:] = self._goal[acts]

    @property
    def queue(self) -> NDArray[np.float64]:
        """Actions sent in the last K control steps, oldest first, [K, |A|]; a copy, and may be set.

        K is the delay; positions, velocities, goal and this are the whole state.
        """
        return self._queue.sent[0].copy()

    @queue.setter
    def queue(self, value: NDArray[Any]) -> None:
        self._queue.sent[0] = finite_numbers("queue", value, self._queue.sent[0].shape)

    def _arriving(self, action: NDArray[Any]) -> NDArray[Any]:
        # What is no action does not get into the queue: the simulation refuses it.
        fits = action.shape == (self.robot.action_dim,) and np.isfinite(action).all()
        return self._queue.send(action[None])[0] if len(self._queue) and fits else action

    def _seen(self) -> NDArray[np.float64]:
        observation = self.robot.observe(*self._state())
        for noise in self._noises:
            observation = noise.disturb(observation, self._noise_rng)
        if self.attack is not None:
            observation = self.attack.perturb(observation[None], [self._attack_rng])[0]
        return np.concatenate([observation, self._context]) if len(self._context) else observation

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = compile_model(self.robot, self._active, self.profile)
        if is_local(self.shifts):
            check_shifts(self.shifts, self.robot)
            inside = compile_model(self.robot, everywhere(self.shifts), self.profile)
            if inside.opt.timestep != model.opt.timestep:
                raise OffDynError(f"local shift: the timestep may not change, from {model.opt.timestep} s")
        self.robot = replace(self.robot, timestep=float(model.opt.timestep))
        self._columns = columns_of(model, self.robot.measures)
        self._goal = np.concatenate((read_goal(model, self.robot.goal), np.zeros(self.robot.na + len(self._columns))))
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)
        return model, mujoco.MjData(model)

    def _step_mujoco_simulation(self, ctrl: NDArray[Any], n_frames: int) -> None:
        if not np.isfinite(ctrl).all():
            raise OffDynError(f"action must be finite, got {np.asarray(ctrl).tolist()}")
        self.data.ctrl[:] = ctrl
        self.data.qacc_warmstart[:] = 0.0
        for kind in _DIVERGENCE:  # MuJoCo counts since the last reset; a step is judged alone.
            self.data.warning[kind].number = 0
        mujoco.mj_step(self.model, self.data, nstep=n_frames)


class OwnRobot(ShiftedRobot):
    """A robot that somebody registered, under shifts; arguments as for `ShiftedRobot`.

    Actions lie in [-1, 1], whatever the control ranges of the model; infos are what `Robot.info` says.
    """

    def _stock_kwargs(self) -> dict[str, Any]:
        seen = spaces.Box(-np.inf, np.inf, (self.robot.observation_dim,), np.float64)
        # Any file that is there: the model is compiled here.
        return {"model_path": __file__, "frame_skip": self.robot.frame_skip, "observation_space": seen}

    def _set_action_space(self) -> Any:
        self.metadata = self.metadata | {"render_fps": round(1.0 / self.dt)}
        self.action_space = spaces.Box(-1.0, 1.0, (self.robot.action_dim,), np.float32)
        return self.action_space


def _plain(value: Any) -> bool | float:
    return bool(value) if np.asarray(value).dtype == bool else float(value)
