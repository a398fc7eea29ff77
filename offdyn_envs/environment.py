"""The scalar environments by the titles of their robots: for the walkers Gymnasium's own v5 classes."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import numpy as np
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv
from numpy.typing import NDArray

from offdyn_envs.robots import ROBOTS, WALKERS, Hand, RewardParts, Robot, State, Walker
from offdyn_envs.robots.base import Floats
from offdyn_envs.robots.registry import find_others
from offdyn_envs.scalar.hand import ShiftedHand
from offdyn_envs.scalar.robot import OwnRobot, ShiftedRobot

__all__ = ["Ant", "HalfCheetah", "Hopper", "ShiftedRobot", "Walker2d"]


class ShiftedWalker(ShiftedRobot):
    """A walker whose dynamics may be shifted, on Gymnasium's class of it; arguments as for `ShiftedRobot`."""

    robot: Walker  # pyright: ignore[reportIncompatibleVariableOverride] every class has one of its own

    def _stock_kwargs(self) -> dict[str, Any]:
        return dict(self.robot.stock_kwargs)

    def _judge(self, before: State, action: NDArray[Any]) -> tuple[float, bool, dict[str, Any]]:
        after = self._state()
        terminated = self.robot.terminated(*after)
        parts = self.robot.reward_parts(before, after, action, terminated)
        return float(parts.total), bool(terminated), self._info(before.qpos, parts)

    def _get_reset_info(self) -> dict[str, Any]:
        return self._info(self.data.qpos, self.robot.no_reward) | {"diverged": False}

    def _info(self, before: Floats, parts: RewardParts) -> dict[str, Any]:
        """Return what v5 returns after a step; the same names after a reset."""
        qpos, dt = self.data.qpos, self.robot.dt
        info = {"x_position": float(qpos[0]), "x_velocity": float((qpos[0] - before[0]) / dt)}
        if self.robot.walks_in_plane:
            info |= {"y_position": float(qpos[1]), "y_velocity": float((qpos[1] - before[1]) / dt)}
            info |= {"distance_from_origin": float(np.linalg.norm(qpos[:2])), "reward_contact": 0.0}
        elif parts.alive is not None:
            info["z_distance_from_origin"] = float(qpos[1] - self.init_qpos[1])
        if parts.alive is not None:
            info["reward_survive"] = float(parts.alive)
        return info | {"reward_forward": float(parts.forward), "reward_ctrl": -float(parts.cost)}


class HalfCheetah(ShiftedWalker, HalfCheetahEnv):  # pyright: ignore[reportIncompatibleMethodOverride] stock returns no True
    """HalfCheetah: 17 observations, 6 actions, 0.05 s a step, never terminates."""

    robot = WALKERS["halfcheetah"]


class Hopper(ShiftedWalker, HopperEnv):
    """Hopper: 11 observations (velocities clipped to +-10), 3 actions, 0.008 s a step, ends when it falls."""

    robot = WALKERS["hopper"]


class Walker2d(ShiftedWalker, Walker2dEnv):
    """Walker2d: 17 observations (velocities clipped to +-10), 6 actions, 0.008 s a step, ends when it falls."""

    robot = WALKERS["walker2d"]


class Ant(ShiftedWalker, AntEnv):
    """Ant: 27 observations (no contact forces), 8 actions, 0.05 s a step, ends when it falls or leaps too high."""

    robot = WALKERS["ant"]


@cache
def _own(robot: Robot) -> type[OwnRobot]:
    inside: dict[str, Any] = {
        "robot": robot,
        "__module__": __name__,
        "__qualname__": robot.title,
        "__doc__": type(robot).__doc__,
    }
    inside["metadata"] = {"render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"]}
    kind = ShiftedHand if isinstance(robot, Hand) else OwnRobot
    return cast("type[OwnRobot]", type(robot.title, (kind, MujocoEnv), inside))


def __getattr__(name: str) -> type[OwnRobot]:
    """Return the environment of a registered robot by its title: a class of this module, as the walkers' are."""
    if not name.startswith("_"):
        find_others()
        for robot in ROBOTS.values():
            if robot.title == name and robot.name not in WALKERS:
                return _own(robot)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
