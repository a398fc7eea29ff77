"""ONNX policies and critics as NumPy callables, behind the gate.

Loading runs the gate, then a probe: outputs must be finite on ordinary and extreme inputs, and a row's output must not
depend on the other rows of its batch, because episodes are evaluated side by side. For files from strangers use
`verification`, which does all this inside a sandbox.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offdyn_envs.benchmark.gate.gate import ModelKind, Signature, inspect_model, read_model, weights_digest
from offdyn_envs.benchmark.gate.printable import printable
from offdyn_envs.errors import OffDynError

__all__ = ["OnnxCritic", "OnnxPolicy", "load_critic", "load_policy"]

Floats = NDArray[np.float32]

EXTREME = 1e6
"""Largest input magnitude of the probe: far beyond any robot's state, far inside float32."""


class _Model:
    """One inference session of a gated file."""

    def __init__(
        self, data: bytes, kind: ModelKind, observation_dim: int | None, action_dim: int | None, label: str
    ) -> None:
        self.signature: Signature = inspect_model(
            data, kind, observation_dim=observation_dim, action_dim=action_dim, label=label
        )
        self._session = _session(data, label)
        self._label = label
        self._arguments = data, kind, observation_dim, action_dim, label

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold the file's bytes, which pass the gate again."""
        return type(self), self._arguments

    @property
    def observation_dim(self) -> int:
        """Width of an observation."""
        return self.signature.observation_dim

    @property
    def action_dim(self) -> int:
        """Width of an action."""
        return self.signature.action_dim

    @property
    def sha256(self) -> str:
        """Hex digest of the file."""
        return self.signature.sha256

    @property
    def weights(self) -> str:
        """Hex digest of the weights, whatever the file looks like."""
        return weights_digest(self._arguments[0])

    def _run(self, output: str, inputs: dict[str, Floats], shape: tuple[int, ...]) -> Floats:
        try:
            result = np.asarray(self._session.run([output], inputs)[0])
        except Exception as error:  # onnxruntime raises a family of unrelated classes
            raise OffDynError(f"{self._label} fails in inference: {_first_line(error)}") from None
        if result.shape != shape or result.dtype != np.float32:
            raise OffDynError(
                f"{self._label} returns '{output}' of shape {result.shape} {result.dtype}; {shape} float32 is allowed"
            )
        return result


class OnnxPolicy(_Model):
    """A deterministic policy: observations [B, |S|] to actions [B, |A|], float32.

    Outputs are returned as the graph gives them; rollouts clip them to the action space.
    """

    def __call__(self, observations: ArrayLike) -> Floats:
        """Returns the actions of a batch of observations.

        Args:
            observations: Shape [B, |S|]; cast to float32.

        Raises:
            OffDynError: The shape is wrong or inference fails.
        """
        batch = _batch(observations, self.observation_dim, "observations")
        return self._run("action", {"observation": batch}, (len(batch), self.action_dim))


class OnnxCritic(_Model):
    """A critic: observations [B, |S|] and actions [B, |A|] to q values [B], float32."""

    def __call__(self, observations: ArrayLike, actions: ArrayLike) -> Floats:
        """Returns the values of a batch of state-action pairs.

        Args:
            observations: Shape [B, |S|]; cast to float32.
            actions: Shape [B, |A|]; cast to float32.

        Raises:
            OffDynError: A shape is wrong or inference fails.
        """
        batch = _batch(observations, self.observation_dim, "observations")
        inputs = {"observation": batch, "action": _batch(actions, self.action_dim, "actions")}
        return self._run("q", inputs, (len(batch),))


def load_policy(
    source: str | Path | bytes,
    *,
    observation_dim: int | None = None,
    action_dim: int | None = None,
    label: str | None = None,
) -> OnnxPolicy:
    """Loads a policy after the gate and the probe.

    Args:
        source: A path, or the bytes of a file.
        observation_dim: Required width of `observation`; any when None.
        action_dim: Required width of `action`; any when None.
        label: How error messages call the file; the path by default.

    Raises:
        OffDynError: The file breaks a rule of the gate or of the probe.
    """
    data, name = _open(source, label, "policy")
    policy = OnnxPolicy(data, "policy", observation_dim, action_dim, name)
    inputs = _probe_inputs(policy.observation_dim)
    _check_probe(policy(inputs), np.concatenate([policy(row[None]) for row in inputs]), name)
    return policy


def load_critic(
    source: str | Path | bytes,
    *,
    observation_dim: int | None = None,
    action_dim: int | None = None,
    label: str | None = None,
) -> OnnxCritic:
    """Loads a critic after the gate and the probe; arguments and errors as `load_policy`."""
    data, name = _open(source, label, "critic")
    critic = OnnxCritic(data, "critic", observation_dim, action_dim, name)
    observations = _probe_inputs(critic.observation_dim)
    actions = np.resize(_probe_inputs(critic.action_dim), (len(observations), critic.action_dim)).clip(-1, 1)
    rows = [critic(observation[None], action[None]) for observation, action in zip(observations, actions, strict=True)]
    _check_probe(critic(observations, actions), np.concatenate(rows), name)
    return critic


def _open(source: str | Path | bytes, label: str | None, kind: str) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        return source, label or kind
    return read_model(source), label or f"{kind} '{source}'"


def _session(data: bytes, label: str) -> Any:
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(data, sess_options=options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a family of unrelated classes
        raise OffDynError(f"{label} cannot be loaded: {_first_line(error)}") from None


def _probe_inputs(width: int) -> Floats:
    rng = np.random.default_rng(0)
    ordinary = rng.standard_normal((4, width))
    extreme = np.stack(
        [np.full(width, EXTREME), np.full(width, -EXTREME), EXTREME * np.where(np.arange(width) % 2, 1.0, -1.0)]
    )
    return np.concatenate([np.zeros((1, width)), ordinary, 100.0 * ordinary, extreme]).astype(np.float32)


def _check_probe(batched: Floats, single: Floats, label: str) -> None:
    if not (np.isfinite(batched).all() and np.isfinite(single).all()):
        raise OffDynError(f"{label} gives non-finite outputs on finite inputs up to {EXTREME:g}")
    tolerance = 1e-3 * (1.0 + np.abs(single).max())
    if np.abs(batched - single).max() > tolerance:
        raise OffDynError(
            f"{label} gives a row another output when other rows stand beside it; rows must be independent"
        )


def _batch(values: ArrayLike, width: int, what: str) -> Floats:
    array = np.ascontiguousarray(values, dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != width:
        raise OffDynError(f"{what} of shape {array.shape}; [batch, {width}] is allowed")
    return array


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return printable(text[0] if text else type(error).__name__, 200)
