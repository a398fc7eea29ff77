"""The checks of a robot's environment."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import gymnasium
import mujoco
import numpy as np

from offdyn_envs.differences import FOLLOWING, changed_fields, differences
from offdyn_envs.models import model_hash, published_hash, start_qpos
from offdyn_envs.robots import WALKERS, Robot, Walker, as_walker
from offdyn_envs.robots.mjcf import missing_package
from offdyn_envs.shifts import Friction, Mass, Noise, Shift
from offdyn_envs.vector import OffDynVectorEnv
from offdyn_envs.verification.common import check_with_gymnasium, compare_twins, random_action, same_outcome
from offdyn_envs.verification.contacts import FEET, expected_friction, measured_friction
from offdyn_envs.verification.declared import undeclared_changes
from offdyn_envs.verification.divergence import effect, long_divergence, matters, matters_at_the_limits
from offdyn_envs.verification.results import CheckFailed, Facts
from offdyn_envs.verification.subjects import RobotSubject, named_subjects
from offdyn_envs.version import how_to_install

__all__ = ["extra_missing", "robot_checks"]

STOCK_STEPS, BATCHED_STEPS, REPEATED_STEPS, EPISODE = 1000, 100, 100, 40
# Stock Ant measures its speed on a body position that lags one physics step.
_REWARD_GAP = {"ant": 0.1}


def extra_missing(robot: Robot) -> str:
    """Say that a robot's environments cannot be verified; empty where they can."""
    package = missing_package(robot.mjcf)
    if package == "gymnasium_robotics":
        return f"extra not installed: {how_to_install('adroit')}"
    return f"package not installed: {package}" if package else ""


def robot_checks(subject: RobotSubject) -> Mapping[str, Callable[[], Facts]]:
    """Return the checks of a robot's environment by name, to be run in this order.

    Args:
        subject: The environment.

    Returns:
        Functions that return facts or raise `CheckFailed`.
    """
    checks: dict[str, Callable[[RobotSubject], Facts]] = {
        "fields": _fields,
        "hash": _hash,
        "friction": _friction,
        "effect": _effect,
        "batched": _batched,
        "checker": check_with_gymnasium,
        "twins": compare_twins,
    }
    if subject.robot.name not in WALKERS:  # How its contacts should be, and what is stock, is not known here.
        del checks["friction"]
    elif not subject.shifts:
        checks["stock"] = _stock
    if subject.robot.goal_dim:
        checks["re-simulation"] = _resimulation
    return {name: partial(check, subject) for name, check in checks.items()}


def _fields(subject: RobotSubject) -> Facts:
    """Only the declared fields differ from the nominal robot, and something does."""
    model = subject.model
    changed = changed_fields(subject.base, model)
    if _acts_on_model(subject) and not changed:
        raise CheckFailed("no field of the model differs from the nominal robot's")
    undeclared = undeclared_changes(subject.base, model, subject.robot, subject.shifts, subject.profile)
    if undeclared:
        raise CheckFailed(f"changed but not declared: {', '.join(undeclared)}")
    env = subject.make()
    held: Any = env.unwrapped
    if model_hash(held.model) != model_hash(model):
        raise CheckFailed("the environment simulates another model than its shifts lead to")
    env.close()
    return {
        "robot": subject.title,
        "changed_fields": sorted(changed),
        "set_fields": sorted(changed - FOLLOWING),
        "differences": differences(subject.base, model, subject.height, masses=False),
        "mass_kg": float(model.body_mass.sum()),
        "reset_height_m": subject.height,
    }


def _acts_on_model(subject: RobotSubject) -> bool:
    """Say whether any shift changes the model; delays, noise and local shifts do not."""
    return any(getattr(shift, "of_model", True) for shift in subject.shifts)


def _named_hashes() -> Mapping[str, str]:
    """Return names of the robots' environments by the hash of their model; of equal ones the first."""
    hashes: dict[str, str] = {}
    for name, other in named_subjects().items():
        if isinstance(other, RobotSubject) and not extra_missing(other.robot):
            hashes.setdefault(_published_hash(other.robot, other.shifts), name)
    return hashes


