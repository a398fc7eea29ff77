"""The tables of the Adroit hand: tasks, named dynamics and environment ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from offdyn_envs.adroit.shifts import HAND_LEVELS, BrokenJoint, HandShift, ShrinkFinger
from offdyn_envs.errors import unknown
from offdyn_envs.robots.goals import GoalPart

__all__ = [
    "HAND_DYNAMICS",
    "HAND_STEPS",
    "HAND_TASKS",
    "HandTask",
    "adroit_env_ids",
    "get_hand_dynamics",
    "get_hand_task",
]

HAND_STEPS = 200
"""Steps per episode; the limit truncates."""


@dataclass(frozen=True)
class HandTask:
    """A task of the hand.

    Attributes:
        name: For instance "pen".
        title: Class and stem of the environment ids, for instance "AdroitPen".
        xml_file: Model file of gymnasium-robotics.
        observation_dim: |S|.
        action_dim: |A|.
        goal: What reset draws anew, beside qpos and qvel the third part of the state.
        drops: Whether there is something to drop that ends the episode.
    """

    name: str
    title: str
    xml_file: str
    observation_dim: int
    action_dim: int
    goal: tuple[GoalPart, ...]
    drops: bool = False


def _task(name: str, observation_dim: int, action_dim: int, *goal: GoalPart, drops: bool = False) -> HandTask:
    title = f"Adroit{name.capitalize()}"
    return HandTask(name, title, f"adroit_{name}.xml", observation_dim, action_dim, goal, drops)


HAND_TASKS: Mapping[str, HandTask] = MappingProxyType(
    {
        task.name: task
        for task in (
            _task("pen", 45, 24, GoalPart("body_quat", "target", "orientation of the target pen"), drops=True),
            _task("door", 39, 28, GoalPart("body_pos", "frame", "position of the door")),
            _task("hammer", 46, 26, GoalPart("body_pos", "nail_board", "position of the nail's board")),
            _task(
                "relocate",
                39,
                30,
                GoalPart("body_pos", "Object", "where the ball starts"),
                GoalPart("site_pos", "target", "where the ball shall go"),
            ),
        )
    }
)
"""The tasks by name."""

HAND_DYNAMICS: Mapping[str, tuple[HandShift, ...]] = MappingProxyType(
    {
        "nominal": (),
        **{
            f"{kind.kind}-{level}": (kind(scale),)
            for kind in (BrokenJoint, ShrinkFinger)
            for level, scale in HAND_LEVELS.items()
        },
    }
)
"""Named dynamics of every task: the slug and its shifts."""


def get_hand_task(name: str) -> HandTask:
    """Return a task of the hand by name.

    Raises:
        OffDynError: No such task.
    """
    task = HAND_TASKS.get(name)
    if task is None:
        raise unknown("Adroit task", name, HAND_TASKS)
    return task


def get_hand_dynamics(slug: str) -> tuple[HandShift, ...]:
    """Return the shifts of a named dynamics of the hand.

    Args:
        slug: For instance "nominal" or "shrink-finger-hard".

    Returns:
        The shifts, in order.

    Raises:
        OffDynError: No such dynamics; the message names the nearest.
    """
    shifts = HAND_DYNAMICS.get(slug) if isinstance(slug, str) else None
    if shifts is None:
        raise unknown("dynamics of the Adroit hand", slug, HAND_DYNAMICS)
    return shifts


def adroit_env_ids() -> dict[str, tuple[str, str]]:
    """Return every registered Adroit environment id with the name of its task and its dynamics slug."""
    return {
        f"OffDyn/{task.title}-v0" if slug == "nominal" else f"OffDyn/{task.title}-{slug}-v0": (task.name, slug)
        for task in HAND_TASKS.values()
        for slug in HAND_DYNAMICS
    }
