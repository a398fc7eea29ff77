"""A robot that somebody wrote, tried out and completed with the numbers of its model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError, beginning
from offdyn_envs.robots.base import Robot, State
from offdyn_envs.robots.goals import GoalPart, goal_size, read_goal
from offdyn_envs.robots.hashes import model_hash
from offdyn_envs.robots.measures import Measure, columns_of, measure
from offdyn_envs.robots.mjcf import compile_mjcf, lasting_mjcf

if TYPE_CHECKING:
    import mujoco

__all__ = ["checked", "complete"]

_NAME, _TITLE = re.compile(r"[a-z][a-z0-9_]*"), re.compile(r"[A-Za-z][A-Za-z0-9]*")
_ROWS = ((), (3,), (2, 3))
"""Leading dimensions in which a robot's functions are tried out."""


def checked(robot: Robot) -> Robot:
    """Check what a robot says of itself in words and numbers, before its model is looked at.

    Args:
        robot: The robot.

    Returns:
        The same, whose model is found from every working directory.

    Raises:
        OffDynError: A name that cannot stand in ids, a number that counts nothing, no such model file, or what is no
            goal or measure.
    """
    if not isinstance(robot.name, str) or not _NAME.fullmatch(robot.name):
        raise OffDynError(f"robot: its name must be small letters, digits and underscores, got {robot.name!r:.80}")
    if not isinstance(robot.title, str) or not _TITLE.fullmatch(robot.title):
        raise OffDynError(f"robot '{robot.name}': its title must be letters and digits, got {robot.title!r:.80}")
    for what, least in (("frame_skip", 1), ("max_episode_steps", 1), ("skipped_qpos", 0)):
        value = getattr(robot, what)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise OffDynError(
                f"robot '{robot.name}': {what} must be a whole number, {least} or above, got {value!r:.80}"
            )
    if not isinstance(robot.mjcf, str | Path):
        raise OffDynError(f"robot '{robot.name}': mjcf must be a path or MJCF as text, got {robot.mjcf!r:.80}")
    return replace(
        robot,
        mjcf=lasting_mjcf(robot.name, robot.mjcf),
        goal=_all(robot, "goal", GoalPart),
        measures=_all(robot, "measures", Measure),
    )


def _all(robot: Robot, what: str, kind: type) -> tuple[Any, ...]:
    parts = getattr(robot, what)
    if not isinstance(parts, tuple | list) or not all(isinstance(part, kind) for part in parts):
        raise OffDynError(
            f"robot '{robot.name}': {what} must be a tuple of offdyn_envs.{kind.__name__}, got {parts!r:.80}"
        )
    return tuple(parts)


def complete(robot: Robot) -> Robot:
    """Return a robot with the numbers of its model, after trying out its functions.

    Args:
        robot: The robot.

    Raises:
        OffDynError: See `offdyn_envs.register_robot`.
    """
    spec = _tried(robot, "edit", robot.spec)
    model = compile_mjcf(spec, f"robot '{robot.name}': its model does not compile")
    _check_model(robot, model)
    sizes = {"nq": model.nq, "nv": model.nv, "na": model.na, "action_dim": model.nu}
    found = {**sizes, "timestep": float(model.opt.timestep)}
    for what, value in found.items():
        if getattr(robot, what) not in (0, value):
            raise OffDynError(
                f"robot '{robot.name}': {what} is {value:g} in its model, and the robot says {getattr(robot, what)!r}"
            )
    if robot.skipped_qpos > model.nq:
        raise OffDynError(
            f"robot '{robot.name}': its model has {model.nq} positions, and skipped_qpos is {robot.skipped_qpos}"
        )
    read_goal(model, robot.goal)
    whole = replace(robot, **found, control_range=_control_range(robot, model), model_sha256=model_hash(model))
    _check_value(whole)
    start = _Trial(whole, model)
    return replace(whole, observation_dim=start.observation_dim)


