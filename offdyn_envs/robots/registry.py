"""The robots that there are: the four walkers, the tasks of the Adroit hand, other packages' and a program's.

The suite's own eight are tables, so that nothing is compiled, and no extra needed, until one of them is used; a test
completes each from its model and finds the same robot. All others come through `register_robot`, which allows no
hyphens in names, as the hand's have.

Another package names its robots in the entry-point group `offdyn.robots`, as `name = "module:THING"`, where THING is a
robot or a function without arguments that registers some, with their dynamics and tasks. They are looked for when a
name is not known yet, and where all names are listed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError, beginning, unknown
from offdyn_envs.robots.base import Robot
from offdyn_envs.robots.completing import checked, complete
from offdyn_envs.robots.hands import HANDS
from offdyn_envs.robots.walkers import WALKERS

__all__ = [
    "GROUP",
    "ROBOTS",
    "Policy",
    "find_others",
    "get_robot",
    "is_robot",
    "known_robot",
    "register_robot",
    "scripted_policies",
]

Policy = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[Any]]
"""Maps observations [B, |S|] and standard normal noise [B, |A|] to actions [B, |A|]."""

GROUP = "offdyn.robots"
"""The entry-point group of other packages' robots."""

_log = logging.getLogger("offdyn.robots")
_ROBOTS: dict[str, Robot] = {**WALKERS, **HANDS}
_POLICIES: dict[str, Mapping[str, Policy]] = {}

ROBOTS: Mapping[str, Robot] = MappingProxyType(_ROBOTS)
"""The robots known by now, by name; `register_robot` adds to them."""

_QUALITIES = ("medium", "expert")
_ENVIRONMENTS = "offdyn_envs.environment"


def register_robot(robot: Robot, behaviours: Mapping[str, Policy] | None = None) -> Robot:
    """Add a robot: its environments, and its name wherever one is taken.

    Args:
        robot: The robot, see `offdyn_envs.Robot`. It may come again, as it does where a notebook's cell runs twice:
            the same one changes nothing, and one of a class with the same name in the same module replaces it, with
            its model file read anew. Environments that were made before keep their model; where a schedule or a local
            shift then asks for another one of it they say that they have to be made anew.
        behaviours: Scripted policies that collect its datasets, by quality: "medium", "expert". Each maps observations
            [B, |S|] and standard normal noise [B, |A|], both float32, to actions [B, |A|], row by row.

    Returns:
        The robot with what was found in its model: sizes, timestep and control ranges.

    Raises:
        OffDynError: The name is taken, the model does not compile or cannot be simulated, or one of the robot's
            functions fails, or returns another shape than it should or numbers that are not finite.
    """
    if not isinstance(robot, Robot):
        raise OffDynError(f"register_robot: an offdyn_envs.Robot is needed, got {beginning(repr(robot), 80)}")
    robot = checked(robot)
    _check_free(robot)
    policies = _checked(robot, {} if behaviours is None else behaviours)
    whole = complete(robot)
    _ROBOTS[robot.name], _POLICIES[robot.name] = whole, policies
    slugs = {spec.id: spec.kwargs["dynamics"] for spec in gymnasium.registry.values() if _is_of(spec, whole)}
    for env_id, slug in ({_env_id(whole): "nominal"} | slugs).items():
        register_environment(whole, slug, env_id)
    return whole


def _check_free(robot: Robot) -> None:
    """Refuse names that are another robot's, and another title than before."""
    taken = _ROBOTS.get(robot.name)
    if taken is not None and (robot.name in {**WALKERS, **HANDS} or _origin(taken) != _origin(robot)):
        raise OffDynError(f"robot '{robot.name}': the name is taken, by {'.'.join(_origin(taken))}")
    if taken is None and _env_id(robot) in gymnasium.registry:
        raise OffDynError(f"robot '{robot.name}': the title is taken, by the environment {_env_id(robot)}")
    if taken is not None and taken.title != robot.title:
        raise OffDynError(f"robot '{robot.name}': its title is {taken.title} in this process, got {robot.title}")


