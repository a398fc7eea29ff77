"""From a name to the sides of a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from offdyn_envs.errors import OffDynError, spelled, unknown
from offdyn_envs.robots import ROBOTS, Robot
from offdyn_envs.tasks import get_dynamics, get_task, list_env_ids, list_tasks

__all__ = ["Side", "make_environment", "read_shifts", "robot_sides", "sides_of"]


@dataclass(frozen=True)
class Side:
    """One environment of a picture.

    Attributes:
        role: "source", "target" or nothing.
        body: Name of the robot.
        dynamics: Dynamics slug.
        extra: Shifts as plain JSON objects, appended to those of the dynamics.
    """

    role: str
    body: str
    dynamics: str
    extra: tuple[Mapping[str, Any], ...] = ()

    @property
    def robot(self) -> Robot:
        """The robot."""
        return ROBOTS[self.body]

    @property
    def title(self) -> str:
        """The robot's name as in environment ids, for instance "Hopper"."""
        return self.robot.title

    @property
    def label(self) -> str:
        """Dynamics and further shifts in a few words."""
        words = [self.dynamics] if self.dynamics != "nominal" or not self.extra else []
        return ", ".join(words + [_in_words(shift) for shift in self.extra])


def _in_words(shift: Mapping[str, Any]) -> str:
    values = [value for key, value in shift.items() if key != "kind"]
    parts = [" ".join(f"{k} {v}" for k, v in x.items()) if isinstance(x, Mapping) else str(x) for x in values]
    return " ".join([str(shift.get("kind", "?")), *parts])


def read_shifts(texts: Sequence[str]) -> tuple[Mapping[str, Any], ...]:
    """Read shifts given as JSON text.

    Args:
        texts: Each an object or a list of objects.

    Returns:
        The objects in order; what they hold is checked where the environment is made.

    Raises:
        OffDynError: No JSON, or neither an object nor a list.
    """
    shifts: list[Mapping[str, Any]] = []
    for text in texts:
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        items: list[Any] = value if isinstance(value, list) else [value]
        if not items or not all(isinstance(item, dict) for item in items):
            raise OffDynError(
                f'option --shift must be a JSON object such as \'{{"kind": "gravity", "scale": 0.5}}\', '
                f"or a list of them, got {text[:60]!r}"
            )
        shifts += items
    return tuple(shifts)


def sides_of(name: str, extra: Sequence[Mapping[str, Any]] = ()) -> tuple[Side, ...]:
    """Return what a name shows: source and target, or one side where they are the same.

    Args:
        name: An environment id, the same without "OffDyn/" and "-v0", or the name of a task.
        extra: Shifts appended to the target's.

    Returns:
        One or two sides.

    Raises:
        OffDynError: No such environment or task; the message names the nearest.
    """
    environments = _environments()
    found, named = spelled(name, environments), spelled(name, (task.name for task in list_tasks()))
    if found is not None:
        body, dynamics = environments[found]
        source, target = Side("source", body, "nominal"), Side("target", body, dynamics)
    elif named is not None:
        task = get_task(named)
        source, target = Side("source", task.robot, task.source.dynamics), Side("target", task.robot, task.scoring)
    else:
        short = [key.partition("/")[2].removesuffix("-v0") for key in environments]
        tasks = [task.name for task in list_tasks()]
        # The nearest name is looked for where the name seems to come from.
        raise unknown("environment or task", name, environments if "/" in name else [*short, *tasks])
    target = replace(target, extra=tuple(extra))
    same = source.dynamics == target.dynamics and not extra
    return (replace(target, role=""),) if same else (source, target)


def robot_sides(robot: str, slugs: Sequence[str]) -> tuple[Side, ...]:
    """Return sides without roles: a robot under several dynamics."""
    return tuple(Side("", robot, slug) for slug in slugs)


def _environments() -> dict[str, tuple[str, str]]:
    return {name: (robot.name, slug) for name, (robot, slug) in list_env_ids().items()}


def make_environment(side: Side) -> Any:
    """Return a side's environment, without time limit or other wrappers.

    Args:
        side: The side.

    Returns:
        A scalar MuJoCo environment.

    Raises:
        OffDynError: Shifts that do not fit, or a missing extra.
    """
    from offdyn_envs import environment

    get_dynamics(side.body, side.dynamics)
    return getattr(environment, side.robot.title)(dynamics=side.dynamics, shifts=list(side.extra) or None)
