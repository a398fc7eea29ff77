"""An agent with settings by hand, before data say what its sizes are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from offdyn_agents.algorithms.registry import agent_class, register
from offdyn_agents.engine.settings import flat
from offdyn_agents.presets import chosen
from offdyn_envs.errors import OffDynError

if TYPE_CHECKING:
    from offdyn_agents.engine.agent import Agent

__all__ = ["Recipe", "recipe"]


@dataclass(frozen=True)
class Recipe:
    """An agent by name, and the settings that are not its preset's.

    Attributes:
        name: Name of the agent.
        settings: Dotted names and values, for instance {"beta": 0.1, "dynamics.epochs": 5}.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def sized(self, observation_dim: int, action_dim: int, robot: str = "") -> Agent:
        """Return the agent for data of some sizes.

        Args:
            observation_dim: |S|.
            action_dim: |A|.
            robot: Name of the robot, whose part of the preset counts.
        """
        kind = agent_class(self.name)
        return kind(chosen(kind, robot, overrides=self.settings), observation_dim, action_dim)

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"{self.name}({told})"


def recipe(agent: Any, settings: Mapping[str, Any] | None = None) -> Recipe:
    """Return an agent's recipe; its name and its settings are checked.

    Args:
        agent: A name, an agent's class, or a recipe.
        settings: Settings by hand, nested or with dotted names.

    Raises:
        OffDynError: No such agent or setting (the message names the nearest), or a value out of range.
    """
    if isinstance(agent, Recipe):
        return recipe(agent.name, {**agent.settings, **(settings or {})})
    if isinstance(agent, type):
        agent = register(agent)
    if not isinstance(agent, str):
        raise OffDynError(f"agent is a {type(agent).__name__}; offdyn.agents.NAME(...), a name or a class is allowed")
    by_hand = flat(settings or {})
    chosen(agent_class(agent), overrides=by_hand)
    return Recipe(agent, by_hand)
