"""The base models of robots, how models are compiled, and where MuJoCo's warnings go."""

from __future__ import annotations

import copy
import logging
from functools import lru_cache

import mujoco
import numpy as np

from offdyn_envs.robots import Robot, get_robot
from offdyn_envs.robots.mjcf import compile_mjcf

__all__ = ["base_model", "base_spec", "compile_spec", "dynamics_fields", "log_simulator_warnings"]

# Fields of a compiled model that change what one sees, or how it is named, but never how it moves.
_UNSEEN_BY_PHYSICS = ("cam_", "light_", "tex_", "mat_", "skin_", "name_", "names", "paths", "text_", "bvh_", "vis_")
_UNSEEN_SUFFIXES = ("_rgba", "_matid", "_user", "_bvhadr", "_bvhnum")
# Fields that grow with the names of the folders in which a model's meshes lie, and so differ between installations.
_SIZES_OF_PATHS = ("npaths", "nbuffer", "mesh_pathadr", "hfield_pathadr")
_NO_PATHS = 1

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
def _compiled(robot_name: str) -> mujoco.MjModel:
    return compile_spec(base_spec(get_robot(robot_name)), robot_name)


def base_model(robot_name: str) -> mujoco.MjModel:
    """Return a robot's compiled model without any shift, a copy of one's own."""
    return copy.copy(_compiled(robot_name))


def dynamics_fields(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    """Return every field of a model that can change its motion.

    Args:
        model: A compiled model.

    Returns:
        Arrays by name, those of the options with the prefix "opt.".
    """
    fields: dict[str, np.ndarray] = {}
    unseen = _SIZES_OF_PATHS if model.npaths > _NO_PATHS else ()
    for prefix, owner in (("", model), ("opt.", model.opt)):
        for name in dir(owner):
            if name.startswith(("_", *_UNSEEN_BY_PHYSICS)) or name.endswith(_UNSEEN_SUFFIXES) or name in unseen:
                continue
            value = getattr(owner, name)
            if isinstance(value, np.ndarray | int | float):
                fields[prefix + name] = np.asarray(value)
    return fields


def log_simulator_warnings() -> None:
    """Send the warnings of every simulation of this process to the logger, at the level WARNING.

    By default MuJoCo appends each of them, for instance of a simulation that blew up, to a file in the working
    directory. A handler that the user has installed with `mujoco.set_mju_user_warning` stays; `mujoco.
    set_mju_user_warning(None)` brings the file back. The environments also report such a step as `infos["diverged"]`.
    """
    if getattr(mujoco, "get_mju_user_warning", lambda: None)() is None:
        mujoco.set_mju_user_warning(_log.warning)
