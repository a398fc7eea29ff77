"""The edits behind the morphology shifts: which geoms, joints and bodies move, and where to.

All positions are local to the body, metres. Every edit is a table of knots at the levels 0 (base), 1 (easy),
2 (medium) and 3 (hard), linear in between; the hard levels are the published ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import mujoco

__all__ = ["HARDEST", "PARTS", "SEVERE_EDITS", "BodyEdit"]

HARDEST = 3.0
Knots = Sequence[Sequence[float]]
Point = tuple[float, float]


@dataclass(frozen=True)
class BodyEdit:
    """One edit of a robot's body.

    Attributes:
        geoms: The geoms that change their size; two edits that share one exclude each other.
        apply: Makes the edit at a level.
    """

    geoms: tuple[str, ...]
    apply: Callable[[mujoco.MjSpec, float], None]


def _between(level: float, knots: Knots) -> NDArray[np.float64]:
    """Interpolate a table of knots [4, D] at a level; exact at the knots."""
    table = np.asarray(knots, dtype=np.float64)
    return np.array([np.interp(level, range(len(table)), column) for column in table.T])


def _set_capsule(spec: mujoco.MjSpec, name: str, size: Sequence[float], z: float | None = None) -> None:
    """Give a capsule a radius and half-length and, if asked, another height in its body."""
    geom = spec.geom(name)
    geom.size = [size[0], size[1], 0.0]
    if z is not None:
        geom.pos = [geom.pos[0], geom.pos[1], z]


def _span(spec: mujoco.MjSpec, name: str, start: Point, end: Point) -> None:
    """Stretch a capsule between two points of the x-z plane."""
    _stretch(spec, name, (start[0], 0.0, start[1]), (end[0], 0.0, end[1]))


def _stretch(
    spec: mujoco.MjSpec, name: str, start: tuple[float, float, float], end: tuple[float, float, float]
) -> None:
    geom = spec.geom(name)
    geom.pos = [0.0, 0.0, 0.0]  # A geom with a position refuses end points.
    geom.fromto = [*start, *end]


def _place(spec: mujoco.MjSpec, name: str, point: Point) -> None:
    spec.body(name).pos = [point[0], 0.0, point[1]]


def _upright_torso(spec: mujoco.MjSpec, level: float) -> None:
    """Hopper and Walker2d: the torso grows upwards and outwards; its lower end stays."""
    z, radius, half = _between(level, [(0.0, 0.05, 0.2), (0.04, 0.075, 0.24), (0.12, 0.1, 0.32), (0.2, 0.125, 0.4)])
    _set_capsule(spec, "torso_geom", (radius, half), z)


def _hopper_foot(spec: mujoco.MjSpec, level: float) -> None:
    knots = [(-0.065, 0.06, 0.195), (-0.078, 0.048, 0.156), (-0.091, 0.036, 0.117), (-0.104, 0.024, 0.078)]
    x, radius, half = _between(level, knots)
    _set_capsule(spec, "foot_geom", (radius, half))
    spec.geom("foot_geom").pos = [x, 0.0, 0.1]


def _walker_leg(spec: mujoco.MjSpec, level: float) -> None:
    """The knee moves down the leg, whose total length stays: a long thigh on a short shin."""
    thigh_z, thigh_half, knee_z, leg_z, leg_half = _between(
        level,
        [
            (-0.225, 0.225, 0.25, 0.0, 0.25),
            (-0.275, 0.275, 0.15, -0.05, 0.2),
            (-0.35, 0.35, 0.0, -0.125, 0.125),
            (-0.425, 0.425, -0.15, -0.2, 0.05),
        ],
    )
    for side in ("", "_left"):
        _set_capsule(spec, f"thigh{side}_geom", (0.05, thigh_half), thigh_z)
        _set_capsule(spec, f"leg{side}_geom", (0.04, leg_half), leg_z)
        spec.joint(f"leg{side}_joint").pos = [0.0, 0.0, knee_z]


def _cheetah_torso(spec: mujoco.MjSpec, level: float) -> None:
    half, head = _between(level, [(0.5, 0.6), (0.4, 0.5), (0.25, 0.35), (0.1, 0.2)])
    _stretch(spec, "torso", (-half, 0.0, 0.0), (half, 0.0, 0.0))
    spec.geom("head").pos = [head, 0.0, 0.1]
    _place(spec, "bthigh", (-half, 0.0))
    _place(spec, "fthigh", (half, 0.0))


def _capsule_ends(x: float, z: float, angle: float, half: float) -> tuple[float, float, float, float]:
    """Upper and lower end (x, z, x, z) of a capsule turned about the y axis by an angle in radians."""
    dx, dz = half * np.sin(angle), half * np.cos(angle)
    up = 1.0 if dz > 0.0 else -1.0
    return float(x + up * dx), float(z + up * dz), float(x - up * dx), float(z - up * dz)


def _cheetah_thighs(spec: mujoco.MjSpec, level: float) -> None:
    """Shorter thighs.

    Every published level also replaces both shins by straight ones, so at any level above 0 the shins are those, and
    the robot changes at once where the level leaves 0.
    """
    # Ends of the thigh's capsule in its own body (x, z, x, z), then where the shin's body hangs (x, z).
    rear = _between(
        level,
        [
            (*_rear_thigh_at_base(), 0.16, -0.25),
            *((0.0, 0.0, x, z, x, z) for x, z in ((0.11, -0.11), (0.08, -0.08), (0.02, -0.02))),
        ],
    )
    front = _between(
        level,
        [
            (*_front_thigh_at_base(), -0.14, -0.24),
            *((0.0, 0.0, x, z, x, z) for x, z in ((-0.09, -0.10), (-0.07, -0.08), (-0.04, -0.05))),
        ],
    )
    for side, (x0, z0, x1, z1, body_x, body_z) in (("b", rear), ("f", front)):
        _span(spec, f"{side}thigh", (x0, z0), (x1, z1))
        _place(spec, f"{side}shin", (body_x, body_z))
    _straight_shins(spec, rear=(-0.13, -0.15), front=(0.11, -0.13))


def _rear_thigh_at_base() -> tuple[float, float, float, float]:
    return _capsule_ends(0.1, -0.13, -3.8, 0.145)


def _front_thigh_at_base() -> tuple[float, float, float, float]:
    return _capsule_ends(-0.07, -0.12, 0.52, 0.133)


def _straight_shins(spec: mujoco.MjSpec, rear: Point, front: Point) -> None:
    for side, end in (("b", rear), ("f", front)):
        _span(spec, f"{side}shin", (0.0, 0.0), end)
        _place(spec, f"{side}foot", end)


_ANT_CORNERS = MappingProxyType(
    {"left": (1.0, 1.0), "right": (-1.0, 1.0), "third": (-1.0, -1.0), "fourth": (1.0, -1.0)}
)


def _set_ankles(spec: mujoco.MjSpec, legs: Sequence[str], reach: float) -> None:
    for leg in legs:
        x, y = _ANT_CORNERS[leg]
        spec.geom(f"{leg}_ankle_geom").fromto = [0.0, 0.0, 0.0, x * reach, y * reach, 0.0]


def _ant_legs(legs: Sequence[str]) -> BodyEdit:
    def apply(spec: mujoco.MjSpec, level: float) -> None:
        _set_ankles(spec, legs, float(_between(level, [(0.4,), (0.32,), (0.2,), (0.08,)])[0]))

    return BodyEdit(tuple(f"{leg}_ankle_geom" for leg in legs), apply)


def _severe_cheetah(spec: mujoco.MjSpec, level: float) -> None:
    _span(spec, "bthigh", (0.0, 0.0), (-1e-4, -1e-4))
    _place(spec, "bshin", (-1e-4, -1e-4))
    _span(spec, "fthigh", (0.0, 0.0), (1e-4, 1e-4))
    _place(spec, "fshin", (1e-4, 1e-4))
    _straight_shins(spec, rear=(-0.13, -0.15), front=(0.01, -0.16))
    _set_capsule(spec, "bfoot", (0.046, 0.07))


def _severe_hopper(spec: mujoco.MjSpec, level: float) -> None:
    _set_capsule(spec, "torso_geom", (0.125, 0.2))
    _set_capsule(spec, "thigh_geom", (0.04, 0.225))


def _severe_walker(spec: mujoco.MjSpec, level: float) -> None:
    """The right leg alone: hardly a thigh, and a shin that ends 0.2 m higher with its foot."""
    _set_capsule(spec, "thigh_geom", (0.05, 0.0025), -0.0025)
    spec.joint("leg_joint").pos = [0.0, 0.0, 0.695]
    _set_capsule(spec, "leg_geom", (0.04, 0.3725), 0.3225)
    spec.joint("foot_joint").pos = [-0.2, 0.0, 0.3]
    spec.geom("foot_geom").pos = [-0.1, 0.0, 0.3]


def _severe_ant(spec: mujoco.MjSpec, level: float) -> None:
    _set_ankles(spec, ("left", "right"), 0.1)


_THIGHS = ("bthigh", "bshin", "fthigh", "fshin")
_TORSO = BodyEdit(("torso_geom",), _upright_torso)

PARTS: Mapping[str, Mapping[str, BodyEdit]] = MappingProxyType(
    {
        "halfcheetah": {
            "torso": BodyEdit(("torso",), _cheetah_torso),
            "thigh": BodyEdit(_THIGHS, _cheetah_thighs),
        },
        "hopper": {"torso": _TORSO, "foot": BodyEdit(("foot_geom",), _hopper_foot)},
        "walker2d": {
            "torso": _TORSO,
            "leg": BodyEdit(("thigh_geom", "leg_geom", "thigh_left_geom", "leg_left_geom"), _walker_leg),
        },
        "ant": {"alllegs": _ant_legs(tuple(_ANT_CORNERS)), "halflegs": _ant_legs(("left", "right"))},
    }
)
"""The edits by robot and part."""

SEVERE_EDITS: Mapping[str, BodyEdit] = MappingProxyType(
    {
        "halfcheetah": BodyEdit((*_THIGHS, "bfoot"), _severe_cheetah),
        "hopper": BodyEdit(("torso_geom", "thigh_geom"), _severe_hopper),
        "walker2d": BodyEdit(("thigh_geom", "leg_geom"), _severe_walker),
        "ant": BodyEdit(("left_ankle_geom", "right_ankle_geom"), _severe_ant),
    }
)
"""The edits of the severe presets by robot; they have one level."""
