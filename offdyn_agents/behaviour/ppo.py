"""Proximal policy optimisation for the behaviour policies, written for one processor core.

Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (arXiv 1707.06347) with generalised advantage
estimation (arXiv 1506.02438), running normalisation of observations and of rewards, and an orthogonal initialisation.
A time limit is no end of the task: there the advantage bootstraps from the value of the final observation.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offdyn_agents.behaviour.checkpoint import as_array
from offdyn_agents.behaviour.collector import Collector
from offdyn_agents.behaviour.moments import RunningMoments
from offdyn_agents.behaviour.networks import layers_of, tanh_network
from offdyn_agents.engine.policy_gradient import advantages, log_density
from offdyn_envs.errors import OffDynError
from offdyn_envs.policies import BehaviourPolicy

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class PpoSettings:
    """Settings of the learner.

    Attributes:
        rows: environments side by side.
        horizon: vector steps per iteration.
        hidden: width of both hidden layers of the policy and of the value function.
        discount: per-step discount.
        trace: lambda of the generalised advantage estimate.
        clip: half-width of the ratio's trust interval.
        epochs: passes over the data of an iteration.
        minibatch: transitions per gradient step.
        rate: Adam's step size at the start; it decays linearly to `final_rate` times it.
        final_rate: share of the step size left at the end.
        initial_std: standard deviation of every action at the start.
        entropy: weight of the entropy bonus.
        gradient_norm: bound of the gradient's norm.
        steps: environment steps of the whole run.
    """

    rows: int = 64
    horizon: int = 256
    hidden: int = 64
    discount: float = 0.99
    trace: float = 0.95
    clip: float = 0.2
    epochs: int = 8
    minibatch: int = 1024
    rate: float = 3e-4
    final_rate: float = 0.05
    initial_std: float = 0.6
    entropy: float = 0.0
    gradient_norm: float = 0.5
    steps: int = 6_000_000

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class _Batch:
    observations: Tensor
    actions: Tensor
    density: Tensor
    advantages: Tensor
    targets: Tensor


class PpoLearner:
    """One training run.

    Attributes:
        seed: the seed it was made with.
        settings: the settings it was made with.
        steps: environment steps so far.
    """

    algorithm = "ppo"
    unit = "steps"

    def __init__(self, robot: str, dynamics: str, seed: int, settings: PpoSettings | None = None) -> None:
        """Start a run.

        Args:
            robot: robot name.
            dynamics: dynamics slug.
            seed: seed of networks, noise and resets.
            settings: settings; the defaults when absent.
        """
        self.seed = seed
        self.settings = s = settings or PpoSettings()
        self.collector = Collector(robot, dynamics, s.rows, seed)
        self.generator = torch.Generator().manual_seed(seed)
        size = self.collector.observations.shape[1]
        actions = self.collector.action_dim
        self.policy = tanh_network(size, s.hidden, actions, 0.01, self.generator)
        self.value = tanh_network(size, s.hidden, 1, 1.0, self.generator)
        self.log_std = nn.Parameter(torch.full((actions,), math.log(s.initial_std)))
        self.parameters = [*self.policy.parameters(), self.log_std, *self.value.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=s.rate, eps=1e-5, fused=True)
        self.moments = RunningMoments(size)
        self.return_moments = RunningMoments(1)
        self.discounted = np.zeros(s.rows)
        self.steps = 0

    @property
    def total(self) -> int:
        """Environment steps of the whole run."""
        return self.settings.steps

    @property
    def mean_return(self) -> float:
        """Mean undiscounted return of the latest training episodes."""
        return self.collector.mean_return

    def iterate(self) -> int:
        """Collect one horizon and learn from it.

        Returns:
            The number of environment steps made.
        """
        s = self.settings
        batch = self._collect()
        done = min(self.steps / s.steps, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = s.rate * (1.0 - (1.0 - s.final_rate) * done)
        for chosen in self._minibatches():
            self._descend(batch, chosen)
        count = s.rows * s.horizon
        self.steps += count
        return count

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs."""
        return {
            "steps": self.steps,
            "collector": self.collector.state(),
            "policy": self.policy.state_dict(),
            "value": self.value.state_dict(),
            "log_std": self.log_std.detach().clone(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "moments": self.moments.state(),
            "return_moments": self.return_moments.state(),
            "discounted": self.discounted.copy(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state.

        Args:
            state: what `state` returned, for the same settings.
        """
        self.steps = state["steps"]
        self.collector.restore(state["collector"])
        self.policy.load_state_dict(state["policy"])
        self.value.load_state_dict(state["value"])
        with torch.no_grad():
            self.log_std.copy_(state["log_std"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.moments.restore(state["moments"])
        self.return_moments.restore(state["return_moments"])
        self.discounted = as_array(state["discounted"])

    def take_over(self, state: dict[str, Any], *, least_std: float = 0.0) -> None:
        """Start this run from another one's networks and bodies, with its own noise, budget and scale of rewards.

        Args:
            state: what `state` of the other run returned.
            least_std: the policy's standard deviations are raised to it.
        """
        fresh = self.collector.state()["rng"]
        self.restore(state | {"collector": state["collector"] | {"rng": fresh, "finished": []}})
        self.generator.manual_seed(self.seed)
        self.return_moments = RunningMoments(1)
        self.steps = 0
        if least_std:
            with torch.no_grad():
                self.log_std.clamp_(min=math.log(least_std))

    def adopt(self, policy: BehaviourPolicy, horizons: int) -> None:
        """Start this run from an exported policy, and learn its value function before the policy moves.

        The moments of the observations that the policy was trained with are folded into its first layer; they are
        measured anew on what the policy meets here and taken out again, so that the value function sees normalised
        observations too.

        Args:
            policy: a clipped Gaussian with tanh layers of this run's width.
            horizons: how many horizons to measure the moments on, and then how many to learn values from.

        Raises:
            OffDynError: a policy of another kind.
        """
        layers = [layer for layer in self.policy if isinstance(layer, nn.Linear)]
        given = [*policy.hidden, policy.mean]
        kind = (policy.distribution, policy.activation, [weights.shape for weights, _ in given])
        mine = ("clipped-gaussian", "tanh", [tuple(layer.weight.T.shape) for layer in layers])
        if kind != mine or isinstance(policy.log_std, tuple):
            raise OffDynError(f"a run of ppo cannot begin as a policy of the kind {kind}; allowed: {mine}")
        with torch.no_grad():
            for layer, (weights, bias) in zip(layers, given, strict=True):
                layer.weight.copy_(torch.from_numpy(weights.T.copy()))
                layer.bias.copy_(torch.from_numpy(bias.copy()))
            self.log_std.copy_(torch.from_numpy(policy.log_std.copy()))
        seen = RunningMoments(len(self.moments.mean))
        for _ in range(horizons):
            # Raw observations go in while the moments stand at 0 and 1.
            seen.add(self._collect().observations.double().numpy())
            self.moments = RunningMoments(len(self.moments.mean))
        self.moments = seen
        first = layers[0]
        with torch.no_grad():
            weights, bias = policy.hidden[0]
            first.weight.copy_(torch.from_numpy((weights * seen.std[:, None]).T.astype(np.float32)))
            first.bias.copy_(torch.from_numpy((bias + seen.mean @ weights).astype(np.float32)))
        for _ in range(horizons):
            self._learn_values(self._collect())

    def snapshot(self) -> dict[str, NDArray[np.float64]]:
        """What is needed to export the present policy: see `export.policy_from_snapshot`."""
        log_std = self.log_std.detach().double().numpy().copy()
        return {
            **layers_of(self.policy),
            "log_std": log_std,
            "mean": self.moments.mean.copy(),
            "std": self.moments.std.copy(),
        }

    def _collect(self) -> _Batch:
        s, collector = self.settings, self.collector
        shape = (s.horizon, s.rows)
        size = collector.observations.shape[1]
        observations = np.empty((*shape, size))
        following = np.empty((*shape, size))
        actions = torch.empty((*shape, collector.action_dim))
        rewards, terminated, done = np.empty(shape), np.empty(shape), np.empty(shape)
        noise = torch.randn((*shape, collector.action_dim), generator=self.generator)
        std = self.log_std.detach().exp()
        for t in range(s.horizon):
            observations[t] = collector.observations
            with torch.no_grad():
                actions[t] = self.policy(self._normalised(observations[t])) + std * noise[t]
            outcome = collector.step(actions[t].clamp(-1.0, 1.0).numpy())
            following[t], rewards[t], terminated[t] = outcome.next_observations, outcome.rewards, outcome.terminated
            done[t] = outcome.terminated | outcome.truncated
        return self._prepare(observations, following, actions, rewards, terminated, done)

    def _prepare(
        self,
        observations: Floats,
        following: Floats,
        actions: Tensor,
        rewards: Floats,
        terminated: Floats,
        done: Floats,
    ) -> _Batch:
        s = self.settings
        rewards = self._scaled(rewards, done)
        with torch.no_grad():
            inputs = self._normalised(observations)
            values = self.value(inputs).squeeze(-1).double().numpy()
            next_values = self.value(self._normalised(following)).squeeze(-1).double().numpy()
            density = log_density(self.policy(inputs), self.log_std, actions)
        estimates = advantages(rewards, values, next_values, terminated, done, s.discount, s.trace)
        # Only now: the data above were gathered, and are learnt from, with the moments that stood before.
        self.moments.add(observations.reshape(-1, observations.shape[-1]))
        return _Batch(
            inputs.flatten(0, 1),
            actions.flatten(0, 1),
            density.flatten(),
            torch.from_numpy(estimates.astype(np.float32)).flatten(),
            torch.from_numpy((estimates + values).astype(np.float32)).flatten(),
        )

    def _scaled(self, rewards: Floats, done: Floats) -> Floats:
        """Rewards over the running standard deviation of the discounted return."""
        trail = np.empty_like(rewards)
        for t in range(len(rewards)):
            self.discounted = self.discounted * self.settings.discount + rewards[t]
            trail[t] = self.discounted
            self.discounted = self.discounted * (1.0 - done[t])
        self.return_moments.add(trail.reshape(-1, 1))
        return np.clip(rewards / self.return_moments.std[0], -10.0, 10.0)

    def _normalised(self, observations: Floats) -> Tensor:
        return torch.from_numpy(((observations - self.moments.mean) / self.moments.std).astype(np.float32))

    def _minibatches(self) -> Generator[Tensor]:
        """Indices of the transitions of every gradient step of an iteration."""
        s = self.settings
        for _ in range(s.epochs):
            yield from torch.randperm(s.rows * s.horizon, generator=self.generator).split(s.minibatch)

    def _learn_values(self, batch: _Batch) -> None:
        """Fit the value function alone. The optimiser skips parameters without a gradient."""
        for chosen in self._minibatches():
            error = (self.value(batch.observations[chosen]).squeeze(-1) - batch.targets[chosen]).square().mean()
            self._step(0.5 * error)

    def _descend(self, batch: _Batch, chosen: Tensor) -> None:
        s = self.settings
        observations = batch.observations[chosen]
        density = log_density(self.policy(observations), self.log_std, batch.actions[chosen])
        ratio = (density - batch.density[chosen]).exp()
        gain = batch.advantages[chosen]
        gain = (gain - gain.mean()) / (gain.std() + 1e-8)
        surrogate = torch.minimum(ratio * gain, ratio.clamp(1.0 - s.clip, 1.0 + s.clip) * gain).mean()
        error = (self.value(observations).squeeze(-1) - batch.targets[chosen]).square().mean()
        loss = 0.5 * error - surrogate - s.entropy * self.log_std.sum()
        self._step(loss)

    def _step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        nn.utils.clip_grad_norm_(self.parameters, self.settings.gradient_norm)
        self.optimizer.step()
