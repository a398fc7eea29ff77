"""Shifts of the Adroit hand: joints that turn less far, fingers that are shorter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from offdyn_envs.robots.hands import as_hand
from offdyn_envs.shifts.base import BaseShift, number
from offdyn_envs.shifts.registry import register_shift

if TYPE_CHECKING:
    import mujoco

    from offdyn_envs.robots import Robot

__all__ = ["BROKEN_JOINTS", "FINGERS", "BrokenJoint", "ShrinkFinger"]

MIN_SCALE, MAX_SCALE = 1e-4, 10.0

BROKEN_JOINTS = (*(f"FFJ{index}" for index in range(4)), *(f"THJ{index}" for index in range(5)))
"""The forefinger's and the thumb's joints."""

FINGERS = ("ff", "mf", "rf", "lf")
"""Prefixes of the fore-, middle, ring and little finger in the models; the thumb ("th") is no finger here."""
SEGMENTS = ("proximal", "middle", "distal")

_CAPSULE = 3  # mujoco.mjtGeom.mjGEOM_CAPSULE, whose value the file format fixes.
_PUBLISHED_HARD = 0.125
_PUBLISHED_LITTLE_TIP = 0.03125


@dataclass(frozen=True)
class _Scaled(BaseShift):
    scale: float
    own_robots: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", number(f"{self.kind} shift: scale", self.scale, MIN_SCALE, MAX_SCALE))

    def check(self, robot: Robot) -> None:
        """Fit the hand alone."""
        as_hand(robot, f"{self.kind} shift")


@register_shift
@dataclass(frozen=True)
class BrokenJoint(_Scaled):
    """Multiply the ranges of the forefinger's and the thumb's joints; published presets 0.5, 0.25 and 0.125.

    Both ends scale, and an end at 0 stays. The actuators' control ranges stay as they are, so an action keeps its
    meaning and pushes against the limit.

    Attributes:
        scale: Factor on the ranges of FFJ0 to FFJ3 and THJ0 to THJ4, 0.0001 to 10.
    """

    kind: ClassVar[str] = "broken-joint"

    def apply(self, spec: mujoco.MjSpec, robot: Robot, profile: str) -> None:
        """Scale the ranges.

        Args:
            spec: The hand's model.
            robot: The hand.
            profile: Unused: the published models agree with this edit.
        """
        for name in BROKEN_JOINTS:
            joint = spec.joint(name)
            joint.range = [float(end) * self.scale for end in joint.range]

    def describe(self, robot: Robot) -> str:
        """Say in words what changes."""
        return f"range of the forefinger's and the thumb's joints (FFJ0-3, THJ0-4) multiplied by {self.scale:g}"


@register_shift
@dataclass(frozen=True)
class ShrinkFinger(_Scaled):
    """Multiply the length of the four fingers, not the thumb; published presets 0.5, 0.25 and 0.125.

    Everything that lies along a segment's z axis scales: the offset of the next segment, position and half-length of
    the capsules, fingertips and touch sites, the meshes' offsets, the centres of mass, and how far the little finger's
    knuckle stands out of the palm. Radii, masses, inertias and the sizes of the touch sites stay.

    The published hard model moves the last segment of the little finger to 0.03125 m where 0.003125 m is meant, so
    that this finger comes out longer than on an intact hand. `profile="odrl"` brings that back at scale 0.125.

    Attributes:
        scale: Factor on the lengths, 0.0001 to 10.
    """

    kind: ClassVar[str] = "shrink-finger"

    def apply(self, spec: mujoco.MjSpec, robot: Robot, profile: str) -> None:
        """Scale the segments.

        Args:
            spec: The hand's model.
            robot: The hand.
            profile: "odrl" brings the fault of the published hard model back.
        """
        _scale_z(spec.body("lfknuckle"), "pos", self.scale)
        for finger in FINGERS:
            for segment in SEGMENTS:
                self._shrink(spec.body(finger + segment))
        if profile == "odrl" and self.scale == _PUBLISHED_HARD:
            spec.body("lfdistal").pos = [0.0, 0.0, _PUBLISHED_LITTLE_TIP]

    def _shrink(self, body: Any) -> None:
        _scale_z(body, "pos", self.scale)
        _scale_z(body, "ipos", self.scale)
        for site in body.sites:
            _scale_z(site, "pos", self.scale)
        for geom in body.geoms:
            _scale_z(geom, "pos", self.scale)
            if int(geom.type) == _CAPSULE:
                radius, half, _ = geom.size
                geom.size = [radius, half * self.scale, 0.0]

    def describe(self, robot: Robot) -> str:
        """Say in words what changes."""
        return f"segments of the four fingers, not of the thumb, multiplied by {self.scale:g} in length"


def _scale_z(element: Any, field: str, scale: float) -> None:
    x, y, z = getattr(element, field)
    setattr(element, field, [x, y, z * scale])
