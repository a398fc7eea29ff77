"""What Gymnasium remembers of how an environment was made, as plain JSON."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from gymnasium.envs.registration import EnvSpec

__all__ = ["PlainSpec"]


class PlainSpec:
    """The attribute `spec` of an environment: whatever Gymnasium puts there becomes plain, so that `to_json` works.

    Shifts, schedules and attacks given as values turn into their JSON forms, numbers and arrays of NumPy and torch into
    Python's. What has no plain form stays as it is.
    """

    def __get__(self, env: Any, owner: type) -> EnvSpec | None:
        """Return how Gymnasium made the environment; None where it did not."""
        return None if env is None else vars(env).get("_spec")

    def __set__(self, env: Any, spec: EnvSpec | None) -> None:
        """Take a specification."""
        if spec is not None:
            spec = copy.copy(spec)
            spec.kwargs = _plain(spec.kwargs)
        vars(env)["_spec"] = spec


def _plain(value: Any) -> Any:
    if callable(getattr(value, "to_json", None)) and not isinstance(value, type):
        return value.to_json()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "ndim") and callable(getattr(value, "tolist", None)):  # An array or a tensor.
        return _plain(value.tolist()) if value.ndim else value.item()
    return value
