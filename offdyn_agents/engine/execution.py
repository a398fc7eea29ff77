"""How updates reach the hardware: compilation, groups of runs, threads.

A population is cut into groups of runs that are updated by one call. On a GPU there is one group, the whole population:
stacking fills the device. On a CPU every run is a group of its own and the groups are dealt to threads that need not
wait for each other: an update of one run stays in a core's cache, where a stacked one would not (measured: 1.3 times
the seed-updates per second of one stacked group with two threads inside each product).
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offdyn_agents.engine.agent import Agent
from offdyn_agents.engine.compiler_cache import compiling
from offdyn_agents.engine.data import Supply
from offdyn_agents.engine.products import exact_fast_products, threads_inside
from offdyn_agents.engine.update import Population, make_update, schedule
from offdyn_envs.atomic import refuse_full

__all__ = [
    "Compiled",
    "Executor",
    "bound",
    "can_compile",
    "compile_flat",
    "exact_fast_products",
    "threads_inside",
    "warn_uncompiled",
]

Noise = Callable[[int, int], "Tensor | None"]
"""Maps a run and a number of updates U to normal numbers [U, B, K], None for agents that use none."""
SLICE, SLICE_ON_GPU = 10, 50
"""Updates whose rows are gathered at once. A CPU's thread then takes the next run: few, so that threads end together.
"""


def can_compile(device: torch.device) -> bool:
    """Whether functions can be compiled for a device: on the CPU it takes a C++ compiler, and no OFFDYN_COMPILE=0.

    Args:
        device: Where their tensors are.
    """
    if os.environ.get("OFFDYN_COMPILE") == "0":
        return False
    if device.type != "cpu":
        return True
    names = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    return any(name and shutil.which(name) for name in names)


@dataclass(frozen=True)
class Compiled:
    """A compiled function of tensors that changes them in place.

    Attributes:
        call: The function.
        device: Where its tensors are.
    """

    call: Callable[..., Any]
    device: torch.device

    def __call__(self, *tensors: Tensor) -> None:
        """Call the function."""
        self.call(*tensors)


def bound(function: Callable[..., Any], state: Sequence[Tensor], inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """Return the quickest way to call a function again and again with the same state.

    Args:
        function: Takes `(*state, *inputs)`, compiled or not.
        state: The tensors that it will always be called with.
        inputs: Tensors like those to come.

    Returns:
        A CUDA graph of what is compiled for a GPU; else the function.
    """
    if not isinstance(function, Compiled):
        return function
    return graphed(function.call, state, inputs) if function.device.type == "cuda" else function.call


def compile_flat(
    function: Callable[..., None], examples: Sequence[Tensor], device: torch.device, threads: int
) -> Compiled:
    """Return a function of tensors, which changes them in place, compiled for the shapes of the examples.

    The graph is traced here and handed to Inductor directly. `torch.compile` would check at every call, holding the
    interpreter lock, that the many tensors are still what they were, and its bookkeeping is not made for several
    threads that call the same graph at once.

    Args:
        function: Takes tensors; what it returns is lost.
        examples: Tensors like those to come; they keep their values.
        device: Where they are.
        threads: Threads inside one call on the CPU.
    """
    from torch import _inductor
    from torch.fx.experimental.proxy_tensor import make_fx

    clones = [tensor.detach().clone() for tensor in examples]
    graph = make_fx(function, tracing_mode="fake")(*clones)
    # One C++ call per update: the interpreter lock is free meanwhile, which is what lets threads run side by side.
    options = {"cpp_wrapper": True, "cpp.threads": threads} if device.type == "cpu" else {}
    inductor: Any = _inductor

    def compile_all() -> Callable[..., Any]:
        compiled: Callable[..., Any] = inductor.compile(graph, clones, options=options)
        # The first call may still compile; it must not change the examples.
        compiled(*clones)
        return compiled

    return Compiled(compiling(compile_all), device)


def warn_uncompiled(error: Exception) -> None:
    """Say that a function runs as it is written, and why.

    Raises:
        DiskFullError: It is because there is no room for what the compiler writes.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    refuse_full(error, cache_dir())
    line = str(error).strip().splitlines()
    print(f"not compiled, the updates will be slower: {line[0][:160] if line else repr(error)}", file=sys.stderr)


