"""From a robot and its shifts to a compiled MuJoCo model."""

from __future__ import annotations

import copy
import warnings
from functools import lru_cache

import mujoco
import numpy as np
from numpy.typing import NDArray

from offdyn_envs.compiling import base_model, base_spec, check_current, compile_spec
from offdyn_envs.robots import Robot, as_walker
from offdyn_envs.robots.hashes import dynamics_fields, model_hash
from offdyn_envs.robots.registry import known_robot
from offdyn_envs.shifts import Morphology, Shift, check_profile, check_shifts
from offdyn_envs.shifts.applying import edit_model, edit_spec

__all__ = [
    "compile_model",
    "dynamics_fields",
    "model_hash",
    "model_spec",
    "overwrite_model",
    "published_hash",
    "restore_model",
    "start_qpos",
]


def model_spec(robot: Robot, shifts: tuple[Shift, ...], profile: str = "default") -> mujoco.MjSpec:
    """Return the robot's base model with the shifts applied, not yet compiled.

    Args:
        robot: The robot.
        shifts: Applied in order.
        profile: Variant of the edits, see `offdyn_envs.shifts.PROFILES`.

    Returns:
        An editable model.

    Raises:
        OffDynError: A shift that does not fit the robot, or not the others.
    """
    check_shifts(shifts, robot)
    spec = base_spec(robot)
    edit_spec(spec, shifts, robot, profile)
    return spec


@lru_cache(maxsize=256)
def _compile(robot: Robot, shifts: tuple[Shift, ...], profile: str) -> mujoco.MjModel:
    if not shifts:
        return base_model(robot)
    check_current(robot)
    with warnings.catch_warnings():
        # As in `compile_mjcf`: shifts read and write that attribute too.
        warnings.filterwarnings("ignore", message=".*settotalmass.*")
        model = compile_spec(model_spec(robot, shifts, profile), robot.name)
    edit_model(model, shifts)
    return model


def compile_model(robot: Robot, shifts: tuple[Shift, ...], profile: str = "default") -> mujoco.MjModel:
    """Return the compiled model of a shifted robot; it is compiled once in a process.

    Args:
        robot: The robot.
        shifts: Applied in order.
        profile: Variant of the edits, see `offdyn_envs.shifts.PROFILES`.

    Returns:
        The model, a copy of one's own.
    """
    return copy.copy(_compile(known_robot(robot), shifts, check_profile(profile)))


@lru_cache(maxsize=256)
def _start_qpos(robot: Robot, shifts: tuple[Shift, ...], profile: str) -> tuple[float, ...]:
    model = compile_model(robot, shifts, profile)
    start = np.array(model.qpos0)
    if profile == "default" and any(isinstance(shift, Morphology) for shift in shifts):
        height = as_walker(robot, "a morphology shift").height_index
        start[height] += _lowest_point(compile_model(robot, ())) - _lowest_point(model)
    return tuple(start.tolist())


def start_qpos(robot: Robot, shifts: tuple[Shift, ...], profile: str = "default") -> NDArray[np.float64]:
    """Return the pose around which episodes start.

    A reshaped robot is placed so that its lowest geom is as far above the floor as the base robot's: the published
    files let HalfCheetah fall from up to 0.26 m higher, which the profiles "odrl" and "droco" keep.

    Args:
        robot: The robot.
        shifts: Its shifts.
        profile: Variant of the edits, see `offdyn_envs.shifts.PROFILES`.

    Returns:
        Positions, [nq].
    """
    return np.array(_start_qpos(known_robot(robot), shifts, check_profile(profile)))


def _lowest_point(model: mujoco.MjModel) -> float:
    """Return the height in m of the robot's lowest point in its rest pose; all geoms are spheres and capsules."""
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    robot_geoms = np.flatnonzero(model.geom_bodyid > 0)
    half = np.where(model.geom_type == mujoco.mjtGeom.mjGEOM_CAPSULE.value, model.geom_size[:, 1], 0.0)
    upright = np.abs(data.geom_xmat[:, 8])
    lowest = data.geom_xpos[:, 2] - half * upright - model.geom_size[:, 0]
    return float(lowest[robot_geoms].min())


def overwrite_model(model: mujoco.MjModel, other: mujoco.MjModel) -> None:
    """Give a model the dynamics of another one of the same structure, in place.

    Whatever holds the model, for instance a renderer, goes on with the new dynamics.

    Args:
        model: Changed.
        other: Where the dynamics come from.
    """
    model.stat.meaninertia = other.stat.meaninertia  # In its units the solver judges whether it has converged.
    # The boxes in which collisions are looked for follow from the geoms; the hash leaves them out.
    for name, value in (dynamics_fields(other) | {"bvh_aabb": other.bvh_aabb}).items():
        prefix, _, field = name.rpartition(".")
        owner = model.opt if prefix else model
        current = getattr(owner, field)
        if isinstance(current, np.ndarray):
            current[...] = value
        elif current != value:
            setattr(owner, field, value.item())


def restore_model(model: mujoco.MjModel, other: mujoco.MjModel) -> None:
    """Give a model all numbers of another one that was pickled, colours and the like included, in place.

    A pickled model has lost the signature of its structure, so that it cannot stand for the one it came from.

    Args:
        model: Changed; of the same structure.
        other: The pickled one.
    """
    for owner, source in ((model, other), (model.opt, other.opt)):
        for name in dir(source):
            value = None if name.startswith("_") else getattr(source, name)
            if isinstance(value, np.ndarray):
                getattr(owner, name)[...] = value
            elif isinstance(value, int | float) and owner is model.opt:  # Those of the model itself are sizes.
                setattr(owner, name, value)


def published_hash(robot: Robot, shifts: tuple[Shift, ...], profile: str = "default") -> str:
    """Return the hash by which a robot under shifts is published, see `model_hash`.

    Args:
        robot: The robot.
        shifts: Its shifts.
        profile: Variant of the edits, see `offdyn_envs.shifts.PROFILES`.

    Returns:
        That of the compiled model, or of `Robot.published_spec` under the shifts.
    """
    spec = robot.published_spec()
    if spec is None:
        return model_hash(compile_model(robot, shifts, profile))
    edit_spec(spec, shifts, robot, check_profile(profile))
    model = compile_spec(spec, robot.name)
    edit_model(model, shifts)
    return model_hash(model)
