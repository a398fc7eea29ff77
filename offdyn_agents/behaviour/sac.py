"""Soft actor-critic for the behaviour policies, written for one processor core.

Source: Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications" (arXiv 1812.05905): twin critics, a
tanh-squashed Gaussian and an automatic temperature. The arithmetic of an update (losses, gradients, Adam, Polyak
averaging) is ONE function of tensors, because on small networks the separate calls cost as much as the mathematics;
where a C++ compiler is at hand that function is compiled, else it runs as it is.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._dynamo import config as dynamo_config

from offdyn_agents.behaviour.collector import Collector
from offdyn_agents.behaviour.training import matrix_precision
from offdyn_agents.engine.compiler_cache import prepare
from offdyn_agents.engine.execution import can_compile
from offdyn_envs.atomic import atomic_write

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
_LOG_2PI = math.log(2.0 * math.pi)
_LOG_2 = math.log(2.0)
# Adam's constants, those of the paper's reference code.
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8

Tensors = list[Tensor]
_Update = Callable[[dict[str, Tensors], tuple[Tensors, Tensors], Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class SacSettings:
    """Settings of the learner.

    Attributes:
        rows: environments side by side.
        updates_per_step: critic updates for each vector step; even, because the actor moves at every second one.
        steps_per_iteration: vector steps between two looks at the clock.
        hidden: width of both hidden layers of every network.
        batch_size: transitions per update.
        discount: per-step discount.
        polyak: share of the new critics that enters the target critics at each update.
        critic_rate: Adam's step size for the critics.
        actor_rate: Adam's step size for the actor.
        temperature_rate: Adam's step size for the logarithm of the temperature.
        decay: share of the run, at its end, over which the step sizes fall linearly to a tenth.
        initial_temperature: temperature at the start.
        warmup: vector steps with uniform actions before the first update.
        capacity: transitions kept.
        precision: "ieee" or "bf16", the format of the factors of the matrix products.
        compiled: whether to compile the update where that is possible.
        updates: critic updates of the whole run.
    """

    rows: int = 64
    updates_per_step: int = 16
    steps_per_iteration: int = 25
    hidden: int = 256
    batch_size: int = 256
    discount: float = 0.99
    polyak: float = 0.005
    critic_rate: float = 1e-3
    actor_rate: float = 6e-4
    temperature_rate: float = 6e-4
    decay: float = 0.2
    initial_temperature: float = 0.2
    warmup: int = 160
    capacity: int = 1_000_000
    precision: str = "bf16"
    compiled: bool = True
    updates: int = 200_000

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON types."""
        return asdict(self)