def _check_value(robot: Robot) -> None:
    """Refuse a robot that no table can be looked up with."""
    try:
        hash(robot)
    except TypeError as error:
        raise OffDynError(
            f"robot '{robot.name}': it must be a value, with tuples for lists and arrays: {beginning(error, 80)}"
        ) from None


def _check_model(robot: Robot, model: mujoco.MjModel) -> None:
    """Refuse what positions, velocities and activations do not say everything about, time among it."""
    import mujoco

    library: Any = mujoco  # Whose stubs do not know these bits; older versions have neither delays nor sleep.
    sleep = int(getattr(library.mjtEnableBit, "mjENBL_SLEEP", 0))
    clocks = model.sensor_adr[model.sensor_type == library.mjtSensor.mjSENS_CLOCK]
    for count, what in (
        (model.npluginstate, "plugins with a state"),
        (getattr(model, "nhistory", 0), "motors or sensors that remember (delay); the shift 'delay' needs none"),
        (model.opt.enableflags & sleep, "bodies that fall asleep (flag sleep)"),
        (np.isin(columns_of(model, robot.measures), clocks).any(), "a clock among its measures"),
    ):
        if count:
            raise OffDynError(
                f"robot '{robot.name}': its model has {what}; only qpos, qvel and act may be the state of a robot"
            )
    if not model.nu:
        raise OffDynError(f"robot '{robot.name}': its model has no motors")


def _control_range(robot: Robot, model: mujoco.MjModel) -> tuple[tuple[float, float], ...]:
    if robot.control_range is None:
        limited = model.actuator_ctrllimited.astype(bool)[:, None]
        bounds = np.where(limited, model.actuator_ctrlrange, (-1.0, 1.0))
    else:
        bounds = _numbers(robot.control_range)
    if bounds.shape != (model.nu, 2) or not np.isfinite(bounds).all() or (bounds[:, 0] >= bounds[:, 1]).any():
        raise OffDynError(
            f"robot '{robot.name}': control_range must be {model.nu} pairs of a lower and a higher number, got "
            f"{beginning(bounds.tolist() if robot.control_range is None else robot.control_range, 80)}"
        )
    return tuple((float(low), float(high)) for low, high in bounds)


def _numbers(value: Any) -> NDArray[np.float64]:
    """Return finite numbers as an array; one without any where they are none."""
    try:
        found = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        return np.zeros((0, 0))
    return found if np.isfinite(found).all() else np.zeros((0, 0))


def _tried(robot: Robot, what: str, function: Callable[..., Any], *given: Any) -> Any:
    """Return what a function of a robot returns, or say in one line what goes wrong in it."""
    try:
        return function(*given)
    except OffDynError:
        raise
    except NotImplementedError:
        raise OffDynError(f"robot '{robot.name}': the class has no method '{what}'") from None
    except Exception as error:
        raise OffDynError(
            f"robot '{robot.name}': {what} fails: {type(error).__name__}: {beginning(error, 200)}"
        ) from error


def _with_rest(robot: Robot, model: mujoco.MjModel, start: Any) -> Any:
    """Append the states of the motors in a first state, and what is measured there, to its goal."""
    import mujoco

    qpos, qvel, *goal = start
    aim, act = goal[0] if goal else np.zeros(0), np.zeros(robot.na)
    found = measure(model, mujoco.MjData(model), robot.measures, (qpos, qvel, act), (robot.goal, aim))
    return qpos, qvel, np.concatenate((aim, act, found))


