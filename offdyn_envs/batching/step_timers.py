"""MuJoCo's step timers, which cost 8 to 30% of a control step, off.

MuJoCo reads the clock around every stage of a step and adds it up in `MjData.timer`, wherever a clock is installed as
`mjcb_time`; its Python package installs one, and `mujoco.set_mjcb_time(None)` brings that one back. No clock at all,
MuJoCo's own default, can only be had through the C variable.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

import mujoco

__all__ = ["start_step_timers", "stop_step_timers"]

_LIBRARIES = ("libmujoco.so*", "libmujoco*.dylib", "mujoco.dll")
_kept = False


@lru_cache(maxsize=1)
def _clock() -> ctypes.c_void_p | None:
    """Return MuJoCo's variable `mjcb_time`, None where its library is laid out in a way unknown here."""
    folder = Path(mujoco.__file__).parent
    try:
        library = next(path for pattern in _LIBRARIES for path in sorted(folder.glob(pattern)))
        return ctypes.c_void_p.in_dll(ctypes.CDLL(str(library)), "mjcb_time")
    except (StopIteration, OSError, ValueError):
        return None


def stop_step_timers() -> bool:
    """Turn the timers off, for all of this process; results do not depend on them.

    A clock that the user has installed with `mujoco.set_mjcb_time` stays, and so do the timers after
    `start_step_timers(keep=True)`.

    Returns:
        Whether no clock is read now.
    """
    clock = _clock()
    if _kept or clock is None or mujoco.get_mjcb_time() is not None:
        return False
    if clock.value is not None:
        clock.value = None
    return True


def start_step_timers(*, keep: bool = False) -> None:
    """Turn the timers on again, as MuJoCo's Python package does when it is imported.

    Args:
        keep: Leave them on, also where a batched environment would turn them off.
    """
    global _kept
    _kept = keep
    mujoco.set_mjcb_time(None)
