"""The agents: `offdyn.agents.DROCO(beta=0.1)` is DROCO with its preset and one setting by hand.

>>> import offdyn
>>> offdyn.agents.DROCO(beta=0.1, dynamics={"epochs": 5})
droco(beta=0.1, dynamics.epochs=5)

Nested settings are dicts. `register` adds an agent of your own; packages add theirs by
the entry-point group `offdyn.agents`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from offdyn_agents.algorithms.registry import class_names, names, register
from offdyn_envs.errors import beginning, unknown

if TYPE_CHECKING:
    from offdyn_agents.api.recipe import Recipe

__all__ = ["names", "register"]


def _make(name: str, **settings: Any) -> Recipe:
    from offdyn_agents.api.recipe import recipe

    return recipe(name, settings)


def __getattr__(name: str) -> Callable[..., Recipe]:
    """Return what makes an agent with settings, by the name of its class."""
    if name.startswith("__"):
        raise AttributeError(f"module 'offdyn.agents' has no attribute '{name}'")
    found = class_names()
    if name not in found:
        raise AttributeError(str(unknown("agent", beginning(name, 80), found)))
    return partial(_make, found[name])


def __dir__() -> list[str]:
    """Return the names of all agents' classes, and those of the functions."""
    return [*class_names(), *__all__]
