"""The min-Q attack: the observation under which the policy picks what a critic likes least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.attacks.base import Observations, half_widths, inside, is_whole
from offdyn_envs.attacks.descent import difference_gradient, paths
from offdyn_envs.errors import OffDynError, shown, unknown

__all__ = [
    "MIN_Q_SAMPLES",
    "MIN_Q_STARTS",
    "MIN_Q_STEPS",
    "ORDERS",
    "CriticFunction",
    "GradientFunction",
    "MinQAttack",
    "PolicyFunction",
]

Floats = NDArray[np.float64]
PolicyFunction = Callable[[NDArray[Any]], NDArray[Any]]
CriticFunction = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
GradientFunction = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]

ORDERS = ("zeroth", "mixed")
MIN_Q_SAMPLES = 50
MIN_Q_STARTS = 20
MIN_Q_STEPS = 10
_MOST = 100_000


@dataclass(frozen=True)
class MinQAttack:
    """Min-Q attack: the worst of many points of the box and of no perturbation at all.

    The perturbed observation is s + argmin over delta of Q(s, pi(s + delta)), with Q at the clean s. delta = 0 is
    always a candidate, so the attacked value is never above the clean one; points whose value is not finite are passed
    over, and where the clean value is not finite the observation stays clean. Rows are searched one by one: what a row
    gets does not depend on how many stand beside it, not even by the rounding of a large matrix product. With
    `rows_together` several are searched in one call, which is faster and gives that up.

    Zeroth order, the standard, draws uniform samples. Mixed order descends from uniform starts with Adam (learning
    rate 0.1 * eps in units of sigma, projected to the box at every step) and takes the best of all points on the way.
    Without `gradient` it differentiates numerically, at 2 |S| evaluations per start and step: about a hundred times
    the cost of zeroth order.

    Attributes:
        scale: eps, the box's half-width in units of sigma.
        sigma: Standard deviation of the target dataset's observations, [|S|].
        policy: pi, deterministic: observations [M, |S|] to actions [M, |A|], judged clipped to [-1, 1].
        critic: Q, the minimum of twin critics: (observations [M, |S|], actions [M, |A|]) to values [M].
        samples: Zeroth order: uniform samples per observation.
        order: "zeroth" or "mixed".
        starts: Mixed order: uniform starts per observation.
        steps: Mixed order: Adam steps from each start.
        gradient: Mixed order, optional: d Q(s, pi(s + delta)) / d delta as a function of the perturbed observations
            s + delta [M, |S|] and the clean ones s [M, |S|], of the same shape; for instance from automatic
            differentiation.
        rows_together: Zeroth order: rows that are searched in one call of policy and critic.
    """

    scale: float
    sigma: Sequence[float] | NDArray[Any]
    policy: PolicyFunction
    critic: CriticFunction
    samples: int = MIN_Q_SAMPLES
    order: str = "zeroth"
    starts: int = MIN_Q_STARTS
    steps: int = MIN_Q_STEPS
    gradient: GradientFunction | None = None
    rows_together: int = 1

    def __post_init__(self) -> None:
        half_widths(self.scale, self.sigma)
        if not isinstance(self.order, str) or self.order not in ORDERS:
            raise unknown("order of the min-q attack", self.order, ORDERS)
        for name in ("samples", "starts", "steps", "rows_together"):
            value = getattr(self, name)
            if not is_whole(value, _MOST):
                raise OffDynError(f"attack: {name} must be a whole number above 0, at most {_MOST}, got {shown(value)}")
        for name in ("policy", "critic"):
            if not callable(getattr(self, name)):
                raise OffDynError(f"attack: {name} must be a function, got {shown(getattr(self, name))}")
        if self.gradient is not None and (self.order != "mixed" or not callable(self.gradient)):
            allowed = "a function" if self.order == "mixed" else "left out: only order 'mixed' takes one"
            raise OffDynError(f"attack: gradient must be {allowed}, got {shown(self.gradient)}")

    @cached_property
    def _box(self) -> Floats:
        return half_widths(self.scale, self.sigma)

    def perturb(self, observations: Observations, rngs: Sequence[np.random.Generator]) -> Observations:
        """Search the box; see `Attack.perturb`.

        Raises:
            OffDynError: A function returned an array of a wrong shape.
        """
        seen = np.array(observations, dtype=np.float64)
        size = self.rows_together if self.order == "zeroth" else 1
        for start in range(0, len(seen), size):
            part = slice(start, start + size)
            seen[part] = self._worst(seen[part].copy(), rngs[part])
        return seen

    def _worst(self, clean: Floats, rngs: Sequence[np.random.Generator]) -> Floats:
        """Return the worst point of the box around each of a few observations, [B, |S|]."""
        positions = np.stack([self._positions(row, rng) for row, rng in zip(clean, rngs, strict=True)])
        candidates = np.concatenate((clean[:, None], self._points(clean[:, None], positions)), axis=1)
        count = candidates.shape[1]
        values = self._values(np.repeat(clean, count, axis=0), candidates.reshape(-1, clean.shape[1]))
        values = values.reshape(len(clean), count)
        # A critic that overflows must not hide a real minimum.
        worst = np.where(np.isfinite(values), values, np.inf).argmin(axis=1)
        worst[~np.isfinite(values[:, 0])] = 0
        return candidates[np.arange(len(clean)), worst]

    def _positions(self, clean: Floats, rng: np.random.Generator) -> Floats:
        """Return where to look, in units of the box, [M, |S|]."""
        if self.order == "zeroth":
            return rng.uniform(-1.0, 1.0, size=(self.samples, len(clean)))
        starts = rng.uniform(-1.0, 1.0, size=(self.starts, len(clean)))
        return paths(starts, self.steps, lambda positions: self._slope(clean, positions))

    def _slope(self, clean: Floats, positions: Floats) -> Floats:
        """Return d Q / d position, [M, |S|]."""
        if self.gradient is None:
            wide = np.flatnonzero(self._box > 0)
            return difference_gradient(positions, wide, lambda probes: self._around(clean, probes))
        points = self._points(clean, positions)
        slope = np.asarray(self.gradient(points, _repeated(clean, len(points))), dtype=np.float64)
        if slope.shape != positions.shape:
            raise OffDynError(f"attack: gradient gave shape {slope.shape}; {positions.shape} is needed")
        with np.errstate(over="ignore", invalid="ignore"):
            return slope * self._box

    def _points(self, clean: Floats, positions: Floats) -> Floats:
        with np.errstate(over="ignore"):
            return inside(clean + positions * self._box, clean, self._box)

    def _around(self, clean: Floats, positions: Floats) -> Floats:
        """Return Q(clean, pi(point)) at positions around one observation, [M]."""
        return self._values(_repeated(clean, len(positions)), self._points(clean, positions))

    def _values(self, clean: Floats, points: Floats) -> Floats:
        """Return Q(clean, pi(point)) of pairs, both [M, |S|]; [M]."""
        count = len(points)
        # A policy that normalises its input in place must not move the candidates.
        actions = np.asarray(self.policy(points.copy()))
        if actions.ndim != 2 or len(actions) != count:
            raise OffDynError(f"attack: policy gave shape {actions.shape}; ({count}, |A|) is needed")
        # The critic judges what would be executed: actuators clip to [-1, 1].
        values = np.asarray(self.critic(clean, np.clip(actions, -1.0, 1.0)), dtype=np.float64)
        if values.shape not in ((count,), (count, 1)):
            raise OffDynError(f"attack: critic gave shape {values.shape}; ({count},) is needed")
        return values.reshape(count)


def _repeated(clean: Floats, count: int) -> Floats:
    return np.repeat(clean[None], count, axis=0)
