"""Settings of agents: frozen dataclasses, presets in YAML, `key=value` overrides from the command line."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache, reduce
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from offdyn_envs.errors import OffDynError, beginning, unknown

if TYPE_CHECKING:
    from importlib.abc import Traversable

S = TypeVar("S")
SECTIONS = ("settings", "data", "robots", "shifts", "forms", "tuning", "place")
"""What a preset file may have."""
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


def chosen(
    agent: type[Any],
    robot: str = "",
    quality: str = "",
    overrides: Mapping[str, Any] | None = None,
    shifts: Collection[str] = (),
) -> Any:
    """Return an agent's settings: its preset for a robot, a quality of data and shifts, and settings given by hand.

    Args:
        agent: Class of the agent.
        robot: See `preset`, as the next.
        quality: Likewise.
        overrides: Dotted names and values by hand; among them, `data` and `form` also choose parts of the preset.
        shifts: See `preset`.

    Raises:
        OffDynError: An unknown setting, a value out of range, a form that the agent has not, a setting by hand that
            counts for nothing beside the others (see `idle`), or a damaged file.
    """
    by_hand = overrides or {}
    found = _chosen(agent, robot, quality, by_hand, shifts)
    for name, (other, value, allowed) in idle(found, by_hand).items():
        raise OffDynError(
            f"setting {name} counts for nothing with {other}={value}; it belongs to {other}={'|'.join(allowed)}"
        )
    return found


def counting(
    agent: type[Any],
    robot: str,
    quality: str,
    overrides: Mapping[str, Any],
    more: Mapping[str, Any],
    shifts: Collection[str] = (),
) -> dict[str, Any]:
    """Return those settings by hand that still count beside others that a variant of the method has.

    Args:
        agent: See `chosen`, as the next three.
        robot: Likewise.
        quality: Likewise.
        overrides: Likewise.
        more: The variant's own, which go before them.
        shifts: See `chosen`.
    """
    gone = idle(_chosen(agent, robot, quality, {**overrides, **more}, shifts), overrides)
    return {name: value for name, value in overrides.items() if name not in gone}


def _chosen(
    agent: type[Any], robot: str, quality: str, by_hand: Mapping[str, Any], shifts: Collection[str] = ()
) -> Any:
    data, form = (str(by_hand.get(name, "")) for name in ("data", "form"))
    return build(agent.settings_class, preset(agent, robot, quality, data, form, shifts), by_hand)


def preset(
    agent: type[Any],
    robot: str = "",
    quality: str = "",
    data: str = "",
    form: str = "",
    shifts: Collection[str] = (),
) -> dict[str, Any]:
    """Return the settings that the agent's preset file gives for a robot, a quality of data, some rows and shifts.

    Args:
        agent: Class of the agent. Its file is `presets/<name>.yaml` in the package of the class, or in the nearest one
            around it; without a file there are none.
        robot: Name of the robot; its section overrides the general one. A section may be for several: `adroit-*`;
            where the robot's own name has one, that counts alone.
        quality: Quality of the task's data; the part of the robot's section under `qualities` that bears its name
            overrides the rest of the section.
        data: Rows to learn from, as the setting `data` names them; what the file has under `data` for them overrides
            the general section. "" for those that the file itself chooses.
        form: Published form of the method, as the setting `form` names it; what the file has under `forms` for it
            overrides all else. "" for this suite's own form.
        shifts: Kinds of shifts by which source and target differ, as `Task.shift_kinds` has them; what the file has
            under `shifts` for one of them overrides the robot's section.

    Returns:
        Dotted setting names and plain values.

    Raises:
        OffDynError: A form that the file has not, or a damaged file; the message names it and the key.
    """
    content = _preset_file(agent)
    forms = content.get("forms") or {}
    if form not in ("", SUITE, *forms):
        raise unknown(f"form of agent '{agent.name}'", form, (SUITE, *forms))
    own = dict(_of_robot(content.get("robots") or {}, robot))
    qualities = own.pop("qualities", None) or {}
    general = content.get("settings") or {}
    of_rows = (content.get("data") or {}).get(data or general.get("data")) or {}
    of_shifts = [values or {} for kind, values in (content.get("shifts") or {}).items() if kind in shifts]
    layers = (general, of_rows, own, qualities.get(quality) or {}, *of_shifts, forms.get(form) or {})
    return {name: value for layer in layers for name, value in flat(layer).items()}


def place(agent: type[Any]) -> int | None:
    """Return an agent's place among those that papers are compared by, from 1; None where its preset names none."""
    return _preset_file(agent).get("place")


