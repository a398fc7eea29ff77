"""The dynamics reward r_D(s, a, s') of MOREC (arXiv 2310.05422): how real a transition looks to discriminators.

A discriminator tells real transitions from generated ones. Its snapshots over an adversarial training are the ensemble:
each one's logit is measured on the scale between its mean on generated and its mean on real transitions, and

    r_D = -log(1 - mean_k D_k),   D_k = sigmoid(y_k),   y_k = the clipped logit mapped to [-1, 1]

lies in [.313, 1.313] for every transition of every data set, which is why one threshold serves all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from offdyn_agents.engine.networks import MLPsInTurn, Network, Params, mlp
from offdyn_agents.models.dynamics_reward.inputs import Inputs, Standardised
from offdyn_agents.models.dynamics_reward.settings import DynamicsRewardSettings
from offdyn_envs.errors import OffDynError

__all__ = [
    "DynamicsReward",
    "Scaling",
    "discriminator_loss",
    "discriminator_network",
    "ensemble_reward",
    "joined",
    "range_normalised",
    "snapshot",
]

WIDTH = 256
LAYERS = 4
STATES, ACTIONS = 0.8, 1.0
"""Where the extremes of states and of actions come to lie."""
SCALES = ("centre", "scale", "change_centre", "change_scale")
CHUNK = 6144
"""Rows judged at once on a CPU: ten candidates of `offdyn_agents.models.ensemble.model.CHUNK` rows are not split."""


@dataclass(frozen=True)
class Scaling:
    """Min-max normalisation of transitions by the real rows; what does not vary there keeps its size.

    The method normalises observations and then takes (s, a, s' - s), so that a change is in the units of its state: on
    robots the changes of a step are then of the order of .01. Here, as a deviation, changes have by default a min-max
    normalisation of their own ("own"); "states" is the method's form.

    Attributes:
        centre: Middle of states and actions, [|S| + |A|].
        scale: What the difference from it is multiplied with, likewise.
        change_centre: Middle of the change s' - s, [|S|].
        change_scale: What the difference from it is multiplied with, likewise.
    """

    centre: Tensor
    scale: Tensor
    change_centre: Tensor
    change_scale: Tensor

    @staticmethod
    def of(observations: Tensor, actions: Tensor, following: Tensor, changes: str = "own") -> Scaling:
        """Return the scaling of real transitions [N, .]: states in [-.8, .8], actions in [-1, 1].

        Args:
            observations: s, [N, |S|].
            actions: a, [N, |A|].
            following: s', [N, |S|].
            changes: "own": changes in [-.8, .8] too. "states": differences of normalised states.
        """
        states = _middle(torch.cat([observations, following]), STATES)
        own = (torch.zeros_like(states[0]), states[1])
        if changes == "own":
            own = _middle(following - observations, STATES)
        centres, scales = zip(states, _middle(actions, ACTIONS), own, strict=True)
        return Scaling(torch.cat(centres[:2]), torch.cat(scales[:2]), centres[2], scales[2])

    def pairs(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Return normalised (s, a) [*shape, |S| + |A|]."""
        return (torch.cat([observations, actions], dim=-1) - self.centre) * self.scale

    def inputs(self, observations: Tensor, actions: Tensor, following: Tensor) -> Tensor:
        """Return what a discriminator sees of transitions, [*shape, 2 |S| + |A|]."""
        change = (following - observations - self.change_centre) * self.change_scale
        return torch.cat([self.pairs(observations, actions), change], dim=-1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the numbers by name."""
        return {f"scaling.{name}": getattr(self, name) for name in SCALES}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> Scaling:
        """Return the scaling that `tensors` described.

        Raises:
            KeyError: Something is missing.
        """
        return Scaling(*(tensors[f"scaling.{name}"] for name in SCALES))


def _middle(values: Tensor, half: float) -> tuple[Tensor, Tensor]:
    """Return the middle of columns, and what brings their extremes to +-half."""
    low, high = values.amin(0), values.amax(0)
    width = high - low
    scale = torch.where(width < 1e-6, torch.ones_like(width), 2.0 * half / width.clamp(min=1e-6))
    return (low + high) / 2.0, scale


def discriminator_network(observation_dim: int, action_dim: int, copies: int = 0, width: int = WIDTH) -> Network:
    """Return the shape of a discriminator: (s, a, s' - s) in its units to a logit, large for real transitions.

    Args:
        observation_dim: |S|.
        action_dim: |A|.
        copies: See `Network`.
        width: Of the second and third hidden layer; the first has half of it.
    """
    return Network((2 * observation_dim + action_dim, max(1, width // 2), width, width, 1), copies)


def discriminator_loss(params: Params, real: Tensor, generated: Tensor, entropy: float) -> Tensor:
    """Return the binary cross-entropy less a bonus on the entropy of the verdicts, both means over all rows.

    Args:
        params: A discriminator, or stacked ones, [*lead, ...].
        real: Normalised real transitions, [*lead, B, 2 |S| + |A|].
        generated: Normalised generated ones, likewise.
        entropy: Weight of the bonus.

    Returns:
        The loss, [*lead].
    """
    logits = mlp(params, torch.cat([real, generated], dim=-2)).squeeze(-1)
    of_real, of_generated = logits.split([real.shape[-2], generated.shape[-2]], dim=-1)
    surprise = torch.cat([functional.softplus(-of_real), functional.softplus(of_generated)], dim=-1).mean(-1)
    # H(sigmoid(x)) = softplus(x) - x sigmoid(x).
    bonus = (functional.softplus(logits) - logits * torch.sigmoid(logits)).mean(-1)
    return surprise - entropy * bonus


def range_normalised(logits: Tensor, expert: Tensor, learner: Tensor) -> Tensor:
    """Return D = sigmoid(y) in [.269, .731], y the logit clipped to [learner, expert] and mapped to [-1, 1].

    Args:
        logits: [K, N].
        expert: Each discriminator's mean logit on real transitions, [K], above `learner`.
        learner: On generated ones, [K].
    """
    low, high = learner.unsqueeze(-1), expert.unsqueeze(-1)
    return torch.sigmoid(2.0 * ((logits - low) / (high - low)).clamp(0.0, 1.0) - 1.0)


def ensemble_reward(shares: Tensor) -> Tensor:
    """Return -log(1 - mean D) [N] of the verdicts D [K, N] of K discriminators."""
    return -torch.log1p(-shares.mean(0))


@dataclass(frozen=True)
class DynamicsReward:
    """An ensemble of discriminators, oldest first.

    Attributes:
        params: Their parameters, [K, ...].
        expert: Mean logit of each on real transitions, [K].
        learner: On generated ones, [K].
        scaling: How they see transitions.
    """

    params: Params
    expert: Tensor
    learner: Tensor
    scaling: Inputs

    def __len__(self) -> int:
        """Return the number of discriminators."""
        return len(self.expert)

    def thinned(self, count: int) -> DynamicsReward:
        """Return `count` discriminators, evenly spaced back from the newest; all of them if there are fewer."""
        total = len(self)
        places = [total - 1 - number * total // min(count, total) for number in range(min(count, total))]
        return self.where(torch.tensor(places[::-1], device=self.expert.device))

    @property
    def able(self) -> Tensor:
        """Which discriminators rate real transitions above generated ones, as finite numbers: bool [K]."""
        finite = torch.isfinite(self.expert) & torch.isfinite(self.learner)
        for tensor in self.params:
            finite = finite & torch.isfinite(tensor.flatten(1)).all(1)
        return finite & (self.expert > self.learner)

    def usable(
        self, settings: DynamicsRewardSettings | None = None, prefix: str = "dynamics_reward."
    ) -> DynamicsReward:
        """Return the discriminators that rate real transitions above generated ones; of the others nothing is meant.

        Args:
            settings: How they were trained, which decides what is advised where there is none; the default if None.
            prefix: What stands before the names of these settings where they are set.

        Raises:
            OffDynError: There is none.
        """
        able = self.able
        if not bool(able.any()):
            longer = (settings or DynamicsRewardSettings()).lengthened
            raise OffDynError(
                f"none of {len(self)} discriminators rates real transitions above generated ones; more "
                f"{prefix}{longer} or another {prefix}discriminator_rate are needed"
            )
        return self.where(able.nonzero().squeeze(-1))

    def where(self, places: Tensor) -> DynamicsReward:
        """Return the discriminators at some places, int64 [M]."""
        params = [tensor[places].contiguous() for tensor in self.params]
        return DynamicsReward(params, self.expert[places], self.learner[places], self.scaling)

    def __call__(self, observations: Tensor, actions: Tensor, following: Tensor) -> Tensor:
        """Return r_D of transitions.

        Args:
            observations: s, [*shape, |S|].
            actions: a, [*shape, |A|].
            following: s', [*shape, |S|].

        Returns:
            Numbers in [.313, 1.313], [*shape].
        """
        return self.seen(self.scaling.inputs(observations, actions, following))

    def seen(self, inputs: Tensor) -> Tensor:
        """Return r_D [*shape] of what discriminators see of transitions, [*shape, 2 |S| + |A|]."""
        flat = inputs.reshape(-1, inputs.shape[-1])
        size = len(flat) if flat.device.type != "cpu" else CHUNK
        with torch.no_grad():
            parts = [ensemble_reward(self._shares(rows)) for rows in flat.split(max(size, 1))]
        return torch.cat(parts).view(inputs.shape[:-1])

    def passing(self, observations: Tensor, actions: Tensor, following: Tensor, threshold: float) -> float:
        """Return the share of transitions, given as to a call, whose reward reaches a threshold."""
        return float((self(observations, actions, following) >= threshold).float().mean())

    @cached_property
    def _in_turn(self) -> MLPsInTurn:
        return MLPsInTurn(self.params)

    def _shares(self, rows: Tensor) -> Tensor:
        if rows.device.type == "cpu":
            logits = self._in_turn(rows)
        else:
            logits = mlp(self.params, rows.unsqueeze(0)).float()
        return range_normalised(logits.squeeze(-1), self.expert, self.learner)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name, for a safetensors file."""
        own = {"expert": self.expert, "learner": self.learner} | self.scaling.tensors()
        return own | {f"params.{i}": tensor for i, tensor in enumerate(self.params)}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor], device: torch.device) -> DynamicsReward:
        """Return the ensemble that `tensors` described.

        Raises:
            KeyError: Something is missing.
        """
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        params = [moved[f"params.{i}"] for i in range(2 * LAYERS)]
        kind = Scaling if "scaling.centre" in moved else Standardised
        scaling = kind.from_tensors(moved)
        return DynamicsReward(params, moved["expert"], moved["learner"], scaling)


def snapshot(params: Params, real: Tensor, fake: Tensor, scaling: Inputs) -> DynamicsReward:
    """Return a copy of a discriminator with its mean logits on real rows and on fakes.

    Args:
        params: Parameters of one.
        real: What it sees of real transitions [n, 2 |S| + |A|].
        fake: Likewise of fakes.
        scaling: How it sees transitions.
    """
    with torch.no_grad():
        expert, learner = (mlp(params, rows).mean().reshape(1) for rows in (real, fake))
    return DynamicsReward([tensor.detach().clone()[None] for tensor in params], expert, learner, scaling)


def joined(rewards: Sequence[DynamicsReward]) -> DynamicsReward:
    """Return one ensemble of the discriminators of several with the same scaling."""
    params = [torch.cat(tensors) for tensors in zip(*(reward.params for reward in rewards), strict=True)]
    expert, learner = (torch.cat([getattr(reward, name) for reward in rewards]) for name in ("expert", "learner"))
    return DynamicsReward(params, expert, learner, rewards[0].scaling)
