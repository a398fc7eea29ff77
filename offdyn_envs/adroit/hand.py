"""What the four Adroit environments share: shifts, state, attack; gymnasium-robotics' classes come below it.

The state is Markov in (qpos, qvel, goal pose): the goals live in the model and are drawn anew at reset, and the
solver's warm start is zeroed before every control step. Poses in observations and rewards are those of one physics step
(2 ms) before qpos, as in the stock environments: a step from a restored state repeats bit for bit, while the
observation that `set_state` leads to is up to date and so differs from the one that the step before had returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import mujoco
import numpy as np
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from offdyn_envs.adroit import rewards
from offdyn_envs.adroit.models import compile_hand
from offdyn_envs.adroit.shifts import HandShift, check_hand_profile, parse_hand_shifts
from offdyn_envs.adroit.stock import ROBOTICS_VERSION
from offdyn_envs.adroit.tasks import get_hand_dynamics
from offdyn_envs.attacks import Attack, make_attack
from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.robots import GoalState, Hand
from offdyn_envs.robots.hands import APPROACH, DROP_HEIGHT, STOCK_APPROACH, Outcome
from offdyn_envs.scalar.arguments import check_rendering, check_seed
from offdyn_envs.scalar.base import ScalarEnvironment
from offdyn_envs.shifts.base import shown

__all__ = ["AdroitHand", "HandState"]

_RENDERING = ("render_mode", "width", "height", "camera_id", "camera_name", "max_geom", "visual_options")
_OWN = ("dynamics", "shifts", "profile", "reward", "terminate_on_drop", "attack")
_DIVERGENCE = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)


class HandState(NamedTuple):
    """All that the next step depends on beside the action.

    Attributes:
        qpos: Positions, [nq], rad and m.
        qvel: Velocities, [nv], rad/s and m/s.
        goal: Goal pose, see `offdyn_envs.robots.Hand`: a quaternion [4] for pen, a position [3] for door
            and hammer, two positions [6] for relocate.
    """

    qpos: NDArray[np.float64]
    qvel: NDArray[np.float64]
    goal: NDArray[np.float64]


class AdroitHand(ScalarEnvironment):
    """A hand whose dynamics may be shifted; the part that the four environments share.

    Args:
        dynamics: A named dynamics, for instance "broken-joint-easy".
        shifts: More shifts, as values or plain JSON objects, applied after those of `dynamics`.
        profile: Variant of the edits, see `offdyn_envs.adroit.shifts.HAND_PROFILES`.
        reward: One of `offdyn_envs.adroit.rewards.REWARDS`.
        terminate_on_drop: Whether a pen below 0.075 m ends the episode, as in D4RL; None means yes for pen. The other
            tasks never terminate.
        attack: An observation attack, as a value or a plain JSON object (see `offdyn_envs.attacks.make_attack`).
        rendering: `render_mode`, `width`, `height`, `camera_id`, `camera_name`, `max_geom` and `visual_options` of
            Gymnasium's MuJoCo environments.

    Attributes:
        gymnasium_robotics_version: Where models and observations come from.

    Raises:
        OffDynError: An unknown name, parameter or value.
    """

    task: ClassVar[Hand]
    gymnasium_robotics_version: ClassVar[str] = ROBOTICS_VERSION
    # Centre and half width of the control ranges, which the stock classes set.
    act_mean: NDArray[np.float64]
    act_rng: NDArray[np.float64]

    def __init__(
        self,
        dynamics: str = "nominal",
        shifts: Mapping[str, Any] | HandShift | Sequence[Mapping[str, Any] | HandShift] | None = None,
        profile: str = "default",
        reward: str = "dense",
        terminate_on_drop: bool | None = None,
        attack: Mapping[str, Any] | Attack | None = None,
        **rendering: Any,
    ) -> None:
        check_rendering(rendering, _RENDERING, _OWN)
        if not isinstance(reward, str) or reward not in rewards.REWARDS:
            raise unknown("reward", reward, rewards.REWARDS)
        extra = parse_hand_shifts(shifts)
        self.shifts = get_hand_dynamics(dynamics) + extra
        self.profile = check_hand_profile(profile)
        self.reward = reward
        self.terminate_on_drop = self._ends_on_drop(terminate_on_drop)
        self.attack = None if attack is None else make_attack(attack, self.task)
        self._attack_rng = np.random.default_rng()
        super().__init__(**rendering)
        self._prepare()
        # The stock class has recorded its own arguments for pickling; these are ours.
        json_shifts = [shift.to_json() for shift in extra] or None
        EzPickle.__init__(self, dynamics, json_shifts, profile, reward, terminate_on_drop, attack, **rendering)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Start an episode: the goal is drawn anew, qpos and qvel are always the same.

        Args:
            seed: Seeds the goal, and the attack with a stream of its own.
            options: `{"state": (qpos, qvel, goal)}` starts in that state.

        Returns:
            The observation [|S|], attacked where an attack is set, and infos.

        Raises:
            OffDynError: An unknown option, a state that does not fit, or a seed that is none.
        """
        check_seed(seed)
        for name in options or ():
            if name != "state":
                raise unknown("reset option", name, ("state",))
        if seed is not None:
            self._attack_rng = np.random.default_rng([seed, 1])
        observation, _ = super().reset(seed=seed)
        if options:
            self.set_state(*_as_state(options["state"]))
            observation = self._get_obs()
        return self._seen(observation), {"success": bool(self._judge().success), "diverged": False}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[np.float64], Any, bool, bool, dict[str, Any]]:
        """Advance one control step, 0.01 s.

        Args:
            action: Where the joints shall go, [|A|], -1 and 1 being the ends of the control ranges.

        Returns:
            Observation [|S|], reward, terminated, truncated (False: the time limit is a wrapper's) and infos, with
            `success`, and `diverged`, whether the simulation blew up (the state before is restored). `reset` returns
            the same names.

        Raises:
            OffDynError: An action that is not finite.
        """
        before = self.get_state()
        self.do_simulation(self.act_mean + np.clip(action, -1.0, 1.0) * self.act_rng, self.frame_skip)
        diverged = any(self.data.warning[kind].number > 0 for kind in _DIVERGENCE)
        if diverged:
            self.set_state(*before)
        outcome = self._judge()
        info = {"success": bool(outcome.success), "diverged": diverged}
        terminated = diverged or (self.terminate_on_drop and self._dropped())
        if self.render_mode == "human":
            self.render()
        return self._seen(self._get_obs()), self._reward(outcome), terminated, False, info

    def get_state(self) -> HandState:
        """Return all that the next step depends on beside the action, as copies."""
        goal = [getattr(self.model, field)[index] for field, index in self._goal_fields()]
        return HandState(self.data.qpos.copy(), self.data.qvel.copy(), np.concatenate(goal))

    def set_state(
        self, qpos: NDArray[np.float64], qvel: NDArray[np.float64], goal: NDArray[np.float64] | None = None
    ) -> None:
        """Set the state; the steps that follow are those that followed it before, bit for bit.

        The stock environments' own functions do not bring every state back: relocate's returns the ball's present
        position as the one it started from, and hammer's refuses what it returns.

        Args:
            qpos: Positions, [nq].
            qvel: Velocities, [nv].
            goal: Goal pose, see `HandState`; None leaves it.

        Raises:
            OffDynError: A wrong shape, or values that are not finite.
        """
        positions, velocities = _checked("qpos", qpos, self.model.nq), _checked("qvel", qvel, self.model.nv)
        if goal is not None:
            rows = [getattr(self.model, field)[index] for field, index in self._goal_fields()]
            rest = _checked("goal", goal, sum(row.size for row in rows))
            for row in rows:
                row[:], rest = rest[: row.size], rest[row.size :]
        # What is left of earlier steps would show in the forces and touches that follow from the new state.
        self.data.ctrl[:] = 0.0
        self.data.qacc_warmstart[:] = 0.0
        super().set_state(positions, velocities)

    def _ends_on_drop(self, value: object) -> bool:
        if value is not None and not isinstance(value, bool):
            raise OffDynError(f"terminate_on_drop must be true, false or left out, got {shown(value)}")
        if value and not self.task.drops:
            raise OffDynError(f"terminate_on_drop: only pen has something to drop; {self.task.task} never terminates")
        return self.task.drops if value is None else value

    def _goal_fields(self) -> list[tuple[str, int]]:
        return [
            (part.field, getattr(self.model, part.field.partition("_")[0])(part.element).id) for part in self.task.goal
        ]

    def _prepare(self) -> None:
        """Bring a new environment into a state from which `set_state` and `step` work."""
        mujoco.mj_forward(self.model, self.data)

    def _judge(self) -> Outcome:
        kinds = {"body_pos": "xpos", "body_quat": "xquat", "site_pos": "xpos", "sensor": "data"}
        things = ((one, getattr(self.data, one.kind.partition("_")[0])(one.element)) for one in self.task.measures)
        measured = [getattr(thing, kinds[one.kind]) for one, thing in things]
        goal = np.concatenate((self.get_state().goal, *measured))
        approach = STOCK_APPROACH if self.reward == "stock" else APPROACH
        return self.task.outcome(GoalState(self.data.qpos, self.data.qvel, goal), approach)

    def _reward(self, outcome: Outcome) -> float:
        if self.reward == "sparse":
            return rewards.SPARSE_SUCCESS if outcome.success else rewards.SPARSE_FAILURE
        return float(outcome.dense)

    def _dropped(self) -> bool:
        return bool(self.data.body("Object").xpos[2] < DROP_HEIGHT)

    def _get_obs(self) -> NDArray[np.float64]:
        return super()._get_obs()  # pyright: ignore[reportAttributeAccessIssue] of the stock class, next in line

    def _seen(self, observation: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.attack is None:
            return observation
        return self.attack.perturb(observation[None], [self._attack_rng])[0]

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = compile_hand(self.task, self.shifts, self.profile)
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)
        return model, mujoco.MjData(model)

    def _step_mujoco_simulation(self, ctrl: NDArray[Any], n_frames: int) -> None:
        if not np.isfinite(ctrl).all():
            raise OffDynError("action must be finite")
        self.data.ctrl[:] = ctrl
        self.data.qacc_warmstart[:] = 0.0
        for kind in _DIVERGENCE:  # MuJoCo counts since the last reset; a step is judged alone.
            self.data.warning[kind].number = 0
        mujoco.mj_step(self.model, self.data, nstep=n_frames)


def _as_state(value: object) -> tuple[Any, Any, Any]:
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 3:
        return value[0], value[1], value[2]
    raise OffDynError(f"reset option 'state' must be (qpos, qvel, goal), got {shown(value)}")


def _checked(name: str, value: object, width: int) -> NDArray[np.float64]:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise OffDynError(f"{name} must be {width} numbers, got {shown(value)}") from None
    if array.shape != (width,) or not np.isfinite(array).all():
        raise OffDynError(f"{name} must be {width} finite numbers, got shape {array.shape}: {str(array)[:60]!r}")
    return array
