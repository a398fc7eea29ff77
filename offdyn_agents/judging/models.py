"""The models that are judged: how they are trained, and what they are asked.

Models are trained where other stages are and examined on the CPU: the same models have the same errors whatever trained
them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from offdyn_agents.engine.settings import setting
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.models.dual.model import DualDynamics
from offdyn_agents.models.dual.settings import DualDynamicsSettings
from offdyn_agents.models.dual.stages import fit_dynamics
from offdyn_agents.models.dynamics_reward.settings import DynamicsRewardSettings
from offdyn_agents.models.ensemble.model import Ensemble
from offdyn_agents.models.ensemble.settings import EnsembleSettings
from offdyn_agents.models.ensemble.stages import fit_in_context
from offdyn_envs.errors import OffDynError

__all__ = [
    "CPU",
    "MODELS",
    "OF_REWARD",
    "REWARD",
    "USUAL",
    "JudgeSettings",
    "Means",
    "Terms",
    "fit_gaussians",
    "fit_models",
]


@dataclass(frozen=True)
class JudgeSettings:
    """How the judged models are trained.

    Attributes:
        dynamics: MOBODY's dynamics; the models of merged and of target rows with its networks take the rest from here.
        members: Members of these that are examined: their "elites", as MOBODY asks them, or "all", as DROCO does.
        ensemble: The Gaussian ensembles.
        dynamics_reward: MOREC's reward.
        discriminators: Discriminators in it.
        threshold: Of r_D, below which rollouts end.
        elites: Members of a Gaussian ensemble, the best on held-out rows, that are examined and that propose candidates
            for the reward to judge.
        draws: Candidates of each elite.
        candidate_bound: Bound of the size of every number of a candidate.
    """

    dynamics: DualDynamicsSettings = field(default_factory=DualDynamicsSettings)
    members: str = setting("elites", choices=("elites", "all"))
    ensemble: EnsembleSettings = field(default_factory=EnsembleSettings)
    dynamics_reward: DynamicsRewardSettings = field(default_factory=DynamicsRewardSettings)
    discriminators: int = setting(40, low=1)
    threshold: float = setting(0.6, low=0.0)
    elites: int = setting(5, low=1)
    draws: int = setting(2, low=1)
    candidate_bound: float = setting(25.0, low=0.0, open_low=True, infinite=True)

    def __post_init__(self) -> None:
        """Refuse more elites than there are members."""
        if self.members == "all":
            return
        self.dynamics.check_elites()
        if self.elites > self.ensemble.members:
            most = self.ensemble.members
            raise OffDynError(f"setting elites is {self.elites}; at most ensemble.members, {most}, is allowed")


@dataclass(frozen=True)
class Terms:
    """What models are asked.

    Attributes:
        rows: Number of source rows to simulate in the target.
        source_rows: Source rows to learn from; 0 for all.
        holdout: One of `offdyn_agents.judging.exams.HOLDOUTS`.
    """

    rows: int = 20_000
    source_rows: int = 0
    holdout: str = "episodes"


MODELS = {
    "mobody": "an action encoder for each domain",
    "single": "MOBODY's networks, one action encoder, merged rows",
    "plain": "MOBODY's networks without latent states, merged rows",
    "alone": "MOBODY's networks, target rows alone",
    "merged": "Gaussian ensemble, merged rows (MOPO)",
    "target": "Gaussian ensemble, target rows alone",
    "source": "Gaussian ensemble, source rows alone",
}
USUAL = ("mobody", "single", "alone", "merged", "target")
"""Those that are judged unless others are asked for."""
REWARD = "morec"
"""What stands among names of models for MOREC's dynamics reward, which is no model but judges one."""
OF_REWARD = ("dynamics_reward", "discriminators", "threshold", "draws", "candidate_bound")
"""The settings with which an agent's dynamics reward is judged as the agent has it."""


Means = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps observations and actions [N, .] to the members' next states [K, N, |S|] and rewards [K or 1, N]."""
CPU = torch.device("cpu")


def fit_models(settings: JudgeSettings, context: StageContext, name: str) -> list[Means]:
    """Train or find one of `MODELS` for each seed.

    Args:
        settings: How.
        context: Rows to learn from, seeds, cache and hardware.
        name: Which model.

    Returns:
        The models, on the CPU.

    Raises:
        OffDynError: A training failed.
    """
    changes = {
        "mobody": {"structure": "dual", "data": "both"},
        "single": {"structure": "single", "data": "both"},
        "plain": {"structure": "plain", "data": "both"},
        "alone": {"data": "target"},
    }
    if name in changes:
        dynamics = replace(settings.dynamics, **changes[name])
        models = (DualDynamics.from_tensors(found.tensors(), CPU) for found in fit_dynamics(dynamics, context).sound())
        return [_dual(found, everyone=settings.members == "all") for found in models]
    return [_gaussian(found, settings.elites) for found in fit_gaussians(settings, context, name)]


def fit_gaussians(settings: JudgeSettings, context: StageContext, name: str) -> list[Ensemble]:
    """Train or find the Gaussian ensembles of some rows, one for each seed.

    Args:
        settings: How.
        context: Rows to learn from, seeds, cache and hardware.
        name: "merged", "target" or "source".

    Returns:
        The ensembles, on the CPU.

    Raises:
        OffDynError: A training failed.
    """
    alone = {"target": context.target, "source": context.source}
    rows = alone[name] if name in alone else torch.cat([context.source, context.target])
    ensembles = fit_in_context(settings.ensemble, rows, context, len(context.target) if name not in alone else 0)
    return [Ensemble.from_tensors(found.tensors(), CPU) for found in ensembles.sound()]


def _dual(dynamics: DualDynamics, *, everyone: bool) -> Means:
    asked = slice(None) if everyone else dynamics.elites

    def means(observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        states = dynamics.means(observations, actions)[asked]
        return states, dynamics.rewards(observations, actions, states.mean(0))

    return means


def _gaussian(ensemble: Ensemble, count: int) -> Means:
    elites = ensemble.elites(min(count, len(ensemble.ranking)))

    def means(observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        rewards, states, _ = elites.predict(observations, actions)
        return states, rewards

    return means
