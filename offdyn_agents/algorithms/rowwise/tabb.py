"""TABB (arXiv 2605.22376), our reading of the abstract: weights source rows by how well their Bellman targets agree.

    w = exp(-|y - y^| / T),      y = k r + gamma m V(s'),      y^ = k r^ + gamma m^ V(s^'),

where r^(s, a), s^'(s, a) and m^ are what an ensemble of target dynamics says of the row, V is the value that is being
learned, without gradient, and T the median of |y - y^| over the batch's source rows. w is the weight of the row's
squared critic error; all else is IQL's. `strength` 0 weighs all rows 1 and is IQL.

No code is public and the paper's text was not seen. It compares latent states, by encoders that it trains; here DROCO's
ensemble (the mean of its elites) predicts states as they are. k scales rewards as in IQL. The median is of each batch:
no number is carried from one update to the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from offdyn_agents.algorithms.rowwise.agent import RowTerms, RowwiseIQL, RowwiseSettings
from offdyn_agents.engine.networks import Params, value
from offdyn_agents.engine.rows import Batch, RowColumns
from offdyn_agents.engine.settings import setting
from offdyn_agents.models.ensemble.settings import DynamicsSettings, check_elites

if TYPE_CHECKING:
    from offdyn_agents.engine.stage_cache import Fitted
    from offdyn_agents.engine.stages import StageContext
    from offdyn_agents.models.ensemble.model import Ensemble

__all__ = ["TABB", "TABBSettings", "agreement"]

REWARDS, STATES, CONTINUES = "target_rewards", "target_states", "target_continues"
LEAST = 1e-8
"""Smallest T: where the models say what the data say, all weights are 1."""


@dataclass(frozen=True)
class TABBSettings(RowwiseSettings):
    """Settings of TABB.

    Attributes:
        strength: Factor of the mismatch in units of its median; 0 leaves IQL.
        elites: Members, the best on held-out rows, whose mean is the prediction.
        dynamics: The ensemble's own settings, as DROCO's.
    """

    strength: float = setting(1.0, low=0.0)
    elites: int = setting(5, low=1)
    dynamics: DynamicsSettings = field(default_factory=DynamicsSettings)


def agreement(mismatch: Tensor, scale: Tensor, strength: float = 1.0) -> Tensor:
    """Return exp(-strength * mismatch / T) of mismatches |y - y^| [*lead, n] in units of T [*lead, 1]."""
    return torch.exp(-strength * mismatch / scale.clamp(min=LEAST))


class TABB(RowwiseIQL):
    """IQL whose critics weigh source rows by how well their target agrees with the target domain's."""

    name = "tabb"
    reading = "our reading"
    settings_class = TABBSettings
    settings: TABBSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, settings: TABBSettings, observation_dim: int, action_dim: int) -> None:
        super().__init__(settings, observation_dim, action_dim)
        check_elites(settings.elites, settings.dynamics)

    @property
    def columns(self) -> Mapping[str, int]:
        """What the models say of every source row: rewards, next states, and whether episodes go on."""
        return {REWARDS: 0, STATES: self.observation_dim, CONTINUES: 0} if self.settings.strength else {}

    @property
    def ratings(self) -> Mapping[str, float]:
        """Nearness of the model's next states; weights hang on V and come with it."""
        return {"nearness": 1.0} if self.settings.strength else {}

    def row_columns(self, context: StageContext) -> Fitted[RowColumns]:
        """Train an ensemble on target rows for each seed, and predict all source rows."""
        from offdyn_agents.engine.stage_cache import Fitted
        from offdyn_agents.models.ensemble.stages import fit_in_context

        if not self.settings.strength:
            return super().row_columns(context)
        found = fit_in_context(self.settings.dynamics, context.target, context)
        return Fitted([self._predicted(context, ensemble) for ensemble in found], found.failed)

    def _predicted(self, context: StageContext, ensemble: Ensemble) -> RowColumns:
        """Return the mean predictions of an ensemble's elites for all source rows."""
        from offdyn_agents.models.short_training import in_chunks

        elites, layout = ensemble.elites(self.settings.elites), context.layout
        before, _, after, *_ = layout.split(context.target)
        spread = (after - before).std(0, correction=0).clamp(min=LEAST)

        def predict(rows: Tensor) -> Tensor:
            observations, actions, following, *_ = layout.split(rows)
            rewards, states, _ = elites.predict(observations, actions)
            state = states.mean(0)
            goes_on = (~context.terminated(state)).to(state.dtype)
            nearness = -((state - following) / spread).norm(dim=-1)
            return torch.cat([torch.stack([rewards.mean(0), goes_on, nearness], dim=-1), state], dim=-1)

        said = in_chunks(predict, context.source)
        # No loss reads the last one: weights hang on V, and before a policy it is what can be told of rows.
        named = {REWARDS: said[:, 0], CONTINUES: said[:, 1], STATES: said[:, 3:], "nearness": said[:, 2]}
        return RowColumns(extras=named)

    def terms(self, params: Mapping[str, Params], batch: Batch) -> RowTerms:
        """Return the weights of a batch's source rows under the present V."""
        if not self.settings.strength:
            return super().terms(params, batch)
        mismatch = self.mismatch(params, batch)
        # The upper one of two medians where their number is even: no mean of two that breaks a tie.
        scale = mismatch.sort(dim=-1).values[..., mismatch.shape[-1] // 2].unsqueeze(-1)
        return RowTerms(weights=agreement(mismatch, scale, self.settings.strength))

    def mismatch(self, params: Mapping[str, Params], batch: Batch) -> Tensor:
        """Return |y - y^| of a batch's source rows, [*lead, source rows], in units of the scaled rewards."""
        rows = batch.source_rows
        v, v_target = (
            self.bounded(params, value(params["value"], states))
            for states in (batch.next_observations[..., :rows, :], batch.columns[STATES])
        )
        rewards = self.scale(params, 1) * (batch.rewards[..., :rows] - batch.columns[REWARDS])
        following = batch.continues[..., :rows] * v - batch.columns[CONTINUES] * v_target
        return (rewards + self.settings.discount * following).abs()
