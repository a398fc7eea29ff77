"""The base models of robots, how models are compiled, and where MuJoCo's warnings go."""

from __future__ import annotations

import copy
import logging
from functools import lru_cache

import mujoco

from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import ROBOTS, Robot
from offdyn_envs.robots.hashes import dynamics_fields
from offdyn_envs.robots.mjcf import compile_mjcf
from offdyn_envs.robots.registry import known_robot

__all__ = ["base_model", "base_spec", "check_current", "compile_spec", "dynamics_fields", "log_simulator_warnings"]

_log = logging.getLogger("offdyn.mujoco")


def base_spec(robot: Robot) -> mujoco.MjSpec:
    """Return a robot's model without any shift, not yet compiled."""
    return robot.spec()


def compile_spec(spec: mujoco.MjSpec, robot_name: str) -> mujoco.MjModel:
    """Compile a model.

    Args:
        spec: The model.
        robot_name: Its robot, for the message.

    Raises:
        OffDynError: MuJoCo refuses it.
    """
    log_simulator_warnings()
    return compile_mjcf(spec, f"{robot_name}: these shifts together make no valid model")


@lru_cache
def _compiled(robot: Robot) -> mujoco.MjModel:
    check_current(robot)
    return compile_spec(base_spec(robot), robot.name)


def base_model(robot: str | Robot) -> mujoco.MjModel:
    """Return a robot's compiled model without any shift, a copy of one's own."""
    return copy.copy(_compiled(known_robot(robot)))


def check_current(robot: Robot) -> None:
    """Refuse to compile a model that may be there no more: that of a robot which has another one by now.

    Raises:
        OffDynError: Another model is registered under the robot's name.
    """
    now = ROBOTS.get(robot.name, robot)
    if robot.model_sha256 and robot.model_sha256 != now.model_sha256:
        raise OffDynError(
            f"robot '{robot.name}': it has been registered again with another model; make the environment anew"
        )


def log_simulator_warnings() -> None:
    """Send the warnings of every simulation of this process to the logger, at the level WARNING.

    By default MuJoCo appends each of them, for instance of a simulation that blew up, to a file in the working
    directory. A handler that the user has installed with `mujoco.set_mju_user_warning` stays; `mujoco.
    set_mju_user_warning(None)` brings the file back. The environments also report such a step as `infos["diverged"]`.
    """
    if getattr(mujoco, "get_mju_user_warning", lambda: None)() is None:
        mujoco.set_mju_user_warning(_log.warning)
