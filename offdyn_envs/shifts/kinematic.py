"""Kinematic shifts: joints that turn less far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from offdyn_envs.errors import OffDynError, shown, unknown
from offdyn_envs.robots.walkers import as_walker
from offdyn_envs.shifts.base import SEVERE, BaseShift, Product, number
from offdyn_envs.shifts.registry import register_shift

if TYPE_CHECKING:
    import mujoco

    from offdyn_envs.robots import Robot

__all__ = ["KINEMATIC_LEVELS", "KINEMATIC_PARTS", "Kinematic"]

FACTORS = (1e-4, 10.0)
"""Smallest and largest factor of a range, of one shift and of all in a list together."""
DEFAULT_TIMESTEP = 0.002

KINEMATIC_LEVELS: Mapping[str, float] = MappingProxyType({"easy": 0.8, "medium": 0.5, "hard": 0.2})
"""Published presets: the scale of each level."""

KINEMATIC_PARTS: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "halfcheetah": {"foot": ("bfoot", "ffoot"), "thigh": ("bthigh", "fthigh")},
        "hopper": {"foot": ("foot_joint",), "leg": ("leg_joint",)},
        "walker2d": {"foot": ("foot_joint", "foot_left_joint"), "thigh": ("thigh_joint", "thigh_left_joint")},
        "ant": {
            "hip": ("hip_1", "hip_2", "hip_3", "hip_4"),
            "ankle": ("ankle_1", "ankle_2", "ankle_3", "ankle_4"),
        },
    }
)
"""Joints of each robot's parts."""

_JOINTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "halfcheetah": ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"),
        "hopper": ("thigh_joint", "leg_joint", "foot_joint"),
        "walker2d": tuple(f"{part}{side}_joint" for side in ("", "_left") for part in ("thigh", "leg", "foot")),
        "ant": tuple(f"{part}_{leg}" for leg in (1, 2, 3, 4) for part in ("hip", "ankle")),
    }
)

_SEVERE: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "halfcheetah": {"bthigh": 0.01},
        "hopper": {"thigh_joint": 0.001, "foot_joint": 0.4},
        "walker2d": {"foot_joint": 0.01},
        "ant": {"hip_1": 0.01, "hip_2": 0.01},
    }
)


