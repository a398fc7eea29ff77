"""Masses: bodies that are heavier or lighter, and loads that the robot carries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError, shown
from offdyn_envs.shifts.base import SCALES, BaseShift, Product, number, several
from offdyn_envs.shifts.elements import DERIVED, bodies, own_spec, place_name
from offdyn_envs.shifts.registry import register_shift

if TYPE_CHECKING:
    import mujoco

    from offdyn_envs.robots import Robot

__all__ = ["Mass", "Payload"]

LOADS = (0.0, 1e4)
"""Smallest and largest payload, kg."""
REACH = 100.0
"""How far from the origin of a body's frame a payload may sit along each axis, m."""

Floats = NDArray[np.float64]


@register_shift
@dataclass(frozen=True)
class Mass(BaseShift):
    """Multiply the mass and the inertia of a body, or of all, by `scale`: as if it were of a denser material.

    Attributes:
        scale: Factor, 1e-6 to 1e6; 1 is nominal.
        body: Name of the body, for instance "torso"; all where left out.

    Examples:
        >>> import offdyn_envs
        >>> offdyn_envs.Mass(1.2, "torso").describe(offdyn_envs.get_robot("hopper"))
        'mass and inertia of torso multiplied by 1.2'
    """

    scale: float
    body: str | None = None
    kind: ClassVar[str] = "mass"
    place: ClassVar[str | None] = "body"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", number("mass shift: scale", self.scale, *SCALES))
        place_name("mass shift: body", self.body)

    def check(self, robot: Robot) -> None:
        """Raise where the robot has no such body."""
        bodies(own_spec(robot), self.body, self.kind, robot)

    def products(self, robot: Robot | None) -> Iterator[Product]:
        """Yield the factor: those of one body multiply."""
        yield Product(f"mass shifts: the product of all scales of {self.body or 'all bodies'}", self.scale, *SCALES)

    def declares(self, robot: Robot) -> Mapping[str, set[str] | None]:
        """Return the masses and inertias of the body, and what follows from them."""
        return {**dict.fromkeys(DERIVED), **dict.fromkeys(("body_mass", "body_inertia"), _chosen(self.body, robot))}

    def apply(self, spec: mujoco.MjSpec, robot: Robot, profile: str) -> None:
        """Scale densities and masses.

        Args:
            spec: The model to edit.
            robot: Its robot.
            profile: Unused.
        """
        chosen, total = bodies(spec, self.body, self.kind, robot), spec.compiler.settotalmass
        if total > 0.0:
            # The compiler scales all masses to this total, which has to grow with the body so that the others stay.
            share = 1.0 if self.body is None else _compiled_share(spec, self.body)
            spec.compiler.settotalmass = total * (1.0 + (self.scale - 1.0) * share)
        if total <= 0.0 or self.body is not None:
            for body in chosen:
                _scale_body(body, self.scale)

    def describe(self, robot: Robot) -> str:
        """Say in words what changes."""
        whose = "every body" if self.body is None else self.body
        return f"mass and inertia of {whose} multiplied by {self.scale:g}"


