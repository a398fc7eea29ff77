"""The four walkers of the suite: base model, observation, reward, termination and reset, each defined once.

Physics and observations are those of D4RL and ODRL, so that data and scores can be compared (Gymnasium's v5 classes
with the settings in `Walker.stock_kwargs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError
from offdyn_envs.robots.base import Bools, Floats, Robot, State

__all__ = ["WALKERS", "RewardParts", "Walker", "as_walker"]


class RewardParts(NamedTuple):
    """What a reward is made of, each [...].

    Attributes:
        forward: Forward speed, m/s.
        cost: Cost of the action, 0 or above.
        alive: Bonus of a step that ends healthy; None for a robot that never terminates.
    """

    forward: Floats
    cost: Floats
    alive: Floats | None

    @property
    def total(self) -> NDArray[np.float64]:
        """The reward, [...]."""
        return self.forward - self.cost if self.alive is None else self.forward + self.alive - self.cost


@dataclass(frozen=True, kw_only=True)
class Walker(Robot):
    """A robot that walks along a line or about a plane and may fall.

    Attributes:
        velocity_clip: Bound of the observed velocities; infinite where they are not clipped.
        control_cost: Weight of the squared action in the reward.
        alive_bonus: Reward of a step that ends healthy; 0 for a robot that never terminates.
        z_range: Healthy height, metres; None where the robot never terminates.
        z_open: The ends of `z_range` are themselves unhealthy.
        angle_range: Healthy torso pitch, radians, ends unhealthy.
        state_limit: Bound of every state entry but x and z, exclusive (Hopper).
        normal_velocity_noise: Reset velocities are normal rather than uniform.
        stock_kwargs: Arguments that set the stock v5 class to these physics.
    """

    velocity_clip: float
    control_cost: float
    alive_bonus: float
    z_range: tuple[float, float] | None
    z_open: bool
    angle_range: tuple[float, float] | None
    state_limit: float
    normal_velocity_noise: bool
    stock_kwargs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    @property
    def walks_in_plane(self) -> bool:
        """Whether the robot walks about a plane, as Ant does, and not along a line."""
        return self.skipped_qpos == 2

    @property
    def no_reward(self) -> RewardParts:
        """The parts of a reward of 0, as before the first step."""
        zero = np.zeros(())
        return RewardParts(zero, zero, None if self.z_range is None else zero)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled; a read-only mapping cannot be."""
        return {**vars(self), "stock_kwargs": dict(self.stock_kwargs)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what was pickled."""
        vars(self).update(state, stock_kwargs=MappingProxyType(state["stock_kwargs"]))

    @property
    def height_index(self) -> int:
        """Position of the height in qpos: 2 for the free-floating Ant, 1 for the planar robots."""
        return self.skipped_qpos

    def observe(self, qpos: Floats, qvel: Floats) -> NDArray[np.float64]:
        """Return the observation of a state.

        Args:
            qpos: Positions, [..., nq].
            qvel: Velocities, [..., nv].

        Returns:
            Observations, [..., |S|].
        """
        if isfinite(self.velocity_clip):
            qvel = np.clip(qvel, -self.velocity_clip, self.velocity_clip)
        return super().observe(qpos, qvel)

    def reward(self, before: State, after: State, action: Floats) -> NDArray[np.float64]:
        """Return the reward of a step, see `Robot.reward`."""
        return self.reward_parts(before, after, action).total

    def judge(self, before: State, after: State, action: Floats) -> tuple[NDArray[np.float64], Bools]:
        """Return the reward of a step and whether it ends the episode, see `Robot.judge`."""
        fallen = self.terminated(*after)
        return self.reward_parts(before, after, action, fallen).total, fallen

    def reward_parts(self, before: State, after: State, action: Floats, terminated: Bools | None = None) -> RewardParts:
        """Return what the reward of a step is made of.

        The alive bonus is paid for steps that end healthy, as in Gymnasium v5; D4RL and ODRL also pay it on the step
        that falls (one unit per terminated episode). Forward speed is the displacement of qpos[0] over dt on all
        robots; stock Ant reads a body position that lags one physics step.

        Args:
            before: As in `Robot.reward`.
            after: Likewise.
            action: Likewise.
            terminated: What `terminated(*after)` says, [...], where the caller has it already.

        Returns:
            The parts, each [...].
        """
        forward = (after.qpos[..., 0] - before.qpos[..., 0]) / self.dt
        cost = self.control_cost * np.sum(np.square(action), axis=-1)
        if self.z_range is None:
            return RewardParts(forward, cost, None)
        fallen = self.terminated(*after) if terminated is None else terminated
        return RewardParts(forward, cost, np.logical_not(fallen) * self.alive_bonus)

    def terminated(self, qpos: Floats, qvel: Floats) -> Bools:
        """Say which states end an episode.

        Args:
            qpos: Positions, [..., nq].
            qvel: Velocities, [..., nv].

        Returns:
            True where the robot has fallen, [...].
        """
        if self.z_range is None:
            return np.zeros(qpos.shape[:-1], dtype=bool)
        height = qpos[..., self.height_index]
        angle = qpos[..., self.height_index + 1]
        healthy = self._healthy_pose(height, angle)
        if isfinite(self.state_limit):
            for part in (qpos[..., 2:], qvel):
                healthy &= (np.abs(part) < self.state_limit).all(axis=-1)
        elif self.angle_range is None:  # Ant: stock asks for finite numbers instead of an angle.
            healthy &= np.isfinite(qpos).all(axis=-1) & np.isfinite(qvel).all(axis=-1)
        return ~healthy

    def terminated_from_observation(self, observation: Floats) -> Bools:
        """Say which observations end an episode, for agents that roll out a learned model.

        Height and angle are exact. Hopper's bound on every state entry is tested on what is observed: clipped
        velocities can never reach it, so states that only that bound ends are missed (contract: State, observation).

        Args:
            observation: Observations, [..., |S|].

        Returns:
            True where the robot has fallen, [...].
        """
        if self.z_range is None:
            return np.zeros(observation.shape[:-1], dtype=bool)
        healthy = self._healthy_pose(observation[..., 0], observation[..., 1])
        if isfinite(self.state_limit):
            rest = observation[..., 1:]
            healthy &= (np.abs(rest) < self.state_limit).all(axis=-1)
        elif self.angle_range is None:
            healthy &= np.isfinite(observation).all(axis=-1)
        return ~healthy

    def sample_reset(self, rng: np.random.Generator, init_qpos: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Draw the first state of an episode, with Gymnasium's own draws in their order.

        Args:
            rng: The environment's generator.
            init_qpos: Rest position of the compiled model, [nq].

        Returns:
            qpos [nq] and qvel [nv].
        """
        if not self.normal_velocity_noise:
            return super().sample_reset(rng, init_qpos)
        qpos = init_qpos + rng.uniform(low=-self.reset_noise, high=self.reset_noise, size=self.nq)
        return qpos, self.reset_noise * rng.standard_normal(self.nv)

    def _healthy_pose(self, height: Floats, angle: Floats) -> Bools:
        assert self.z_range is not None
        low, high = self.z_range
        healthy = (low < height) & (height < high) if self.z_open else (low <= height) & (height <= high)
        if self.angle_range is not None:
            healthy &= (self.angle_range[0] < angle) & (angle < self.angle_range[1])
        return np.asarray(healthy)


_INFINITY = float("inf")

WALKERS: Mapping[str, Walker] = MappingProxyType(
    {
        robot.name: robot
        for robot in (
            Walker(
                name="halfcheetah",
                title="HalfCheetah",
                mjcf="half_cheetah.xml",
                observation_dim=17,
                action_dim=6,
                nq=9,
                nv=9,
                frame_skip=5,
                timestep=0.01,
                skipped_qpos=1,
                velocity_clip=_INFINITY,
                control_cost=0.1,
                alive_bonus=0.0,
                z_range=None,
                z_open=False,
                angle_range=None,
                state_limit=_INFINITY,
                reset_noise=0.1,
                normal_velocity_noise=True,
            ),
            Walker(
                name="hopper",
                title="Hopper",
                mjcf="hopper.xml",
                observation_dim=11,
                action_dim=3,
                nq=6,
                nv=6,
                frame_skip=4,
                timestep=0.002,
                skipped_qpos=1,
                velocity_clip=10.0,
                control_cost=1e-3,
                alive_bonus=1.0,
                z_range=(0.7, _INFINITY),
                z_open=True,
                angle_range=(-0.2, 0.2),
                state_limit=100.0,
                reset_noise=5e-3,
                normal_velocity_noise=False,
            ),
            Walker(
                name="walker2d",
                title="Walker2d",
                mjcf="walker2d.xml",
                observation_dim=17,
                action_dim=6,
                nq=9,
                nv=9,
                frame_skip=4,
                timestep=0.002,
                skipped_qpos=1,
                velocity_clip=10.0,
                control_cost=1e-3,
                alive_bonus=1.0,
                z_range=(0.8, 2.0),
                z_open=True,
                angle_range=(-1.0, 1.0),
                state_limit=_INFINITY,
                reset_noise=5e-3,
                normal_velocity_noise=False,
                # The class's own default, walker2d_v5.xml, changed the left foot's friction.
                stock_kwargs=MappingProxyType({"xml_file": "walker2d.xml"}),
            ),
            Walker(
                name="ant",
                title="Ant",
                mjcf="ant.xml",
                observation_dim=27,
                action_dim=8,
                nq=15,
                nv=14,
                frame_skip=5,
                timestep=0.01,
                skipped_qpos=2,
                velocity_clip=_INFINITY,
                control_cost=0.5,
                alive_bonus=1.0,
                z_range=(0.2, 1.0),
                z_open=False,
                angle_range=None,
                state_limit=_INFINITY,
                reset_noise=0.1,
                normal_velocity_noise=True,
                stock_kwargs=MappingProxyType({"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0}),
            ),
        )
    }
)


def as_walker(robot: Robot, what: str) -> Walker:
    """Return a robot as one of the suite's walkers, for what only they have.

    Args:
        robot: The robot.
        what: What needs a walker, for the message.

    Raises:
        OffDynError: It is none.
    """
    if not isinstance(robot, Walker) or robot.name not in WALKERS:
        raise OffDynError(f"{what} needs a walker of the suite ({', '.join(WALKERS)}), which '{robot.name}' is not")
    return robot
