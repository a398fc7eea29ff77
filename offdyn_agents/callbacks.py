"""What happens between chunks: scores on the batched environment, checkpoints, progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray

from offdyn_agents.logs import CsvLog
from offdyn_agents.training import PopulationModule
from offdyn_envs.atomic import atomic_write
from offdyn_envs.progress import progress

__all__ = ["Checkpoints", "Evaluation", "ProgressLine", "target_returns"]

Act = Callable[[NDArray[Any]], NDArray[Any]]
Returns = Callable[[Act, int], NDArray[np.float64]]
"""Maps a population's policies (observations [R, E, |S|] to actions [R, E, |A|]) and R to returns [R, E]."""

EVALUATION_SEED = 500_000
"""Fixed: every point of a learning curve starts from the same states. Reported scores have other seeds."""


def target_returns(robot: str, dynamics: str, episodes: int, threads: int) -> Returns:
    """Return the function that runs every policy for some episodes in a robot's environment.

    Args:
        robot: Name of the robot.
        dynamics: Slug of the dynamics.
        episodes: E.
        threads: Simulation threads.
    """
    from offdyn_envs.benchmark.rollouts import population_returns
    from offdyn_envs.tasks import get_dynamics

    shifts = get_dynamics(robot, dynamics)

    def returns(act: Act, members: int) -> NDArray[np.float64]:
        return population_returns(act, members, robot, shifts, episodes, EVALUATION_SEED, num_threads=threads)

    return returns


class Evaluation(Callback):
    """Deterministic episodes of all policies side by side, every so many updates and at the end.

    Args:
        returns: Runs the episodes.
        normalise: Maps mean returns to scores, or None where no reference returns exist.
    """

    def __init__(self, returns: Returns, normalise: Callable[[NDArray[Any]], NDArray[Any]] | None) -> None:
        self._returns, self._normalise = returns, normalise
        self.last: dict[str, float] = {}

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Evaluate where an evaluation is due."""
        del outputs, batch, batch_idx
        module: PopulationModule = pl_module
        done, budget = module.updates_done, module.budget
        if done % budget.evaluate_every and done != budget.updates:
            return

        def act(observations: NDArray[Any]) -> NDArray[Any]:
            return module.act(torch.from_numpy(np.asarray(observations, dtype=np.float32))).cpu().numpy()

        means = self._returns(act, len(module.seeds)).mean(axis=1)
        self.last = {f"return_{seed}": float(value) for seed, value in zip(module.seeds, means, strict=True)}
        if self._normalise is not None:
            self.last["score"] = float(self._normalise(means).mean())
        for logger in trainer.loggers:
            logger.log_metrics(self.last, step=done)


class Checkpoints(Callback):
    """Writes `last.ckpt`, whole or not at all, every so many seconds and at the end.

    Args:
        folder: Where.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "last.ckpt"
        self._written = time.monotonic()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Drop log lines that a killed run wrote after its last checkpoint."""
        for logger in trainer.loggers:
            if isinstance(logger, CsvLog):
                logger.cut(pl_module.updates_done)
        self._written = time.monotonic()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write one where it is due."""
        del outputs, batch, batch_idx
        ended = pl_module.updates_done >= pl_module.budget.updates
        if ended or time.monotonic() - self._written >= pl_module.budget.checkpoint_seconds:
            # Lightning logs after this hook: a run killed in between would never write the line again.
            for logger in trainer.loggers:
                if isinstance(logger, CsvLog):
                    logger.log_metrics(pl_module.last_metrics, step=pl_module.updates_done)
            with atomic_write(self._path) as temporary:
                trainer.save_checkpoint(temporary)
            self._written = time.monotonic()


class ProgressLine(Callback):
    """Progress with seed-updates per second, losses and the last score.

    Args:
        title: What is trained.
        evaluation: Where the last score is found, if there is one.
        quiet: Show nothing.
    """

    def __init__(self, title: str, evaluation: Evaluation | None = None, quiet: bool = False) -> None:
        self._title, self._evaluation, self._quiet = title, evaluation, quiet
        self._stack = ExitStack()
        self._advance: Callable[..., None] | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Show the line, with what an earlier process did already done."""
        del trainer
        total, done = pl_module.budget.updates, pl_module.updates_done
        self._advance = self._stack.enter_context(progress(self._title, total, start=done, quiet=self._quiet))

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move it on."""
        del trainer, outputs, batch_idx
        shown = {name: value for name, value in pl_module.last_metrics.items() if name.endswith("_loss")}
        fields: dict[str, object] = {"seed-updates/s": round(pl_module.last_metrics["seed_updates_per_second"])}
        fields |= {name.removesuffix("_loss"): float(value) for name, value in shown.items()}
        if self._evaluation is not None and "score" in self._evaluation.last:
            fields["score"] = round(self._evaluation.last["score"], 1)
        if self._advance is not None:
            self._advance(int(batch), **fields)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Take the line away."""
        del trainer, pl_module
        self._stack.close()

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Take the line away."""
        del trainer, pl_module, exception
        self._stack.close()