def actor_outputs(actor: Tensors, observations: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and logarithm of the standard deviation before squashing.

    Args:
        actor: weights [in, out] and biases [out] of two hidden layers and of the joint head, in order.
        observations: normalised observations [B, |S|].

    Returns:
        Mean [B, |A|] and log standard deviation [B, |A|], bounded to [LOG_STD_MIN, LOG_STD_MAX].
    """
    w1, b1, w2, b2, w3, b3 = actor
    hidden = torch.relu(torch.mm(observations, w1) + b1)
    hidden = torch.relu(torch.mm(hidden, w2) + b2)
    mean, log_std = (torch.mm(hidden, w3) + b3).chunk(2, dim=-1)
    return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)


def sample_action(actor: Tensors, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """A squashed action for standard normal noise, and its log density.

    Args:
        actor: as in `actor_outputs`.
        observations: normalised observations [B, |S|].
        noise: standard normal numbers [B, |A|].

    Returns:
        Action [B, |A|] in [-1, 1] and log density [B].
    """
    mean, log_std = actor_outputs(actor, observations)
    raw = mean + log_std.exp() * noise
    # log(1 - tanh(u)^2) in the form that does not lose its digits for large u.
    slope = 2.0 * (_LOG_2 - raw - torch.nn.functional.softplus(-2.0 * raw))
    density = -0.5 * noise.square() - log_std - 0.5 * _LOG_2PI - slope
    return torch.tanh(raw), density.sum(-1)


def critic_values(critic: Tensors, observations: Tensor, actions: Tensor) -> Tensor:
    """Values of both critics.

    Args:
        critic: weights [2, in, out] and biases [2, 1, out] of two hidden layers and of the head, in order.
        observations: normalised observations [B, |S|].
        actions: actions [B, |A|].

    Returns:
        Values [2, B].
    """
    w1, b1, w2, b2, w3, b3 = critic
    inputs = torch.cat([observations, actions], dim=-1).expand(2, -1, -1)
    hidden = torch.relu(torch.bmm(inputs, w1) + b1)
    hidden = torch.relu(torch.bmm(hidden, w2) + b2)
    # A product with one column is a sum: as a matrix product it costs as much as one with sixteen.
    return (hidden * w3.transpose(1, 2)).sum(-1) + b3.squeeze(-1)


def soft_target(
    rewards: Tensor, alive: Tensor, next_values: Tensor, next_density: Tensor, alpha: Tensor, discount: float
) -> Tensor:
    """Bellman target of the soft critics: r + discount * alive * (min over critics - alpha * log density).

    Args:
        rewards: rewards [B].
        alive: 1 where the episode was not terminated [B]; a truncation counts as alive.
        next_values: target critics at the next state and a fresh action [2, B].
        next_density: log density of that action [B].
        alpha: temperature, a scalar.
        discount: per-step discount.

    Returns:
        Targets [B].
    """
    return rewards + discount * alive * (next_values.min(dim=0).values - alpha * next_density)


def _adam(parameters: Tensors, gradients: Tensors, means: Tensors, squares: Tensors, rate: Tensor) -> None:
    """One Adam step in place; `rate` already holds both bias corrections (arXiv 1412.6980, end of section 2)."""
    for parameter, gradient, mean, square in zip(parameters, gradients, means, squares, strict=True):
        mean.mul_(_BETA1).add_(gradient, alpha=1.0 - _BETA1)
        square.mul_(_BETA2).add_(gradient * gradient, alpha=1.0 - _BETA2)
        parameter.sub_(rate * mean / (square.sqrt() + _EPSILON))


def _critic_step(state: dict[str, Tensors], batch: Tensors, noise: Tensor, rate: Tensor, s: SacSettings) -> Tensor:
    observations, actions, rewards, next_observations, alive = batch
    with torch.no_grad():
        next_actions, density = sample_action(state["actor"], next_observations, noise)
        values = critic_values(state["target"], next_observations, next_actions)
        target = soft_target(rewards, alive, values, density, state["log_alpha"][0].exp(), s.discount)
    parameters = [p.detach().requires_grad_(True) for p in state["critic"]]
    loss = (critic_values(parameters, observations, actions) - target).square().mean(dim=1).sum() * 0.5
    gradients = list(torch.autograd.grad(loss, parameters))
    with torch.no_grad():
        _adam(state["critic"], gradients, state["critic_mean"], state["critic_square"], rate)
        for slow, fast in zip(state["target"], state["critic"], strict=True):
            slow.lerp_(fast, s.polyak)
    return loss.detach()


def _actor_step(state: dict[str, Tensors], batch: Tensors, noise: Tensor, rates: Tensor, entropy: float) -> Tensor:
    observations = batch[0]
    alpha = state["log_alpha"][0].exp()
    parameters = [p.detach().requires_grad_(True) for p in state["actor"]]
    actions, density = sample_action(parameters, observations, noise)
    values = critic_values(state["critic"], observations, actions).min(dim=0).values
    gradients = list(torch.autograd.grad((alpha * density - values).mean(), parameters))
    with torch.no_grad():
        _adam(state["actor"], gradients, state["actor_mean"], state["actor_square"], rates[1])
        # d/d(log alpha) of -alpha * (log density + target entropy)
        gradient = -alpha * (density.mean() + entropy)
        _adam(state["log_alpha"], [gradient], state["alpha_mean"], state["alpha_square"], rates[2])
    return density.detach().mean()


def make_update(settings: SacSettings, entropy: float) -> _Update:
    """The function that makes two critic updates and one actor and temperature update, in place.

    Args:
        settings: the learner's settings.
        entropy: target entropy in nats, -|A|.

    Returns:
        A function of (state, two batches, noise [3, B, |A|], rates [2, 3]) that returns the last critic loss and the
        mean log density; compiled when the settings ask for it and a C++ compiler is found.
    """

    def update(
        state: dict[str, Tensors], batches: tuple[Tensors, Tensors], noise: Tensor, rates: Tensor
    ) -> tuple[Tensor, Tensor]:
        _critic_step(state, batches[0], noise[0], rates[0, 0], settings)
        loss = _critic_step(state, batches[1], noise[1], rates[1, 0], settings)
        return loss, _actor_step(state, batches[1], noise[2], rates[1], entropy)

    if settings.compiled and can_trace_update():
        prepare()
        return cast("_Update", torch.compile(update, dynamic=False))
    return update


def can_trace_update() -> bool:
    """Say whether the whole update can become one compiled graph.

    It needs a C++ compiler, and a torch that traces `torch.autograd.grad` (2.10 and later); split at the gradients,
    compiled code is no faster than none.
    """
    if not can_compile(torch.device("cpu")) or not hasattr(dynamo_config, "trace_autograd_ops"):
        return False
    dynamo_config.trace_autograd_ops = True
    return True


def _uniform(shape: tuple[int, ...], inputs: int, generator: torch.Generator) -> Tensor:
    """The usual start of a linear layer: uniform within 1 / sqrt(inputs)."""
    return (torch.rand(shape, generator=generator) * 2.0 - 1.0) / math.sqrt(inputs)


def _layers(sizes: tuple[int, ...], stack: tuple[int, ...], generator: torch.Generator) -> Tensors:
    result: Tensors = []
    bias = (1,) if stack else ()
    for inputs, outputs in pairwise(sizes):
        result.append(_uniform((*stack, inputs, outputs), inputs, generator))
        result.append(_uniform((*stack, *bias, outputs), inputs, generator))
    return result


class Replay:
    """Transitions in one file of single precision, so that a killed run keeps them without writing them again.

    Attributes:
        count: transitions written so far; the oldest are overwritten beyond the capacity.
    """

    def __init__(self, path: Path, observation_dim: int, action_dim: int, capacity: int) -> None:
        """Open or create the file.

        Args:
            path: the file.
            observation_dim: |S|.
            action_dim: |A|.
            capacity: transitions kept.
        """
        self._sizes = (observation_dim, action_dim, 1, observation_dim, 1)
        shape, size = (capacity, sum(self._sizes)), capacity * sum(self._sizes) * 4
        if not path.exists() or path.stat().st_size != size:
            with atomic_write(path, size) as temporary, temporary.open("wb") as file:
                # All of its room at once: where a map of a file finds the disk full, the system ends the process.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                file.truncate(size)
        self._rows = np.memmap(path, dtype=np.float32, mode="r+", shape=shape)
        self._capacity = capacity
        self.count = 0

    def add(self, *columns: NDArray[Any]) -> None:
        """Write one transition per row: observations, actions, rewards, next observations, alive.

        Args:
            columns: arrays [N, width] or [N].
        """
        rows = np.concatenate([c.reshape(len(c), -1) for c in columns], axis=1, dtype=np.float32, casting="unsafe")
        where = (self.count + np.arange(len(rows))) % self._capacity
        self._rows[where] = rows
        self.count += len(rows)

    def draw(self, rng: np.random.Generator, batches: int, size: int) -> list[Tensors]:
        """Batches of uniformly drawn transitions.

        Args:
            rng: generator.
            batches: number of batches.
            size: transitions per batch.

        Returns:
            For each batch: observations [B, |S|], actions [B, |A|], rewards [B], next observations, alive [B].
        """
        chosen = rng.integers(0, min(self.count, self._capacity), size=(batches, size))
        rows = torch.from_numpy(np.take(self._rows, chosen, axis=0))
        parts = [part.contiguous() for part in rows.split(self._sizes, dim=-1)]
        parts[2], parts[4] = parts[2].squeeze(-1), parts[4].squeeze(-1)
        return [[part[i] for part in parts] for i in range(batches)]

    def flush(self) -> None:
        """Write everything to the disk."""
        self._rows.flush()


class SacLearner:
    """One training run.

    Attributes:
        seed: the seed it was made with.
        settings: the settings it was made with.
        steps: critic updates so far.
    """

    algorithm = "sac"
    unit = "updates"

    def __init__(
        self, robot: str, dynamics: str, seed: int, directory: Path, settings: SacSettings | None = None
    ) -> None:
        """Start a run.

        Args:
            robot: robot name.
            dynamics: dynamics slug.
            seed: seed of networks, noise, batches and resets.
            directory: existing folder for the file of transitions.
            settings: settings; the defaults when absent.
        """
        self.seed = seed
        self.settings = s = settings or SacSettings()
        self.collector = Collector(robot, dynamics, s.rows, seed)
        self.generator = torch.Generator().manual_seed(seed)
        self._rng = np.random.default_rng([seed, 1])
        size, self._actions = self.collector.observations.shape[1], self.collector.action_dim
        self.replay = Replay(directory / "replay.f32", size, self._actions, s.capacity)
        actor = _layers((size, s.hidden, s.hidden, 2 * self._actions), (), self.generator)
        critic = _layers((size + self._actions, s.hidden, s.hidden, 1), (2,), self.generator)
        alpha = [torch.tensor(math.log(s.initial_temperature))]
        self.tensors: dict[str, Tensors] = {
            "actor": actor,
            "critic": critic,
            "target": [x.clone() for x in critic],
            "log_alpha": alpha,
        }
        for name, group in (("actor", actor), ("critic", critic), ("alpha", alpha)):
            self.tensors[f"{name}_mean"] = [torch.zeros_like(x) for x in group]
            self.tensors[f"{name}_square"] = [torch.zeros_like(x) for x in group]
        self._update = make_update(s, -float(self._actions))
        self._vector_steps = 0
        self.steps = 0

    @property
    def total(self) -> int:
        """Critic updates of the whole run."""
        return self.settings.updates

    @property
    def mean_return(self) -> float:
        """Mean undiscounted return of the latest training episodes."""
        return self.collector.mean_return

    def iterate(self) -> int:
        """Make a block of vector steps, each with its updates.

        Returns:
            The number of critic updates made.
        """
        before = self.steps
        with matrix_precision(self.settings.precision):
            for _ in range(self.settings.steps_per_iteration):
                self._collect()
                if self._vector_steps > self.settings.warmup:
                    self._learn()
        return self.steps - before

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, next to the file of transitions."""
        self.replay.flush()
        return {
            "steps": self.steps,
            "vector_steps": self._vector_steps,
            "collector": self.collector.state(),
            "tensors": {name: [x.clone() for x in group] for name, group in self.tensors.items()},
            "generator": self.generator.get_state(),
            "rng": json.dumps(self._rng.bit_generator.state),
            "transitions": self.replay.count,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state.

        Args:
            state: what `state` returned, for the same settings and folder.
        """
        self.steps, self._vector_steps = state["steps"], state["vector_steps"]
        self.collector.restore(state["collector"])
        for name, group in state["tensors"].items():
            for mine, saved in zip(self.tensors[name], group, strict=True):
                mine.copy_(saved)
        self.generator.set_state(state["generator"])
        self._rng.bit_generator.state = json.loads(state["rng"])
        self.replay.count = state["transitions"]

    def snapshot(self) -> dict[str, NDArray[np.float64]]:
        """What is needed to export the present policy: see `export.policy_from_snapshot`."""
        w1, b1, w2, b2, head, offset = (x.double().numpy() for x in self.tensors["actor"])
        n = self._actions
        layers = [(w1, b1), (w2, b2), (head[:, :n], offset[:n])]
        arrays = {f"{kind}{i}": x.copy() for i, pair in enumerate(layers) for kind, x in zip("wb", pair, strict=True)}
        return {**arrays, "std_w": head[:, n:].copy(), "std_b": offset[n:].copy()}

    def _collect(self) -> None:
        observations = self.collector.observations
        if self._vector_steps < self.settings.warmup:
            actions = self._rng.uniform(-1.0, 1.0, (len(observations), self._actions)).astype(np.float32)
        else:
            noise = torch.randn((len(observations), self._actions), generator=self.generator)
            inputs = torch.from_numpy(observations.astype(np.float32))
            actions = sample_action(self.tensors["actor"], inputs, noise)[0].numpy()
        outcome = self.collector.step(actions)
        alive = 1.0 - outcome.terminated.astype(np.float32)
        self.replay.add(observations, actions, outcome.rewards, outcome.next_observations, alive)
        self._vector_steps += 1

    def _learn(self) -> None:
        s = self.settings
        batches = self.replay.draw(self._rng, s.updates_per_step, s.batch_size)
        noise = torch.randn((s.updates_per_step // 2, 3, s.batch_size, self._actions), generator=self.generator)
        for i in range(s.updates_per_step // 2):
            self._update(self.tensors, (batches[2 * i], batches[2 * i + 1]), noise[i], self._rates())
            self.steps += 2

    def _rates(self) -> Tensor:
        """Step sizes of this pair of updates with Adam's bias corrections [2, 3]: critic, actor, temperature."""
        s = self.settings
        left = (s.updates - self.steps) / max(s.decay * s.updates, 1.0)
        scale = 0.1 + 0.9 * min(max(left, 0.0), 1.0)
        base = np.array([s.critic_rate, s.actor_rate, s.temperature_rate]) * scale
        half = self.steps // 2 + 1
        counts = np.array([[self.steps + 1, half, half], [self.steps + 2, half, half]], dtype=np.float64)
        return torch.from_numpy((base * np.sqrt(1.0 - _BETA2**counts) / (1.0 - _BETA1**counts)).astype(np.float32))
