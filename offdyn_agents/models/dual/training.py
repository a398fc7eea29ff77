"""Training of MOBODY's dynamics: members stacked, compiled steps, the best parameters by target rows held out.

Interleaved, the default, every step is on source and target rows, the learning rate falls to 0 over a number of steps
that is fixed, and members are judged forty times. In blocks, as published, an epoch is one pass over the source rows,
then three over the target rows, every member on a bootstrap resample of its own; training ends after 5 epochs in which
no member became better. A member's parameters are kept when its error on held-out target rows falls by more than 1%.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from offdyn_agents.engine.data import stream
from offdyn_agents.engine.execution import bound, can_compile, compile_flat, warn_uncompiled
from offdyn_agents.engine.networks import Network, Params
from offdyn_agents.engine.products import rounded_products
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.soundness import better, fault
from offdyn_agents.engine.update import adam
from offdyn_agents.models.dual.differences import LossUnits, anchored, difference_loss
from offdyn_agents.models.dual.losses import Rows, dynamics_loss
from offdyn_agents.models.dual.model import (
    CHUNK,
    DOMAINS,
    DualDynamics,
    Nets,
    changed,
    dual_networks,
    encoders,
    predicted,
)
from offdyn_agents.models.dual.parts import Part, Units
from offdyn_agents.models.dual.schedules import domains_of, rates, steps, stretches
from offdyn_agents.models.dual.settings import DualDynamicsSettings

__all__ = ["DualLearner", "State"]

SAVE_SECONDS = 60.0
"""Least time between copies of an unfinished training."""

Report = Callable[[int, float], None]
Save = Callable[[dict[str, Tensor]], None]
State = Mapping[str, Tensor]


def names_of(settings: DualDynamicsSettings, step: str) -> list[str]:
    """Return the networks that a kind of step trains."""
    if settings.structure == "plain":
        return ["plain", "reward"]
    domains = DOMAINS if settings.differences and anchored(settings, step) else domains_of(settings)[step]
    return ["encoder", *encoders(settings, domains), "transition", "reward"]


@cache
def _compiled_step(
    settings: DualDynamicsSettings,
    sizes: tuple[int, int],
    kind: str,
    shapes: tuple[torch.Size, ...],
    device: torch.device,
    threads: int,
    precision: str,
) -> Callable[..., Any]:
    """Return a kind of step compiled for tensors of some shapes, once in a process: the tasks of a track share it."""
    learner = DualLearner(settings, Layout(*sizes), device, compiled=False, precision=precision)
    return compile_flat(learner.steps[kind], [torch.zeros(shape, device=device) for shape in shapes], device, threads)


class DualLearner:
    """Trains dynamics of one shape; the compiled steps are shared by all seeds, also from several threads.

    On a GPU the steps of every training are recorded as graphs: they are too small to hide hundreds of launches.

    Args:
        settings: How.
        layout: Layout of packed rows.
        device: Where.
        threads: CPU threads inside one step.
        compiled: Whether to compile the steps.
        precision: "bf16" rounds the operands of products in the losses; held-out errors are in fp32 all the same.
    """

    def __init__(
        self,
        settings: DualDynamicsSettings,
        layout: Layout,
        device: torch.device,
        *,
        threads: int = 1,
        compiled: bool = True,
        precision: str = "fp32",
    ) -> None:
        self.settings, self.layout, self.device, self.threads = settings, layout, device, threads
        self.precision = precision
        self.networks = dual_networks(settings, layout.observation_dim, layout.action_dim)
        self.kinds = domains_of(settings)
        self.domains = tuple(domain for domains in self.kinds.values() for domain in domains)
        self.steps: dict[str, Callable[..., Any]] = {kind: self._step(kind) for kind in self.kinds}
        self.compiled = compiled and can_compile(device)

    def _step(self, kind: str) -> Callable[..., None]:
        """Return the update of the networks that one kind of step trains; it changes its arguments in place."""
        networks = {name: self.networks[name] for name in names_of(self.settings, kind)}
        lengths = {name: len(network.shapes()) for name, network in networks.items()}
        size, settings = sum(lengths.values()), self.settings

        def objective(flat: list[Tensor], parts: dict[str, Rows], units: LossUnits) -> Tensor:
            left = iter(flat)
            nets: Nets = {name: [next(left) for _ in range(length)] for name, length in lengths.items()}
            with rounded_products(units.ratio.device.type, self.precision):
                if settings.differences:
                    return difference_loss(nets, parts, settings, units)
                losses = [dynamics_loss(nets, rows, settings, domain) for domain, rows in parts.items()]
                return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

        def step(*tensors: Tensor) -> None:
            state, (rates, ratio, weights, *batch) = list(tensors[: 3 * size]), tensors[3 * size :]
            params, first, second = state[:size], state[size : 2 * size], state[2 * size :]
            gradients = torch.func.grad(objective)(params, self._parts(kind, batch), LossUnits(ratio, weights))
            alone = {"own": DOMAINS, "correction": ("correction",)}[settings.target_encoder]
            own = [name in alone for name, length in lengths.items() for _ in range(length)]
            with torch.no_grad():
                for parameter, gradient, m, v, fewer in zip(params, gradients, first, second, own, strict=True):
                    # An action encoder of one domain has made fewer steps than what both domains train.
                    rate = rates[1] if fewer else rates[0]
                    adam(parameter, gradient, m, v, rate[0], rate[2])

        return step

    def _parts(self, kind: str, batch: list[Tensor]) -> dict[str, Rows]:
        """Return the rows of each domain from what a step takes: packed rows and two kinds of noise for each."""
        found: dict[str, Rows] = {}
        for place, domain in enumerate(self.kinds[kind]):
            packed, latent_noise, noise = batch[3 * place : 3 * place + 3]
            s, a, following, rewards, _ = self.layout.split(packed)
            found[domain] = Rows(s, a, following, rewards, latent_noise, noise)
        return found

    def warm_up(self, source: Tensor, target: Tensor) -> None:
        """Compile the steps; without a working compiler, say so and go on as they are written."""
        if not self.compiled:
            return
        self.compiled = False
        training = _Training(self, source, target, 0)
        try:
            sizes = (self.layout.observation_dim, self.layout.action_dim)
            shapes = {kind: tuple(tensor.shape for tensor in training.first_step(kind)) for kind in self.kinds}
            compiled = {
                kind: _compiled_step(self.settings, sizes, kind, own, self.device, self.threads, self.precision)
                for kind, own in shapes.items()
            }
        except Exception as error:
            warn_uncompiled(error)
        else:
            self.steps = compiled

    def step_of(self, kind: str, state: Params, batch: list[Tensor]) -> Callable[..., Any]:
        """Return a kind of step for one training, whose state stays in the same tensors.

        Args:
            kind: Which.
            state: Parameters and both moments of what it trains.
            batch: The rest of what a step takes, with any values.
        """
        return bound(self.steps[kind], state, batch)

    def fit(
        self,
        source: Tensor,
        target: Tensor,
        seed: int,
        report: Report | None = None,
        *,
        save: Save | None = None,
        resume: State | None = None,
    ) -> DualDynamics:
        """Train one ensemble.

        Args:
            source: Packed source rows [N, W] on the device; not used where the settings say `data=target`.
            target: Packed target rows.
            seed: Decides initial parameters, hold-outs, resamples, orders and noise.
            report: Called after every stretch or epoch with its number and the members' mean error on held-out target
                rows.
            save: Called after these, at most once a minute, with all that `resume` needs.
            resume: What `save` was given: training goes on there and ends as if it had never stopped.
        """
        training = _Training(self, source, target, seed)
        if resume is not None:
            try:
                training.restore(resume)
            except (KeyError, RuntimeError):
                # Of another form: not what `save` was given.
                training = _Training(self, source, target, seed)
        return training.run(report, save)


class _Training:
    """The training of one ensemble."""

    def __init__(self, learner: DualLearner, source: Tensor, target: Tensor, seed: int) -> None:
        self.learner, self.settings = learner, learner.settings
        self.generator = torch.Generator().manual_seed(stream(seed, "mobody dynamics"))
        self.device, layout = target.device, learner.layout
        rows = {"source": source, "target": target}
        self.units = Units.of([rows[domain] for domain in learner.domains], layout, self.settings)
        self.parts = {
            domain: Part(
                rows[domain],
                self.units,
                domain,
                layout,
                self.settings,
                self.generator,
            )
            for domain in learner.domains
        }
        self.taken = dict.fromkeys(learner.kinds, 0)
        self.params = {name: self._initial(network) for name, network in learner.networks.items()}
        self.first, self.second = ({n: [torch.zeros_like(t) for t in p] for n, p in self.params.items()} for _ in "mv")
        self.best = {name: [tensor.clone() for tensor in tensors] for name, tensors in self.params.items()}
        self.errors = torch.full((self.settings.members,), torch.inf, device=self.device)
        self.epoch = self.stale = 0
        self.steps = learner.steps
        self.start = self._held_errors()

    def _initial(self, network: Network) -> Params:
        """Return weights N(0, (1 / (2 sqrt(fan_in)))^2) and zero biases."""
        return [
            (
                torch.randn(shape, generator=self.generator) * (0.5 * network.sizes[i // 2] ** -0.5)
                if i % 2 == 0
                else torch.zeros(shape)
            ).to(self.device)
            for i, shape in enumerate(network.shapes())
        ]

    def run(self, report: Report | None, save: Save | None) -> DualDynamics:
        saved = time.monotonic()
        batches = {kind: self._batch(kind, self._any_rows(kind)) for kind in self.taken}
        self.steps = {kind: self.learner.step_of(kind, self._changing(kind), batch) for kind, batch in batches.items()}
        while not self._ended() and self.epoch < stretches(self.settings):
            self._epoch()
            self._keep()
            if report:
                report(self.epoch, float(self.errors.mean()))
            if save and time.monotonic() - saved > SAVE_SECONDS:
                save(self.state())
                saved = time.monotonic()
        elites = self.errors.argsort()[: self.settings.elites]
        failed = fault(self.start, self.errors, self._held_errors(), self._ended())
        center, scale, change = self.units
        return DualDynamics(
            self.best, elites, self.errors, center, scale, failed, change, differences=self.settings.differences
        )

    def _ended(self) -> bool:
        """Whether nothing improves any more; where the rate falls to its end, improvements come late."""
        return not self.settings.interleaved and self.stale >= self.settings.patience

    def _epoch(self) -> None:
        self.epoch += 1
        for kind, numbers in steps(self.settings, self.parts, self.epoch, self.generator):
            self.steps[kind](*self._changing(kind), *self._next_batch(kind, numbers))

    def _keep(self) -> None:
        """Keep the parameters of members whose error on held-out target rows has fallen."""
        fresh = self._held_errors()
        # The first comparison is with infinity, and anything finite is better.
        fallen = better(self.errors, fresh, self.settings.improvement)
        self.errors = torch.where(fallen, fresh, self.errors)
        self.best = {
            name: [
                torch.where(fallen[:, None, None], new, old) for new, old in zip(tensors, self.best[name], strict=True)
            ]
            for name, tensors in self.params.items()
        }
        self.stale = 0 if bool(fallen.any()) else self.stale + 1

    def _held_errors(self) -> Tensor:
        """Return each member's mean squared error [members] of held-out target rows: of s', or of (s' - s) / D."""
        rows, answer = self.parts["target"].held, changed if self.settings.differences else predicted
        weights = self.parts["target"].weights[:-1] if self.settings.differences else 1.0
        s, a, following, _, _ = self.learner.layout.split(rows[None])
        with torch.no_grad():
            parts = zip(s.split(CHUNK, 1), a.split(CHUNK, 1), following.split(CHUNK, 1), strict=True)
            errors = [(weights * (answer(self.params, x, u, "target") - y).square()).mean(-1) for x, u, y in parts]
        return torch.cat(errors, dim=1).mean(1)

    def first_step(self, kind: str) -> list[Tensor]:
        """Return what a step takes, with any rows."""
        return [*self._changing(kind), *self._batch(kind, self._any_rows(kind))]

    def _any_rows(self, kind: str) -> list[Tensor]:
        parts = [self.parts[domain] for domain in self.learner.kinds[kind]]
        return [part.kept[part.resample[:, : part.batch]] for part in parts]

    def _changing(self, kind: str) -> Params:
        """Return what a kind of step changes."""
        groups = (self.params, self.first, self.second)
        return [t for group in groups for name in names_of(self.settings, kind) for t in group[name]]

    def _next_batch(self, kind: str, numbers: list[Tensor]) -> list[Tensor]:
        """Return the rest of what the next step takes, for row numbers [members, batch], and count the step."""
        batch = self._batch(kind, numbers, self.generator)
        self.taken[kind] += 1
        return batch

    def _batch(self, kind: str, numbers: list[Tensor], generator: torch.Generator | None = None) -> list[Tensor]:
        """Return the same; without a generator the noise is 0."""
        weights = [self.parts[domain].weights for domain in self.learner.kinds[kind]]
        if len(self.parts) > 1:
            # Where the target moves less than the source its few rows would outweigh all the rest.
            weights = [torch.minimum(own, self.parts["source"].weights) for own in weights]
        found = [
            rates(self.settings, self.parts, self.taken, kind),
            self.units.change / self.units.scale,
            torch.stack(weights),
        ]
        for domain, own in zip(self.learner.kinds[kind], numbers, strict=True):
            noises = [torch.randn(s, generator=generator) if generator else torch.zeros(s) for s in self._noises(own)]
            found += [self.parts[domain].rows[own.to(self.device)], *noises]
        return [tensor.to(self.device) for tensor in found]

    def _noises(self, numbers: Tensor) -> list[tuple[int, ...]]:
        """Return the shapes of the noise that goes with row numbers."""
        settings, (members, size) = self.settings, numbers.shape
        if settings.differences:
            return [(2, members, size, settings.latent) if settings.latent_noise else (0,), (0,)]
        return [(2, members, size, settings.latent), (members, size, self.learner.layout.observation_dim)]

    def _groups(self) -> dict[str, dict[str, Params]]:
        return {"params": self.params, "first": self.first, "second": self.second, "best": self.best}

    def state(self) -> dict[str, Tensor]:
        """Return everything that changes, by name."""
        tensors = {
            f"{kind}.{name}.{i}": tensor
            for kind, group in self._groups().items()
            for name, params in group.items()
            for i, tensor in enumerate(params)
        }
        steps = {f"steps.{kind}": torch.tensor(count) for kind, count in self.taken.items()}
        counts = {"epoch": torch.tensor(self.epoch), "stale": torch.tensor(self.stale)}
        return tensors | steps | counts | {"errors": self.errors, "generator": self.generator.get_state()}

    def restore(self, state: State) -> None:
        """Take back what `state` returned.

        Raises:
            KeyError: Something is missing.
        """
        for kind, group in self._groups().items():
            for name, params in group.items():
                for i, tensor in enumerate(params):
                    tensor.copy_(state[f"{kind}.{name}.{i}"])
        self.taken = {kind: int(state[f"steps.{kind}"]) for kind in self.taken}
        self.epoch, self.stale = int(state["epoch"]), int(state["stale"])
        self.errors = state["errors"].to(self.device)
        self.generator.set_state(state["generator"].cpu())
