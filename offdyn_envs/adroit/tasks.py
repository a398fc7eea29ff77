"""The tables of the Adroit hand: tasks, named dynamics and environment ids."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from offdyn_envs.errors import unknown
from offdyn_envs.robots import HANDS, Hand
from offdyn_envs.shifts import Shift
from offdyn_envs.tasks import dynamics_of

__all__ = [
    "HAND_DYNAMICS",
    "HAND_STEPS",
    "HAND_TASKS",
    "adroit_env_ids",
    "get_hand_dynamics",
    "get_hand_task",
]

HAND_TASKS: Mapping[str, Hand] = MappingProxyType({hand.task: hand for hand in HANDS.values()})
"""The tasks by name."""

HAND_STEPS = next(iter(HANDS.values())).max_episode_steps
"""Steps per episode; the limit truncates."""

HAND_DYNAMICS = dynamics_of(next(iter(HANDS)))
"""Named dynamics of every task: the slug and its shifts."""


def get_hand_task(name: str) -> Hand:
    """Return a task of the hand by name.

    Raises:
        OffDynError: No such task.
    """
    task = HAND_TASKS.get(name)
    if task is None:
        raise unknown("Adroit task", name, HAND_TASKS)
    return task


def get_hand_dynamics(slug: str) -> tuple[Shift, ...]:
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
        f"OffDyn/{task.title}-v0" if slug == "nominal" else f"OffDyn/{task.title}-{slug}-v0": (task.task, slug)
        for task in HAND_TASKS.values()
        for slug in HAND_DYNAMICS
    }