class Executor:
    """Runs updates of a population.

    Args:
        agent: The agent.
        population: The whole population's state; changed in place.
        supply: Where rows come from.
        total: Updates of the whole training, over which annealed rates fall; 0 where they do not.
        noise: Draws what `Agent.noise_width` asks for.
        context: Makes the context of a loss, for example autocast.
        done: Updates done by an earlier process.
        threads: CPU threads to use in all.
        compiled: Whether to compile the updates.
    """

    def __init__(
        self,
        agent: Agent,
        population: Population,
        supply: Supply,
        *,
        total: int,
        noise: Noise | None = None,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        done: int = 0,
        threads: int = 1,
        compiled: bool = True,
    ) -> None:
        runs = len(population.step)
        device = population.step.device
        size = 1 if device.type == "cpu" else runs
        self.groups = [range(start, start + size) for start in range(0, runs, size)]
        self.states = [population.members(slice(group.start, group.stop)) for group in self.groups]
        self.workers = max(1, min(threads, len(self.groups))) if device.type == "cpu" else 1
        self.inside = max(1, threads // self.workers)
        self.supply, self.noise = supply, noise
        self.agent, self.counts, self.total, self.done = agent, agent.rows(), total, done
        self.device = device
        self.updates = {phase: make_update(agent, supply.layout, context, phase) for phase in agent.phases}
        self._names = [name for name, _ in self.states[0].named()]
        self._flat = [[tensor for _, tensor in state.named()] for state in self.states]
        self._calls: dict[str, Callable[..., Any]] = {}
        self.compiled = compiled and can_compile(device)
        self._ready = not self.compiled
        self.on_compile: Callable[[], None] = lambda: None
        """Called before updates are compiled."""
        self._slices = 0
        self.on_measured: Callable[[float], None] | None = None
        """Called once with the seconds that an update of all groups takes, after a few of them; on a GPU never, whose
        work goes on after a call."""

    def run(self, numbers: Tensor, stopped: Collection[int] = ()) -> None:
        """Do one update of every run for each of the row numbers.

        Args:
            numbers: [R, updates, B].
            stopped: Runs whose state is not wanted any more; where every run is a group of its own they are left out.
        """
        numbers = numbers.to(self.device)
        count = numbers.shape[1]
        self._scales = schedule(self.agent, self.done, count, self.total).to(self.device)
        groups = [index for index, group in enumerate(self.groups) if not set(group) <= set(stopped)]
        with threads_inside(self.inside):
            self._prepare(numbers)
            if self.workers == 1:
                for group in groups:
                    self._advance(group, numbers, 0, count)
            else:
                _share(self.workers, self.inside, self._tasks(groups, numbers))
        self.done += count

    def _tasks(self, groups: Sequence[int], numbers: Tensor) -> list[list[Callable[[], None]]]:
        """Return each group's work in slices."""
        total = numbers.shape[1]

        def task(group: int, start: int) -> Callable[[], None]:
            return lambda: self._advance(group, numbers, start, min(start + SLICE, total))

        return [[task(group, start) for start in range(0, total, SLICE)] for group in groups]

    def _prepare(self, numbers: Tensor) -> None:
        """Compile before the first update; without a working compiler, say so and go on as it is written."""
        if self._ready:
            return
        self._ready = True
        self.on_compile()
        runs = self.groups[0]
        rows, predicted = self.supply.batches(runs, numbers[runs.start : runs.stop, :1], self.counts)
        width = self.agent.noise_width
        noise = rows.new_zeros(*rows.shape[:3], width) if width else None
        inputs = [self._scales[0], *(part[0] for part in (rows, predicted, noise) if part is not None)]
        try:
            for phase in dict.fromkeys(self.agent.phases):
                function = self._flat_update(phase, predicted is not None, noise is not None)
                compiled = compile_flat(function, [*self._flat[0], *inputs], self.device, self.inside)
                # On a GPU the first group is the only one.
                self._calls[phase] = bound(compiled, self._flat[0], inputs)
        except Exception as error:
            self.compiled = False
            self._calls = {}
            warn_uncompiled(error)

    def _flat_update(self, phase: str, predicted: bool, noise: bool) -> Callable[..., None]:
        """Return a phase's update as a function of tensors: the state's, scale, rows, and predictions and noise."""
        shape, update, names = self.states[0], self.updates[phase], self._names

        def flat(*tensors: Tensor) -> None:
            state = dict(zip(names, tensors, strict=False))
            scale, rows, *more = tensors[len(names) :]
            update(
                shape.map(lambda name, _: state[name]),
                scale,
                rows,
                more[0] if predicted else None,
                more[-1] if noise else None,
            )

        return flat

    def _noise(self, runs: range, updates: int) -> Tensor | None:
        """Return the noise [U, runs, B, K] of the next updates of some runs."""
        if self.noise is None:
            return None
        drawn = [self.noise(run, updates) for run in runs]
        found = [part for part in drawn if part is not None]
        return torch.stack(found, dim=1).to(self.device) if found else None

    def _advance(self, group: int, numbers: Tensor, start: int, stop: int) -> None:
        runs, state, flat, phases = self.groups[group], self.states[group], self._flat[group], self.agent.phases
        size = SLICE if self.device.type == "cpu" else SLICE_ON_GPU
        for first in range(start, stop, size):
            last = min(first + size, stop)
            rows, predicted = self.supply.batches(runs, numbers[runs.start : runs.stop, first:last], self.counts)
            noise, begun = self._noise(runs, last - first), time.monotonic()
            for i in range(last - first):
                phase = phases[(self.done + first + i) % len(phases)]
                scale, parts = self._scales[first + i], [None if p is None else p[i] for p in (rows, predicted, noise)]
                if phase in self._calls:
                    self._calls[phase](*flat, scale, *(part for part in parts if part is not None))
                else:
                    assert parts[0] is not None
                    self.updates[phase](state, scale, parts[0], parts[1], parts[2])
            self._measure(begun, last - first)

    def _measure(self, begun: float, updates: int) -> None:
        """Tell how long an update of all groups takes, once every worker has done a slice to warm up and another."""
        if self.on_measured is None or self.device.type != "cpu":
            return
        self._slices += 1
        if self._slices > 2 * self.workers:
            tell, self.on_measured = self.on_measured, None
            rounds = math.ceil(len(self.groups) / self.workers)
            tell((time.monotonic() - begun) / updates * rounds)


def graphed(call: Callable[..., Any], state: Sequence[Tensor], inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """Return `call(*state, *inputs)` recorded as a CUDA graph: one launch in the place of hundreds.

    Args:
        call: Changes the state in place; it has run before, so that nothing is compiled or loaded while it is recorded.
        state: The tensors that it will always be called with.
        inputs: Tensors like those to come, whose values are copied to where the graph reads them.
    """
    fixed = [tensor.clone() for tensor in inputs]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call(*state, *fixed)

    def replay(*tensors: Tensor) -> None:
        for place, tensor in zip(fixed, tensors[len(state) :], strict=True):
            place.copy_(tensor)
        graph.replay()

    return replay


def _share(workers: int, inside: int, tasks: list[list[Callable[[], None]]]) -> None:
    """Do lists of tasks on threads; each list in its order, and always the list that is furthest behind."""
    done = [0] * len(tasks)
    idle = set(range(len(tasks)))
    lock = threading.Lock()
    errors: list[BaseException] = []

    def take() -> int | None:
        with lock:
            left = [index for index in idle if done[index] < len(tasks[index])]
            if errors or not left:
                return None
            index = min(left, key=lambda i: (done[i] - len(tasks[i]), i))
            idle.discard(index)
            return index

    def work() -> None:
        # PyTorch keeps the number of threads inside an operation per thread.
        torch.set_num_threads(inside)
        try:
            while (index := take()) is not None:
                tasks[index][done[index]]()
                with lock:
                    done[index] += 1
                    idle.add(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
