"""The checks of the Adroit hand's environments and of the refrigerator."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.verification.common import check_with_gymnasium, compare_twins, random_action, same_outcome
from offdyn_envs.verification.results import CheckFailed, Facts
from offdyn_envs.verification.subjects import HandSubject, Subject, named_subjects
from offdyn_envs.version import how_to_install

__all__ = ["extra_missing", "hand_checks", "refrigerator_checks"]

HAND_STATES, EVERY = 200, 2
_DECLARED_BY_HAND = {
    "broken-joint": {"jnt_range"},
    # What lies along the segments, and what the compiler works out from it.
    "shrink-finger": {"body_pos", "body_ipos", "geom_pos", "geom_size", "site_pos"},
}


def extra_missing() -> str:
    """Say that the Adroit environments cannot be verified; empty where they can."""
    found = importlib.util.find_spec("gymnasium_robotics")
    return "" if found else f"extra not installed: {how_to_install('adroit')}"


def hand_checks(subject: HandSubject) -> Mapping[str, Callable[[], Facts]]:
    """Return the checks of an Adroit environment by name.

    Args:
        subject: The environment.

    Returns:
        Functions that return facts or raise `CheckFailed`.
    """
    checks: dict[str, Callable[[HandSubject], Facts]] = {
        "fields": _hand_fields,
        "hash": _hand_hash,
        "effect": _hand_effect,
        "re-simulation": _hand_resimulation,
        "checker": check_with_gymnasium,
        "twins": compare_twins,
    }
    return {name: partial(check, subject) for name, check in checks.items()}


def _hand_model(subject: HandSubject) -> Any:
    from offdyn_envs.adroit.models import compile_hand
    from offdyn_envs.adroit.tasks import get_hand_task

    return compile_hand(get_hand_task(subject.task), subject.shifts)


def _intact(subject: HandSubject) -> HandSubject:
    for other in named_subjects().values():
        if isinstance(other, HandSubject) and (other.task, other.dynamics) == (subject.task, "nominal"):
            return other
    raise CheckFailed(f"no nominal environment of the task {subject.task}")


def _hand_fields(subject: HandSubject) -> Facts:
    """Only what the shift sets, and what follows from it, differs from the intact hand; and something does."""
    from offdyn_envs.differences import FOLLOWING, changed_fields

    base, model = _hand_model(_intact(subject)), _hand_model(subject)
    changed = changed_fields(base, model)
    kind = subject.dynamics.rpartition("-")[0]
    if kind and not changed & _DECLARED_BY_HAND[kind]:
        raise CheckFailed("no field that the shift sets differs from the intact hand's")
    follows = FOLLOWING | {"tendon_invweight0"} if kind == "shrink-finger" else frozenset[str]()
    if undeclared := changed - _DECLARED_BY_HAND.get(kind, set()) - follows:
        raise CheckFailed(f"changed but not declared: {', '.join(sorted(undeclared))}")
    if not np.array_equal(base.body_mass, model.body_mass):
        raise CheckFailed("masses differ from the intact hand's; the models give them explicitly")
    return {
        "robot": subject.title,
        "changed_fields": sorted(changed),
        "set_fields": sorted(changed & _DECLARED_BY_HAND.get(kind, set())),
        "differences": [subject.changes] if kind else [],
        "mass_kg": float(model.body_mass.sum()),
    }


@lru_cache(maxsize=1)
def _hand_hashes() -> Mapping[str, str]:
    from offdyn_envs.models import model_hash

    hashes: dict[str, str] = {}
    for name, other in named_subjects().items():
        if isinstance(other, HandSubject):
            hashes.setdefault(model_hash(_hand_model(other)), name)
    return hashes


def _hand_hash(subject: HandSubject) -> Facts:
    """No other Adroit environment has the same model."""
    from offdyn_envs.models import model_hash

    own = model_hash(_hand_model(subject))
    owner = _hand_hashes().get(own, subject.name)
    if owner != subject.name:
        raise CheckFailed(f"the compiled model is that of {owner}, hash {own[:12]}")
    return {"model_sha256": own}


@lru_cache(maxsize=4)
def _hand_rollout(name: str) -> list[tuple[Any, Any, NDArray[np.float64]]]:
    """States that random actions visit on an intact hand, with the action and the next (qpos, qvel)."""
    subject = named_subjects()[name]
    env, rng = subject.make(), np.random.default_rng(0)
    hand: Any = env.unwrapped
    env.reset(seed=0)
    kept: list[tuple[Any, Any, NDArray[np.float64]]] = []
    for step in range(HAND_STATES * EVERY):
        action, before = random_action(env, rng), hand.get_state()
        _, _, terminated, truncated, _ = env.step(action)
        if step % EVERY == 0:
            kept.append((before, action, np.concatenate(hand.get_state()[:2])))
        if terminated or truncated:
            env.reset()
    env.close()
    return kept


def _hand_effect(subject: HandSubject) -> Facts:
    """The shift changes transitions: 200 states that random actions visit on the intact hand, the same actions."""
    rollout = _hand_rollout(_intact(subject).name)
    env = subject.make()
    hand: Any = env.unwrapped
    env.reset(seed=0)
    ends: list[NDArray[np.float64]] = []
    for before, action, _ in rollout:
        hand.set_state(*before)
        hand.step(action)
        ends.append(np.concatenate(hand.get_state()[:2]))
    env.close()
    nominal = np.stack([after for _, _, after in rollout])
    change, std = np.abs(np.stack(ends) - nominal), nominal.std(axis=0)
    share = float((change > 0.0).any(axis=1).mean())
    if subject.dynamics != "nominal" and not share:
        raise CheckFailed("no transition differs from the intact hand's")
    moving = std > 1e-6  # A fixture that random actions never move has no unit to measure in.
    return {"share_changed": share, "shift_size": float((change[:, moving] / std[moving]).mean())}


def _hand_resimulation(subject: HandSubject) -> Facts:
    """Every step of a rollout repeats bit for bit from (qpos, qvel, goal) in another environment."""
    env, other, rng = subject.make(), subject.make(), np.random.default_rng(1)
    hand: Any = env.unwrapped
    again: Any = other.unwrapped
    env.reset(seed=4)
    other.reset(seed=5)
    for step in range(100):
        action, before = random_action(env, rng), hand.get_state()
        expected = env.step(action)
        again.set_state(*before)
        got = again.step(action)
        if not same_outcome(expected, got) or any(map(_differ, hand.get_state(), again.get_state())):
            raise CheckFailed(f"step {step + 1} does not repeat from (qpos, qvel, goal)")
        if expected[2] or expected[3]:
            env.reset()
    for one in (env, other):
        one.close()
    return {}


def _differ(left: NDArray[np.float64], right: NDArray[np.float64]) -> bool:
    return not np.array_equal(left, right)


def refrigerator_checks(subject: Subject) -> Mapping[str, Callable[[], Facts]]:
    """Return the checks of the refrigerator by name.

    Args:
        subject: The environment.

    Returns:
        Functions that return facts or raise `CheckFailed`.
    """
    checks: dict[str, Callable[[Subject], Facts]] = {
        "batched": _refrigerator_batched,
        "re-simulation": _refrigerator_resimulation,
        "checker": check_with_gymnasium,
        "twins": compare_twins,
    }
    return {name: partial(check, subject) for name, check in checks.items()}


def _refrigerator_batched(subject: Subject) -> Facts:
    """A row of the batched refrigerator equals the scalar one."""
    from offdyn_envs.refrigerator import RefrigeratorVectorEnv

    batch, scalar, rng = RefrigeratorVectorEnv(3), subject.make().unwrapped, np.random.default_rng(2)
    same = np.array_equal(batch.reset(seed=7)[0][1], scalar.reset(seed=8)[0])
    for _ in range(500):  # Long enough for the door to open.
        actions = rng.uniform(0.0, 2.0, (3, 1)).astype(np.float32)
        observations, rewards, *_ = batch.step(actions)
        observation, reward, *_ = scalar.step(actions[1])
        same &= np.array_equal(observations[1], observation) and rewards[1] == reward
    if not same:
        raise CheckFailed("scalar and batched environment differ")
    return {"robot": subject.title}


def _refrigerator_resimulation(subject: Subject) -> Facts:
    """The true temperature repeats bit for bit from (temperature, door clock)."""
    env, again, rng = subject.make(), subject.make(), np.random.default_rng(3)
    hot: Any = env.unwrapped
    cold: Any = again.unwrapped
    env.reset(seed=0)
    again.reset(seed=1)
    for step in range(500):
        action, before = random_action(env, rng), hot.state
        env.step(action)
        cold.set_state(*before)
        cold.step(action)
        if hot.state[0] != cold.state[0]:
            raise CheckFailed(f"step {step + 1} does not repeat from (temperature, door clock)")
    return {}
