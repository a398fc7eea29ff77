"""The four robots: base model, observation, reward, termination and reset, each defined once.

Every function takes any number of leading dimensions, so the scalar environment, the batched environment and a
re-simulation of stored rows compute the same numbers bit for bit. Physics and observations are those of D4RL and
ODRL, so that data and scores can be compared (Gymnasium's v5 classes with the settings in `Robot.stock_kwargs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import unknown

__all__ = ["ROBOTS", "RewardParts", "Robot", "get_robot"]

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]


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


@dataclass(frozen=True)
class Robot:
    """One robot and everything about it that no shift changes.

    Attributes:
        name: The name in tasks and datasets, for instance "halfcheetah".
        title: The name in environment ids, for instance "HalfCheetah".
        xml_file: Gymnasium's base model.
        observation_dim: |S|.
        action_dim: |A|; actions lie in [-1, 1].
        nq: Length of qpos.
        nv: Length of qvel.
        frame_skip: Physics steps per control step.
        timestep: Seconds per physics step.
        skipped_qpos: Leading positions left out of the observation (translation in the plane).
        velocity_clip: Bound of the observed velocities; infinite where they are not clipped.
        control_cost: Weight of the squared action in the reward.
        alive_bonus: Reward of a step that ends healthy; 0 for a robot that never terminates.
        z_range: Healthy height, metres; empty where the robot never terminates.
        z_open: The ends of `z_range` are themselves unhealthy.
        angle_range: Healthy torso pitch, radians, ends unhealthy.
        state_limit: Bound of every state entry but x and z, exclusive (Hopper).
        reset_noise: Scale of the reset noise.
        normal_velocity_noise: Reset velocities are normal rather than uniform.
        stock_kwargs: Arguments that set the stock v5 class to these physics.
    """

    name: str
    title: str
    xml_file: str
    observation_dim: int
    action_dim: int
    nq: int
    nv: int
    frame_skip: int
    timestep: float
    skipped_qpos: int
    velocity_clip: float
    control_cost: float
    alive_bonus: float
    z_range: tuple[float, float] | None
    z_open: bool
    angle_range: tuple[float, float] | None
    state_limit: float
    reset_noise: float
    normal_velocity_noise: bool
    stock_kwargs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    max_episode_steps: int = 1000

    @property
    def dt(self) -> float:
        """Seconds per control step."""
        return self.timestep * self.frame_skip

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
        return np.concatenate((qpos[..., self.skipped_qpos :], qvel), axis=-1, dtype=np.float64)

    def reward(
        self, x_before: Floats, qpos: Floats, qvel: Floats, action: Floats, terminated: Bools | None = None
    ) -> NDArray[np.float64]:
        """Return the reward of a step, from simulator states.

        Args:
            x_before: As in `reward_parts`, and so are the others.
            qpos: [..., nq].
            qvel: [..., nv].
            action: [..., |A|].
            terminated: [...].

        Returns:
            Rewards, [...].
        """
        return self.reward_parts(x_before, qpos, qvel, action, terminated).total

    def reward_parts(
        self, x_before: Floats, qpos: Floats, qvel: Floats, action: Floats, terminated: Bools | None = None
    ) -> RewardParts:
        """Return what the reward of a step is made of, from simulator states.

        The alive bonus is paid for steps that end healthy, as in Gymnasium v5; D4RL and ODRL also pay it on the step
        that falls (one unit per terminated episode). Forward speed is the displacement of qpos[0] over dt on all
        robots; stock Ant reads a body position that lags one physics step.

        Args:
            x_before: qpos[0] before the step, [...].
            qpos: Positions after the step, [..., nq].
            qvel: Velocities after the step, [..., nv].
            action: The executed action, [..., |A|], in the precision it was executed in.
            terminated: What `terminated(qpos, qvel)` says, [...], where the caller has it already.

        Returns:
            The parts, each [...].
        """
        forward = (qpos[..., 0] - x_before) / self.dt
        cost = self.control_cost * np.sum(np.square(action), axis=-1)
        if self.z_range is None:
            return RewardParts(forward, cost, None)
        fallen = self.terminated(qpos, qvel) if terminated is None else terminated
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

    def sample_reset(
        self, rng: np.random.Generator, init_qpos: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Draw the first state of an episode, with Gymnasium's own draws in their order.

        Args:
            rng: The environment's generator.
            init_qpos: Rest position of the compiled model, [nq].

        Returns:
            qpos [nq] and qvel [nv].
        """
        qpos = init_qpos + rng.uniform(low=-self.reset_noise, high=self.reset_noise, size=self.nq)
        if self.normal_velocity_noise:
            return qpos, self.reset_noise * rng.standard_normal(self.nv)
        return qpos, rng.uniform(low=-self.reset_noise, high=self.reset_noise, size=self.nv)

    def _healthy_pose(self, height: Floats, angle: Floats) -> Bools:
        assert self.z_range is not None
        low, high = self.z_range
        healthy = (low < height) & (height < high) if self.z_open else (low <= height) & (height <= high)
        if self.angle_range is not None:
            healthy &= (self.angle_range[0] < angle) & (angle < self.angle_range[1])
        return np.asarray(healthy)


_INFINITY = float("inf")

ROBOTS: Mapping[str, Robot] = MappingProxyType(
    {
        robot.name: robot
        for robot in (
            Robot(
                name="halfcheetah",
                title="HalfCheetah",
                xml_file="half_cheetah.xml",
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
            Robot(
                name="hopper",
                title="Hopper",
                xml_file="hopper.xml",
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
            Robot(
                name="walker2d",
                title="Walker2d",
                xml_file="walker2d.xml",
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
            Robot(
                name="ant",
                title="Ant",
                xml_file="ant.xml",
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


def get_robot(name: str) -> Robot:
    """Return a robot by name.

    Args:
        name: One of `ROBOTS`, for instance "hopper".

    Returns:
        The robot.

    Raises:
        OffDynError: No such robot; the message names the nearest.

    Examples:
        >>> import offdyn_envs
        >>> robot = offdyn_envs.get_robot("hopper")
        >>> robot.title, robot.observation_dim, robot.action_dim
        ('Hopper', 11, 3)
    """
    robot = ROBOTS.get(name) if isinstance(name, str) else None
    if robot is None:
        raise unknown("robot", name, ROBOTS)
    return robot
