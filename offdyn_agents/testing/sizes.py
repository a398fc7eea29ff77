"""Agents so small that a test trains them in a second: sizes are known by their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from offdyn_agents.engine.agent import Agent
from offdyn_agents.engine.settings import bounds_of, build, idle
from offdyn_agents.testing.data import A, S

__all__ = ["small_agent", "small_settings"]

SMALL: Mapping[str, int] = {
    "batch_size": 24,
    "capacity": 150,
    "discriminator_width": 16,
    "elites": 2,
    "epochs": 1,
    "guess_updates": 5,
    "horizon": 2,
    "iterations": 2,
    "judges": 2,
    "members": 3,
    "pretraining": 5,
    "refill_every": 7,
    "rollouts": 4,
    "samples": 2,
    "source_starts": 20,
    "starts": 40,
    "target_starts": 20,
    "updates": 5,
    "width": 16,
}
"""Small values of whole numbers by the last part of their name."""
OF_STAGES: Mapping[str, int] = {"batch_size": 32, "horizon": 5}
"""The same of settings within settings, which are those of stages, where other values suit them."""


def small_settings(kind: type[Any], others: Mapping[str, Any] | None = None) -> dict[str, int]:
    """Return small values of the sizes among an agent's settings, none larger than its default.

    Args:
        kind: The dataclass of its settings.
        others: What other settings are, where they are not the default ones.

    Returns:
        Dotted names and values, as `offdyn_agents.engine.settings.build` takes them, or `--set`: those that count for
        nothing as the others are are left out.
    """
    found = dict(_small(kind, ""))
    gone = idle(build(kind, others or {}), found)
    return {name: value for name, value in found.items() if name not in gone}


def small_agent(kind: type[Agent], settings: Mapping[str, Any] | None = None) -> Agent:
    """Return an agent of small sizes for the data of `offdyn_agents.testing.data`.

    Args:
        kind: Its class.
        settings: Settings that go before the small ones, by dotted names.
    """
    return kind(build(kind.settings_class, dict(_small(kind.settings_class, "")), settings or {}), S, A)


def _small(kind: type[Any], prefix: str) -> Iterator[tuple[str, int]]:
    hints = get_type_hints(kind)
    sizes = {**SMALL, **OF_STAGES} if prefix else SMALL
    for item in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[item.name]):
            yield from _small(hints[item.name], f"{prefix}{item.name}.")
        elif hints[item.name] is int and item.name in sizes:
            default: Any = item.default
            yield f"{prefix}{item.name}", int(max(min(sizes[item.name], default), bounds_of(item).low))
