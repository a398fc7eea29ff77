"""How updates reach the hardware: compilation, threads, and the precision of products.

A population is cut into groups of runs that are updated by one call. On a GPU there is one group, the whole population:
stacking fills the device. On a CPU every run is a group of its own and the groups are dealt to threads that need not
wait for each other: an update of one run stays in a core's cache, where a stacked one would not (measured: 1.3 times
the seed-updates per second of one stacked group with two threads inside each product).
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from offdyn_agents.data import Supply
from offdyn_agents.update import Population, Update

__all__ = ["Executor", "can_compile", "compile_flat", "exact_fast_products", "threads_inside", "warn_uncompiled"]

Schedule = Callable[[int, int], Tensor]
"""Maps updates done and their number N to the scales of the next N updates, [N, 3]."""
SLICE = 10
"""Updates that a thread does before it takes the next run: small against a chunk, so that threads end together."""


def can_compile() -> bool:
    """Whether a C++ compiler is there for `torch.compile` on the CPU."""
    names = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    return any(name and shutil.which(name) for name in names)


def compile_flat(
    function: Callable[..., None], examples: Sequence[Tensor], device: torch.device, threads: int
) -> Callable[..., Any]:
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
    compiled: Callable[..., Any] = inductor.compile(graph, clones, options=options)
    # The first call may still compile; it must not change the examples.
    compiled(*clones)
    return compiled


def warn_uncompiled(error: Exception) -> None:
    """Say that a function runs as it is written, and why."""
    line = str(error).strip().splitlines()
    print(f"not compiled, the updates will be slower: {line[0][:160] if line else repr(error)}", file=sys.stderr)


@contextmanager
def threads_inside(count: int) -> Generator[None]:
    """Set the number of threads inside one operation for the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def exact_fast_products(width: int, inputs: Sequence[int], batch: int) -> Generator[bool]:
    """Use oneDNN for float32 products for the block where it is both exact and available.

    PyTorch hands float32 products to MKL, which keeps AMD processors on AVX2. Its "bf16" setting hands them to oneDNN
    with leave, but no order, to round: on processors without bf16 matrix units oneDNN computes in full float32 with
    AVX-512, twice as fast. Whether it does is found out with products of the shapes that will be used; if one is less
    exact than float32 should be, everything stays as it was.

    Args:
        width: Width of hidden layers.
        inputs: Widths of inputs.
        batch: Rows of a batch.

    Yields:
        Whether oneDNN is used.
    """
    flags: Any = getattr(torch.backends.mkldnn, "matmul", None)
    before = getattr(flags, "fp32_precision", None)
    if before is None or not torch.backends.mkldnn.is_available():
        yield False
        return
    flags.fp32_precision = "bf16"
    try:
        exact = all(_exact_products(batch, k, width) for k in (*inputs, width))
        if not exact:
            flags.fp32_precision = before
        yield exact
    finally:
        flags.fp32_precision = before


