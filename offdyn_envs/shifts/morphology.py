"""Morphology shifts: limbs and torsos of another shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from offdyn_envs.errors import OffDynError, shown, unknown
from offdyn_envs.robots.walkers import as_walker
from offdyn_envs.shifts.base import SEVERE, BaseShift, number
from offdyn_envs.shifts.body_edits import HARDEST, PARTS, SEVERE_EDITS, BodyEdit
from offdyn_envs.shifts.registry import register_shift

if TYPE_CHECKING:
    import mujoco

    from offdyn_envs.robots import Robot

__all__ = ["MORPHOLOGY_LEVELS", "MORPHOLOGY_PARTS", "Morphology"]

MORPHOLOGY_LEVELS: Mapping[str, float] = MappingProxyType({"easy": 1.0, "medium": 2.0, "hard": HARDEST})
"""Published presets: the level of each name."""

MORPHOLOGY_PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {name: tuple(parts) for name, parts in PARTS.items()}
)
"""Parts of each robot that can change their shape."""

_ALL_PARTS = tuple(sorted({part for parts in PARTS.values() for part in parts}))


@register_shift
@dataclass(frozen=True)
class Morphology(BaseShift):
    """Change the shape of a part; give `part` with `level`, or `preset`.

    Masses follow from the new geometry. HalfCheetah's model asks for 14 kg in total, so there a shorter limb makes all
    others heavier, unless `keep_mass` is set.

    Attributes:
        part: A part of the robot, see `MORPHOLOGY_PARTS`, for instance "torso".
        level: 0 is the base robot, 1 easy, 2 medium, 3 hard; linear between these. HalfCheetah's thigh jumps where the
            level leaves 0, because every published level also replaces the shins.
        keep_mass: Every body keeps the base robot's mass.
        preset: "severe", the sources of DROCO and IGDF ("morph").

    Examples:
        >>> import offdyn_envs
        >>> offdyn_envs.Morphology("torso", 2.0).describe(offdyn_envs.get_robot("hopper"))
        'torso reshaped at level 2 of 3 (torso_geom)'
    """

    part: str | None = None
    level: float | None = None
    keep_mass: bool = False
    preset: str | None = None
    kind: ClassVar[str] = "morphology"
    amount: ClassVar[str] = "level"
    place: ClassVar[str | None] = "part"
    own_robots: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if (self.part is None) == (self.preset is None):
            raise OffDynError(
                "morphology shift: give either part with level or preset, "
                f"got part {shown(self.part)} and preset {shown(self.preset)}"
            )
        if (self.level is None) != (self.part is None):
            raise OffDynError(
                "morphology shift: parameter 'level' goes with 'part', "
                f"got part {shown(self.part)} and level {shown(self.level)}"
            )
        if not isinstance(self.keep_mass, bool):
            raise OffDynError(f"morphology shift: keep_mass must be true or false, got {shown(self.keep_mass)}")
        if self.preset is not None and (not isinstance(self.preset, str) or self.preset != SEVERE):
            raise unknown("preset of the morphology shift", self.preset, (SEVERE,))
        if self.part is not None:
            if not isinstance(self.part, str) or self.part not in _ALL_PARTS:
                raise unknown("part of the morphology shift", self.part, _ALL_PARTS)
            object.__setattr__(self, "level", number("morphology shift: level", self.level, 0.0, HARDEST))

    def to_json(self) -> dict[str, Any]:
        """Return the plain-JSON form: only what was given."""
        what = {"preset": self.preset} if self.part is None else {"part": self.part, "level": self.level}
        return {"kind": self.kind, **what} | ({"keep_mass": True} if self.keep_mass else {})

    def check(self, robot: Robot) -> None:
        """Raise where the robot has no such part.

        Args:
            robot: The robot.

        Raises:
            OffDynError: No such part; the message names the nearest.
        """
        as_walker(robot, "a morphology shift")
        if self.part is not None and self.part not in PARTS[robot.name]:
            raise unknown(f"part of {robot.title} for the morphology shift", self.part, PARTS[robot.name])

    def edit(self, robot: Robot) -> BodyEdit:
        """Return the edit of the robot's body.

        Args:
            robot: The robot.

        Returns:
            The edit.
        """
        self.check(robot)
        return SEVERE_EDITS[robot.name] if self.part is None else PARTS[robot.name][self.part]

    def apply(self, spec: mujoco.MjSpec, robot: Robot, profile: str) -> None:
        """Reshape the part.

        Args:
            spec: The model to edit.
            robot: Its robot.
            profile: Unused here; see `offdyn_envs.models.start_qpos` for the height of the first state.
        """
        edit = self.edit(robot)
        if self.level == 0.0:  # Exactly the base robot, whose numbers are rounded otherwise than the tables.
            return
        masses = _geom_masses(robot) if self.keep_mass else {}
        edit.apply(spec, self.level or 0.0)
        # HalfCheetah's model scales all masses to its total, which explicit ones would upset: there all are explicit.
        for name in masses if robot.name == "halfcheetah" else edit.geoms:
            if self.keep_mass:
                spec.geom(name).mass = masses[name]
        if self.keep_mass:
            spec.compiler.settotalmass = -1.0

    @classmethod
    def check_together(cls, shifts: Sequence[Morphology], robot: Robot) -> None:
        """Raise where two morphologies edit one geom, or HalfCheetah's disagree about its masses.

        Args:
            shifts: All morphologies of a list.
            robot: The robot.

        Raises:
            OffDynError: Two of them exclude each other.
        """
        taken: dict[str, Morphology] = {}
        for shift in shifts:
            for geom in shift.edit(robot).geoms:
                if geom in taken:
                    first, second = (x.part or x.preset for x in (taken[geom], shift))
                    raise OffDynError(
                        f"morphology shift: '{first}' and '{second}' of {robot.title} both reshape {geom}; "
                        "give one of them"
                    )
                taken[geom] = shift
        if robot.name == "halfcheetah" and len({shift.keep_mass for shift in shifts}) > 1:
            raise OffDynError(
                "morphology shift: keep_mass must be the same for all morphologies of HalfCheetah: "
                "its total mass is fixed"
            )

    def describe(self, robot: Robot) -> str:
        """Say in words what changes."""
        kept = ", masses kept" if self.keep_mass else ""
        if self.part is None:
            return "severe morphology: " + ", ".join(self.edit(robot).geoms) + f" reshaped{kept}"
        return f"{self.part} reshaped at level {self.level:g} of 3 ({', '.join(self.edit(robot).geoms)}){kept}"


def _geom_masses(robot: Robot) -> dict[str, float]:
    """Return the mass in kg of every named geom of the base robot: its share of its body by volume."""
    from offdyn_envs.compiling import base_model, base_spec

    model, spec = base_model(robot), base_spec(robot)
    volumes = {geom.name: geom.density * _volume(model.geom(geom.name).size) for geom in spec.geoms if geom.name}
    masses: dict[str, float] = {}
    for body in range(1, model.nbody):
        first, count = int(model.body_geomadr[body]), int(model.body_geomnum[body])
        names = [model.geom(i).name for i in range(first, first + count)]
        total = sum(volumes[name] for name in names)
        masses |= {name: float(model.body_mass[body]) * volumes[name] / total for name in names}
    return masses


def _volume(size: np.ndarray) -> float:
    """Volume of a capsule, or of a sphere where there is no half-length."""
    radius, half = float(size[0]), float(size[1])
    return float(np.pi * radius**2 * (2.0 * half + 4.0 / 3.0 * radius))
