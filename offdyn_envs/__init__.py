"""Off-dynamics environments and datasets for offline reinforcement learning.

`import offdyn_envs` registers the environments with Gymnasium and opens, compiles and downloads nothing.
"""

from __future__ import annotations

from offdyn_envs.interruption import is_command, take_command

# A command ends in one line while this package is being imported, too, and before anything else is.
if is_command():
    take_command()
    from offdyn_envs import process

    process.begin()

from typing import TYPE_CHECKING, Any

import gymnasium

from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import HANDS, ROBOTS, WALKERS, GoalPart, Measure, Robot, State, get_robot, register_robot
from offdyn_envs.robots.registry import register_environment
from offdyn_envs.shifts import (
    Actuator,
    Armature,
    Damping,
    Delay,
    Field,
    Friction,
    Frictionloss,
    Gravity,
    Kinematic,
    Local,
    Mass,
    Morphology,
    Noise,
    Payload,
    register_shift,
    sample_shifts,
)
from offdyn_envs.tasks import dynamics_of, env_id, get_task, list_env_ids, list_tasks, register_dynamics, register_task
from offdyn_envs.version import __version__

if TYPE_CHECKING:
    from offdyn_envs.datasets import load_dataset, load_task
    from offdyn_envs.scalar.shifted import shifted

__all__ = [
    "ROBOTS",
    "Actuator",
    "Armature",
    "Damping",
    "Delay",
    "Field",
    "Friction",
    "Frictionloss",
    "GoalPart",
    "Gravity",
    "Kinematic",
    "Local",
    "Mass",
    "Measure",
    "Morphology",
    "Noise",
    "OffDynError",
    "Payload",
    "Robot",
    "State",
    "__version__",
    "get_robot",
    "get_task",
    "list_env_ids",
    "list_tasks",
    "load_dataset",
    "load_task",
    "register_dynamics",
    "register_environments",
    "register_robot",
    "register_shift",
    "register_task",
    "sample_shifts",
    "shifted",
]


def register_environments() -> None:
    """Register every named environment with Gymnasium; called on import.

    Examples:
        >>> import gymnasium, offdyn_envs
        >>> "OffDyn/Hopper-gravity-0.5-v0" in gymnasium.registry
        True
    """
    # The hand needs an extra, which is asked for when an environment is made.
    for robot in (*WALKERS.values(), *HANDS.values()):
        for slug in dynamics_of(robot.name):
            register_environment(robot, slug, env_id(robot, slug))
    gymnasium.register(
        id="OffDyn/Refrigerator-v0",
        entry_point="offdyn_envs.refrigerator:Refrigerator",
        vector_entry_point="offdyn_envs.refrigerator:RefrigeratorVectorEnv",
        max_episode_steps=2000,
    )


def __getattr__(name: str) -> Any:
    """Import what takes long when it is first used: the datasets' functions need h5py and Minari."""
    if name in ("load_dataset", "load_task"):
        from offdyn_envs import datasets

        return getattr(datasets, name)
    if name == "shifted":
        from offdyn_envs.scalar.shifted import shifted

        return shifted
    raise AttributeError(f"module 'offdyn_envs' has no attribute '{name}'")


register_environments()
