"""What settings an agent has, as rows of a table: their names, values, what is allowed, and what they mean."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from functools import reduce
from typing import Any, get_type_hints

from offdyn_agents.algorithms.registry import agent_class
from offdyn_agents.engine.settings import bounds_of, setting_names
from offdyn_agents.presets import chosen

__all__ = ["setting_rows"]

_ENTRY = re.compile(r"^    (\w+): (.*)$")


def setting_rows(agent: str, task: str = "", overrides: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Return one row for each setting of an agent, in the order of its dataclasses.

    Args:
        agent: Name of the agent.
        task: A task, whose robot's, quality's and shifts' preset then counts; "" for what is so for all.
        overrides: Settings by hand, as `--set` gives them.

    Returns:
        "setting", the dotted name that `--set` takes; "value" that training takes; "default", where preset or hand have
        another value; "allowed"; "meaning".

    Raises:
        OffDynError: No such agent, task or setting, or a value out of range.
    """
    from offdyn_envs.tasks import get_task

    found, known = agent_class(agent), get_task(task) if task else None
    kind = found.settings_class
    robot, quality, shifts = (known.robot, known.quality, known.shift_kinds) if known else ("", "", ())
    settings, plain = chosen(found, robot, quality, overrides, shifts), kind()
    rows: list[dict[str, Any]] = []
    for name in setting_names(kind):
        owner, field = _find(kind, name)
        # Some defaults depend on other settings, such as a form.
        value, default = (reduce(getattr, name.split("."), own) for own in (settings, plain))
        rows.append(
            {
                "setting": name,
                "value": _word(value),
                "default": "" if value == default else _word(default),
                "allowed": _allowed(get_type_hints(owner)[field.name], field),
                "meaning": meanings(owner).get(field.name, ""),
            }
        )
    return rows


def meanings(kind: type[Any]) -> dict[str, str]:
    """Return what the docstrings of a dataclass and of what it inherits from say of each attribute.

    A class's own words go before those that it inherits.
    """
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if dataclasses.is_dataclass(owner) and "__doc__" in vars(owner):
            found |= _attributes(inspect.cleandoc(owner.__doc__ or ""))
    return found


def _attributes(text: str) -> dict[str, str]:
    """Return the entries below "Attributes:" in a docstring, each on one line."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.partition("Attributes:\n")[2].splitlines():
        entry = _ENTRY.match(line)
        if entry:
            name = entry[1]
            found[name] = [entry[2]]
        elif name and line.startswith("        "):
            found[name].append(line.strip())
    return {key: " ".join(parts) for key, parts in found.items()}


def _find(kind: type[Any], name: str) -> tuple[type[Any], Any]:
    """Return the dataclass that a dotted name's last part is a field of, and the field."""
    *path, last = name.split(".")
    for part in path:
        kind = get_type_hints(kind)[part]
    return kind, next(field for field in dataclasses.fields(kind) if field.name == last)


def _allowed(kind: type[Any], field: Any) -> str:
    bounds = bounds_of(field)
    if kind is bool:
        return "true, false"
    if kind is str:
        return ", ".join(bounds.choices) or "text"
    what = bounds.describe()
    return re.sub(r"^a (finite )?number", "a whole number", what) if kind is int else what


def _word(value: Any) -> str:
    """Return a value as `--set` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
