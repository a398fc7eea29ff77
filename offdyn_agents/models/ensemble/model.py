"""An ensemble of Gaussian dynamics models (as in PETS and MOPO), trained on real rows before the policy.

Each member maps standardised (s, a) to mean and log-variance of (r, s' - s) through four hidden layers with Swish. The
members of an ensemble are stacked along a leading axis; every run of a population has an ensemble of its own. The
log-variance is bounded softly: by constants, or by two rows of numbers that all members train together and that follow
the members' matrices in the list of parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from offdyn_agents.engine.networks import Network, Params, mlp
from offdyn_agents.engine.rows import Layout
from offdyn_agents.models.ensemble.settings import GaussianSettings

__all__ = ["Ensemble", "ensemble_loss", "ensemble_network", "forward", "gaussians", "initial_ensemble"]

HIDDEN_LAYERS = 4
WEIGHT_DECAY = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
LOG_VARIANCE = (-10.0, 0.5)
BOUND_WEIGHT = 0.01
MATRICES = 2 * (HIDDEN_LAYERS + 1)
"""Tensors of the networks themselves; learned bounds, low and high, come after them."""
CHUNK, CHUNK_ON_GPU = 512, 16_384
"""Rows that are predicted at once: few enough for their activations to stay in a core's cache, enough to fill a GPU."""


def ensemble_network(settings: GaussianSettings, observation_dim: int, action_dim: int) -> Network:
    """Return the shape of an ensemble: inputs |S| + |A|, outputs mean and log-variance of 1 + |S| numbers."""
    hidden = (settings.width,) * HIDDEN_LAYERS
    return Network((observation_dim + action_dim, *hidden, 2 * (1 + observation_dim)), settings.members)


