"""The Lightning module that trains a population, a chunk of updates per training step, and its trainer.

Lightning costs about 190 us a step and 330 us a logged number, more than an update of a small network. So a "batch" of
the loader is a number of updates to do, all data lie on the device, and one `log_dict` speaks for the chunk.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from offdyn_agents.agent import Agent
from offdyn_agents.data import Layout, Sampler, Supply
from offdyn_agents.execution import Executor, exact_fast_products
from offdyn_agents.logs import CsvLog, TensorBoardLog
from offdyn_agents.update import Groups, Population, initial_population, make_update, scales
from offdyn_envs.errors import OffDynError, unknown

__all__ = ["Budget", "Chunks", "Hardware", "PopulationModule", "choose_device", "fit"]

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Budget:
    """How long to train and how often to look up.

    Attributes:
        updates: Updates of every run.
        evaluate_every: Updates between evaluations.
        chunk: Updates per training step of Lightning.
        checkpoint_seconds: Time between checkpoints.
    """

    updates: int
    evaluate_every: int = 10_000
    chunk: int = 500
    checkpoint_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name in ("updates", "evaluate_every", "chunk"):
            if getattr(self, name) < 1:
                raise OffDynError(f"{name.replace('_', ' ')} is {getattr(self, name)}; at least 1 is allowed")

    def next_chunk(self, done: int) -> int:
        """Return how many updates come next after `done`; 0 at the end. Evaluations fall on ends of chunks."""
        boundary = (done // self.evaluate_every + 1) * self.evaluate_every
        return max(0, min(self.chunk, boundary - done, self.updates - done))


@dataclass(frozen=True)
class Hardware:
    """Where and how exactly to compute.

    Attributes:
        device: "cpu" or "cuda".
        precision: "fp32", or "bf16" for products with rounded operands.
        threads: CPU threads.
        compiled: Whether to compile updates.
    """

    device: str = "cpu"
    precision: str = "fp32"
    threads: int = 1
    compiled: bool = True

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)

    def products(self) -> AbstractContextManager[Any]:
        """Return the context in which a loss is computed."""
        return torch.autocast(self.device, torch.bfloat16) if self.precision == "bf16" else nullcontext()


def choose_device(name: str) -> str:
    """Return "cpu" or "cuda" for a name that may be "auto".

    Raises:
        OffDynError: No such device, or none on this machine.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise OffDynError("device 'cuda' is not on this machine; cpu is allowed")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


class Chunks:
    """The loader: numbers of updates, until the budget is spent. It goes on where the module stands."""

    def __init__(self, module: PopulationModule, budget: Budget) -> None:
        self._module, self._budget = module, budget

    def __iter__(self) -> Iterator[int]:
        """Yield the sizes of the chunks that are left."""
        done = self._module.updates_done
        while size := self._budget.next_chunk(done):
            yield size
            done += size


