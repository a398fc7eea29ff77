"""DARA's domain classifiers (Liu et al., 2022): how much likelier the target makes a source transition; their stage.

Two classifiers tell target from source rows, one by (s, a, s') and one by (s, a). Their log odds differ by
dr = log p_target(s' | s, a) - log p_source(s' | s, a), which is added to the rewards of source rows with a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from offdyn_agents.engine.data import stream
from offdyn_agents.engine.execution import bound, can_compile, compile_flat, warn_uncompiled
from offdyn_agents.engine.networks import Network, Params, mlp
from offdyn_agents.engine.products import exact_fast_products
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.settings import setting
from offdyn_agents.engine.stage_cache import Fitted, Keep, cached
from offdyn_agents.engine.stages import Advance, StageContext, each_seed, shares
from offdyn_agents.engine.update import adam, scales

__all__ = ["ClassifierLearner", "ClassifierSettings", "Classifiers", "classifier_loss", "fit_classifiers", "log_odds"]

NAMES = ("sas", "sa")
CHUNK = 4096
VERSION = 1
"""Raised when the same settings would give other classifiers."""
REPORT_EVERY = 100
EPSILON = 1e-10
"""What the public code adds to probabilities before their logarithm."""

Report = Callable[[int], None]


@dataclass(frozen=True)
class ClassifierSettings:
    """How the classifiers are trained, and how their answer enters rewards.

    Attributes:
        form: "paper" feeds logits into the cross-entropy; "code" applies a softmax before it and again to the answer,
            as public ports do, which bounds |dr| by 2.
        updates: Updates of both.
        batch_size: Source rows, and target rows, of one batch.
        width: Width of the two hidden layers.
        learning_rate: Adam's step size.
        noise: Standard deviation of the Gaussian noise that is added to inputs in training.
        clip: Largest |dr|.
        weight: What dr is multiplied with before it is added to a reward; 0 leaves rewards alone.
    """

    form: str = setting("paper", choices=("paper", "code"))
    updates: int = setting(5000, low=1)
    batch_size: int = setting(128, low=1)
    width: int = setting(256, low=1)
    learning_rate: float = setting(3e-4, low=0.0, open_low=True)
    noise: float = setting(1.0, low=0.0)
    clip: float = setting(10.0, low=0.0)
    weight: float = setting(0.1, low=0.0)


def networks(settings: ClassifierSettings, layout: Layout) -> dict[str, Network]:
    """Return both networks: inputs (s, a, s') and (s, a), outputs the logits of source and target."""
    s, a, width = layout.observation_dim, layout.action_dim, settings.width
    return {"sas": Network((2 * s + a, width, width, 2)), "sa": Network((s + a, width, width, 2))}


def logits(params: Params, inputs: Tensor, form: str) -> Tensor:
    """Return the two numbers [..., B, 2] that the cross-entropy takes."""
    outputs = mlp(params, inputs)
    return outputs.softmax(-1) if form == "code" else outputs


def classifier_loss(params: Mapping[str, Params], inputs: Mapping[str, Tensor], form: str) -> Tensor:
    """Return the cross-entropies of both classifiers added, a scalar; they share no parameters.

    Args:
        params: Networks "sas" and "sa".
        inputs: For each of them (s, a, s') or (s, a), noise added, [2, B, .]: source rows, then target rows.
        form: "paper" or "code".
    """
    total = torch.zeros(())
    for name, net in params.items():
        found = logits(net, inputs[name], form).log_softmax(-1)
        total = total - 0.5 * (found[0, :, 0].mean() + found[1, :, 1].mean())
    return total


def log_odds(params: Params, inputs: Tensor, form: str) -> Tensor:
    """Return log q(target | x) - log q(source | x) [N] for inputs [N, .]."""
    found = logits(params, inputs, form)
    if form == "code":
        probabilities = found.softmax(-1)
        return torch.log(probabilities[..., 1] + EPSILON) - torch.log(probabilities[..., 0] + EPSILON)
    return found[..., 1] - found[..., 0]


@dataclass(frozen=True)
class Classifiers:
    """Trained classifiers.

    Attributes:
        nets: Parameters of "sas" and "sa".
        failed: Why they must not be used, "" where their training went well.
    """

    nets: dict[str, Params]
    failed: str = ""

    def gap(self, settings: ClassifierSettings, layout: Layout, rows: Tensor) -> Tensor:
        """Return dr [N], clipped, of packed rows [N, W]: above 0 where the target makes the transition likelier."""
        parts: list[Tensor] = []
        with torch.no_grad():
            for chunk in rows.split(CHUNK):
                sas, sa = (
                    log_odds(self.nets[n], x, settings.form)
                    for n, x in zip(NAMES, _columns(layout, chunk), strict=True)
                )
                parts.append((sas - sa).clamp(-settings.clip, settings.clip))
        return torch.cat(parts)

    def offsets(self, settings: ClassifierSettings, layout: Layout, rows: Tensor) -> Tensor:
        """Return what is added to the rewards of packed source rows [N, W]: weight * dr, [N]."""
        return settings.weight * self.gap(settings, layout, rows)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name, for a safetensors file."""
        return {f"{name}.{i}": tensor for name, params in self.nets.items() for i, tensor in enumerate(params)}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor], device: torch.device) -> Classifiers:
        """Return the classifiers that `tensors` described.

        Raises:
            KeyError: Something is missing.
        """
        return Classifiers({name: [tensors[f"{name}.{i}"].to(device) for i in range(6)] for name in NAMES})


def _columns(layout: Layout, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return (s, a, s') and (s, a) of packed rows."""
    observations, actions, following, _, _ = layout.split(rows)
    return torch.cat([observations, actions, following], dim=-1), torch.cat([observations, actions], dim=-1)


class ClassifierLearner:
    """Trains classifiers of one shape; the compiled step is shared by all seeds, also from several threads.

    Args:
        settings: How.
        layout: Layout of packed rows.
        device: Where.
        threads: CPU threads inside one step.
        compiled: Whether to compile the step.
    """

    def __init__(
        self,
        settings: ClassifierSettings,
        layout: Layout,
        device: torch.device,
        *,
        threads: int = 1,
        compiled: bool = True,
    ) -> None:
        self.settings, self.layout, self.device, self.threads = settings, layout, device, threads
        self.networks = networks(settings, layout)
        lengths = {name: len(network.shapes()) for name, network in self.networks.items()}
        size = sum(lengths.values())

        def objective(flat: list[Tensor], inputs: dict[str, Tensor]) -> Tensor:
            parts = iter(flat)
            named = {name: [next(parts) for _ in range(length)] for name, length in lengths.items()}
            return classifier_loss(named, inputs, settings.form)

        def step(*tensors: Tensor) -> None:
            state, (scale, packed, *noises) = list(tensors[: 3 * size]), tensors[3 * size :]
            columns = _columns(layout, packed)
            inputs = {n: x + settings.noise * e for n, x, e in zip(NAMES, columns, noises, strict=True)}
            gradients = torch.func.grad(objective)(state[:size], inputs)
            with torch.no_grad():
                parts = (state[:size], gradients, state[size : 2 * size], state[2 * size :])
                for parameter, gradient, first, second in zip(*parts, strict=True):
                    adam(parameter, gradient, first, second, scale[0], scale[2])

        self.step: Callable[..., Any] = step
        self.compiled = compiled and can_compile(device)

    def warm_up(self, source: Tensor, target: Tensor) -> None:
        """Compile the step; without a working compiler, say so and go on as it is written."""
        if not self.compiled:
            return
        self.compiled = False
        generator = torch.Generator()
        state = self._initial(generator)
        try:
            examples = [*state, *self._arguments(source, target, generator, 0)]
            self.step = compile_flat(self.step, examples, self.device, self.threads)
        except Exception as error:
            warn_uncompiled(error)

    def fit(self, source: Tensor, target: Tensor, seed: int, report: Report | None = None) -> Classifiers:
        """Train both classifiers.

        Args:
            source: Packed source rows [N, W] on the device.
            target: Packed target rows.
            seed: Decides initial parameters, batches and noise.
            report: Called with the number of updates done since its last call, every hundred and at the end.
        """
        generator = torch.Generator().manual_seed(stream(seed, "dara"))
        state, updates = self._initial(generator), self.settings.updates
        examples = self._arguments(source, target, torch.Generator(), 0)
        step = bound(self.step, state, examples)
        for start in range(0, updates, REPORT_EVERY):
            block = range(start, min(start + REPORT_EVERY, updates))
            for done in block:
                step(*state, *self._arguments(source, target, generator, done))
            if report:
                report(len(block))
        parts = iter(state)
        found = Classifiers({name: [next(parts) for _ in net.shapes()] for name, net in self.networks.items()})
        some = torch.cat([source[:CHUNK], target[:CHUNK]])
        sound = bool(torch.isfinite(found.gap(self.settings, self.layout, some)).all())
        return found if sound else replace(found, failed="what the domain classifiers say is not finite")

    def _initial(self, generator: torch.Generator) -> list[Tensor]:
        """Return parameters and moments."""
        params = [t.to(self.device) for name in NAMES for t in self.networks[name].initial(generator)]
        return [*params, *(torch.zeros_like(t) for _ in range(2) for t in params)]

    def _arguments(self, source: Tensor, target: Tensor, generator: torch.Generator, done: int) -> list[Tensor]:
        """Return scales, rows [2, B, W] and the noise of both inputs, drawn on the CPU."""
        size = self.settings.batch_size
        rows = torch.stack(
            [part[torch.randint(len(part), (size,), generator=generator).to(self.device)] for part in (source, target)]
        )
        noises = [torch.randn(2, size, net.sizes[0], generator=generator) for net in self.networks.values()]
        scale = scales(self.settings.learning_rate, done, 1)[0]
        return [scale.to(self.device), rows, *(noise.to(self.device) for noise in noises)]


def fit_classifiers(settings: ClassifierSettings, context: StageContext) -> Fitted[Classifiers]:
    """Train or find the domain classifiers of each seed, and tell which of them diverged.

    Args:
        settings: How they are trained.
        context: Rows, seeds, cache and hardware.
    """
    source, target = context.source, context.target
    shared = shares(target.device, context.threads, context.seeds)
    learner = ClassifierLearner(settings, context.layout, target.device, threads=shared[1], compiled=context.compiled)
    # What is done with their answer does not change them.
    kept = replace(settings, weight=0.0, clip=0.0)

    def compute(missing: list[int], keep: Keep) -> None:
        def fit(seed: int, advance: Advance) -> None:
            result = learner.fit(source, target, seed, lambda updates: advance(updates, seed=seed))
            keep(seed, result.tensors(), result.failed)

        s, a = context.layout.observation_dim, context.layout.action_dim
        with exact_fast_products(settings.width, (2 * s + a, s + a), settings.batch_size):
            learner.warm_up(source, target)
            each_seed("classifiers", settings.updates, missing, fit, shared, context.quiet)

    name = f"dara classifiers {len(source)}"
    found = cached(name, kept, (source, target), context.seeds, context.cache, compute, VERSION, "classifiers")
    return Fitted([Classifiers.from_tensors(tensors, target.device) for tensors in found], found.failed)
