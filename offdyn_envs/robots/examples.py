"""Robots from elsewhere, written as anyone would write one; nobody has registered them.

    from offdyn_envs.robots.examples import HUMANOID
    offdyn_envs.register_robot(HUMANOID)

Humanoid and Pusher are Gymnasium's v5 ones, with their models, rewards and resets. Two things differ. Observation and
reward are functions of positions, velocities and action: stock also observes forces that the last action caused
(Humanoid's options `include_...`, off here, and its cost of contacts of 5e-7, left out here) and takes the poses of
bodies from one physics step before. And actions lie in [-1, 1], not in the motors' range.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.robots.base import Bools, Floats, Robot, State

__all__ = ["HUMANOID", "PUSHER", "SHADOW_HAND", "Humanoid", "Pusher", "ShadowHand"]


class Humanoid(Robot):
    """Walk on two legs: 45 observations, 17 actions, ends when it falls."""

    def reward(self, before: State, after: State, action: Floats) -> NDArray[np.float64]:
        """Return speed of the centre of mass, plus 5 on healthy steps, less the cost of the controls."""
        return self.judge(before, after, action)[0]

    def judge(self, before: State, after: State, action: Floats) -> tuple[NDArray[np.float64], Bools]:
        """Return the reward, and whether the step ends the episode, on which the reward depends."""
        begin = self.mass_centre(before.qpos)[..., 0]  # Where the last step ended, which is still known.
        speed = (self.mass_centre(after.qpos)[..., 0] - begin) / self.dt
        cost = 0.1 * np.sum(np.square(self.control(action)), axis=-1)
        fallen = self.terminated(*after)
        return 1.25 * speed + 5.0 * ~fallen - cost, fallen

    def terminated(self, qpos: Floats, qvel: Floats) -> Bools:
        """Say which states end an episode: the torso is not between 1 and 2 m high."""
        return ~self._healthy(qpos[..., 2])

    def terminated_from_observation(self, observation: Floats) -> Bools:
        """Say the same of observations, whose first entry is that height."""
        return ~self._healthy(observation[..., 0])

    def _healthy(self, height: Floats) -> Bools:
        return np.asarray((height > 1.0) & (height < 2.0))


HUMANOID = Humanoid(name="humanoid", title="Humanoid", mjcf="humanoid.xml", frame_skip=5, skipped_qpos=2)


class Pusher(Robot):
    """Push a cylinder to a goal: 23 observations, 7 actions, never terminates."""

    def observe(self, qpos: Floats, qvel: Floats) -> NDArray[np.float64]:
        """Return the arm's joints and their velocities, and where its tip, the cylinder and the goal are."""
        places = self.bodies(qpos, "tips_arm", "object", "goal")
        parts = (qpos[..., :7], qvel[..., :7], places.reshape(*places.shape[:-2], 9))
        return np.concatenate(parts, axis=-1, dtype=np.float64)

    def reward(self, before: State, after: State, action: Floats) -> NDArray[np.float64]:
        """Return minus the distances of the cylinder to goal and tip, less the cost of the controls."""
        parts = self.info(before, after, action)
        return np.asarray(parts["reward_dist"] + parts["reward_ctrl"] + parts["reward_near"], dtype=np.float64)

    def info(self, before: State, after: State, action: Floats) -> Mapping[str, Floats]:
        """Return the parts of the reward."""
        places = self.bodies(after.qpos, "tips_arm", "object", "goal")
        tip, cylinder, goal = (places[..., place, :] for place in range(3))
        return {
            "reward_dist": -_length(cylinder - goal),
            "reward_ctrl": -0.1 * np.sum(np.square(self.control(action)), axis=-1),
            "reward_near": -0.5 * _length(cylinder - tip),
        }

    def sample_reset(self, rng: np.random.Generator, init_qpos: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Draw where the cylinder is, farther than 0.17 m from the goal, and slow motions of the arm."""
        while True:
            cylinder = np.concatenate((rng.uniform(-0.3, 0.0, size=1), rng.uniform(-0.2, 0.2, size=1)))
            if np.linalg.norm(cylinder) > 0.17:
                break
        qvel = rng.uniform(-0.005, 0.005, size=self.nv)
        qvel[-4:] = 0.0
        return np.concatenate((init_qpos[:-4], cylinder, (0.0, 0.0))), qvel


PUSHER = Pusher(name="pusher", title="Pusher", mjcf="pusher_v5.xml", frame_skip=5, max_episode_steps=100)


class ShadowHand(Robot):
    """Pinch: bring the tips of thumb and forefinger of gymnasium-robotics' hand together, 48 observations, 20 actions.

    Its motors hold joints at angles, each with a range of its own; two of them pull tendons.
    """

    def reward(self, before: State, after: State, action: Floats) -> NDArray[np.float64]:
        """Return minus the distance between the two, in decimetres."""
        tips = self.bodies(after.qpos, "robot0:thdistal", "robot0:ffdistal")
        return -10.0 * _length(tips[..., 0, :] - tips[..., 1, :])


SHADOW_HAND = ShadowHand(
    name="shadow_hand",
    title="ShadowHand",
    mjcf="gymnasium_robotics:envs/assets/hand/reach.xml",
    frame_skip=20,
    max_episode_steps=100,
)


def _length(vectors: Floats) -> NDArray[np.float64]:
    return np.sqrt(np.sum(np.square(vectors), axis=-1))
