"""An ensemble of Gaussian dynamics models (as in PETS and MOPO), trained on real rows before the policy.

Each member maps standardised (s, a) to mean and log-variance of (r, s' - s) through four hidden layers with Swish. The
members of an ensemble are stacked along a leading axis; every run of a population has an ensemble of its own. The
log-variance is bounded softly: by constants, or by two rows of numbers that all members train together and that follow
the members' matrices in the list of parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from offdyn_agents.data import Layout, stream
from offdyn_agents.dynamics_settings import EnsembleSettings
from offdyn_agents.execution import can_compile, compile_flat, warn_uncompiled
from offdyn_agents.networks import Network, Params, mlp
from offdyn_agents.update import adam, scales

__all__ = ["Ensemble", "EnsembleLearner", "ensemble_loss", "ensemble_network", "gaussians"]

HIDDEN_LAYERS = 4
WEIGHT_DECAY = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
LOG_VARIANCE = (-10.0, 0.5)
BOUND_WEIGHT = 0.01
HOLDOUT_ROWS = 1000
MATRICES = 2 * (HIDDEN_LAYERS + 1)
"""Tensors of the networks themselves; learned bounds, low and high, come after them."""
CHUNK = 512
"""Rows that are predicted at once: few enough for their activations to stay in a core's cache."""

Report = Callable[[int, float], None]


def ensemble_network(settings: EnsembleSettings, observation_dim: int, action_dim: int) -> Network:
    """Return the shape of an ensemble: inputs |S| + |A|, outputs mean and log-variance of 1 + |S| numbers."""
    hidden = (settings.width,) * HIDDEN_LAYERS
    return Network((observation_dim + action_dim, *hidden, 2 * (1 + observation_dim)), settings.members)


def _forward(params: Params, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and softly bounded log-variance [members, B, 1 + |S|] of standardised inputs [members or 1, B, .]."""
    mean, log_variance = mlp(params[:MATRICES], inputs, functional.silu).chunk(2, dim=-1)
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
    mean, log_variance = _forward(params, inputs)
    likelihood = ((mean - outputs).square() * torch.exp(-log_variance) + log_variance).mean((-2, -1)).sum()
    decay = sum(0.5 * c * weight.square().sum() for c, weight in zip(WEIGHT_DECAY, params[:MATRICES:2], strict=True))
    if len(params) == MATRICES:
        return likelihood + decay
    low, high = params[MATRICES:]
    return likelihood + decay + BOUND_WEIGHT * (high.sum() - low.sum())


def _initial(network: Network, generator: torch.Generator) -> Params:
    """Return weights N(0, (1 / (2 sqrt(fan_in)))^2) and zero biases."""
    return [
        torch.randn(shape, generator=generator) * (0.5 * network.sizes[i // 2] ** -0.5)
        if i % 2 == 0
        else torch.zeros(shape)
        for i, shape in enumerate(network.shapes())
    ]


def gaussians(
    params: Params, mean: Tensor, std: Tensor, observations: Tensor, actions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Predict rewards and next states.

    Args:
        params: The members' parameters, [*lead, members, ...].
        mean: Mean of the inputs, [*lead, |S| + |A|].
        std: Standard deviation of the inputs, likewise.
        observations: [*lead, N, |S|].
        actions: [*lead, N, |A|].

    Returns:
        Mean rewards [*lead, members, N], mean next states [*lead, members, N, |S|] and the variances of (r, s')
        [*lead, members, N, 1 + |S|].
    """
    inputs = (torch.cat([observations, actions], dim=-1) - mean.unsqueeze(-2)) / std.unsqueeze(-2)
    outputs, log_variance = _forward(params, inputs.unsqueeze(-3))
    return outputs[..., 0], observations.unsqueeze(-3) + outputs[..., 1:], log_variance.exp()


@dataclass(frozen=True)
class Ensemble:
    """A trained ensemble.

    Attributes:
        params: Its parameters; leading axis: members.
        mean: Mean of the inputs, [|S| + |A|].
        std: Standard deviation of the inputs, [|S| + |A|].
        ranking: The members' numbers, the one with the lowest hold-out error first, [members].
    """

    params: Params
    mean: Tensor
    std: Tensor
    ranking: Tensor

    def elites(self, count: int) -> Ensemble:
        """Return an ensemble of the best members."""
        best = self.ranking[:count]
        return Ensemble([t[best] for t in self.params], self.mean, self.std, torch.arange(count, device=best.device))

    def predict(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predict rewards and next states; see `gaussians`."""
        return gaussians(self.params, self.mean, self.std, observations, actions)

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
        for chunk in rows.split(CHUNK):
            observations, actions, *_ = layout.split(chunk)
            _, states, variances = self.predict(observations, actions)
            if robust_min == "coordinate":
                states = (states + variances[..., 1:]).amin(0, keepdim=True)
            parts.append(states.transpose(0, 1).contiguous())
        return torch.cat(parts)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything by name, for a safetensors file."""
        own = {"mean": self.mean, "std": self.std, "ranking": self.ranking}
        return own | {f"params.{i}": t for i, t in enumerate(self.params)}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor], device: torch.device) -> Ensemble:
        """Return the ensemble that `tensors` described."""
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        count = sum(name.startswith("params.") for name in moved)
        params = [moved[f"params.{i}"] for i in range(count)]
        # Files of an earlier version know no ranking, which their agents do not ask for.
        ranking = moved.get("ranking", torch.arange(len(params[0]), device=device))
        return Ensemble(params, moved["mean"], moved["std"], ranking)


