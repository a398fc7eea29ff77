"""Shifts of dynamics: values that know how to edit a model, print themselves and become JSON.

A shift edits a `mujoco.MjSpec` before it is compiled, never a compiled model, so that masses, inertias and inverse
weights are recomputed. Scales multiply what stands: gravity x0.5 followed by gravity x2 is nominal again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from offdyn_envs.errors import OffDynError, unknown

if TYPE_CHECKING:
    import mujoco

    from offdyn_envs.robots import Robot

__all__ = ["KINDS", "PROFILES", "Friction", "Gravity", "Shift", "check_profile", "parse_shifts", "shifts_to_json"]

MIN_SCALE, MAX_SCALE = 1e-6, 1e6
PROFILES = ("default", "odrl")
"""Variants of the edits: `odrl` keeps what the published models do where that differs (see `Friction`)."""


@runtime_checkable
class Shift(Protocol):
    """What every shift can do."""

    kind: ClassVar[str]

    def apply(self, spec: mujoco.MjSpec, robot: Robot, profile: str) -> None:
        """Edit a model before it is compiled."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return the plain-JSON form, accepted by `parse_shifts`."""
        ...

    def describe(self) -> str:
        """Say in words what changes."""
        ...


def _scale(kind: str, value: object) -> float:
    """Return a scale as a float; NumPy's numbers are welcome, text and booleans are not."""
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            scale = float(value)
        except OverflowError:
            scale = math.inf
        if MIN_SCALE <= scale <= MAX_SCALE:
            return scale
    raise OffDynError(
        f"{kind} shift: scale must be a finite number above 0 ({MIN_SCALE:g} to {MAX_SCALE:g}), got {str(value)[:60]!r}"
    )


@dataclass(frozen=True)
class _Scaled:
    """A shift whose one parameter is a factor.

    Attributes:
        scale: The factor, finite and above 0.
    """

    scale: float
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _scale(self.kind, self.scale))

    def to_json(self) -> dict[str, Any]:
        """Return `{"kind": ..., "scale": s}`."""
        return {"kind": self.kind, "scale": self.scale}


@dataclass(frozen=True)
class Gravity(_Scaled):
    """Multiply gravity by `scale`; published presets 0.1, 0.5, 2.0 and 5.0.

    Attributes:
        scale: Factor on the model's gravity vector, finite and above 0.
    """

    kind: ClassVar[str] = "gravity"

    def apply(self, spec: mujoco.MjSpec, robot: Robot, profile: str) -> None:
        """Scale `option.gravity`.

        Args:
            spec: The model to edit.
            robot: Its robot, unused.
            profile: Unused: the published models agree with this edit.
        """
        spec.option.gravity = spec.option.gravity * self.scale

    def describe(self) -> str:
        """Say in words what changes."""
        return f"gravity multiplied by {self.scale:g} (z {-9.81 * self.scale:.4g} m/s^2 on a nominal robot)"


@dataclass(frozen=True)
class Friction(_Scaled):
    """Multiply the friction of every geom, floor included, by `scale`; published presets 0.1, 0.5, 2.0 and 5.0.

    MuJoCo takes the larger friction of two touching geoms. The published Hopper models leave the floor at 1.0, so
    their x0.1 and x0.5 are one and the same task; here the effective friction is base * scale on every robot, and
    `profile="odrl"` brings the published variant back.

    Attributes:
        scale: Factor on sliding, torsional and rolling friction, finite and above 0.
    """

    kind: ClassVar[str] = "friction"

    def apply(self, spec: mujoco.MjSpec, robot: Robot, profile: str) -> None:
        """Scale the friction of the geoms.

        Args:
            spec: The model to edit.
            robot: Its robot.
            profile: "odrl" leaves Hopper's floor as it is.
        """
        for geom in spec.geoms:
            if profile == "odrl" and robot.name == "hopper" and geom.name == "floor":
                continue
            geom.friction = geom.friction * self.scale

    def describe(self) -> str:
        """Say in words what changes."""
        return f"friction of every geom, floor included, multiplied by {self.scale:g}"


KINDS: Mapping[str, type[Gravity] | type[Friction]] = {"gravity": Gravity, "friction": Friction}


def _parse_one(position: int, value: object) -> Shift:
    if isinstance(value, Gravity | Friction):
        return value
    if not isinstance(value, Mapping):
        raise OffDynError(
            f"shifts[{position}] must be an object such as {{'kind': 'gravity', 'scale': 0.5}}, got {str(value)[:60]!r}"
        )
    fields: dict[str, Any] = {str(key): item for key, item in value.items()}
    kind = fields.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise unknown("shift kind", kind, KINDS)
    extra = sorted(set(fields) - {"scale"})
    if extra:
        raise OffDynError(f"{kind} shift: unknown parameter '{extra[0][:60]}'; allowed: scale")
    if "scale" not in fields:
        raise OffDynError(f"{kind} shift: parameter 'scale' is missing; allowed: a finite number above 0")
    return KINDS[kind](fields["scale"])


def parse_shifts(value: Sequence[Mapping[str, Any] | Shift] | None) -> tuple[Shift, ...]:
    """Read a list of shifts, given as values or as plain JSON objects.

    Args:
        value: The shifts in the order in which they apply; None means the nominal robot.

    Returns:
        The shifts as values.

    Raises:
        OffDynError: Not a list, an empty list, an unknown kind or parameter, or a value out of range.
    """
    if value is None:
        return ()
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise OffDynError(
            f"shifts must be a list of objects such as [{{'kind': 'gravity', 'scale': 0.5}}], got {str(value)[:60]!r}"
        )
    if not value:
        raise OffDynError("shifts must not be an empty list; leave shifts out for the nominal robot")
    return tuple(_parse_one(position, item) for position, item in enumerate(value))


def shifts_to_json(shifts: Sequence[Shift]) -> list[dict[str, Any]]:
    """Return the plain-JSON form of a list of shifts."""
    return [shift.to_json() for shift in shifts]


def check_profile(profile: str) -> str:
    """Return `profile` if it is one of `PROFILES`.

    Raises:
        OffDynError: No such profile.
    """
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    return profile
