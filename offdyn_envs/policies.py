"""Behaviour policies: small networks that NumPy alone can evaluate, kept as safetensors beside a JSON card."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.atomic import write_bytes, write_json
from offdyn_envs.errors import OffDynError, unknown

__all__ = ["BehaviourPolicy", "read_card"]

Array = NDArray[np.float32]
Layer = tuple[Array, Array]
ACTIVATIONS = ("tanh", "relu")
DISTRIBUTIONS = ("tanh-gaussian", "clipped-gaussian")
FORMAT = "1"


def _activate(name: str, values: Array) -> Array:
    return np.tanh(values) if name == "tanh" else np.maximum(values, np.float32(0.0))


def _size(array: Array) -> int:
    return int(array.shape[0]) if array.ndim else 0


def _check_tensor(array: Array, shape: tuple[int, ...], name: str) -> None:
    if array.shape != shape or 0 in shape:
        raise OffDynError(f"tensor '{name}' is {list(array.shape)}; expected {list(shape)}, no side of them 0")
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise OffDynError(f"tensor '{name}' ({array.dtype}) must hold finite floating-point numbers")


def _check_layer(layer: Layer, inputs: int, outputs: int | None, name: str) -> int:
    """Check that a layer takes what the one before it gives; return its width."""
    width = _size(layer[1]) if outputs is None else outputs
    _check_tensor(layer[0], (inputs, width), f"{name}.weight")
    _check_tensor(layer[1], (width,), f"{name}.bias")
    return width


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
        low, high = self.log_std_range
        if not -np.inf < low <= high < np.inf:
            raise OffDynError(f"log_std_range is {low} to {high}; expected two finite numbers, the smaller one first")
        width = self.observation_dim
        for index, layer in enumerate(self.hidden):
            width = _check_layer(layer, width, None, f"hidden.{index}")
        _check_layer(self.mean, width, None, "mean")
        if isinstance(self.log_std, tuple):
            _check_layer(self.log_std, width, self.action_dim, "log_std")
        else:
            _check_tensor(self.log_std, (self.action_dim,), "log_std")

    @property
    def observation_dim(self) -> int:
        """|S|."""
        return _size((self.hidden[0] if self.hidden else self.mean)[0])

    @property
    def action_dim(self) -> int:
        """|A|."""
        return _size(self.mean[1])

    def act(self, observations: NDArray[Any], rng: np.random.Generator | None = None) -> Array:
        """Return actions.

        Args:
            observations: [B, |S|].
            rng: Source of the Gaussian noise, one draw [B, |A|] per call; None gives the deterministic action.

        Returns:
            Actions in [-1, 1], float32, [B, |A|].
        """
        if rng is not None:
            shape = (*np.shape(observations)[:-1], self.action_dim)
            return self.sample(observations, rng.standard_normal(shape, dtype=np.float32))
        return self._bounded(self._mean(observations)[1])

    def sample(self, observations: NDArray[Any], noise: Array) -> Array:
        """Return the actions that given Gaussian noise leads to.

        Args:
            observations: [..., B, |S|].
            noise: Standard normal numbers, float32, [..., B, |A|].

        Returns:
            Actions in [-1, 1], float32, of the shape of `noise`.
        """
        features, mean = self._mean(observations)
        return self._bounded(mean + np.exp(self._log_std(features)) * noise)

    def _mean(self, observations: NDArray[Any]) -> tuple[Array, Array]:
        """Return the last hidden features and the mean before squashing."""
        features = np.asarray(observations, dtype=np.float32)
        for weights, bias in self.hidden:
            features = _activate(self.activation, features @ weights + bias)
        return features, features @ self.mean[0] + self.mean[1]

    def _bounded(self, values: Array) -> Array:
        squashed = np.tanh(values) if self.distribution == "tanh-gaussian" else values
        return np.clip(squashed, -1.0, 1.0).astype(np.float32, copy=False)

    def _log_std(self, features: Array) -> Array:
        raw = features @ self.log_std[0] + self.log_std[1] if isinstance(self.log_std, tuple) else self.log_std
        return np.clip(raw, *self.log_std_range)

    def save(self, path: str | os.PathLike[str], card: Mapping[str, Any]) -> None:
        """Write the policy and its card, each atomically, the card last.

        The card holds the SHA-256 of the policy file: where a killed process has left a new policy beside an old card,
        reading either says so.

        Args:
            path: A `.safetensors` file; the card goes beside it as `.json`.
            card: What is known of the policy: returns, training, versions; "policy_sha256" is filled in here.
        """
        from safetensors.numpy import save

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
        content = save(tensors, metadata=metadata)
        write_bytes(path, content)
        digest = hashlib.sha256(content).hexdigest()
        write_json(Path(path).with_suffix(".json"), {**card, "policy_sha256": digest})

    @staticmethod
    def load(path: str | os.PathLike[str]) -> BehaviourPolicy:
        """Read a policy.

        Args:
            path: A `.safetensors` file written by `save`.

        Returns:
            The policy.

        Raises:
            OffDynError: The file is missing, truncated, of a newer format, lacks a tensor, has tensors that do not fit
                together or are not finite, or is not the one that the card beside it describes.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata: dict[str, str] = file.metadata() or {}
                tensors = {str(name): file.get_tensor(name) for name in file.keys()}
        except FileNotFoundError:
            raise OffDynError(f"no behaviour policy at {path}") from None
        except (SafetensorError, OSError, TypeError) as error:  # TypeError: a number format that NumPy lacks.
            raise OffDynError(f"{path} is no readable safetensors file: {error}") from None
        if metadata.get("format") != FORMAT:
            raise OffDynError(f"{path}: policy format {metadata.get('format')!r}; this version reads {FORMAT!r}")
        if Path(path).with_suffix(".json").exists():
            read_card(path)
        try:
            return _from_tensors(tensors, metadata)
        except KeyError as error:
            raise OffDynError(f"{path}: tensor or entry {error} is missing") from None
        except OffDynError as error:
            raise OffDynError(f"{path}: {error}") from None


