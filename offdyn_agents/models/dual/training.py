"""Training of MOBODY's dynamics: members stacked, one compiled step per domain, early stopping on target rows.

An epoch is one pass over the source rows, then three over the target rows. Every member sees a bootstrap resample of
its own. A member's parameters are kept when its error on held-out target rows falls by more than 1%; training ends
after 5 epochs in which none did.
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
from offdyn_agents.engine.update import adam, scales
from offdyn_agents.models.dual.losses import Rows, dynamics_loss
from offdyn_agents.models.dual.model import CHUNK, DOMAINS, DualDynamics, dual_networks, predicted
from offdyn_agents.models.dual.settings import DualDynamicsSettings

__all__ = ["DualLearner", "State"]

HOLDOUT = 0.2
HOLDOUT_ROWS = {"source": 1000, "target": 500}
SAVE_SECONDS = 60.0
"""Time between copies of an unfinished training: an epoch over a million source rows takes minutes on a CPU."""

Report = Callable[[int, float], None]
Save = Callable[[dict[str, Tensor]], None]
State = Mapping[str, Tensor]


def names_of(settings: DualDynamicsSettings, domain: str) -> list[str]:
    """Return the networks that rows of a domain train."""
    action = {"dual": [domain], "single": ["action"]}
    if settings.structure == "plain":
        return ["plain", "reward"]
    return ["encoder", *action[settings.structure], "transition", "reward"]


@cache
def _compiled_step(
    settings: DualDynamicsSettings,
    sizes: tuple[int, int],
    domain: str,
    shapes: tuple[torch.Size, ...],
    device: torch.device,
    threads: int,
    precision: str,
) -> Callable[..., Any]:
    """Return a domain's step compiled for tensors of some shapes, once in a process: the tasks of a track share it."""
    learner = DualLearner(settings, Layout(*sizes), device, compiled=False, precision=precision)
    return compile_flat(learner.steps[domain], [torch.zeros(shape, device=device) for shape in shapes], device, threads)


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
        self.domains = DOMAINS if settings.data == "both" else ("target",)
        self.steps: dict[str, Callable[..., Any]] = {domain: self._step(domain) for domain in self.domains}
        self.compiled = compiled and can_compile(device)

    def _step(self, domain: str) -> Callable[..., None]:
        """Return the update of the networks that rows of one domain train; it changes its arguments in place."""
        networks = {name: self.networks[name] for name in names_of(self.settings, domain)}
        lengths = {name: len(network.shapes()) for name, network in networks.items()}
        size, layout, settings = sum(lengths.values()), self.layout, self.settings

        def objective(flat: list[Tensor], rows: Rows) -> Tensor:
            parts = iter(flat)
            nets = {name: [next(parts) for _ in range(length)] for name, length in lengths.items()}
            with rounded_products(rows.rewards.device.type, self.precision):
                return dynamics_loss(nets, rows, settings, domain)

        def step(*tensors: Tensor) -> None:
            state, (rates, packed, latent_noise, noise) = list(tensors[: 3 * size]), tensors[3 * size :]
            params, first, second = state[:size], state[size : 2 * size], state[2 * size :]
            s, a, following, rewards, _ = layout.split(packed)
            gradients = torch.func.grad(objective)(params, Rows(s, a, following, rewards, latent_noise, noise))
            own = [name in DOMAINS for name, length in lengths.items() for _ in range(length)]
            with torch.no_grad():
                for parameter, gradient, m, v, alone in zip(params, gradients, first, second, own, strict=True):
                    # An action encoder of one domain has made fewer steps than what both domains train.
                    rate = rates[1] if alone else rates[0]
                    adam(parameter, gradient, m, v, rate[0], rate[2])

        return step

    def warm_up(self, source: Tensor, target: Tensor) -> None:
        """Compile the steps; without a working compiler, say so and go on as they are written."""
        if not self.compiled:
            return
        self.compiled = False
        training = _Training(self, source, target, 0)
        try:
            sizes = (self.layout.observation_dim, self.layout.action_dim)
            shapes = {domain: tuple(tensor.shape for tensor in training.first_step(domain)) for domain in self.domains}
            compiled = {
                domain: _compiled_step(
                    self.settings, sizes, domain, shapes[domain], self.device, self.threads, self.precision
                )
                for domain in self.domains
            }
        except Exception as error:
            warn_uncompiled(error)
        else:
            self.steps = compiled

    def step_of(self, domain: str, state: Params, batch: list[Tensor]) -> Callable[..., Any]:
        """Return a domain's step for one training, whose state stays in the same tensors.

        Args:
            domain: The domain.
            state: Parameters and both moments of what its rows train.
            batch: The rest of what a step takes, with any values.
        """
        return bound(self.steps[domain], state, batch)

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
            report: Called after every epoch with its number and the members' mean error on held-out target rows.
            save: Called after epochs, at most once a minute, with all that `resume` needs.
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


class _Part:
    """The rows of one domain, and where its training stands."""

    def __init__(self, rows: Tensor, domain: str, settings: DualDynamicsSettings, generator: torch.Generator) -> None:
        order = torch.randperm(len(rows), generator=generator)
        held = min(int(HOLDOUT * len(rows)), HOLDOUT_ROWS[domain]) or min(1, len(rows) - 1)
        self.held = rows[order[:held].to(rows.device)] if held else rows
        self.kept = order[held:]
        self.rows = rows
        self.batch = min(settings.batch_size, len(self.kept))
        # Every member has its own bootstrap resample of the rows.
        self.resample = torch.randint(len(self.kept), (settings.members, len(self.kept)), generator=generator)
        self.steps = 0

    def orders(self, generator: torch.Generator, share: float = 1.0) -> list[Tensor]:
        """Return the row numbers [members, batch] of a pass, on the CPU."""
        visited = max(self.batch, int(share * len(self.kept)))
        order = [own[torch.randperm(len(own), generator=generator)[:visited]] for own in self.resample]
        numbers = self.kept[torch.stack(order)]
        return list(numbers[:, : visited - visited % self.batch].split(self.batch, dim=1))


