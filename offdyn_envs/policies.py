"""Behaviour policies: small networks that NumPy alone can evaluate, kept as safetensors beside a JSON card."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.atomic import atomic_write, write_json
from offdyn_envs.errors import OffDynError, unknown

__all__ = ["BehaviourPolicy", "read_card"]

Array = NDArray[np.float32]
Layer = tuple[Array, Array]
ACTIVATIONS = ("tanh", "relu")
DISTRIBUTIONS = ("tanh-gaussian", "clipped-gaussian")
FORMAT = "1"


def _activate(name: str, values: Array) -> Array:
    return np.tanh(values) if name == "tanh" else np.maximum(values, np.float32(0.0))


@dataclass(frozen=True)
class BehaviourPolicy:
    """A Gaussian policy with its observation normalisation folded into the first layer.

    Attributes:
        hidden: Hidden layers, (weights [in, out], bias [out]) in float32.
        mean: Head of the mean, (weights [hidden, |A|], bias [|A|]).
        log_std: Log standard deviation: one vector [|A|], or a head (weights, bias) like `mean`.
        log_std_range: Bounds of the log standard deviation.
        activation: Of the hidden layers, "tanh" or "relu".
        distribution: "tanh-gaussian" squashes the sample; "clipped-gaussian" clips it to [-1, 1].
    """

    hidden: Sequence[Layer]
    mean: Layer
    log_std: Array | Layer
    log_std_range: tuple[float, float] = (-20.0, 2.0)
    activation: str = "relu"
    distribution: str = "tanh-gaussian"

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise unknown("activation", self.activation, ACTIVATIONS)
        if self.distribution not in DISTRIBUTIONS:
            raise unknown("policy distribution", self.distribution, DISTRIBUTIONS)

    @property
    def observation_dim(self) -> int:
        """|S|."""
        return int((self.hidden[0] if self.hidden else self.mean)[0].shape[0])

    @property
    def action_dim(self) -> int:
        """|A|."""
        return int(self.mean[1].shape[0])

    def act(self, observations: NDArray[Any], rng: np.random.Generator | None = None) -> Array:
        """Return actions.

        Args:
            observations: [B, |S|].
            rng: Source of the Gaussian noise, one draw [B, |A|] per call; None gives the deterministic action.

        Returns:
            Actions in [-1, 1], float32, [B, |A|].
        """
        features = np.asarray(observations, dtype=np.float32)
        for weights, bias in self.hidden:
            features = _activate(self.activation, features @ weights + bias)
        values = features @ self.mean[0] + self.mean[1]
        if rng is not None:
            noise = rng.standard_normal(values.shape, dtype=np.float32)
            values = values + np.exp(self._log_std(features)) * noise
        squashed = np.tanh(values) if self.distribution == "tanh-gaussian" else values
        return np.clip(squashed, -1.0, 1.0).astype(np.float32, copy=False)

    def _log_std(self, features: Array) -> Array:
        raw = features @ self.log_std[0] + self.log_std[1] if isinstance(self.log_std, tuple) else self.log_std
        return np.clip(raw, *self.log_std_range)

    def save(self, path: str | os.PathLike[str], card: Mapping[str, Any]) -> None:
        """Write the policy and its card, each atomically, the card last.

        Args:
            path: A `.safetensors` file; the card goes beside it as `.json`.
            card: What is known of the policy: returns, training, versions.
        """
        from safetensors.numpy import save_file

        tensors: dict[str, Array] = {}
        for index, layer in enumerate(self.hidden):
            tensors[f"hidden.{index}.weight"], tensors[f"hidden.{index}.bias"] = layer
        tensors["mean.weight"], tensors["mean.bias"] = self.mean
        if isinstance(self.log_std, tuple):
            tensors["log_std.weight"], tensors["log_std.bias"] = self.log_std
        else:
            tensors["log_std"] = self.log_std
        tensors = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}
        metadata = {
            "format": FORMAT,
            "activation": self.activation,
            "distribution": self.distribution,
            "log_std_range": json.dumps(self.log_std_range),
        }
        with atomic_write(path) as temporary:
            save_file(tensors, str(temporary), metadata=metadata)
        write_json(Path(path).with_suffix(".json"), dict(card))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> BehaviourPolicy:
        """Read a policy.

        Args:
            path: A `.safetensors` file written by `save`.

        Returns:
            The policy.

        Raises:
            OffDynError: The file is missing, truncated, of a newer format or lacks a tensor.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata: dict[str, str] = file.metadata() or {}
                tensors = {str(name): file.get_tensor(name) for name in file.keys()}
        except FileNotFoundError:
            raise OffDynError(f"no behaviour policy at {path}") from None
        except (SafetensorError, OSError) as error:
            raise OffDynError(f"{path} is no readable safetensors file: {error}") from None
        if metadata.get("format") != FORMAT:
            raise OffDynError(f"{path}: policy format {metadata.get('format')!r}; this version reads {FORMAT!r}")
        try:
            return _from_tensors(tensors, metadata)
        except KeyError as error:
            raise OffDynError(f"{path}: tensor or entry {error} is missing") from None


def _from_tensors(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> BehaviourPolicy:
    count = sum(name.startswith("hidden.") and name.endswith(".weight") for name in tensors)
    low, high = json.loads(metadata["log_std_range"])
    return BehaviourPolicy(
        hidden=[(tensors[f"hidden.{index}.weight"], tensors[f"hidden.{index}.bias"]) for index in range(count)],
        mean=(tensors["mean.weight"], tensors["mean.bias"]),
        log_std=tensors["log_std"] if "log_std" in tensors else (tensors["log_std.weight"], tensors["log_std.bias"]),
        log_std_range=(float(low), float(high)),
        activation=metadata["activation"],
        distribution=metadata["distribution"],
    )


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the card beside a policy file.

    Args:
        path: The policy's `.safetensors` file.

    Returns:
        The card.

    Raises:
        OffDynError: The card is missing or no JSON object.
    """
    card = Path(path).with_suffix(".json")
    try:
        value = json.loads(card.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OffDynError(f"no policy card at {card}") from None
    except ValueError as error:
        raise OffDynError(f"{card} is no readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise OffDynError(f"{card} must hold a JSON object")
    return value
