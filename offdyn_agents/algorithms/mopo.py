"""MOPO (Yu et al., 2020): model-based SAC with rewards penalised by the ensemble's uncertainty.

r - lambda max_k ||std_k(r, s')||_2, the maximum over all members. Targets and losses are those of SAC.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from offdyn_agents.algorithms.model_based import ModelBasedSAC, ModelBasedSettings
from offdyn_agents.engine.rollouts import RunView
from offdyn_agents.engine.settings import setting
from offdyn_agents.models.ensemble.rollouts import RolloutModel

__all__ = ["MOPO", "MOPOSettings"]


@dataclass(frozen=True)
class MOPOSettings(ModelBasedSettings):
    """Settings of MOPO.

    Attributes:
        penalty: lambda, the weight of the uncertainty.
    """

    penalty: float = setting(0.5, low=0.0, per_run=True)


class MOPO(ModelBasedSAC):
    """SAC on rollouts with penalised rewards."""

    name = "mopo"
    settings_class = MOPOSettings
    settings: MOPOSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def world(self, run: RunView) -> RolloutModel:
        """Return the ensemble with penalised rewards."""
        return replace(super().world(run), penalty=float(self.number(run.params, "penalty")))
