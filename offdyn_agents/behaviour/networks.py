"""The small networks of the behaviour policies."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

__all__ = ["layers_of", "tanh_network"]


def tanh_network(inputs: int, hidden: int, outputs: int, gain: float, generator: torch.Generator) -> nn.Sequential:
    """Two hidden tanh layers, drawn orthogonal.

    Args:
        inputs: numbers in.
        hidden: width of both hidden layers.
        outputs: numbers out.
        gain: of the last layer.
        generator: what draws.

    Returns:
        The network.
    """
    layers = [nn.Linear(inputs, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, outputs)]
    for layer, scale in zip(layers, (math.sqrt(2.0), math.sqrt(2.0), gain), strict=True):
        nn.init.orthogonal_(layer.weight, scale, generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def layers_of(network: nn.Sequential) -> dict[str, NDArray[np.float64]]:
    """The layers of a network as a snapshot names them: "w0" [in, out], "b0", "w1", ...

    Args:
        network: the network.

    Returns:
        Copies in float64.
    """
    arrays: dict[str, NDArray[np.float64]] = {}
    for i, layer in enumerate(layer for layer in network if isinstance(layer, nn.Linear)):
        arrays[f"w{i}"] = layer.weight.detach().T.double().numpy().copy()
        arrays[f"b{i}"] = layer.bias.detach().double().numpy().copy()
    return arrays
