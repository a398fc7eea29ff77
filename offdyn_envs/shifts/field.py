"""Any number of a compiled model, for experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from offdyn_envs.errors import OffDynError, shown, unknown
from offdyn_envs.shifts.base import BaseShift, scale_or_add, several, whole
from offdyn_envs.shifts.elements import DERIVED
from offdyn_envs.shifts.registry import register_shift

if TYPE_CHECKING:
    import mujoco

    from offdyn_envs.robots import Robot

__all__ = ["Field"]

FACTORS, ADDED = (-1e6, 1e6), (-1e9, 1e9)
"""Smallest and largest factor, and amount that is added."""

_COMPILED = frozenset(
    {
        *DERIVED,
        *("actuator_length0", "tendon_length0", "flexedge_length0", "flexedge_invweight0"),
        *("body_ipos", "body_iquat", "geom_pos", "geom_quat", "geom_size", "geom_rbound", "geom_aabb", "jnt_axis"),
        *("jnt_pos", "site_pos", "site_quat", "oct_aabb", "oct_coeff", "efm0_L"),
    }
)
"""Fields that hang together with others which only the compiler sets; changed alone they would be wrong."""
_OF_JOINTS = ("dof_armature", "dof_damping", "dof_frictionloss")
"""Fields to which other kinds of shifts add."""


@register_shift
@dataclass(frozen=True)
class Field(BaseShift):
    """Change a field of the compiled model, for experts; give one of `scale` and `add`.

    Fields are changed when all other shifts have been applied, in the order of the list, and MuJoCo then works out anew
    what follows from them (`mj_setConst`). What a field means, and its unit, is MuJoCo's: see its reference of mjModel.

    Attributes:
        field: Name of a field of floating-point numbers, for instance "geom_solref", or "opt.viscosity".
        scale: Factor, -1e6 to 1e6; 1 is nominal. Where the robot has 0, a scale is refused: give `add`.
        add: What is added, -1e9 to 1e9, in the field's unit; 0 is nominal.
        index: Which entry: a number along the first axis, or one for each axis; all where left out.

    Examples:
        >>> import offdyn_envs
        >>> offdyn_envs.Field("opt.viscosity", add=0.1).describe(offdyn_envs.get_robot("hopper"))
        'field opt.viscosity raised by 0.1'
    """

    field: str
    scale: float | None = None
    add: float | None = None
    index: tuple[int, ...] | None = None
    kind: ClassVar[str] = "field"
    place: ClassVar[str | None] = "field"

    def __post_init__(self) -> None:
        if not isinstance(self.field, str):
            raise OffDynError(f"field shift: field must be the name of a field of MjModel, got {shown(self.field)}")
        scale_or_add(self, FACTORS, ADDED)
        if self.index is not None:
            object.__setattr__(self, "index", _index(self.index))

    def to_json(self) -> dict[str, Any]:
        """Return the plain-JSON form: only what was given."""
        return super().to_json() | ({} if self.index is None else {"index": list(self.index)})

    def check(self, robot: Robot) -> None:
        """Raise where the robot's model has no such field or entry."""
        from offdyn_envs.compiling import base_model

        self._entry(base_model(robot.name))

    @classmethod
    def check_together(cls, shifts: Sequence[Field], robot: Robot) -> None:
        """Raise where a scale meets a 0 to which nothing has been added; what joints add, the compiled model shows."""
        from offdyn_envs.compiling import base_model

        added = {*_OF_JOINTS}
        for shift in shifts:
            if shift.field not in added:
                shift._refuse_zero(shift._entry(base_model(robot.name)), f" of {robot.title}")
            if shift.add is not None:
                added.add(shift.field)

    def declares(self, robot: Robot) -> Mapping[str, set[str] | None]:
        """Return the field, and what follows from masses."""
        return {**dict.fromkeys(DERIVED), self.field: None}

    def apply(self, spec: mujoco.MjSpec, robot: Robot, profile: str) -> None:
        """Leave the model as it is before it is compiled; see `edit_compiled`."""

    def edit_compiled(self, model: mujoco.MjModel) -> None:
        """Change the field of a compiled model.

        Args:
            model: Changed in place.

        Raises:
            OffDynError: No such field or entry, or a scale where the model has 0.
        """
        values, where = self._entry(model), ... if self.index is None else self.index
        self._refuse_zero(values)
        changed = values[where] * self.scale if self.add is None else values[where] + self.add
        owner, _, name = self.field.rpartition(".")
        if values.ndim:
            values[where] = changed
        else:
            setattr(model.opt if owner else model, name, float(changed))

    def _entry(self, model: mujoco.MjModel) -> np.ndarray:
        """Return the field, which is the model's own memory unless it is a single number."""
        from offdyn_envs.compiling import dynamics_fields

        known = dynamics_fields(model)
        fit = [name for name, value in known.items() if _is_fit(name, value)]
        if self.field in known and self.field not in fit:
            raise OffDynError(f"field shift: {self.field} {_why_not(self.field, known[self.field])}")
        if self.field not in fit:
            raise unknown("field of MjModel for the field shift", self.field, fit)
        values = known[self.field]
        try:
            values[... if self.index is None else self.index]
        except IndexError:
            raise OffDynError(
                f"field shift: {self.field} has shape {list(values.shape)}, no entry {list(self.index or ())}"
            ) from None
        return values

    def _refuse_zero(self, values: np.ndarray, whose: str = "") -> None:
        if self.scale is not None and not np.any(values[... if self.index is None else self.index]):
            raise OffDynError(f"field shift: {self._name}{whose} has 0, which no scale changes; give add")

    @property
    def _name(self) -> str:
        return self.field if self.index is None else f"{self.field}[{', '.join(map(str, self.index))}]"

    def describe(self, robot: Robot) -> str:
        """Say in words what changes."""
        return f"field {self._name} " + (
            f"multiplied by {self.scale:g}" if self.add is None else f"raised by {self.add:g}"
        )


def _is_fit(name: str, value: np.ndarray) -> bool:
    return value.dtype == np.float64 and value.size > 0 and name not in _COMPILED


def _why_not(name: str, value: np.ndarray) -> str:
    if name in _COMPILED:
        return (
            "hangs together with other fields that only the compiler sets; there are kinds of shifts for shape and mass"
        )
    if value.dtype != np.float64:
        return "is part of the structure of the model; a shift changes floating-point numbers"
    return "has no entries in this model"


def _index(value: object) -> tuple[int, ...]:
    listed = several(value)
    numbers = [value] if listed is None else listed
    found = [entry for item in numbers if (entry := whole(item)) is not None]
    if not numbers or len(found) != len(numbers):
        raise OffDynError(f"field shift: index must be whole numbers, 0 or above, got {shown(value)}")
    return tuple(found)
