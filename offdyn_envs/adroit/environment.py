"""The four Adroit environments: gymnasium-robotics' classes on models compiled from shifts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.adroit.hand import AdroitHand
from offdyn_envs.adroit.stock import AdroitHandDoorEnv, AdroitHandHammerEnv, AdroitHandPenEnv, AdroitHandRelocateEnv
from offdyn_envs.adroit.tasks import HAND_TASKS

__all__ = ["AdroitDoor", "AdroitHammer", "AdroitPen", "AdroitRelocate"]


class AdroitPen(AdroitHand, AdroitHandPenEnv):  # pyright: ignore[reportIncompatibleMethodOverride] stock never ends
    """Turn a pen in the hand until it points as the target does: 45 observations, 24 actions."""

    task = HAND_TASKS["pen"]

    def _prepare(self) -> None:
        super()._prepare()
        # Axes are divided by lengths that stock measures at reset; measured poses differ in the last bit. The target's
        # pose is the same in all steps.
        self._length_at_start = self._length("object")
        self.pen_length, self.tar_length = self._length_at_start, self._length("target")

    def set_state(
        self, qpos: NDArray[np.float64], qvel: NDArray[np.float64], goal: NDArray[np.float64] | None = None
    ) -> None:
        """Set the state, see `AdroitHand.set_state`."""
        super().set_state(qpos, qvel, goal)
        self.pen_length, self.tar_length = self._length_at_start, self._length("target")

    def _length(self, name: str) -> float:
        return float(np.linalg.norm(self.data.site(f"{name}_top").xpos - self.data.site(f"{name}_bottom").xpos))


class AdroitDoor(AdroitHand, AdroitHandDoorEnv):  # pyright: ignore[reportIncompatibleMethodOverride] stock never ends
    """Undo a latch and swing a door open: 39 observations, 28 actions, never terminates."""

    task = HAND_TASKS["door"]


class AdroitHammer(AdroitHand, AdroitHandHammerEnv):  # pyright: ignore[reportIncompatibleMethodOverride] stock never ends
    """Pick up a hammer and drive a nail into a board: 46 observations, 26 actions, never terminates."""

    task = HAND_TASKS["hammer"]


class AdroitRelocate(AdroitHand, AdroitHandRelocateEnv):  # pyright: ignore[reportIncompatibleMethodOverride] stock never ends
    """Carry a ball to a target: 39 observations, 30 actions, never terminates."""

    task = HAND_TASKS["relocate"]