class EnsembleLearner:
    """Trains ensembles of one shape; the compiled step is shared by all of them, also from several threads.

    Args:
        settings: How.
        layout: Layout of packed rows.
        device: Where.
        threads: CPU threads inside one step.
        compiled: Whether to compile the step.
    """

    def __init__(
        self,
        settings: EnsembleSettings,
        layout: Layout,
        device: torch.device,
        *,
        threads: int = 1,
        compiled: bool = True,
    ) -> None:
        self.settings = settings
        self.layout = layout
        self.device = device
        self.network = ensemble_network(settings, layout.observation_dim, layout.action_dim)

        def step(*tensors: Tensor) -> None:
            *state, scale, inputs, outputs = tensors
            size = len(state) // 3
            params, first, second = state[:size], state[size : 2 * size], state[2 * size :]
            gradients = torch.func.grad(ensemble_loss)(params, inputs, outputs)
            with torch.no_grad():
                for parameter, gradient, m, v in zip(params, gradients, first, second, strict=True):
                    adam(parameter, gradient, m, v, scale[0], scale[2])

        self.step: Callable[..., Any] = step
        self.threads = threads
        self.compiled = compiled and (device.type != "cpu" or can_compile())

    def warm_up(self, rows: Tensor) -> None:
        """Compile the step; without a working compiler, say so and go on as it is written."""
        if not self.compiled:
            return
        self.compiled = False
        try:
            self.step = compile_flat(self.step, _Training(self, rows, 0).first_step(), self.device, self.threads)
        except Exception as error:
            warn_uncompiled(error)

    def fit(self, rows: Tensor, seed: int, report: Report | None = None) -> Ensemble:
        """Train one ensemble.

        Args:
            rows: Packed target rows [N, W] on the device.
            seed: Decides initial parameters, the hold-out, resamples and orders.
            report: Called after every epoch with its number and the mean hold-out error of the members.
        """
        return _Training(self, rows, seed).run(report)


