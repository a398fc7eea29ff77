"""Short trainings before the policy: some thousand steps of Adam on batches of rows, cached by content.

What a stage learns is a `ShortTraining`: its networks, one loss, and how often which rows are drawn. The step is
compiled once and shared by all seeds; a seed alone decides initial parameters, batches and noise. One that is not so
short leaves a copy now and then, from which it goes on after a break.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offdyn_agents.engine.data import stream
from offdyn_agents.engine.execution import bound, can_compile, compile_flat, warn_uncompiled
from offdyn_agents.engine.networks import Network, Params
from offdyn_agents.engine.products import exact_fast_products
from offdyn_agents.engine.stage_cache import Fitted, Keep, Tensors, Unfinished, cached
from offdyn_agents.engine.stages import Advance, StageContext, each_seed, shares
from offdyn_agents.engine.update import adam, scales

__all__ = ["CHUNK", "Fit", "Learner", "Nets", "ShortTraining", "fit", "in_chunks"]

CHUNK = 4096
REPORT_EVERY = 100
GAIN = 0.01
"""Relative fall of a held-out loss that counts as one."""
COPY_EVERY = 20_000
"""Steps between copies of a training, a multiple of `REPORT_EVERY`: what a break costs at most."""
GENERATOR, DONE, WATCH = "generator", "done", "watch"

Nets = Mapping[str, Params]
"""Networks by name; averaged copies under "<name>_target"."""
Loss = Callable[[Nets, Tensor, Tensor, list[Tensor]], Tensor]
"""Of the networks, packed source rows [n, W], packed target rows [m, W] and noise; a scalar."""
Report = Callable[[int], None]


@dataclass(frozen=True)
class ShortTraining:
    """What is trained, and how.

    Attributes:
        name: What the cache calls it; the seeds' streams are named so too.
        title: What progress and messages call it.
        networks: Its networks.
        loss: What their parameters minimise; all parts added.
        updates: Steps.
        source: Source rows of a batch; 0 for none.
        target: Target rows of a batch; 0 for none.
        learning_rate: Adam's step size.
        noises: Shapes of the standard normal numbers that the loss gets.
        averaged: Networks that have a Polyak-averaged copy.
        polyak: Share of a network that enters its copy at each step.
        annealed: Whether the step size falls to 0, as a cosine.
        holdout: Share of the target rows that no step sees and whose loss, a mean over rows, ends the training; of all
            steps, those count that had the lowest one. Noise, whose last axis but one is that of rows, is the same at
            each look. Only for trainings on target rows alone.
        patience: Hundreds of steps without a gain of 1% on these rows after which training ends.
        version: Raised when the same settings would give other networks.
    """

    name: str
    title: str
    networks: Mapping[str, Network]
    loss: Loss
    updates: int
    source: int
    target: int
    learning_rate: float
    noises: tuple[tuple[int, ...], ...] = ()
    averaged: tuple[str, ...] = ()
    polyak: float = 0.005
    annealed: bool = False
    holdout: float = 0.0
    patience: int = 10
    version: int = 1


@dataclass(frozen=True)
class Fit:
    """What the training of one seed has given.

    Attributes:
        nets: Parameters of the networks by name.
        failed: Why they must not be used, "" where all is well.
    """

    nets: Nets
    failed: str = ""

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name, for a safetensors file."""
        return {f"{name}.{i}": tensor for name, params in self.nets.items() for i, tensor in enumerate(params)}


class _Watch:
    """Looks at the loss of held-out rows: what was best, and whether it still falls.

    Args:
        patience: Looks without a gain of 1% that end the training.
    """

    def __init__(self, patience: int) -> None:
        self._left = self._patience = patience
        self._least = self._mark = float("inf")
        self.best: list[Tensor] = []

    def enough(self, loss: float, params: list[Tensor]) -> bool:
        """Take a loss and the parameters that have it; return whether training ends."""
        if loss < self._least:
            self._least, self.best = loss, [tensor.clone() for tensor in params]
        if loss < (1.0 - GAIN) * self._mark:
            self._mark, self._left = loss, self._patience
        else:
            self._left -= 1
        return self._left <= 0

    def tensors(self) -> dict[str, Tensor]:
        """Return what it knows, by name."""
        numbers = torch.tensor([self._least, self._mark, self._left], dtype=torch.float64)
        return {WATCH: numbers} | {f"{WATCH}.{place}": tensor for place, tensor in enumerate(self.best)}

    def restore(self, tensors: Tensors, state: list[Tensor]) -> None:
        """Know what `tensors` said, on the device of a training's state."""
        self._least, self._mark, left = tensors[WATCH].tolist()
        self._left = int(left)
        best = (tensors.get(f"{WATCH}.{place}") for place in range(len(state)))
        self.best = [tensor.to(state[0].device) for tensor in best if tensor is not None]


