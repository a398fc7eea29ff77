"""Dynamics given as an environment, a name or shifts, and the compiled model that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import mujoco
from gymnasium.vector import VectorEnv

from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.models import compile_model
from offdyn_envs.robots import Robot
from offdyn_envs.shifts import Shift, parse_shifts
from offdyn_envs.tasks import get_dynamics, list_env_ids
from offdyn_envs.vector import OffDynVectorEnv

__all__ = ["Dynamics", "model_of"]

Dynamics = str | Sequence[Mapping[str, Any] | Shift] | gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any]
"""Ways to name the other dynamics, see `counterfactual`."""


def model_of(env: Dynamics, robot: Robot, profile: str) -> mujoco.MjModel:
    """Return the compiled model of dynamics that are named or embodied by an environment.

    Args:
        env: The dynamics.
        robot: The robot that they must be of.
        profile: Variant of the edits where `env` is no environment.

    Returns:
        The model: for an environment its own one, with whatever was changed in it.

    Raises:
        OffDynError: Another robot, unknown dynamics, or an environment whose rows differ or whose dynamics change.
    """
    if isinstance(env, str):
        return _named(env, robot, profile)
    if isinstance(env, gymnasium.Env | VectorEnv):
        return _environment(env.unwrapped, robot)
    return compile_model(robot, _of_model(parse_shifts(env)), profile)


def _of_model(shifts: tuple[Shift, ...]) -> tuple[Shift, ...]:
    for shift in shifts:
        if not getattr(shift, "of_model", True):
            raise OffDynError(f"{shift.kind} shift: the dynamics to compare with must be one model, which it is not")
    return shifts


def _named(name: str, robot: Robot, profile: str) -> mujoco.MjModel:
    if "/" not in name:
        return compile_model(robot, _of_model(get_dynamics(robot.name, name)), profile)
    table = list_env_ids()
    if name not in table:
        raise unknown("environment", name, [key for key, (owner, _) in table.items() if owner == robot])
    owner, slug = table[name]
    _same_robot(owner, robot)
    return compile_model(robot, _of_model(get_dynamics(robot.name, slug)), profile)


def _environment(env: Any, robot: Robot) -> mujoco.MjModel:
    from offdyn_envs.environment import ShiftedRobot

    if not isinstance(env, ShiftedRobot | OffDynVectorEnv):
        raise OffDynError(f"env must be an offdyn environment, got {type(env).__name__}")
    _same_robot(env.robot, robot)
    if getattr(env, "schedule", None) is not None:
        raise OffDynError("env follows a schedule; the dynamics to compare with must not change in time")
    for shifts in (env.shifts,) if isinstance(env, ShiftedRobot) else env.row_shifts:
        _of_model(shifts)
    if isinstance(env, ShiftedRobot):
        return env.model
    if any(shifts != env.row_shifts[0] for shifts in env.row_shifts):
        raise OffDynError(f"env has {env.num_envs} rows of different dynamics; expected the same shifts in all of them")
    return env.models[0]


def _same_robot(found: Robot, expected: Robot) -> None:
    if found.name != expected.name:
        raise OffDynError(f"env is a {found.name} and the dataset's robot a {expected.name}; expected one robot")
