"""The agents by name: those of this package, those of other packages, and those that a program registers.

Another package names its agents in the entry-point group `offdyn.agents`, as `name = "module:Class"`; a program calls
`register`. Names are known without importing anything; a class is imported when it is used, and only then does it show
whether it is an agent: what is wrong with one never hinders the others. docs/write-an-agent.md shows how.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from offdyn_envs.errors import OffDynError, beginning, spelled, unknown

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from offdyn_agents.engine.agent import Agent

__all__ = ["AGENTS", "GROUP", "agent_class", "check_name", "class_names", "make_agent", "names", "register"]

AGENTS = {
    "iql": "offdyn_agents.algorithms.iql:IQL",
    "droco": "offdyn_agents.algorithms.droco:DROCO",
    "bc": "offdyn_agents.algorithms.bc:BC",
    "td3-bc": "offdyn_agents.algorithms.td3_bc:TD3BC",
    "bosa": "offdyn_agents.algorithms.bosa:BOSA",
    "dara": "offdyn_agents.algorithms.rowwise.dara:DARA",
    "otdf": "offdyn_agents.algorithms.rowwise.otdf:OTDF",
    "oracle-filter": "offdyn_agents.algorithms.rowwise.oracle_filter:OracleFilter",
    "igdf": "offdyn_agents.algorithms.rowwise.igdf:IGDF",
    "srpo": "offdyn_agents.algorithms.rowwise.srpo:SRPO",
    "dvdf": "offdyn_agents.algorithms.rowwise.dvdf:DVDF",
    "stc": "offdyn_agents.algorithms.rowwise.stc:STC",
    "lodada": "offdyn_agents.algorithms.rowwise.lodada:LoDADA",
    "tabb": "offdyn_agents.algorithms.rowwise.tabb:TABB",
    "cql": "offdyn_agents.algorithms.cql:CQL",
    "mopo": "offdyn_agents.algorithms.mopo:MOPO",
    "mobile": "offdyn_agents.algorithms.mobile:MOBILE",
    "micro": "offdyn_agents.algorithms.micro:MICRO",
    "mobody": "offdyn_agents.algorithms.mobody:MOBODY",
    "morec": "offdyn_agents.algorithms.morec:MOREC",
    "morec-mobile": "offdyn_agents.algorithms.morec:MORECMobile",
}
"""Where the class of every agent of this package lives."""
GROUP = "offdyn.agents"
"""The entry-point group of other packages' agents."""

