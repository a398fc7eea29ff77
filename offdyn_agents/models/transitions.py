"""Small models of the target's transitions: next state, reward, and the action that leads from one state to another.

Each is one network, trained on target rows alone until its own error on held-out rows says stop. What they read and
answer is in the target's units: states, changes s' - s and rewards standardised with the moments of target rows,
actions as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from offdyn_agents.engine.networks import Network, Params, mlp, policy
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.settings import setting
from offdyn_agents.engine.stage_cache import Fitted
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.models.short_training import Nets, ShortTraining, fit

__all__ = ["TransitionSettings", "Units", "change", "fit_transitions", "inverse", "networks", "reward"]

EPSILON = 1e-6
"""Smallest standard deviation: what never changes is not blown up."""


@dataclass(frozen=True)
class TransitionSettings:
    """How the three networks are trained.

    Attributes:
        updates: Most updates.
        patience: Hundreds of updates without a gain of 1% on held-out rows after which training ends.
        holdout: Share of the target rows that is held out.
        batch_size: Target rows of one batch.
        width: Width of the two hidden layers.
        learning_rate: Adam's step size.
    """

    updates: int = setting(20_000, low=1)
    patience: int = setting(10, low=1)
    holdout: float = setting(0.1, low=0.0, high=0.5)
    batch_size: int = setting(256, low=1)
    width: int = setting(256, low=1)
    learning_rate: float = setting(1e-3, low=0.0, open_low=True)


@dataclass(frozen=True)
class Units:
    """Moments of target rows: mean and standard deviation of states [|S|], changes [|S|] and rewards []."""

    states: tuple[Tensor, Tensor]
    changes: tuple[Tensor, Tensor]
    rewards: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, layout: Layout, rows: Tensor) -> Units:
        """Return those of packed rows [N, W]."""
        states, _, following, rewards, _ = layout.split(rows)
        return cls(_moments(states), _moments(following - states), _moments(rewards))

    def table(self, layout: Layout, rows: Tensor) -> Tensor:
        """Return packed rows [N, W] in these units; the change stands in the place of the next state."""
        states, actions, following, rewards, continues = layout.split(rows)
        change = _scaled(following - states, self.changes)
        parts = (_scaled(states, self.states), actions, change, _scaled(rewards, self.rewards))
        return layout.join(*parts, continues == 0.0)


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.mean(0), values.std(0, correction=0).clamp(min=EPSILON)


def _scaled(values: Tensor, moments: tuple[Tensor, Tensor]) -> Tensor:
    return (values - moments[0]) / moments[1]


def networks(settings: TransitionSettings, layout: Layout) -> dict[str, Network]:
    """Return the networks "change" and "reward" of (s, a), and "inverse" of s and the change."""
    s, a, width = layout.observation_dim, layout.action_dim, settings.width
    sizes = {"change": (s + a, s), "reward": (s + a, 1), "inverse": (2 * s, a)}
    return {name: Network((inputs, width, width, outputs)) for name, (inputs, outputs) in sizes.items()}


def change(nets: Mapping[str, Params], states: Tensor, actions: Tensor) -> Tensor:
    """Return the predicted change [n, |S|] of states [n, |S|] by actions [n, |A|], all in the target's units."""
    return mlp(nets["change"], torch.cat([states, actions], dim=-1))


def reward(nets: Mapping[str, Params], states: Tensor, actions: Tensor) -> Tensor:
    """Return the predicted reward [n] of states and actions, likewise."""
    return mlp(nets["reward"], torch.cat([states, actions], dim=-1)).squeeze(-1)


def inverse(nets: Mapping[str, Params], states: Tensor, changes: Tensor) -> Tensor:
    """Return the actions [n, |A|], in (-1, 1), that change states [n, |S|] by changes [n, |S|], likewise."""
    return policy(nets["inverse"], torch.cat([states, changes], dim=-1))


def training(settings: TransitionSettings, layout: Layout, name: str) -> ShortTraining:
    """Return how the network of this name is trained on rows in the target's units, by its squared errors."""

    def loss(nets: Nets, source: Tensor, target: Tensor, noises: list[Tensor]) -> Tensor:
        del source, noises
        states, actions, changes, rewards, _ = layout.split(target)
        found, wanted = {
            "change": lambda: (change(nets, states, actions), changes),
            "reward": lambda: (reward(nets, states, actions), rewards),
            "inverse": lambda: (inverse(nets, states, changes), actions),
        }[name]()
        return (found - wanted).square().mean()

    return ShortTraining(
        f"transitions {name}",
        f"transition models: {name}",
        {name: networks(settings, layout)[name]},
        loss,
        settings.updates,
        0,
        settings.batch_size,
        settings.learning_rate,
        holdout=settings.holdout,
        patience=settings.patience,
    )


def fit_transitions(settings: TransitionSettings, context: StageContext, units: Units) -> Fitted[Nets]:
    """Train or find the three networks of each seed, one after the other, and tell which seeds diverged.

    Args:
        settings: How they are trained.
        context: Rows, seeds, cache and hardware.
        units: Of the target rows.
    """
    given = replace(context, target=units.table(context.layout, context.target))
    names = networks(settings, context.layout)
    found = [fit(training(settings, context.layout, name), settings, given) for name in names]
    failed = {place: why for part in found for place, why in part.failed.items()}
    return Fitted([{**one, **two, **three} for one, two, three in zip(*found, strict=True)], failed)
