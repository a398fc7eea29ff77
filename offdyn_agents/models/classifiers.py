"""DARA's domain classifiers (Liu et al., 2022): how much likelier the target makes a source transition; their stage.

Two classifiers tell target from source rows, one by (s, a, s') and one by (s, a). Their log odds differ by
dr = log p_target(s' | s, a) - log p_source(s' | s, a), which is added to the rewards of source rows with a weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from offdyn_agents.engine.networks import Network, Params, mlp
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.settings import setting
from offdyn_agents.engine.stage_cache import Fitted
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.models.short_training import Nets, ShortTraining, fit, in_chunks

__all__ = [
    "ClassifierSettings",
    "CorrectionSettings",
    "classifier_loss",
    "columns",
    "fit_classifiers",
    "gap",
    "log_odds",
    "networks",
    "offsets",
    "training",
    "with_noise",
]

NAMES = ("sas", "sa")
EPSILON = 1e-10
"""What the public code adds to probabilities before their logarithm."""


@dataclass(frozen=True)
class ClassifierSettings:
    """How the classifiers are trained.

    Attributes:
        form: "paper" feeds logits into the cross-entropy. Two public forms feed a softmax into it, which drives
            posteriors above .73 to 1: "odrl" (ODRL's) answers with that softmax, so that dr is mostly 0 or at its clip;
            "code" (a port's, for MOBODY) applies a softmax once more to the answer, which bounds |dr| by 2.
        updates: Updates of both.
        batch_size: Source rows, and target rows, of one batch.
        width: Width of the two hidden layers.
        learning_rate: Adam's step size.
        noise: Standard deviation of the Gaussian noise that is added to inputs in training.
        clip: Largest |dr|.
    """

    form: str = setting("paper", choices=("paper", "odrl", "code"))
    updates: int = setting(5000, low=1)
    batch_size: int = setting(128, low=1)
    width: int = setting(256, low=1)
    learning_rate: float = setting(3e-4, low=0.0, open_low=True)
    noise: float = setting(1.0, low=0.0)
    clip: float = setting(10.0, low=0.0)


@dataclass(frozen=True)
class CorrectionSettings(ClassifierSettings):
    """How the classifiers are trained, and how their answer enters rewards.

    Attributes:
        weight: What dr is multiplied with before it is added to a reward; 0 leaves rewards alone.
    """

    weight: float = setting(0.1, low=0.0)


def networks(settings: ClassifierSettings, layout: Layout) -> dict[str, Network]:
    """Return both networks: inputs (s, a, s') and (s, a), outputs the logits of source and target."""
    s, a, width = layout.observation_dim, layout.action_dim, settings.width
    return {"sas": Network((2 * s + a, width, width, 2)), "sa": Network((s + a, width, width, 2))}


def logits(params: Params, inputs: Tensor, form: str) -> Tensor:
    """Return the two numbers [..., B, 2] that the cross-entropy takes."""
    outputs = mlp(params, inputs)
    return outputs if form == "paper" else outputs.softmax(-1)


def classifier_loss(params: Nets, inputs: Mapping[str, Tensor], source_rows: int, form: str) -> Tensor:
    """Return the cross-entropies of both classifiers added, [*lead]; they share no parameters.

    Args:
        params: Networks "sas" and "sa", among others.
        inputs: For each of them (s, a, s') or (s, a), noise added, [*lead, B, .]: source rows, then target rows.
        source_rows: Number of source rows among the B.
        form: See `ClassifierSettings`.
    """
    parts: list[Tensor] = []
    for name in NAMES:
        found = logits(params[name], inputs[name], form).log_softmax(-1)
        parts.append(-0.5 * (found[..., :source_rows, 0].mean(-1) + found[..., source_rows:, 1].mean(-1)))
    return parts[0] + parts[1]


def log_odds(params: Params, inputs: Tensor, form: str) -> Tensor:
    """Return log q(target | x) - log q(source | x) [N] for inputs [N, .]."""
    # ODRL's answer is the softmax that its cross-entropy took: one, not one more.
    found = mlp(params, inputs) if form == "odrl" else logits(params, inputs, form)
    if form == "paper":
        return found[..., 1] - found[..., 0]
    probabilities = found.softmax(-1)
    return torch.log(probabilities[..., 1] + EPSILON) - torch.log(probabilities[..., 0] + EPSILON)


def columns(layout: Layout, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the classifiers see, (s, a, s') and (s, a), of packed rows [*lead, W]."""
    observations, actions, following, _, _ = layout.split(rows)
    return torch.cat([observations, actions, following], dim=-1), torch.cat([observations, actions], dim=-1)


def with_noise(settings: ClassifierSettings, inputs: Sequence[Tensor], noises: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the inputs of both classifiers [*lead, n, .] by name, with noise of the wanted size."""
    return {n: x + settings.noise * e for n, x, e in zip(NAMES, inputs, noises, strict=True)}


def gap(settings: ClassifierSettings, nets: Nets, layout: Layout, rows: Tensor) -> Tensor:
    """Return dr [*lead, n], clipped, of packed rows [*lead, n, W]: above 0 where the target makes them likelier."""
    parts = zip(NAMES, columns(layout, rows), strict=True)
    sas, sa = (log_odds(nets[name], inputs, settings.form) for name, inputs in parts)
    return (sas - sa).clamp(-settings.clip, settings.clip)


def offsets(settings: CorrectionSettings, nets: Nets, layout: Layout, rows: Tensor) -> Tensor:
    """Return what is added to the rewards of many packed source rows [N, W]: weight * dr, [N]."""
    return settings.weight * in_chunks(lambda chunk: gap(settings, nets, layout, chunk), rows)


def training(settings: ClassifierSettings, layout: Layout) -> ShortTraining:
    """Return how the classifiers are trained."""
    nets, size = networks(settings, layout), settings.batch_size

    def loss(params: Nets, source: Tensor, target: Tensor, noises: list[Tensor]) -> Tensor:
        noisy = with_noise(settings, columns(layout, torch.cat([source, target])), noises)
        return classifier_loss(params, noisy, size, settings.form)

    noises = tuple((2 * size, net.sizes[0]) for net in nets.values())
    rate = settings.learning_rate
    return ShortTraining("dara", "classifiers", nets, loss, settings.updates, size, size, rate, noises)


def fit_classifiers(settings: ClassifierSettings, context: StageContext) -> Fitted[Nets]:
    """Train or find the domain classifiers of each seed, and tell which of them diverged.

    Args:
        settings: How they are trained.
        context: Rows, seeds, cache and hardware.
    """
    # What is done with their answer does not change them.
    whole = settings if isinstance(settings, CorrectionSettings) else CorrectionSettings(**vars(settings))
    trained = replace(whole, weight=0.0, clip=0.0)
    return fit(training(settings, context.layout), trained, context)
