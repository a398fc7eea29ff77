"""Where MuJoCo's warnings go: to the logger "offdyn.mujoco" instead of a MUJOCO_LOG.TXT in the working directory."""

from __future__ import annotations

import logging

import mujoco

__all__ = ["log_simulator_warnings"]

_log = logging.getLogger("offdyn.mujoco")


def log_simulator_warnings() -> None:
    """Send the warnings of every simulation of this process to the logger, at the level WARNING.

    By default MuJoCo appends each of them, for instance of a simulation that blew up, to a file in the working
    directory. A handler that the user has installed with `mujoco.set_mju_user_warning` stays; `mujoco.
    set_mju_user_warning(None)` brings the file back. The environments also report such a step as `infos["diverged"]`.
    """
    if getattr(mujoco, "get_mju_user_warning", lambda: None)() is None:
        mujoco.set_mju_user_warning(_log.warning)
