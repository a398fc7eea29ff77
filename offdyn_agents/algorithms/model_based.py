"""Soft actor-critic on real rows and on rollouts in an ensemble: what MOPO, MOBILE and MOREC share.

Every so many updates the present policy is rolled out in the ensemble from states of real rows. A batch holds a small
share of real rows; the others come from the last few of these rollouts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from offdyn_agents.algorithms.sac import SAC, SACSettings, squashed
from offdyn_agents.engine.rollouts import ModelBased, RunView
from offdyn_agents.engine.rows import RowCounts
from offdyn_agents.engine.settings import setting
from offdyn_agents.engine.stages import StageContext, StageResults
from offdyn_agents.models.ensemble.rollouts import Proposer, RolloutModel, roll_out
from offdyn_agents.models.ensemble.settings import EnsembleSettings, check_elites
from offdyn_agents.models.ensemble.stages import fit_in_context

__all__ = ["ModelBasedSAC", "ModelBasedSettings"]


@dataclass(frozen=True)
class ModelBasedSettings(SACSettings):
    """Settings of agents that roll their policy out in an ensemble.

    Attributes:
        real_ratio: Share of real rows in a batch; at least two rows are taken, one of each dataset of the merged rows.
        horizon: Most steps of a rollout.
        starts: Rollouts of one refill.
        refill_every: Updates between refills.
        refills_kept: Refills whose rows are kept, if no rollout ends early.
        elites: Members, the best on held-out rows, from which next states are drawn.
        dynamics: The ensemble's own settings.
    """

    real_ratio: float = setting(0.05, low=0.0, high=0.9)
    horizon: int = setting(5, low=1)
    starts: int = setting(50_000, low=2)
    refill_every: int = setting(1000, low=1)
    refills_kept: int = setting(5, low=1)
    elites: int = setting(5, low=2)
    dynamics: EnsembleSettings = field(default_factory=EnsembleSettings)


class ModelBasedSAC(SAC, ModelBased):
    """SAC on a few real rows and many of rollouts.

    Where the rows are merged, the ensemble learns from all of them alike; real rows of a batch, and the states in which
    rollouts start, come half from each dataset.
    """

    family = ModelBased.family

    settings: ModelBasedSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, settings: ModelBasedSettings, observation_dim: int, action_dim: int) -> None:
        super().__init__(settings, observation_dim, action_dim)
        check_elites(settings.elites, settings.dynamics)

    @property
    def refill_every(self) -> int:
        """Updates between two refills."""
        return self.settings.refill_every

    @property
    def capacity(self) -> int:
        """Rows that a run keeps."""
        return self.settings.starts * self.settings.horizon * self.settings.refills_kept

    def rows(self) -> RowCounts:
        """Return how many rows of each dataset and of rollouts a batch holds."""
        size = self.settings.batch_size
        real = min(max(2, int(self.settings.real_ratio * size)), size - 1)
        shares = {"source": (real, 0), "merged": (real // 2, real - real // 2)}
        return RowCounts(*shares.get(self.settings.data, (0, real)), size - real)

    def stages(self, context: StageContext) -> StageResults:
        """Train an ensemble for each seed."""
        rows = torch.cat([context.source, context.target])
        ensembles = fit_in_context(self.settings.dynamics, rows, context, len(context.target))
        return StageResults(results=ensembles, failed=ensembles.failed)

    def world(self, run: RunView) -> RolloutModel:
        """Return what one run's policy is rolled out in."""
        return RolloutModel(Proposer(run.stages, self.settings.elites), run.terminated)

    def refill(self, run: RunView, generator: torch.Generator) -> Tensor:
        """Roll the policy out in the run's world; see `ModelBased.refill`."""

        def act(observations: Tensor, draw: torch.Generator) -> Tensor:
            noise = torch.randn(len(observations), self.action_dim, generator=draw).to(observations.device)
            return squashed(run.params["actor"], observations, noise)[0]

        rows = roll_out(self.world(run), act, self.starts(run, generator), self.settings.horizon, generator)
        _, _, _, rewards, continues = run.layout.split(rows)
        run.report.update(reward=float(rewards.mean()), ended=float(1.0 - continues.mean()))
        return rows

    def starts(self, run: RunView, generator: torch.Generator) -> Tensor:
        """Draw the states in which rollouts start, [starts, |S|]."""
        tables = [table for table in (run.source, run.target) if len(table)]
        counts = [self.settings.starts // 2, self.settings.starts - self.settings.starts // 2]
        drawn = [
            table[torch.randint(len(table), (count,), generator=generator).to(table.device), : self.observation_dim]
            for table, count in zip(tables, counts if len(tables) == 2 else [self.settings.starts], strict=True)
        ]
        return torch.cat(drawn)
