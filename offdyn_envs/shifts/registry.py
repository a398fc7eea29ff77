"""The kinds of shifts that there are; anyone can add one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

from offdyn_envs.errors import OffDynError, shown
from offdyn_envs.shifts.base import Shift

__all__ = ["KINDS", "register_shift"]

_KINDS: dict[str, type[Shift]] = {}
KINDS: Mapping[str, type[Shift]] = MappingProxyType(_KINDS)
"""The kinds of shifts, by their name in JSON; `register_shift` adds to them."""

_NEEDED = ("apply", "check", "to_json", "describe")
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
Kind = TypeVar("Kind", bound=type)


def register_shift(kind_class: Kind) -> Kind:
    """Add a kind of shift, so that `shifts=` takes it as a value and as JSON; also a decorator.

    Args:
        kind_class: A frozen dataclass, see `offdyn_envs.shifts.Shift` and `BaseShift`; its class variable `kind` is
            the name in JSON. The same class may come again, as it does where a notebook's cell runs twice.

    Returns:
        The class.

    Raises:
        OffDynError: Something that a shift needs is missing, or another class has the name already.

    Examples:
        >>> from dataclasses import dataclass
        >>> import offdyn
        >>> from offdyn_envs.shifts import BaseShift
        >>> @offdyn.register_shift
        ... @dataclass(frozen=True)
        ... class Headwind(BaseShift):
        ...     speed: float
        ...     kind = "headwind"
        ...     amount = "speed"
        ...
        ...     def apply(self, spec, robot, profile):
        ...         spec.option.wind, spec.option.density = [-self.speed, 0.0, 0.0], 100.0
        ...
        ...     def declares(self, robot):
        ...         return {"opt.wind": None, "opt.density": None}
        ...
        ...     def describe(self, robot):
        ...         return f"a headwind of {self.speed:g} m/s"
        >>> env = offdyn.make("OffDyn/Hopper-v0", shifts={"kind": "headwind", "speed": 3.0})
        >>> env.unwrapped.model.opt.wind.tolist()
        [-3.0, 0.0, 0.0]
    """
    if not isinstance(kind_class, type):
        raise OffDynError(f"register_shift: a class is needed, such as offdyn_envs.Gravity, got {shown(kind_class)}")
    for name in _NEEDED:
        if not callable(getattr(kind_class, name, None)):
            raise OffDynError(f"register_shift: {kind_class.__name__} has no method '{name}'")
    if getattr(kind_class, "__hash__", None) is None:
        raise OffDynError(f"register_shift: {kind_class.__name__} must be a value: a frozen dataclass")
    kind = getattr(kind_class, "kind", None)
    if not isinstance(kind, str) or not _NAME.fullmatch(kind):
        raise OffDynError(
            f"register_shift: {kind_class.__name__}.kind must be small letters, digits and hyphens, got {shown(kind)}"
        )
    taken = _KINDS.get(kind)
    if taken is not None and _origin(taken) != _origin(kind_class):
        raise OffDynError(f"register_shift: the shift kind '{kind}' is taken, by {'.'.join(_origin(taken))}")
    _KINDS[kind] = kind_class
    return kind_class


def _origin(kind_class: type) -> tuple[str, str]:
    return kind_class.__module__, kind_class.__qualname__
