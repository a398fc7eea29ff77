"""Shifts that hold in a part of the world only: ice from some line on, thick air high up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from offdyn_envs.errors import OffDynError, shown
from offdyn_envs.shifts.base import BaseShift, Product, Shift, bound, whole
from offdyn_envs.shifts.morphology import Morphology
from offdyn_envs.shifts.parsing import check_shifts, parse_shifts, shifts_to_json
from offdyn_envs.shifts.registry import register_shift

if TYPE_CHECKING:
    import mujoco

    from offdyn_envs.robots import Robot, State

__all__ = ["Local", "everywhere", "here", "is_local", "outside"]

BOUNDS = (-1e6, 1e6)
"""Smallest and largest bound of a region."""
_AXES = ("x", "y")


@register_shift
@dataclass(frozen=True)
class Local(BaseShift):
    """Let shifts hold where the robot is beyond a bound: in control steps that begin with above <= value < below.

    Attributes:
        shifts: The shifts that hold there, one or a list: any that change the model, but no morphology.
        on: What is compared: "x" or "y", the robot's position in m, where `Robot.skipped_qpos` says that its first
            positions are these (of the four walkers Ant alone has a y), or the number of an entry of the observation,
            in its unit and without noise.
        above: Lower bound; none where left out.
        below: Upper bound; none where left out.

    Examples:
        >>> import offdyn_envs
        >>> offdyn_envs.Local(offdyn_envs.Friction(0.2), above=5.0).describe(offdyn_envs.get_robot("hopper"))
        'where 5 <= x: friction of every geom, floor included, multiplied by 0.2'
    """

    shifts: tuple[Shift, ...]
    on: str | int = "x"
    above: float | None = None
    below: float | None = None
    kind: ClassVar[str] = "local"
    amount: ClassVar[str] = ""
    own_robots: ClassVar[bool] = True
    of_model: ClassVar[bool] = False

    def __post_init__(self) -> None:
        inner = parse_shifts(self.shifts)
        object.__setattr__(self, "shifts", inner)
        for shift in inner:
            if isinstance(shift, Morphology) or not getattr(shift, "of_model", True):
                raise OffDynError(f"local shift: a {shift.kind} shift cannot hold in a part of the world only")
        if not inner:
            raise OffDynError("local shift: shifts must hold at least one shift")
        if self.above is None and self.below is None:
            raise OffDynError("local shift: give above, below or both, got neither")
        bound(self, above=BOUNDS, below=BOUNDS)
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise OffDynError(f"local shift: above must be less than below, got {self.above:g} and {self.below:g}")
        object.__setattr__(self, "on", _axis(self.on))

    def to_json(self) -> dict[str, Any]:
        """Return the plain-JSON form: only what was given."""
        return super().to_json() | {"shifts": shifts_to_json(self.shifts)}

    def check(self, robot: Robot) -> None:
        """Raise where the robot has no such place or the shifts do not fit it."""
        if isinstance(self.on, str) and _AXES.index(self.on) >= robot.skipped_qpos:
            instead = "'x' or " if robot.skipped_qpos else ""
            raise OffDynError(
                f"local shift: {robot.title} has no {self.on}, since its skipped_qpos is {robot.skipped_qpos}; use "
                f"{instead}the number of an entry of the observation"
            )
        if isinstance(self.on, int) and self.on >= robot.observation_dim:
            last = robot.observation_dim - 1
            raise OffDynError(f"local shift: entries of {robot.title}'s observation go from 0 to {last}, got {self.on}")
        check_shifts(self.shifts, robot)

    def products(self, robot: Robot | None) -> Iterable[Product]:
        """Return the factors of its shifts: where they hold, they multiply with the others."""
        for shift in self.shifts:
            if isinstance(shift, BaseShift):
                yield from shift.products(robot)

    def holds(self, robot: Robot, state: State) -> bool:
        """Say whether the shifts hold in a state.

        Args:
            robot: The robot.
            state: The state, as `Robot.state` returns it.
        """
        value = state.qpos[_AXES.index(self.on)] if isinstance(self.on, str) else robot.observe(*state)[self.on]
        return bool((self.above is None or self.above <= value) and (self.below is None or value < self.below))

    def apply(self, spec: mujoco.MjSpec, robot: Robot, profile: str) -> None:
        """Leave the model as it is: the environment takes another one where the shifts hold."""

    def describe(self, robot: Robot) -> str:
        """Say in words what changes."""
        what = self.on if isinstance(self.on, str) else f"observation {self.on}"
        low, high = ("" if end is None else f"{end:g}" for end in (self.above, self.below))
        region = f"{low} <= {what}" if not high else f"{what} < {high}" if not low else f"{low} <= {what} < {high}"
        return f"where {region}: " + ", ".join(shift.describe(robot) for shift in self.shifts)


def is_local(shifts: Sequence[Shift]) -> bool:
    """Say whether any of some shifts holds in a part of the world only."""
    return any(isinstance(shift, Local) for shift in shifts)


def outside(shifts: Sequence[Shift]) -> tuple[Shift, ...]:
    """Return the shifts that hold where no local one does."""
    return tuple(shift for shift in shifts if not isinstance(shift, Local))


def everywhere(shifts: Sequence[Shift]) -> tuple[Shift, ...]:
    """Return the shifts that hold where every local one does."""
    return tuple(inner for shift in shifts for inner in (shift.shifts if isinstance(shift, Local) else (shift,)))


def here(shifts: Sequence[Shift], robot: Robot, state: State) -> tuple[Shift, ...]:
    """Return the shifts that hold in a state, those of local ones in their places.

    Args:
        shifts: All shifts, in order.
        robot: The robot.
        state: The state, as `Robot.state` returns it.
    """
    return everywhere([shift for shift in shifts if not isinstance(shift, Local) or shift.holds(robot, state)])


def _axis(value: object) -> str | int:
    if isinstance(value, str) and value in _AXES:
        return value
    if (entry := whole(value)) is not None:
        return entry
    raise OffDynError(
        f"local shift: on must be 'x', 'y' or the number of an entry of the observation, got {shown(value)}"
    )