class _Training:
    """The training of one ensemble."""

    def __init__(self, learner: EnsembleLearner, rows: Tensor, seed: int) -> None:
        self.learner, self.settings = learner, learner.settings
        self.generator = torch.Generator().manual_seed(stream(seed, "ensemble"))
        order = torch.randperm(len(rows), generator=self.generator).to(rows.device)
        held = max(1, min(HOLDOUT_ROWS, round(self.settings.holdout * len(rows))))
        kept = rows[order[held:]] if len(rows) > held else rows
        self.inputs, self.outputs = self._columns(kept)
        self.mean = self.inputs.mean(0)
        std = self.inputs.std(0, correction=0)
        # A constant input (no variance) must stay finite when it moves on source rows.
        self.std = torch.where(std < 1e-6, torch.ones_like(std), std)
        self.inputs = (self.inputs - self.mean) / self.std
        inputs, self.held_outputs = self._columns(rows[order[:held]])
        self.held_inputs = (inputs - self.mean) / self.std
        self.params = [t.to(rows.device) for t in _initial(learner.network, self.generator)]
        if self.settings.learned_bounds:
            self.params += [
                torch.full((1, 1, self.outputs.shape[1]), bound, device=rows.device) for bound in LOG_VARIANCE
            ]
        self.first = [torch.zeros_like(t) for t in self.params]
        self.second = [torch.zeros_like(t) for t in self.params]
        self.steps = 0
        self.batch = min(self.settings.batch_size, len(kept))
        # Every member has its own bootstrap resample of the rows.
        shape = (self.settings.members, len(kept))
        self.resample = torch.randint(len(kept), shape, generator=self.generator)

    def _columns(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        observations, actions, following, rewards, _ = self.learner.layout.split(rows)
        inputs = torch.cat([observations, actions], dim=-1)
        return inputs, torch.cat([rewards[:, None], following - observations], dim=-1)

    def run(self, report: Report | None) -> Ensemble:
        best, errors = [t.clone() for t in self.params], self._errors()
        stale = 0
        stopping = self.settings.early_stopping
        for epoch in range(1, self.settings.epochs + 1):
            self._epoch()
            fresh = self._errors() if stopping or report else errors
            if report:
                report(epoch, float(fresh.mean()))
            if not stopping:
                continue
            better = (errors - fresh) / errors.clamp(min=1e-12) > self.settings.improvement
            errors = torch.where(better, fresh, errors)
            best = [torch.where(better[:, None, None], new, old) for new, old in zip(self.params, best, strict=True)]
            stale = 0 if bool(better.any()) else stale + 1
            if stale >= self.settings.patience:
                break
        if not stopping:
            best, errors = self.params, self._errors()
        # Bounds that no epoch improved are still one row for all members.
        best = [tensor.expand(len(errors), *tensor.shape[1:]).contiguous() for tensor in best]
        return Ensemble(best, self.mean, self.std, errors.argsort())

    def _epoch(self) -> None:
        draws = torch.rand(self.resample.shape, generator=self.generator).argsort(dim=1)
        order = self.resample.gather(1, draws).to(self.inputs.device)
        for start in range(0, order.shape[1] - self.batch + 1, self.batch):
            self.learner.step(*self._arguments(order[:, start : start + self.batch]))

    def first_step(self) -> list[Tensor]:
        """Return what a step takes, with any rows."""
        return self._arguments(self.resample[:, : self.batch].to(self.inputs.device))

    def _arguments(self, chosen: Tensor) -> list[Tensor]:
        scale = scales(self.settings.learning_rate, self.steps, 1)[0].to(self.inputs.device)
        self.steps += 1
        return [*self.params, *self.first, *self.second, scale, self.inputs[chosen], self.outputs[chosen]]

    def _errors(self) -> Tensor:
        """Return each member's mean squared hold-out error [members]."""
        with torch.no_grad():
            mean, _ = _forward(self.params, self.held_inputs.unsqueeze(0))
            return (mean - self.held_outputs).square().mean((-2, -1))


def prediction_bytes(rows: int, members: int, observation_dim: int) -> int:
    """Return the memory that the predicted next states of one run's source rows take."""
    return math.prod((rows, members, observation_dim, 4))
