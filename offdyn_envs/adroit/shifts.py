"""What the Adroit environments take as shifts.

Like the robots' shifts they edit a `mujoco.MjSpec` before it is compiled. The robots' gravity and friction apply to the
hand too: every contact pair that the models list by hand is frictionless, so scaling every geom scales every contact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from offdyn_envs.errors import OffDynError, beginning, unknown
from offdyn_envs.shifts import Friction, Gravity, Shift
from offdyn_envs.shifts.base import shown
from offdyn_envs.shifts.hand import BROKEN_JOINTS, FINGERS, BrokenJoint, ShrinkFinger
from offdyn_envs.shifts.parsing import check_products, listed_shifts

if TYPE_CHECKING:
    from offdyn_envs.robots import Robot

__all__ = [
    "BROKEN_JOINTS",
    "FINGERS",
    "HAND_KINDS",
    "HAND_PROFILES",
    "BrokenJoint",
    "HandShift",
    "ShrinkFinger",
    "check_hand_profile",
    "describe_hand_shift",
    "parse_hand_shifts",
]

HAND_PROFILES = ("default", "odrl")
"""Variants of the edits: `odrl` brings a fault of the published models back, see `ShrinkFinger`."""

HandShift: TypeAlias = Gravity | Friction | BrokenJoint | ShrinkFinger
"""Every shift that the hand takes."""

HAND_KINDS: Mapping[str, type[HandShift]] = MappingProxyType(
    {kind.kind: kind for kind in (BrokenJoint, ShrinkFinger, Gravity, Friction)}
)
"""The kinds of the hand's shifts, by their name in JSON."""


def describe_hand_shift(shift: Shift) -> str:
    """Say in words what a shift of the hand changes."""
    # None of the four asks the robot for anything.
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
