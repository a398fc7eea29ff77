"""Scalar environments that draw without a screen, and whose copies go on where they are."""

from __future__ import annotations

from typing import Any, cast

import mujoco
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import EzPickle

from offdyn_envs.models import restore_model
from offdyn_envs.rendering.gl import prepare_renderer
from offdyn_envs.scalar.plain import PlainSpec

__all__ = ["ScalarEnvironment"]


class ScalarEnvironment(MujocoEnv, EzPickle):
    """A MuJoCo environment of one robot or hand; `copy.deepcopy` and `pickle` keep the state of its episode."""

    spec: EnvSpec | None = cast(Any, PlainSpec())

    def render(self) -> Any:
        """Draw as `render_mode` says.

        Returns:
            What Gymnasium's MuJoCo environments return.

        Raises:
            OffDynError: There is no screen, and a window is wanted or EGL does not work here.
        """
        if self.render_mode is not None:
            prepare_renderer(window=self.render_mode == "human")
        return super().render()

    def __getstate__(self) -> dict[str, Any]:
        """Return the arguments, from which a copy is made anew, and whatever has become of the environment since."""
        arguments = super().__getstate__()
        # A renderer holds a window or a context of this process; the robot is known by its name.
        apart = {*arguments, "mujoco_renderer", "model", "data", "robot"}
        running = {name: value for name, value in vars(self).items() if name not in apart}
        return {**arguments, "running": running, "model": self.model, "data": self.data}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the environment anew and bring it to where it was."""
        super().__setstate__(state)
        vars(self).update(state["running"])
        restore_model(self.model, state["model"])
        mujoco.mj_copyData(self.data, self.model, state["data"])
