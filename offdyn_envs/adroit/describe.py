"""What a named Adroit environment is, and what its shift changes, in words and numbers."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from offdyn_envs.adroit.models import compile_hand
from offdyn_envs.adroit.shifts import BROKEN_JOINTS, FINGERS, describe_hand_shift
from offdyn_envs.adroit.tasks import HAND_STEPS, adroit_env_ids, get_hand_dynamics, get_hand_task
from offdyn_envs.errors import unknown
from offdyn_envs.models import model_hash
from offdyn_envs.robots import Hand

__all__ = ["describe"]


def describe(name: str) -> dict[str, Any]:
    """Say what a named Adroit environment is.

    Args:
        name: An environment id, with or without "OffDyn/" and "-v0".

    Returns:
        Dimensions, state, timing, shifts in words and numbers (rad, m, kg), model hash and versions.

    Raises:
        OffDynError: No such environment (the message names the nearest), or the extra is missing.
    """
    table = adroit_env_ids()
    found = table.get(name) or table.get(f"OffDyn/{name}-v0")
    if found is None:
        raise unknown("Adroit environment", name, table)
    from offdyn_envs.adroit.stock import ROBOTICS_VERSION

    task, shifts = get_hand_task(found[0]), get_hand_dynamics(found[1])
    model = compile_hand(task, shifts)
    return {
        "robot": task.title,
        "dynamics": found[1],
        "changes": "; ".join(describe_hand_shift(shift) for shift in shifts) or "nothing: the intact hand",
        **_changed_numbers(task, model),
        "shifts": [shift.to_json() for shift in shifts],
        "observation": f"{task.observation_dim} float64",
        "action": f"{task.action_dim} float32 in [-1, 1]",
        "state": f"qpos {model.nq}, qvel {model.nv}, goal: {', '.join(part.words for part in task.goal)}",
        "seconds per step": 0.01,
        "steps per episode": HAND_STEPS,
        "terminates": "when the pen drops below 0.075 m" if task.drops else "never",
        "mass in kg": float(model.body_mass.sum()),
        "gravity z in m/s^2": float(model.opt.gravity[2]),
        "model SHA-256": model_hash(model),
        "MuJoCo": mujoco.__version__,
        "gymnasium-robotics": ROBOTICS_VERSION,
    }


def _changed_numbers(task: Hand, model: mujoco.MjModel) -> dict[str, Any]:
    """Return the joint ranges and segment lengths that differ from the intact hand."""
    base = compile_hand(task, ())
    ranges = {
        name: [round(float(end), 6) for end in model.joint(name).range]
        for name in BROKEN_JOINTS
        if not np.array_equal(model.joint(name).range, base.joint(name).range)
    }
    lengths = {
        words: [round(float(z), 7) for z in _lengths(model, finger)]
        for finger, words in zip(FINGERS, ("forefinger", "middle finger", "ring finger", "little finger"), strict=True)
        if _lengths(model, finger) != _lengths(base, finger)
    }
    return {
        **({"joint ranges in rad": ranges} if ranges else {}),
        **({"proximal, middle and tip lengths in m": lengths} if lengths else {}),
    }


def _lengths(model: mujoco.MjModel, finger: str) -> list[float]:
    """Lengths of the proximal and the middle segment, and from the last joint to the fingertip, m."""
    return [
        float(model.body(f"{finger}middle").pos[2]),
        float(model.body(f"{finger}distal").pos[2]),
        float(model.site(f"S_{finger}tip").pos[2]),
    ]
