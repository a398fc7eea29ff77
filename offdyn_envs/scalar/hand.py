"""The tasks of the Adroit hand as scalar environments: rewards to choose from, and states that can be taken and set.

The state is Markov in (qpos, qvel, goal pose): the goals live in the model and are drawn anew at reset, and the
solver's warm start is zeroed before every control step. Poses in observations and rewards are those of one physics step
(2 ms) before qpos, as in gymnasium-robotics: a step from a restored state repeats bit for bit, while the observation
that `set_state` leads to is up to date and so differs from the one that the step before had returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError, shown, unknown
from offdyn_envs.robots import Hand, State
from offdyn_envs.robots.base import GoalState
from offdyn_envs.robots.goals import goal_size
from offdyn_envs.robots.hands import STOCK_APPROACH
from offdyn_envs.scalar.arguments import finite_numbers
from offdyn_envs.scalar.robot import OwnRobot

__all__ = ["REWARDS", "ShiftedHand"]

REWARDS = ("dense", "sparse", "stock")
"""Reward of an environment: D4RL's, 10 for success and -0.1 otherwise, or the flipped sign of gymnasium-robotics."""
_SUCCESS, _FAILURE = 10.0, -0.1

_CAMERAS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"pen": (1.0, -45.0), "door": (1.5, 90.0), "hammer": (2.0, 45.0), "relocate": (1.5, 90.0)}
)
"""Distance in m and azimuth in degrees of gymnasium-robotics' cameras."""


class ShiftedHand(OwnRobot):
    """A task of the Adroit hand under shifts, with gymnasium-robotics' observations and actions.

    Args:
        reward: One of `REWARDS`.
        terminate_on_drop: Whether a pen below 0.075 m ends the episode, as in D4RL; None means yes for pen. The other
            tasks never terminate.
        others: Arguments of `ShiftedRobot`.

    Raises:
        OffDynError: An unknown name, parameter or value.
    """

    robot: Hand  # pyright: ignore[reportIncompatibleVariableOverride] every class has one of its own
    parameters = (*OwnRobot.parameters, "reward", "terminate_on_drop")
    reset_options = (*OwnRobot.reset_options, "state")

    def __init__(self, *, reward: str = "dense", terminate_on_drop: bool | None = None, **others: Any) -> None:
        if not isinstance(reward, str) or reward not in REWARDS:
            raise unknown("reward", reward, REWARDS)
        self.reward = reward
        self.terminate_on_drop = self._ends_on_drop(terminate_on_drop)
        self._asked: Mapping[str, Any] = {}
        super().__init__(**others)
        self._ezpickle_kwargs |= {"reward": reward, "terminate_on_drop": terminate_on_drop}

    @property
    def is_plain(self) -> bool:
        """See `ShiftedRobot.is_plain`."""
        return super().is_plain and self.reward == "dense" and self.terminate_on_drop is self.robot.drops

    @property
    def gymnasium_robotics_version(self) -> str:
        """Version of the package that the model comes from."""
        return version("gymnasium-robotics")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Start an episode: the goal is drawn anew, qpos and qvel are always the same.

        Args:
            seed: As for `ShiftedRobot`.
            options: `{"state": (qpos, qvel, goal)}` starts in that state; others as for `ShiftedRobot`.

        Returns:
            The observation [|S|] and infos.

        Raises:
            OffDynError: An unknown option, or a state that does not fit.
        """
        self._asked = options or {}
        return super().reset(seed=seed, options=options)

    def _begin(self) -> None:
        super()._begin()
        if "state" in self._asked:
            self.set_state(*_as_state(self._asked["state"]))

    def get_state(self) -> GoalState:
        """Return all that the next step depends on beside the action and what is under way of a delay, as copies.

        Its goal is what the last reset drew: a quaternion [4] for pen, a position [3] for door and hammer, two
        positions [6] for relocate.
        """
        return GoalState(self.data.qpos.copy(), self.data.qvel.copy(), self.goal[: goal_size(self.robot.goal)])

    def set_state(
        self, qpos: NDArray[np.float64], qvel: NDArray[np.float64], goal: NDArray[np.float64] | None = None
    ) -> None:
        """Set the state; the steps that follow are those that followed it before, bit for bit.

        Args:
            qpos: Positions, [nq].
            qvel: Velocities, [nv].
            goal: Goal pose, see `get_state`; None leaves it.

        Raises:
            OffDynError: A wrong shape, or values that are not finite.
        """
        positions = finite_numbers("qpos", qpos, (self.robot.nq,))
        velocities = finite_numbers("qvel", qvel, (self.robot.nv,))
        if goal is not None:
            self.goal = finite_numbers("goal", goal, (goal_size(self.robot.goal),))
        super().set_state(positions, velocities)

    def _ends_on_drop(self, value: object) -> bool:
        if value is not None and not isinstance(value, bool):
            raise OffDynError(f"terminate_on_drop must be true, false or left out, got {shown(value)}")
        if value and not self.robot.drops:
            raise OffDynError(f"terminate_on_drop: only pen has something to drop; {self.robot.task} never terminates")
        return self.robot.drops if value is None else value

    def _judge(self, before: State, action: NDArray[Any]) -> tuple[float, bool, dict[str, Any]]:
        reward, terminated, info = super()._judge(before, action)
        if self.reward == "sparse":
            reward = _SUCCESS if info["success"] else _FAILURE
        elif self.reward == "stock":
            after = GoalState(self.data.qpos, self.data.qvel, self._goal)
            reward = float(self.robot.outcome(after, STOCK_APPROACH).dense)
        return reward, terminated and self.terminate_on_drop, info

    def _stock_kwargs(self) -> dict[str, Any]:
        distance, azimuth = _CAMERAS[self.robot.task]
        return super()._stock_kwargs() | {"default_camera_config": {"distance": distance, "azimuth": azimuth}}


def _as_state(value: object) -> tuple[Any, Any, Any]:
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 3:
        return value[0], value[1], value[2]
    raise OffDynError(f"reset option 'state' must be (qpos, qvel, goal), got {shown(value)}")
