"""Dynamics that do not stay: shifts that change between episodes, or at a given step of an episode."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from numbers import Integral
from typing import Any, cast

from offdyn_envs.errors import OffDynError, shown, unknown
from offdyn_envs.robots import Robot
from offdyn_envs.shifts import Morphology, Shift, check_shifts, parse_shifts, shifts_to_json

__all__ = ["Schedule", "count", "episode_option", "make_schedule"]

UNITS = ("episode", "step")
_KEYS = ("unit", "points", "interpolate")
_POINT_KEYS = ("at", "shifts")


@dataclass(frozen=True)
class Schedule:
    """Shifts over time, since parts wear out and loads change.

    Attributes:
        unit: "episode": counts the episodes of an environment (of a row, in the batched one), from 0. "step": counts
            the control steps of the running episode, from 0.
        points: Times, rising, each with the shifts that hold from then on; before the first there are none.
        interpolate: Between two points the scale, level, add or kg of each shift moves linearly; for episodes only.
    """

    unit: str
    points: tuple[tuple[int, tuple[Shift, ...]], ...]
    interpolate: bool = False

    def shifts_at(self, count: int) -> tuple[Shift, ...]:
        """Return the shifts that hold at a time.

        Args:
            count: Episode or step.

        Returns:
            The shifts; they are appended to the environment's own.
        """
        after = bisect_right([at for at, _ in self.points], count)
        if after == 0:
            return ()
        start, shifts = self.points[after - 1]
        if not self.interpolate or after == len(self.points):
            return shifts
        end, others = self.points[after]
        share = (count - start) / (end - start)
        return tuple(_blend(a, b, share) for a, b in zip(shifts, others, strict=True))

    @property
    def times(self) -> frozenset[int]:
        """The times at which something changes, without interpolation."""
        return frozenset(at for at, _ in self.points)

    def to_json(self) -> dict[str, Any]:
        """Return the plain-JSON form, accepted by `make_schedule`."""
        points = [{"at": at, "shifts": shifts_to_json(shifts) or None} for at, shifts in self.points]
        return {"unit": self.unit, "points": points, "interpolate": self.interpolate}


def count(what: str, value: object) -> int:
    """Return a count as an int; NumPy's whole numbers are welcome.

    Args:
        what: The thing, for the message.
        value: The count.

    Returns:
        The count.

    Raises:
        OffDynError: No whole number, or below 0.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise OffDynError(f"{what} must be a whole number, 0 or above, got {shown(value)}")
    return int(value)


def episode_option(options: Mapping[str, Any] | None, allowed: Sequence[str]) -> int | None:
    """Return the episode that the options of a reset set, None where they set none.

    Args:
        options: What `reset` was given.
        allowed: Names of all options of that environment.

    Returns:
        The episode's number.

    Raises:
        OffDynError: An unknown option, or a number that counts nothing.
    """
    for name in options or {}:
        if name not in allowed:
            raise unknown("reset option", name, allowed)
    episode = (options or {}).get("episode")
    return None if episode is None else count("reset option 'episode'", episode)


def _amount(shift: Shift) -> str | None:
    """Name of the parameter that interpolation moves."""
    for name in ("scale", "level", "add", "kg"):
        if isinstance(getattr(shift, name, None), float):
            return name
    return None


def _blend(first: Shift, second: Shift, share: float) -> Shift:
    name = _amount(first)
    assert name is not None
    low, high = getattr(first, name), getattr(second, name)
    return replace(first, **{name: low + share * (high - low)})  # type: ignore[type-var]


def _same_but_for_amount(first: Shift, second: Shift) -> bool:
    name = _amount(first)
    if type(first) is not type(second) or name is None or name != _amount(second):
        return False
    others = [f.name for f in fields(first) if f.name != name]  # type: ignore[arg-type]
    return all(getattr(first, other) == getattr(second, other) for other in others)


