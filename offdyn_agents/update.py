"""One update of a population: losses, gradients, Adam, averaged copies, as a single function that can be compiled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offdyn_agents.agent import Agent
from offdyn_agents.data import Layout
from offdyn_agents.networks import Params, stack

__all__ = ["Population", "Update", "adam", "initial_population", "make_update", "scales"]

Groups = dict[str, Params]
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Population:
    """Everything an update changes, for R runs.

    Attributes:
        params: Trained networks by name; every tensor is [R, ...].
        targets: Polyak-averaged copies by name.
        first: Adam's first moments, as `params`.
        second: Adam's second moments, as `params`.
        step: Number of updates done, float32 [R].
        sums: Sums of the metrics since they were last cleared, [R, metrics].
    """

    params: Groups
    targets: Groups
    first: Groups
    second: Groups
    step: Tensor
    sums: Tensor

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor with a name that can be a buffer's."""
        for part in ("params", "targets", "first", "second"):
            for name, tensors in getattr(self, part).items():
                for index, tensor in enumerate(tensors):
                    yield f"{part}_{name}_{index}", tensor
        yield "step", self.step
        yield "sums", self.sums

    def map(self, function: Callable[[str, Tensor], Tensor]) -> Population:
        """Return a population whose tensors are `function(name, tensor)`."""
        tensors = {name: function(name, tensor) for name, tensor in self.named()}

        def part(kind: str) -> Groups:
            groups: Groups = getattr(self, kind)
            return {name: [tensors[f"{kind}_{name}_{i}"] for i in range(len(g))] for name, g in groups.items()}

        return Population(
            part("params"), part("targets"), part("first"), part("second"), tensors["step"], tensors["sums"]
        )

    def members(self, runs: slice) -> Population:
        """Return some of the runs, as views: what is written there is written here."""
        return self.map(lambda _, tensor: tensor[runs])

    def clone(self) -> Population:
        """Return a copy that shares nothing."""
        return self.map(lambda _, tensor: tensor.clone())


Update = Callable[[Population, Tensor, Tensor, "Tensor | None"], None]


def initial_population(agent: Agent, seeds: Sequence[int]) -> Population:
    """Return the state before the first update; a run depends on its own seed only."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    params = {name: stack([net.initial(g) for g in generators]) for name, net in agent.networks().items()}
    targets = {name: [tensor.clone() for tensor in params[name]] for name in agent.averaged}
    zeros = {name: [torch.zeros_like(tensor) for tensor in tensors] for name, tensors in params.items()}
    again = {name: [torch.zeros_like(tensor) for tensor in tensors] for name, tensors in params.items()}
    runs = len(seeds)
    return Population(params, targets, zeros, again, torch.zeros(runs), torch.zeros(runs, len(agent.metrics)))


def scales(rate: float, done: int, count: int, total: int = 0) -> Tensor:
    """Return what Adam multiplies with at the updates after `done` others, computed in float64.

    They are arguments of the update rather than part of it: powers inside it would be taken again for every few
    numbers, since a compiler must assume that what it writes may change them (a tenth of the time of an update).

    Args:
        rate: Learning rate.
        done: Updates done before.
        count: Number of updates, N.
        total: Updates of the whole training, over which annealed rates fall from `rate` to 0; 0 if none are annealed.

    Returns:
        Float32 [N, 3]: step sizes rate / (1 - beta1^t), the same with the cosine-annealed rate, and
        1 / sqrt(1 - beta2^t).
    """
    t = torch.arange(done, done + count, dtype=torch.float64)
    annealed = 0.5 * rate * (1.0 + torch.cos(t * (math.pi / total))) if total else torch.zeros_like(t)
    correction = 1.0 - BETA1 ** (t + 1.0)
    root = torch.rsqrt(1.0 - BETA2 ** (t + 1.0))
    return torch.stack([rate / correction, annealed / correction, root], dim=-1).float()


def adam(parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, step_size: Tensor, root: Tensor) -> None:
    """Take one step of Adam (Kingma and Ba, 2015) in place.

    Args:
        parameter: Any shape.
        gradient: Of that shape.
        first: First moment.
        second: Second moment.
        step_size: As `scales` gives it, a scalar tensor.
        root: Likewise.
    """
    first.mul_(BETA1).add_(gradient, alpha=1.0 - BETA1)
    second.mul_(BETA2).addcmul_(gradient, gradient, value=1.0 - BETA2)
    parameter.sub_(step_size * first / (second.sqrt() * root + EPSILON))


def make_update(
    agent: Agent, layout: Layout, context: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> Update:
    """Return the update of an agent: it changes the population in place and returns nothing.

    The returned function is one graph: no branch depends on a tensor's value and nothing leaves the device.

    Args:
        agent: The agent.
        layout: Layout of packed rows.
        context: Makes the context of the loss, for example autocast.

    Returns:
        `update(population, scales [3], rows [R, B, W], predicted [R, source rows, members, |S|] or None)`.
    """
    source_rows = agent.rows().source

    def update(population: Population, scale: Tensor, rows: Tensor, predicted: Tensor | None) -> None:
        batch = layout.batch(rows, predicted, source_rows)
        averaged = {f"{name}_target": tensors for name, tensors in population.targets.items()}

        def objective(params: Groups) -> tuple[Tensor, dict[str, Tensor]]:
            with context():
                loss, metrics = agent.loss({**params, **averaged}, batch)
            return loss.sum(), metrics

        gradients, metrics = torch.func.grad(objective, has_aux=True)(population.params)
        with torch.no_grad():
            for name, tensors in population.params.items():
                step_size = scale[1] if name in agent.annealed else scale[0]
                parts = (tensors, gradients[name], population.first[name], population.second[name])
                for parameter, gradient, first, second in zip(*parts, strict=True):
                    adam(parameter, gradient, first, second, step_size, scale[2])
            for name, tensors in population.targets.items():
                for average, parameter in zip(tensors, population.params[name], strict=True):
                    average.lerp_(parameter, agent.polyak)
            population.sums.add_(torch.stack([metrics[name] for name in agent.metrics], dim=-1))
            population.step.add_(1.0)

    return update
