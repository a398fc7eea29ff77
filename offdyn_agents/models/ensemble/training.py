"""Training of an ensemble: members stacked, one compiled step; every member sees a bootstrap resample of its own.

Annealed, the default, the learning rate falls to 0 over a number of steps that is fixed, and the last parameters count.
With early stopping, as published, a member's parameters are kept when its error on held-out rows falls by more than 1%,
and training ends after 5 epochs in which none did. Learned bounds of the log-variance, which members train together,
are kept with each member as they were at its best epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from offdyn_agents.engine.data import stream
from offdyn_agents.engine.execution import bound, can_compile, compile_flat, warn_uncompiled
from offdyn_agents.engine.networks import Params
from offdyn_agents.engine.products import rounded_products
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.soundness import better, fault
from offdyn_agents.engine.update import adam, scales
from offdyn_agents.models.ensemble.model import Ensemble, ensemble_loss, ensemble_network, forward, initial_ensemble
from offdyn_agents.models.ensemble.settings import GaussianSettings

__all__ = ["EnsembleLearner"]

ERROR_ROWS = 4096
"""Held-out rows judged at once."""
SAVE_SECONDS = 60.0
"""Time between copies of an unfinished training: an epoch over a million rows takes a minute on a CPU."""

Report = Callable[[int, float], None]
State = Mapping[str, Tensor]
Save = Callable[[State], None]


def _step(*tensors: Tensor, precision: str = "fp32") -> None:
    """Take one step of Adam: parameters, both moments, the scale, and a batch of every member's inputs and outputs."""
    *state, scale, inputs, outputs = tensors
    size = len(state) // 3
    params, first, second = state[:size], state[size : 2 * size], state[2 * size :]
    with rounded_products(inputs.device.type, precision):
        gradients = torch.func.grad(ensemble_loss)(params, inputs, outputs)
    with torch.no_grad():
        for parameter, gradient, m, v in zip(params, gradients, first, second, strict=True):
            adam(parameter, gradient, m, v, scale[0], scale[2])


@cache
def _compiled_step(
    shapes: tuple[torch.Size, ...], device: torch.device, threads: int, precision: str
) -> Callable[..., Any]:
    """Return the step compiled for tensors of some shapes, once in a process: the tasks of a track share it."""
    step = partial(_step, precision=precision)
    return compile_flat(step, [torch.zeros(shape, device=device) for shape in shapes], device, threads)


class EnsembleLearner:
    """Trains ensembles of one shape; the compiled step is shared by all of them, also from several threads.

    On a GPU every ensemble's step is recorded as a graph: it is far too small to hide hundreds of launches.

    Args:
        settings: How.
        layout: Layout of packed rows.
        device: Where.
        threads: CPU threads inside one step.
        compiled: Whether to compile the step.
        precision: "bf16" rounds the operands of products in the loss; held-out errors are in fp32 all the same.
    """

    def __init__(
        self,
        settings: GaussianSettings,
        layout: Layout,
        device: torch.device,
        *,
        threads: int = 1,
        compiled: bool = True,
        precision: str = "fp32",
    ) -> None:
        self.settings = settings
        self.layout = layout
        self.device = device
        self.network = ensemble_network(settings, layout.observation_dim, layout.action_dim)
        self.step: Callable[..., Any] = partial(_step, precision=precision)
        self.threads, self.precision = threads, precision
        self.compiled = compiled and can_compile(device)

    def warm_up(self, rows: Tensor) -> None:
        """Compile the step; without a working compiler, say so and go on as it is written."""
        if not self.compiled:
            return
        self.compiled = False
        try:
            shapes = tuple(tensor.shape for tensor in _Training(self, rows, 0).first_step())
            self.step = _compiled_step(shapes, self.device, self.threads, self.precision)
        except Exception as error:
            warn_uncompiled(error)

    def step_of(self, state: Sequence[Tensor], batch: Sequence[Tensor]) -> Callable[..., Any]:
        """Return the step of one training, whose state stays in the same tensors.

        Args:
            state: Parameters and both moments.
            batch: The rest of what a step takes, with any values.
        """
        return bound(self.step, state, batch)

    def fit(
        self,
        rows: Tensor,
        seed: int,
        report: Report | None = None,
        *,
        target: int = 0,
        save: Save | None = None,
        resume: State | None = None,
    ) -> Ensemble:
        """Train one ensemble.

        Args:
            rows: Packed rows [N, W] on the device.
            seed: Decides initial parameters, the hold-out, resamples and orders.
            report: Called after every epoch with its number and the mean hold-out error of the members.
            target: How many of the last rows are of the target, where `target_share` counts.
            save: Called after epochs, at most once a minute, with all that `resume` needs.
            resume: What `save` was given: training goes on there and ends as if it had never stopped.
        """
        training = _Training(self, rows, seed, target)
        if resume is not None:
            try:
                training.restore(resume)
            except (KeyError, RuntimeError, ValueError):
                # Of another form: not what `save` was given.
                training = _Training(self, rows, seed, target)
        return training.run(report, save)


