"""Shifts of the Adroit hand: joints that turn less far, fingers that are shorter.

Like the robots' shifts they edit a `mujoco.MjSpec` before it is compiled. The robots' gravity and friction apply to the
hand too: every contact pair that the models list by hand is frictionless, so scaling every geom scales every contact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast

from offdyn_envs.errors import OffDynError, beginning, unknown
from offdyn_envs.shifts import Friction, Gravity
from offdyn_envs.shifts.base import number, shown
from offdyn_envs.shifts.parsing import check_products, listed_shifts

if TYPE_CHECKING:
    import mujoco

    from offdyn_envs.robots import Robot

__all__ = [
    "FINGERS",
    "HAND_KINDS",
    "HAND_LEVELS",
    "HAND_PROFILES",
    "BrokenJoint",
    "HandShift",
    "ShrinkFinger",
    "apply_hand_shifts",
    "check_hand_profile",
    "describe_hand_shift",
    "parse_hand_shifts",
]

MIN_SCALE, MAX_SCALE = 1e-4, 10.0

HAND_LEVELS: Mapping[str, float] = MappingProxyType({"easy": 0.5, "medium": 0.25, "hard": 0.125})
"""Published presets of both shifts: the scale of each level."""

HAND_PROFILES = ("default", "odrl")
"""Variants of the edits: `odrl` brings a fault of the published models back, see `ShrinkFinger`."""

BROKEN_JOINTS = (*(f"FFJ{index}" for index in range(4)), *(f"THJ{index}" for index in range(5)))
"""The forefinger's and the thumb's joints."""

FINGERS = ("ff", "mf", "rf", "lf")
"""Prefixes of the fore-, middle, ring and little finger in the models; the thumb ("th") is no finger here."""
SEGMENTS = ("proximal", "middle", "distal")

_CAPSULE = 3  # mujoco.mjtGeom.mjGEOM_CAPSULE, whose value the file format fixes.
_PUBLISHED_HARD = 0.125
_PUBLISHED_LITTLE_TIP = 0.03125


@dataclass(frozen=True)
class _Scaled:
    scale: float
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", number(f"{self.kind} shift: scale", self.scale, MIN_SCALE, MAX_SCALE))

    def to_json(self) -> dict[str, Any]:
        """Return `{"kind": ..., "scale": s}`."""
        return {"kind": self.kind, "scale": self.scale}


@dataclass(frozen=True)
class BrokenJoint(_Scaled):
    """Multiply the ranges of the forefinger's and the thumb's joints; published presets 0.5, 0.25 and 0.125.

    Both ends scale, and an end at 0 stays. The actuators' control ranges stay as they are, so an action keeps its
    meaning and pushes against the limit.

    Attributes:
        scale: Factor on the ranges of FFJ0 to FFJ3 and THJ0 to THJ4, 0.0001 to 10.
    """

    kind: ClassVar[str] = "broken-joint"

    def apply(self, spec: mujoco.MjSpec, profile: str = "default") -> None:
        """Scale the ranges.

        Args:
            spec: The hand's model.
            profile: Unused: the published models agree with this edit.
        """
        for name in BROKEN_JOINTS:
            joint = spec.joint(name)
            joint.range = [float(end) * self.scale for end in joint.range]

    def describe(self) -> str:
        """Say in words what changes."""
        return f"range of the forefinger's and the thumb's joints (FFJ0-3, THJ0-4) multiplied by {self.scale:g}"


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

    def apply(self, spec: mujoco.MjSpec, profile: str = "default") -> None:
        """Scale the segments.

        Args:
            spec: The hand's model.
            profile: One of `HAND_PROFILES`.
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

    def describe(self) -> str:
        """Say in words what changes."""
        return f"segments of the four fingers, not of the thumb, multiplied by {self.scale:g} in length"


def _scale_z(element: Any, field: str, scale: float) -> None:
    x, y, z = getattr(element, field)
    setattr(element, field, [x, y, z * scale])


HandShift: TypeAlias = Gravity | Friction | BrokenJoint | ShrinkFinger
"""Every shift that the hand takes."""

HAND_KINDS: Mapping[str, type[HandShift]] = MappingProxyType(
    {kind.kind: kind for kind in (BrokenJoint, ShrinkFinger, Gravity, Friction)}
)
"""The kinds of the hand's shifts, by their name in JSON."""


def apply_hand_shifts(spec: mujoco.MjSpec, shifts: Sequence[HandShift], profile: str) -> None:
    """Edit a model of the hand.

    Args:
        spec: The model, not yet compiled.
        shifts: Applied in order; scales multiply what stands.
        profile: One of `HAND_PROFILES`.
    """
    for shift in shifts:
        if isinstance(shift, BrokenJoint | ShrinkFinger):
            shift.apply(spec, profile)
        else:
            # Neither gravity nor friction asks the robot for anything under this profile.
            shift.apply(spec, cast("Robot", None), "default")


def describe_hand_shift(shift: HandShift) -> str:
    """Say in words what a shift of the hand changes."""
    if isinstance(shift, BrokenJoint | ShrinkFinger):
        return shift.describe()
    return shift.describe(cast("Robot", None))


def check_hand_profile(profile: str) -> str:
    """Return `profile` if it is one of `HAND_PROFILES`.

    Raises:
        OffDynError: No such profile.
    """
    if not isinstance(profile, str) or profile not in HAND_PROFILES:
        raise unknown("profile of the Adroit environments", profile, HAND_PROFILES)
    return profile


def _parse_one(position: int, value: object) -> HandShift:
    if isinstance(value, HandShift):
        return value
    if not isinstance(value, Mapping):
        kind = getattr(value, "kind", None)
        if isinstance(kind, str):
            raise unknown("shift kind of the Adroit hand", kind, HAND_KINDS)
        raise OffDynError(
            f"shifts[{position}] must be an object such as {{'kind': 'broken-joint', 'scale': 0.5}}, got {shown(value)}"
        )
    fields: dict[str, Any] = {beginning(key, 80): item for key, item in value.items()}
    kind = fields.pop("kind", None)
    if not isinstance(kind, str) or kind not in HAND_KINDS:
        raise unknown("shift kind of the Adroit hand", kind, HAND_KINDS)
    for name in fields:
        if name != "scale":
            raise unknown(f"parameter of the {kind} shift", name, ("scale",))
    if "scale" not in fields:
        raise OffDynError(f"{kind} shift: parameter 'scale' is missing; allowed: a finite number above 0")
    return HAND_KINDS[kind](fields["scale"])


def parse_hand_shifts(
    value: Mapping[str, Any] | HandShift | Sequence[Mapping[str, Any] | HandShift] | None,
) -> tuple[HandShift, ...]:
    """Read one shift of the hand or a list of them, given as values or as plain JSON objects.

    Args:
        value: The shifts in the order in which they apply; None and an empty list mean the intact hand.

    Returns:
        The shifts as values.

    Raises:
        OffDynError: Neither a shift nor a list, an unknown kind or parameter, or a value out of range.
    """
    shifts = tuple(_parse_one(position, item) for position, item in enumerate(listed_shifts(value)))
    check_products(shifts)
    return shifts
