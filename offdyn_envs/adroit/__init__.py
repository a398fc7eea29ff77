"""The Adroit hand: pen, door, hammer and relocate, with broken joints and shrunken fingers.

The models come from gymnasium-robotics (the extra `adroit`); importing this package does not need it.
"""

from offdyn_envs.adroit.shifts import BrokenJoint, HandShift, ShrinkFinger, parse_hand_shifts
from offdyn_envs.adroit.tasks import HAND_DYNAMICS, HAND_STEPS, HAND_TASKS, adroit_env_ids, get_hand_dynamics

__all__ = [
    "HAND_DYNAMICS",
    "HAND_STEPS",
    "HAND_TASKS",
    "BrokenJoint",
    "HandShift",
    "ShrinkFinger",
    "adroit_env_ids",
    "get_hand_dynamics",
    "parse_hand_shifts",
]
