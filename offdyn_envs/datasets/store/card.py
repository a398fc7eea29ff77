"""The card of a dataset: returns, lengths and moments of its arrays, and where and how it was made."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.store.spec import Arrays

__all__ = ["LICENCE", "episode_returns", "platform_facts", "same_platform", "statistics", "versions"]

LICENCE = "MIT"
HISTOGRAM_BINS = 20


def episode_returns(arrays: Arrays) -> NDArray[np.float64]:
    """Return the undiscounted return of every episode, float64 [E], cut episodes included."""
    return np.add.reduceat(arrays.rewards.astype(np.float64), arrays.starts)


def whole_episodes(arrays: Arrays, max_steps: int) -> NDArray[np.bool_]:
    """Say which episodes ended by falling or at the time limit, bool [E]; the others were cut to fill the dataset."""
    last = arrays.starts + arrays.lengths - 1
    return arrays.terminations[last] | (arrays.lengths == max_steps)


def statistics(arrays: Arrays, max_steps: int) -> dict[str, Any]:
    """Summarise a dataset.

    Args:
        arrays: The arrays.
        max_steps: Time limit of an episode.

    Returns:
        Plain JSON: "returns" and "lengths" of the whole episodes (a cut one has no return), "moments" per dimension.
    """
    whole = whole_episodes(arrays, max_steps)
    returns, lengths = episode_returns(arrays)[whole], arrays.lengths[whole].astype(np.float64)
    return {
        "rows": len(arrays.rewards),
        "episodes": len(arrays.lengths),
        "whole_episodes": int(whole.sum()),
        "terminated_episodes": int(arrays.terminations.sum()),
        "returns": _distribution(returns),
        "lengths": _distribution(lengths),
        "moments": {
            key: _moments(array)
            for key, array in (
                ("observations", arrays.observations),
                ("actions", arrays.actions),
                ("rewards", arrays.rewards[:, None]),
            )
        },
    }


def _distribution(values: NDArray[np.float64]) -> dict[str, Any] | None:
    """Return mean, standard error, range and histogram; None where there is no whole episode."""
    if not len(values):
        return None
    counts, edges = np.histogram(values, bins=HISTOGRAM_BINS)
    return {
        "mean": float(values.mean()),
        "se": float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None,
        "std": float(values.std()),
        "min": float(values.min()),
        "median": float(np.median(values)),
        "max": float(values.max()),
        "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
    }


def _moments(array: NDArray[Any]) -> dict[str, list[float]]:
    """Return per-dimension mean, standard deviation and range, summed in float64."""
    mean = array.mean(axis=0, dtype=np.float64)
    return {
        "mean": mean.tolist(),
        "std": array.std(axis=0, dtype=np.float64).tolist(),
        "min": array.min(axis=0).astype(np.float64).tolist(),
        "max": array.max(axis=0).astype(np.float64).tolist(),
    }


def versions() -> dict[str, str]:
    """Return the versions that a rebuilt dataset depends on."""
    from offdyn_envs.version import __version__

    others = ("mujoco", "numpy", "gymnasium", "minari")
    return {"offdyn": __version__, **{name: importlib.metadata.version(name) for name in others}}


def platform_facts() -> dict[str, Any]:
    """Return the processor family: system, architecture and the vector extensions that NumPy found."""
    config: Any = np.show_config(mode="dicts")
    found = config.get("SIMD Extensions", {}).get("found", [])
    return {"system": platform.system(), "machine": platform.machine(), "simd": sorted(found)}


def same_platform(card: Mapping[str, Any]) -> bool:
    """Say whether a dataset was made by this MuJoCo version on this processor family, so that exactness is owed."""
    recorded, here = card["platform"], platform_facts()
    same_machine = recorded["system"] == here["system"] and recorded["machine"] == here["machine"]
    return bool(same_machine and card["versions"]["mujoco"] == versions()["mujoco"])
