"""The Lightning module that trains a population, a chunk of updates per training step, and its trainer.

Lightning costs about 190 us a step and 330 us a logged number, more than an update of a small network. So a "batch" of
the loader is a number of updates to do, all data lie on the device, and one line of the logs speaks for the chunk.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn

from offdyn_agents.engine.agent import Agent
from offdyn_agents.engine.data import Sampler, Supply
from offdyn_agents.engine.execution import Executor, exact_fast_products
from offdyn_agents.engine.networks import Params, member
from offdyn_agents.engine.resources import Budget, Hardware, choose_device
from offdyn_agents.engine.rollouts import ModelBased, Refill
from offdyn_agents.engine.settings import DEFAULT_UPDATES, flat, to_json
from offdyn_agents.engine.termination import Termination
from offdyn_agents.engine.training.bare import bare_task, supplied
from offdyn_agents.engine.training.checkpoints import FILE, TaskFiles, read_checkpoint, updates_done, with_metrics
from offdyn_agents.engine.training.extras import NONE, QUIET, Extras
from offdyn_agents.engine.training.logs import RunLog
from offdyn_agents.engine.update import Population, initial_population
from offdyn_envs.datasets.own.contract import Contract
from offdyn_envs.errors import OffDynError
from offdyn_envs.interruption import Interrupted

__all__ = ["Budget", "Chunks", "Hardware", "Part", "PopulationModule", "choose_device", "fit"]


@dataclass(frozen=True)
class Part:
    """The runs of one task in a population.

    Attributes:
        folder: The task's run folder; checkpoints and logs go there.
        title: What messages and progress call it.
        seeds: Seeds of the runs.
        identity: SHA-256 of the data and of the settings, which a checkpoint must agree with.
        contract: What the columns of the data are, for exported policies; None where nothing is to be said.
    """

    folder: Path
    title: str
    seeds: tuple[int, ...]
    identity: Mapping[str, str] = field(default_factory=dict)
    contract: Contract | None = None


class Chunks:
    """The loader: numbers of updates, until the budget is spent. It goes on where the module stands."""

    def __init__(self, module: PopulationModule, budget: Budget) -> None:
        self._module, self._budget = module, budget

    def __iter__(self) -> Iterator[int]:
        """Yield the sizes of the chunks that are left, as long as a run is left."""
        done = self._module.updates_done
        begun = done if self._module.begun is None else self._module.begun
        every = self._module.refill_every
        while (end := begun + self._budget.next_chunk(begun, every)) > done and self._module.live:
            yield end - done
            begun = done = end


class PopulationModule(lightning.LightningModule):
    """Runs of one agent, on one task or on several of equal dimensions.

    Args:
        agent: The agent.
        parts: The tasks and their seeds; R runs in all.
        supply: Data on the device.
        sampler: Draws their rows.
        budget: How long to train.
        hardware: Where.
        frozen: What the stages give the loss to read, by name; tensors [R, ...].
        refill: Makes rows of model rollouts, for agents that have any.
        failed: Why runs cannot be trained, by run: a stage of theirs failed. They are stopped before their first
            update, and the others go on.
    """

    def __init__(
        self,
        agent: Agent,
        parts: Sequence[Part],
        supply: Supply,
        sampler: Sampler,
        budget: Budget,
        hardware: Hardware,
        frozen: Mapping[str, Params] | None = None,
        refill: Refill | None = None,
        failed: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.agent, self.parts, self.supply, self.sampler = agent, tuple(parts), supply, sampler
        self.seeds = tuple(seed for part in parts for seed in part.seeds)
        self.budget, self.hardware, self.refill = budget, hardware, refill
        self._shape = initial_population(agent, self.seeds, frozen)
        for name, tensor in self._shape.named():
            self.register_buffer(name, tensor, persistent=not name.startswith("frozen_"))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.seconds = self.stage_seconds = self.chunk_seconds = 0.0
        self.counter = nn.Parameter(torch.zeros(()))
        self.stopped: list[list[Any]] = [[] for _ in self.seeds]
        """For each run nothing, or [the updates after which it was stopped, why]."""
        self._failed = dict(failed or {})
        self.logs = [RunLog(part.folder, agent.metrics, part.seeds) for part in parts]
        if refill is not None:
            refill.log = self._log_refill
        self.executor: Executor | None = None
        self.interrupted: Interrupted | None = None
        """The signal after which training stopped, its checkpoint written."""
        self.alone = False
        """Whether no `fit` of ours stands around the training."""

        self.begun: int | None = None
        """After how many updates the chunk began that an earlier, shorter training ended in, and the next one goes on
        with; None where chunks begin anew."""

    @classmethod
    def from_data(
        cls,
        agent: Any,
        source: Any,
        target: Any,
        seeds: int | Sequence[int] = 5,
        *,
        updates: int = DEFAULT_UPDATES,
        chunk: int = 500,
        folder: str | Path | None = None,
        robot: str | None = None,
        terminated: Termination | None = None,
        hardware: Hardware | None = None,
        quiet: bool = True,
    ) -> PopulationModule:
        """Return a population for your own trainer: `lightning.Trainer(max_epochs=1).fit(module, module.loader())`.

        Stages before the policy are trained here. No checkpoints, curves or scores are kept: `offdyn.fit` does that.

        Args:
            agent: An agent, or `offdyn.agents.NAME(...)`, which gets the sizes of the data.
            source: A dataset, or a mapping or object of arrays, as `offdyn.fit` takes them.
            target: Likewise.
            seeds: Number of runs, or their seeds.
            updates: Updates of every run.
            chunk: Updates of one training step of Lightning.
            folder: Where stages, rollouts and exported policies go; None for a temporary folder.
            robot: Robot that says where episodes end, for agents that roll out models.
            terminated: What says so in its place: observations [..., |S|] to bool [...].
            hardware: Device, precision and threads; by default the CPU, fp32, one thread.
            quiet: Show no progress of the stages.

        Raises:
            OffDynError: Data that are none, or do not fit each other.
        """
        made, task = bare_task(agent, source, target, seeds, folder, robot, terminated)
        where = hardware or Hardware()
        budget = Budget(updates, updates, chunk)
        found = supplied(made, task, budget, where, quiet)
        parts = [Part(task.folder, task.title, task.seeds, found.identities[0], task.contract)]
        rest = (found.frozen, found.refill, found.failed)
        module = cls(made, parts, found.supply, found.sampler, budget, where, *rest)
        module.alone = True
        return module

    def export(self, part: int = 0) -> Path:
        """Write the policies of a task's runs into its folder, `seeds/<seed>`; one that has diverged gets none.

        Returns:
            The task's folder.
        """
        from offdyn_agents.engine.export import bounds_of, export_run, write_contract

        runs, population, told = self.runs_of(part), self.population, self.parts[part]
        sizes = (self.agent.observation_dim, self.agent.action_dim)
        for run in range(runs.start, runs.stop):
            if not self.stopped[run]:
                readable = {name: member(tensors, run) for name, tensors in population.readable().items()}
                home = told.folder / "seeds" / str(self.seeds[run])
                export_run(self.agent.exported(readable), home, *sizes, bounds_of(told.contract))
                if told.contract is not None:
                    digests = {f"{what}_sha256": digest for what, digest in told.identity.items()}
                    write_contract(home, told.contract, {"agent": self.agent.name, "seed": self.seeds[run], **digests})
        return told.folder

    @contextmanager
    def computing(self) -> Generator[None]:
        """Round products as the hardware says, and use the fastest exact ones, for the block."""
        settings, agent = self.agent.settings, self.agent
        inputs = (agent.observation_dim, agent.observation_dim + agent.action_dim)
        with exact_fast_products(settings.width, inputs, settings.batch_size), self.hardware.rounding():
            yield

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """What loggers are told: agent, seeds, budget, and the settings by their dotted names."""
        told = {"agent": self.agent.name, "seeds": str(list(self.seeds)), "updates": self.budget.updates}
        return told | {"precision": self.hardware.precision, **flat(to_json(self.agent.settings))}

    def loader(self) -> Any:
        """Return the loader of a `lightning.Trainer` with `max_epochs=1`: the chunks of updates that are left."""
        return Chunks(self, self.budget)

    @property
    def updates_done(self) -> int:
        """Updates that every run has done."""
        return int(self.get_buffer("updates"))

    @property
    def refill_every(self) -> int:
        """Updates between two refills of the rows of model rollouts; 0 for agents without any."""
        return self.agent.refill_every if isinstance(self.agent, ModelBased) else 0

    @property
    def live(self) -> list[int]:
        """The runs that have not been stopped."""
        return [run for run, stopped in enumerate(self.stopped) if not stopped]

    @property
    def population(self) -> Population:
        """The state on its present device; writing to it writes to the module."""
        return self._shape.map(lambda name, _: self.get_buffer(name))

    def runs_of(self, part: int) -> slice:
        """Return which runs belong to a task."""
        start = sum(len(other.seeds) for other in self.parts[:part])
        return slice(start, start + len(self.parts[part].seeds))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer of nothing.

        The real one is part of the compiled update. Lightning's `global_step` counts steps of optimizers that it has
        wrapped, and its loggers look at `global_step`; so this one is stepped once per chunk.
        """
        return torch.optim.SGD([self.counter], lr=0.0)

    def on_train_start(self) -> None:
        """Once the state is on its device and a checkpoint has been read: stop what has failed, make the executor."""
        self._stop({run: f"{why}; other settings are needed" for run, why in self._failed.items()})
        with self.computing() if self.alone else nullcontext():
            self.executor = self._make_executor()

    def _make_executor(self) -> Executor:
        return Executor(
            self.agent,
            self.population,
            self.supply,
            total=self.budget.horizon,
            noise=self.sampler.noise,
            context=self.hardware.products,
            done=self.updates_done,
            threads=self.hardware.threads,
            compiled=self.hardware.compiled,
        )

    def training_step(self, batch: int, batch_idx: int) -> None:
        """Do a chunk of updates, after a refill where one is due.

        Args:
            batch: How many.
            batch_idx: Lightning's number of the chunk, not used: a resumed run counts from anew.
        """
        del batch_idx
        assert self.executor is not None
        begun = time.monotonic()
        if self.refill is not None and self.updates_done % self.refill_every == 0:
            executor = self.executor
            readable = self.population.readable()
            failed = self.refill(readable, self.live, self.updates_done, executor.workers, executor.inside)
            self._stop(failed)
        if not self.live or self.interrupted is not None:
            # Lightning asks for a chunk ahead of time: it cannot know that nothing is left to train.
            return
        if self.begun is None:
            for name in ("sums", "counts"):
                self.get_buffer(name).zero_()
        self.begun = None
        before = {name: tensor.clone() for name, tensor in self._changing()}
        stopped = [run for run, told in enumerate(self.stopped) if told]
        with self.computing() if self.alone else nullcontext():
            self.executor.run(self.sampler.draw(batch, self.device), stopped)
        self.get_buffer("updates").add_(batch)
        self._freeze_diverged(before)
        self.chunk_seconds = time.monotonic() - begun
        self.seconds += self.chunk_seconds
        optimizer: Any = self.optimizers()
        optimizer.step()

    def metrics_of(self, part: int) -> dict[str, float]:
        """Return the means of what the losses of one task's live runs reported in the last chunk."""
        runs = self.runs_of(part)
        live = [run for run in range(runs.start, runs.stop) if not self.stopped[run]]
        if not live:
            return {}
        counts = self.get_buffer("counts")[live]
        means = (self.get_buffer("sums")[live] / counts.clamp(min=1.0)).mean(0).tolist()
        found = zip(self.agent.metrics, means, (counts > 0).all(0).tolist(), strict=True)
        return {name: mean for name, mean, present in found if present}

    def part_of(self, run: int) -> int:
        """Return which task a run belongs to."""
        return next(i for i in range(len(self.parts)) if run < self.runs_of(i).stop)

    def _log_refill(self, run: int, facts: dict[str, float]) -> None:
        self.logs[self.part_of(run)].refill(facts)

    def _changing(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, tensor) for name, tensor in self.population.named() if not name.startswith("frozen_"))

    def _freeze_diverged(self, before: Mapping[str, Tensor]) -> None:
        """Stop the runs that have diverged in this chunk, and take stopped runs back to where they were."""
        finite = torch.stack([torch.isfinite(tensor).flatten(1).all(1) for tensor in self._rows()]).all(0).tolist()
        why = "a loss or a parameter is not finite; other settings are needed"
        self._stop({run: why for run in self.live if not finite[run]})
        gone = [run for run, stopped in enumerate(self.stopped) if stopped]
        if gone:
            for name, tensor in self._changing():
                tensor[gone] = before[name][gone]

    def _rows(self) -> Iterator[Tensor]:
        return (tensor.view(len(self.seeds), -1) for _, tensor in self._changing())

    def _stop(self, reasons: Mapping[int, str]) -> None:
        """Stop runs, by number, each for a reason, and say so; those that have stopped before are left alone."""
        new = [run for run in reasons if not self.stopped[run]]
        for run in new:
            self.stopped[run] = [self.updates_done, reasons[run]]
        others = "; the other runs go on" if self.live else ""
        for run in new:
            print(f"{self.describe_stop(run)}{others}", file=sys.stderr, flush=True)

    def describe_stop(self, run: int) -> str:
        """Return one line about a stopped run."""
        updates, why = self.stopped[run]
        title = self.parts[self.part_of(run)].title
        return f"{title}: seed {self.seeds[run]} diverged before update {updates}: {why}"

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the generators and the clock; parameters, moments and counts are buffers."""
        told = {
            "agent": self.agent.name,
            "total": self.budget.updates,
            "seconds": self.seconds,
            "stage_seconds": self.stage_seconds,
            "seeds": list(self.seeds),
            "stopped": self.stopped,
            "generators": self.sampler.state(),
            "buffers": [buffer.state() for buffer in self.supply.buffers or ()],
        }
        checkpoint["offdyn"] = told | {"per_run": ["seeds", "stopped", "generators", "buffers"]}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them back."""
        saved = checkpoint["offdyn"]
        self.sampler.restore(saved["generators"])
        self.stopped = [list(item) for item in saved["stopped"]]
        if updates_done(checkpoint) < self.budget.end:
            # What was the last chunk of a shorter training is not the last one any more.
            checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False
            # Without updates that are left, rows that nothing is learned from any more may be gone.
            for run, (buffer, state) in enumerate(zip(self.supply.buffers or (), saved["buffers"], strict=True)):
                buffer.restore(state)
                self.sampler.filled(run, buffer.fill)
        self.seconds = float(saved["seconds"])
        self.stage_seconds += float(saved["stage_seconds"])

    def act(self, observations: Tensor, runs: slice = slice(None)) -> Tensor:
        """Return actions [R, B, |A|] of the policies of some runs for observations [R, B, |S|]."""
        params = self.population.members(runs).readable()
        with torch.no_grad():
            return self.agent.act(params, observations.to(self.get_buffer("step").device, torch.float32))

    def write_checkpoint(self) -> None:
        """Write the checkpoint of every task."""
        self.trainer.save_checkpoint(FILE)


