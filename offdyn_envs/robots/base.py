"""What every robot says of itself: where its model comes from, observation, reward, termination and reset.

Every function takes any number of leading dimensions, so the scalar environment, the batched environment and a
re-simulation of stored rows compute the same numbers bit for bit. None of them knows of shifts: observation and reward
are those of the nominal robot under all dynamics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.robots.goals import GoalPart, goal_size
from offdyn_envs.robots.kinematics import Kinematics, kinematics
from offdyn_envs.robots.measures import Measure, add_sensors, measured_size
from offdyn_envs.robots.mjcf import read_mjcf

if TYPE_CHECKING:
    import mujoco

__all__ = ["Bools", "Floats", "GoalState", "Robot", "State"]

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]


class State(NamedTuple):
    """States of a robot; with what is under way of a delay they are all that its future depends on.

    Attributes:
        qpos: Positions, [..., nq].
        qvel: Velocities, [..., nv].

    Examples:
        >>> import numpy as np, offdyn_envs
        >>> state = offdyn_envs.State(np.zeros((4, 6)), np.zeros((4, 6)))
        >>> offdyn_envs.get_robot("hopper").observe(*state).shape
        (4, 11)
    """

    qpos: Floats
    qvel: Floats


class GoalState(NamedTuple):
    """States of a robot with a goal, motors that have states, or measures: it takes three arguments, others take two.

    Attributes:
        qpos: Positions, [..., nq].
        qvel: Velocities, [..., nv].
        goal: What the last reset wrote into the model, the parts of `Robot.goal` in order, the states of the motors
            (activations) [..., na], and what the last physics step measured, those of `Robot.measures`, [..., G].
    """

    qpos: Floats
    qvel: Floats
    goal: Floats


@dataclass(frozen=True, kw_only=True)
class Robot:
    """One robot and everything about it that no shift changes; inherit from it, as a frozen dataclass or a plain class.

    What is left at 0 or None is found in the compiled model by `register_robot`, which returns the whole robot.

    Attributes:
        name: The name in tasks and datasets, for instance "halfcheetah".
        title: The name in environment ids, for instance "HalfCheetah".
        mjcf: The model: the path of an MJCF file, a file of Gymnasium's assets ("ant.xml"), one of an installed package
            ("package:folder/file.xml"), or MJCF as text, which begins with "<".
        frame_skip: Physics steps per control step.
        max_episode_steps: Control steps until truncation.
        skipped_qpos: Leading positions on which nothing depends, such as where on the plane the robot is; `observe`
            leaves them out. The first is x and the second y, in m, for shifts that hold in a part of the world only.
        reset_noise: Scale of the reset noise.
        control_range: Lowest and highest control of each motor, which actions of -1 and 1 stand for, [|A|] pairs; by
            default the model's control ranges, (-1, 1) for a motor without one.
        goal: Fields of the model that every reset writes, such as where a target is. `sample_reset` then returns a
            third array, their numbers, which `observe` and `terminated` get, too; states are `GoalState`.
        measures: What the simulation measures, such as where a body is, one physics step before positions and
            velocities; the last numbers of every goal.
        observation_dim: |S|.
        action_dim: |A|; actions of environments and data lie in [-1, 1].
        nq: Length of qpos.
        nv: Length of qvel.
        na: How many numbers the states of the motors are (activations); they stand in every goal before what is
            measured, and an episode begins with 0.
        timestep: Seconds per physics step.
        model_sha256: Hash of the model without any shift (`offdyn_envs.models.model_hash`), by which two robots of one
            name are told apart; empty for those of the suite.
    """

    name: str
    title: str
    mjcf: str | Path
    frame_skip: int
    max_episode_steps: int = 1000
    skipped_qpos: int = 0
    reset_noise: float = 0.01
    control_range: tuple[tuple[float, float], ...] | None = None
    goal: tuple[GoalPart, ...] = ()
    measures: tuple[Measure, ...] = ()
    observation_dim: int = 0
    action_dim: int = 0
    nq: int = 0
    nv: int = 0
    na: int = 0
    timestep: float = 0.0
    model_sha256: str = field(default="", repr=False)

    def edit(self, spec: mujoco.MjSpec) -> None:
        """Change the model of the file, before shifts and before it is compiled; not at all where nothing is said.

        Args:
            spec: The model, changed in place.
        """

    def spec(self) -> mujoco.MjSpec:
        """Return the model before any shift, with the sensors of `measures`, not yet compiled."""
        spec = read_mjcf(self.name, self.mjcf)
        self.edit(spec)
        add_sensors(spec, self.measures)
        return spec

    def published_spec(self) -> mujoco.MjSpec | None:
        """Return another model than `spec` by whose hash the environments are published; None where there is none."""
        return None

    def observe(self, qpos: Floats, qvel: Floats) -> NDArray[np.float64]:
        """Return the observation of a state: positions, without the first `skipped_qpos`, and velocities.

        Args:
            qpos: Positions, [..., nq].
            qvel: Velocities, [..., nv].

        Returns:
            Observations, [..., |S|].
        """
        return np.concatenate((qpos[..., self.skipped_qpos :], qvel), axis=-1, dtype=np.float64)

    def reward(self, before: State, after: State, action: Floats) -> NDArray[np.float64]:
        """Return the reward of a step.

        Args:
            before: States before the step.
            after: States after it.
            action: The action that was sent, in [-1, 1], [..., |A|], in the precision it was sent in; `control` says
                what the motors make of it.

        Returns:
            Rewards, [...].
        """
        raise NotImplementedError

    def terminated(self, qpos: Floats, qvel: Floats) -> Bools:
        """Say which states end an episode; none where a robot does not say otherwise.

        Args:
            qpos: Positions, [..., nq].
            qvel: Velocities, [..., nv].

        Returns:
            True where the episode ends, [...].
        """
        return np.zeros(qpos.shape[:-1], dtype=bool)

    def judge(self, before: State, after: State, action: Floats) -> tuple[NDArray[np.float64], Bools]:
        """Return the reward of a step and whether it ends the episode, for robots where one helps to find the other.

        Args:
            before: As in `reward`, and so are the others.
            after: Likewise.
            action: Likewise.

        Returns:
            What `reward` and `terminated` say, each [...].
        """
        return self.reward(before, after, action), self.terminated(*after)

    def terminated_from_observation(self, observation: Floats) -> Bools | None:
        """Say which observations end an episode, for agents that roll out a learned model.

        Args:
            observation: Observations, [..., |S|].

        Returns:
            True where the episode ends, [...]; None where the observation does not tell, so that agents learn it.
        """
        if type(self).terminated is not Robot.terminated:
            return None
        return np.zeros(observation.shape[:-1], dtype=bool)

    def info(self, before: State, after: State, action: Floats) -> Mapping[str, Floats]:
        """Return what the scalar environment's infos say of a step, such as the parts of the reward; nothing here.

        Args:
            before: As in `reward`, and so are the others; after a reset `before` is `after`, and the action is 0.
            after: Likewise.
            action: Likewise.

        Returns:
            Numbers by name, each [...].
        """
        return {}

    def sample_reset(self, rng: np.random.Generator, init_qpos: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Draw the first state of an episode: uniform noise around the rest position and around rest.

        Args:
            rng: The environment's generator.
            init_qpos: Rest position of the compiled model, [nq].

        Returns:
            qpos [nq] and qvel [nv]; of a robot with a goal that, too, [G].
        """
        qpos = init_qpos + rng.uniform(low=-self.reset_noise, high=self.reset_noise, size=self.nq)
        return qpos, rng.uniform(low=-self.reset_noise, high=self.reset_noise, size=self.nv)

    @property
    def goal_dim(self) -> int:
        """How many numbers the third part of a state has, G; 0 for most robots."""
        return self.acts.stop + measured_size(self.measures)

    @property
    def acts(self) -> slice:
        """Where in the third part of a state the states of the motors are, [na]."""
        begin = goal_size(self.goal)
        return slice(begin, begin + self.na)

    @property
    def height_index(self) -> int | None:
        """Position in qpos of the height by which the robot can be lifted off the floor; None where nobody says it."""
        return None

    @property
    def dt(self) -> float:
        """Seconds per control step."""
        return self.timestep * self.frame_skip

    def control(self, action: NDArray[Any]) -> NDArray[Any]:
        """Return what the motors get for an action.

        Args:
            action: In [-1, 1], [..., |A|].

        Returns:
            Controls in the units of the model, [..., |A|]; the action itself where these are [-1, 1], too.
        """
        if self._scale is None:
            return action
        centre, half = self._scale
        return centre + half * action

    def state(self, qpos: Floats, qvel: Floats, goal: Floats) -> State:
        """Return states as the functions of this robot take them.

        Args:
            qpos: Positions, [..., nq].
            qvel: Velocities, [..., nv].
            goal: Goals, [..., G]; left out where the robot has none.
        """
        return cast(State, GoalState(qpos, qvel, goal)) if self.goal_dim else State(qpos, qvel)

    def bodies(self, qpos: Floats, *names: str, goal: Floats | None = None) -> NDArray[np.float64]:
        """Return where bodies of the nominal robot are.

        Args:
            qpos: Positions, [..., nq].
            names: Names of n bodies.
            goal: Goals, [..., G], where they move bodies.

        Returns:
            Origins of their frames in the world, m, [..., n, 3].
        """
        return self._kinematics.bodies(qpos, names, self.goal, goal)

    def mass_centre(self, qpos: Floats) -> NDArray[np.float64]:
        """Return where the centre of mass of the nominal robot is.

        Args:
            qpos: Positions, [..., nq].

        Returns:
            In the world, m, [..., 3].
        """
        return self._kinematics.mass_centre(qpos)

    @property
    def _kinematics(self) -> Kinematics:
        return kinematics((type(self), self.name, self.mjcf, self.model_sha256), self.name, self.spec)

    @cached_property
    def _scale(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Centre and half width of the control ranges; None where all are [-1, 1]."""
        if all(bounds == (-1.0, 1.0) for bounds in self.control_range or ()):
            return None
        low, high = np.array(self.control_range, dtype=np.float64).T
        return (low + high) / 2.0, (high - low) / 2.0
