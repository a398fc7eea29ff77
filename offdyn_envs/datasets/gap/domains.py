"""Dynamics given as an environment, a name or shifts, and what they stand for: a model, or shifts to carry out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import mujoco
from gymnasium.vector import VectorEnv

from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.models import compile_model
from offdyn_envs.robots import Robot
from offdyn_envs.shifts import Noise, Shift, parse_shifts
from offdyn_envs.tasks import get_dynamics, list_env_ids
from offdyn_envs.vector import OffDynVectorEnv

__all__ = ["Domain", "Dynamics", "domain_of", "refuse_noise"]

Dynamics = str | Sequence[Mapping[str, Any] | Shift] | gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any]
"""Ways to name the other dynamics, see `counterfactual`."""


@dataclass(frozen=True, eq=False)
class Domain:
    """Dynamics that steps can be simulated in.

    Attributes:
        model: The compiled model; of local shifts that where none of them holds.
        shifts: All shifts, where an environment has to carry some of them out at every step, as a delay and those that
            hold in a part of the world; none where the model is all.
        profile: Variant of the edits.
    """

    model: mujoco.MjModel
    shifts: tuple[Shift, ...]
    profile: str


def domain_of(env: Dynamics, robot: Robot, profile: str) -> Domain:
    """Return the dynamics that are named or embodied by an environment.

    Args:
        env: The dynamics.
        robot: The robot that they must be of.
        profile: Variant of the edits where `env` is no environment.

    Returns:
        The dynamics: for an environment its own model, with whatever was changed in it; under a delay or local shifts
        what its shifts say.

    Raises:
        OffDynError: Another robot, unknown dynamics, noise, or an environment whose rows differ or whose dynamics
            change.
    """
    if isinstance(env, str):
        return _of_shifts(_named(env, robot), robot, profile)
    if isinstance(env, gymnasium.Env | VectorEnv):
        return _environment(env.unwrapped, robot)
    return _of_shifts(parse_shifts(env), robot, profile)


def refuse_noise(shifts: Sequence[Shift], whose: str) -> None:
    """Raise where observations are noisy: a gap would be that of the draws.

    Args:
        shifts: The shifts.
        whose: What they are of, for the message.

    Raises:
        OffDynError: There is noise among them.
    """
    if any(isinstance(shift, Noise) for shift in shifts):
        raise OffDynError(
            f"noise shift: {whose} draw noise anew for every observation, so that no step has one exact outcome to "
            "compare with; the same dynamics without noise have"
        )


def _of_shifts(shifts: tuple[Shift, ...], robot: Robot, profile: str, model: mujoco.MjModel | None = None) -> Domain:
    refuse_noise(shifts, "the dynamics to compare with")
    carried_out = any(not getattr(shift, "of_model", True) for shift in shifts)
    own = compile_model(robot, shifts, profile) if model is None else model
    return Domain(own, shifts if carried_out else (), profile)


def _named(name: str, robot: Robot) -> tuple[Shift, ...]:
    if "/" not in name:
        return get_dynamics(robot.name, name)
    table = list_env_ids()
    if name not in table:
        raise unknown("environment", name, [key for key, (owner, _) in table.items() if owner == robot])
    owner, slug = table[name]
    _same_robot(owner, robot)
    return get_dynamics(robot.name, slug)


def _environment(env: Any, robot: Robot) -> Domain:
    from offdyn_envs.environment import ShiftedRobot

    if not isinstance(env, ShiftedRobot | OffDynVectorEnv):
        raise OffDynError(f"env must be an offdyn environment, got {type(env).__name__}")
    _same_robot(env.robot, robot)
    if getattr(env, "schedule", None) is not None:
        raise OffDynError("env follows a schedule; the dynamics to compare with must not change in time")
    if isinstance(env, ShiftedRobot):
        return _of_shifts(env.shifts, robot, env.profile, env.model)
    if any(shifts != env.row_shifts[0] for shifts in env.row_shifts):
        raise OffDynError(f"env has {env.num_envs} rows of different dynamics; expected the same shifts in all of them")
    return _of_shifts(env.row_shifts[0], robot, env.profile, env.models[0])


def _same_robot(found: Robot, expected: Robot) -> None:
    if found.name != expected.name:
        raise OffDynError(f"env is a {found.name} and the dataset's robot a {expected.name}; expected one robot")
