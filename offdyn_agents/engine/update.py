"""One update of a population: losses, gradients, Adam, averaged copies, as a single function that can be compiled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from offdyn_agents.engine.agent import NUMBERS, Agent
from offdyn_agents.engine.networks import Params, stack
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.settings import per_run_names

__all__ = ["Population", "Update", "adam", "initial_population", "make_update", "numbers", "scales", "schedule"]

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
        counts: Updates that had each metric since then, [R, metrics].
        frozen: What the loss reads and no update changes, by name; not part of a checkpoint.
    """

    params: Groups
    targets: Groups
    first: Groups
    second: Groups
    step: Tensor
    sums: Tensor
    counts: Tensor
    frozen: Groups = field(default_factory=dict)

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor with a name that can be a buffer's."""
        for part in ("params", "targets", "first", "second", "frozen"):
            for name, tensors in getattr(self, part).items():
                for index, tensor in enumerate(tensors):
                    yield f"{part}_{name}_{index}", tensor
        yield "step", self.step
        yield "sums", self.sums
        yield "counts", self.counts

    def map(self, function: Callable[[str, Tensor], Tensor]) -> Population:
        """Return a population whose tensors are `function(name, tensor)`."""
        tensors = {name: function(name, tensor) for name, tensor in self.named()}

        def part(kind: str) -> Groups:
            groups: Groups = getattr(self, kind)
            return {name: [tensors[f"{kind}_{name}_{i}"] for i in range(len(g))] for name, g in groups.items()}

        parts = (part("params"), part("targets"), part("first"), part("second"))
        return Population(*parts, tensors["step"], tensors["sums"], tensors["counts"], part("frozen"))

    def readable(self, trained: Groups | None = None) -> Groups:
        """Return all that a loss may read, by the names it uses; `trained` in the place of some networks."""
        averaged = {f"{name}_target": tensors for name, tensors in self.targets.items()}
        return {**self.frozen, **self.params, **averaged, **(trained or {})}

    def members(self, runs: slice) -> Population:
        """Return some of the runs, as views: what is written there is written here."""
        return self.map(lambda _, tensor: tensor[runs])

    def clone(self) -> Population:
        """Return a copy that shares nothing."""
        return self.map(lambda _, tensor: tensor.clone())


Update = Callable[[Population, Tensor, Tensor, "Tensor | None", "Tensor | None"], None]
"""Changes a population: scales [networks, 2], rows [R, B, W], predicted next states and noise (None for none)."""