class PopulationModule(lightning.LightningModule):
    """R runs of one agent.

    Args:
        agent: The agent.
        seeds: Seeds of the runs.
        supply: Data on the device.
        sampler: Draws their rows.
        budget: How long to train.
        hardware: Where.
    """

    def __init__(
        self, agent: Agent, seeds: Sequence[int], supply: Supply, sampler: Sampler, budget: Budget, hardware: Hardware
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.agent, self.seeds, self.supply, self.sampler = agent, tuple(seeds), supply, sampler
        self.budget, self.hardware = budget, hardware
        self._shape = initial_population(agent, seeds)
        for name, tensor in self._shape.named():
            self.register_buffer(name, tensor)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.seconds = self.stage_seconds = 0.0
        self.counter = nn.Parameter(torch.zeros(()))
        self.last_metrics: dict[str, float] = {}
        self._executor: Executor | None = None

    @property
    def updates_done(self) -> int:
        """Updates that every run has done."""
        return int(self.get_buffer("updates"))

    @property
    def population(self) -> Population:
        """The state on its present device; writing to it writes to the module."""
        return self._shape.map(lambda name, _: self.get_buffer(name))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer of nothing.

        The real one is part of the compiled update. Lightning's `global_step` counts steps of optimizers that it has
        wrapped, and its loggers look at `global_step`; so this one is stepped once per chunk.
        """
        return torch.optim.SGD([self.counter], lr=0.0)

    def on_train_start(self) -> None:
        """Make the executor once the state has reached its device and a checkpoint has been read."""
        layout: Layout = self.supply.layout
        update = make_update(self.agent, layout, self.hardware.products)
        rate, total = float(self.agent.settings.learning_rate), self.budget.updates
        self._executor = Executor(
            update,
            self.population,
            self.supply,
            self.agent.rows().source,
            lambda done, count: scales(rate, done, count, total),
            done=self.updates_done,
            threads=self.hardware.threads,
            compiled=self.hardware.compiled,
        )

    def training_step(self, batch: int, batch_idx: int) -> None:
        """Do a chunk of updates.

        Args:
            batch: How many.
            batch_idx: Lightning's number of the chunk, not used: a resumed run counts from anew.
        """
        del batch_idx
        assert self._executor is not None
        begun = time.monotonic()
        sums = self.get_buffer("sums")
        sums.zero_()
        self._executor.run(self.sampler.draw(batch))
        self.get_buffer("updates").add_(batch)
        self._refuse_divergence(sums)
        means = (sums / batch).mean(0).tolist()
        elapsed = time.monotonic() - begun
        self.seconds += elapsed
        self._log(dict(zip(self.agent.metrics, means, strict=True)), len(self.seeds) * batch / elapsed)
        optimizer: Any = self.optimizers()
        optimizer.step()

    def _refuse_divergence(self, sums: Tensor) -> None:
        """Stop before a checkpoint or a policy of a run that has diverged is written."""
        diverged = [seed for seed, row in zip(self.seeds, sums, strict=True) if not bool(torch.isfinite(row).all())]
        if diverged:
            raise OffDynError(
                f"{self.agent.name}: seed {diverged[0]} diverged before update {self.updates_done}: a loss is not"
                " finite; the last checkpoint stands from before; other settings are needed"
            )

    def _log(self, losses: dict[str, float], rate: float) -> None:
        self.last_metrics = losses | {"seed_updates_per_second": rate}
        # "step" is Lightning's name for the x axis of what it hands to loggers.
        self.log_dict(self.last_metrics | {"step": float(self.updates_done)}, batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the generators and the clock; parameters, moments and counts are buffers."""
        checkpoint["offdyn"] = {
            "generators": self.sampler.state(),
            "seconds": self.seconds,
            "stage_seconds": self.stage_seconds,
            "seeds": list(self.seeds),
            "agent": self.agent.name,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back.

        Raises:
            OffDynError: The checkpoint is of another agent or of other seeds.
        """
        saved = checkpoint["offdyn"]
        if (saved["agent"], saved["seeds"]) != (self.agent.name, list(self.seeds)):
            raise OffDynError(
                f"checkpoint of {saved['agent']} with seeds {saved['seeds']}; {self.agent.name} with seeds"
                f" {list(self.seeds)} is allowed"
            )
        self.sampler.restore(saved["generators"])
        self.seconds = float(saved["seconds"])
        self.stage_seconds += float(saved.get("stage_seconds", 0.0))

    def act(self, observations: Tensor) -> Tensor:
        """Return actions [R, B, |A|] of every run's policy for observations [R, B, |S|]."""
        params: Groups = self.population.params
        with torch.no_grad():
            return self.agent.act(params, observations.to(self.get_buffer("step").device, torch.float32))


def fit(module: PopulationModule, folder: Path, callbacks: Sequence[Callback] = ()) -> None:
    """Train until the budget is spent, going on from `folder/checkpoints/last.ckpt` if there is one.

    Args:
        module: The population.
        folder: The run's folder; checkpoints and logs go there.
        callbacks: Evaluation, checkpoints, progress, in the order in which they should act.
    """
    checkpoint = folder / "checkpoints" / "last.ckpt"
    agent = module.agent
    names = [*agent.metrics, "seed_updates_per_second"]
    loggers = [CsvLog(folder / "metrics.csv", names, module.seeds), TensorBoardLog(folder)]
    inputs = (agent.observation_dim, agent.observation_dim + agent.action_dim)
    settings = agent.settings
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings(), exact_fast_products(settings.width, inputs, settings.batch_size):
        # Its checks of loaders and schedules are about one batch per step.
        warnings.filterwarnings("ignore", module="lightning.*")
        trainer = lightning.Trainer(
            accelerator="gpu" if module.hardware.device == "cuda" else "cpu",
            devices=1,
            max_epochs=1,
            logger=loggers,
            callbacks=list(callbacks),
            log_every_n_steps=1,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        chunks: Any = Chunks(module, module.budget)
        resumed = str(checkpoint) if checkpoint.exists() else None
        trainer.fit(module, train_dataloaders=chunks, ckpt_path=resumed, weights_only=True)
