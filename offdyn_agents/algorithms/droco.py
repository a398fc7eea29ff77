"""DROCO (arXiv 2512.02486): IQL against the worst case of an ensemble of target dynamics, with a Huber loss.

Target rows get IQL's in-sample target. Source rows get the worst next state of a ball around s', approximated by the
predictions of an ensemble trained on target rows: with u = V(s') - min_i V(s'_i), their target is
r + gamma m (V(s') - beta u), fitted with a Huber loss. beta = 0 and delta = inf is IQL on the merged rows.

Two properties that the paper's proofs need are kept here by construction, where the published form only assumes them
(`form=paper`): values stay inside what the data's rewards allow (`value_bounds`), and the ball has a finite radius and
holds its centre (`radius`, `penalty_clamp`). Without them V falls without end where the ensemble is wrong. Beside these
the ensemble predicts in units of a change at a rate that falls, and rewards are scaled as in IQL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from offdyn_agents.algorithms.iql import IQL, IQLSettings
from offdyn_agents.engine.networks import Params, policy, twin, value
from offdyn_agents.engine.rows import Batch, Layout
from offdyn_agents.engine.settings import Belongs, setting, setting_names
from offdyn_agents.models.dual.settings import DualDynamicsSettings
from offdyn_agents.models.ensemble.settings import DynamicsSettings
from offdyn_envs.errors import OffDynError

if TYPE_CHECKING:
    from offdyn_agents.engine.stage_cache import Fitted
    from offdyn_agents.engine.stages import StageContext, StageResults

__all__ = ["DROCO", "DROCOSettings", "huber"]


def _names(group: str, kind: type[Any], but: Sequence[str] = ()) -> list[str]:
    return [f"{group}.{name}" for name in setting_names(kind) if name not in but]


@dataclass(frozen=True)
class DROCOSettings(IQLSettings):
    """Settings of DROCO: this suite's form, and the switches back to the paper's (`form=paper`) and its code's.

    Attributes:
        data: Always "merged": the method is about the two kinds of rows.
        beta: Weight of the penalty u on source rows; the presets give each robot its own.
        delta: Where the Huber loss turns linear; "inf" for the squared loss.
        robust_min: "value" takes min_i V(s'_i) (paper), "q" takes min_i Q(s'_i, pi(s'_i)), "coordinate" takes V at the
            element-wise minimum over members of mean + variance (public code).
        penalty_clamp: Clamp u at 0 from below (public code): the ball holds s' itself, so that its worst state is never
            better than s'. Predictions alone may all be better, and u is then a bonus.
        radius: rho, the largest distance of s'_i from s' in each dimension, in units of that dimension's root mean
            squared change on target rows: the radius of the ball (paper, Proposition 4.2). "inf" for predictions as
            they come.
        huber_on: "source" rows (paper), or "both" for one Huber mean over all rows.
        ensemble: Whose next states the ball has: "gaussian" models of target rows alone (the published one), or
            "dual", MOBODY's dynamics of the target learned from both domains: on source rows, where the penalty counts,
            the former know nothing.
        dynamics: The Gaussian ensemble's own settings.
        dual: The dual dynamics' own settings.
    """

    data: str = setting("merged", choices=("merged",))
    beta: float = setting(1.0, low=0.0, per_run=True)
    delta: float = setting(30.0, low=0.0, open_low=True, infinite=True, per_run=True)
    robust_min: str = setting("value", choices=("value", "q", "coordinate"))
    penalty_clamp: bool = setting(True)
    radius: float = setting(1.0, low=0.0, infinite=True)
    huber_on: str = setting("source", choices=("source", "both"))
    ensemble: str = setting("gaussian", choices=("gaussian", "dual"))
    dynamics: DynamicsSettings = field(default_factory=DynamicsSettings)
    dual: DualDynamicsSettings = field(default_factory=DualDynamicsSettings)
    BELONGS: ClassVar[Belongs] = {
        # The limit of memory is for predictions of both kinds.
        **{name: {"ensemble": ("gaussian",)} for name in _names("dynamics", DynamicsSettings, but=("memory_gb",))},
        **{name: {"ensemble": ("dual",)} for name in _names("dual", DualDynamicsSettings)},
    }

    def __post_init__(self) -> None:
        """Refuse what the two kinds of models cannot do together."""
        if self.ensemble == "dual" and self.robust_min == "coordinate":
            raise OffDynError("setting robust_min is 'coordinate', which needs variances; ensemble=gaussian is allowed")


def huber(errors: Tensor, delta: float | Tensor) -> Tensor:
    """Return .5 e^2 where |e| <= delta and delta (|e| - delta / 2) elsewhere.

    Written with the clipped error c as c (e - c / 2), which has no infinite branch at delta = inf.
    """
    bound: Any = delta
    clipped = errors.clamp(-bound, bound)
    return clipped * (errors - 0.5 * clipped)


class Ball:
    """The box around s' in which the worst next state is looked for.

    Args:
        layout: Layout of packed rows.
        target: Packed target rows [M, W].
        radius: Half its side, in units of each dimension's root mean squared change on these.
    """

    def __init__(self, layout: Layout, target: Tensor, radius: float) -> None:
        observations, _, following, *_ = layout.split(target)
        self._layout, self._open = layout, math.isinf(radius)
        self._reach = radius * (following - observations).square().mean(0).sqrt()

    def clip(self, rows: Tensor, predicted: Tensor) -> Tensor:
        """Move predicted next states [N, members, |S|] of packed rows [N, W] into the ball, in place; return them."""
        if not self._open:
            following = self._layout.split(rows)[2].unsqueeze(-2)
            torch.clamp(predicted, following - self._reach, following + self._reach, out=predicted)
        return predicted


class DROCO(IQL):
    """IQL with the robust target and the Huber loss on source rows."""

    name = "droco"
    family = "model-based"
    settings_class = DROCOSettings
    settings: DROCOSettings  # pyright: ignore[reportIncompatibleVariableOverride]
    metrics = (*IQL.metrics, "penalty", "bonus")

    def stages(self, context: StageContext) -> StageResults:
        """Train the models, and predict beforehand for all source rows where that is less work than on the way."""
        from offdyn_agents.engine.resources import room
        from offdyn_agents.engine.stages import StageResults
        from offdyn_agents.models.ensemble.model import prediction_bytes
        from offdyn_agents.models.ensemble.stages import predict_all

        fitted, shape, widths = self._models(context)
        ball = Ball(context.layout, context.target, self.settings.radius)
        predictors = [partial(self._predict, context.layout, ball, model) for model in fitted]
        needed = context.population * prediction_bytes(len(context.source), *shape)
        worth_it = context.updates * self.rows().source >= len(context.source)
        predicted: list[Tensor] = []
        if worth_it and needed <= room(context.source.device, self.settings.dynamics.memory_gb):
            threads, quiet = context.threads, context.quiet
            predicted = predict_all(predictors, context.source, shape, widths, threads=threads, quiet=quiet)
        return StageResults(predicted=predicted, predictors=predictors, failed=fitted.failed)

    def _models(self, context: StageContext) -> tuple[Fitted[Any], tuple[int, int], tuple[int, ...]]:
        """Return each run's models of the target, how many next states of |S| numbers they give, and their widths."""
        from offdyn_agents.models.dual.stages import fit_dynamics
        from offdyn_agents.models.ensemble.stages import fit_in_context

        settings, layout = self.settings, context.layout
        sizes, inputs = layout.observation_dim, layout.observation_dim + layout.action_dim
        if settings.ensemble == "dual":
            dual = settings.dual
            return fit_dynamics(dual, context), (dual.members, sizes), (dual.width, sizes, dual.latent, inputs)
        dynamics = settings.dynamics
        fitted = fit_in_context(dynamics, context.target, context)
        members = 1 if settings.robust_min == "coordinate" else dynamics.members
        return fitted, (members, sizes), (dynamics.width, inputs)

    def _predict(self, layout: Layout, ball: Ball, model: Any, rows: Tensor) -> Tensor:
        """Return the next states [N, members, |S|] of the ball that one run's models name for packed rows [N, W]."""
        with torch.no_grad():
            words = () if self.settings.ensemble == "dual" else (self.settings.robust_min,)
            return ball.clip(rows, model.next_states(layout, rows, *words))

    def targets(self, params: Mapping[str, Params], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return r + gamma m (V(s') - beta u) on source rows and r + gamma m V(s') on target rows; as `IQL`."""
        v_next, worst, outside = self._next_values(params, batch)
        penalty = v_next[..., : batch.source_rows] - worst
        bonus = (penalty < 0.0).float().mean(-1)
        if self.settings.penalty_clamp:
            penalty = penalty.clamp(min=0.0)
        beta = torch.as_tensor(self.number(params, "beta", 1), device=penalty.device)
        robust = v_next[..., : batch.source_rows] - beta * penalty
        # Up to beta = 1 it lies between two bounded values.
        robust = torch.where(beta > 1.0, self.bounded(params, robust), robust)
        v_next = torch.cat([robust, v_next[..., batch.source_rows :]], dim=-1)
        targets = batch.rewards + self.settings.discount * batch.continues * v_next
        return targets, {"penalty": penalty.mean(-1) / self.scale(params), "bonus": bonus} | outside

    def _next_values(self, params: Mapping[str, Params], batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return V(s') [*lead, B], the worst value of the predicted next states [*lead, source rows], and metrics."""
        assert batch.predicted is not None
        count, members = batch.predicted.shape[-3], batch.predicted.shape[-2]
        predicted = batch.predicted.flatten(-3, -2)
        if self.settings.robust_min == "q":
            values = twin(params["critic_target"], predicted, policy(params["actor"], predicted)).amin(-2)
            v_next = value(params["value"], batch.next_observations)
            worst = values.unflatten(-1, (count, members)).amin(-1)
            return self.bounded(params, v_next), self.bounded(params, worst), self.outside(params, v_next)
        # One product for the stored and the predicted next states.
        states = torch.cat([batch.next_observations, predicted], dim=-2)
        free = value(params["value"], states)
        values, rows = self.bounded(params, free), batch.next_observations.shape[-2]
        worst = values[..., rows:].unflatten(-1, (count, members)).amin(-1)
        return values[..., :rows], worst, self.outside(params, free)

    def critic_loss(self, params: Mapping[str, Params], errors: Tensor, batch: Batch) -> Tensor:
        """Return mean_src Huber + mean_tar .5 e^2, summed over critics [*lead], of errors [*lead, 2, B]."""
        # delta is in units of the data's rewards.
        delta = self.number(params, "delta", 2) * self.scale(params, 2)
        if self.settings.huber_on == "both":
            return huber(errors, delta).mean(-1).sum(-1)
        source = huber(errors[..., : batch.source_rows], delta).mean(-1)
        target = (0.5 * errors[..., batch.source_rows :].square()).mean(-1)
        return (source + target).sum(-1)
