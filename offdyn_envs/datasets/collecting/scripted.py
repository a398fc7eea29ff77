"""Collecting with a policy that somebody wrote as a function."""

from __future__ import annotations

import hashlib
import inspect

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError, beginning
from offdyn_envs.robots.registry import Policy

__all__ = ["ScriptedBehaviour"]


class ScriptedBehaviour:
    """Actions of a function of observations and noise, see `offdyn_envs.register_robot`.

    Attributes:
        sha256: Of the function's source text; of its code where there is no text. It tells two policies apart.
    """

    def __init__(self, robot: str, quality: str, policy: Policy) -> None:
        """Take a policy.

        Args:
            robot: Name of the robot, for messages.
            quality: Of the policy, likewise.
            policy: Maps observations [B, |S|] and standard normal noise [B, |A|] to actions [B, |A|].
        """
        self._policy, self._what = policy, f"robot '{robot}': its '{quality}' policy"
        self.sha256 = hashlib.sha256(_text(policy)).hexdigest()

    def noise(self, rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Draw standard normal numbers, float32 [T, |A|]."""
        return rng.standard_normal(shape, dtype=np.float32)

    def act(self, observations: NDArray[np.float32], noise: NDArray[np.float32]) -> NDArray[np.float32]:
        """Ask the policy; its actions are clipped to [-1, 1]."""
        try:
            actions = np.asarray(self._policy(observations, noise), dtype=np.float32)
        except Exception as error:
            raise OffDynError(f"{self._what} fails: {type(error).__name__}: {beginning(error, 200)}") from error
        if actions.shape != noise.shape or not np.isfinite(actions).all():
            raise OffDynError(
                f"{self._what} returns {list(actions.shape)}; finite numbers {list(noise.shape)} are needed"
            )
        return np.clip(actions, -1.0, 1.0)


def _text(policy: Policy) -> bytes:
    try:
        return inspect.getsource(policy).encode()
    except (OSError, TypeError):
        code = getattr(policy, "__code__", None)
        return repr(policy).encode() if code is None else code.co_code + repr(code.co_consts).encode()
