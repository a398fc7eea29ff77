"""From a learner's snapshot to a policy file that NumPy alone can evaluate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.policies import BehaviourPolicy

# Bounds of the log standard deviation of the soft actor-critic; the learner clamps to the same ones.
LOG_STD_RANGE = (-5.0, 2.0)
_Layer = tuple[NDArray[np.float32], NDArray[np.float32]]


def policy_from_snapshot(snapshot: dict[str, NDArray[np.float64]]) -> BehaviourPolicy:
    """Fold the normalisation in and name the distribution.

    Args:
        snapshot: float64 arrays: "w0", "b0", "w1", ... layers (weights [in, out]) with the head of the mean last;
            "mean" and "std" [|S|] when the learner normalises observations; and either "log_std" [|A|] (a Gaussian
            that is clipped, tanh layers) or "std_w", "std_b" (a squashed Gaussian, ReLU layers).

    Returns:
        The policy. Folding is done in double precision, then rounded once.
    """
    count = sum(name[0] == "w" and name[1:].isdigit() for name in snapshot)
    layers = [(snapshot[f"w{i}"], snapshot[f"b{i}"]) for i in range(count)]
    if "mean" in snapshot:
        weights, bias = layers[0]
        scaled = weights / snapshot["std"][:, None]
        layers[0] = (scaled, bias - snapshot["mean"] @ scaled)
    *hidden, mean = [_layer(*layer) for layer in layers]
    if "log_std" in snapshot:
        return BehaviourPolicy(
            hidden=hidden,
            mean=mean,
            log_std=snapshot["log_std"].astype(np.float32),
            activation="tanh",
            distribution="clipped-gaussian",
        )
    return BehaviourPolicy(
        hidden=hidden,
        mean=mean,
        log_std=_layer(snapshot["std_w"], snapshot["std_b"]),
        log_std_range=LOG_STD_RANGE,
        activation="relu",
        distribution="tanh-gaussian",
    )


def _layer(weights: NDArray[np.float64], bias: NDArray[np.float64]) -> _Layer:
    return weights.astype(np.float32), bias.astype(np.float32)