def _grows(content: Mapping[str, Any] | None, budget: Budget) -> bool:
    """Say whether a checkpoint is the end of a shorter training."""
    return content is not None and content["offdyn"].get("total") == updates_done(content) < budget.updates


def _open_logs(module: PopulationModule, done: int, grows: bool, others: Sequence[Logger]) -> None:
    """Open the logs after so many updates; where an end was, they become those of a training that did not end there."""
    begun = module.budget.chunk_begun(done, module.refill_every) if grows else done
    module.begun = begun if begun < done else None
    evaluated = not grows or done % module.budget.evaluate_every == 0
    for log in module.logs:
        log.resume(done, begun, evaluated, others)


def fit(module: PopulationModule, callbacks: Sequence[Callback] = (), extras: Extras = NONE) -> None:
    """Train until the budget is spent, going on from the checkpoints of the tasks if there are any.

    Args:
        module: The population.
        callbacks: Evaluation, checkpoints, progress, in the order in which they should act.
        extras: What a user brings.

    Raises:
        OffDynError: A checkpoint is damaged, or of something else; or those of the tasks are not equally far.
        Interrupted: A signal asked to stop; there is a checkpoint of what was done.
    """
    agent, parts = module.agent, module.parts
    found = [read_checkpoint(part.folder, agent.name, part.seeds, part.identity) for part in parts]
    done = {updates_done(content) for content in found}
    if len(done) > 1:
        raise OffDynError(f"the tasks are {sorted(done)} updates far; tasks are trained together from equally far on")
    _open_logs(module, max(done), any(_grows(content, module.budget) for content in found), extras.loggers)
    for logger in extras.loggers:
        logger.log_hyperparams(module.hyperparameters)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    resumed = [with_metrics(content, len(agent.metrics)) for content in found if content is not None]
    files = TaskFiles([(part.folder, module.runs_of(i), part.identity) for i, part in enumerate(parts)], resumed)
    with warnings.catch_warnings(), module.computing():
        # Its checks of loaders and schedules are about one batch per step.
        warnings.filterwarnings("ignore", module="lightning.*")
        # One process is one training, whatever a scheduler's variables say of ranks.
        rank_zero_only.rank = 0  # pyright: ignore[reportFunctionMemberAccess]
        trainer = lightning.Trainer(
            accelerator="gpu" if module.hardware.device == "cuda" else "cpu",
            devices=1,
            max_epochs=1,
            logger=[logger for log in module.logs for logger in log.loggers],
            callbacks=[*callbacks, *extras.callbacks],
            plugins=[files, LightningEnvironment()],
            default_root_dir=parts[0].folder,
            **{**QUIET, **extras.trainer},
        )
        trainer.fit(module, train_dataloaders=module.loader(), ckpt_path=FILE if resumed else None, weights_only=True)
    if module.interrupted is not None:
        raise module.interrupted
