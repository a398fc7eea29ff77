"""MOBODY (arXiv 2506.08460): rollouts in target dynamics learned from both domains; imitation weighted by Q.

Dynamics of the target are learned from both domains (`models/dual`), source rewards are corrected by DARA's classifiers
(`models/classifiers`), and the policy is rolled out in the learned target. TD3-like critics learn from all of these
rows; the actor climbs the smaller of them and imitates the data's actions, the more where Q is high:

    s' = s + D (phi_T(z + psi(z, a)) - phi_T(z)),    z the encoded s, D the scale of a change, psi of source or target;
    y = r + gamma m min_j Q'_j(s', pi(s')),    rewards of rollouts r - beta u(s, a);
    max over pi of lambda E Q(s, pi(s)) - bc E w (pi(s) - a)^2.

The paper leaves open which of the two critics judges the actor: here it is min(Q1, Q2) wherever Q stands without an
index. Ours departs from it in the dynamics, which predict changes (`models/dual/model`), and in u, which is measured in
units of a change, so that beta and the limit mean the same on every robot; and in cloning, where target rows lead, with
the public code's weights, and rates fall. What was published is `form=paper` and nothing less: eight settings together.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from offdyn_agents.algorithms.iql import expectile_loss, mean_of_domains
from offdyn_agents.engine.agent import AgentSettings
from offdyn_agents.engine.networks import Network, Params, detached, policy, twin, value
from offdyn_agents.engine.rollouts import ModelBased, RunView
from offdyn_agents.engine.rows import Batch, RowColumns, RowCounts
from offdyn_agents.engine.settings import Belongs, setting
from offdyn_agents.models.classifiers import CorrectionSettings
from offdyn_agents.models.dual.rollouts import Imagined
from offdyn_agents.models.dual.settings import DualDynamicsSettings

if TYPE_CHECKING:
    from offdyn_agents.engine.stages import StageContext, StageResults

__all__ = ["BY_UNIT", "MOBODY", "MOBODYSettings", "imitation_weights"]

BY_UNIT = {
    "changes": {"beta": 1.0, "uncertainty_limit": 1.0},
    "paper": {"beta": 0.1, "uncertainty_limit": 10.0},
    "code": {"beta": 0.1, "uncertainty_limit": 10.0},
}
"""What weight and limit of the uncertainty are that are left to its unit."""
FEW = 0.1
"""A refill that keeps a smaller share of its rows is told of."""


@dataclass(frozen=True)
class MOBODYSettings(AgentSettings):
    """Settings of MOBODY: this suite's form, and the switches back to the paper's (`form=paper`) and its code's.

    Attributes:
        data: Always "merged": the method is about two domains.
        batch_size: Rows of both datasets in a batch where `target_ratio` is 1; half of it are source rows.
        target_ratio: Target rows of a batch for each source row.
        fake_ratio: Rows of model rollouts of a batch for each source row.
        discount: gamma.
        polyak: Share of the critics that enters their averaged copies at each update.
        q_scale: lambda is this over mean |Q(s, pi(s))|, the mean over all rows of a batch, rollouts too: those on which
            the actor climbs min(Q1, Q2).
        bc: Weight of imitation.
        bc_weight: w of (pi(s) - a)^2. "paper": exp(Q(s, pi(s)) / mean |Q|). "code": exp(3 Q(s, a) / mean |Q|). "plain":
            1 (ablation). "awr": exp(3 (Q(s, a) - V(s))) with IQL's V (ablation). Q is min(Q1, Q2), and mean |Q| is over
            the rows of both datasets in a batch, without rollouts: those that are imitated.
        target_share: Weight of target rows in imitation; .5 is the mean over all rows, as published.
        decay: "cosine" lets the rates of actor and critics fall to 0 over the training, "none" leaves them as they are.
        temperature: The 3 of "code" and "awr".
        weight_clip: Largest w.
        expectile: tau of V's regression ("awr").
        beta: Weight of the uncertainty u, which lowers the rewards of rollouts; by default 1 where u is in units of a
            change, else .1.
        uncertainty: "changes" measures u as the root mean square over dimensions, each in units of its change. "paper"
            measures it as a distance between states, "code" leaves the last of their dimensions out: where a change is
            of length 10 (walker2d), beta=1 and a limit of 1 are the published .1 and 10.
        uncertainty_limit: Rows with a larger u are dropped, and so is what would follow them; by default 1 where u is
            in units of a change, else 10.
        refill_every: Updates between two refills.
        source_starts: Rollouts of a refill that start at states of source rows.
        target_starts: Likewise of target rows.
        source_length: Most steps of the former.
        target_length: Most steps of the latter.
        relabel: Also add the actions of those source rows, with outcomes as the target would have them.
        capacity: Rows of rollouts that are kept.
        dara: The domain classifiers' own settings.
        dynamics: The dynamics' own settings.
    """

    data: str = setting("merged", choices=("merged",))
    target_ratio: float = setting(1.0, low=0.0, high=100.0, open_low=True)
    fake_ratio: float = setting(0.5, low=0.0, high=100.0, open_low=True)
    discount: float = setting(0.99, low=0.0, high=1.0)
    polyak: float = setting(0.005, low=0.0, high=1.0)
    q_scale: float = setting(2.5, low=0.0, per_run=True)
    bc: float = setting(1.0, low=0.0, per_run=True)
    bc_weight: str = setting("paper", choices=("paper", "code", "plain", "awr"))
    target_share: float = setting(0.5, low=0.0, high=1.0)
    decay: str = setting("cosine", choices=("cosine", "none"))
    temperature: float = setting(3.0, low=0.0)
    weight_clip: float = setting(100.0, low=1.0)
    expectile: float = setting(0.7, low=0.0, high=1.0, open_low=True)
    beta: float = setting(-1.0, low=0.0, per_run=True)
    uncertainty: str = setting("changes", choices=("changes", "paper", "code"))
    uncertainty_limit: float = setting(-1.0, low=0.0, infinite=True)
    refill_every: int = setting(5000, low=1)
    source_starts: int = setting(50_000, low=0)
    target_starts: int = setting(2000, low=1)
    source_length: int = setting(1, low=1)
    target_length: int = setting(1, low=1)
    relabel: bool = setting(True)
    capacity: int = setting(1_000_000, low=1)
    dara: CorrectionSettings = field(default_factory=CorrectionSettings)
    dynamics: DualDynamicsSettings = field(default_factory=DualDynamicsSettings)
    BELONGS: ClassVar[Belongs] = {
        "temperature": {"bc_weight": ("code", "awr")},
        "weight_clip": {"bc_weight": ("paper", "code", "awr")},
        "expectile": {"bc_weight": ("awr",)},
    }

    def __post_init__(self) -> None:
        """Put the numbers of u's own unit where they are left to it."""
        for name, own in BY_UNIT[self.uncertainty].items():
            if getattr(self, name) == -1.0:
                object.__setattr__(self, name, own)


