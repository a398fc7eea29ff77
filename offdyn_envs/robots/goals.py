"""What a reset writes into the model of a robot: where targets are, for instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError, unknown

if TYPE_CHECKING:
    import mujoco

__all__ = ["GoalPart", "goal_size", "read_goal", "write_goal"]

_WIDTHS = {"body_pos": 3, "body_quat": 4, "site_pos": 3, "site_quat": 4}


@dataclass(frozen=True)
class GoalPart:
    """A part of the goal: a field of the model that reset draws anew.

    Attributes:
        field: Name of the field, "body_pos", "body_quat", "site_pos" or "site_quat".
        element: Name of the body or site.
        words: What it is.

    Examples:
        >>> import offdyn_envs
        >>> offdyn_envs.GoalPart("body_pos", "target", "where to reach")
        GoalPart(field='body_pos', element='target', words='where to reach')
    """

    field: str
    element: str
    words: str = ""


def goal_size(parts: Sequence[GoalPart]) -> int:
    """Return how many numbers a goal has."""
    return sum(_WIDTHS[part.field] for part in parts)


def read_goal(model: mujoco.MjModel, parts: Sequence[GoalPart]) -> NDArray[np.float64]:
    """Return the goal that a model holds, [G]."""
    return np.concatenate([np.zeros(0), *(_row(model, part) for part in parts)])


def write_goal(model: mujoco.MjModel, parts: Sequence[GoalPart], goal: NDArray[np.floating[Any]]) -> None:
    """Write a goal [G] into a model.

    Raises:
        OffDynError: No such field or element.
    """
    begin = 0
    for part in parts:
        row = _row(model, part)
        row[:] = goal[begin : begin + row.size]
        begin += row.size


def _row(model: mujoco.MjModel, part: GoalPart) -> NDArray[np.float64]:
    if part.field not in _WIDTHS:
        raise unknown("field of a goal", part.field, _WIDTHS)
    kind = part.field.partition("_")[0]
    try:
        index = getattr(model, kind)(part.element).id
    except KeyError:
        raise OffDynError(f"goal: the model has no {kind} '{part.element}'") from None
    return getattr(model, part.field)[index]