class _Trial:
    """The functions of a robot tried out on first states of episodes."""

    def __init__(self, robot: Robot, model: mujoco.MjModel) -> None:
        self.name, self.robot = robot.name, robot
        self._check_arguments()
        init_qpos = np.array(model.qpos0)
        rng = np.random.default_rng(0)
        starts = [self._tried("sample_reset", robot.sample_reset, rng, init_qpos.copy()) for _ in range(6)]
        for start in starts:
            self._check_reset(start)
        if robot.na or robot.measures:
            starts = [_with_rest(robot, model, start) for start in starts]
        parts = [np.stack(part) for part in zip(*starts, strict=True)]
        self.observation_dim = self._observation_dim(self._states(part[0] for part in parts))
        for rows in _ROWS:
            count = int(np.prod(rows))
            self._try_functions(self._states(part[:count].reshape(*rows, -1) for part in parts), rows)

    def _states(self, parts: Iterable[Any]) -> State:
        return self.robot.state(*parts, *([] if self.robot.goal_dim else [np.zeros(0)]))

    def _check_arguments(self) -> None:
        for what in ("observe", "terminated") if self.robot.goal_dim else ():
            if getattr(type(self.robot), what) is getattr(Robot, what):
                raise OffDynError(
                    f"robot '{self.name}': its states have a third part (goal, activations or measures); give the "
                    f"class a method {what}(self, qpos, qvel, goal)"
                )

    def _check_reset(self, start: Any) -> None:
        sizes = {"qpos": self.robot.nq, "qvel": self.robot.nv}
        sizes |= {"goal": goal_size(self.robot.goal)} if self.robot.goal else {}
        shapes = [_numbers(part).shape for part in start] if isinstance(start, tuple) else []
        if shapes != [(size,) for size in sizes.values()]:
            wanted = " and ".join(f"{name} [{size}]" for name, size in sizes.items())
            raise OffDynError(f"robot '{self.name}': sample_reset must return {wanted}, of finite numbers")

    def _observation_dim(self, state: State) -> int:
        shown = np.asarray(self._tried("observe", self.robot.observe, *state))
        if shown.ndim != 1 or self.robot.observation_dim not in (0, len(shown)):
            size = f"[{self.robot.observation_dim or '|S|'}]"
            told = f"shape {list(shown.shape)} for one state, not {size}"
            raise OffDynError(f"robot '{self.name}': observe returns {told}")
        return len(shown)

    def _try_functions(self, state: State, rows: tuple[int, ...]) -> None:
        robot, action = self.robot, np.zeros((*rows, self.robot.action_dim), dtype=np.float32)
        self._check("observe", self._tried("observe", robot.observe, *state), (*rows, self.observation_dim), "f")
        self._check("reward", self._tried("reward", robot.reward, state, state, action), rows, "f")
        self._check("terminated", self._tried("terminated", robot.terminated, *state), rows, "b")
        self._check("control", self._tried("control", robot.control, action), action.shape, "f")
        self._try_judge(state, action, rows)
        if not isinstance(said := self._tried("info", robot.info, state, state, action), Mapping):
            raise OffDynError(f"robot '{self.name}': info must return numbers by name, got {beginning(repr(said), 80)}")
        observation = np.zeros((*rows, self.observation_dim))
        what = "terminated_from_observation"
        if (said := self._tried(what, robot.terminated_from_observation, observation)) is not None:
            self._check(what, said, rows, "b")

    def _try_judge(self, state: State, action: NDArray[np.float32], rows: tuple[int, ...]) -> None:
        judged = self._tried("judge", self.robot.judge, state, state, action)
        if not isinstance(judged, tuple) or len(judged) != 2:
            raise OffDynError(f"robot '{self.name}': judge must return what reward and terminated say")
        for part, kind in zip(judged, "fb", strict=True):
            self._check("judge", part, rows, kind)

    def _tried(self, what: str, function: Callable[..., Any], *given: Any) -> Any:
        return _tried(self.robot, what, function, *given)

    def _check(self, what: str, found: Any, wanted: tuple[int, ...], kind: str) -> None:
        array = np.asarray(found)
        if array.shape != wanted or array.dtype.kind != kind:
            words = "numbers" if kind == "f" else "booleans"
            raise OffDynError(
                f"robot '{self.name}': {what} returns {array.dtype} {list(array.shape)}; {words} {list(wanted)} are "
                "needed"
            )
        if kind == "f" and not np.isfinite(array).all():
            raise OffDynError(f"robot '{self.name}': {what} returns numbers that are not finite")
