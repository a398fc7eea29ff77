"""OpenGL without a screen: which backend MuJoCo draws with, and what to install where there is none."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from offdyn_envs.errors import OffDynError, unknown

__all__ = ["default_backend", "gl_context_class", "load_mujoco", "no_gl", "prepare_renderer"]

_BACKENDS = ("egl", "glfw", "osmesa")
_DEFAULT_NAMES = ("", "enable", "enabled", "on", "true", "1")


def default_backend(environ: Mapping[str, str], platform: str) -> str | None:
    """Return the value that MUJOCO_GL should get, where the user has left the choice open and there is no screen.

    Args:
        environ: Environment variables.
        platform: As `sys.platform` names it.

    Returns:
        "egl", or None where MuJoCo's own choice is right.
    """
    if environ.get("MUJOCO_GL", "").strip() or not platform.startswith("linux"):
        return None
    return None if environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY") else "egl"


def load_mujoco() -> Any:
    """Import MuJoCo with a backend that can draw on this machine; MUJOCO_GL is set where it was not.

    MuJoCo reads the variable when it is imported, and with a backend that cannot be loaded the import itself fails, so
    a variable set here is taken back when that happens.

    Returns:
        The module.

    Raises:
        OffDynError: The backend's library is missing.
    """
    chosen = default_backend(os.environ, sys.platform)
    if chosen is not None:
        os.environ["MUJOCO_GL"] = chosen
    try:
        return import_module("mujoco")
    except Exception as error:  # What PyOpenGL raises without a library differs between versions.
        if chosen is not None:
            del os.environ["MUJOCO_GL"]
        raise no_gl(error) from None


def gl_context_class() -> Any:
    """Return MuJoCo's class of OpenGL contexts for the backend in use.

    The class is looked up by backend, because MuJoCo may have been imported before the variable was set.

    Returns:
        A class; its instances take width and height in pixels.

    Raises:
        OffDynError: Drawing is switched off, or the backend is unknown or its library missing.
    """
    load_mujoco()
    wanted = os.environ.get("MUJOCO_GL", "").lower().strip()
    try:
        if wanted in _BACKENDS:
            return import_module(f"mujoco.{wanted}").GLContext
        if wanted in (*_DEFAULT_NAMES, "glx", "wgl", "cgl"):
            return import_module("mujoco.gl_context").GLContext
    except Exception as error:
        raise no_gl(error) from None
    raise unknown("backend in the variable MUJOCO_GL", wanted, _BACKENDS)


def no_gl(error: Exception) -> OffDynError:
    """Return the error for a machine on which OpenGL does not work.

    Args:
        error: What MuJoCo, PyOpenGL or GLFW raised.

    Returns:
        The error, one line.
    """
    backend = os.environ.get("MUJOCO_GL", "").strip() or default_backend(os.environ, sys.platform) or "default"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return OffDynError(
        f"cannot draw with OpenGL backend '{backend}' ({reason[:100]}); without a screen install "
        "EGL (Debian and Ubuntu: apt-get install libegl1 libgl1) and leave MUJOCO_GL unset or set it to egl"
    )


def make_context(width: int, height: int) -> Any:
    """Return a current OpenGL context for drawing into memory.

    Args:
        width: Pixels.
        height: Pixels.

    Returns:
        The context; call its `free()`.

    Raises:
        OffDynError: OpenGL does not work here.
    """
    cls = gl_context_class()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # GLFW warns where there is no screen, and then fails.
            context = cls(width, height)
            context.make_current()
    except Exception as error:
        raise no_gl(error) from None
    return context


def prepare_renderer(window: bool = False) -> None:
    """Choose what Gymnasium's renderer draws with where there is no screen; with a screen it chooses well itself.

    It would take GLFW, whose failure nobody notices in time: a window, or a second picture, ends the process.

    Args:
        window: Whether a window is wanted rather than pictures.

    Raises:
        OffDynError: EGL does not work here, or what is wanted needs a screen.
    """
    rest = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    if default_backend(rest, sys.platform) is None:
        return
    if window:
        raise OffDynError("there is no screen to open a window on; render_mode 'rgb_array' draws without one")
    wanted = os.environ.get("MUJOCO_GL", "").lower().strip()
    if wanted in ("glfw", "glx"):
        raise no_gl(RuntimeError("there is no screen"))
    if wanted:
        return
    try:
        make_context(16, 16).free()
    except OffDynError:
        os.environ.pop("MUJOCO_GL", None)
        raise
