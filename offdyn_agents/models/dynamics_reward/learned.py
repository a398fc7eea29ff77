"""A network in training: parameters, Adam's moments, and one step down an objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from offdyn_agents.engine.execution import bound, can_compile, compile_flat, warn_uncompiled
from offdyn_agents.engine.networks import Params
from offdyn_agents.engine.update import adam, scales

__all__ = ["Learned", "falling"]

Objective = Callable[..., Tensor]
"""Maps parameters and any tensors to a loss []."""


LAST_RATE = 0.1
"""Share of a falling step size that is left at the end."""


def falling(rate: float, gone: float) -> float:
    """Return a step size that falls in a straight line to a tenth; `gone` is the share of the training that is over."""
    return rate * (1.0 - (1.0 - LAST_RATE) * gone)


class Learned:
    """A network and how it learns.

    Args:
        params: Initial parameters on their device; changed in place.
        objective: What falls.
        rate: Adam's step size.
        norm: Bound of the gradient's norm.
    """

    def __init__(self, params: Params, objective: Objective, rate: float, norm: float = math.inf) -> None:
        self.params = params
        self.first = [torch.zeros_like(tensor) for tensor in params]
        self.second = [torch.zeros_like(tensor) for tensor in params]
        self.rate, self.steps, self.size = rate, 0, len(params)

        def step(*tensors: Tensor) -> None:
            state, scale, inputs = tensors[: 3 * self.size], tensors[3 * self.size], tensors[3 * self.size + 1 :]
            parameters = list(state[: self.size])
            gradients: list[Tensor] = torch.func.grad(objective)(parameters, *inputs)
            with torch.no_grad():
                if norm < math.inf:
                    length = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
                    shrink = (norm / (length + 1e-8)).clamp(max=1.0)
                    gradients = [gradient * shrink for gradient in gradients]
                rest = (state[self.size : 2 * self.size], state[2 * self.size :])
                for parameter, gradient, first, second in zip(parameters, gradients, *rest, strict=True):
                    adam(parameter, gradient, first, second, scale[0], scale[2])

        self._step: Callable[..., Any] = step

    def compile(self, examples: tuple[Tensor, ...], threads: int) -> bool:
        """Compile the step for inputs of these shapes, on a GPU as a graph; return whether that worked."""
        device = examples[0].device
        if not can_compile(device):
            return False
        try:
            arguments = self._arguments(examples)
            compiled = compile_flat(self._step, arguments, device, threads)
            state, rest = arguments[: 3 * self.size], arguments[3 * self.size :]
            self._step = bound(compiled, state, rest)
        except Exception as error:
            warn_uncompiled(error)
            return False
        return True

    def step(self, *inputs: Tensor) -> None:
        """Take one step with these inputs of the objective."""
        self._step(*self._arguments(inputs))
        self.steps += 1

    def _arguments(self, inputs: tuple[Tensor, ...]) -> list[Tensor]:
        scale = scales(self.rate, self.steps, 1)[0].to(inputs[0].device)
        # A compiled step takes rows as they lie in memory in its examples.
        return [*self.params, *self.first, *self.second, scale, *(tensor.contiguous() for tensor in inputs)]

    def state(self) -> dict[str, Tensor]:
        """Return everything that changes, by name."""
        parts = {"params": self.params, "first": self.first, "second": self.second}
        tensors = {f"{kind}.{i}": tensor for kind, part in parts.items() for i, tensor in enumerate(part)}
        return tensors | {"steps": torch.tensor(self.steps)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned.

        Raises:
            KeyError: Something is missing.
        """
        for kind, part in {"params": self.params, "first": self.first, "second": self.second}.items():
            for i, tensor in enumerate(part):
                tensor.copy_(state[f"{kind}.{i}"])
        self.steps = int(state["steps"])
