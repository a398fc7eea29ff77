"""What methods share that judge source rows one by one and leave the learning to IQL.

With K the kept source rows of a batch, T its target rows and n = |K| + |T|,

    L_V  = 1/n sum_{K+T} |tau - 1(d < 0)| d^2
    L_Q  = 1/n sum_{K+T} w (r + dr + gamma m V(s') - Q)^2,      w = 1 on T
    L_pi = 1/n sum_{K+T} min(exp(3 d), 100) |pi(s) - a|^2       (and what a method adds).

A row that is dropped leaves all three losses and n; a weight enters L_Q alone. Where a method says nothing of a row,
neither a weight nor a score, the update is IQL's, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from offdyn_agents.algorithms.iql import IQL, IQLSettings
from offdyn_agents.algorithms.returns import value_facts
from offdyn_agents.engine.networks import Params
from offdyn_agents.engine.rows import Batch, RowColumns
from offdyn_agents.engine.settings import setting

if TYPE_CHECKING:
    from offdyn_agents.engine.stage_cache import Fitted
    from offdyn_agents.engine.stages import StageContext, StageResults

__all__ = ["SCORES", "WEIGHTS", "RowFilterSettings", "RowTerms", "RowwiseIQL", "RowwiseSettings"]

SCORES, WEIGHTS = "scores", "weights"
"""Columns that the default of `RowwiseIQL.terms` knows."""


@dataclass(frozen=True)
class RowwiseSettings(IQLSettings):
    """Settings of all these methods.

    Attributes:
        data: Always "merged": the methods are about two kinds of rows.
    """

    data: str = setting("merged", choices=("merged",))


@dataclass(frozen=True)
class RowFilterSettings(RowwiseSettings):
    """Settings of methods that score rows.

    Attributes:
        keep_share: Share of a batch's source rows that is kept, those of the highest scores; rows of equal scores in
            their order. 1 keeps all.
    """

    keep_share: float = setting(1.0, low=0.0, high=1.0, open_low=True)


class RowTerms(NamedTuple):
    """What a method says of one batch; None says nothing.

    Attributes:
        rewards: Added to the rewards of all rows, [*lead, B], in units of the data.
        weights: Factors of source rows' squared critic errors, at least 0, [*lead, source rows].
        scores: What source rows are ranked by, larger is better, [*lead, source rows].
    """

    rewards: Tensor | None = None
    weights: Tensor | None = None
    scores: Tensor | None = None


class RowwiseIQL(IQL):
    """IQL on merged rows; a method overrides `row_columns`, `terms` or `actor_extra`, and names what it reads."""

    family = "filtering or reweighting"
    settings_class = RowwiseSettings
    settings: RowwiseSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def reward_range(self) -> tuple[float, float]:
        """Smallest and largest number that `terms` adds to a reward."""
        return (0.0, 0.0)

    @property
    def kept_share(self) -> float:
        """Share of a batch's source rows that is kept: all where no setting is about scores."""
        return getattr(self.settings, "keep_share", 1.0)

    def row_columns(self, context: StageContext) -> Fitted[RowColumns]:
        """Return what is said of every source row before the first update, for each seed.

        Args:
            context: As `stages` gets it.
        """
        from offdyn_agents.engine.stage_cache import Fitted

        return Fitted([RowColumns()] * len(context.seeds), {})

    def terms(self, params: Mapping[str, Params], batch: Batch) -> RowTerms:
        """Return what is said of a batch, without a gradient; by default its columns of weights and scores.

        Args:
            params: As `loss` gets them.
            batch: Likewise, its rewards those of the data.
        """
        del params
        return RowTerms(None, batch.columns.get(WEIGHTS), batch.columns.get(SCORES))

    def actor_extra(self, params: Mapping[str, Params], batch: Batch) -> Tensor | None:
        """Return what is added to the loss, [*lead], None for nothing.

        Args:
            params: As `loss` gets them; gradients reach all trained networks.
            batch: The rows that are kept.
        """
        del params, batch
        return None

    def stages(self, context: StageContext) -> StageResults:
        """Judge the source rows; values are bounded by the rewards that come of it."""
        from offdyn_agents.engine.stages import StageResults

        found = self.row_columns(context)
        return StageResults(columns=found, frozen=self._bounds(context, found), failed=found.failed)

    def _bounds(self, context: StageContext, columns: Fitted[RowColumns]) -> dict[str, Params]:
        """Return the facts anew where rewards are not those of the data."""
        low, high = self.reward_range
        added = [
            (low, high)
            if column.rewards is None
            else (low + float(column.rewards.min()), high + float(column.rewards.max()))
            for column in columns
        ]
        bounded = self.settings.value_bounds == "rewards"
        if not bounded or not any(pair != (0.0, 0.0) for pair in added):
            return {}
        scaled, discount = self.settings.reward_scale == "returns", self.settings.discount
        return value_facts(context, scaled=scaled, bounded=True, discount=discount, added=added)

    def loss(self, params: Mapping[str, Params], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return IQL's loss on the rows that are kept, and what the method adds; see `Agent.loss`."""
        with torch.no_grad():
            terms = self.terms(params, batch)
        _check(terms, batch)
        kept = _kept(_with_terms(batch, terms), terms.scores, int(self.kept_share * batch.source_rows))
        loss, metrics = super().loss(params, kept)
        extra = self.actor_extra(params, kept)
        return (loss if extra is None else loss + extra), metrics

    def critic_loss(self, params: Mapping[str, Params], errors: Tensor, batch: Batch) -> Tensor:
        """Return the loss [*lead] of errors [*lead, 2, B]: weighted, squared, mean over rows, sum over critics."""
        weights = batch.columns.get(WEIGHTS)
        if weights is None:
            return super().critic_loss(params, errors, batch)
        source, target = errors[..., 0, :].split([batch.source_rows, errors.shape[-1] - batch.source_rows], dim=-1)
        # What broadcasts instead would make one mean of all weights.
        assert weights.shape == source.shape
        whole = torch.cat([weights, torch.ones_like(target)], dim=-1)
        return (whole.unsqueeze(-2) * errors.square()).mean(-1).sum(-1)


def _check(terms: RowTerms, batch: Batch) -> None:
    """Refuse terms of other shapes: a column [.., n, 1] would broadcast, and say of each row what is said of others."""
    source = batch.rewards[..., : batch.source_rows].shape
    assert terms.rewards is None or terms.rewards.shape == batch.rewards.shape
    assert terms.weights is None or terms.weights.shape == source
    assert terms.scores is None or terms.scores.shape == source


def _with_terms(batch: Batch, terms: RowTerms) -> Batch:
    """Return a batch with the rewards and weights of these terms."""
    rewards = batch.rewards if terms.rewards is None else batch.rewards + terms.rewards
    others = {name: column for name, column in batch.columns.items() if name not in (WEIGHTS, SCORES)}
    weights = {} if terms.weights is None else {WEIGHTS: terms.weights}
    return batch._replace(rewards=rewards, columns=others | weights)


def _kept(batch: Batch, scores: Tensor | None, count: int) -> Batch:
    """Return a batch with so many of its source rows, those of the highest scores [*lead, source rows]."""
    if scores is None or count >= batch.source_rows:
        return batch
    count = max(count, 1)
    # Stable: the lower row comes first.
    places = scores.sort(dim=-1, descending=True, stable=True).indices[..., :count]

    def pick(rows: Tensor, lead: int) -> Tensor:
        """Return the kept source rows, and all others, of a tensor whose axis of rows follows so many others."""
        source, rest = rows.split([batch.source_rows, rows.shape[lead] - batch.source_rows], dim=lead)
        index = places.reshape(*places.shape, *(1,) * (rows.dim() - places.dim())).expand(
            *places.shape, *rows.shape[lead + 1 :]
        )
        return torch.cat([source.gather(lead, index), rest], dim=lead)

    lead = scores.dim() - 1
    changed = {
        name: pick(getattr(batch, name), lead)
        for name in ("observations", "actions", "rewards", "next_observations", "continues", "noise")
        if getattr(batch, name) is not None
    }
    columns = {name: pick(column, lead) for name, column in batch.columns.items()}
    return batch._replace(**changed, columns=columns, source_rows=count)
