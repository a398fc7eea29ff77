"""From a task of the hand and its shifts to a compiled MuJoCo model."""

from __future__ import annotations

import copy
from functools import lru_cache

import mujoco

from offdyn_envs.adroit.shifts import check_hand_profile
from offdyn_envs.adroit.tasks import get_hand_task
from offdyn_envs.compiling import log_simulator_warnings
from offdyn_envs.errors import OffDynError, out_of_memory
from offdyn_envs.robots import Hand
from offdyn_envs.robots.mjcf import read_mjcf
from offdyn_envs.shifts import Shift
from offdyn_envs.shifts.applying import edit_spec

__all__ = ["compile_hand"]


# A model holds 7 MB of textures and meshes and compiles in 15 ms.
@lru_cache(maxsize=16)
def _compile(name: str, shifts: tuple[Shift, ...], profile: str) -> mujoco.MjModel:
    task = get_hand_task(name)
    log_simulator_warnings()
    spec = read_mjcf(task.name, task.mjcf)
    edit_spec(spec, shifts, task, profile)
    try:
        return spec.compile()
    except ValueError as error:
        wrong = OffDynError(f"Adroit {name}: these shifts together make no valid model: {error}")
        raise out_of_memory(error) or wrong from None


def compile_hand(task: Hand, shifts: tuple[Shift, ...], profile: str = "default") -> mujoco.MjModel:
    """Return the compiled model of a shifted hand, before actuator gains are patched and goals drawn.

    Args:
        task: The task.
        shifts: Applied in order.
        profile: One of `offdyn_envs.adroit.shifts.HAND_PROFILES`.

    Returns:
        The model, a copy of one's own.

    Raises:
        OffDynError: The extra is missing, there is no such profile, or the scales multiply to nothing compilable.
    """
    return copy.copy(_compile(task.task, shifts, check_hand_profile(profile)))
