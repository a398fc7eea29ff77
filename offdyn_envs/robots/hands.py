"""The four tasks of the Adroit hand: goals, observations and rewards, as D4RL and its reference returns have them.

From gymnasium-robotics 1.2.1 on, the dense rewards of door, hammer and relocate pay for the distance between hand and
object instead of charging for it (its pull request 220), under an unchanged version of the environments. Here the term
is charged; `approach=STOCK_APPROACH` brings the flipped sign back.

Poses in observations and rewards are those that the last physics step began with, as in the stock environments. The
models come from gymnasium-robotics (the extra `adroit`), which is asked for when one of them is compiled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError
from offdyn_envs.robots.base import Bools, Floats, GoalState, Robot
from offdyn_envs.robots.goals import GoalPart, goal_size, read_goal
from offdyn_envs.robots.measures import Measure
from offdyn_envs.robots.mjcf import compile_mjcf, read_mjcf

if TYPE_CHECKING:
    import mujoco

__all__ = ["APPROACH", "DROP_HEIGHT", "HANDS", "STOCK_APPROACH", "Hand", "Outcome", "as_hand"]

APPROACH = -0.1
STOCK_APPROACH = 0.1
DROP_HEIGHT = 0.075
"""Height in m below which the pen has dropped."""
_GAINS = (("A_WRJ1", "A_WRJ0", 10.0), ("A_FFJ3", "A_THJ0", 1.0))
"""First and last motor, and the stiffness in N m/rad that the tasks give them all."""


class Outcome(NamedTuple):
    """What a step achieved.

    Attributes:
        dense: The dense reward, [...].
        success: Whether the goal is reached, [...].
    """

    dense: NDArray[np.float64]
    success: Bools


@dataclass(frozen=True, kw_only=True)
class Hand(Robot):
    """A task of the hand.

    Attributes:
        task: Its name without that of the hand, for instance "pen".
    """

    task: str

    @property
    def drops(self) -> bool:
        """Whether there is something to drop that ends the episode."""
        return type(self).terminated is not Hand.terminated

    def edit(self, spec: mujoco.MjSpec) -> None:
        """Give the motors of wrist and fingers the stiffness of the tasks."""
        names = [motor.name for motor in spec.actuators]
        for first, last, stiffness in _GAINS:
            for motor in spec.actuators[names.index(first) : names.index(last) + 1]:
                motor.gainprm[:3] = (stiffness, 0.0, 0.0)
                motor.biasprm[:3] = (0.0, -stiffness, 0.0)

    def published_spec(self) -> mujoco.MjSpec:
        """Return the model of the file, without the motors' stiffness and sensors, which all dynamics share."""
        return read_mjcf(self.name, self.mjcf)

    def control(self, action: NDArray[Any]) -> NDArray[Any]:
        """Return where joints shall go: actions beyond the ends of the control ranges are cut."""
        return super().control(np.clip(action, -1.0, 1.0))

    def outcome(self, after: GoalState, approach: float = APPROACH) -> Outcome:
        """Judge a step by the states that it led to.

        Args:
            after: The states.
            approach: Factor on the distance between the hand and what it shall take.
        """
        raise NotImplementedError

    def reward(self, before: Any, after: Any, action: Floats) -> NDArray[np.float64]:
        """Return the dense reward, see `Robot.reward`."""
        return self.outcome(after).dense

    def terminated(self, qpos: Floats, qvel: Floats, goal: Floats) -> Bools:  # pyright: ignore[reportIncompatibleMethodOverride] a goal more
        """Say which states end an episode: none."""
        return np.zeros(qpos.shape[:-1], dtype=bool)

    def terminated_from_observation(self, observation: Floats) -> Bools:
        """Say the same of observations."""
        return np.zeros(observation.shape[:-1], dtype=bool)

    def info(self, before: Any, after: Any, action: Floats) -> Mapping[str, Any]:
        """Return whether the goal is reached."""
        return {"success": self.outcome(after).success}

    def sample_reset(self, rng: np.random.Generator, init_qpos: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Draw a goal; the hand always starts in the same pose, at rest."""
        return init_qpos.copy(), np.zeros(self.nv), self.draw(rng, self._rest.copy())

    def draw(self, rng: np.random.Generator, goal: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a new goal [G].

        Args:
            rng: The environment's generator.
            goal: That of the model, may be changed.
        """
        raise NotImplementedError

    @cached_property
    def _rest(self) -> NDArray[np.float64]:
        return read_goal(_model(self.mjcf), self.goal)

    @cached_property
    def _scale(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        low, high = _model(self.mjcf).actuator_ctrlrange.T
        return (low + high) / 2.0, (high - low) / 2.0

    def _measured(self, goal: Floats) -> list[Floats]:
        """Return what is measured, one array [..., 3], [..., 4] or [..., 1] for each of `measures`."""
        places: list[Floats] = []
        begin = goal_size(self.goal)
        for one in self.measures:
            end = begin + one.size
            places.append(goal[..., begin:end])
            begin = end
        return places


class Pen(Hand):
    """Turn a pen in the hand until it points as the target does: 45 observations, 24 actions."""

    def observe(self, qpos: Floats, qvel: Floats, goal: Floats) -> NDArray[np.float64]:  # pyright: ignore[reportIncompatibleMethodOverride] a goal more
        """Return joints, the pen's place, speed and direction, the target's direction, and how far both are off."""
        place, target, axis, wanted = self._poses(goal)
        parts = (qpos[..., :-6], place, qvel[..., -6:], axis, wanted, place - target, axis - wanted)
        return np.concatenate(parts, axis=-1, dtype=np.float64)

    def outcome(self, after: GoalState, approach: float = APPROACH) -> Outcome:
        """Judge how near the pen is to the target's place, and how alike they point."""
        place, target, axis, wanted = self._poses(after.goal)
        distance, similarity = _length(place - target), _dot(axis, wanted)
        near = distance < 0.075
        reward = -distance + similarity
        reward = reward + 10.0 * (near & (similarity > 0.9))
        reward = reward + 50.0 * (near & (similarity > 0.95))
        reward = reward - 5.0 * (place[..., 2] < DROP_HEIGHT)
        return Outcome(reward, near & (similarity > 0.95))

    def terminated(self, qpos: Floats, qvel: Floats, goal: Floats) -> Bools:  # pyright: ignore[reportIncompatibleMethodOverride] a goal more
        """Say where the pen has dropped."""
        return np.asarray(self._poses(goal)[0][..., 2] < DROP_HEIGHT)

    def terminated_from_observation(self, observation: Floats) -> Bools:
        """Say the same of observations."""
        return np.asarray(observation[..., self.nq - 6 + 2] < DROP_HEIGHT)

    def draw(self, rng: np.random.Generator, goal: NDArray[np.float64]) -> NDArray[np.float64]:
        """Draw the orientation of the target."""
        first = rng.uniform(low=-1, high=1)
        return _quaternion(first, rng.uniform(low=-1, high=1))

    def _poses(self, goal: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Return the pen's place, the target's, and the directions of both, each [..., 3]."""
        place, target, top, bottom, target_top, target_bottom = self._measured(goal)
        wanted = target_top - target_bottom
        return place, target, (top - bottom) / _pen_length(self.mjcf), wanted / _length(wanted)[..., None]


class Door(Hand):
    """Undo a latch and swing a door open: 39 observations, 28 actions, never terminates."""

    def observe(self, qpos: Floats, qvel: Floats, goal: Floats) -> NDArray[np.float64]:  # pyright: ignore[reportIncompatibleMethodOverride] a goal more
        """Return joints, latch and hinge, where palm and handle are, and whether the door is open."""
        palm, handle = self._measured(goal)
        hinge = qpos[..., -2:-1]
        is_open = np.where(hinge > 1.0, 1.0, -1.0)
        parts = (qpos[..., 1:-2], qpos[..., -1:], hinge, palm, handle, palm - handle, is_open)
        return np.concatenate(parts, axis=-1, dtype=np.float64)

    def outcome(self, after: GoalState, approach: float = APPROACH) -> Outcome:
        """Judge how far the door is open."""
        palm, handle = self._measured(after.goal)
        angle = after.qpos[..., -2]
        reward = approach * _length(palm - handle)
        reward = reward + -0.1 * (angle - 1.57) * (angle - 1.57)
        reward = reward + -1e-5 * np.sum(after.qvel**2, axis=-1)
        for opened, bonus in ((0.2, 2.0), (1.0, 8.0), (1.35, 10.0)):
            reward = reward + bonus * (angle > opened)
        return Outcome(reward, np.asarray(angle >= 1.35))

    def draw(self, rng: np.random.Generator, goal: NDArray[np.float64]) -> NDArray[np.float64]:
        """Draw the door's place."""
        return np.array([rng.uniform(low, high) for low, high in ((-0.3, -0.2), (0.25, 0.35), (0.252, 0.35))])


class Hammer(Hand):
    """Pick up a hammer and drive a nail into a board: 46 observations, 26 actions, never terminates."""

    def observe(self, qpos: Floats, qvel: Floats, goal: Floats) -> NDArray[np.float64]:  # pyright: ignore[reportIncompatibleMethodOverride] a goal more
        """Return joints, the hammer's speed, where palm, hammer and nail are, and the blow on the nail."""
        palm, place, turned, _, nail, _, blow = self._measured(goal)
        speed = np.clip(qvel, -1.0, 1.0)[..., -6:]
        parts = (qpos[..., :-6], speed, palm, place, _angles(turned), nail, np.clip(blow, -1.0, 1.0))
        return np.concatenate(parts, axis=-1, dtype=np.float64)

    def outcome(self, after: GoalState, approach: float = APPROACH) -> Outcome:
        """Judge how far the nail is in."""
        palm, handle, _, head, nail, end, _ = self._measured(after.goal)
        left = _length(nail - end)
        reward = approach * _length(palm - handle)
        reward = reward - _length(head - nail)
        reward = reward - 10.0 * left
        reward = reward - 1e-2 * _length(after.qvel)
        reward = reward + 2.0 * ((handle[..., 2] > 0.04) & (head[..., 2] > 0.04))
        reward = reward + 25.0 * (left < 0.02)
        reward = reward + 75.0 * (left < 0.01)
        return Outcome(reward, np.asarray(left < 0.01))

    def draw(self, rng: np.random.Generator, goal: NDArray[np.float64]) -> NDArray[np.float64]:
        """Draw the board's height."""
        goal[2] = rng.uniform(low=0.1, high=0.25)
        return goal


class Relocate(Hand):
    """Carry a ball to a target: 39 observations, 30 actions, never terminates."""

    def observe(self, qpos: Floats, qvel: Floats, goal: Floats) -> NDArray[np.float64]:  # pyright: ignore[reportIncompatibleMethodOverride] a goal more
        """Return joints and how palm, ball and target lie to each other."""
        ball, palm, target = self._measured(goal)
        parts = (qpos[..., :-6], palm - ball, palm - target, ball - target)
        return np.concatenate(parts, axis=-1, dtype=np.float64)

    def outcome(self, after: GoalState, approach: float = APPROACH) -> Outcome:
        """Judge how near the ball is to the target."""
        ball, palm, target = self._measured(after.goal)
        left, lifted = _length(ball - target), ball[..., 2] > 0.04
        reward = approach * _length(palm - ball)
        reward = reward + 1.0 * lifted
        reward = reward + -0.5 * _length(palm - target) * lifted
        reward = reward + -0.5 * left * lifted
        reward = reward + 10.0 * (left < 0.1)
        reward = reward + 20.0 * (left < 0.05)
        return Outcome(reward, np.asarray(left < 0.1))

    def draw(self, rng: np.random.Generator, goal: NDArray[np.float64]) -> NDArray[np.float64]:
        """Draw where the ball starts, and where it shall go."""
        ranges = {0: (-0.15, 0.15), 1: (-0.15, 0.3), 3: (-0.2, 0.2), 4: (-0.2, 0.2), 5: (0.15, 0.35)}
        for at, (low, high) in ranges.items():
            goal[at] = rng.uniform(low=low, high=high)
        return goal


def _dot(left: Floats, right: Floats) -> NDArray[np.float64]:
    # The sum of a scalar product, in one order for one vector and for many of them.
    return np.asarray(np.vecdot(left, right) if hasattr(np, "vecdot") else np.einsum("...i,...i->...", left, right))


def _length(vectors: Floats) -> NDArray[np.float64]:
    return np.sqrt(_dot(vectors, vectors))


def _angles(turned: Floats) -> Floats:
    """Return the Euler angles of unit quaternions as gymnasium-robotics computes them, to the bit, [..., 3]."""
    w, x, y, z = (turned[..., at] for at in range(4))
    norm = np.sum(turned * turned, axis=-1)
    scale = 2.0 / norm
    xs, ys, zs = x * scale, y * scale, z * scale
    along, across = 1.0 - (x * xs + y * ys), y * zs - w * xs
    level = np.sqrt(along * along + across * across)
    upright = level > 4.0 * np.finfo(np.float64).eps
    first = np.where(upright, -np.arctan2(across, along), 0.0)
    second = -np.arctan2(-(x * zs + w * ys), level)
    turn = -np.arctan2(x * ys - w * zs, 1.0 - (y * ys + z * zs))
    third = np.where(upright, turn, -np.arctan2(-(x * ys + w * zs), 1.0 - (x * xs + z * zs)))
    return np.stack((first, second, third), axis=-1)


def _quaternion(first: float, second: float) -> NDArray[np.float64]:
    """Return the quaternion of two Euler angles, the third being 0, as gymnasium-robotics computes it, [4]."""
    half, other = first / 2, -second / 2
    sine, cosine, other_sine, other_cosine = np.sin(half), np.cos(half), np.sin(other), np.cos(other)
    return np.array([other_cosine * cosine, other_cosine * sine, -(other_sine * cosine), -(other_sine * sine)])


@lru_cache
def _model(mjcf: str) -> mujoco.MjModel:
    """Return the model of a task as it is in its file; never changed."""
    return compile_mjcf(read_mjcf("adroit", mjcf), "the Adroit hand does not compile")


@lru_cache
def _pen_length(mjcf: str) -> float:
    """Return the length of the pen as stock measures it at reset, m; other poses differ in the last bit."""
    import mujoco

    model = _model(mjcf)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return float(_length(data.site("object_top").xpos - data.site("object_bottom").xpos))


def _hand(
    kind: type[Hand], sizes: tuple[int, int, int], goal: Sequence[GoalPart], measures: Sequence[tuple[str, str]]
) -> Hand:
    task = kind.__name__.lower()
    observation_dim, action_dim, joints = sizes
    return kind(
        name=f"adroit-{task}",
        title=f"Adroit{kind.__name__}",
        task=task,
        mjcf=f"gymnasium_robotics:envs/assets/adroit_hand/adroit_{task}.xml",
        frame_skip=5,
        max_episode_steps=200,
        observation_dim=observation_dim,
        action_dim=action_dim,
        nq=joints,
        nv=joints,
        timestep=0.002,
        goal=tuple(goal),
        measures=tuple(Measure(*one) for one in measures),
    )


_PALM = ("site_pos", "S_grasp")

HANDS: Mapping[str, Hand] = MappingProxyType(
    {
        hand.name: hand
        for hand in (
            _hand(
                Pen,
                (45, 24, 30),
                [GoalPart("body_quat", "target", "orientation of the target pen")],
                [
                    ("body_pos", "Object"),
                    ("site_pos", "eps_ball"),
                    *(("site_pos", f"{what}_{end}") for what in ("object", "target") for end in ("top", "bottom")),
                ],
            ),
            _hand(
                Door,
                (39, 28, 30),
                [GoalPart("body_pos", "frame", "position of the door")],
                [_PALM, ("site_pos", "S_handle")],
            ),
            _hand(
                Hammer,
                (46, 26, 33),
                [GoalPart("body_pos", "nail_board", "position of the nail's board")],
                [
                    *(_PALM, ("body_pos", "Object"), ("body_quat", "Object"), ("site_pos", "tool")),
                    *(("site_pos", "S_target"), ("site_pos", "nail_goal"), ("sensor", "S_nail")),
                ],
            ),
            _hand(
                Relocate,
                (39, 30, 36),
                [
                    GoalPart("body_pos", "Object", "where the ball starts"),
                    GoalPart("site_pos", "target", "where the ball shall go"),
                ],
                [("body_pos", "Object"), _PALM, ("site_pos", "target")],
            ),
        )
    }
)
"""The tasks by the names of their robots."""


def as_hand(robot: Robot, what: str) -> Hand:
    """Return a robot as the hand, for what only it has.

    Args:
        robot: The robot.
        what: What needs the hand, for the message.

    Raises:
        OffDynError: It is another one.
    """
    if not isinstance(robot, Hand):
        raise OffDynError(f"{what} needs the Adroit hand ({', '.join(HANDS)}), which '{robot.name}' is not")
    return robot
