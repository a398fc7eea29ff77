"""The agents by name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from offdyn_envs.errors import unknown

if TYPE_CHECKING:
    from offdyn_agents.engine.agent import Agent

__all__ = ["AGENTS", "agent_class"]

AGENTS = {
    "iql": "offdyn_agents.algorithms.iql:IQL",
    "droco": "offdyn_agents.algorithms.droco:DROCO",
    "bc": "offdyn_agents.algorithms.bc:BC",
    "td3-bc": "offdyn_agents.algorithms.td3_bc:TD3BC",
    "mopo": "offdyn_agents.algorithms.mopo:MOPO",
    "mobile": "offdyn_agents.algorithms.mobile:MOBILE",
    "mobody": "offdyn_agents.algorithms.mobody:MOBODY",
    "morec": "offdyn_agents.algorithms.morec:MOREC",
    "morec-mobile": "offdyn_agents.algorithms.morec:MORECMobile",
}
"""Where the class of every agent lives."""


def agent_class(name: str) -> type[Agent]:
    """Return an agent's class by name.

    Raises:
        OffDynError: No such agent; the message names the nearest.
    """
    if name not in AGENTS:
        raise unknown("agent", name, AGENTS)
    module, _, attribute = AGENTS[name].partition(":")
    return getattr(import_module(module), attribute)