def forward(params: Params, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and softly bounded log-variance [members, B, 1 + |S|] of standardised inputs [members or 1, B, .]."""
    return _bounded(params, mlp(params[:MATRICES], inputs, functional.silu))


def _bounded(params: Params, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return means and bounded log-variances of a network's outputs."""
    mean, log_variance = outputs.chunk(2, dim=-1)
    low, high = params[MATRICES:] or LOG_VARIANCE
    log_variance = high - functional.softplus(high - log_variance)
    return mean, low + functional.softplus(log_variance - low)


def ensemble_loss(params: Params, inputs: Tensor, outputs: Tensor) -> Tensor:
    """Return the members' losses added: they share no parameters.

    Each is the mean over rows and outputs of (mu - y)^2 exp(-lv) + lv, plus .5 c_l |W_l|^2 per layer. Learned bounds,
    which members do share, add .01 (sum of the upper ones - sum of the lower ones).

    Args:
        params: The ensemble.
        inputs: Standardised (s, a), [members, B, |S| + |A|].
        outputs: (r, s' - s), [members, B, 1 + |S|].
    """
    mean, log_variance = forward(params, inputs)
    likelihood = ((mean - outputs).square() * torch.exp(-log_variance) + log_variance).mean((-2, -1)).sum()
    decay = sum(0.5 * c * weight.square().sum() for c, weight in zip(WEIGHT_DECAY, params[:MATRICES:2], strict=True))
    if len(params) == MATRICES:
        return likelihood + decay
    low, high = params[MATRICES:]
    return likelihood + decay + BOUND_WEIGHT * (high.sum() - low.sum())


def initial_ensemble(settings: GaussianSettings, network: Network, generator: torch.Generator) -> Params:
    """Return weights N(0, (1 / (2 sqrt(fan_in)))^2), zero biases and, where they are learned, the bounds' start."""
    params = [
        torch.randn(shape, generator=generator) * (0.5 * network.sizes[i // 2] ** -0.5)
        if i % 2 == 0
        else torch.zeros(shape)
        for i, shape in enumerate(network.shapes())
    ]
    if settings.learned_bounds:
        # One row for all members.
        params += [torch.full((1, 1, network.sizes[-1] // 2), bound) for bound in LOG_VARIANCE]
    return params


def gaussians(
    params: Params, mean: Tensor, std: Tensor, observations: Tensor, actions: Tensor, scale: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Predict rewards and next states.

    Args:
        params: The members' parameters, [*lead, members, ...].
        mean: Mean of the inputs, [*lead, |S| + |A|].
        std: Standard deviation of the inputs, likewise.
        observations: [*lead, N, |S|].
        actions: [*lead, N, |A|].
        scale: Units of the outputs, [*lead, 1 + |S|]; None for 1.

    Returns:
        Mean rewards [*lead, members, N], mean next states [*lead, members, N, |S|] and the variances of (r, s')
        [*lead, members, N, 1 + |S|].
    """
    inputs = (torch.cat([observations, actions], dim=-1) - mean.unsqueeze(-2)) / std.unsqueeze(-2)
    outputs, log_variance = forward(params, inputs.unsqueeze(-3))
    units = None if scale is None else scale[..., None, None, :]
    return _in_units(observations.unsqueeze(-3), outputs, log_variance, units)


def _in_units(
    observations: Tensor, outputs: Tensor, log_variance: Tensor, units: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rewards, next states and variances of outputs in some units, None for 1."""
    variance = log_variance.exp()
    if units is not None:
        outputs, variance = outputs * units, variance * units.square()
    return outputs[..., 0], observations + outputs[..., 1:], variance


def _in_turn(params: Params, inputs: Tensor) -> Tensor:
    """Return the outputs [members, B, .] of inputs [B, .], one member after the other.

    The numbers are those of stacked products; on a CPU a member's activations stay in a core's cache, and its Swish
    needs no memory of its own: a half to a third of the time.
    """
    parts: list[Tensor] = []
    for member in zip(*params[:MATRICES], strict=True):
        hidden = torch.addmm(member[1], inputs, member[0])
        for index in range(2, MATRICES, 2):
            hidden = torch.addmm(member[index + 1], functional.silu(hidden, inplace=True), member[index])
        parts.append(hidden)
    return torch.stack(parts)


@dataclass(frozen=True)
class Ensemble:
    """A trained ensemble.

    Attributes:
        params: Its parameters; leading axis: members.
        mean: Mean of the inputs, [|S| + |A|].
        std: Standard deviation of the inputs, [|S| + |A|].
        ranking: The members' numbers, the one with the lowest hold-out error first, [members].
        failed: Why it must not be used, "" where its training went well.
        scale: Units of the outputs (r, s' - s), [1 + |S|]; None for 1.
    """

    params: Params
    mean: Tensor
    std: Tensor
    ranking: Tensor
    failed: str = ""
    scale: Tensor | None = None

    def elites(self, count: int) -> Ensemble:
        """Return an ensemble of the best members."""
        best = self.ranking[:count]
        order = torch.arange(count, device=best.device)
        return Ensemble([t[best] for t in self.params], self.mean, self.std, order, scale=self.scale)

    def in_raw_units(self) -> Ensemble:
        """Return the same ensemble with outputs in units of 1: its last layer takes the units in.

        Raises:
            ValueError: The bounds of its log-variance are not among its parameters.
        """
        if self.scale is None:
            return self
        if len(self.params) == MATRICES:
            raise ValueError("fixed bounds of the log-variance cannot be in other units")
        *lower, weight, bias, low, high = self.params
        factor, shift = self.scale, 2.0 * self.scale.log()
        weight = torch.cat([weight[..., : len(factor)] * factor, weight[..., len(factor) :]], dim=-1)
        bias = torch.cat([bias[..., : len(factor)] * factor, bias[..., len(factor) :] + shift], dim=-1)
        return replace(self, params=[*lower, weight, bias, low + shift, high + shift], scale=None)

    def predict(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predict rewards and next states of rows [N, .], without gradients; see `gaussians`."""
        if observations.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            with torch.no_grad():
                inputs = (torch.cat([observations, actions], dim=-1) - self.mean) / self.std
                outputs, log_variance = _bounded(self.params, _in_turn(self.params, inputs))
            return _in_units(observations, outputs, log_variance, self.scale)
        return gaussians(self.params, self.mean, self.std, observations, actions, self.scale)

    def next_states(self, layout: Layout, rows: Tensor, robust_min: str = "value") -> Tensor:
        """Predict next states of packed rows in chunks.

        Args:
            layout: Layout of the rows.
            rows: [N, W].
            robust_min: With "coordinate" the element-wise minimum over members of mean + variance is returned as if
                it were a single member's prediction (DROCO's public code).

        Returns:
            [N, members, |S|], or [N, 1, |S|] for "coordinate".
        """
        parts: list[Tensor] = []
        for chunk in rows.split(CHUNK if rows.device.type == "cpu" else CHUNK_ON_GPU):
            observations, actions, *_ = layout.split(chunk)
            _, states, variances = self.predict(observations, actions)
            if robust_min == "coordinate":
                states = (states + variances[..., 1:]).amin(0, keepdim=True)
            parts.append(states.transpose(0, 1).contiguous())
        return torch.cat(parts)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name, for a safetensors file."""
        own = {"mean": self.mean, "std": self.std, "ranking": self.ranking}
        own |= {} if self.scale is None else {"scale": self.scale}
        return own | {f"params.{i}": t for i, t in enumerate(self.params)}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor], device: torch.device) -> Ensemble:
        """Return the ensemble that `tensors` described."""
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        count = sum(name.startswith("params.") for name in moved)
        params = [moved[f"params.{i}"] for i in range(count)]
        # Files of an earlier version know no ranking, which their agents do not ask for.
        ranking = moved.get("ranking", torch.arange(len(params[0]), device=device))
        return Ensemble(params, moved["mean"], moved["std"], ranking, scale=moved.get("scale"))


def prediction_bytes(rows: int, members: int, observation_dim: int) -> int:
    """Return the memory that the predicted next states of one run's source rows take."""
    return math.prod((rows, members, observation_dim, 4))
