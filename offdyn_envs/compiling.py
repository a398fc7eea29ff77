"""The base models of robots, how models are compiled, and where MuJoCo's warnings go."""

from __future__ import annotations

import copy
import logging
import warnings
from functools import lru_cache
from pathlib import Path

import gymnasium
import mujoco

from offdyn_envs.errors import OffDynError, out_of_memory
from offdyn_envs.robots import Robot, get_robot

__all__ = ["base_model", "base_spec", "compile_spec", "log_simulator_warnings"]

_log = logging.getLogger("offdyn.mujoco")


def base_spec(robot: Robot) -> mujoco.MjSpec:
    """Return a robot's model without any shift, not yet compiled."""
    folder = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    return mujoco.MjSpec.from_file(str(folder / robot.xml_file))


def compile_spec(spec: mujoco.MjSpec, robot_name: str) -> mujoco.MjModel:
    """Compile a model.

    Args:
        spec: The model.
        robot_name: Its robot, for the message.

    Raises:
        OffDynError: MuJoCo refuses it.
    """
    log_simulator_warnings()
    with warnings.catch_warnings():
        # HalfCheetah's model asks for a total mass of 14 kg through an attribute that newer MuJoCo calls deprecated.
        warnings.filterwarnings("ignore", message=".*settotalmass.*")
        try:
            return spec.compile()
        except ValueError as error:
            wrong = OffDynError(f"{robot_name}: these shifts together make no valid model: {error}")
            raise out_of_memory(error) or wrong from None


@lru_cache
def _compiled(robot_name: str) -> mujoco.MjModel:
    return compile_spec(base_spec(get_robot(robot_name)), robot_name)


def base_model(robot_name: str) -> mujoco.MjModel:
    """Return a robot's compiled model without any shift, a copy of one's own."""
    return copy.copy(_compiled(robot_name))


def log_simulator_warnings() -> None:
    """Send the warnings of every simulation of this process to the logger, at the level WARNING.

    By default MuJoCo appends each of them, for instance of a simulation that blew up, to a file in the working
    directory. A handler that the user has installed with `mujoco.set_mju_user_warning` stays; `mujoco.
    set_mju_user_warning(None)` brings the file back. The environments also report such a step as `infos["diverged"]`.
    """
    if getattr(mujoco, "get_mju_user_warning", lambda: None)() is None:
        mujoco.set_mju_user_warning(_log.warning)
