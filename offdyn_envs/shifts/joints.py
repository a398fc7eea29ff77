"""What slows joints down: damping, armature and dry friction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from offdyn_envs.errors import OffDynError
from offdyn_envs.shifts.base import SCALES, BaseShift, Product, scale_or_add
from offdyn_envs.shifts.elements import DERIVED, joints, own_spec, place_name
from offdyn_envs.shifts.registry import register_shift

if TYPE_CHECKING:
    import mujoco

    from offdyn_envs.robots import Robot

__all__ = ["Armature", "Damping", "Frictionloss"]

ADDED = (0.0, 1e4)
"""Smallest and largest amount that is added, in the unit of the kind."""


@dataclass(frozen=True)
class _OfJoints(BaseShift):
    """A shift of one number of a joint; give one of `scale` and `add`.

    Attributes:
        scale: Factor, 1e-6 to 1e6; 1 is nominal. Where every joint has 0, a scale is refused: give `add`.
        add: What is added, 0 to 10,000; 0 is nominal.
        joint: Name of the joint; where left out, all joints that a motor drives.
    """

    scale: float | None = None
    add: float | None = None
    joint: str | None = None
    place: ClassVar[str | None] = "joint"
    unit: ClassVar[str]

    def __post_init__(self) -> None:
        scale_or_add(self, SCALES, ADDED)
        place_name(f"{self.kind} shift: joint", self.joint)

    def check(self, robot: Robot) -> None:
        """Raise where the robot has no such joint."""
        joints(own_spec(robot), self.joint, self.kind, robot)

    def products(self, robot: Robot | None) -> Iterator[Product]:
        """Yield the factor: those of one joint multiply."""
        if self.scale is not None:
            whose = self.joint or "all joints"
            yield Product(f"{self.kind} shifts: the product of all scales of {whose}", self.scale, *SCALES)

    def declares(self, robot: Robot) -> Mapping[str, set[str] | None]:
        """Return the field of the joints' degrees of freedom."""
        spec = own_spec(robot)  # Its elements live as long as it does.
        names = {joint.name for joint in joints(spec, self.joint, self.kind, robot)}
        return {f"dof_{self.kind}": names}

    def apply(self, spec: mujoco.MjSpec, robot: Robot, profile: str) -> None:
        """Change the number of each joint.

        Args:
            spec: The model to edit.
            robot: Its robot.
            profile: Unused.

        Raises:
            OffDynError: A scale where every joint has 0.
        """
        chosen = joints(spec, self.joint, self.kind, robot)
        if self.scale is not None and not any(np.any(getattr(joint, self.kind)) for joint in chosen):
            whose = "every joint" if self.joint is None else f"joint {self.joint}"
            raise OffDynError(f"{self.kind} shift: {whose} of {robot.title} has 0, which no scale changes; give add")
        for joint in chosen:
            setattr(joint, self.kind, self._changed(getattr(joint, self.kind)))

    def _changed(self, before: float | np.ndarray) -> float | np.ndarray:
        if self.scale is not None:
            return before * self.scale
        assert self.add is not None
        if np.ndim(before) == 0:
            return before + self.add
        after = np.array(before)  # Newer MuJoCo: a polynomial of the speed, whose first coefficient is the damping.
        after[0] += self.add
        return after

    def describe(self, robot: Robot) -> str:
        """Say in words what changes."""
        whose = "every joint that a motor drives" if self.joint is None else self.joint
        what = f"multiplied by {self.scale:g}" if self.add is None else f"raised by {self.add:g} {self.unit}"
        return f"{self.kind} of {whose} {what}"


@register_shift
@dataclass(frozen=True)
class Damping(_OfJoints):
    """Change the damping of a joint: a force against its speed; give one of `scale` and `add`.

    Attributes:
        scale: Factor, 1e-6 to 1e6; 1 is nominal.
        add: What is added, 0 to 10,000 N m s/rad (hinges) or N s/m (slides); 0 is nominal.
        joint: Name of the joint; where left out, all joints that a motor drives.

    Examples:
        >>> import offdyn_envs
        >>> offdyn_envs.Damping(scale=2.0, joint="leg_joint").describe(offdyn_envs.get_robot("hopper"))
        'damping of leg_joint multiplied by 2'
    """

    kind: ClassVar[str] = "damping"
    unit: ClassVar[str] = "N m s/rad or N s/m"

    def declares(self, robot: Robot) -> Mapping[str, set[str] | None]:
        """Return the fields of the joints' degrees of freedom."""
        names = super().declares(robot)["dof_damping"]
        return {"dof_damping": names, "dof_dampingpoly": names}


@register_shift
@dataclass(frozen=True)
class Armature(_OfJoints):
    """Change the armature of a joint: the inertia of the motor's rotor behind its gear; give one of `scale` and `add`.

    Attributes:
        scale: Factor, 1e-6 to 1e6; 1 is nominal.
        add: What is added, 0 to 10,000 kg m^2 (hinges) or kg (slides); 0 is nominal.
        joint: Name of the joint; where left out, all joints that a motor drives.

    Examples:
        >>> import offdyn_envs
        >>> offdyn_envs.Armature(add=0.1).describe(offdyn_envs.get_robot("hopper"))
        'armature of every joint that a motor drives raised by 0.1 kg m^2 or kg'
    """

    kind: ClassVar[str] = "armature"
    unit: ClassVar[str] = "kg m^2 or kg"

    def declares(self, robot: Robot) -> Mapping[str, set[str] | None]:
        """Return the field of the joints' degrees of freedom, and what follows from it."""
        return {**dict.fromkeys(DERIVED), **super().declares(robot)}


@register_shift
@dataclass(frozen=True)
class Frictionloss(_OfJoints):
    """Change the dry friction of a joint: a force against its motion at any speed; give one of `scale` and `add`.

    The four robots have none, so that only `add` changes them.

    Attributes:
        scale: Factor, 1e-6 to 1e6; 1 is nominal.
        add: What is added, 0 to 10,000 N m (hinges) or N (slides); 0 is nominal.
        joint: Name of the joint; where left out, all joints that a motor drives.

    Examples:
        >>> import offdyn_envs
        >>> offdyn_envs.Frictionloss(add=0.5).describe(offdyn_envs.get_robot("hopper"))
        'frictionloss of every joint that a motor drives raised by 0.5 N m or N'
    """

    kind: ClassVar[str] = "frictionloss"
    amount: ClassVar[str] = "add"
    unit: ClassVar[str] = "N m or N"
