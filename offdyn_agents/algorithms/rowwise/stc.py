"""STC (arXiv 2602.05776): replaces source actions and rewards by those that lead to s' in the target.

    a^ = f_inv(s, s'),      r^ = r + clip(grad_a r(s, a) . (a^ - a)),
    (a, r) <- (a^, r^)      where |f_fwd(s, a^) - s'| < kappa |f_fwd(s, a) - s'|,

with f_inv, f_fwd and r learned from target rows alone; rows that fail the test stay as they are. Then IQL on all rows.
kappa = 0 corrects none and is IQL.

No code is public, and of the paper we know the abstract and reviews: the three networks' sizes and training, the units
of |.| (each dimension's change in the target), the clip of the reward's correction (one standard deviation of the
target's rewards) and kappa = 1 are this suite's own reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from offdyn_agents.algorithms.rowwise.agent import RowwiseIQL, RowwiseSettings
from offdyn_agents.engine.rows import Layout, RowColumns
from offdyn_agents.engine.settings import setting
from offdyn_agents.models.transitions import TransitionSettings, Units, change, inverse, reward

if TYPE_CHECKING:
    from offdyn_agents.engine.stage_cache import Fitted
    from offdyn_agents.engine.stages import StageContext
    from offdyn_agents.models.short_training import Nets

__all__ = ["STC", "STCSettings", "corrections"]

SAID = ("corrected", "closeness", "nearness")
"""Columns that no loss reads, as `corrections` has them behind action and reward."""


@dataclass(frozen=True)
class STCSettings(RowwiseSettings):
    """Settings of STC.

    Attributes:
        kappa: A row is corrected where the forward model's error with the new action is below kappa times that with
            its own; 0 corrects none.
        coefficient: What the reward's correction is multiplied with.
        reward_clip: Largest correction of a reward, in standard deviations of the target's rewards.
        models: How the three networks are trained.
    """

    kappa: float = setting(1.0, low=0.0)
    coefficient: float = setting(1.0, low=0.0)
    reward_clip: float = setting(1.0, low=0.0, infinite=True)
    models: TransitionSettings = field(default_factory=TransitionSettings)


def slope_step(nets: Nets, states: Tensor, actions: Tensor, moved: Tensor) -> Tensor:
    """Return grad_a r(s, a) . (a^ - a), [n], for states [n, |S|], actions a and moved actions a^ [n, |A|]."""

    def of_actions(some: Tensor) -> Tensor:
        return reward(nets, states, some)

    return torch.func.jvp(of_actions, (actions,), (moved - actions,))[1]


def corrections(settings: STCSettings, nets: Nets, units: Units, layout: Layout, rows: Tensor) -> Tensor:
    """Return what becomes of packed source rows [n, W], side by side [n, |A| + 4].

    Action, what is added to the reward, whether the row was corrected (0 or 1), -|a^ - a| of the action that was tried
    ("closeness"), and minus the forward model's error with the row's own action ("nearness"), in units of the target's
    changes.
    """
    states, actions, changes, _, _ = layout.split(units.table(layout, rows))
    tried = inverse(nets, states, changes)
    own, other = ((change(nets, states, some) - changes).norm(dim=-1) for some in (actions, tried))
    accepted = other < settings.kappa * own
    step = settings.coefficient * slope_step(nets, states, actions, tried)
    # The model's rewards are in standard deviations of the target's.
    added = step.clamp(-settings.reward_clip, settings.reward_clip) * units.rewards[1]
    new = torch.where(accepted.unsqueeze(-1), tried, actions)
    parts = (added * accepted, accepted.to(own.dtype), -(tried - actions).norm(dim=-1), -own)
    return torch.cat([new, torch.stack(parts, dim=-1)], dim=-1)


class STC(RowwiseIQL):
    """IQL on source rows with corrected actions and rewards."""

    name = "stc"
    settings_class = STCSettings
    settings: STCSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def ratings(self) -> Mapping[str, float]:
        """Whether a row was corrected, and how near its own action and next state are to what the target would do."""
        return dict.fromkeys(SAID, 1.0) if self.settings.kappa else {}

    def row_columns(self, context: StageContext) -> Fitted[RowColumns]:
        """Train the three networks, and correct all source rows; no loss reads the further columns."""
        from offdyn_agents.engine.stage_cache import Fitted
        from offdyn_agents.models.short_training import in_chunks
        from offdyn_agents.models.transitions import fit_transitions

        if not self.settings.kappa:
            return super().row_columns(context)
        layout, units = context.layout, Units.of(context.layout, context.target)
        found = fit_transitions(self.settings.models, context, units)

        def columns(nets: Nets) -> RowColumns:
            said = in_chunks(lambda rows: corrections(self.settings, nets, units, layout, rows), context.source)
            actions, added, *others = said.split([layout.action_dim, 1, 1, 1, 1], dim=1)
            named = zip(SAID, others, strict=True)
            extras = {name: column.squeeze(1) for name, column in named}
            return RowColumns(rewards=added.squeeze(1), actions=actions, extras=extras)

        return Fitted([columns(nets) for nets in found], found.failed)