class _Training:
    """The training of one ensemble."""

    def __init__(self, learner: DualLearner, source: Tensor, target: Tensor, seed: int) -> None:
        self.learner, self.settings = learner, learner.settings
        self.generator = torch.Generator().manual_seed(stream(seed, "mobody dynamics"))
        self.device = target.device
        self.center, self.scale = self._units([source, target])
        rows = {"source": source, "target": target}
        self.parts = {d: _Part(self._seen(rows[d]), d, self.settings, self.generator) for d in learner.domains}
        self.params = {name: self._initial(network) for name, network in learner.networks.items()}
        self.first, self.second = ({n: [torch.zeros_like(t) for t in p] for n, p in self.params.items()} for _ in "mv")
        self.best = {name: [tensor.clone() for tensor in tensors] for name, tensors in self.params.items()}
        self.errors = torch.full((self.settings.members,), torch.inf, device=self.device)
        self.epoch = self.stale = 0
        self.steps = learner.steps
        self.start = self._held_errors()

    def _units(self, tables: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of s over the rows of both domains; 0 and 1 where states stay raw."""
        states = torch.cat([table[:, : self.learner.layout.observation_dim] for table in tables])
        if not self.settings.standardise:
            return torch.zeros_like(states[0]), torch.ones_like(states[0])
        scale = states.std(0, correction=0)
        return states.mean(0), torch.where(scale < 1e-6, torch.ones_like(scale), scale)

    def _seen(self, rows: Tensor) -> Tensor:
        """Return packed rows with states as the networks take them."""
        if not self.settings.standardise:
            return rows
        s, a, following, *_ = self.learner.layout.split(rows)
        following = (following - self.center) / self.scale
        return torch.cat([(s - self.center) / self.scale, a, following, rows[:, -2:]], dim=-1)

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
        batches = {domain: self._batch(domain, self._any_rows(domain)) for domain in self.parts}
        self.steps = {d: self.learner.step_of(d, self._changing(d), batch) for d, batch in batches.items()}
        while self.stale < self.settings.patience and self.epoch < self.settings.epochs:
            self._epoch()
            self._keep()
            if report:
                report(self.epoch, float(self.errors.mean()))
            if save and time.monotonic() - saved > SAVE_SECONDS:
                save(self.state())
                saved = time.monotonic()
        elites = self.errors.argsort()[: min(self.settings.elites, self.settings.members)]
        failed = fault(self.start, self.errors, self._held_errors(), self.stale >= self.settings.patience)
        return DualDynamics(self.best, elites, self.errors, self.center, self.scale, failed)

    def _epoch(self) -> None:
        self.epoch += 1
        for domain, part in self.parts.items():
            passes, share = (
                (self.settings.target_passes, 1.0) if domain == "target" else (1, self.settings.source_share)
            )
            for _ in range(passes):
                for numbers in part.orders(self.generator, share):
                    self.steps[domain](*self._changing(domain), *self._next_batch(domain, numbers))

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
        """Return each member's mean squared error [members] of held-out target next states."""
        rows = self.parts["target"].held
        s, a, following, _, _ = self.learner.layout.split(rows[None])
        with torch.no_grad():
            parts = zip(s.split(CHUNK, 1), a.split(CHUNK, 1), following.split(CHUNK, 1), strict=True)
            errors = [(predicted(self.params, x, u, "target") - y).square().mean(-1) for x, u, y in parts]
        return torch.cat(errors, dim=1).mean(1)

    def first_step(self, domain: str) -> list[Tensor]:
        """Return what a step takes, with any rows."""
        return [*self._changing(domain), *self._batch(domain, self._any_rows(domain))]

    def _any_rows(self, domain: str) -> Tensor:
        part = self.parts[domain]
        return part.kept[part.resample[:, : part.batch]]

    def _changing(self, domain: str) -> Params:
        """Return what a step on rows of a domain changes."""
        groups = (self.params, self.first, self.second)
        return [t for group in groups for name in names_of(self.settings, domain) for t in group[name]]

    def _next_batch(self, domain: str, numbers: Tensor) -> list[Tensor]:
        """Return the rest of what the next step takes, for row numbers [members, batch], and count the step."""
        batch = self._batch(domain, numbers, self.generator)
        self.parts[domain].steps += 1
        return batch

    def _batch(self, domain: str, numbers: Tensor, generator: torch.Generator | None = None) -> list[Tensor]:
        """Return the same; without a generator the noise is 0."""
        part, settings = self.parts[domain], self.settings
        together, alone = sum(other.steps for other in self.parts.values()), part.steps
        rates = torch.cat([scales(settings.learning_rate, done, 1) for done in (together, alone)])
        members, size = numbers.shape
        shapes = ((2, members, size, settings.latent), (members, size, self.learner.layout.observation_dim))
        noises = [torch.randn(s, generator=generator) if generator else torch.zeros(s) for s in shapes]
        return [t.to(self.device) for t in (rates, part.rows[numbers.to(self.device)], *noises)]

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
        steps = {f"steps.{domain}": torch.tensor(part.steps) for domain, part in self.parts.items()}
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
        for domain, part in self.parts.items():
            part.steps = int(state[f"steps.{domain}"])
        self.epoch, self.stale = int(state["epoch"]), int(state["stale"])
        self.errors = state["errors"].to(self.device)
        self.generator.set_state(state["generator"].cpu())