@register_shift
@dataclass(frozen=True)
class Payload(BaseShift):
    """Fasten a point mass to a body.

    Loads are put on when all other shifts have been applied, whatever the order of the list: a kilogram stays one, and
    several add up.

    Attributes:
        kg: Mass of the load, 0 to 10,000 kg; 0 is nominal.
        body: Name of the body that carries it, for instance "torso".
        position: Where it sits in the body's frame, m; in the body's centre of mass where left out.

    Examples:
        >>> import offdyn_envs
        >>> offdyn_envs.Payload(0.5, "foot").describe(offdyn_envs.get_robot("hopper"))
        '0.5 kg carried by foot, in its centre of mass'
    """

    kg: float
    body: str
    position: tuple[float, float, float] | None = None
    kind: ClassVar[str] = "payload"
    amount: ClassVar[str] = "kg"
    place: ClassVar[str | None] = "body"
    last: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "kg", number("payload shift: kg", self.kg, *LOADS))
        if place_name("payload shift: body", self.body) is None:
            raise OffDynError("payload shift: body must be the name of the body that carries it, got None")
        if self.position is not None:
            object.__setattr__(self, "position", _position(self.position))

    def to_json(self) -> dict[str, Any]:
        """Return the plain-JSON form: only what was given."""
        where = {} if self.position is None else {"position": list(self.position)}
        return {"kind": self.kind, "kg": self.kg, "body": self.body, **where}

    def check(self, robot: Robot) -> None:
        """Raise where the robot has no such body."""
        bodies(own_spec(robot), self.body, self.kind, robot)

    def declares(self, robot: Robot) -> Mapping[str, set[str] | None]:
        """Return what says how the body's mass is spread, and what follows from it."""
        spread = ("body_mass", "body_inertia", "body_ipos", "body_iquat", "body_sameframe", "body_simple")
        return {**dict.fromkeys(DERIVED), **dict.fromkeys(spread, _chosen(self.body, robot))}

    def apply(self, spec: mujoco.MjSpec, robot: Robot, profile: str) -> None:
        """Give the body the mass, centre of mass and inertia of body and load together.

        Args:
            spec: The model to edit.
            robot: Its robot.
            profile: Unused.
        """
        (body,) = bodies(spec, self.body, self.kind, robot)
        if self.kg == 0.0:
            return
        total = spec.compiler.settotalmass
        spec.compiler.settotalmass = -1.0
        model = spec.compile()
        kg = self.kg
        if total > 0.0:  # In the units in which the compiler will scale all masses to the new total.
            kg *= float(model.body_mass.sum()) / total
            spec.compiler.settotalmass = total + self.kg
        _load(body, model.body(self.body), kg, self.position)
        _let_inertias_count(spec, body)

    def describe(self, robot: Robot) -> str:
        """Say in words what changes."""
        where = "in its centre of mass" if self.position is None else f"at {self.position} m in its frame"
        return f"{self.kg:g} kg carried by {self.body}, {where}"


def _chosen(body: str | None, robot: Robot) -> set[str] | None:
    """Return the bodies whose mass changes; where the compiler scales to a total, all do, in their last bits."""
    spec = own_spec(robot)  # Its parts live as long as it does.
    return None if body is None or spec.compiler.settotalmass > 0.0 else {body}


def _position(value: object) -> tuple[float, ...]:
    numbers = several(value)
    if numbers is None or len(numbers) != 3:
        raise OffDynError(f"payload shift: position must be three numbers, x, y and z in m, got {shown(value)}")
    return tuple(number("payload shift: position", item, -REACH, REACH) for item in numbers)


def _compiled_share(spec: mujoco.MjSpec, name: str) -> float:
    model = spec.compile()
    return float(model.body(name).mass[0] / model.body_mass.sum())


def _scale_body(body: Any, scale: float) -> None:
    """Scale both sources of a body's inertia: the one written down and its geoms; the compiler takes one of them."""
    if body.explicitinertial:
        body.mass *= scale
        body.inertia = body.inertia * scale
        body.fullinertia = body.fullinertia * scale
    for geom in body.geoms:
        if np.isnan(geom.mass):
            geom.density *= scale
        else:
            geom.mass *= scale


def _point_inertia(kg: float, offset: Floats) -> Floats:
    """Return the inertia of a point mass about a point, kg m^2, [3, 3]."""
    return kg * (offset @ offset * np.eye(3) - np.outer(offset, offset))


def _load(body: Any, compiled: Any, kg: float, position: tuple[float, ...] | None) -> None:
    mass, centre = float(compiled.mass[0]), np.array(compiled.ipos)
    body.explicitinertial = True
    body.mass = mass + kg
    if position is None:
        body.ipos, body.iquat, body.inertia = centre, np.array(compiled.iquat), np.array(compiled.inertia)
        return
    import mujoco

    load = np.array(position)
    together = (mass * centre + kg * load) / (mass + kg)
    turned = np.zeros(9)
    mujoco.mju_quat2Mat(turned, np.array(compiled.iquat))
    axes = turned.reshape(3, 3)
    inertia = axes @ np.diag(compiled.inertia) @ axes.T
    inertia += _point_inertia(mass, centre - together) + _point_inertia(kg, load - together)
    body.ipos, body.iquat, body.inertia = together, [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    body.fullinertia = inertia[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]


def _let_inertias_count(spec: mujoco.MjSpec, loaded: Any) -> None:
    """Make the compiler take the inertia that is written down for the loaded body, and for others as before."""
    import mujoco

    if int(spec.compiler.inertiafromgeom) != mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_TRUE.value:
        return
    spec.compiler.inertiafromgeom = mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_AUTO.value
    for body in spec.bodies:
        if body.name != loaded.name and len(body.geoms):
            body.explicitinertial = False
