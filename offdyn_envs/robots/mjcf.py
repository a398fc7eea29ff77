"""From where a robot says that its model is to a MuJoCo model."""

from __future__ import annotations

import importlib.util
import warnings
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offdyn_envs.errors import OffDynError, beginning, out_of_memory
from offdyn_envs.version import how_to_install

if TYPE_CHECKING:
    import mujoco

__all__ = ["compile_mjcf", "lasting_mjcf", "missing_package", "read_mjcf"]


def read_mjcf(name: str, mjcf: str | Path) -> mujoco.MjSpec:
    """Return a robot's model, not yet compiled.

    Args:
        name: The robot, for the message.
        mjcf: See `Robot.mjcf`.

    Raises:
        OffDynError: There is no such file, or it is no MJCF.
    """
    import mujoco

    path = "" if _is_text(mjcf) else str(_file(name, mjcf))
    try:
        if path:
            return mujoco.MjSpec.from_file(path)
        read: Any = mujoco.MjSpec
        return read.from_string(str(mjcf).lstrip())
    except ValueError as error:
        raise out_of_memory(error) or OffDynError(f"robot '{name}': its model cannot be read: {_line(error)}") from None


def lasting_mjcf(name: str, mjcf: str | Path) -> str | Path:
    """Return where a robot's model is so that it is found from every working directory.

    Args:
        name: The robot, for the message.
        mjcf: See `Robot.mjcf`.

    Raises:
        OffDynError: There is no such file.
    """
    if _is_text(mjcf):
        return mjcf
    path = _file(name, mjcf)
    return type(mjcf)(path.absolute()) if path == Path(mjcf) else mjcf  # Otherwise in the folder of a package.


def missing_package(mjcf: str | Path) -> str:
    """Return the name of the package that a model is in, where it is not installed; empty otherwise."""
    package = _package(mjcf)
    return package if package and _module(package) is None else ""


def compile_mjcf(spec: mujoco.MjSpec, trouble: str) -> mujoco.MjModel:
    """Compile a model.

    Args:
        spec: The model.
        trouble: What to say where MuJoCo refuses it, before the reason.

    Raises:
        OffDynError: MuJoCo refuses it.
    """
    with warnings.catch_warnings():
        # HalfCheetah's model asks for a total mass of 14 kg through an attribute that newer MuJoCo calls deprecated.
        warnings.filterwarnings("ignore", message=".*settotalmass.*")
        try:
            return spec.compile()
        except ValueError as error:
            raise out_of_memory(error) or OffDynError(f"{trouble}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(beginning(error, 300).split())


def _is_text(mjcf: str | Path) -> bool:
    return isinstance(mjcf, str) and mjcf.lstrip().startswith("<")


def _package(mjcf: str | Path) -> str:
    """Return the package that "package:folder/file.xml" names; empty for other models."""
    package, colon, _ = str(mjcf).partition(":")
    named = isinstance(mjcf, str) and not _is_text(mjcf) and colon and package.replace(".", "").isidentifier()
    return package if named else ""


def _module(package: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(package)
    except ModuleNotFoundError:
        return None


def _file(name: str, mjcf: str | Path) -> Path:
    found = [Path(mjcf)]
    if package := _package(mjcf):
        module = _module(package)
        if module is None:
            extra = f": {how_to_install('adroit')}" if package == "gymnasium_robotics" else ""
            raise OffDynError(f"robot '{name}': its model is in the package '{package}', which is not installed{extra}")
        inside = str(mjcf).partition(":")[2]
        found += [Path(folder, inside) for folder in module.submodule_search_locations or ()]
    elif found[0].name == str(mjcf):
        import gymnasium

        # The suite's own come from here whatever lies in the working directory.
        found.insert(0, Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / found[0])
    for path in found:
        if path.is_file():
            return path
    raise OffDynError(f"robot '{name}': there is no model file {beginning(mjcf, 200)}")
