"""SRPO (Xue et al., NeurIPS 2023) on IQL: adds rewards for states that resemble high-value states.

    r <- r + lambda log [ D(s) / (1 - D(s)) ],      |log ratio| <= log 10,

on source and target rows alike. D is a discriminator that is trained beside the policy, one step an update: of a whole
batch, the states of the highest V(s), a share of .5, have label 1, the others 0. The log ratio is D's own logit x.

The authors' code, inside a model-based agent, and the port to IQL that others compare with take log(clamp(x, .1, 10))
of the logit instead of the ratio (`ratio=logit`, `form=code`): logits in (0, 1) are punished, and all below .1 alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from offdyn_agents.algorithms.rowwise.agent import RowTerms, RowwiseIQL, RowwiseSettings
from offdyn_agents.engine.networks import Network, Params, value
from offdyn_agents.engine.rows import Batch
from offdyn_agents.engine.settings import setting

__all__ = ["SRPO", "SRPOSettings", "log_ratio", "top_labels"]

LARGEST = 10.0
"""Largest ratio; the smallest is 1 / 10."""


@dataclass(frozen=True)
class SRPOSettings(RowwiseSettings):
    """Settings of SRPO.

    Attributes:
        weight: lambda, what the log ratio is multiplied with; 0 leaves rewards alone.
        top_share: Share of a batch's rows that the discriminator takes for those of high value.
        ratio: "odds" clamps the ratio D / (1 - D); "logit" the logit in its place, as public code does.
        discriminator_rate: Adam's step size for the discriminator.
    """

    weight: float = setting(0.1, low=0.0)
    top_share: float = setting(0.5, low=0.0, high=1.0, open_low=True)
    ratio: str = setting("odds", choices=("odds", "logit"))
    discriminator_rate: float = setting(1e-3, low=0.0, open_low=True)


def log_ratio(logits: Tensor, ratio: str) -> Tensor:
    """Return the log ratio of logits of any shape, in [-log 10, log 10]; see `SRPOSettings.ratio`."""
    if ratio == "logit":
        return logits.clamp(1.0 / LARGEST, LARGEST).log()
    return logits.clamp(-math.log(LARGEST), math.log(LARGEST))


def top_labels(values: Tensor, share: float) -> Tensor:
    """Return 1 for this share of values [*lead, B], at least one, the highest, and 0 for the rest.

    Of equal values the lower row comes first.
    """
    count = max(int(share * values.shape[-1]), 1)
    places = values.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    return torch.zeros_like(values).scatter(-1, places, 1.0)


class SRPO(RowwiseIQL):
    """IQL whose rewards say how a state ranks; domains have no part in it."""

    name = "srpo"
    settings_class = SRPOSettings
    settings: SRPOSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def reward_range(self) -> tuple[float, float]:
        """Smallest and largest number that is added to a reward."""
        most = self.settings.weight * math.log(LARGEST)
        return (-most, most)

    @property
    def rates(self) -> Mapping[str, float]:
        """The discriminator's step size."""
        return {"discriminator": self.settings.discriminator_rate}

    def networks(self) -> dict[str, Network]:
        """Return IQL's networks, and the discriminator, where its answer counts."""
        own = {"discriminator": self.hidden(self.observation_dim, 1)} if self.settings.weight else {}
        return super().networks() | own

    def terms(self, params: Mapping[str, Params], batch: Batch) -> RowTerms:
        """Return lambda times the log ratio of all rows, of the discriminator as it is before this update."""
        if not self.settings.weight:
            return super().terms(params, batch)
        logits = value(params["discriminator"], batch.observations)
        return RowTerms(rewards=self.settings.weight * log_ratio(logits, self.settings.ratio))

    def actor_extra(self, params: Mapping[str, Params], batch: Batch) -> Tensor | None:
        """Return the discriminator's cross-entropy [*lead]; the current V ranks the batch."""
        if not self.settings.weight:
            return None
        with torch.no_grad():
            labels = top_labels(value(params["value"], batch.observations), self.settings.top_share)
        logits = value(params["discriminator"], batch.observations)
        return binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(-1)
