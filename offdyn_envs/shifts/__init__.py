"""Shifts of dynamics: values that know how to edit a model, print themselves and become JSON.

A shift edits a `mujoco.MjSpec` before it is compiled, never a compiled model, so that masses, inertias and inverse
weights are recomputed. Scales multiply what stands: gravity x0.5 followed by gravity x2 is nominal again.
"""

from offdyn_envs.shifts.base import PROFILES, SEVERE, Shift, check_profile
from offdyn_envs.shifts.kinematic import KINEMATIC_LEVELS, KINEMATIC_PARTS, Kinematic
from offdyn_envs.shifts.morphology import MORPHOLOGY_LEVELS, MORPHOLOGY_PARTS, Morphology
from offdyn_envs.shifts.parsing import KINDS, check_shifts, parse_shifts, shifts_to_json
from offdyn_envs.shifts.scaled import Friction, Gravity

__all__ = [
    "KINDS",
    "KINEMATIC_LEVELS",
    "KINEMATIC_PARTS",
    "MORPHOLOGY_LEVELS",
    "MORPHOLOGY_PARTS",
    "PROFILES",
    "SEVERE",
    "Friction",
    "Gravity",
    "Kinematic",
    "Morphology",
    "Shift",
    "check_profile",
    "check_shifts",
    "parse_shifts",
    "shifts_to_json",
]
