"""DVDF (Qiao et al., 2025): filters source rows by their fit to the target's dynamics and their value.

    g = lambda h + (1 - lambda) (A - min A) / (max A - min A),      w = exp(h),

with the smallest and largest A of each batch's source rows; the top xi (`keep_share`) by g are kept, and w multiplies
their squared critic errors. h is the score of a filter of dynamics: IGDF's cosine, or OTDF's relative cost of transport
(`score=otdf`); A = min Q - V is learned before the policy by sparse Q-learning on source rows alone
(`offdyn_agents.models.sparse_q`).

The paper writes the indicator of the top xi times g as the weight, where its code has exp(h): `weighting=value`. Its
code for A cannot be built as released, so that the A of its numbers is not known exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from offdyn_agents.algorithms.returns import returns_scale
from offdyn_agents.algorithms.rowwise.agent import SCORES, RowFilterSettings, RowTerms, RowwiseIQL
from offdyn_agents.algorithms.rowwise.otdf import relative
from offdyn_agents.engine.networks import Params
from offdyn_agents.engine.rows import Batch, RowColumns
from offdyn_agents.engine.settings import Belongs, setting, setting_names
from offdyn_agents.models.contrastive import EncoderSettings
from offdyn_agents.models.sparse_q import SparseSettings
from offdyn_agents.models.transport import TransportSettings

if TYPE_CHECKING:
    from offdyn_agents.engine.stage_cache import Fitted
    from offdyn_agents.engine.stages import StageContext

__all__ = ["DVDF", "DVDFSettings", "mixed"]

ADVANTAGES = "advantages"
EPSILON = 1e-8
PASSES = 16
"""Batches of each row that the g on record is the mean of."""


def igdf_scores(settings: DVDFSettings, context: StageContext) -> Fitted[Tensor]:
    """Return IGDF's cosines h [source rows] of each seed."""
    from offdyn_agents.models.contrastive import fit_scores

    return fit_scores(settings.encoders, context)


def otdf_scores(settings: DVDFSettings, context: StageContext) -> Fitted[Tensor]:
    """Return -cost [source rows] of OTDF's transport, the same for each seed."""
    from offdyn_agents.engine.stage_cache import Fitted
    from offdyn_agents.models.transport import transport_costs

    return Fitted([-transport_costs(settings.transport, context)] * len(context.seeds), {})


SCORERS: Mapping[str, Callable[[DVDFSettings, StageContext], Fitted[Tensor]]] = {
    "igdf": igdf_scores,
    "otdf": otdf_scores,
}
"""The filters of dynamics that give h [source rows] of each seed, by the values of the setting `score`."""


@dataclass(frozen=True)
class DVDFSettings(RowFilterSettings):
    """Settings of DVDF.

    Attributes:
        keep_share: xi, the share of a batch's source rows that is kept.
        mix: lambda, the part of the dynamics in what rows are ranked by; 1 leaves advantages out.
        score: Whose score of dynamics h is.
        weighting: "similarity" weighs by exp(h), as the code does; "value" by g where it is above 0, as the paper says.
        encoders: Settings of IGDF's encoders.
        transport: Settings of OTDF's transport.
        sql: Settings of sparse Q-learning.
    """

    keep_share: float = setting(0.5, low=0.0, high=1.0, open_low=True)
    mix: float = setting(0.7, low=0.0, high=1.0)
    score: str = setting("igdf", choices=tuple(SCORERS))
    weighting: str = setting("similarity", choices=("similarity", "value"))
    encoders: EncoderSettings = field(default_factory=EncoderSettings)
    transport: TransportSettings = field(default_factory=TransportSettings)
    sql: SparseSettings = field(default_factory=SparseSettings)
    BELONGS: ClassVar[Belongs] = {
        **{name: {"score": ("igdf",)} for name in setting_names(EncoderSettings, "encoders.")},
        **{name: {"score": ("otdf",)} for name in setting_names(TransportSettings, "transport.")},
    }


def mixed(similarity: Tensor, advantages: Tensor, mix: float) -> Tensor:
    """Return g of h and A, [*lead, source rows] each; A counts between its extremes in these rows."""
    least, most = advantages.amin(-1, keepdim=True), advantages.amax(-1, keepdim=True)
    return mix * similarity + (1.0 - mix) * (advantages - least) / (most - least + EPSILON)


class DVDF(RowwiseIQL):
    """IQL on the source rows that are likely in the target and good in the source."""

    name = "dvdf"
    settings_class = DVDFSettings
    settings: DVDFSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def columns(self) -> Mapping[str, int]:
        """The score of dynamics, and A where it counts."""
        return {SCORES: 0} | ({ADVANTAGES: 0} if self.settings.mix < 1.0 else {})

    @property
    def ratings(self) -> Mapping[str, float]:
        """The score of dynamics, and g, by which rows are kept; A alone says nothing of the target."""
        share = self.settings.keep_share
        return {SCORES: 1.0, "g": share} if self.settings.mix < 1.0 else {SCORES: share}

    def row_columns(self, context: StageContext) -> Fitted[RowColumns]:
        """Score the dynamics of all source rows, and learn their advantages."""
        from offdyn_agents.engine.stage_cache import Fitted
        from offdyn_agents.models.sparse_q import fit_advantages

        found = SCORERS[self.settings.score](self.settings, context)
        extras = [{SCORES: scores} for scores in found]
        failed = found.failed
        if self.settings.mix < 1.0:
            better = fit_advantages(self.settings.sql, self._scaled(context))
            extras = [self._with_advantages(own, column) for own, column in zip(extras, better, strict=True)]
            failed = better.failed | failed
        return Fitted([RowColumns(extras=columns) for columns in extras], failed)

    def _with_advantages(self, columns: dict[str, Tensor], advantages: Tensor) -> dict[str, Tensor]:
        """Return columns with A, and for the record with g in mean over `PASSES` batches that a row is drawn into."""
        scores, size = columns[SCORES], min(self.rows().source, len(advantages))
        total, drawn = torch.zeros_like(scores), torch.zeros_like(scores)
        generator = torch.Generator().manual_seed(0)
        for _ in range(PASSES):
            order = torch.randperm(len(scores), generator=generator).to(scores.device)
            batches = torch.cat([order, order[: -len(order) % size]]).view(-1, size)
            g = mixed(self._similarity(scores[batches]), advantages[batches], self.settings.mix)
            total.index_add_(0, batches.flatten(), g.flatten())
            drawn += torch.bincount(batches.flatten(), minlength=len(scores))
        return columns | {ADVANTAGES: advantages, "g": total / drawn}

    def _scaled(self, context: StageContext) -> StageContext:
        """Return the same with the source's rewards as IQL scales them, here by the returns of the source alone."""
        if self.settings.reward_scale == "none":
            return context
        source, column = context.source.clone(), context.layout.reward_column
        source[:, column] *= returns_scale(context.layout, [source])
        return replace(context, source=source)

    def terms(self, params: Mapping[str, Params], batch: Batch) -> RowTerms:
        """Return g of the batch's source rows, and their weights."""
        del params
        similarity = self._similarity(batch.columns[SCORES])
        ranks = similarity
        if ADVANTAGES in batch.columns:
            ranks = mixed(similarity, batch.columns[ADVANTAGES], self.settings.mix)
        weights = torch.exp(similarity) if self.settings.weighting == "similarity" else ranks.clamp(min=0.0)
        return RowTerms(None, weights, ranks)

    def _similarity(self, scores: Tensor) -> Tensor:
        """Return h of the scores of some rows, [*lead, n]."""
        return relative(scores) if self.settings.score == "otdf" else scores