def _is_of(spec: EnvSpec, robot: Robot) -> bool:
    """Say whether an environment is one of a robot's own that has a name."""
    made = spec.entry_point == f"{_ENVIRONMENTS}:{robot.title}" and spec.id.startswith(f"OffDyn/{robot.title}-")
    return made and "dynamics" in spec.kwargs


def register_environment(robot: Robot, slug: str, env_id: str) -> None:
    """Tell Gymnasium of a robot's environment.

    Args:
        robot: The robot.
        slug: Its dynamics.
        env_id: The environment's id.
    """
    if env_id in gymnasium.registry:
        del gymnasium.registry[env_id]
    gymnasium.register(
        id=env_id,
        entry_point=f"{_ENVIRONMENTS}:{robot.title}",
        vector_entry_point=f"offdyn_envs.vector:{robot.name}",
        max_episode_steps=robot.max_episode_steps,
        kwargs={"dynamics": slug},
    )


def scripted_policies(robot: str) -> Mapping[str, Policy]:
    """Return the scripted policies of a robot by quality; none for most."""
    return _POLICIES.get(robot, {})


def get_robot(name: str) -> Robot:
    """Return a robot by name.

    Args:
        name: One of `ROBOTS`, for instance "hopper", or of another package.

    Returns:
        The robot.

    Raises:
        OffDynError: No such robot (the message names the nearest), or its package cannot be used.

    Examples:
        >>> import offdyn_envs
        >>> robot = offdyn_envs.get_robot("hopper")
        >>> robot.title, robot.observation_dim, robot.action_dim
        ('Hopper', 11, 3)
    """
    if not isinstance(name, str):
        raise unknown("robot", name, ROBOTS)
    if name not in _ROBOTS and name in (points := _points()):
        _load(name, points[name])
    if name not in _ROBOTS:
        raise unknown("robot", name, [*ROBOTS, *_points()])
    return _ROBOTS[name]


def is_robot(name: str) -> bool:
    """Return whether there is a robot of this name, here or in another package; nothing is loaded."""
    return name in _ROBOTS or name in _points()


def known_robot(robot: str | Robot) -> Robot:
    """Return a robot by name or as it is; one that lacks the numbers of its model as it was registered."""
    if isinstance(robot, Robot):
        return robot if robot.nq else get_robot(robot.name)
    return get_robot(robot)


@cache
def find_others() -> None:
    """Load the robots of all other packages, once; one that cannot be used does not hinder the others."""
    for name in _points():
        _try(name)


def _try(name: str) -> None:
    try:
        get_robot(name)
    except OffDynError as error:
        _log.warning("%s", error)


@cache
def _points() -> Mapping[str, str]:
    """Return what other packages name: robots and where they are."""
    return {point.name: point.value for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def _load(name: str, path: str) -> None:
    module, _, attribute = path.partition(":")
    try:
        thing = getattr(import_module(module), attribute)
        if isinstance(thing, Robot):
            register_robot(thing)
        else:
            thing()
    except OffDynError:
        raise
    except Exception as error:
        # Whatever another package raises: its robot cannot be used, and that is all.
        raise OffDynError(
            f"robot '{name}' cannot be loaded from {path}: {type(error).__name__}: {beginning(error, 200)}"
        ) from error
    if name not in _ROBOTS:
        raise OffDynError(f"robot '{name}': {path} registers no robot of this name")


def _checked(robot: Robot, behaviours: Mapping[str, Policy]) -> Mapping[str, Policy]:
    if not isinstance(behaviours, Mapping):
        raise OffDynError(
            f"robot '{robot.name}': behaviours must be policies by quality ({', '.join(_QUALITIES)}), got "
            f"{behaviours!r:.80}"
        )
    for quality, policy in behaviours.items():
        if quality not in _QUALITIES:
            raise unknown(f"quality of a scripted policy of robot '{robot.name}'", quality, _QUALITIES)
        if not callable(policy):
            raise OffDynError(f"robot '{robot.name}': its '{quality}' policy must be a function, got {policy!r:.80}")
    return dict(behaviours)


def _env_id(robot: Robot) -> str:
    return f"OffDyn/{robot.title}-v0"


def _origin(robot: Robot) -> tuple[str, str]:
    return type(robot).__module__, type(robot).__qualname__
