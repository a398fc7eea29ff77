"""What we take from gymnasium-robotics: four environment classes and the models. Importing this needs the extra."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

from offdyn_envs.errors import OffDynError
from offdyn_envs.version import how_to_install

__all__ = [
    "ASSETS",
    "ROBOTICS_VERSION",
    "AdroitHandDoorEnv",
    "AdroitHandHammerEnv",
    "AdroitHandPenEnv",
    "AdroitHandRelocateEnv",
]

_printed = io.StringIO()
try:
    with contextlib.redirect_stderr(_printed):
        import gymnasium_robotics
        from gymnasium_robotics.envs.adroit_hand import (
            AdroitHandDoorEnv,
            AdroitHandHammerEnv,
            AdroitHandPenEnv,
            AdroitHandRelocateEnv,
        )
except ModuleNotFoundError as error:
    raise OffDynError(
        f"the Adroit environments need '{error.name}', which is not installed: {how_to_install('adroit')}"
    ) from None
# The package prints a notice about the sign of its dense rewards; ours come from offdyn_envs.adroit.rewards.
sys.stderr.write("".join(line for line in _printed.getvalue().splitlines(keepends=True) if "AdroitHand" not in line))

ROBOTICS_VERSION: str = gymnasium_robotics.__version__
"""Version of gymnasium-robotics, the source of the models."""

ASSETS = Path(gymnasium_robotics.__file__).parent / "envs" / "assets" / "adroit_hand"
"""Folder of the model files."""
