"""Golden values are computed with networks in float64 NumPy, written apart from `offdyn_agents.engine.networks`."""

import numpy as np


def relu(x):
    return np.maximum(x, 0.0)


def swish(x):
    return x / (1.0 + np.exp(-x))


def net(params, x, activation=relu):
    """Evaluate [W0, b0, ...] of one network; the last layer is linear."""
    arrays = [tensor.double().numpy() for tensor in params]
    for i in range(0, len(arrays), 2):
        x = x @ arrays[i] + arrays[i + 1]
        if i < len(arrays) - 2:
            x = activation(x)
    return x


def twins(params, s, a):
    """Evaluate two critics: [2, ...]."""
    pair = np.concatenate([s, a], axis=-1)
    return np.stack([net([tensor[k] for tensor in params], pair)[..., 0] for k in range(2)])