def initial_population(agent: Agent, seeds: Sequence[int], frozen: Mapping[str, Params] | None = None) -> Population:
    """Return the state before the first update; a run depends on its own seed only.

    Args:
        agent: The agent.
        seeds: Seed of each run.
        frozen: What stages give the loss to read, by name; tensors [R, ...]. Under `NUMBERS` the numbers that runs
            differ in; by default all have the agent's own.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    params = {name: stack([net.initial(g) for g in generators]) for name, net in agent.networks().items()}
    targets = {name: [tensor.clone() for tensor in params[name]] for name in agent.averaged}
    zeros = {name: [torch.zeros_like(tensor) for tensor in tensors] for name, tensors in params.items()}
    again = {name: [torch.zeros_like(tensor) for tensor in tensors] for name, tensors in params.items()}
    runs, metrics = len(seeds), len(agent.metrics)
    rest = (torch.zeros(runs), torch.zeros(runs, metrics), torch.zeros(runs, metrics))
    kept = {NUMBERS: numbers([agent.settings] * runs), **(frozen or {})}
    return Population(params, targets, zeros, again, *rest, {name: part for name, part in kept.items() if part})


def numbers(settings: Sequence[Any]) -> Params:
    """Return what `Agent.number` reads: the numbers that runs may differ in, [R] each.

    Args:
        settings: Settings of each run's agent, of one class.
    """
    names = per_run_names(type(settings[0]))
    return [torch.tensor([float(getattr(own, name)) for own in settings]) for name in names]


def schedule(agent: Agent, done: int, count: int, total: int) -> Tensor:
    """Return what Adam multiplies with in each network, at the updates after `done` others.

    Args:
        agent: The agent: its learning rates, annealed networks, and phases.
        done: Updates done before.
        count: Number of updates, N.
        total: Updates of the whole training, over which annealed rates fall; 0 where they do not.

    Returns:
        Float32 [N, networks, 2]: step size and root, as in `scales`. A network that some phases leave alone counts its
        own steps.
    """
    phases = agent.phases
    place = torch.arange(done, done + count)
    columns: list[Tensor] = []
    for name in agent.networks():
        trained = torch.tensor([name in agent.trained(phase) for phase in phases])
        before = trained.cumsum(0) - trained.long()
        steps = place // len(phases) * int(trained.sum()) + before[place % len(phases)]
        rate, annealed = agent.rates.get(name, agent.settings.learning_rate), bool(total) and name in agent.annealed
        table = _scales(float(rate), steps.double(), place.double(), total if annealed else 0)
        columns.append(table[:, [1 if annealed else 0, 2]])
    return torch.stack(columns, dim=1)


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
    return _scales(rate, t, t, total)


def _scales(rate: float, steps: Tensor, place: Tensor, total: int) -> Tensor:
    """Return `scales` for float64 numbers of Adam's own steps, and of updates, done before."""
    annealed = 0.5 * rate * (1.0 + torch.cos(place * (math.pi / total))) if total else torch.zeros_like(place)
    correction = 1.0 - BETA1 ** (steps + 1.0)
    root = torch.rsqrt(1.0 - BETA2 ** (steps + 1.0))
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
    agent: Agent, layout: Layout, context: Callable[[], AbstractContextManager[Any]] = nullcontext, phase: str = ""
) -> Update:
    """Return the update of an agent in one phase: it changes the population in place and returns nothing.

    The returned function is one graph: no branch depends on a tensor's value and nothing leaves the device.

    Args:
        agent: The agent.
        layout: Layout of packed rows.
        context: Makes the context of the loss, for example autocast.
        phase: Which phase.

    Returns:
        `update(population, scales [networks, 2], rows [R, B, W], predicted [R, source rows, members, |S|] or None,
        noise [R, B, K] or None)`.
    """
    counts, trained, averaging = agent.rows(), agent.trained(phase), agent.averaging(phase)
    column = {name: index for index, name in enumerate(agent.networks())}

    def update(
        population: Population, scale: Tensor, rows: Tensor, predicted: Tensor | None, noise: Tensor | None
    ) -> None:
        batch = layout.batch(rows, predicted, counts, noise, phase)

        def objective(params: Groups) -> tuple[Tensor, dict[str, Tensor]]:
            with context():
                loss, metrics = agent.loss(population.readable(params), batch)
            return loss.sum(), metrics

        parameters = {name: population.params[name] for name in trained}
        gradients, metrics = torch.func.grad(objective, has_aux=True)(parameters)
        with torch.no_grad():
            for name, tensors in parameters.items():
                step_size, root = scale[column[name]].unbind()
                parts = (tensors, gradients[name], population.first[name], population.second[name])
                for parameter, gradient, first, second in zip(*parts, strict=True):
                    adam(parameter, gradient, first, second, step_size, root)
            for name in averaging:
                for average, parameter in zip(population.targets[name], population.params[name], strict=True):
                    average.lerp_(parameter, agent.polyak)
            absent = torch.zeros_like(population.step)
            population.sums.add_(torch.stack([metrics.get(name, absent) for name in agent.metrics], dim=-1))
            present = [torch.full_like(absent, float(name in metrics)) for name in agent.metrics]
            population.counts.add_(torch.stack(present, dim=-1))
            population.step.add_(1.0)

    return update
