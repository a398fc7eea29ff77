"""BOSA (Liu et al., AAAI 2024): TD3 restricted to supported transitions and actions.

    L_Q  = sum_j mean m (r + gamma c min Q'(s', pi'(s') + noise) - Q_j)^2 + 2 kappa sum_j mean_source Q_j,
    L_pi = -mean Q_1(s, pi(s)) / mean |Q_1| - lambda mean log b(pi(s)|s)

with c = 0 at terminations, and over source and target rows alike a mask m of frozen models p_k of the target's dynamics
(`offdyn_agents.models.support`): 1 where min_k p_k(s'|s, a) > .01, else 0, and the row still counts in the mean. b is a
cVAE of the behaviour in both datasets, log b an importance estimate.

Nothing holds Q of source rows that the mask drops, and 2 kappa Q alone has no minimum. `value_bounds=rewards`, which is
ours, has |Q - least| there, with the least value that the data's rewards allow: the same above it. `none` is published.

Public code halves L_Q, which is the same critic under Adam. It fits the models of dynamics to both datasets
(`support.rows=merged`), so that they support the source's own dynamics too, and draws one sample at each update
(`support.samples=1` draws it once for a row); `form=code` is both. In raw units the published mask may
drop every target row, which `support.target_share` prevents here. Targets of public code go on from terminal rows and
from no others: that is an error, and no switch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from offdyn_agents.algorithms.returns import from_least
from offdyn_agents.algorithms.td3_bc import TD3BC, TD3BCSettings
from offdyn_agents.engine.networks import Params
from offdyn_agents.engine.rows import Batch, RowColumns
from offdyn_agents.engine.settings import Belongs, setting, setting_names
from offdyn_agents.models.behaviour_cvae import CVAE, CVAESettings, behaviour, fit_behaviour, frozen, unfrozen
from offdyn_agents.models.support import SupportSettings

if TYPE_CHECKING:
    from offdyn_agents.engine.stages import StageContext, StageResults

__all__ = ["BOSA", "BOSASettings", "BehaviourSettings"]

MASK, BEHAVIOUR = "mask", "behaviour"


@dataclass(frozen=True)
class BehaviourSettings(CVAESettings):
    """How the behaviour policy is trained.

    Attributes:
        updates: Steps of Adam.
    """

    updates: int = setting(100_000, low=1)


@dataclass(frozen=True)
class BOSASettings(TD3BCSettings):
    """Settings of BOSA.

    Attributes:
        data: Always "merged": the method is about the two kinds of rows.
        alpha: Weight of the normalised Q in the actor's loss.
        penalty: kappa, weight of the critics' values of source rows, which it lowers; to the lower bound
            and no further where value_bounds is "rewards".
        regularisation: lambda, weight of the behaviour in the actor's loss; 0 leaves it out.
        samples: Samples of the encoder in log b.
        masked: Whether errors are masked; without, no models of dynamics are trained.
        support: The mask's own settings.
        behaviour: The behaviour policy's own settings.
    """

    data: str = setting("merged", choices=("merged",))
    alpha: float = setting(1.0, low=0.0, per_run=True)
    penalty: float = setting(0.1, low=0.0)
    regularisation: float = setting(0.1, low=0.0)
    samples: int = setting(1, low=1)
    masked: bool = setting(True)
    support: SupportSettings = field(default_factory=SupportSettings)
    behaviour: BehaviourSettings = field(default_factory=BehaviourSettings)
    BELONGS: ClassVar[Belongs] = {name: {"masked": ("true",)} for name in setting_names(SupportSettings, "support.")}


class BOSA(TD3BC):
    """TD3 within the support of dynamics and behaviour."""

    name = "bosa"
    settings_class = BOSASettings
    settings: BOSASettings  # pyright: ignore[reportIncompatibleVariableOverride]
    metrics = (*TD3BC.metrics[:3], "behaviour", *TD3BC.metrics[4:])

    @property
    def columns(self) -> Mapping[str, int]:
        """The mask."""
        return {MASK: 0} if self.settings.masked else {}

    @property
    def ratings(self) -> Mapping[str, float]:
        """The mask."""
        return dict.fromkeys(self.columns, 1.0)

    @property
    def _behaviour(self) -> CVAE:
        return behaviour(self.settings.behaviour, self.observation_dim, self.action_dim)

    @property
    def noise_width(self) -> int:
        """Noise of target actions, and samples of the encoder."""
        latent = self.settings.samples * self._behaviour.latent
        return self.action_dim + (latent if self.settings.regularisation else 0)

    def stages(self, context: StageContext) -> StageResults:
        """Learn the target's dynamics and the behaviour, and tell which rows are supported."""
        from offdyn_agents.engine.stages import StageResults
        from offdyn_agents.models.support import supports

        columns, networks, failed = list[RowColumns](), dict[str, Params](), dict[int, str]()
        if self.settings.regularisation:
            found = fit_behaviour(self.settings.behaviour, context, merged=True)
            networks, failed = frozen(found, BEHAVIOUR), failed | found.failed
        if self.settings.masked:
            masks = supports(self.settings.support, context)
            columns = [RowColumns(extras={MASK: source}, target={MASK: target}) for source, target in masks]
            failed = failed | masks.failed
        return StageResults(frozen=networks, columns=columns, failed=failed)

    def critic_loss(self, params: Mapping[str, Params], q: Tensor, targets: Tensor, batch: Batch) -> Tensor:
        """Return the loss [*lead] of values [*lead, 2, B] and targets [*lead, B], those of source rows lowered."""
        masked = self.settings.masked
        loss = self._masked_loss(q, targets, batch) if masked else super().critic_loss(params, q, targets, batch)
        if not self.settings.penalty:
            return loss
        lowered = q[..., : batch.source_rows]
        if self.settings.value_bounds == "rewards":
            lowered = from_least(params, lowered)
        return loss + 2.0 * self.settings.penalty * lowered.mean(-1).sum(-1)

    def _masked_loss(self, q: Tensor, targets: Tensor, batch: Batch) -> Tensor:
        """Return the squared errors of supported rows over all rows, [*lead], added for both critics."""
        mask = torch.cat([batch.columns[MASK], batch.target_columns[MASK]], dim=-1)
        # What broadcasts instead would mask nothing in particular.
        assert mask.shape == targets.shape
        return (mask.unsqueeze(-2) * (targets.unsqueeze(-2) - q).square()).mean(-1).sum(-1)

    def near(self, params: Mapping[str, Params], batch: Batch, actions: Tensor) -> Tensor:
        """Return -lambda mean log b of actions [*lead, B, |A|], [*lead]."""
        if not self.settings.regularisation:
            return torch.zeros_like(actions[..., 0, 0])
        assert batch.noise is not None
        nets, noise = unfrozen(params, BEHAVIOUR), batch.noise[..., self.action_dim :]
        found = self._behaviour.log_density(nets, batch.observations, actions, noise)
        return -self.settings.regularisation * found.mean(-1)
