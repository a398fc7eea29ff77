"""How far a shift leads from the nominal robot: from equal states, with equal actions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.models import compile_model, start_qpos
from offdyn_envs.robots import Robot
from offdyn_envs.robots.goals import read_goal
from offdyn_envs.shifts import Shift
from offdyn_envs.vector import OffDynVectorEnv
from offdyn_envs.verification.states import SEED, States, flat_state, policy_states, random_states

__all__ = ["LONG_STATES", "LONG_STEPS", "Effect", "effect", "long_divergence", "matters", "matters_at_the_limits"]

Floats = NDArray[np.float64]
Shifts = tuple[Shift, ...]
LONG_STATES, LONG_STEPS = 100, 50
BLOCK = 100
"""States at a time: every row of a robot with goals has a model of its own, of 7 MB for the hand."""
_SWING = 20.0  # rad/s
_STILL = 1e-6  # A fixture that actions never move, but for rounding, has no unit to measure in.


@dataclass(frozen=True)
class Effect:
    """What a shift does in one control step.

    Attributes:
        share: Share of the transitions whose next state differs in any bit.
        size: The shift size: the mean, over states and dimensions, of the change of the next state in units of the
            dimension's standard deviation over the set of states. It is the divergence after one step.
    """

    share: float
    size: float


def effect(robot: Robot, shifts: Shifts, profile: str, on_policy: bool = False) -> Effect | None:
    """Measure what a shift does in one control step.

    Both robots are put into the same state (qpos, qvel), reshaped or not, and given the same action.

    Args:
        robot: The robot.
        shifts: Its shifts.
        profile: Variant of the edits.
        on_policy: Measure on the states of the shipped nominal medium policy rather than of random actions.

    Returns:
        The effect; None where that policy has not been shipped.
    """
    states = _states(robot, on_policy)
    if states is None:
        return None
    base = _nominal_next(robot, on_policy)
    change = np.abs(_next(robot, shifts, profile, states) - base)
    return Effect(share=float((change > 0.0).any(axis=1).mean()), size=_in_units(change, states))


def long_divergence(robot: Robot, shifts: Shifts, profile: str) -> float:
    """Measure the change of the state after 50 control steps, in the unit of `Effect.size`.

    100 of the random set's states, the same random actions for both robots, falls ignored.

    Args:
        robot: The robot.
        shifts: Its shifts.
        profile: Variant of the edits.

    Returns:
        The mean over states and dimensions.
    """
    ends = _long_run(robot, shifts, profile)
    return _in_units(np.abs(ends - _nominal_long_run(robot)), random_states(robot))


def matters(robot: Robot, shifts: Shifts, others: Shifts, profile: str) -> bool:
    """Say whether shifts lead elsewhere than others, in random states or in those of a policy.

    Args:
        robot: The robot.
        shifts: Its shifts.
        others: Other shifts, such as all but one of these.
        profile: Variant of the edits.

    Returns:
        Whether any transition differs in any bit.
    """
    sets = (states for on_policy in (False, True) if (states := _states(robot, on_policy)) is not None)
    return any(
        not np.array_equal(_next(robot, shifts, profile, states), _next(robot, others, profile, states))
        for states in sets
    )


def matters_at_the_limits(robot: Robot, shifts: Shifts, profile: str) -> bool:
    """Say whether a joint that swings out halfway between its old and its new limit moves otherwise than before.

    Args:
        robot: The robot.
        shifts: Its shifts.
        profile: Variant of the edits.

    Returns:
        Whether every joint whose range differs does; False where none differs.
    """
    base, model = compile_model(robot, ()), compile_model(robot, shifts, profile)
    narrowed = np.flatnonzero(np.any(base.jnt_range != model.jnt_range, axis=1))
    if not narrowed.size:
        return False
    qpos, qvel = np.tile(start_qpos(robot, ()), (narrowed.size, 1)), np.zeros((narrowed.size, robot.nv))
    if robot.height_index is not None:
        qpos[:, robot.height_index] += 1.0  # High above the floor only the limits act.
    for row, joint in enumerate(narrowed):
        ends = np.stack((base.jnt_range[joint], model.jnt_range[joint]))
        side = int(np.argmax(np.abs(ends[1] - ends[0])))
        qpos[row, base.jnt_qposadr[joint]] = ends[:, side].mean()
        # HalfCheetah's springs are stiff enough to keep a joint at rest off its limit.
        qvel[row, base.jnt_dofadr[joint]] = _SWING if side else -_SWING
    actions = np.zeros((narrowed.size, robot.action_dim), np.float32)
    goal = np.tile(read_goal(base, robot.goal), (narrowed.size, 1))
    swinging = States(qpos, qvel, goal, actions, np.ones(robot.observation_dim))
    change = _next(robot, shifts, profile, swinging) != _next(robot, (), "default", swinging)
    return bool(change.any(axis=1).all())


def _in_units(change: Floats, states: States) -> float:
    """Return the mean of changes in standard deviations, over the dimensions that move at all."""
    moving = states.std > _STILL
    return float((change[:, moving] / states.std[moving]).mean())


def _states(robot: Robot, on_policy: bool) -> States | None:
    return policy_states(robot) if on_policy else random_states(robot)


def _next(robot: Robot, shifts: Shifts, profile: str, states: States) -> Floats:
    """Return where one control step leads from each state, [N, D]."""
    count = len(states.qpos)
    env = OffDynVectorEnv(robot, min(BLOCK, count), shifts=shifts or None, profile=profile, autoreset_mode="disabled")
    after: list[Floats] = []
    for begin in range(0, count, env.num_envs):
        rows = np.minimum(np.arange(begin, begin + env.num_envs), count - 1)
        env.set_state(states.qpos[rows], states.qvel[rows], goal=states.goal[rows])
        env.step(states.actions[rows])
        after.append(flat_state(robot, env.qpos, env.qvel))
    env.close()
    return np.concatenate(after)[:count]


@lru_cache(maxsize=8)
def _nominal_next(robot: Robot, on_policy: bool) -> Floats:
    states = _states(robot, on_policy)
    assert states is not None
    return _next(robot, (), "default", states)


def _long_run(robot: Robot, shifts: Shifts, profile: str) -> Floats:
    states, rng = random_states(robot), np.random.default_rng(SEED + 1)
    chosen = np.linspace(0, len(states.qpos) - 1, LONG_STATES).astype(int)
    env = OffDynVectorEnv(robot, LONG_STATES, shifts=shifts or None, profile=profile, autoreset_mode="disabled")
    env.set_state(states.qpos[chosen], states.qvel[chosen], goal=states.goal[chosen])
    for _ in range(LONG_STEPS):
        env.step(rng.uniform(-1.0, 1.0, (LONG_STATES, robot.action_dim)).astype(np.float32))
    ends = flat_state(robot, env.qpos, env.qvel)
    env.close()
    return ends


@lru_cache(maxsize=4)
def _nominal_long_run(robot: Robot) -> Floats:
    return _long_run(robot, (), "default")
