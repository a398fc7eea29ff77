"""MOREC (Luo et al., ICLR 2024, arXiv 2310.05422): MOPO or MOBILE on rollouts filtered by a learned dynamics reward.

At each step of a rollout every elite draws some candidates; one is taken by softmax(r_D / kappa), and where r_D of the
one taken is below the threshold the rollout ends with it. r_D filters only: it is never added to the task's reward.

    r_D = -log(1 - mean_k D_k),   D_k = sigmoid(2 clip((l_k - learner_k) / (expert_k - learner_k), 0, 1) - 1)

with l_k the logit of a snapshot k of the discriminator, and learner_k and expert_k its means over fakes and real rows.
With merged rows the ensemble learns from all of them, and the reward takes target rows as the real ones.

Where this departs from the method: fakes are drawn around the real next states at the real (s, a), half of them around
what a model of the SOURCE says there (`offdyn_agents.models.dynamics_reward.contrast`); inputs are jointly whitened and
have some noise, on HalfCheetah and Ant they are standardised. `dynamics_reward.opponent=ppo` is the published form,
rollouts of a generator that PPO trains. Candidates are scored by one network that has learned r_D
(`offdyn_agents.models.dynamics_reward.scorer`); `scorer.form=exact` asks them all. The ensemble predicts in units of a
change; a refill is 100 rollouts of 500 steps, not 2,000 of 100, and actor and temperature learn faster. `form=paper` is
all of the published form.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from offdyn_agents.algorithms.mobile import MOBILE, MOBILESettings
from offdyn_agents.algorithms.model_based import ModelBasedSAC
from offdyn_agents.algorithms.mopo import MOPO, MOPOSettings
from offdyn_agents.engine.rollouts import RunView
from offdyn_agents.engine.settings import Belongs, setting
from offdyn_agents.engine.stages import StageContext, StageResults
from offdyn_agents.models.dynamics_reward.discriminator import DynamicsReward
from offdyn_agents.models.dynamics_reward.filtering import RewardFilter
from offdyn_agents.models.dynamics_reward.settings import DynamicsRewardSettings, ScorerSettings
from offdyn_agents.models.ensemble.model import Ensemble
from offdyn_agents.models.ensemble.rollouts import Proposer, RolloutModel
from offdyn_envs.errors import OffDynError

__all__ = ["MOREC", "FilterSettings", "Judged", "MORECMobile", "MORECMobileSettings", "MORECSettings"]


@dataclass(frozen=True)
class FilterSettings:
    """Settings of filtered rollouts; they go before those of the agent whose rollouts are filtered.

    Attributes:
        horizon: Most steps of a rollout.
        starts: Rollouts of one refill.
        draws: Candidates of each elite.
        candidate_bound: Bound of the size of every number of a candidate (r, s').
        temperature: kappa of the choice among candidates; 0 takes the one with the highest reward.
        threshold: A rollout ends where r_D of the candidate taken is lower; 0 ends none (ablation).
        filtered: Whether r_D chooses among candidates; otherwise one is taken at random (ablation).
        drop_refused: Leave out the transition with which the threshold ends a rollout, instead of storing it as the
            end of an episode, which is a penalty in disguise.
        discriminators: Discriminators in the reward, of the last 400 snapshots: 40 are every 10th, 10 are every 40th,
            1 is the last alone (ablation). "nce" has ten, of the second half of its steps.
        dynamics_reward: The reward's own settings.
        scorer: What scores candidates in rollouts.
    """

    horizon: int = setting(100, low=1)
    starts: int = setting(2000, low=2)
    draws: int = setting(2, low=1)
    candidate_bound: float = setting(25.0, low=0.0, open_low=True, infinite=True)
    temperature: float = setting(0.1, low=0.0, per_run=True)
    threshold: float = setting(0.6, low=0.0)
    filtered: bool = setting(True)
    drop_refused: bool = setting(False)
    discriminators: int = setting(40, low=1)
    dynamics_reward: DynamicsRewardSettings = field(default_factory=DynamicsRewardSettings)
    scorer: ScorerSettings = field(default_factory=ScorerSettings)
    BELONGS: ClassVar[Belongs] = {
        f"dynamics_reward.{name}": {"dynamics_reward.opponent": ("nce",)}
        for name in ("inputs", "eigenvalue_floor", "input_noise", "source_fakes", "updates")
    }


@dataclass(frozen=True)
class MORECSettings(FilterSettings, MOPOSettings):
    """Settings of MOREC with MOPO's penalty."""


@dataclass(frozen=True)
class MORECMobileSettings(FilterSettings, MOBILESettings):
    """Settings of MOREC with MOBILE's penalty.

    Attributes:
        deterministic_backup: Leave the entropy out of the critics' targets.
        discriminators: Discriminators in the reward.
    """

    deterministic_backup: bool = setting(False)
    discriminators: int = setting(10, low=1)


@dataclass(frozen=True)
class Judged:
    """What the stages give a run.

    Attributes:
        ensemble: Its own.
        reward: Usable discriminators, the same for all seeds, or a scorer of its own.
    """

    ensemble: Ensemble
    reward: DynamicsReward


class _Filtered(ModelBasedSAC):
    """Rollouts that a dynamics reward filters."""

    settings: MORECSettings | MORECMobileSettings  # pyright: ignore[reportIncompatibleVariableOverride]

    def stages(self, context: StageContext) -> StageResults:
        """Train an ensemble for each seed, and one dynamics reward for all of them."""
        from offdyn_agents.models.dynamics_reward.stage import fit_dynamics_reward

        results = super().stages(context)
        real = context.target if len(context.target) else context.source
        kept = fit_dynamics_reward(
            self.settings.dynamics_reward,
            context.layout,
            real,
            context.cache,
            source=context.source if len(context.target) else None,
            terminated=context.terminated,
            threads=context.threads,
            compiled=context.compiled,
            quiet=context.quiet,
        )
        thinned, failed, told = kept.thinned(self.settings.discriminators), dict(results.failed), dict[str, Any]()
        try:
            reward = thinned.usable(self.settings.dynamics_reward)
        except OffDynError as error:
            # The runs of other tasks go on, so that none of these may be given up by raising.
            reward, failed = thinned, dict.fromkeys(range(len(context.seeds)), str(error))
        else:
            told["real_transitions_that_pass"] = self._pass(reward, real, context)
        judged = [Judged(ensemble, reward) for ensemble in results.results]
        sound = [place for place in range(len(judged)) if place not in failed]
        if sound and self.settings.scorer.form == "distilled":
            told |= self._distil(judged, sound, context)
        report = {**results.report, "discriminators": int(thinned.able.sum()), **told}
        return replace(results, results=judged, report=report, failed=failed)

    def _distil(self, judged: list[Judged], places: Sequence[int], context: StageContext) -> dict[str, Any]:
        """Give the seeds at some places scorers of their own, and return how well these do."""
        from offdyn_agents.models.dynamics_reward.scorer import fit_scorers

        found = fit_scorers(
            self.settings.scorer,
            context.layout,
            [table for table in (context.source, context.target) if len(table)],
            judged[places[0]].reward,
            [self.proposer(judged[place].ensemble) for place in places],
            [context.seeds[place] for place in places],
            context.cache,
            threads=context.threads,
            quiet=context.quiet,
        )
        for place, (scorer, _) in zip(places, found, strict=True):
            judged[place] = replace(judged[place], reward=scorer)
        return {f"scorer_{key}": [facts[key] for _, facts in found] for key in found[0][1]}

    def proposer(self, ensemble: Ensemble) -> Proposer:
        """Return what draws the candidates of an ensemble."""
        settings = self.settings
        return Proposer(ensemble, settings.elites, settings.draws, settings.candidate_bound)

    def _pass(self, reward: DynamicsReward, real: Tensor, context: StageContext) -> float | None:
        """Return how many of the held-out real transitions the filter lets pass, and say so where these are few."""
        from offdyn_agents.models.dynamics_reward.conditions import SHARE
        from offdyn_agents.models.dynamics_reward.stage import real_share

        threshold = self.settings.threshold
        share = real_share(reward, context.layout, real, threshold)
        if share is not None and share < SHARE and not context.quiet:
            print(
                f"{self.name}: {share:.1%} of held-out real transitions have a dynamics reward of {threshold:g}, not "
                f"the {SHARE:.0%} that the method wants: rollouts will end where nothing is wrong",
                file=sys.stderr,
                flush=True,
            )
        return share

    def world(self, run: RunView) -> RolloutModel:
        """Return the ensemble with several candidates, of which the reward takes one or none."""
        settings, judged = self.settings, run.stages
        temperature = float(self.number(run.params, "temperature"))
        return replace(
            super().world(replace(run, stages=judged.ensemble)),
            propose=self.proposer(judged.ensemble),
            choose=RewardFilter(
                judged.reward, temperature, settings.threshold, settings.filtered, products=run.products
            ),
            drop_refused=settings.drop_refused,
        )

    def refill(self, run: RunView, generator: torch.Generator) -> Tensor:
        """Roll the policy out, and say how long rollouts were; see `ModelBased.refill`."""
        rows = super().refill(run, generator)
        run.report.update(length=len(rows) / self.settings.starts)
        return rows


class MOREC(_Filtered, MOPO):
    """MOPO on filtered rollouts."""

    name = "morec"
    settings_class = MORECSettings
    settings: MORECSettings  # pyright: ignore[reportIncompatibleVariableOverride]


class MORECMobile(_Filtered, MOBILE):
    """MOBILE on filtered rollouts."""

    name = "morec-mobile"
    settings_class = MORECMobileSettings
    settings: MORECMobileSettings  # pyright: ignore[reportIncompatibleVariableOverride]