PROGRAM = "this program"
"""Where agents that a program registers come from."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class _Entry:
    """One agent: its name, where its class lives, who says so, and the class where a program gave it."""

    name: str
    path: str
    origin: str
    found: type[Agent] | None = None

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"agent '{beginning(self.name, 80)}' of {self.origin}"


_REGISTERED: dict[str, _Entry] = {}


def register(agent: type[Agent] | str, name: str | None = None) -> str:
    """Make an agent of this program known by name, to every function that takes one and in `offdyn.agents`.

    Args:
        agent: Its class, or "module:Class", which is imported when it is used.
        name: Its name, for a path that is not to be imported now; by default what its class says.

    Returns:
        Its name.

    Raises:
        OffDynError: What is given is no agent, its name is none, or another agent has it. The same class once more, as
            a notebook's cell gives it, takes its earlier self's place.

    Examples:
        >>> import offdyn
        >>> from offdyn_agents.algorithms.bc import BC
        >>> class Copycat(BC):
        ...     name = "copycat"
        >>> offdyn.agents.register(Copycat)
        'copycat'
    """
    entry = _given(agent, name)
    _check_spelling(entry)
    earlier = _entries().get(entry.name)
    if earlier is not None and earlier.path != entry.path:
        raise OffDynError(f"{entry.label} cannot be registered: {earlier.label} exists; take another name")
    _REGISTERED[entry.name] = entry
    return entry.name


def names() -> tuple[str, ...]:
    """Return the names of all agents: those of this package, of other packages, of this program.

    Examples:
        >>> import offdyn
        >>> offdyn.agents.names()[:3]
        ('iql', 'droco', 'bc')
    """
    return tuple(_entries())


def check_name(name: str) -> str:
    """Return the name of the agent that is meant, for instance "iql" for "IQL"; nothing is imported.

    Raises:
        OffDynError: No such agent; the message names the nearest.
    """
    found = spelled(name, names())
    if found is None:
        raise unknown("agent", name, names(), "offdyn agents")
    return found


def class_names() -> dict[str, str]:
    """Return the names of all agents by those of their classes, for instance "droco" by "DROCO"; nothing is imported.

    Where two classes have one name, the one that `names` has first counts.
    """
    found: dict[str, str] = {}
    for entry in _entries().values():
        found.setdefault(entry.path.rpartition(":")[2].rpartition(".")[2], entry.name)
    return found


def agent_class(name: str) -> type[Agent]:
    """Return an agent's class by name.

    Raises:
        OffDynError: No such agent (the message names the nearest), or, of one from outside, what is wrong with it.
    """
    name = check_name(name)
    entry = _entries()[name]
    if name in AGENTS:
        module, _, attribute = entry.path.partition(":")
        return getattr(import_module(module), attribute)
    _check_spelling(entry)
    _check_alone(entry)
    found = _sound(entry, entry.found or _load(entry))
    _check_class_says(entry, found)
    return found


def make_agent(
    name: str,
    robot: str,
    observation_dim: int,
    action_dim: int,
    overrides: Mapping[str, str],
    quality: str = "",
    shifts: Collection[str] = (),
) -> Agent:
    """Return an agent with its preset for a robot, a quality of data and shifts, and settings given by hand.

    Raises:
        OffDynError: Unknown agent or setting, or a value out of range.
    """
    from offdyn_agents.presets import chosen

    kind = agent_class(name)
    return kind(chosen(kind, robot, quality, overrides, shifts), observation_dim, action_dim)


def _entries() -> dict[str, _Entry]:
    """Return all agents by name; who is first has the name: this package, then others, then this program."""
    found: dict[str, _Entry] = {}
    own = (_Entry(name, path, "offdyn") for name, path in AGENTS.items())
    for entry in (*own, *_outside(), *_REGISTERED.values()):
        found.setdefault(entry.name, entry)
    return found


@cache
def _outside() -> tuple[_Entry, ...]:
    """Return what other packages name."""
    points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    return tuple(
        _Entry(point.name, point.value, f"package {(point.dist and point.dist.name) or 'without a name'}")
        for point in points
    )


def _given(agent: Any, name: str | None) -> _Entry:
    """Return what `register` was given, checked as far as it need not be imported."""
    if isinstance(agent, str):
        entry = _Entry(agent if name is None else name, agent, PROGRAM)
        _check_path(entry)
        return entry if name is not None else replace(entry, name=_sound(entry, _load(entry)).name)
    called = getattr(agent, "__qualname__", None) or beginning(repr(agent), 80)
    entry = _Entry(called, f"{getattr(agent, '__module__', '')}:{called}", PROGRAM)
    found = _sound(entry, agent)
    entry = replace(entry, name=found.name if name is None else name, found=found)
    _check_class_says(entry, found)
    return entry


def _check_spelling(entry: _Entry) -> None:
    if not _NAME.fullmatch(entry.name):
        raise OffDynError(
            f"{entry.label}: this is no name; up to 64 lower-case letters, digits, hyphens and underscores are "
            "allowed, a letter or digit first"
        )


def _check_path(entry: _Entry) -> None:
    if not _PATH.fullmatch(entry.path):
        raise OffDynError(f"{entry.label}: '{beginning(entry.path, 80)}' is no path; module:Class is allowed")


def _check_alone(entry: _Entry) -> None:
    """Refuse a name that several packages claim: which of them is meant, nobody knows."""
    claims = {(other.path, other.origin) for other in _outside() if other.name == entry.name}
    if entry.found is None and len(claims) > 1:
        origins = " and ".join(sorted(origin for _, origin in claims))
        raise OffDynError(f"agent '{entry.name}' is claimed by {origins}; only one of them may be installed")


def _check_class_says(entry: _Entry, found: type[Agent]) -> None:
    """Refuse a class of another name: run folders and checkpoints bear the name that the class has."""
    if found.name != entry.name:
        raise OffDynError(f"{entry.label}: its class says name = '{beginning(found.name, 80)}'; both must be the same")


def _sound(entry: _Entry, found: Any) -> type[Agent]:
    """Return an agent's class if it keeps the contract, as far as a class shows.

    Raises:
        OffDynError: It does not.
    """
    from offdyn_agents.engine.agent import Agent

    if not isinstance(found, type) or not issubclass(found, Agent):
        raise OffDynError(
            f"{entry.label}: {beginning(repr(found), 80)} is no class that inherits from "
            "offdyn_agents.engine.agent.Agent"
        )
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise OffDynError(f"{entry.label}: class {found.__name__} lacks {missing}")
    for attribute, kind in (("name", str), ("settings_class", type), ("metrics", tuple)):
        if not isinstance(getattr(found, attribute, None), kind):
            raise OffDynError(f"{entry.label}: class {found.__name__} has no {attribute} that is a {kind.__name__}")
    if not dataclasses.is_dataclass(found.settings_class):
        raise OffDynError(f"{entry.label}: settings_class {found.settings_class.__name__} is no dataclass")
    return found


def _load(entry: _Entry) -> Any:
    # First: where torch is not installed, that is what is missing, whoever's agent it is.
    import_module("offdyn_agents.engine.agent")
    _check_path(entry)
    module, _, attribute = entry.path.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except Exception as error:
        # Whatever another package raises while it is imported: its agent cannot be used, and that is all.
        raise OffDynError(
            f"{entry.label} cannot be loaded from {entry.path}: {type(error).__name__}: {beginning(error, 200)}"
        ) from error
