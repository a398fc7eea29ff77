"""From where a robot says that its model is to a MuJoCo model."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offdyn_envs.errors import OffDynError, beginning, out_of_memory
from offdyn_envs.version import how_to_install

if TYPE_CHECKING:
    import mujoco

__all__ = ["compile_mjcf", "read_mjcf"]


def read_mjcf(name: str, mjcf: str | Path) -> mujoco.MjSpec:
    """Return a robot's model, not yet compiled.

    Args:
        name: The robot, for the message.
        mjcf: See `Robot.mjcf`.

    Raises:
        OffDynError: There is no such file, or it is no MJCF.
    """
    import mujoco

    text = mjcf.lstrip() if isinstance(mjcf, str) else ""
    path = "" if text.startswith("<") else str(_file(name, mjcf))
    try:
        if path:
            return mujoco.MjSpec.from_file(path)
        read: Any = mujoco.MjSpec
        return read.from_string(text)
    except ValueError as error:
        raise out_of_memory(error) or OffDynError(f"robot '{name}': its model cannot be read: {_line(error)}") from None


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


def _file(name: str, mjcf: str | Path) -> Path:
    package, colon, inside = str(mjcf).partition(":")
    found = [Path(mjcf)]
    if isinstance(mjcf, str) and colon and package.replace(".", "").isidentifier():
        try:
            module = find_spec(package)
        except ModuleNotFoundError:
            module = None
        if module is None:
            extra = f": {how_to_install('adroit')}" if package == "gymnasium_robotics" else ""
            raise OffDynError(f"robot '{name}': its model is in the package '{package}', which is not installed{extra}")
        found += [Path(folder, inside) for folder in module.submodule_search_locations or ()]
    elif found[0].name == str(mjcf):
        import gymnasium

        # The suite's own come from here whatever lies in the working directory.
        found.insert(0, Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / found[0])
    for path in found:
        if path.is_file():
            return path
    raise OffDynError(f"robot '{name}': there is no model file {beginning(mjcf, 200)}")
