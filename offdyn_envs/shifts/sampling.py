"""Dynamics drawn at random, for domain randomisation."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from offdyn_envs.errors import OffDynError, shown, unknown
from offdyn_envs.robots import Robot
from offdyn_envs.robots.registry import known_robot
from offdyn_envs.shifts.applying import edit_model, edit_spec
from offdyn_envs.shifts.base import Shift, at_least, number, several
from offdyn_envs.shifts.parsing import check_shifts, parse_shifts
from offdyn_envs.shifts.registry import KINDS

__all__ = ["is_count", "read_key", "read_range", "sample_shifts"]

_MOST = 1e9


def sample_shifts(
    robot: str | Robot, ranges: Mapping[str, Sequence[float]], seed: int, count: int = 1
) -> list[list[Shift]]:
    """Draw dynamics for domain randomisation.

    A factor ("scale") with a range above 0 is drawn log-uniformly, so that half and twice are equally likely; every
    other number uniformly, whole ones ("steps" of a delay) among all whole numbers of the range. Each range has a
    random stream of its own: one more range leaves the draws of the others as they are, and so does a larger `count`.

    Args:
        robot: A robot or its name.
        ranges: Lowest and highest value by what is drawn: `kind`, `kind:place`, `kind.parameter` or
            `kind.parameter:place`, for instance `{"gravity": (0.5, 2.0), "mass:torso": (0.8, 1.2), "damping.add":
            (0.0, 0.5)}`. The place is a body, joint, motor, part or field, all where left out; the parameter is "scale"
            where left out ("kg" of a payload, "add" of frictionloss, "level" of a morphology).
        seed: A whole number, 0 or above.
        count: How many dynamics to draw.

    Returns:
        One list of shifts per draw, in the order of the ranges; `row_shifts` of the batched environment takes all,
        `shifts` any of them.

    Raises:
        OffDynError: An unknown kind, parameter or place, a range that is none, or values out of bounds.

    Examples:
        >>> import offdyn
        >>> draws = offdyn.sample_shifts("hopper", {"gravity": (0.5, 2.0), "mass:torso": (0.8, 1.2)}, seed=0, count=3)
        >>> [[shift.kind for shift in draw] for draw in draws]
        [['gravity', 'mass'], ['gravity', 'mass'], ['gravity', 'mass']]
    """
    body = known_robot(robot)
    if not isinstance(ranges, Mapping):
        raise OffDynError(f"ranges must be an object such as {{'gravity': [0.5, 2.0]}}, got {shown(ranges)}")
    for what, value, least in (("seed", seed, 0), ("count", count, 1)):
        at_least(what, value, least)
    columns = [_column(body, key, bounds, seed, count) for key, bounds in ranges.items()]
    return [list(shifts) for shifts in zip(*columns, strict=True)] if columns else [[] for _ in range(count)]


def _column(robot: Robot, key: object, bounds: object, seed: int, count: int) -> list[Shift]:
    form, parameter = read_key(key)
    low, high = read_range(key, bounds)
    counts = is_count(form["kind"], parameter)
    for end in (low, high):
        _check(parse_shifts({**form, parameter: int(end) if counts and end.is_integer() else end}), robot)
    rng = np.random.default_rng([int(seed), *str(key).encode()])
    if counts:
        drawn = rng.integers(int(low), int(high), count, endpoint=True)
    elif parameter == "scale" and low > 0.0:
        # Logarithm and exponential may round past the ends.
        drawn = np.clip(np.exp(rng.uniform(math.log(low), math.log(high), count)), low, high)
    else:
        drawn = rng.uniform(low, high, count)
    return list(parse_shifts([{**form, parameter: value} for value in drawn.tolist()]))


def _check(shifts: tuple[Shift, ...], robot: Robot) -> None:
    """Raise where shifts do not fit a robot, or make no model of it: some find only there that they change nothing."""
    from offdyn_envs.compiling import base_spec, compile_spec

    check_shifts(shifts, robot)
    spec = base_spec(robot)
    with warnings.catch_warnings():
        # As in `offdyn_envs.models`.
        warnings.filterwarnings("ignore", message=".*settotalmass.*")
        edit_spec(spec, shifts, robot, "default")
        model = compile_spec(spec, robot.name)
    edit_model(model, shifts)


def read_key(key: object, what: str = "ranges") -> tuple[dict[str, Any], str]:
    """Return which number of which shift a text such as "mass:torso" or "damping.add:leg_joint" names.

    Args:
        key: `kind`, `kind:place`, `kind.parameter` or `kind.parameter:place`.
        what: What the keys are, for the message.

    Returns:
        The JSON form of the shift as far as it is known, and the name of the parameter.

    Raises:
        OffDynError: An unknown kind or parameter, or a place for a kind that acts everywhere.
    """
    if not isinstance(key, str):
        raise OffDynError(f"{what}: a key must be a text such as 'mass:torso', got {shown(key)}")
    front, colon, place = key.partition(":")
    name, dot, parameter = front.partition(".")
    if name not in KINDS:
        raise unknown("shift kind", name, KINDS)
    kind = KINDS[name]
    parameter = parameter if dot else getattr(kind, "amount", "scale")
    if not parameter:
        raise OffDynError(f"{what}: the {name} shift has no number that says how strong it is, so that none is drawn")
    known = inspect.signature(kind).parameters
    if parameter not in known:
        raise unknown(f"parameter of the {name} shift", parameter, known)
    where = getattr(kind, "place", None)
    if colon and where is None:
        raise OffDynError(f"{what}: the {name} shift acts everywhere; leave ':{place}' out")
    return {"kind": name, **({where: place} if colon and where is not None else {})}, parameter


def is_count(kind: str, parameter: str) -> bool:
    """Say whether a parameter of a kind is a whole number."""
    return inspect.signature(KINDS[kind]).parameters[parameter].annotation in ("int", int)


def read_range(key: object, bounds: object, what: str = "ranges") -> tuple[float, float]:
    """Return a lowest and a highest value as floats.

    Args:
        key: Whose they are, for the message.
        bounds: Two numbers that do not fall.
        what: As in `read_key`.

    Raises:
        OffDynError: Anything else.
    """
    ends = several(bounds)
    if ends is None or len(ends) != 2:
        raise OffDynError(f"{what}: {key} must be a lowest and a highest value, got {shown(bounds)}")
    low, high = (number(f"{what}: {key}", end, -_MOST, _MOST) for end in ends)
    if low > high:
        raise OffDynError(f"{what}: {key} must rise, got {low:g} and {high:g}")
    return low, high
