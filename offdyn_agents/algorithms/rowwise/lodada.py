"""LoDADA (arXiv 2602.21072), our reading of the abstract: drops clusters of source rows that differ from the target.

    gap_k = mean over the source rows of cluster k of -dr,    dr = log p_target(s' | s, a) - log p_source(s' | s, a),

with clusters of source and target transitions by k-means on standardised (s, a, s' - s), and dr from DARA's two domain
classifiers. Clusters are kept in order of their gap, those without a target row last, until at least `share` of the
source rows are kept; rows of the others are never drawn. Then IQL. share = 1 keeps all and is IQL.

No code is public and the paper's text was not seen: k-means, its 50 clusters, the classifiers and their noise, and the
share are this suite's own. The last cluster is kept whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from offdyn_agents.algorithms.rowwise.agent import RowwiseIQL, RowwiseSettings
from offdyn_agents.engine.rows import RowColumns
from offdyn_agents.engine.settings import setting
from offdyn_agents.models.classifiers import ClassifierSettings, fit_classifiers, gap
from offdyn_agents.models.clusters import Clusters, ClusterSettings, fit_clusters

if TYPE_CHECKING:
    from offdyn_agents.engine.stage_cache import Fitted
    from offdyn_agents.engine.stages import StageContext
    from offdyn_agents.models.short_training import Nets

__all__ = ["LoDADA", "LoDADASettings", "kept_clusters"]


@dataclass(frozen=True)
class DomainSettings(ClassifierSettings):
    """The classifiers' settings.

    Attributes:
        noise: Standard deviation of the Gaussian noise on inputs; chosen on planted rows, see docs/methods/lodada.md.
    """

    noise: float = setting(0.1, low=0.0)


@dataclass(frozen=True)
class LoDADASettings(RowwiseSettings):
    """Settings of LoDADA.

    Attributes:
        share: Least share of the source rows that is kept; 1 keeps all.
        clusters: How clusters are found.
        classifiers: How the domain classifiers are trained.
    """

    share: float = setting(0.5, low=0.0, high=1.0, open_low=True)
    clusters: ClusterSettings = field(default_factory=ClusterSettings)
    classifiers: DomainSettings = field(default_factory=DomainSettings)


def kept_clusters(gaps: Tensor, counts: Tensor, seen: Tensor, share: float) -> Tensor:
    """Return which clusters are kept, bool [K]: in order of their gaps until the share of rows is reached.

    Args:
        gaps: Mean -dr of each one's source rows, [K].
        counts: Number of its source rows, [K].
        seen: Whether it has target rows, bool [K]; those without come last.
        share: Least share of all source rows.
    """
    order = torch.where(seen, gaps, torch.inf).sort(stable=True).indices
    # Rows that are kept already when a cluster's turn comes.
    before = counts[order].cumsum(0) - counts[order]
    kept = torch.zeros_like(seen)
    kept[order] = before < share * counts.sum()
    return kept


class LoDADA(RowwiseIQL):
    """IQL on source rows of the clusters whose dynamics are nearest to the target's."""

    name = "lodada"
    reading = "our reading"
    settings_class = LoDADASettings
    settings: LoDADASettings  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def ratings(self) -> Mapping[str, float]:
        """Which rows are kept, and the nearness of their clusters."""
        return {"keep": 1.0, "nearness": 1.0} if self.settings.share < 1.0 else {}

    def row_columns(self, context: StageContext) -> Fitted[RowColumns]:
        """Find clusters, train the classifiers, and say which source rows are drawn; no loss reads the rest."""
        from offdyn_agents.engine.stage_cache import Fitted

        if self.settings.share == 1.0:
            return super().row_columns(context)
        clusters = fit_clusters(self.settings.clusters, context)
        found = fit_classifiers(self.settings.classifiers, context)
        pairs = zip(clusters, found, strict=True)
        return Fitted([self._columns(context, one, nets) for one, nets in pairs], clusters.failed | found.failed)

    def _columns(self, context: StageContext, clusters: Clusters, nets: Nets) -> RowColumns:
        """Return which source rows are kept, and minus the gap of each one's cluster: larger is nearer."""
        from offdyn_agents.models.short_training import in_chunks

        layout, size = context.layout, len(clusters.centres)
        number = clusters.of(layout, context.source)
        seen = torch.bincount(clusters.of(layout, context.target), minlength=size) > 0
        differing = in_chunks(lambda rows: -gap(self.settings.classifiers, nets, layout, rows), context.source)
        counts = torch.bincount(number, minlength=size)
        sums = torch.zeros(size, dtype=torch.float64, device=number.device).index_add_(0, number, differing.double())
        gaps = sums / counts.clamp(min=1)
        kept = kept_clusters(gaps, counts, seen, self.settings.share)
        return RowColumns(keep=kept[number], extras={"nearness": -gaps[number].float()})
