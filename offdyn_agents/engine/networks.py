"""Multilayer perceptrons whose parameters carry any number of leading axes.

A network is a flat list of tensors [W0, b0, W1, b1, ...] with W of shape [*lead, in, out] and b of shape
[*lead, 1, out]. Nothing here asks how many leading axes there are: a loss written for one run (no leading axes, or two
critics) is the loss of a population once every tensor has a run axis in front.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

Params = list[Tensor]


@dataclass(frozen=True)
class Network:
    """Shape of one network of an agent.

    Attributes:
        sizes: Widths from input to output, for example (14, 256, 256, 1).
        copies: Number of networks of this shape that are evaluated together (2 for twin critics); 0 for a single one,
            without that axis.
    """

    sizes: tuple[int, ...]
    copies: int = 0

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the tensors of one run, in order W0, b0, W1, b1, ..."""
        lead = (self.copies,) if self.copies else ()
        shapes: list[tuple[int, ...]] = []
        for fan_in, fan_out in zip(self.sizes[:-1], self.sizes[1:], strict=True):
            shapes += [(*lead, fan_in, fan_out), (*lead, 1, fan_out)]
        return shapes

    def initial(self, generator: torch.Generator) -> Params:
        """Return one run's parameters: uniform in +-1/sqrt(fan_in), weights and biases, as PyTorch's linear layers.

        Drawn on the CPU, so that a seed means the same network on every device.
        """
        params: Params = []
        for index, shape in enumerate(self.shapes()):
            bound = self.sizes[index // 2] ** -0.5
            params.append((torch.rand(shape, generator=generator) * 2.0 - 1.0) * bound)
        return params


@dataclass(frozen=True)
class Constant:
    """A single trained number of an agent, for example the logarithm of a temperature; a list of one tensor [*lead].

    Attributes:
        start: Its value before the first update.
    """

    start: float = 0.0

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the one shape of one run."""
        return [()]

    def initial(self, generator: torch.Generator) -> Params:
        """Return one run's number; nothing is drawn."""
        del generator
        return [torch.tensor(self.start)]


def detached(params: Params) -> Params:
    """The same numbers, through which no gradient flows: a critic inside an actor's loss."""
    return [tensor.detach() for tensor in params]


def stack(members: Sequence[Params]) -> Params:
    """Stack the parameters of R runs along a new leading axis."""
    return [torch.stack(tensors) for tensors in zip(*members, strict=True)]


def member(params: Params, run: int) -> Params:
    """The parameters of one run out of a stacked population (views)."""
    return [tensor[run] for tensor in params]


def mlp(params: Params, x: Tensor, activation: Callable[[Tensor], Tensor] = torch.relu) -> Tensor:
    """Evaluate a network.

    Autocast rounds all products but the last, which costs little: rounded itself, a value of 300 would be one of 300
    and 302, and what lies between would have no error to learn from.

    Args:
        params: [W0, b0, ...] with W [*lead, in, out].
        x: inputs [*lead, batch, in], or with axes of size one that broadcast against lead.
        activation: between the layers; the output is linear.

    Returns:
        [*lead, batch, out].
    """
    last = len(params) - 2
    for index in range(0, len(params), 2):
        # Product and added bias: faster than baddbmm on CPUs, as the addition joins the activation's compiled loop.
        with _unrounded(x.device.type) if index == last else nullcontext():
            x = torch.matmul(x, params[index]) + params[index + 1]
        if index != last:
            x = activation(x)
    return x


def _unrounded(device: str) -> AbstractContextManager[Any]:
    """Return the context of products in fp32, inside autocast too."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


class MLPsInTurn:
    """Stacked networks evaluated on the same many rows, one network after the other, without gradients.

    On a CPU this is faster than stacked products: 40 discriminators took a third of the time for 20,480 rows on one
    thread of an Intel Xeon with AMX, and under autocast to bf16, from which stacked products gain nothing, a tenth.

    Args:
        params: [W0, b0, ...] with W [K, in, out]; not to be changed in place while this is in use.
    """

    def __init__(self, params: Params) -> None:
        self.networks: list[Params] = [list(network) for network in zip(*params, strict=True)]

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate the networks.

        Args:
            x: inputs [batch, in].

        Returns:
            [K, batch, out], float32.
        """
        networks, layer = self.networks, _layer
        # oneDNN's ReLU makes a number of what is none.
        if _fuses(x) and bool(torch.isfinite(x).all()):
            networks, layer, x = self._rounded, _fused_layer, x.bfloat16()
        parts: list[Tensor] = []
        with torch.no_grad():
            for network in networks:
                hidden = x
                for index in range(0, len(network), 2):
                    hidden = layer(hidden, network[index], network[index + 1], index != len(network) - 2)
                parts.append(hidden.float())
        return torch.stack(parts)

    @cached_property
    def _rounded(self) -> list[Params]:
        """The networks as `_fused_layer` takes them: bf16, W [out, in], b [out]."""
        rounded = [[tensor.detach().bfloat16() for tensor in network] for network in self.networks]
        return [
            [tensor.squeeze(0) if index % 2 else tensor.mT.contiguous() for index, tensor in enumerate(network)]
            for network in rounded
        ]


def _layer(x: Tensor, weight: Tensor, bias: Tensor, inner: bool) -> Tensor:
    """Return one layer of `MLPsInTurn`, with ReLU if it is an inner one."""
    x = torch.addmm(bias, x, weight)
    return x.relu_() if inner else x


def _fused_layer(x: Tensor, weight: Tensor, bias: Tensor, inner: bool) -> Tensor:
    """Return what `_layer` returns under autocast to bf16, in one pass instead of three."""
    return _LINEAR(x, weight, bias, "relu" if inner else "none", [], "")


_LINEAR: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""oneDNN's product with bias and activation, to which compiled models come down; None where PyTorch lacks it."""


def _fuses(x: Tensor) -> bool:
    """Whether `_fused_layer` is what autocast asks for, and is there."""
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return False
    rounds = torch.get_autocast_dtype("cpu") is torch.bfloat16
    return rounds and _LINEAR is not None and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def value(params: Params, observations: Tensor) -> Tensor:
    """Evaluate V: [*lead, batch, |S|] -> [*lead, batch]."""
    return mlp(params, observations).squeeze(-1)


def twin(params: Params, observations: Tensor, actions: Tensor) -> Tensor:
    """Evaluate stacked critics: [*lead, batch, |S|], [*lead, batch, |A|] -> [*lead, copies, batch]."""
    pairs = torch.cat([observations, actions], dim=-1)
    return mlp(params, pairs.unsqueeze(-3)).squeeze(-1)


def policy(params: Params, observations: Tensor) -> Tensor:
    """Evaluate a tanh-squashed mean: [*lead, batch, |S|] -> [*lead, batch, |A|] in (-1, 1)."""
    return torch.tanh(mlp(params, observations))
