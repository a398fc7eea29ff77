"""DARA (Liu et al., ICLR 2022): corrects source rewards by how likely each row is in the target.

    r <- r + eta clip(dr),      dr = log p_target(s' | s, a) - log p_source(s' | s, a),

from two classifiers that tell target from source rows, one by (s, a, s') and one by (s, a): dr is the difference of
their log odds. Here they are trained before the policy (`schedule=stage`). Public code trains them on beside it, one
step an update (`schedule=loop`), and feeds a softmax into the cross-entropy as if it were logits, so that dr is mostly
0 or at its clip (`dara.form=odrl`, as in ODRL). MOBODY's port takes the softmax of the answer once more, which bounds
|dr| by 2 (`dara.form=code`); `form=code` is this port.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from offdyn_agents.algorithms.rowwise.agent import RowTerms, RowwiseIQL, RowwiseSettings
from offdyn_agents.engine.networks import Network, Params
from offdyn_agents.engine.rows import Batch, Layout, RowColumns
from offdyn_agents.engine.settings import Belongs, setting
from offdyn_agents.models.classifiers import (
    CorrectionSettings,
    classifier_loss,
    columns,
    gap,
    networks,
    offsets,
    with_noise,
)

if TYPE_CHECKING:
    from offdyn_agents.engine.stage_cache import Fitted
    from offdyn_agents.engine.stages import StageContext

__all__ = ["DARA", "DARASettings"]


@dataclass(frozen=True)
class DARASettings(RowwiseSettings):
    """Settings of DARA.

    Attributes:
        schedule: When the classifiers are trained: in a "stage" before the policy, or in a "loop" with it, at each
            update on its own batch, with dr of the classifiers as they are then.
        dara: The classifiers' own settings, eta (`dara.weight`) and the noise on their inputs among them.
    """

    schedule: str = setting("stage", choices=("stage", "loop"))
    dara: CorrectionSettings = field(default_factory=CorrectionSettings)
    BELONGS: ClassVar[Belongs] = {
        # A loop has the policy's updates, batches and step size.
        f"dara.{name}": {"schedule": ("stage",)}
        for name in ("updates", "batch_size", "learning_rate")
    }


class DARA(RowwiseIQL):
    """IQL on corrected rewards."""

    name = "dara"
    settings_class = DARASettings
    settings: DARASettings  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def loop(self) -> bool:
        """Whether classifiers are trained beside the policy."""
        return self.settings.schedule == "loop" and self.settings.dara.weight > 0.0

    @property
    def ratings(self) -> Mapping[str, float]:
        """What is added to rewards, where that is known before the policy."""
        return {} if self.loop or not self.settings.dara.weight else {"rewards": 1.0}

    @property
    def reward_range(self) -> tuple[float, float]:
        """Smallest and largest number that a loop adds to a reward."""
        most = self.settings.dara.weight * self.settings.dara.clip if self.loop else 0.0
        return (-most, most)

    @property
    def _layout(self) -> Layout:
        return Layout(self.observation_dim, self.action_dim)

    @property
    def _classifiers(self) -> dict[str, Network]:
        return networks(self.settings.dara, self._layout) if self.loop else {}

    @property
    def noise_width(self) -> int:
        """Noise on the inputs of both classifiers."""
        return sum(net.sizes[0] for net in self._classifiers.values())

    def networks(self) -> dict[str, Network]:
        """Return IQL's networks, and classifiers that are trained beside them."""
        return super().networks() | self._classifiers

    def row_columns(self, context: StageContext) -> Fitted[RowColumns]:
        """Train the classifiers, and correct the rewards of all source rows."""
        from offdyn_agents.engine.stage_cache import Fitted
        from offdyn_agents.models.classifiers import fit_classifiers

        dara = self.settings.dara
        if self.loop or not dara.weight:
            return super().row_columns(context)
        found = fit_classifiers(dara, context)
        corrected = [RowColumns(rewards=offsets(dara, nets, context.layout, context.source)) for nets in found]
        return Fitted(corrected, found.failed)

    def terms(self, params: Mapping[str, Params], batch: Batch) -> RowTerms:
        """Return eta dr of the batch's source rows in a loop, 0 on target rows."""
        if not self.loop:
            return super().terms(params, batch)
        source = self._packed(batch)[..., : batch.source_rows, :]
        found = self.settings.dara.weight * gap(self.settings.dara, params, self._layout, source)
        rest = torch.zeros_like(batch.rewards[..., batch.source_rows :])
        return RowTerms(rewards=torch.cat([found, rest], dim=-1))

    def actor_extra(self, params: Mapping[str, Params], batch: Batch) -> Tensor | None:
        """Return the classifiers' loss in a loop."""
        if not self.loop:
            return None
        assert batch.noise is not None
        dara = self.settings.dara
        noises = batch.noise.split([net.sizes[0] for net in self._classifiers.values()], dim=-1)
        noisy = with_noise(dara, columns(self._layout, self._packed(batch)), noises)
        return classifier_loss(params, noisy, batch.source_rows, dara.form)

    def _packed(self, batch: Batch) -> Tensor:
        ends = batch.continues == 0.0
        parts = (batch.observations, batch.actions, batch.next_observations, batch.rewards, ends)
        return self._layout.join(*parts)
