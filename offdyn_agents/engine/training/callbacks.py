"""What happens between chunks: scores on the batched environment, checkpoints, progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray

from offdyn_agents.engine.training.module import PopulationModule
from offdyn_envs.interruption import Interrupted, asked, take_over
from offdyn_envs.progress import duration, progress

__all__ = ["Checkpoints", "Evaluation", "LossLines", "ProgressLine"]

Act = Callable[[NDArray[Any]], NDArray[Any]]
Returns = Callable[[Act, int], NDArray[np.float64]]
"""Maps a population's policies (observations [R, E, |S|] to actions [R, E, |A|]) and R to returns [R, E]."""


class Evaluation(Callback):
    """Deterministic episodes of one task's policies side by side, every so many updates and at the end.

    Args:
        returns: Runs the episodes.
        normalise: Maps mean returns to scores, or None where no reference returns exist.
        part: Number of the task in the population.
    """

    def __init__(
        self, returns: Returns, normalise: Callable[[NDArray[Any]], NDArray[Any]] | None, part: int = 0
    ) -> None:
        self._returns, self._normalise, self.part = returns, normalise, part
        self.last: dict[str, float] = {}

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate where an evaluation is due."""
        del trainer, outputs, batch, batch_idx
        module: PopulationModule = pl_module
        done, budget = module.updates_done, module.budget
        if done % budget.evaluate_every and done != budget.updates:
            return
        runs = module.runs_of(self.part)
        seeds = module.parts[self.part].seeds
        live = [i for i in range(len(seeds)) if runs.start + i in module.live]
        if not live:
            return

        def act(observations: NDArray[Any]) -> NDArray[Any]:
            return module.act(torch.from_numpy(np.asarray(observations, dtype=np.float32)), runs).cpu().numpy()

        means = self._returns(act, len(seeds)).mean(axis=1)[live]
        self.last = {f"return_{seeds[i]}": float(value) for i, value in zip(live, means, strict=True)}
        if self._normalise is not None:
            self.last["score"] = float(self._normalise(means).mean())
        module.logs[self.part].write(self.last, done)


class LossLines(Callback):
    """Logs the losses of every chunk, before a checkpoint says that it is done."""

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log them."""
        del trainer, outputs, batch_idx
        module: PopulationModule = pl_module
        for part, log in enumerate(module.logs):
            losses = module.metrics_of(part)
            if losses:
                speed = {"seed_updates_per_second": seed_updates_per_second(module, int(batch))}
                log.write(losses | speed, module.updates_done)


class Checkpoints(Callback):
    """Writes checkpoints, whole or not at all: every so many seconds, right before a refill, and at the end."""

    def __init__(self) -> None:
        self._written = time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Start the clock."""
        del trainer, pl_module
        self._written = time.monotonic()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write one where it is due."""
        del trainer, outputs, batch, batch_idx
        module: PopulationModule = pl_module
        done, every = module.updates_done, module.refill_every
        ended = done >= module.budget.end or not module.live
        before_refill = every > 0 and done % every == 0
        if ended or before_refill or asked() or time.monotonic() - self._written >= module.budget.checkpoint_seconds:
            module.write_checkpoint()
            self._written = time.monotonic()


def seed_updates_per_second(module: PopulationModule, updates: int) -> float:
    """Return how fast the last chunk was, over all tasks of the population."""
    return max(len(module.live), 1) * updates / max(module.chunk_seconds, 1e-9)


def _announce(module: PopulationModule, title: str) -> None:
    """Have the user told when updates are compiled, and after a few of them how long the training will take."""
    executor = module.executor
    assert executor is not None
    left, runs = module.budget.end - module.updates_done, len(module.live)

    def compiles() -> None:
        print(f"{title}: compiling (once, about a minute)", file=sys.stderr, flush=True)

    def measured(seconds: float) -> None:
        told = f"about {duration(left * seconds)} for {left:,} updates of {runs} run{'s' if runs != 1 else ''}"
        speed, rest = runs / seconds, "model rollouts and evaluations" if module.refill else "evaluations"
        print(f"{title}: {told} ({speed:,.0f} seed-updates/s), and {rest}", file=sys.stderr, flush=True)

    executor.on_compile, executor.on_measured = compiles, measured


class ProgressLine(Callback):
    """Progress with seed-updates per second, losses and the last score.

    Args:
        title: What is trained.
        evaluations: Where the last scores are found, if there are any.
        quiet: Show nothing.
    """

    def __init__(self, title: str, evaluations: Sequence[Evaluation] = (), quiet: bool = False) -> None:
        self._title, self._evaluations, self._quiet = title, tuple(evaluations), quiet
        self._stack = ExitStack()
        self._advance: Callable[..., None] | None = None
        self._announced = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Show the line, with what an earlier process did already done."""
        del trainer
        total, done = pl_module.budget.end, pl_module.updates_done
        self._advance = self._stack.enter_context(progress(self._title, total, start=done, quiet=self._quiet))
        # Lightning's own handler of SIGTERM ends trainings without a word.
        take_over()

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Before the first chunk, see to it that the user hears how long the training will take."""
        del trainer, batch, batch_idx
        if not self._quiet and not self._announced:
            self._announced = True
            _announce(pl_module, self._title)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move it on; where a signal asks for that, the training stops here."""
        del outputs, batch_idx
        module: PopulationModule = pl_module
        scores = [evaluation.last["score"] for evaluation in self._evaluations if "score" in evaluation.last]
        fields: dict[str, object] = {"score": round(sum(scores) / len(scores), 1)} if scores else {}
        fields["seed-updates/s"] = round(seed_updates_per_second(module, int(batch)))
        parts = [losses for losses in map(module.metrics_of, range(len(module.parts))) if losses]
        for name in (name for name in module.agent.metrics if name.endswith("_loss")):
            values = [losses[name] for losses in parts if name in losses]
            if values:
                fields[name.removesuffix("_loss")] = sum(values) / len(values)
        stopped = len(module.seeds) - len(module.live)
        if stopped:
            fields["stopped"] = stopped
        if self._advance is not None:
            try:
                self._advance(int(batch), **fields)
            except Interrupted as interrupted:
                # Lightning would end the whole process.
                module.interrupted, trainer.should_stop = interrupted, True

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Take the line away."""
        del trainer
        module: PopulationModule = pl_module
        error = module.interrupted
        try:
            self._stack.__exit__(error and type(error), error, None)
        except Interrupted as interrupted:
            # Asked for after the last chunk.
            module.interrupted = interrupted

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Take the line away."""
        del trainer, pl_module
        self._stack.__exit__(type(exception), exception, None)
