"""Sensors that are not exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError, shown
from offdyn_envs.shifts.base import BaseShift, Shift, number, several, whole
from offdyn_envs.shifts.registry import register_shift

if TYPE_CHECKING:
    import mujoco

    from offdyn_envs.robots import Robot

__all__ = ["Noise", "noises_of"]

STRENGTHS = (0.0, 1e3)
"""Smallest and largest standard deviation."""
STREAM = 3
"""Second number of the seed of an environment's noise; 1 is that of its attack, 2 that of who collects data."""


@register_shift
@dataclass(frozen=True)
class Noise(BaseShift):
    """Add normal noise to what is observed, drawn anew for every observation; state, reward and termination stay exact.

    The noise has a stream of its own, which the seed of `reset` starts, so that the reset states stay those of the
    nominal robot. An attack sees and disturbs the noisy observation.

    Attributes:
        std: Standard deviation, in the unit of each entry of the observation (m, rad, m/s, rad/s), 0 to 1000; 0 is
            nominal.
        entries: Numbers of the entries that are noisy; all where left out.

    Examples:
        >>> import offdyn_envs
        >>> offdyn_envs.Noise(0.01).describe(offdyn_envs.get_robot("hopper"))
        'normal noise of standard deviation 0.01 on every entry of the observation'
    """

    std: float
    entries: tuple[int, ...] | None = None
    kind: ClassVar[str] = "noise"
    amount: ClassVar[str] = "std"
    own_robots: ClassVar[bool] = True
    of_model: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", number("noise shift: std", self.std, *STRENGTHS))
        if self.entries is not None:
            object.__setattr__(self, "entries", _entries(self.entries))

    def to_json(self) -> dict[str, Any]:
        """Return the plain-JSON form: only what was given."""
        return super().to_json() | ({} if self.entries is None else {"entries": list(self.entries)})

    def check(self, robot: Robot) -> None:
        """Raise where the robot's observation has no such entry."""
        if self.entries is not None and max(self.entries) >= robot.observation_dim:
            last = robot.observation_dim - 1
            raise OffDynError(f"noise shift: entries of {robot.title} go from 0 to {last}, got {max(self.entries)}")

    def apply(self, spec: mujoco.MjSpec, robot: Robot, profile: str) -> None:
        """Leave the model as it is: the environment adds the noise."""

    def disturb(self, observation: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
        """Return a noisy observation.

        Args:
            observation: The exact one, [|S|].
            rng: The stream of the row.
        """
        noise = self.std * rng.standard_normal(len(observation))
        if self.entries is not None:
            kept = np.zeros(len(observation), dtype=bool)
            kept[list(self.entries)] = True
            noise[~kept] = 0.0
        return observation + noise

    def describe(self, robot: Robot) -> str:
        """Say in words what changes."""
        where = "every entry" if self.entries is None else f"entries {', '.join(map(str, self.entries))}"
        return f"normal noise of standard deviation {self.std:g} on {where} of the observation"


def noises_of(shifts: Sequence[Shift]) -> tuple[Noise, ...]:
    """Return the noises in a list of shifts, in order."""
    return tuple(shift for shift in shifts if isinstance(shift, Noise))


def _entries(value: object) -> tuple[int, ...]:
    numbers = several(value) or []
    found = [entry for item in numbers if (entry := whole(item)) is not None]
    if not numbers or len(found) != len(numbers) or len(set(found)) != len(found):
        raise OffDynError(f"noise shift: entries must be different whole numbers, 0 or above, got {shown(value)}")
    return tuple(found)
