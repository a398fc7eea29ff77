"""Actions that arrive late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError, shown
from offdyn_envs.shifts.base import BaseShift, Shift, whole
from offdyn_envs.shifts.registry import register_shift

if TYPE_CHECKING:
    import mujoco

    from offdyn_envs.robots import Robot

__all__ = ["ActionQueue", "Delay", "delay_of"]

LONGEST = 50
"""Longest delay, of one shift and of all in a list together, in control steps."""


@register_shift
@dataclass(frozen=True)
class Delay(BaseShift):
    """Let actions reach the motors whole control steps later; several delays add up.

    Until the first action of an episode arrives the motors get what action 0 stands for, the middle of their control
    ranges. The reward counts the cost of the action that is
    sent, not of the one that arrives, so that it stays a function of the transition. The queue of actions under way is
    part of the state: see `queue` of the environments.

    Attributes:
        steps: By how many control steps, 0 to 50; 0 is nominal.

    Examples:
        >>> import offdyn_envs
        >>> offdyn_envs.Delay(2).describe(offdyn_envs.get_robot("hopper"))
        'actions arrive 2 control steps late (0.016 s)'
    """

    steps: int
    kind: ClassVar[str] = "delay"
    amount: ClassVar[str] = "steps"
    own_robots: ClassVar[bool] = True
    of_model: ClassVar[bool] = False

    def __post_init__(self) -> None:
        steps = whole(self.steps)
        if steps is None or steps > LONGEST:
            raise OffDynError(
                f"delay shift: steps must be a whole number from 0 to {LONGEST} control steps, got {shown(self.steps)}"
            )
        object.__setattr__(self, "steps", steps)

    @classmethod
    def check_together(cls, shifts: Sequence[Delay], robot: Robot) -> None:
        """Raise where several delays add up to more than one may be."""
        if (steps := delay_of(shifts)) > LONGEST:
            raise OffDynError(f"delay shifts: all steps together must be at most {LONGEST}, got {steps}")

    def apply(self, spec: mujoco.MjSpec, robot: Robot, profile: str) -> None:
        """Leave the model as it is: the environment delays the actions."""

    def describe(self, robot: Robot) -> str:
        """Say in words what changes."""
        return f"actions arrive {self.steps} control steps late ({self.steps * robot.dt:g} s)"


def delay_of(shifts: Sequence[Shift]) -> int:
    """Return by how many control steps shifts delay actions together."""
    return sum(shift.steps for shift in shifts if isinstance(shift, Delay))


class ActionQueue:
    """Actions that have been sent to each row's motors, for as long as the longest delay needs them.

    Attributes:
        sent: The last K actions of each row, oldest first, [N, K, |A|]; K is the longest delay of any row.
    """

    def __init__(self, delays: Sequence[int], size: int) -> None:
        """Start with motors that got action 0.

        Args:
            delays: Control steps by which each row's actions are late, N.
            size: |A|.
        """
        self._delays, self._rows = np.array(delays, dtype=np.intp), np.arange(len(delays))
        self.sent = np.zeros((len(delays), max(delays), size))

    def __len__(self) -> int:
        """Return K."""
        return self.sent.shape[1]

    def send(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Put actions into the queue and return those that arrive.

        Args:
            actions: What each row is told to do, [N, |A|].

        Returns:
            What its motors get, [N, |A|].
        """
        if not len(self):
            return actions
        under_way = np.concatenate([self.sent, actions[:, None]], axis=1)
        self.sent = under_way[:, 1:]
        return under_way[self._rows, under_way.shape[1] - 1 - self._delays]

    def clear(self, rows: NDArray[np.bool_] | slice = slice(None)) -> None:
        """Start episodes: nothing has been sent to the motors of some rows."""
        self.sent[rows] = 0.0
