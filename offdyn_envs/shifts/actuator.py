"""Motors that are weaker or stronger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from offdyn_envs.errors import OffDynError
from offdyn_envs.shifts.base import SCALES, BaseShift, Product, bound
from offdyn_envs.shifts.elements import actuators, drives_joint, own_spec, place_name
from offdyn_envs.shifts.registry import register_shift

if TYPE_CHECKING:
    import mujoco

    from offdyn_envs.robots import Robot

__all__ = ["Actuator"]

LIMITS = (1e-6, 1e9)
"""Smallest and largest force limit, N or N m."""
_ANY_UNIT = "N m or N"


@register_shift
@dataclass(frozen=True)
class Actuator(BaseShift):
    """Change the strength of a motor, or of all: its gain, its force limit, or both.

    Attributes:
        scale: Factor on the force for the same command, 1e-6 to 1e6; 1 is nominal. A position servo keeps the pose
            that it is sent to: its stiffness scales, and its damping with it. A limit that the motor has scales too.
        limit: The most force that the motor gives before its gear, above 0, N or N m; where it has a limit already,
            the smaller one holds.
        actuator: Name of the actuator, or of the joint that it drives; all where left out.

    Examples:
        >>> import offdyn_envs
        >>> offdyn_envs.Actuator(scale=0.8).describe(offdyn_envs.get_robot("hopper"))
        'strength of every motor multiplied by 0.8'
    """

    scale: float | None = None
    limit: float | None = None
    actuator: str | None = None
    kind: ClassVar[str] = "actuator"
    place: ClassVar[str | None] = "actuator"

    def __post_init__(self) -> None:
        if self.scale is None and self.limit is None:
            raise OffDynError("actuator shift: give scale, limit or both, got neither")
        bound(self, scale=SCALES, limit=LIMITS)
        place_name("actuator shift: actuator", self.actuator)

    def check(self, robot: Robot) -> None:
        """Raise where the robot has no such actuator."""
        actuators(own_spec(robot), self.actuator, self.kind, robot)

    def products(self, robot: Robot | None) -> Iterator[Product]:
        """Yield the factor: those of one actuator multiply."""
        if self.scale is not None:
            whose = self.actuator or "all actuators"
            yield Product(f"actuator shifts: the product of all scales of {whose}", self.scale, *SCALES)

    def declares(self, robot: Robot) -> Mapping[str, set[str] | None]:
        """Return the gains and limits of the actuators."""
        spec = own_spec(robot)  # Its elements live as long as it does.
        chosen = actuators(spec, self.actuator, self.kind, robot)
        fields = ("actuator_gainprm", "actuator_biasprm", "actuator_forcerange", "actuator_forcelimited")
        return {field: {motor.name or motor.target for motor in chosen} for field in fields}

    def apply(self, spec: mujoco.MjSpec, robot: Robot, profile: str) -> None:
        """Change gains and limits.

        Args:
            spec: The model to edit.
            robot: Its robot.
            profile: Unused.

        Raises:
            OffDynError: An actuator that is no motor or servo, such as a muscle.
        """
        import mujoco

        for motor in actuators(spec, self.actuator, self.kind, robot):
            if self.scale is not None:
                self._strengthen(motor, self.scale)
            if self.limit is not None:
                low, high = motor.forcerange if _is_limited(motor) else (-np.inf, np.inf)
                motor.forcerange = [max(low, -self.limit), min(high, self.limit)]
                motor.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE.value

    def _strengthen(self, motor: Any, scale: float) -> None:
        import mujoco

        gains = (mujoco.mjtGain.mjGAIN_FIXED.value, mujoco.mjtGain.mjGAIN_AFFINE.value)
        biases = (mujoco.mjtBias.mjBIAS_NONE.value, mujoco.mjtBias.mjBIAS_AFFINE.value)
        if int(motor.gaintype) not in gains or int(motor.biastype) not in biases:
            raise OffDynError(
                f"actuator shift: {motor.name or motor.target} is no motor or servo, whose gain has a scale"
            )
        motor.gainprm = motor.gainprm * scale
        motor.biasprm = motor.biasprm * scale
        motor.forcerange = motor.forcerange * scale

    def _unit(self, robot: Robot) -> str:
        spec = own_spec(robot)  # Its elements live as long as it does.
        units = {_unit_of(motor, spec) for motor in actuators(spec, self.actuator, self.kind, robot)}
        return units.pop() if len(units) == 1 else _ANY_UNIT

    def describe(self, robot: Robot) -> str:
        """Say in words what changes."""
        whose = "every motor" if self.actuator is None else f"motor {self.actuator}"
        unit = "" if self.limit is None else self._unit(robot)
        stronger = [] if self.scale is None else [f"strength of {whose} multiplied by {self.scale:g}"]
        return ", ".join(stronger + ([] if self.limit is None else [f"force of {whose} at most {self.limit:g} {unit}"]))


def _unit_of(motor: Any, spec: mujoco.MjSpec) -> str:
    """Return the unit of a motor's force: what drives a slide pushes, what drives a hinge turns."""
    import mujoco

    types = {joint.name: int(joint.type) for joint in spec.joints}
    if not drives_joint(motor.trntype) or motor.target not in types:
        return _ANY_UNIT
    return "N" if types[motor.target] == mujoco.mjtJoint.mjJNT_SLIDE.value else "N m"


def _is_limited(motor: Any) -> bool:
    import mujoco

    limited = int(motor.forcelimited)
    never, always = mujoco.mjtLimited.mjLIMITED_FALSE.value, mujoco.mjtLimited.mjLIMITED_TRUE.value
    return limited == always or (limited != never and bool(motor.forcerange[0] < motor.forcerange[1]))
