"""Shifts of dynamics: values that know how to edit a model, print themselves and become JSON.

A shift edits a `mujoco.MjSpec` before it is compiled, so that masses, inertias and inverse weights are recomputed; only
`field` edits the compiled model. Scales multiply what stands: gravity x0.5 followed by gravity x2 is nominal again.
`delay`, `noise` and `local` leave the model alone: the environments carry them out.
"""

from offdyn_envs.shifts.actuator import Actuator
from offdyn_envs.shifts.base import PROFILES, SEVERE, BaseShift, Product, Shift, check_profile
from offdyn_envs.shifts.delay import Delay
from offdyn_envs.shifts.field import Field
from offdyn_envs.shifts.hand import BrokenJoint, ShrinkFinger
from offdyn_envs.shifts.joints import Armature, Damping, Frictionloss
from offdyn_envs.shifts.kinematic import KINEMATIC_LEVELS, KINEMATIC_PARTS, Kinematic
from offdyn_envs.shifts.local import Local
from offdyn_envs.shifts.mass import Mass, Payload
from offdyn_envs.shifts.morphology import MORPHOLOGY_LEVELS, MORPHOLOGY_PARTS, Morphology
from offdyn_envs.shifts.noise import Noise
from offdyn_envs.shifts.parsing import Shifts, check_shifts, parse_shifts, shifts_to_json
from offdyn_envs.shifts.registry import KINDS, register_shift
from offdyn_envs.shifts.sampling import sample_shifts
from offdyn_envs.shifts.scaled import Friction, Gravity

__all__ = [
    "KINDS",
    "KINEMATIC_LEVELS",
    "KINEMATIC_PARTS",
    "MORPHOLOGY_LEVELS",
    "MORPHOLOGY_PARTS",
    "PROFILES",
    "SEVERE",
    "Actuator",
    "Armature",
    "BaseShift",
    "BrokenJoint",
    "Damping",
    "Delay",
    "Field",
    "Friction",
    "Frictionloss",
    "Gravity",
    "Kinematic",
    "Local",
    "Mass",
    "Morphology",
    "Noise",
    "Payload",
    "Product",
    "Shift",
    "Shifts",
    "ShrinkFinger",
    "check_profile",
    "check_shifts",
    "parse_shifts",
    "register_shift",
    "sample_shifts",
    "shifts_to_json",
]