def imitation_weights(settings: MOBODYSettings, acted: Tensor, stored: Tensor, values: Tensor | None) -> Tensor:
    """Return w [*lead, n] of the n rows of the datasets, without a gradient.

    Args:
        settings: Which form.
        acted: min(Q1, Q2)(s, pi(s)), [*lead, n]; mean |Q| is over these n.
        stored: min(Q1, Q2)(s, a), [*lead, n]; likewise.
        values: V(s), [*lead, n], for "awr" only.
    """
    ceiling = math.log(settings.weight_clip)
    if settings.bc_weight == "plain":
        return torch.ones_like(stored)
    if settings.bc_weight == "awr":
        assert values is not None
        exponent = settings.temperature * (stored - values)
    elif settings.bc_weight == "code":
        exponent = settings.temperature * stored / stored.abs().mean(-1, keepdim=True)
    else:
        exponent = acted / acted.abs().mean(-1, keepdim=True)
    return exponent.detach().clamp(max=ceiling).exp()


class MOBODY(ModelBased):
    """Deterministic tanh actor and twin critics on source rows, target rows and rollouts in the learned target."""

    name = "mobody"
    settings_class = MOBODYSettings
    settings: MOBODYSettings
    metrics = ("critic_loss", "actor_loss", "imitation_loss", "q", "weight", "value_loss")
    optional = ("value_loss",)
    averaged = ("critic",)

    def __init__(self, settings: MOBODYSettings, observation_dim: int, action_dim: int) -> None:
        super().__init__(settings, observation_dim, action_dim)
        settings.dynamics.check_elites()

    @property
    def polyak(self) -> float:
        """Share of the critics that enters their averaged copies."""
        return self.settings.polyak

    @property
    def annealed(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Networks whose rates fall."""
        return tuple(self.networks()) if self.settings.decay == "cosine" else ()

    @property
    def refill_every(self) -> int:
        """Updates between two refills."""
        return self.settings.refill_every

    @property
    def capacity(self) -> int:
        """Rows of rollouts that a run keeps."""
        return self.settings.capacity

    def rows(self) -> RowCounts:
        """Return how many rows of each kind a batch holds."""
        source, settings = self.settings.batch_size // 2, self.settings
        return RowCounts(
            source, max(1, round(settings.target_ratio * source)), max(1, round(settings.fake_ratio * source))
        )

    @property
    def ratings(self) -> Mapping[str, float]:
        """What classifiers add to rewards."""
        return {"rewards": 1.0} if self.settings.dara.weight else {}

    def networks(self) -> dict[str, Network]:
        """Return twin critics and actor, and V where imitation is weighted by advantages."""
        s, a = self.observation_dim, self.action_dim
        found = {"critic": self.hidden(s + a, 1, copies=2), "actor": self.hidden(s, a)}
        return found | ({"value": self.hidden(s, 1)} if self.settings.bc_weight == "awr" else {})

    def stages(self, context: StageContext) -> StageResults:
        """Train the dynamics, and the classifiers that correct the rewards of source rows."""
        from offdyn_agents.engine.stages import StageResults
        from offdyn_agents.models.classifiers import fit_classifiers, offsets
        from offdyn_agents.models.dual.stages import fit_dynamics

        dara, layout = self.settings.dara, context.layout
        dynamics = fit_dynamics(self.settings.dynamics, context)
        failed, columns = dict(dynamics.failed), list[RowColumns]()
        if dara.weight:
            classifiers = fit_classifiers(dara, context)
            failed = classifiers.failed | failed
            columns = [RowColumns(rewards=offsets(dara, nets, layout, context.source)) for nets in classifiers]
        # JSON has no numbers for what a failed run has here.
        errors = [None if i in failed else found.errors[found.elites].tolist() for i, found in enumerate(dynamics)]
        report = {"target_holdout_error_of_elites": errors}
        return StageResults(results=dynamics, columns=columns, report=report, failed=failed)

    def loss(self, params: Mapping[str, Params], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the critics' and the actor's loss (and V's); see `Agent.loss`.

        The actor's: -lambda mean min(Q1, Q2)(s, pi(s)) over all rows, plus bc times the mean of w (pi(s) - a)^2 over
        the rows of the datasets.
        """
        settings, stored_rows = self.settings, batch.actions.shape[-2] - batch.fake_rows
        q = twin(params["critic"], batch.observations, batch.actions)
        critic_loss = (self.targets(params, batch).unsqueeze(-2) - q).square().mean(-1).sum(-1)

        actions = policy(params["actor"], batch.observations)
        acted = twin(detached(params["critic"]), batch.observations, actions).amin(-2)
        scale = self.number(params, "q_scale") / acted.detach().abs().mean(-1)
        stored = q.detach().amin(-2)[..., :stored_rows]
        value_loss, values = torch.zeros_like(scale), None
        if settings.bc_weight == "awr":
            best = twin(params["critic_target"], batch.observations, batch.actions).amin(-2).detach()
            v = value(params["value"], batch.observations)
            value_loss = expectile_loss(best - v, settings.expectile).mean(-1)
            values, stored = v.detach()[..., :stored_rows], best[..., :stored_rows]
        weights = imitation_weights(settings, acted.detach()[..., :stored_rows], stored, values)
        errors = (actions - batch.actions)[..., :stored_rows, :].square().mean(-1)
        imitation_loss = mean_of_domains(weights * errors, batch.source_rows, settings.target_share)
        actor_loss = -scale * acted.mean(-1) + self.number(params, "bc") * imitation_loss

        parts = (critic_loss, actor_loss, imitation_loss, q.mean((-2, -1)), weights.mean(-1), value_loss)
        found = {name: part.detach() for name, part in zip(self.metrics, parts, strict=True)}
        if values is None:
            del found["value_loss"]
        return critic_loss + actor_loss + value_loss, found

    def targets(self, params: Mapping[str, Params], batch: Batch) -> Tensor:
        """Return r + gamma m min Q'(s', pi(s')), [*lead, B], without a gradient."""
        with torch.no_grad():
            following = policy(params["actor"], batch.next_observations)
            best = twin(params["critic_target"], batch.next_observations, following).amin(-2)
            return (batch.rewards + self.settings.discount * batch.continues * best).detach()

    def refill(self, run: RunView, generator: torch.Generator) -> Tensor:
        """Roll the policy out in the learned target, and relabel source rows; see `ModelBased.refill`."""
        settings, layout = self.settings, run.layout
        source, target = (
            layout.split(rows[torch.randint(len(rows), (count,), generator=generator).to(rows.device)])
            for rows, count in ((run.source, settings.source_starts), (run.target, settings.target_starts))
        )
        beta = self.number(run.params, "beta")
        made = Imagined(run, beta, settings.uncertainty, settings.uncertainty_limit, generator)
        made.roll_out("source", partial(self.act, run.params), source[0], settings.source_length)
        made.roll_out("target", partial(self.act, run.params), target[0], settings.target_length)
        if settings.relabel and settings.source_starts:
            made.step("relabelled", source[0], source[1])
        rows = torch.cat(made.parts)
        if len(rows) < FEW * made.tried:
            told = f"{len(rows):,} of {made.tried:,} rows of rollouts in the model have u of at most"
            limit = f"uncertainty_limit={settings.uncertainty_limit:g} (uncertainty={settings.uncertainty})"
            print(f"mobody seed {run.seed}, {run.updates:,} updates: {told} {limit}", file=sys.stderr, flush=True)
        return rows