@register_shift
@dataclass(frozen=True)
class Kinematic(BaseShift):
    """Shrink the range of joints; give one of `part` with `scale`, `joints` or `preset`.

    A range around zero scales at both ends. Any other range keeps the end nearer to zero and scales its width: a knee
    (-150 to 0 degrees) its far end, Ant's ankle (30 to 70 degrees) the 40 degrees beyond 30.

    Attributes:
        part: A part of the robot, see `KINEMATIC_PARTS`, for instance "foot".
        scale: Factor on the ranges of the part's joints, 1e-4 to 10; published presets 0.8, 0.5 and 0.2.
        joints: Factors by joint name, 1e-4 to 10, as (name, factor) pairs in the order given; a mapping is welcome.
        preset: "severe", the sources of DROCO and IGDF ("broken").

    Examples:
        >>> import offdyn_envs
        >>> offdyn_envs.Kinematic("foot", 0.5).describe(offdyn_envs.get_robot("hopper"))
        'range of foot_joint x0.5'
    """

    part: str | None = None
    scale: float | None = None
    joints: tuple[tuple[str, float], ...] | None = None
    preset: str | None = None
    kind: ClassVar[str] = "kinematic"
    place: ClassVar[str | None] = "part"
    own_robots: ClassVar[bool] = True

    def __init__(
        self,
        part: str | None = None,
        scale: float | None = None,
        joints: Mapping[str, float] | tuple[tuple[str, float], ...] | None = None,
        preset: str | None = None,
    ) -> None:
        given = [name for name, value in (("part", part), ("joints", joints), ("preset", preset)) if value is not None]
        if len(given) != 1:
            raise OffDynError(
                f"kinematic shift: give exactly one of part, joints and preset, got {' and '.join(given) or 'none'}"
            )
        if (scale is not None) != (part is not None):
            raise OffDynError(
                f"kinematic shift: parameter 'scale' goes with 'part', got part {shown(part)} and scale {shown(scale)}"
            )
        if part is not None:
            if not isinstance(part, str) or part not in _ALL_PARTS:
                raise unknown("part of the kinematic shift", part, _ALL_PARTS)
            scale = number("kinematic shift: scale", scale, *FACTORS)
        if preset is not None and (not isinstance(preset, str) or preset != SEVERE):
            raise unknown("preset of the kinematic shift", preset, (SEVERE,))
        object.__setattr__(self, "part", part)
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "joints", None if joints is None else _joints(joints))
        object.__setattr__(self, "preset", preset)

    def to_json(self) -> dict[str, Any]:
        """Return the plain-JSON form: only what was given."""
        if self.part is not None:
            return {"kind": self.kind, "part": self.part, "scale": self.scale}
        if self.joints is not None:
            return {"kind": self.kind, "joints": dict(self.joints)}
        return {"kind": self.kind, "preset": self.preset}

    def check(self, robot: Robot) -> None:
        """Raise where the robot has no such part or joint.

        Args:
            robot: The robot.

        Raises:
            OffDynError: No such part or joint; the message names the nearest.
        """
        as_walker(robot, "a kinematic shift")
        if self.part is not None and self.part not in KINEMATIC_PARTS[robot.name]:
            raise unknown(f"part of {robot.title} for the kinematic shift", self.part, KINEMATIC_PARTS[robot.name])
        for name, _ in self.joints or ():
            if name not in _JOINTS[robot.name]:
                raise unknown(f"joint of {robot.title} for the kinematic shift", name, _JOINTS[robot.name])

    def factors(self, robot: Robot) -> dict[str, float]:
        """Return the factor of every joint that changes.

        Args:
            robot: The robot.

        Returns:
            Joint names and factors.
        """
        self.check(robot)
        if self.part is not None:
            assert self.scale is not None
            return dict.fromkeys(KINEMATIC_PARTS[robot.name][self.part], self.scale)
        return dict(_SEVERE[robot.name] if self.joints is None else self.joints)

    def products(self, robot: Robot | None) -> Iterator[Product]:
        """Yield the factor of each joint that changes; a robot that is not of this suite has none."""
        for joint, factor in () if robot is None else self.factors(robot).items():
            yield Product(f"kinematic shifts: the product of all factors of {joint}", factor, *FACTORS)

    def apply(self, spec: mujoco.MjSpec, robot: Robot, profile: str) -> None:
        """Scale the ranges.

        Args:
            spec: The model to edit.
            robot: Its robot.
            profile: With "droco" HalfCheetah's severe preset also runs at MuJoCo's default timestep.
        """
        for name, factor in self.factors(robot).items():
            joint = spec.joint(name)
            joint.range = shrunk_range((float(joint.range[0]), float(joint.range[1])), factor)
        if profile == "droco" and self.preset == SEVERE and robot.name == "halfcheetah":
            spec.option.timestep = DEFAULT_TIMESTEP

    def describe(self, robot: Robot) -> str:
        """Say in words what changes."""
        return "range of " + ", ".join(f"{name} x{factor:g}" for name, factor in self.factors(robot).items())


def shrunk_range(base: tuple[float, float], factor: float) -> tuple[float, float]:
    """Return a joint's range after scaling.

    Args:
        base: Its two ends, in whatever unit.
        factor: The factor.

    Returns:
        The new ends.
    """
    low, high = base
    if low < 0.0 < high:
        return low * factor, high * factor
    if abs(low) <= abs(high):
        return low, low + (high - low) * factor
    return high - (high - low) * factor, high


_ALL_PARTS = tuple(sorted({part for parts in KINEMATIC_PARTS.values() for part in parts}))
_ALL_JOINTS = tuple(sorted({joint for joints in _JOINTS.values() for joint in joints}))


def _joints(value: object) -> tuple[tuple[str, float], ...]:
    try:
        pairs: dict[object, object] = dict(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        pairs = {}
    if not pairs or len(pairs) != len(value):  # type: ignore[arg-type]
        raise OffDynError(f"kinematic shift: joints must map joint names to factors, each once, got {shown(value)}")
    for name in pairs:
        if not isinstance(name, str) or name not in _ALL_JOINTS:
            raise unknown("joint of the kinematic shift", name, _ALL_JOINTS)
    return tuple(
        (str(name), number(f"kinematic shift: factor of joint {name}", factor, *FACTORS))
        for name, factor in pairs.items()
    )