@lru_cache(maxsize=512)
def _published_hash(robot: Robot, shifts: tuple[Shift, ...]) -> str:
    return published_hash(robot, shifts)


def _hash(subject: RobotSubject) -> Facts:
    """No other named environment has the same model."""
    own = published_hash(subject.robot, subject.shifts, subject.profile)
    owner = _named_hashes().get(own, subject.name)
    if owner != subject.name and (_acts_on_model(subject) or not subject.shifts):
        raise CheckFailed(f"the compiled model is that of {owner}, hash {own[:12]}")
    return {"model_sha256": own}


def _friction(subject: RobotSubject) -> Facts:
    """The friction of simulated contacts is the nominal one times the scale."""
    start = start_qpos(subject.robot, subject.shifts, subject.profile)
    expected = expected_friction(subject.robot, subject.shifts)
    seen = measured_friction(subject.robot, subject.model, start)
    for geom, values in seen.items():
        wanted = expected.get(geom, expected[""])
        if wrong := [value for value in values if not np.isclose(value, wanted, rtol=1e-12)]:
            raise CheckFailed(f"{geom} meets the floor with friction {wrong[0]:g}; expected {wanted:g}")
    missing = FEET[subject.robot.name].keys() - seen.keys()
    if missing:
        raise CheckFailed(f"{', '.join(sorted(missing))} never touched the floor, so that its friction is unknown")
    return {"contact_friction": {geom: next(iter(seen[geom])) for geom in FEET[subject.robot.name]}}


def _effect(subject: RobotSubject) -> Facts:
    """The shift changes transitions; where random actions do not reach it, those at the joints' new limits."""
    arguments = subject.robot, subject.shifts, subject.profile
    random = effect(*arguments)
    assert random is not None
    policy = effect(*arguments, on_policy=True)
    if _acts_on_model(subject) and not random.share and not matters_at_the_limits(*arguments):
        raise CheckFailed(
            "no transition differs from the nominal robot's, neither at random nor at a joint's new limit"
        )
    for place, shift in enumerate(subject.shifts):
        if not getattr(shift, "of_model", True):
            _check_process(subject, shift, subject.shifts[:place] + subject.shifts[place + 1 :])
    return {
        "share_changed": random.share,
        "shift_size": random.size,
        "divergence_50_steps": long_divergence(*arguments),
        "policy_share_changed": None if policy is None else policy.share,
        "policy_shift_size": None if policy is None else policy.size,
    }


def _check_process(subject: RobotSubject, shift: Shift, others: tuple[Shift, ...]) -> None:
    """Raise where a shift that leaves the model alone changes nothing: no delay, no noise, or one that never holds."""
    said = shift.describe(subject.robot)
    if isinstance(shift, Noise):
        rows = [shift, None]
        env = OffDynVectorEnv(subject.robot, 2, row_shifts=rows, profile=subject.profile)
        noisy, exact = env.reset(seed=[0, 0])[0]
        env.close()
        if np.array_equal(noisy, exact):
            raise CheckFailed(f"{said}: an observation is the exact one")
        return
    if not matters(subject.robot, subject.shifts, others, subject.profile):
        raise CheckFailed(f"{said}: no transition differs, neither at random nor on the states of a policy")


def _batched(subject: RobotSubject) -> Facts:
    """A row of the batched environment equals the scalar one, whatever the other rows and the number of threads."""
    neighbours = ((*subject.shifts, Mass(0.5)), subject.shifts, (*subject.shifts, Friction(2.0)))
    batches = [
        OffDynVectorEnv(
            subject.robot,
            3,
            row_shifts=[shifts or None for shifts in neighbours],
            profile=subject.profile,
            num_threads=threads,
            max_episode_steps=EPISODE,
            autoreset_mode="same_step",
        )
        for threads in (1, 3)
    ]
    scalar, rng = subject.make(max_episode_steps=EPISODE), np.random.default_rng(5)
    rows = [batch.reset(seed=7)[0] for batch in batches]
    observation = scalar.reset(seed=8)[0]
    for step in range(BATCHED_STEPS):
        if not (np.array_equal(rows[0], rows[1]) and np.array_equal(rows[0][1], observation)):
            raise CheckFailed(f"scalar and batched environment differ after {step} steps")
        actions = rng.uniform(-1.0, 1.0, (3, subject.robot.action_dim)).astype(np.float32)
        outcomes = [batch.step(actions) for batch in batches]
        observation = _compare_step(step, scalar, scalar.step(actions[1]), outcomes[0])
        rows = [outcome[0] for outcome in outcomes]
    for env in (*batches, scalar):
        env.close()
    return {}


