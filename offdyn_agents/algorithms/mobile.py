"""MOBILE (Sun et al., 2023): model-based SAC, penalised where models disagree on the Bellman backup.

With Q' the smaller of the averaged critics, the penalty of a rollout's row is u = std over elites of the mean over
samples of Q'(s', a'), where s' is drawn from the elite at (s, a) and a' from the policy. Targets are
max(0, r - beta u + gamma m Q'(s', a')), with u = 0 on real rows.

`value_bounds=rewards`, which is ours, clips Q'(s', a') in targets to what the data's rewards allow. Without it policies
may find actions of which critics say ever more: in MICRO under five times gravity Q passed 1,600.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from offdyn_agents.algorithms import returns
from offdyn_agents.algorithms.model_based import ModelBasedSAC, ModelBasedSettings
from offdyn_agents.algorithms.sac import SAC
from offdyn_agents.engine.networks import Params
from offdyn_agents.engine.rows import Batch
from offdyn_agents.engine.settings import setting
from offdyn_agents.engine.stages import StageContext, StageResults
from offdyn_agents.models.ensemble.model import gaussians

__all__ = ["MOBILE", "MOBILESettings"]

BLOCK = 2048
"""States judged at a time: their hidden layers stay in a core's cache, which is faster in bf16."""


@dataclass(frozen=True)
class MOBILESettings(ModelBasedSettings):
    """Settings of MOBILE.

    Attributes:
        beta: Weight of the penalty u.
        samples: Next states that each elite draws for u.
        deterministic_backup: Leave the entropy out of the critics' targets.
        actor_critics: With two critics the averaged copies judge the actor.
        value_bounds: "rewards" clips Q'(s', a') in targets to [min(0, smallest reward), max(0, largest)] / (1 - gamma);
            "none" does not.
    """

    beta: float = setting(0.5, low=0.0, per_run=True)
    samples: int = setting(10, low=1)
    deterministic_backup: bool = setting(True)
    actor_critics: str = setting("target", choices=("online", "target"))
    value_bounds: str = setting("rewards", choices=("rewards", "none"))


class MOBILE(ModelBasedSAC):
    """SAC on rollouts whose targets carry the Bellman inconsistency of the elites.

    A row's noise goes on after SAC's with [elites, samples, |S| + |A|] numbers: next states, then actions in them.
    """

    name = "mobile"
    settings_class = MOBILESettings
    settings: MOBILESettings  # pyright: ignore[reportIncompatibleVariableOverride]
    metrics = (*SAC.metrics, "penalty")

    @property
    def noise_width(self) -> int:
        """Standard normal numbers that a row needs."""
        draws = self.settings.elites * self.settings.samples
        return super().noise_width + draws * (self.observation_dim + self.action_dim)

    def stages(self, context: StageContext) -> StageResults:
        """Train an ensemble for each seed; the loss reads its elites."""
        results = super().stages(context)
        elites = [ensemble.elites(self.settings.elites).in_raw_units() for ensemble in results.results]
        frozen = [[elite.mean, elite.std, *elite.params] for elite in elites]
        return replace(results, frozen={"elites": [torch.stack(tensors) for tensors in zip(*frozen, strict=True)]})

    def targets(self, params: Mapping[str, Params], batch: Batch, alpha: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return SAC's targets less beta u on rollouts' rows, none below 0; see `SAC.targets`."""
        targets, _ = super().targets(params, batch, alpha)
        penalty = self.inconsistency(params, batch)
        real, fake = targets.split([targets.shape[-1] - batch.fake_rows, batch.fake_rows], dim=-1)
        targets = torch.cat([real, fake - self.number(params, "beta", 1) * self.charged(batch, penalty)], dim=-1)
        return targets.clamp(min=0.0), {"penalty": penalty.mean(-1)}

    def facts(self, context: StageContext) -> dict[str, Params]:
        """Return the bounds of values, where they are wanted."""
        if self.settings.value_bounds == "none":
            return {}
        return returns.value_facts(context, scaled=False, bounded=True, discount=self.settings.discount)

    def told(self, facts: Mapping[str, Params]) -> dict[str, Any]:
        """Return the bounds of values."""
        return returns.told(facts)

    def bounded(self, params: Mapping[str, Params], values: Tensor) -> Tensor:
        """Return next values [*lead, B] inside what rewards allow, where that is wanted."""
        return values if self.settings.value_bounds == "none" else returns.clipped(params, values)

    def charged(self, batch: Batch, penalty: Tensor) -> Tensor:
        """Return what beta is multiplied with in a target, of u [*lead, fake rows]: u itself."""
        del batch
        return penalty

    def spread(self, values: Tensor) -> Tensor:
        """Return u of the elites' values [..., elites]: their standard deviation as a sample's, over elites - 1."""
        return values.std(-1)

    def inconsistency(self, params: Mapping[str, Params], batch: Batch) -> Tensor:
        """Return u [*lead, fake rows]."""
        assert batch.noise is not None
        rows, elites, samples = batch.fake_rows, self.settings.elites, self.settings.samples
        mean, std, *members = params["elites"]
        _, means, variances = gaussians(
            members, mean, std, batch.observations[..., -rows:, :], batch.actions[..., -rows:, :]
        )
        noise = batch.noise[..., -rows:, super().noise_width :].unflatten(-1, (elites, samples, -1))
        drawn, following = noise.split([self.observation_dim, self.action_dim], dim=-1)
        # Rows before elites, as in the noise.
        means, stds = (part.transpose(-3, -2).unsqueeze(-2) for part in (means, variances[..., 1:].sqrt()))
        states, following = (part.flatten(-4, -2).split(BLOCK, -2) for part in (means + stds * drawn, following))
        values = torch.cat([self.judged(params, *block)[0] for block in zip(states, following, strict=True)], dim=-1)
        return self.spread(values.unflatten(-1, (rows, elites, samples)).mean(-1))