def _from_tensors(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> BehaviourPolicy:
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32:
            raise OffDynError(f"tensor '{name}' is {tensor.dtype}; expected float32")
    count = len({name.split(".")[1] for name in tensors if name.startswith("hidden.")})
    return BehaviourPolicy(
        hidden=[(tensors[f"hidden.{index}.weight"], tensors[f"hidden.{index}.bias"]) for index in range(count)],
        mean=(tensors["mean.weight"], tensors["mean.bias"]),
        log_std=tensors["log_std"] if "log_std" in tensors else (tensors["log_std.weight"], tensors["log_std.bias"]),
        log_std_range=_range(metadata["log_std_range"]),
        activation=metadata["activation"],
        distribution=metadata["distribution"],
    )


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = json.loads(text)
        return float(low), float(high)
    except (ValueError, TypeError, OverflowError):
        raise OffDynError(f"entry 'log_std_range' is {text[:60]!r}; expected a list of two numbers") from None


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the card beside a policy file.

    Args:
        path: The policy's `.safetensors` file.

    Returns:
        The card.

    Raises:
        OffDynError: The card is missing, no JSON object, without its "policy_sha256", with damaged "returns", or the
            policy file is missing or not the one that the card describes.
    """
    policy, card = Path(path), Path(path).with_suffix(".json")
    try:
        value = json.loads(card.read_text(encoding="utf-8"))
        digest = _digest(policy)
    except FileNotFoundError as error:
        raise OffDynError(f"no behaviour policy with its card at {error.filename}") from None
    except (OSError, ValueError) as error:
        raise OffDynError(f"{card} is no readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise OffDynError(f"{card} must hold a JSON object")
    if value.get("policy_sha256") != digest:
        found = str(value.get("policy_sha256"))[:70]
        raise OffDynError(f"{card}: key 'policy_sha256' is {found!r}; expected {digest}, that of {policy.name}")
    _check_returns(value.get("returns", {}), card)
    return value


def _check_returns(returns: Any, card: Path) -> None:
    """Check the measured returns: per way of acting, an object of finite numbers."""
    ways = returns.values() if isinstance(returns, dict) else [None]
    if not all(isinstance(way, dict) and all(map(_is_number, way.values())) for way in ways):
        raise OffDynError(f"{card}: key 'returns' is {str(returns)[:60]!r}; expected objects of finite numbers by name")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < np.inf