def forms(agent: type[Any]) -> tuple[str, ...]:
    """Return the names of the published forms that an agent's preset has."""
    return tuple(_preset_file(agent).get("forms") or {})


def _of_robot(sections: Mapping[str, Any], robot: str) -> Mapping[str, Any]:
    """Return the section of a robot's own name, else the first that is for several and for this one too."""
    patterns = [name for name in sections if fnmatchcase(robot, name)]
    return sections.get(robot) or (sections[patterns[0]] if patterns else None) or {}


def tuning(agent: type[Any]) -> dict[str, Any]:
    """Return how an agent's preset was tuned, for the disclosure of a run.

    Values inherited from a paper that tuned them on online returns count as tuned.

    Args:
        agent: Class of the agent.

    Returns:
        "tuning_evaluations" (0: none; None: not stated), and "tuning_note" where there is something to say.

    Raises:
        OffDynError: As `preset`.
    """
    told = _preset_file(agent).get("tuning") or {}
    note = {"tuning_note": " ".join(told["note"].split())} if told.get("note") else {}
    return {"tuning_evaluations": told.get("evaluations")} | note


def _preset_file(agent: type[Any]) -> dict[str, Any]:
    """Return what an agent's preset file says, checked; nothing where there is none."""
    import yaml

    path = _preset_path(agent)
    if path is None:
        return {}
    where = f"preset '{path}'"
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OffDynError(f"{where} is no YAML: {error}") from None
    content = _mapping(content, where)
    for key in content:
        if key not in SECTIONS:
            raise unknown(f"section of {where}", key, SECTIONS)
    _check_tuning(_mapping(content.get("tuning"), f"{where}: tuning"), f"{where}: tuning")
    _check_count(content.get("place"), f"{where}: place", 1)
    for section, values in _sections(content, where):
        _check_section(agent.settings_class, values, section)
    return content


def _preset_path(agent: type[Any]) -> Traversable | None:
    """Return the preset file in the package of an agent's class, or in the nearest package around it."""
    package = agent.__module__
    while package:
        # A class that is used has been imported; a module that is no package, as a notebook, holds no files.
        if hasattr(sys.modules.get(package), "__path__"):
            path = resources.files(package).joinpath("presets").joinpath(f"{agent.name}.yaml")
            if path.is_file():
                return path
        package = package.rpartition(".")[0]
    return None


def _sections(content: Mapping[str, Any], where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield what a preset file's parts are called in messages, and their settings."""
    yield f"{where}: settings", _mapping(content.get("settings"), f"{where}: settings")
    for group in ("data", "robots", "shifts", "forms"):
        for name, values in _mapping(content.get(group), f"{where}: {group}").items():
            section = f"{where}: {group}.{name}"
            own = dict(_mapping(values, section))
            qualities = own.pop("qualities", None) if group == "robots" else None
            yield section, own
            for quality, more in _mapping(qualities, f"{section}.qualities").items():
                yield f"{section}.qualities.{quality}", _mapping(more, f"{section}.qualities.{quality}")


def _check_section(kind: type[Any], values: Mapping[str, Any], section: str) -> None:
    """Refuse a setting that is none, or a value that is not allowed, also where the section is not asked for."""
    try:
        build(kind, flat(values))
    except OffDynError as error:
        raise OffDynError(f"{section}: {error}") from None


def _check_tuning(told: Mapping[str, Any], where: str) -> None:
    for key in told:
        if key not in ("evaluations", "note"):
            raise unknown(f"key of {where}", key, ("evaluations", "note"))
    _check_count(told.get("evaluations"), f"{where}.evaluations", 0)
    note = told.get("note")
    if note is not None and not isinstance(note, str):
        raise OffDynError(f"{where}.note is '{beginning(note, 40)}'; text is allowed")


def _check_count(count: Any, where: str, least: int) -> None:
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < least):
        raise OffDynError(f"{where} is '{beginning(count, 40)}'; a whole number at least {least} is allowed")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    """Return a part of a preset file; one that is empty may stand there."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise OffDynError(f"{where} is '{beginning(value, 40)}'; names and their values are needed")
    return value


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
                value = reduce(getattr, other.split("."), owner)
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