class _Training:
    """The training of one ensemble."""

    def __init__(self, learner: EnsembleLearner, rows: Tensor, seed: int, target: int = 0) -> None:
        self.learner, self.settings = learner, learner.settings
        self.generator = torch.Generator().manual_seed(stream(seed, "ensemble"))
        held, chosen, own = self._split(len(rows), target)
        kept = rows[chosen.to(rows.device)]
        self.inputs, self.outputs = self._columns(kept)
        self.mean = self.inputs.mean(0)
        std = self.inputs.std(0, correction=0)
        # A constant input (no variance) must stay finite when it moves on source rows.
        self.std = torch.where(std < 1e-6, torch.ones_like(std), std)
        self.inputs = (self.inputs - self.mean) / self.std
        self.scale = torch.ones_like(self.outputs[0])
        if self.settings.standardised:
            spread = self.outputs.square().mean(0).sqrt()
            self.scale = torch.where(spread < 1e-6, self.scale, spread)
        self.outputs = self.outputs / self.scale
        inputs, held_outputs = self._columns(rows[held.to(rows.device)])
        self.held_outputs = held_outputs / self.scale
        self.held_inputs = (inputs - self.mean) / self.std
        fresh = initial_ensemble(self.settings, learner.network, self.generator)
        self.params: Params = [t.to(rows.device) for t in fresh]
        self.first = [torch.zeros_like(t) for t in self.params]
        self.second = [torch.zeros_like(t) for t in self.params]
        self.steps = self.epoch = self.stale = 0
        self.batch = min(self.settings.batch_size, len(kept))
        self.resample = self._resample(len(kept), own)
        self.total = self.settings.steps(len(rows))
        self.best = [t.clone() for t in self.params]
        self.take_step: Callable[..., Any] = learner.step
        self.errors = self.start = self._errors()

    def _split(self, rows: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the places of rows that are held out and of those that are kept, and which of the latter are target's.

        Where target rows have a share of their own, they have it among the rows held out too, as far as a fifth of them
        goes.
        """
        settings = self.settings
        order = torch.randperm(rows, generator=self.generator)
        held = settings.held(rows)
        ours = order >= rows - target
        if settings.target_share and 0 < target < rows:
            few = min(round(settings.target_share * held), round(settings.holdout * target))
            rest = min(held - few, round(settings.holdout * (rows - target)))
            taken = torch.where(ours, ours.cumsum(0) <= few, (~ours).cumsum(0) <= rest)
            order, ours = torch.cat([order[taken], order[~taken]]), torch.cat([ours[taken], ours[~taken]])
            held = max(1, few + rest)
        if rows == held:
            return order, torch.arange(rows), torch.arange(0)
        return order[:held], order[held:], ours[held:].nonzero()[:, 0]

    def _resample(self, count: int, own: Tensor) -> Tensor:
        """Return each member's bootstrap resample of the kept rows, int64 [members, count].

        Args:
            count: Kept rows.
            own: Which of them are the target's. Where these have a share of their own, a member has one resample of
                them, of which its rows are drawn, so that members differ as much in target rows as elsewhere.
        """
        members, share = self.settings.members, self.settings.target_share
        if not share or not 0 < len(own) < count:
            return torch.randint(count, (members, count), generator=self.generator)
        others = torch.ones(count, dtype=torch.bool)
        others[own] = False
        source, many = others.nonzero()[:, 0], round(share * count)
        first = source[torch.randint(len(source), (members, count - many), generator=self.generator)]
        resample = own[torch.randint(len(own), (members, len(own)), generator=self.generator)]
        drawn = torch.randint(len(own), (members, many), generator=self.generator)
        return torch.cat([first, resample.gather(1, drawn)], dim=1)

    def _columns(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        observations, actions, following, rewards, _ = self.learner.layout.split(rows)
        inputs = torch.cat([observations, actions], dim=-1)
        return inputs, torch.cat([rewards[:, None], following - observations], dim=-1)

    def run(self, report: Report | None, save: Save | None) -> Ensemble:
        settings, saved = self.settings, time.monotonic()
        self.take_step = self.learner.step_of(self._changing(), self.first_step()[len(self._changing()) :])
        while self.steps < self.total and self.stale < settings.patience:
            self._epoch()
            self.epoch += 1
            fresh = self._errors() if settings.early_stopping or report else self.errors
            if report:
                report(self.epoch, float(fresh.mean()))
            if settings.early_stopping:
                self._keep_better(fresh)
            if save and time.monotonic() - saved >= SAVE_SECONDS:
                save(self.state())
                saved = time.monotonic()
        last = self._errors()
        if not settings.early_stopping:
            self.best, self.errors = self.params, last
        # Bounds that no epoch improved are still one row for all members.
        best = [tensor.expand(len(self.errors), *tensor.shape[1:]).contiguous() for tensor in self.best]
        failed = fault(self.start, self.errors, last, self.stale >= settings.patience)
        return Ensemble(best, self.mean, self.std, self.errors.argsort(), failed, self.scale)

    def _keep_better(self, fresh: Tensor) -> None:
        """Keep the parameters of members whose error fell enough."""
        fallen = better(self.errors, fresh, self.settings.improvement)
        self.errors = torch.where(fallen, fresh, self.errors)
        pairs = zip(self.params, self.best, strict=True)
        self.best = [torch.where(fallen[:, None, None], new, old) for new, old in pairs]
        self.stale = 0 if bool(fallen.any()) else self.stale + 1

    def state(self) -> dict[str, Tensor]:
        """Return everything that changes, by name."""
        groups = {"params": self.params, "first": self.first, "second": self.second, "best": self.best}
        tensors = {f"{kind}.{i}": tensor for kind, group in groups.items() for i, tensor in enumerate(group)}
        counts = torch.tensor([self.steps, self.epoch, self.stale])
        return tensors | {"counts": counts, "errors": self.errors, "generator": self.generator.get_state()}

    def restore(self, state: State) -> None:
        """Take back what `state` returned.

        Raises:
            KeyError: Something is missing.
            RuntimeError: Something is of another shape.
            ValueError: Likewise.
        """
        device, shapes = self.errors.device, [tensor.shape[1:] for tensor in self.params]

        def group(kind: str) -> Params:
            found = [state[f"{kind}.{i}"].to(device).clone() for i in range(len(shapes))]
            if [tensor.shape[1:] for tensor in found] != shapes:
                raise RuntimeError(f"{kind} of another shape")
            return found

        self.params, self.first, self.second, self.best = (group(k) for k in ("params", "first", "second", "best"))
        self.steps, self.epoch, self.stale = state["counts"].tolist()
        self.errors = state["errors"].to(device)
        self.generator.set_state(state["generator"].cpu())

    def _epoch(self) -> None:
        draws = torch.rand(self.resample.shape, generator=self.generator).argsort(dim=1)
        order = self.resample.gather(1, draws).to(self.inputs.device)
        starts = range(0, order.shape[1] - self.batch + 1, self.batch)[: self.total - self.steps]
        factors = self._scales(len(starts))
        for scale, start in zip(factors, starts, strict=True):
            self.take_step(*self._changing(), *self._arguments(scale, order[:, start : start + self.batch]))
        self.steps += len(starts)

    def first_step(self) -> list[Tensor]:
        """Return what the next step takes, with any rows."""
        chosen = self.resample[:, : self.batch].to(self.inputs.device)
        return [*self._changing(), *self._arguments(self._scales(1)[0], chosen)]

    def _changing(self) -> Params:
        """Return what a step changes."""
        return [*self.params, *self.first, *self.second]

    def _scales(self, count: int) -> Tensor:
        """Return what Adam multiplies with in the next steps [count, 3]."""
        total = self.total if self.settings.annealed else 0
        found = scales(self.settings.learning_rate, self.steps, count, total)
        # A step reads the rate in the first column.
        return (found[:, [1, 1, 2]] if total else found).to(self.inputs.device)

    def _arguments(self, scale: Tensor, chosen: Tensor) -> list[Tensor]:
        """Return the rest of what a step takes, for chosen rows [members, batch]."""
        return [scale, self.inputs[chosen], self.outputs[chosen]]

    def _errors(self) -> Tensor:
        """Return each member's mean squared hold-out error [members]."""
        parts = zip(self.held_inputs.split(ERROR_ROWS), self.held_outputs.split(ERROR_ROWS), strict=True)
        with torch.no_grad():
            errors = [(forward(self.params, x.unsqueeze(0))[0] - y).square() for x, y in parts]
        return torch.cat(errors, dim=1).mean((-2, -1))