def _exact_products(batch: int, inner: int, width: int) -> bool:
    """Whether the forward product and both backward ones of a layer are as exact as float32 allows."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, batch, inner, generator=generator)
    w = torch.randn(1, inner, width, generator=generator)
    g = torch.randn(1, batch, width, generator=generator)
    for left, right in ((x, w), (x.mT, g), (g, w.mT)):
        error = (torch.bmm(left, right).double() - torch.bmm(left.double(), right.double())).abs().max()
        # float32 sums stay below 3e-6 sqrt(k); rounding to bf16 would leave about 2e-3 sqrt(k).
        if float(error) > 1e-5 * left.shape[-1] ** 0.5:
            return False
    return True


class Executor:
    """Runs updates of a population.

    Args:
        update: The update function of a group.
        population: The whole population's state; changed in place.
        supply: Where rows come from.
        source_rows: Source rows of a batch.
        schedule: Gives the scales of Adam.
        done: Updates done by an earlier process.
        threads: CPU threads to use in all.
        compiled: Whether to compile the update.
    """

    def __init__(
        self,
        update: Update,
        population: Population,
        supply: Supply,
        source_rows: int,
        schedule: Schedule,
        *,
        done: int = 0,
        threads: int = 1,
        compiled: bool = True,
    ) -> None:
        runs = len(population.step)
        device = population.step.device
        size = 1 if device.type == "cpu" else runs
        self.groups = [slice(start, start + size) for start in range(0, runs, size)]
        self.states = [population.members(group) for group in self.groups]
        self.workers = max(1, min(threads, len(self.groups))) if device.type == "cpu" else 1
        self.inside = max(1, threads // self.workers)
        self.supply = supply
        self.source_rows = source_rows
        self.schedule, self.done = schedule, done
        self.device = device
        self.update = update
        self._flat = [[tensor for _, tensor in state.named()] for state in self.states]
        self._call: Callable[..., Any] | None = None
        self.compiled = compiled and (device.type != "cpu" or can_compile())
        self._ready = not self.compiled

    def run(self, numbers: Tensor) -> None:
        """Do one update of every run for each of the row numbers [R, updates, B]."""
        numbers = numbers.to(self.device)
        self._scales = self.schedule(self.done, numbers.shape[1]).to(self.device)
        with threads_inside(self.inside):
            self._prepare(numbers)
            if self.workers == 1:
                for group in range(len(self.groups)):
                    self._advance(group, numbers, 0, numbers.shape[1])
            else:
                _share(self.workers, self.inside, self._tasks(numbers))
        self.done += numbers.shape[1]

    def _tasks(self, numbers: Tensor) -> list[list[Callable[[], None]]]:
        """Return each group's work in slices."""
        total = numbers.shape[1]

        def task(group: int, start: int) -> Callable[[], None]:
            return lambda: self._advance(group, numbers, start, min(start + SLICE, total))

        return [[task(group, start) for start in range(0, total, SLICE)] for group in range(len(self.groups))]

    def _prepare(self, numbers: Tensor) -> None:
        """Compile before the first update; without a working compiler, say so and go on as it is written."""
        if self._ready:
            return
        self._ready = True
        shape, update = self.states[0], self.update
        names = [name for name, _ in shape.named()]
        rows, predicted = self._batches(0, numbers[:, :1])[0]

        def flat(*tensors: Tensor) -> None:
            state = dict(zip(names, tensors, strict=False))
            scale, rows, predicted = (*tensors[len(names) :], None)[:3]
            assert scale is not None
            assert rows is not None
            update(shape.map(lambda name, _: state[name]), scale, rows, predicted)

        examples = [*self._flat[0], self._scales[0], rows, *([] if predicted is None else [predicted])]
        try:
            self._call = compile_flat(flat, examples, self.device, self.inside)
        except Exception as error:
            self.compiled = False
            warn_uncompiled(error)

    def _batches(self, group: int, numbers: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """Return the batches of one group for the row numbers [R, updates, B]."""
        runs = self.groups[group]
        chosen = numbers[runs].transpose(0, 1)
        rows = self.supply.rows(chosen)
        predicted = [
            self.supply.predictions(run, chosen[:, i, : self.source_rows], rows[:, i, : self.source_rows])
            for i, run in enumerate(range(runs.start, runs.stop))
        ]
        if predicted[0] is None:
            return [(batch, None) for batch in rows]
        together = torch.stack([part for part in predicted if part is not None], dim=1)
        return list(zip(rows, together, strict=True))

    def _advance(self, group: int, numbers: Tensor, start: int, stop: int) -> None:
        call, state, flat = self._call, self.states[group], self._flat[group]
        for first in range(start, stop, SLICE):
            last = min(first + SLICE, stop)
            batches = self._batches(group, numbers[:, first:last])
            for scale, (rows, predicted) in zip(self._scales[first:last], batches, strict=True):
                if call is None:
                    self.update(state, scale, rows, predicted)
                elif predicted is None:
                    call(*flat, scale, rows)
                else:
                    call(*flat, scale, rows, predicted)


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
