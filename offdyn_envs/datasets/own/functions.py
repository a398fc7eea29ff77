"""What is imported only when it is asked for: packages of an extra, and the user's own functions."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError, beginning, unknown
from offdyn_envs.version import how_to_install

__all__ = ["computed_rewards", "load_function", "needed", "source_file"]

EXTRA = "tables"


def needed(package: str) -> Any:
    """Import a package that the extra brings.

    Args:
        package: For instance "pyarrow.parquet".

    Raises:
        OffDynError: It is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        missing = package.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != missing:
            raise
        raise OffDynError(f"this needs '{missing}', which is not installed: {how_to_install(EXTRA)}") from None


def load_function(name: str, what: str) -> Callable[..., Any]:
    """Import a function of the user's; modules of the current folder are found too.

    Args:
        name: "module:function".
        what: What messages call it, for instance "reward function".

    Raises:
        OffDynError: The module cannot be imported, or has no such function.
    """
    module, _, inner = name.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        loaded = importlib.import_module(module)
    except Exception as error:  # Whatever the user's module does.
        raise OffDynError(f"{what} '{name}' cannot be imported: {type(error).__name__}: {error}") from None
    finally:
        sys.path.remove(here)
    found = getattr(loaded, inner, None)
    if not callable(found):
        functions = [key for key, value in vars(loaded).items() if callable(value) and not key.startswith("_")]
        raise OffDynError(f"{what} '{name}' cannot be imported: {unknown('function', inner, functions)}")
    return found


def source_file(function: Callable[..., Any]) -> Path | None:
    """Return the file in which a function is written; None where there is none."""
    try:
        return Path(inspect.getsourcefile(function) or "") if inspect.getsourcefile(function) else None
    except TypeError:
        return None


def computed_rewards(
    name: str, observations: NDArray[Any], actions: NDArray[Any], next_observations: NDArray[Any]
) -> NDArray[np.float32]:
    """Call a reward function and check what it returns.

    Args:
        name: "module:function".
        observations: [N, |S|].
        actions: [N, |A|], in their own units.
        next_observations: [N, |S|].

    Returns:
        float32 [N].

    Raises:
        OffDynError: It cannot be imported, raises, or returns another shape, other things than numbers, or numbers that
            are not finite.
    """
    what = f"reward function '{name}'"
    function = load_function(name, "reward function")
    try:
        returned = np.asarray(function(observations, actions, next_observations))
    except Exception as error:  # Whatever the user's function does.
        raise OffDynError(f"{what} fails: {type(error).__name__}: {beginning(error, 200)}") from None
    wanted = f"[{len(observations)}]"
    if returned.dtype.kind not in "biuf":
        raise OffDynError(f"{what} returns {returned.dtype}; numbers {wanted} are wanted")
    if returned.shape != (len(observations),):
        raise OffDynError(f"{what} returns shape {list(returned.shape)}; {wanted} is wanted")
    rewards = returned.astype(np.float32)
    if not np.isfinite(rewards).all():
        row = int(np.argmin(np.isfinite(rewards)))
        raise OffDynError(f"{what} returns {rewards[row]} for row {row}; finite numbers are wanted")
    return rewards
