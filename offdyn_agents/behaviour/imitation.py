"""Learning a behaviour from a teacher: do what it does, in the states that one comes to oneself.

Source: Ross, Gordon and Bagnell 2011, "A Reduction of Imitation Learning and Structured Prediction to No-Regret Online
Learning" (arXiv 1011.0686): at first the teacher acts, then more and more often the learner, and the teacher says what
it would have done in all of these states.
"""

from __future__ import annotations

import math
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
from offdyn_agents.behaviour.teacher import Teacher

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ImitationSettings:
    """Settings of the learner.

    Attributes:
        rows: environments side by side.
        horizon: vector steps per iteration.
        hidden: width of both hidden layers.
        kept: transitions that are remembered; the oldest go first.
        updates: gradient steps per iteration.
        minibatch: transitions per gradient step.
        rate: Adam's step size at the start; it decays linearly to 0.
        std: standard deviation of every action.
        handed_over: share of the run after which the learner alone acts; before, the teacher does in a share of the
            rows that falls linearly from all to none.
        steps: environment steps of the whole run.
    """

    rows: int = 64
    horizon: int = 50
    hidden: int = 64
    kept: int = 100_000
    updates: int = 40
    minibatch: int = 512
    rate: float = 1e-3
    std: float = 0.1
    handed_over: float = 0.5
    steps: int = 400_000

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON types."""
        return asdict(self)


class ImitationLearner:
    """One training run.

    Attributes:
        seed: the seed it was made with.
        settings: the settings it was made with.
        steps: environment steps so far.
    """

    algorithm = "imitation"
    unit = "steps"

    def __init__(
        self, robot: str, dynamics: str, seed: int, teacher: Teacher, settings: ImitationSettings | None = None
    ) -> None:
        """Start a run.

        Args:
            robot: robot name.
            dynamics: dynamics slug.
            seed: seed of networks, noise and resets.
            teacher: whom to imitate.
            settings: settings; the defaults when absent.
        """
        self.seed, self.teacher = seed, teacher
        self.settings = s = settings or ImitationSettings()
        self.collector = Collector(robot, dynamics, s.rows, seed)
        self.generator = torch.Generator().manual_seed(seed)
        size = self.collector.observations.shape[1]
        self.policy = tanh_network(size, s.hidden, self.collector.action_dim, 0.01, self.generator)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=s.rate, fused=True)
        self.moments = RunningMoments(size)
        self.seen = np.empty((0, size), np.float32)
        self.told = np.empty((0, self.collector.action_dim), np.float32)
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
        """Act for one horizon and learn from all that is remembered.

        Returns:
            The number of environment steps made.
        """
        s = self.settings
        self._act()
        done = min(self.steps / s.steps, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = s.rate * (1.0 - done)
        inputs, wanted = torch.from_numpy(self._normalised(self.seen)), torch.from_numpy(self.told)
        for _ in range(s.updates):
            chosen = torch.randint(len(inputs), (s.minibatch,), generator=self.generator)
            self._descend(inputs[chosen], wanted[chosen])
        count = s.rows * s.horizon
        self.steps += count
        return count

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs."""
        return {
            "steps": self.steps,
            "collector": self.collector.state(),
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "moments": self.moments.state(),
            "seen": self.seen,
            "told": self.told,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state.

        Args:
            state: what `state` returned, for the same settings.
        """
        self.steps = state["steps"]
        self.collector.restore(state["collector"])
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.moments.restore(state["moments"])
        self.seen, self.told = as_array(state["seen"]), as_array(state["told"])

    def snapshot(self) -> dict[str, NDArray[np.float64]]:
        """What is needed to export the present policy: see `export.policy_from_snapshot`."""
        log_std = np.full(self.collector.action_dim, math.log(self.settings.std))
        return {
            **layers_of(self.policy),
            "log_std": log_std,
            "mean": self.moments.mean.copy(),
            "std": self.moments.std.copy(),
        }

    def _act(self) -> None:
        """Step all rows, the teacher's and the learner's own, and remember what the teacher says of each state."""
        s, collector = self.settings, self.collector
        share = max(0.0, 1.0 - self.steps / (s.handed_over * s.steps))
        taught = np.arange(s.rows) < round(share * s.rows)
        shape = (s.horizon, s.rows)
        seen = np.empty((*shape, collector.observations.shape[1]), np.float32)
        told = np.empty((*shape, collector.action_dim), np.float32)
        noise = s.std * torch.randn(told.shape, generator=self.generator)
        for t in range(s.horizon):
            seen[t] = collector.observations
            told[t] = self.teacher.act(collector.observations)
            with torch.no_grad():
                own = self.policy(torch.from_numpy(self._normalised(seen[t]))).numpy()
            actions = np.where(taught[:, None], told[t], own) + noise[t].numpy()
            collector.step(np.clip(actions, -1.0, 1.0).astype(np.float32))
        flat = seen.reshape(-1, seen.shape[-1])
        self.moments.add(flat.astype(np.float64))
        self.seen = np.concatenate((self.seen, flat))[-s.kept :]
        self.told = np.concatenate((self.told, told.reshape(-1, told.shape[-1])))[-s.kept :]

    def _normalised(self, observations: Floats) -> NDArray[np.float32]:
        return ((observations - self.moments.mean) / self.moments.std).astype(np.float32)

    def _descend(self, inputs: Tensor, wanted: Tensor) -> None:
        error = (self.policy(inputs) - wanted).square().mean()
        self.optimizer.zero_grad()
        error.backward()  # pyright: ignore[reportUnknownMemberType]
        nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
