"""IQL on source rewards that DARA's domain classifiers correct (Liu et al., 2022).

Two classifiers tell target rows from source rows. What they say of a source transition, dr = log p_target(s' | s, a) -
log p_source(s' | s, a), is added to its reward with a weight: what the target would not do is worth less.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from offdyn_agents.algorithms.iql import IQL, IQLSettings
from offdyn_agents.engine.rows import RowColumns
from offdyn_agents.engine.settings import setting
from offdyn_agents.engine.stages import StageContext, StageResults
from offdyn_agents.models.classifiers import CorrectionSettings, fit_classifiers, offsets


@dataclass(frozen=True)
class DARALikeSettings(IQLSettings):
    """Settings of IQL, and of the classifiers.

    Attributes:
        data: Always "merged": the method is about two domains.
        dara: The classifiers' own settings; their weight of 0 leaves IQL.
    """

    data: str = setting("merged", choices=("merged",))
    dara: CorrectionSettings = field(default_factory=CorrectionSettings)


class DARALike(IQL):
    """IQL whose source rewards are corrected before the first update."""

    name = "dara-like"
    settings_class = DARALikeSettings
    settings: DARALikeSettings

    def stages(self, context: StageContext) -> StageResults:
        """Train the classifiers of every seed, and let them correct the rewards of source rows."""
        found = fit_classifiers(self.settings.dara, context)
        columns = [RowColumns(offsets(self.settings.dara, nets, context.layout, context.source)) for nets in found]
        return StageResults(columns=columns, failed=found.failed)
