"""Exported policies as functions of NumPy arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offdyn_envs.errors import OffDynError

__all__ = ["CONTRACT", "POLICY", "Policy", "load_policy"]

POLICY, CONTRACT = "policy.onnx", "contract.json"


class Policy:
    """A deterministic policy: observations to actions, both in the units of the data.

    Attributes:
        path: The ONNX file.
        contract: What `contract.json` beside it says: names, units, bounds; empty where there is none.
    """

    def __init__(self, path: Path) -> None:
        from offdyn_envs.benchmark.gate.onnx_policy import load_policy as load

        self.path = path
        self._policy = load(path)
        told = path.with_name(CONTRACT)
        self.contract: dict[str, Any] = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {}

    def __call__(self, observations: ArrayLike) -> NDArray[np.float32]:
        """Return the actions for one observation [|S|] or for many [..., |S|].

        Raises:
            OffDynError: Observations of another length.
        """
        array = np.asarray(observations, dtype=np.float32)
        width = self._policy.observation_dim
        if array.ndim == 0 or array.shape[-1] != width:
            raise OffDynError(f"policy '{self.path}': observations of shape {array.shape}; [..., {width}] is allowed")
        actions = self._policy(array.reshape(-1, width))
        return actions.reshape(*array.shape[:-1], self._policy.action_dim)

    def __repr__(self) -> str:
        return f"Policy('{self.path}')"


def load_policy(path: str | Path) -> Policy:
    """Load an exported policy.

    Args:
        path: A `policy.onnx`, or the folder that holds it.

    Raises:
        OffDynError: There is none, or it breaks a rule of the gate.

    Examples:
        >>> import offdyn
        >>> from offdyn_agents.testing import dataset
        >>> target = dataset(100, seed=1)
        >>> run = offdyn.fit(offdyn.agents.BC(width=16), None, target, seeds=1, updates=20, progress=False)
        >>> policy = offdyn.load_policy(run.folder / "seeds" / "0")
        >>> policy(target.observations[:3]).shape
        (3, 2)
    """
    place = Path(path)
    place = place / POLICY if place.is_dir() else place
    if not place.is_file():
        raise OffDynError(f"'{place}' does not exist; offdyn.load_run(FOLDER).export(...) writes it")
    return Policy(place)
