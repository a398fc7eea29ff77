"""IGDF (Wen et al., ICML 2024): filters and weights source rows with contrastive encoders of the target's dynamics.

    h = cos(phi(s, a), psi(s')),      keep the top xi of a batch's source rows by h,      w = exp(alpha h),

where phi and psi are trained before the policy to tell the target's own next state from the source's
(`offdyn_agents.models.contrastive`), xi is `keep_share`, and w multiplies the squared critic errors of source rows.

Public code does otherwise. The authors' multiplies weights [n, 1] with errors [n], which is mean(w) mean(e^2): the
weights rank nothing (`weighting=mean`). A port in two repositories never trains its encoders, so that it filters at
random (`encoders.updates=0`; `form=code`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from offdyn_agents.algorithms.rowwise.agent import SCORES, WEIGHTS, RowFilterSettings, RowwiseIQL
from offdyn_agents.engine.networks import Params
from offdyn_agents.engine.rows import Batch, RowColumns
from offdyn_agents.engine.settings import setting
from offdyn_agents.models.contrastive import EncoderSettings

if TYPE_CHECKING:
    from offdyn_agents.engine.stage_cache import Fitted
    from offdyn_agents.engine.stages import StageContext

__all__ = ["IGDF", "IGDFSettings"]


@dataclass(frozen=True)
class IGDFSettings(RowFilterSettings):
    """Settings of IGDF.

    Attributes:
        keep_share: xi, the share of a batch's source rows that is kept.
        alpha: What h is multiplied with in a weight; 0 weighs nothing.
        weighting: "row" multiplies each squared error with its row's weight; "mean" all of them with the mean weight
            of the kept rows and the target's, as the authors' code does by a broadcast.
        encoders: The encoders' own settings.
    """

    keep_share: float = setting(0.5, low=0.0, high=1.0, open_low=True)
    alpha: float = setting(1.0, low=0.0)
    weighting: str = setting("row", choices=("row", "mean"))
    encoders: EncoderSettings = field(default_factory=EncoderSettings)


class IGDF(RowwiseIQL):
    """IQL on the source rows that the target's encoders find likely."""

    name = "igdf"
    settings_class = IGDFSettings
    settings: IGDFSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def columns(self) -> Mapping[str, int]:
        """Scores where rows are dropped, weights where they weigh."""
        wanted = {SCORES: self.settings.keep_share < 1.0, WEIGHTS: self.settings.alpha > 0.0}
        return {name: 0 for name, is_wanted in wanted.items() if is_wanted}

    @property
    def ratings(self) -> Mapping[str, float]:
        """The cosine h; weights rank rows as it does."""
        return {SCORES: self.settings.keep_share} if self.columns else {}

    def row_columns(self, context: StageContext) -> Fitted[RowColumns]:
        """Train the encoders, and score all source rows."""
        from offdyn_agents.engine.stage_cache import Fitted
        from offdyn_agents.models.contrastive import fit_scores

        if not self.columns:
            return super().row_columns(context)
        found, alpha = fit_scores(self.settings.encoders, context), self.settings.alpha
        extras = [{SCORES: scores, WEIGHTS: torch.exp(alpha * scores)} for scores in found]
        return Fitted([RowColumns(extras=columns) for columns in extras], found.failed)

    def critic_loss(self, params: Mapping[str, Params], errors: Tensor, batch: Batch) -> Tensor:
        """Return the weighted loss of errors; see `RowwiseIQL.critic_loss`."""
        if self.settings.weighting == "row" or WEIGHTS not in batch.columns:
            return super().critic_loss(params, errors, batch)
        rows, weights = errors.shape[-1], batch.columns[WEIGHTS]
        mean = (weights.sum(-1) + (rows - batch.source_rows)) / rows
        return mean * super().critic_loss(params, errors, batch._replace(columns={}))