class Learner:
    """Trains networks of one shape; the compiled step is shared by all seeds, also from several threads.

    Args:
        training: What and how.
        device: Where.
        threads: CPU threads inside one step.
        compiled: Whether to compile the step.
    """

    def __init__(
        self, training: ShortTraining, device: torch.device, *, threads: int = 1, compiled: bool = True
    ) -> None:
        self.training, self.device, self.threads = training, device, threads
        self.lengths = {name: len(network.shapes()) for name, network in training.networks.items()}
        size = sum(self.lengths.values())

        def step(*tensors: Tensor) -> None:
            trained, first, second = (list(tensors[k * size : (k + 1) * size]) for k in range(3))
            copies = list(tensors[3 * size : len(tensors) - 3 - len(training.noises)])
            scale, source, target, *noises = tensors[len(tensors) - 3 - len(training.noises) :]
            averages = self._named(copies, training.averaged, "_target")

            def objective(flat: list[Tensor]) -> Tensor:
                return training.loss({**self._named(flat), **averages}, source, target, noises)

            gradients = torch.func.grad(objective)(trained)
            with torch.no_grad():
                for parameter, gradient, one, two in zip(trained, gradients, first, second, strict=True):
                    adam(parameter, gradient, one, two, scale[0], scale[1])
                named = self._named(trained)
                for name in training.averaged:
                    for copy, parameter in zip(averages[f"{name}_target"], named[name], strict=True):
                        copy.lerp_(parameter, training.polyak)

        self.step: Callable[..., Any] = step
        self.compiled = compiled and can_compile(device)

    def warm_up(self, source: Tensor, target: Tensor) -> None:
        """Compile the step; without a working compiler, say so and go on as it is written."""
        if not self.compiled:
            return
        self.compiled = False
        generator = torch.Generator()
        try:
            examples = [*self._initial(generator), *self._arguments(source, target, generator, 0)]
            self.step = compile_flat(self.step, examples, self.device, self.threads)
        except Exception as error:
            warn_uncompiled(error)

    def fit(
        self, source: Tensor, target: Tensor, seed: int, report: Report | None = None, copy: Unfinished | None = None
    ) -> Fit:
        """Train the networks.

        Args:
            source: Packed source rows [N, W] on the device.
            target: Packed target rows.
            seed: Decides initial parameters, batches and noise.
            report: Called with the number of steps done since its last call, every hundred and at the end.
            copy: Where a copy of what is done is kept, and found; None for nowhere.
        """
        generator = torch.Generator().manual_seed(stream(seed, self.training.name))
        state, updates = self._initial(generator), self.training.updates
        target, held = self._split(target, seed)
        watch, size = _Watch(self.training.patience), sum(self.lengths.values())
        first = _restore(copy, state, generator, watch)
        if report and first:
            report(first)
        step = bound(self.step, state, self._arguments(source, target, torch.Generator(), 0))
        for start in range(first, updates, REPORT_EVERY):
            block = range(start, min(start + REPORT_EVERY, updates))
            for done in block:
                step(*state, *self._arguments(source, target, generator, done))
            if report:
                report(len(block))
            if len(held) and watch.enough(self._held_out(state, source, held), state[:size]):
                break
            if copy and block.stop % COPY_EVERY == 0 and block.stop < updates:
                copy.write(_copied(state, generator, block.stop) | watch.tensors())
        # Where no loss was a number, or nothing is held out, there is no best.
        state = [*(watch.best or state[:size]), *state[size:]]
        nets = self._named(state)
        averages = self._named(state[3 * size :], self.training.averaged, "_target")
        _, some, more, *noises = self._arguments(source, target, torch.Generator(), 0)
        with torch.no_grad():
            loss = self.training.loss({**nets, **averages}, some, more, noises)
        told = [loss, *(tensor for net in nets.values() for tensor in net)]
        sound = all(bool(torch.isfinite(tensor).all()) for tensor in told)
        return Fit(nets, "" if sound else "a loss or a parameter is not finite")

    def _split(self, target: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return the target rows that are learned from, and those that are held out."""
        count = int(self.training.holdout * len(target))
        if not count:
            return target, target[:0]
        generator = torch.Generator().manual_seed(stream(seed, f"{self.training.name} holdout"))
        order = torch.randperm(len(target), generator=generator).to(target.device)
        return target[order[count:]], target[order[:count]]

    def _held_out(self, state: list[Tensor], source: Tensor, held: Tensor) -> float:
        """Return the loss of held-out target rows."""
        assert not self.training.source
        generator = torch.Generator().manual_seed(0)
        shapes = [(*shape[:-2], len(held), shape[-1]) for shape in self.training.noises]
        noises = [torch.randn(shape, generator=generator).to(self.device) for shape in shapes]
        with torch.no_grad():
            return float(self.training.loss(self._named(state), source[:0], held, noises))

    def _named(self, flat: list[Tensor], names: tuple[str, ...] | None = None, ending: str = "") -> dict[str, Params]:
        """Return tensors in order by the networks, of some names, that they belong to."""
        parts = iter(flat)
        return {
            f"{name}{ending}": [next(parts) for _ in range(self.lengths[name])]
            for name in (self.lengths if names is None else names)
        }

    def _initial(self, generator: torch.Generator) -> list[Tensor]:
        """Return parameters, both moments, and copies."""
        nets = {name: net.initial(generator) for name, net in self.training.networks.items()}
        params = [tensor.to(self.device) for net in nets.values() for tensor in net]
        copies = [tensor.to(self.device, copy=True) for name in self.training.averaged for tensor in nets[name]]
        return [*params, *(torch.zeros_like(t) for _ in range(2) for t in params), *copies]

    def _arguments(self, source: Tensor, target: Tensor, generator: torch.Generator, done: int) -> list[Tensor]:
        """Return Adam's scale, source rows, target rows and noise of a step, drawn on the CPU."""
        training = self.training
        batches = [
            rows[torch.randint(len(rows), (size,), generator=generator).to(self.device)] if size else rows[:0]
            for rows, size in ((source, training.source), (target, training.target))
        ]
        noises = [torch.randn(shape, generator=generator).to(self.device) for shape in training.noises]
        scale = scales(training.learning_rate, done, 1, training.updates if training.annealed else 0)[0]
        return [scale[[1 if training.annealed else 0, 2]].to(self.device), *batches, *noises]


def fit(training: ShortTraining, settings: Any, context: StageContext) -> Fitted[Nets]:
    """Train or find the networks of each seed, and tell which of them diverged.

    Args:
        training: What is trained, and how.
        settings: All that decides it beside rows and seeds, a dataclass: the key of the cache.
        context: Rows, seeds, cache and hardware.
    """
    source, target = context.source, context.target
    if not training.source:
        source = source[:0]
    if not training.target:
        target = target[:0]
    device = context.target.device
    shared = shares(device, context.threads, context.seeds)
    learner = Learner(training, device, threads=shared[1], compiled=context.compiled)

    def compute(missing: list[int], keep: Keep) -> None:
        def one(seed: int, advance: Advance) -> None:
            copy = keep.copy(seed)
            result = learner.fit(source, target, seed, lambda steps: advance(steps, seed=seed), copy)
            keep(seed, result.tensors(), result.failed)
            copy.remove()

        sizes = [net.sizes for net in training.networks.values()]
        widths = max(size for net in sizes for size in net[1:-1])
        with exact_fast_products(widths, tuple({net[0] for net in sizes}), max(training.source, training.target)):
            learner.warm_up(source, target)
            at_most = training.holdout > 0.0
            each_seed(training.title, training.updates, missing, one, shared, context.quiet, at_most)

    def nets(tensors: Tensors) -> Nets:
        return {
            name: [tensors[f"{name}.{i}"].to(device) for i in range(length)] for name, length in learner.lengths.items()
        }

    # The digest of the rows does not say where the source ends.
    name, rows = f"{training.name} {len(source)}", (source, target)
    found = cached(name, settings, rows, context.seeds, context.cache, compute, training.version, training.title)
    return Fitted([nets(tensors) for tensors in found], found.failed)


def _copied(state: list[Tensor], generator: torch.Generator, done: int) -> dict[str, Tensor]:
    """Return all that a training goes on from, by name."""
    named = {str(place): tensor for place, tensor in enumerate(state)}
    return named | {GENERATOR: generator.get_state(), DONE: torch.tensor(done)}


def _restore(copy: Unfinished | None, state: list[Tensor], generator: torch.Generator, watch: _Watch) -> int:
    """Take over a copy, if there is one; return how many steps were done."""
    tensors = copy.read() if copy else None
    if tensors is None:
        return 0
    for place, tensor in enumerate(state):
        tensor.copy_(tensors[str(place)])
    generator.set_state(tensors[GENERATOR])
    watch.restore(tensors, state)
    return int(tensors[DONE])


def in_chunks(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Return what a function of packed rows [n, W] says of all N, without gradients, some thousand at a time.

    Args:
        function: Returns [n] or [n, k].
        rows: Packed rows [N, W].
    """
    with torch.no_grad():
        return torch.cat([function(chunk) for chunk in rows.split(CHUNK)])