def _compare_step(step: int, scalar: gymnasium.Env[Any, Any], one: Any, batch: Any) -> Any:
    """Compare a scalar step with row 1 of a batch; return the observation from which the next step goes on."""
    if tuple(one[1:4]) != tuple(part[1] for part in batch[1:4]):
        raise CheckFailed(f"reward or end of the scalar and the batched environment differ at step {step + 1}")
    if not (one[2] or one[3]):
        return one[0]
    if not np.array_equal(batch[4]["final_obs"][1], one[0]):
        raise CheckFailed(f"last observations of the scalar and the batched environment differ at step {step + 1}")
    return scalar.reset()[0]


def _resimulation(subject: RobotSubject) -> Facts:
    """Every step of a rollout repeats bit for bit from (qpos, qvel, goal) in another environment."""
    env, other, rng = subject.make(), subject.make(), np.random.default_rng(1)
    held: Any = env.unwrapped
    again: Any = other.unwrapped
    env.reset(seed=4)
    other.reset(seed=5)
    for step in range(REPEATED_STEPS):
        action = random_action(env, rng)
        again.goal, again.queue = held.goal, held.queue
        again.set_state(held.data.qpos.copy(), held.data.qvel.copy())
        expected, got = env.step(action), again.step(action)
        pairs = ((one.data.qpos, one.data.qvel, one.goal) for one in (held, again))
        if not same_outcome(expected, got) or not all(np.array_equal(*pair) for pair in zip(*pairs, strict=True)):
            raise CheckFailed(f"step {step + 1} does not repeat from (qpos, qvel, goal)")
        if expected[2] or expected[3]:
            env.reset()
    for one in (env, other):
        one.close()
    return {}


def _stock(subject: RobotSubject) -> Facts:
    """The nominal environment is Gymnasium's own with the solver's warm start zeroed, bit for bit."""
    robot, rng = as_walker(subject.robot, "a comparison with stock"), np.random.default_rng(0)
    # Ours first: it turns the simulator's warnings away from a file in the working directory.
    ours, stock = subject.make().unwrapped, _stock_environment(robot)
    same, gap = np.array_equal(stock.reset(seed=3)[0], ours.reset(seed=3)[0]), 0.0
    for step in range(STOCK_STEPS):
        action = rng.uniform(-1.0, 1.0, robot.action_dim).astype(np.float32)
        expected, got = stock.step(action), ours.step(action)
        same &= np.array_equal(expected[0], got[0]) and expected[2] == got[2]
        gap = max(gap, abs(float(expected[1]) - float(got[1])))
        if got[2]:
            same &= np.array_equal(stock.reset()[0], ours.reset()[0])
        if not same:
            raise CheckFailed(f"goes another way than Gymnasium's {robot.title}-v5 at step {step + 1}")
    allowed = _REWARD_GAP.get(robot.name, 0.0)
    if gap > allowed:
        raise CheckFailed(f"reward differs by {gap:g} from Gymnasium's {robot.title}-v5; allowed: {allowed:g}")
    return {"stock_reward_gap": gap}


def _stock_environment(robot: Walker) -> Any:
    with warnings.catch_warnings():
        # HalfCheetah's file holds an attribute that newer MuJoCo calls deprecated.
        warnings.simplefilter("ignore")
        env: Any = gymnasium.make(f"{robot.title}-v5", **robot.stock_kwargs).unwrapped

    def step(ctrl: Any, n_frames: int) -> None:
        env.data.ctrl[:] = ctrl
        env.data.qacc_warmstart[:] = 0.0
        mujoco.mj_step(env.model, env.data, nstep=n_frames)

    env._step_mujoco_simulation = step
    return env
