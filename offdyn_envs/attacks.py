"""Observation attacks at test time: what the policy sees is moved inside a box, the simulator's state is not touched.

The box is eps * sigma around the clean observation, sigma the per-dimension standard deviation of the observations in
the target dataset. Min-Q is the attack of the DROCO paper: the observation under which the policy picks the action
that a critic likes least, judged at the clean observation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.robots import Robot

__all__ = ["Attack", "MinQAttack", "RandomAttack", "make_attack"]

Observations = NDArray[np.float64]
PolicyFunction = Callable[[NDArray[Any]], NDArray[Any]]
CriticFunction = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
ATTACK_KINDS = ("random", "min-q")
MIN_Q_SAMPLES = 50


class Attack(Protocol):
    """What every observation attack can do."""

    def perturb(self, observations: Observations, rngs: Sequence[np.random.Generator]) -> Observations:
        """Return what the policy gets to see.

        Args:
            observations: Clean observations, [B, |S|].
            rngs: One generator per row, so that rows do not depend on each other, B.

        Returns:
            Perturbed observations, [B, |S|].
        """
        ...


def _box(scale: float, sigma: Sequence[float] | NDArray[Any]) -> NDArray[np.float64]:
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale) or scale < 0:
        raise OffDynError(f"attack: scale must be a finite number, 0 or above, got {str(scale)[:60]!r}")
    try:
        spread = np.asarray(sigma, dtype=np.float64)
    except (TypeError, ValueError):
        raise OffDynError(f"attack: sigma must be a list of numbers, got {str(sigma)[:60]!r}") from None
    if spread.ndim != 1 or not np.isfinite(spread).all() or (spread < 0).any():
        raise OffDynError("attack: sigma must be a flat list of finite numbers, 0 or above, one per observation")
    return scale * spread


def _noise(box: NDArray[np.float64], shape: tuple[int, ...], rngs: Sequence[np.random.Generator]) -> Observations:
    return np.stack([rng.uniform(-1.0, 1.0, size=shape) for rng in rngs]) * box


def _inside(perturbed: Observations, clean: Observations, box: NDArray[np.float64]) -> Observations:
    # Clipping keeps the sum inside the box where rounding of clean + noise would leave it.
    return np.clip(perturbed, clean - box, clean + box)


@dataclass(frozen=True)
class RandomAttack:
    """Uniform noise in the box.

    Attributes:
        scale: eps, the box's half-width in units of sigma; the standard grid is .05, .1, .15, .2, .3.
        sigma: Standard deviation of the target dataset's observations, [|S|].
    """

    scale: float
    sigma: Sequence[float] | NDArray[Any]

    def __post_init__(self) -> None:
        _box(self.scale, self.sigma)

    def perturb(self, observations: Observations, rngs: Sequence[np.random.Generator]) -> Observations:
        """Add the noise; see `Attack.perturb`."""
        box = _box(self.scale, self.sigma)
        return _inside(observations + _noise(box, (observations.shape[-1],), rngs), observations, box)


@dataclass(frozen=True)
class MinQAttack:
    """Zeroth-order min-Q attack: the worst of uniform samples and of no perturbation at all.

    The perturbed observation is s + argmin over delta of Q(s, pi(s + delta)), with Q at the clean s, so the attacked
    value is never above the clean one.

    Attributes:
        scale: eps, the box's half-width in units of sigma.
        sigma: Standard deviation of the target dataset's observations, [|S|].
        policy: pi, deterministic: observations [M, |S|] to actions [M, |A|].
        critic: Q, the minimum of twin critics: (observations [M, |S|], actions [M, |A|]) to values [M].
        samples: Uniform samples per observation.
    """

    scale: float
    sigma: Sequence[float] | NDArray[Any]
    policy: PolicyFunction
    critic: CriticFunction
    samples: int = MIN_Q_SAMPLES

    def __post_init__(self) -> None:
        _box(self.scale, self.sigma)
        if isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 1:
            raise OffDynError(f"attack: samples must be a whole number above 0, got {str(self.samples)[:60]!r}")

    def perturb(self, observations: Observations, rngs: Sequence[np.random.Generator]) -> Observations:
        """Search the box; see `Attack.perturb`."""
        rows, dim = observations.shape
        box = _box(self.scale, self.sigma)
        clean = observations[:, None, :]
        drawn = _inside(clean + _noise(box, (self.samples, dim), rngs), clean, box)
        candidates = np.concatenate((clean, drawn), axis=1)
        count = candidates.shape[1]
        # The critic judges what would be executed: actuators clip to [-1, 1].
        actions = np.clip(np.asarray(self.policy(candidates.reshape(rows * count, dim))), -1.0, 1.0)
        values = np.asarray(self.critic(np.repeat(observations, count, axis=0), actions), dtype=np.float64)
        # A critic that overflows must not hide a real minimum; with no finite value the observation stays clean.
        values = np.where(np.isfinite(values), values, np.inf).reshape(rows, count)
        return candidates[np.arange(rows), values.argmin(axis=1)]


def _network(value: object, name: str, load: Callable[[Path], Any]) -> Any:
    if callable(value):
        return value
    if not isinstance(value, str | Path):
        raise OffDynError(f"attack: {name} must be the path of an ONNX file or a function, got {str(value)[:60]!r}")
    return load(Path(value))


def make_attack(value: Mapping[str, Any] | Attack, robot: Robot) -> Attack:
    """Read an attack given as a value or as a plain JSON object.

    Args:
        value: An attack, or for instance `{"kind": "random", "scale": 0.2, "sigma": [...]}` or
            `{"kind": "min-q", "scale": 0.2, "sigma": [...], "policy": "policy.onnx", "critic": "critic.onnx"}`.
        robot: The robot whose observations are attacked.

    Returns:
        The attack as a value.

    Raises:
        OffDynError: An unknown kind or parameter, a missing one, or a value out of range.
    """
    if isinstance(value, RandomAttack | MinQAttack):
        attack = value
    elif isinstance(value, Mapping):
        attack = _from_json(value)
    elif hasattr(value, "perturb"):
        return value
    else:
        raise OffDynError(f"attack must be an object such as {{'kind': 'random', ...}}, got {str(value)[:60]!r}")
    if len(attack.sigma) != robot.observation_dim:
        raise OffDynError(f"attack: sigma has {len(attack.sigma)} entries; {robot.name} has {robot.observation_dim}")
    return attack


def _from_json(value: Mapping[str, Any]) -> RandomAttack | MinQAttack:
    fields = dict(value)
    kind = fields.pop("kind", None)
    if kind not in ATTACK_KINDS:
        raise unknown("attack kind", kind, ATTACK_KINDS)
    required = {"scale", "sigma"} | ({"policy", "critic"} if kind == "min-q" else set())
    allowed = required | ({"samples"} if kind == "min-q" else set())
    for name in fields:
        if name not in allowed:
            raise unknown(f"parameter of the {kind} attack", name, sorted(allowed))
    for name in sorted(required - set(fields)):
        raise OffDynError(f"{kind} attack: parameter '{name}' is missing")
    if kind == "random":
        return RandomAttack(fields["scale"], fields["sigma"])
    from offdyn_envs.benchmark.onnx_policy import load_critic, load_policy

    policy = _network(fields["policy"], "policy", load_policy)
    critic = _network(fields["critic"], "critic", load_critic)
    return MinQAttack(fields["scale"], fields["sigma"], policy, critic, fields.get("samples", MIN_Q_SAMPLES))
