"""OTDF (Lyu et al., ICLR 2025): keeps source rows near the target by optimal transport, and the actor near its data.

    d_i  = -sum_j P_ij c_ij / sum_j P_ij,             c = 1 - cos((s, a, s')_i, (s, a, s')_j),  P the transport
    d^   = (d - max d) / (max d - min d)              over the source rows of a batch
    keep the `keep_share` of largest d;               w = exp(sharpness d^) on the critic's squared errors
    L_pi = IQL's - lambda / |A| mean log b(pi(s)|s),  b a cVAE of the target's behaviour

Public code has the cloning errors of L_pi as sums over the dimensions of an action and lambda alone, which is the same
actor under Adam. It takes d as mass times cost (`transport.form=mass`), and draws pi's actions from a Gaussian behind a
tanh (`actions=sample`). Its advantage weights are a column beside a row of errors, whose product is a matrix: the mean
of weights times the mean of errors, so that advantages choose nothing (`advantage=mean`). `form=code` is all three.
Ours asks for log b at every fourth row of a batch (`density_every`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from offdyn_agents.algorithms.rowwise.agent import SCORES, RowFilterSettings, RowTerms, RowwiseIQL
from offdyn_agents.engine.networks import Network, Params, mlp
from offdyn_agents.engine.rows import Batch, RowColumns, every
from offdyn_agents.engine.settings import setting
from offdyn_agents.models.behaviour_cvae import CVAE, CVAESettings, behaviour, fit_behaviour, frozen, unfrozen
from offdyn_agents.models.transport import TransportSettings

if TYPE_CHECKING:
    from offdyn_agents.engine.stage_cache import Fitted
    from offdyn_agents.engine.stages import StageContext, StageResults

__all__ = ["OTDF", "OTDFSettings", "relative"]

LOG_STD = (-20.0, 2.0)
"""Between what logarithms of the policy's standard deviations are kept, where it draws actions."""

BEHAVIOUR, SPREAD = "behaviour", "spread"


@dataclass(frozen=True)
class OTDFSettings(RowFilterSettings):
    """Settings of OTDF.

    Attributes:
        sharpness: What d^ is multiplied with in the weights of the critic's errors; 0 weighs all alike.
        regularisation: lambda, weight of the target's behaviour in the actor's loss; 0 leaves it out.
        samples: Samples of the encoder in log b; at every row an update costs about as much as IQL's once more for
            each.
        density_every: log b is asked at every so-many-th row of a batch, for that share of the cost; 1 asks at every
            row. Where rows are dropped, source rows stand in the order of their scores.
        actions: "mean" takes b of the policy's action; "sample" of one drawn about it, with a standard deviation that
            this term alone trains.
        advantage: "row" gives each row its own advantage weight, "mean" all of a batch the same.
        transport: The transport's own settings.
        behaviour: The behaviour policy's own settings.
    """

    keep_share: float = setting(0.8, low=0.0, high=1.0, open_low=True)
    sharpness: float = setting(1.0, low=0.0)
    regularisation: float = setting(0.5, low=0.0)
    samples: int = setting(10, low=1)
    density_every: int = setting(4, low=1)
    actions: str = setting("mean", choices=("mean", "sample"))
    advantage: str = setting("row", choices=("row", "mean"))
    transport: TransportSettings = field(default_factory=TransportSettings)
    behaviour: CVAESettings = field(default_factory=CVAESettings)


def relative(scores: Tensor) -> Tensor:
    """Return (d - max d) / (max d - min d) in [-1, 0] of scores d [*lead, n]; 0 where all are the same."""
    most, least = scores.amax(-1, keepdim=True), scores.amin(-1, keepdim=True)
    return (scores - most) / (most - least).clamp(min=torch.finfo(scores.dtype).tiny)


class OTDF(RowwiseIQL):
    """IQL on the source rows of a batch that are nearest to the target."""

    name = "otdf"
    settings_class = OTDFSettings
    settings: OTDFSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def columns(self) -> Mapping[str, int]:
        """The scores d, where anything is made of them."""
        return {SCORES: 0} if self.settings.keep_share < 1.0 or self.settings.sharpness else {}

    @property
    def ratings(self) -> Mapping[str, float]:
        """The scores d."""
        return dict.fromkeys(self.columns, self.settings.keep_share)

    @property
    def _drawn(self) -> bool:
        """Whether actions are drawn about the policy's."""
        return bool(self.settings.regularisation) and self.settings.actions == "sample"

    @property
    def _behaviour(self) -> CVAE:
        return behaviour(self.settings.behaviour, self.observation_dim, self.action_dim)

    @property
    def noise_width(self) -> int:
        """Samples of the encoder, and of an action."""
        latent = self.settings.samples * self._behaviour.latent
        return (latent + self.action_dim * self._drawn) if self.settings.regularisation else 0

    def networks(self) -> dict[str, Network]:
        """Return IQL's networks, and the standard deviation of actions that are drawn."""
        spread = {SPREAD: self.hidden(self.observation_dim, self.action_dim)} if self._drawn else {}
        return super().networks() | spread

    def row_columns(self, context: StageContext) -> Fitted[RowColumns]:
        """Transport the source rows to the target rows."""
        from offdyn_agents.engine.stage_cache import Fitted
        from offdyn_agents.models.transport import transport_costs

        if not self.columns:
            return super().row_columns(context)
        told = RowColumns(extras={SCORES: -transport_costs(self.settings.transport, context)})
        return Fitted([told] * len(context.seeds), {})

    def stages(self, context: StageContext) -> StageResults:
        """Judge the source rows, and learn the target's behaviour."""
        results = super().stages(context)
        if not self.settings.regularisation:
            return results
        found = fit_behaviour(self.settings.behaviour, context, merged=False)
        networks = {**results.frozen, **frozen(found, BEHAVIOUR)}
        return replace(results, frozen=networks, failed={**found.failed, **results.failed})

    def terms(self, params: Mapping[str, Params], batch: Batch) -> RowTerms:
        """Return d of the batch's source rows, and their weights exp(sharpness d^)."""
        if not self.columns:
            return super().terms(params, batch)
        scores, sharpness = batch.columns[SCORES], self.settings.sharpness
        return RowTerms(None, torch.exp(sharpness * relative(scores)) if sharpness else None, scores)

    def actor_loss(self, weights: Tensor, errors: Tensor, source_rows: int) -> Tensor:
        """Return IQL's loss of the actor, with the mean weight in the place of each where `advantage` says so."""
        if self.settings.advantage == "mean":
            weights = weights.mean(-1, keepdim=True).expand(weights.shape)
        return super().actor_loss(weights, errors, source_rows)

    def actor_extra(self, params: Mapping[str, Params], batch: Batch) -> Tensor | None:
        """Return -lambda / |A| mean log b(a|s) over the rows that are kept, or some of them, [*lead]."""
        if not self.settings.regularisation:
            return None
        assert batch.noise is not None
        states, noise = (every(rows, self.settings.density_every) for rows in (batch.observations, batch.noise))
        noise, drawn = noise.split([self.settings.samples * self._behaviour.latent, self.action_dim * self._drawn], -1)
        actions = mlp(params["actor"], states)
        if self._drawn:
            actions = actions + mlp(params[SPREAD], states).clamp(*LOG_STD).exp() * drawn
        nets = unfrozen(params, BEHAVIOUR)
        found = self._behaviour.log_density(nets, states, torch.tanh(actions), noise, importance=False)
        return -self.settings.regularisation / self.action_dim * found.mean(-1)
