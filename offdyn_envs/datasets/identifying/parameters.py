"""What may be fitted: any number of a shift that changes how the robot moves, and where it is looked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offdyn_envs.errors import OffDynError, shown
from offdyn_envs.models import compile_model
from offdyn_envs.robots import Robot
from offdyn_envs.shifts import KINDS, Delay, Shift, check_shifts, parse_shifts
from offdyn_envs.shifts.sampling import is_count, read_key, read_range

__all__ = ["Free", "Parameter", "read_free", "shifts_of"]

Free = str | Sequence[str] | Mapping[str, Sequence[float] | None]
"""Ways to say what is free, see `read_free`."""

WHAT = "free"
_RANGES: Mapping[str, tuple[float, float]] = {
    "scale": (0.05, 20.0),
    "limit": (1e-3, 1e3),
    "kg": (0.0, math.nan),  # Up to the mass of the robot.
    "add": (0.0, 10.0),
    "level": (0.0, 3.0),
    "steps": (0.0, 5.0),
}
"""Where a parameter is looked for if nobody says."""
_RANGES_OF_KIND: Mapping[str, tuple[float, float]] = {"kinematic.scale": (0.05, 2.0)}
_LOGARITHMIC = ("scale", "limit")
_WIDTH = 3.0
"""How far the ends of a linear range are from each other in the units of the search; ln 20 is as far as a factor is."""


@dataclass(frozen=True)
class Parameter:
    """One number that is looked for.

    The search runs in units of its own, `to_unit`: logarithms of factors, so that half and twice are equally far, and
    thirds of the range of anything else.

    Attributes:
        key: Its name, for instance "mass:torso".
        form: The shift's JSON form without the number.
        name: The number's name in that form.
        low: Smallest value.
        high: Largest value.
        whole: Only whole numbers count; they are tried, one after the other.
        logarithmic: The search takes steps of factors.
    """

    key: str
    form: Mapping[str, Any]
    name: str
    low: float
    high: float
    whole: bool
    logarithmic: bool

    @property
    def nominal(self) -> float:
        """The value that changes nothing, or the nearest that is allowed."""
        neutral = {"scale": 1.0, "limit": math.inf}.get(self.name, 0.0)
        return min(max(neutral, self.low), self.high)

    @property
    def unit_bounds(self) -> tuple[float, float]:
        """The range in units of the search."""
        return self.to_unit(self.low), self.to_unit(self.high)

    def to_unit(self, value: float) -> float:
        """Return a value in units of the search."""
        if self.logarithmic:
            return math.log(value)
        return _WIDTH * (value - self.low) / (self.high - self.low)

    def to_value(self, unit: float) -> float:
        """Return the value that stands at a place of the search, within the range."""
        value = math.exp(unit) if self.logarithmic else self.low + unit * (self.high - self.low) / _WIDTH
        return min(max(value, self.low), self.high)

    def shift(self, value: float) -> Shift:
        """Return the shift of a value."""
        return parse_shifts([{**self.form, self.name: round(value) if self.whole else value}])[0]


def shifts_of(parameters: Sequence[Parameter], values: Sequence[float]) -> tuple[Shift, ...]:
    """Return the shifts of one value for each parameter."""
    return tuple(parameter.shift(value) for parameter, value in zip(parameters, values, strict=True))


def read_free(free: Free, robot: Robot, known: tuple[Shift, ...], profile: str) -> tuple[Parameter, ...]:
    """Read what is free.

    Args:
        free: Names as `offdyn_envs.sample_shifts` takes them, `kind`, `kind:place`, `kind.parameter` or
            `kind.parameter:place`: a text such as "gravity,friction=0.2..5,mass:torso", a list of such names, or ranges
            by name, None for the usual one. Usual ranges: factors 0.05 to 20 (of joint ranges 0.05 to 2), force limits
            0.001 to 1000, payloads up to the mass of the robot, what is added 0 to 10, levels 0 to 3, delays 0 to 5.
        robot: The robot.
        known: Shifts that hold anyway.
        profile: Variant of the edits.

    Returns:
        The parameters, in the order given.

    Raises:
        OffDynError: An unknown name or place, one that is named twice, a kind that leaves the motion as it is, a range
            that is none, or a model that does not compile.
    """
    named = _named(free)
    if not named:
        raise OffDynError(f"{WHAT}: nothing is named; such as gravity,friction,mass:torso")
    found = tuple(_parameter(key, bounds, robot) for key, bounds in named)
    keys = [(*sorted(item.form.items()), item.name) for item in found]
    for position, key in enumerate(keys):
        if key in keys[:position]:
            raise OffDynError(f"{WHAT}: '{found[position].key}' is named twice")
    for end in ("low", "nominal", "high"):
        together = known + shifts_of(found, [getattr(item, end) for item in found])
        check_shifts(together, robot)
        compile_model(robot, together, profile)
    return found


def _named(free: object) -> list[tuple[str, Sequence[float] | None]]:
    if isinstance(free, Mapping):
        return [(str(key), bounds) for key, bounds in free.items()]
    if isinstance(free, str):
        free = [part.strip() for part in free.split(",") if part.strip()]
    if not isinstance(free, Sequence):
        raise OffDynError(f"{WHAT} must be names such as 'gravity,mass:torso', got {shown(free)}")
    return [_split(str(part)) for part in free]


def _split(text: str) -> tuple[str, Sequence[float] | None]:
    """Split "friction=0.2..5" into the name and the range."""
    key, equals, ends = text.partition("=")
    if not equals:
        return key, None
    try:
        low, high = map(float, ends.split(".."))
        return key, (low, high)
    except ValueError:
        raise OffDynError(f"{WHAT}: the range of {key} must be LOW..HIGH, such as 0.2..5, got {shown(ends)}") from None


def _parameter(key: str, bounds: Sequence[float] | None, robot: Robot) -> Parameter:
    kind = KINDS.get(key.partition(":")[0].partition(".")[0])
    if kind is not None and (not getattr(kind, "of_model", True) and kind is not Delay):
        raise OffDynError(f"{WHAT}: {key} cannot be fitted: a {kind.kind} shift is no number of the model of the robot")
    form, name = read_key(key, WHAT)
    low, high = _usual(key, f"{form['kind']}.{name}", name, robot) if bounds is None else _given(key, bounds)
    whole = is_count(form["kind"], name)
    parameter = Parameter(key, form, name, low, high, whole, name in _LOGARITHMIC and low > 0.0)
    for value in (low, high):
        check_shifts((parameter.shift(value),), robot)
    return parameter


def _usual(key: str, full: str, name: str, robot: Robot) -> tuple[float, float]:
    found = _RANGES_OF_KIND.get(full, _RANGES.get(name))
    if found is None:
        raise OffDynError(f"{WHAT}: no range is known for {key}; give one, such as {key}=0..1")
    low, high = found
    return low, (float(compile_model(robot, ()).body_mass.sum()) if math.isnan(high) else high)


def _given(key: str, bounds: Sequence[float]) -> tuple[float, float]:
    low, high = read_range(key, bounds, WHAT)
    if low == high:
        raise OffDynError(f"{WHAT}: {key} must rise, got {low:g} and {high:g}")
    return low, high
