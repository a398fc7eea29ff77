"""Whether the target's dynamics may have made a transition: BOSA's mask of source and target rows.

Conditional autoencoders of s' given (s, a), trained on target rows, each say a density p_k(s' | s, a). A row is
supported where the smallest of them exceeds a number:

    m   = 1[min_k p_k(s' | s, a) > least],
    p_k = mean over L samples z ~ q of N(s'; decoder_k(s, a, z), .5 / 4) N(z; 0, 1) / q_k(z | s, a, s').

In raw units: the variance .125 lets a row pass about where |s' - decoder|^2 < 1.15 + .03 |S|, for least = .01. Where
every dimension moves by less, all rows pass; where velocities are of the order of 10, not even target rows do, and the
critics would have nothing to learn from. `target_share` lowers the density for these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from offdyn_agents.engine.data import stream
from offdyn_agents.engine.networks import member
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.settings import setting
from offdyn_agents.engine.stage_cache import Fitted, Keep, cached
from offdyn_agents.engine.stages import Advance, StageContext, each_seed, shares
from offdyn_agents.models.behaviour_cvae import CVAE, CVAESettings
from offdyn_agents.models.short_training import Nets, ShortTraining, fit

__all__ = ["Support", "SupportSettings", "fit_dynamics", "supports"]

VARIANCE = 0.125
"""Of next states about the decoder's: .5 / 4, as public code has it."""
CHUNK, BLOCK = 1024, 5
"""Rows, and samples, that are looked at together."""


@dataclass(frozen=True)
class SupportSettings(CVAESettings):
    """How support is learned and told.

    Attributes:
        updates: Most steps of Adam; those on target rows alone end when a tenth of the rows, held out, says so.
        rows: "target" learns from target rows; "merged" from both kinds, as public code does: the source's own
            dynamics are then supported as well.
        members: Autoencoders, all of which have to support a row.
        samples: L, samples of each density.
        least: Density in raw units that a supported row exceeds.
        target_share: Share of the target rows that are supported at least: where `least` says fewer, the density that
            so many of them exceed takes its place. 0 leaves `least` as it is, as published.
    """

    updates: int = setting(100_000, low=1)
    rows: str = setting("target", choices=("target", "merged"))
    members: int = setting(5, low=1)
    samples: int = setting(50, low=1)
    least: float = setting(0.01, low=0.0)
    target_share: float = setting(0.9, low=0.0, high=1.0)