def _point(position: int, value: object) -> tuple[int, tuple[Shift, ...]]:
    if not isinstance(value, Mapping):
        raise OffDynError(
            f"schedule: points[{position}] must be an object such as "
            f"{{'at': 10, 'shifts': [{{'kind': 'friction', 'scale': 0.5}}]}}, got {shown(value)}"
        )
    for name in value:
        if name not in _POINT_KEYS:
            raise unknown("parameter of a schedule's point", name, _POINT_KEYS)
    at = value.get("at")
    return count(f"schedule: points[{position}].at", at), parse_shifts(value.get("shifts"))


def _check_form(unit: object, interpolate: object) -> None:
    if not isinstance(unit, str) or unit not in UNITS:
        raise unknown("unit of the schedule", unit, UNITS)
    if not isinstance(interpolate, bool):
        raise OffDynError(f"schedule: interpolate must be true or false, got {shown(interpolate)}")


def _check_times(schedule: Schedule) -> None:
    _check_form(schedule.unit, schedule.interpolate)
    times = [count(f"schedule: points[{i}].at", at) for i, (at, _) in enumerate(schedule.points)]
    if not times or sorted(set(times)) != times:
        raise OffDynError(f"schedule: points must be a list with rising 'at', got {shown(times)}")


def _check(schedule: Schedule, robot: Robot, standing: Iterable[tuple[Shift, ...]]) -> None:
    _check_times(schedule)
    # Products and levels between two points lie between theirs, so the points are enough.
    for _, shifts in schedule.points:
        for shift in shifts:
            if not getattr(shift, "of_model", True):
                raise OffDynError(f"schedule: a {shift.kind} shift cannot change in time; give it as one of the shifts")
        for before in dict.fromkeys(standing):
            check_shifts(before + shifts, robot)
        if schedule.unit == "step" and any(isinstance(shift, Morphology) for shift in shifts):
            raise OffDynError("schedule: a morphology can change between episodes, not at a step; use unit 'episode'")
    if not schedule.interpolate:
        return
    if schedule.unit == "step":
        raise OffDynError("schedule: interpolate works between episodes, not steps; use unit 'episode'")
    kinds = [shifts for _, shifts in schedule.points]
    for first, second in pairwise(kinds):
        if len(first) != len(second) or not all(map(_same_but_for_amount, first, second)):
            raise OffDynError(
                "schedule: interpolate needs the same shifts at every point, but for scale, level, add or kg"
            )


def make_schedule(
    value: Mapping[str, Any] | Schedule, robot: Robot, standing: Iterable[tuple[Shift, ...]] = ((),)
) -> Schedule:
    """Read a schedule given as a value or as a plain JSON object.

    Args:
        value: For instance `{"unit": "episode", "interpolate": True, "points": [{"at": 0, "shifts": [{"kind":
            "friction", "scale": 1.0}]}, {"at": 100, "shifts": [{"kind": "friction", "scale": 0.4}]}]}`.
        robot: The robot whose dynamics change.
        standing: The lists of shifts to which the schedule's are appended, one per environment or row.

    Returns:
        The schedule as a value.

    Raises:
        OffDynError: An unknown or missing parameter, a value that is not allowed, or shifts that exclude those which
            stand already.
    """
    if isinstance(value, Schedule):
        _check(value, robot, standing)
        return value
    if not isinstance(value, Mapping):
        raise OffDynError(f"schedule must be an object with {', '.join(_KEYS)}, got {shown(value)}")
    for name in value:
        if name not in _KEYS:
            raise unknown("parameter of the schedule", name, _KEYS)
    unit, points, interpolate = value.get("unit"), value.get("points"), value.get("interpolate", False)
    _check_form(unit, interpolate)
    if not isinstance(points, Sequence) or isinstance(points, str | bytes):
        raise OffDynError(f"schedule: points must be a list with rising 'at', got {shown(points)}")
    read = tuple(_point(i, item) for i, item in enumerate(points))
    schedule = Schedule(cast(str, unit), read, interpolate)
    _check(schedule, robot, standing)
    return schedule
