"""A diagnosis: IQL without the source rows of the largest exact dynamics gap, which no filter can know.

    scores = -|s'_target - s'|,     s'_target of the same simulator state and action in the target's own dynamics,

averaged over dimensions in units of what a step changes. No method may know this: the agent is marked as a diagnosis
and the leaderboard takes no entry of it. Rows that the target's body cannot take rank last.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from offdyn_agents.algorithms.rowwise.agent import SCORES, RowFilterSettings, RowwiseIQL
from offdyn_agents.engine.rows import RowColumns
from offdyn_agents.engine.settings import setting

if TYPE_CHECKING:
    from offdyn_agents.engine.stage_cache import Fitted, Keep
    from offdyn_agents.engine.stages import StageContext

__all__ = ["OracleFilter", "OracleFilterSettings"]


@dataclass(frozen=True)
class OracleFilterSettings(RowFilterSettings):
    """Settings of the oracle filter.

    Attributes:
        keep_share: Share of a batch's source rows that is kept, those of the smallest gaps.
    """

    keep_share: float = setting(0.5, low=0.0, high=1.0, open_low=True)


class OracleFilter(RowwiseIQL):
    """IQL on the source rows that transfer best, as only a simulator of the target knows them."""

    name = "oracle-filter"
    diagnosis = True
    settings_class = OracleFilterSettings
    settings: OracleFilterSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def columns(self) -> dict[str, int]:
        """What the loss reads of source rows."""
        return {SCORES: 0}

    @property
    def ratings(self) -> dict[str, float]:
        """The scores, by which rows are kept."""
        return {SCORES: self.settings.keep_share}

    def row_columns(self, context: StageContext) -> Fitted[RowColumns]:
        """Simulate every source row in the target, and score it by its gap.

        Raises:
            OffDynError: The data are no datasets of this suite, or have no simulator states.
        """
        from offdyn_agents.engine.stage_cache import Fitted, cached

        # One result for all seeds: nothing of it is drawn.
        rows = (context.source, context.target)
        (found,) = cached("oracle gap", self.settings, rows, (0,), context.cache, partial(_simulate, context))
        columns = RowColumns(extras={SCORES: found[SCORES].to(context.source.device)})
        return Fitted([columns] * len(context.seeds), {})


def _simulate(context: StageContext, seeds: list[int], keep: Keep) -> None:
    """Compute the scores of all source rows."""
    keep(seeds[0], {SCORES: torch.from_numpy(-_gaps(context).astype(np.float32))})


def _gaps(context: StageContext) -> NDArray[np.float64]:
    """Return the exact gap of every source row, [N]: what made data say of themselves, else by simulation."""
    from offdyn_envs.datasets.gap.measure import pair_gap

    source, target = context.domains
    known = getattr(source, "gap", None)
    if known is not None:
        return np.asarray(known, dtype=np.float64)
    threads, quiet = context.threads, context.quiet
    gap = pair_gap(source, target, who="agent 'oracle-filter'", num_threads=threads, quiet=quiet)
    return np.where(gap.valid, gap.sizes, np.nanmax(gap.sizes) + 1.0)