@dataclass(frozen=True)
class Support:
    """The shape of the autoencoders, and what they say of rows.

    Attributes:
        settings: How support is told.
        layout: Layout of packed rows.
    """

    settings: SupportSettings
    layout: Layout

    @property
    def model(self) -> CVAE:
        """All autoencoders."""
        s, a = self.layout.observation_dim, self.layout.action_dim
        return CVAE(s + a, s, self.settings.width, False, self.settings.members, VARIANCE)

    def parts(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return (s, a) and s' of packed rows [n, W]."""
        observations, actions, following, *_ = self.layout.split(rows)
        return torch.cat([observations, actions], dim=-1), following

    def densities(self, nets: Nets, rows: Tensor, noise: Tensor) -> Tensor:
        """Return log min_k p_k [n] of packed rows [n, W]; noise [L, 2|S|] is that of the samples."""
        given, wanted = self.parts(rows)
        drawn = noise.reshape(1, -1).expand(len(rows), -1)
        owns = [{name: member(params, k) for name, params in nets.items()} for k in range(self.settings.members)]
        return torch.stack([self.model.log_density(own, given, wanted, drawn) for own in owns]).amin(0)

    def least(self, densities: Tensor) -> float:
        """Return the logarithm of the density that supported rows exceed, from those [M] of target rows."""
        least, share = self.settings.least, self.settings.target_share
        wanted = math.log(least) if least else -math.inf
        if not share:
            return wanted
        # .9 of 10 rows are 9, whatever the last digits of .9 are.
        last = densities.sort(descending=True).values[max(math.ceil(share * len(densities) - 1e-6), 1) - 1]
        return min(wanted, float(torch.nextafter(last, torch.full_like(last, -math.inf))))

    def mask(self, nets: Nets, rows: Tensor, noise: Tensor, least: float) -> Tensor:
        """Return which packed rows [n, W] have `densities` above a number, bool [n].

        No density is below what some of its samples add up to: rows that these support need no others, and rows that
        one autoencoder does not support need no other one.
        """
        given, wanted = self.parts(rows)
        left = torch.arange(len(rows), device=rows.device)
        for number in range(self.settings.members):
            own = {name: member(params, number) for name, params in nets.items()}
            left = left[self._supported(own, given[left], wanted[left], noise, least)]
        found = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        found[left] = True
        return found

    def _supported(self, nets: Nets, given: Tensor, wanted: Tensor, noise: Tensor, least: float) -> Tensor:
        """Return whether one autoencoder supports rows, bool [n]."""
        open_, sums = torch.arange(len(given), device=given.device), given.new_full((len(given),), -math.inf)
        least = least + math.log(len(noise))
        for part in noise.split(BLOCK):
            drawn = part.reshape(1, -1).expand(len(open_), -1)
            logs = self.model.log_density(nets, given[open_], wanted[open_], drawn)
            sums[open_] = torch.logaddexp(sums[open_], logs + math.log(len(part)))
            open_ = open_[~(sums[open_] > least)]
        return sums > least


def fit_dynamics(settings: SupportSettings, context: StageContext) -> Fitted[Nets]:
    """Train or find the autoencoders of each seed, and tell which of them diverged.

    Args:
        settings: How.
        context: Rows, seeds, cache and hardware.
    """
    support, size, merged = Support(settings, context.layout), settings.batch_size, settings.rows == "merged"
    model, source = support.model, settings.batch_size if merged else 0

    def loss(params: Nets, some: Tensor, more: Tensor, noises: list[Tensor]) -> Tensor:
        given, wanted = (part.unsqueeze(0) for part in support.parts(torch.cat([some, more])))
        many = settings.members
        x, y = given.expand(many, -1, -1), wanted.expand(many, -1, -1)
        return model.loss(params, x, y, noises[0], settings.kl)

    training = ShortTraining(
        "support",
        "dynamics",
        model.networks(),
        loss,
        settings.updates,
        source,
        size,
        settings.learning_rate,
        ((settings.members, source + size, model.latent),),
        holdout=0.0 if merged else 0.1,
    )
    # What is asked of them does not change them.
    return fit(training, replace(settings, samples=1, least=0.0, target_share=0.0), context)


def supports(settings: SupportSettings, context: StageContext) -> Fitted[tuple[Tensor, Tensor]]:
    """Return which source rows and which target rows are supported, float32 [N] and [M], for each seed.

    Args:
        settings: How.
        context: Rows, seeds, cache and hardware.
    """
    support, source, target = Support(settings, context.layout), context.source, context.target
    both = len(source) + len(target)

    def compute(missing: list[int], keep: Keep) -> None:
        found = fit_dynamics(settings, replace(context, seeds=tuple(missing)))
        nets = dict(zip(missing, found, strict=True))
        failed = {missing[place]: why for place, why in found.failed.items()}

        def one(seed: int, advance: Advance) -> None:
            generator = torch.Generator().manual_seed(stream(seed, "support samples"))
            noise = torch.randn(settings.samples, support.model.latent, generator=generator).to(source.device)

            def told(table: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
                found: list[Tensor] = []
                for rows in table.split(CHUNK):
                    found.append(function(rows))
                    advance(len(rows), seed=seed)
                return torch.cat(found)

            with torch.no_grad():
                densities = told(target, lambda rows: support.densities(nets[seed], rows, noise))
                least = support.least(densities)
                mask = told(source, lambda rows: support.mask(nets[seed], rows, noise, least))
            masks = {"source": mask.float(), "target": (densities > least).float()}
            keep(seed, masks, failed.get(seed, ""))

        each_seed("support", both, missing, one, shares(source.device, context.threads, missing), context.quiet)

    name = f"support mask {len(source)}"
    found = cached(name, settings, (source, target), context.seeds, context.cache, compute, title="dynamics")
    device = source.device
    return Fitted([(masks["source"].to(device), masks["target"].to(device)) for masks in found], found.failed)
