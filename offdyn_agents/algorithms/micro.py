"""MICRO (Liu et al., IJCAI 2024): MOBILE with the gap between the mean and the worst model's backup as penalty.

    y = max(0, r + gamma m (min Q'(s', a') - alpha log pi(a'|s') - beta u)),      u = mean_e q_e - min_e q_e,

with q_e the mean over samples of min Q'(s'_e, a), s'_e drawn from elite e at (s, a) and a from the policy; u = 0 on
real rows. MOBILE has the standard deviation of q_e there, outside of gamma m, and no entropy.

Public code means the critics' loss over both critics, where it is their sum here: Adam takes the same steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from offdyn_agents.algorithms.mobile import MOBILE, MOBILESettings
from offdyn_agents.engine.rows import Batch
from offdyn_agents.engine.settings import setting

__all__ = ["MICRO", "MICROSettings"]


@dataclass(frozen=True)
class MICROSettings(MOBILESettings):
    """Settings of MICRO.

    Attributes:
        deterministic_backup: Leave the entropy out of the critics' targets.
        alpha: The temperature where it is not trained.
    """

    deterministic_backup: bool = setting(False)
    alpha: float = setting(0.1, low=0.0)


class MICRO(MOBILE):
    """SAC on rollouts whose targets are those of the worst elite, as far as beta says."""

    name = "micro"
    settings_class = MICROSettings
    settings: MICROSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def spread(self, values: Tensor) -> Tensor:
        """Return u of the elites' values [..., elites]: how far their smallest lies below their mean."""
        return values.mean(-1) - values.amin(-1)

    def charged(self, batch: Batch, penalty: Tensor) -> Tensor:
        """Return gamma m u [*lead, fake rows]: the next value is what is penalised."""
        return self.settings.discount * batch.continues[..., -batch.fake_rows :] * penalty
