"""Settings of agents: frozen dataclasses, `key=value` overrides from the command line, and which count beside which."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, reduce
from typing import Any, TypeVar, get_type_hints

from offdyn_envs.errors import OffDynError, unknown

S = TypeVar("S")
DEFAULT_UPDATES = 20_000
"""What a first training takes: minutes with most agents. Results in docs/results have 100,000 updates."""
Belongs = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Which settings count only under some values of others; see `idle`."""
SUITE = "suite"
"""The value of the setting `form` that stands for this suite's own form of a method."""


@dataclass(frozen=True)
class Bounds:
    """What values a setting may take.

    Attributes:
        low: Smallest value, itself allowed unless `open_low`.
        high: Largest value, itself allowed.
        open_low: Whether `low` itself is refused.
        choices: Allowed words, for settings that are text.
        infinite: Whether infinity is allowed.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    choices: tuple[str, ...] = ()
    infinite: bool = False

    def admits(self, value: float) -> bool:
        """Whether a number lies inside."""
        if math.isinf(value):
            return self.infinite and value > 0
        return (value > self.low if self.open_low else value >= self.low) and value <= self.high

    def describe(self) -> str:
        """The allowed range in words."""
        if self.high < math.inf:
            return f"a number in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}]"
        return f"a {'' if self.infinite else 'finite '}number {'above' if self.open_low else 'at least'} {self.low:g}"


def setting(
    default: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    choices: Sequence[str] = (),
    infinite: bool = False,
    per_run: bool = False,
) -> Any:
    """Return a dataclass field with a default and the values it allows.

    Args:
        default: The default.
        low: See `Bounds`, as the next four.
        high: Likewise.
        open_low: Likewise.
        choices: Likewise.
        infinite: Likewise.
        per_run: Whether runs of one population may differ in it: a plain number that `Agent.number` reads.
    """
    bounds = Bounds(low, high, open_low, tuple(choices), infinite)
    return field(default=default, metadata={"bounds": bounds, "per_run": per_run})


def bounds_of(item: dataclasses.Field[Any]) -> Bounds:
    """Return what values a field allows; one that was not made with `setting` allows all of its type."""
    return item.metadata.get("bounds", Bounds())


@cache
def per_run_names(kind: type[Any]) -> tuple[str, ...]:
    """Return the names of an agent's settings that runs of one population may differ in, in order."""
    return tuple(item.name for item in dataclasses.fields(kind) if item.metadata.get("per_run"))


def shared(settings: Any) -> dict[str, Any]:
    """Return what all runs of a population have in common of their agents' settings, as plain JSON values."""
    own = per_run_names(type(settings))
    return {name: value for name, value in to_json(settings).items() if name not in own}


def idle(settings: Any, by_hand: Iterable[str]) -> dict[str, tuple[str, Any, tuple[str, ...]]]:
    """Return which settings by hand count for nothing: names, and what stands in their way.

    A class of settings says in `BELONGS` under which values of others one of them counts: by its dotted name, dotted
    names and the words allowed.

    Args:
        settings: All settings, a dataclass.
        by_hand: Dotted names of those that were given by hand.

    Returns:
        By dotted names the other setting, its value, and the values under which they would count.
    """
    found: dict[str, tuple[str, Any, tuple[str, ...]]] = {}
    for name in by_hand:
        owner, prefix, rest = settings, "", name
        while True:
            belongs: Belongs = getattr(owner, "BELONGS", {})
            for other, allowed in belongs.get(rest, {}).items():
                value = _word(reduce(getattr, other.split("."), owner))
                if value not in allowed:
                    found.setdefault(name, (f"{prefix}{other}", value, allowed))
            head, dot, tail = rest.partition(".")
            if not dot:
                break
            owner, prefix, rest = getattr(owner, head), f"{prefix}{head}.", tail
    return found


def parse_overrides(overrides: Sequence[str]) -> dict[str, str]:
    """Split `key=value` words.

    Raises:
        OffDynError: A word without "=", or a key given twice.
    """
    found: dict[str, str] = {}
    for word in overrides:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise OffDynError(f"setting '{word}' is not of the form key=value")
        if key in found:
            raise OffDynError(f"setting '{key}' is given twice")
        found[key] = value
    return found


def build(kind: type[S], *layers: Mapping[str, Any]) -> S:
    """Make a settings object from layers of dotted names; later layers win.

    Args:
        kind: A frozen dataclass whose fields are made with `setting`, or are such dataclasses themselves.
        layers: Dotted names and values; text is converted to the field's type.

    Raises:
        OffDynError: An unknown name (the nearest is named), or a value outside the field's range.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        values.update(layer)
    names = setting_names(kind)
    for key in values:
        if key not in names:
            raise unknown("setting", key, names)
    return _build(kind, values, "")


def setting_names(kind: type[Any], prefix: str = "") -> list[str]:
    """List the dotted names of all settings of a dataclass."""
    hints = get_type_hints(kind)
    names: list[str] = []
    for item in dataclasses.fields(kind):
        nested = dataclasses.is_dataclass(hints[item.name])
        names += setting_names(hints[item.name], f"{prefix}{item.name}.") if nested else [f"{prefix}{item.name}"]
    return names


def to_json(settings: Any) -> dict[str, Any]:
    """Return settings as plain JSON values; an infinite number becomes the text "inf"."""
    return {key: _plain(value) for key, value in dataclasses.asdict(settings).items()}


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings of a preset or a run.json with the names that `build` and `--set` know, as `dynamics.width`."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found.update(flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return found


def _word(value: Any) -> Any:
    """Return a value as `--set` takes it, which for true and false is no capital."""
    return str(value).lower() if isinstance(value, bool) else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _build(kind: type[S], values: Mapping[str, Any], prefix: str) -> S:
    as_any: Any = kind
    hints = get_type_hints(kind)
    chosen: dict[str, Any] = {}
    for item in dataclasses.fields(as_any):
        name = f"{prefix}{item.name}"
        if dataclasses.is_dataclass(hints[item.name]):
            chosen[item.name] = _build(hints[item.name], values, f"{name}.")
        elif name in values:
            chosen[item.name] = _convert(name, values[name], hints[item.name], bounds_of(item))
    return as_any(**chosen)


def _convert(name: str, value: Any, kind: type[Any], bounds: Bounds) -> Any:
    if kind is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if str(value).lower() not in words:
            raise OffDynError(f"setting {name} is '{value}'; true or false is allowed")
        return words[str(value).lower()]
    if kind is str:
        if not isinstance(value, str) or (bounds.choices and value not in bounds.choices):
            raise unknown(f"value of setting {name}", value, bounds.choices)
        return value
    return _number(name, value, kind, bounds)


def _number(name: str, value: Any, kind: type[Any], bounds: Bounds) -> Any:
    try:
        if isinstance(value, bool) or (kind is int and isinstance(value, float) and not value.is_integer()):
            raise ValueError
        number = kind(value)
    except (TypeError, ValueError, OverflowError):
        what = "whole number" if kind is int else "number"
        raise OffDynError(f"setting {name} is '{str(value)[:40]}'; a {what} is allowed") from None
    if math.isnan(number) or not bounds.admits(number):
        raise OffDynError(f"setting {name} is {number}; {bounds.describe()} is allowed")
    return number
