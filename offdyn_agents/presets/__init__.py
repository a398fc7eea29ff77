"""Presets: what the YAML files beside this one, and those of agents from elsewhere, say of agents' settings."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from importlib import resources
from typing import TYPE_CHECKING, Any

from offdyn_agents.engine.settings import SUITE, build, flat, idle
from offdyn_envs.errors import OffDynError, beginning, unknown

if TYPE_CHECKING:
    from importlib.abc import Traversable

__all__ = ["chosen", "counting", "forms", "place", "preset", "tuning"]

SECTIONS = ("settings", "data", "robots", "shifts", "forms", "tuning", "place")
"""What a preset file may have."""


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
