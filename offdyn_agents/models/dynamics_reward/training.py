"""Adversarial training of the dynamics reward: rollouts, discriminator, snapshot, generator, over and over.

The source of the method released no code for this part. Here a generator and a behaviour model are fitted by maximum
likelihood; then, in every iteration, the behaviour model acts in the generator from real states, the discriminator
takes a few steps on these rollouts against real rows, and PPO moves the generator towards what the SNAPSHOTS of the
discriminator up to now, jointly, call real: against the newest one alone the two would chase each other in circles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from offdyn_agents.engine.data import stream
from offdyn_agents.engine.networks import Network, Params, mlp
from offdyn_agents.engine.policy_gradient import advantages, log_density
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.termination import Termination, never
from offdyn_agents.models.dynamics_reward.discriminator import (
    DynamicsReward,
    discriminator_loss,
    discriminator_network,
    joined,
    snapshot,
)
from offdyn_agents.models.dynamics_reward.generator import Rollouts, Settle, as_drawn, heads, surrogate_loss
from offdyn_agents.models.dynamics_reward.learned import Learned
from offdyn_agents.models.dynamics_reward.models import GRADIENT_NORM, Models, parts_state, restore_parts
from offdyn_agents.models.dynamics_reward.settings import DynamicsRewardSettings

__all__ = ["Adversaries", "Report"]

PRETRAINING_BLOCK = 500
"""Steps of pre-training at a time."""

Report = Callable[[dict[str, float]], None]


class Adversaries:
    """Discriminator, generator, behaviour model and value function, and where their training stands.

    Args:
        settings: How they are trained.
        layout: Layout of packed rows.
        rows: Packed real rows [N, W] to learn from.
        seed: Decides everything that is drawn.
        terminated: Says which states end an episode.
        settle: Makes drawn actions such as real ones are, for example where a number of them is 0 or 1.
    """

    def __init__(
        self,
        settings: DynamicsRewardSettings,
        layout: Layout,
        rows: Tensor,
        seed: int = 0,
        terminated: Termination = never,
        settle: Settle = as_drawn,
    ) -> None:
        self.settings = settings
        self.random = torch.Generator().manual_seed(stream(seed, "dynamics-reward"))
        self.models = Models(settings, layout, rows, self.random, terminated, settle)
        s, a, width = layout.observation_dim, layout.action_dim, settings.width
        judge = partial(discriminator_loss, entropy=settings.entropy)
        improve = partial(surrogate_loss, clip=settings.clip, likelihood=settings.likelihood)
        initial, rate = self.models.initial, settings.generator_rate
        self.discriminator = Learned(initial(discriminator_network(s, a)), judge, settings.discriminator_rate)
        # The tensors that likelihood began with, moved on by PPO with moments of its own.
        self.improving = Learned(self.models.generator, improve, rate, GRADIENT_NORM)
        self.critic = Learned(initial(Network((s + a, width, width, 1))), _value_loss, rate, GRADIENT_NORM)
        self.iteration = 0
        self.shots: dict[int, DynamicsReward] = {}

    @property
    def length(self) -> int:
        """Number of calls of `advance` in all."""
        return -(-self.settings.pretraining // PRETRAINING_BLOCK) + self.settings.iterations

    @property
    def done(self) -> int:
        """Number of calls of `advance` made."""
        return -(-self.models.steps // PRETRAINING_BLOCK) + self.iteration

    def advance(self) -> dict[str, float]:
        """Do a block of pre-training or an iteration; return what was measured."""
        left = self.settings.pretraining - self.models.steps
        if left > 0:
            self.models.pretrain(min(PRETRAINING_BLOCK, left))
            return {}
        return self._iterate()

    def result(self) -> DynamicsReward:
        """Return the snapshots that were kept, also useless ones."""
        return joined([self.shots[number] for number in sorted(self.shots)])

    def _iterate(self) -> dict[str, float]:
        settings = self.settings
        rollouts = self.models.play(self.improving.params).roll_out(settings.rollouts, settings.horizon, self.random)
        scaled = self.models.scaling.inputs(rollouts.observations, rollouts.actions, rollouts.following)
        fakes = scaled.flatten(0, 1)
        for _ in range(settings.discriminator_steps):
            self.discriminator.step(*self._opposed(fakes))
        newest = self._snapshot(fakes)
        self.iteration += 1
        if (settings.iterations - self.iteration) % settings.stride == 0:
            self.shots[self.iteration] = newest
            self.shots = {number: self.shots[number] for number in sorted(self.shots)[-settings.kept :]}
        facts = {"expert": float(newest.expert), "learner": float(newest.learner)}
        judges = self._judges(newest)
        return facts if judges is None else facts | self._improve(rollouts, judges)

    def _opposed(self, fakes: Tensor) -> tuple[Tensor, Tensor]:
        """Return a batch of real transitions and one of generated ones."""
        size, real = self.settings.batch_size, self.models.real
        return real[self.models.draw(len(real), size)], fakes[self.models.draw(len(fakes), size)]

    def _snapshot(self, fakes: Tensor) -> DynamicsReward:
        """Return a copy of the discriminator with its mean logits on real and on generated transitions."""
        return snapshot(self.discriminator.params, *self._opposed(fakes), self.models.scaling)

    def _judges(self, newest: DynamicsReward) -> DynamicsReward | None:
        """Return the newest snapshot and earlier ones, of those that can tell real from generated; None if none can."""
        earlier = [self.shots[number] for number in sorted(self.shots, reverse=True) if number < self.iteration]
        able = [shot for shot in (newest, *earlier) if bool(shot.expert > shot.learner)]
        count = min(self.settings.judges, len(able))
        return joined([able[number * len(able) // count] for number in range(count)]) if able else None

    def _improve(self, rollouts: Rollouts, judges: DynamicsReward) -> dict[str, float]:
        """Let PPO move the generator towards what the judges call real."""
        settings, scaling = self.settings, self.models.scaling
        rewards = judges(rollouts.observations, rollouts.actions, rollouts.following)
        pairs = scaling.pairs(rollouts.observations, rollouts.actions)
        after = scaling.pairs(rollouts.following, rollouts.following_actions)
        with torch.no_grad():
            values, next_values = (mlp(self.critic.params, x).squeeze(-1) for x in (pairs, after))
        gains = self._advantages(rewards, values, next_values, rollouts.ended)
        targets = (gains + values).flatten()
        gains = ((gains - gains.mean()) / (gains.std() + 1e-8)).flatten()
        pairs, changes = pairs.flatten(0, 1), rollouts.changes.flatten(0, 1)
        density = self._density(pairs, changes)
        passes = 0
        while passes < settings.epochs:
            passes += 1
            self._pass(pairs, changes, density, gains, targets)
            if float((density - self._density(pairs, changes)).mean()) > settings.kl:
                break
        return {"reward": float(rewards.mean()), "passes": float(passes)}

    def _advantages(self, rewards: Tensor, values: Tensor, next_values: Tensor, ended: Tensor) -> Tensor:
        r, v, w, done = (tensor.double().cpu().numpy() for tensor in (rewards, values, next_values, ended))
        # A rollout is cut off, never over: the state that follows still has a value.
        found = advantages(r, v, w, np.zeros_like(r), done, self.settings.discount, self.settings.trace)
        return torch.from_numpy(found).float().to(rewards.device)

    def _density(self, pairs: Tensor, changes: Tensor) -> Tensor:
        with torch.no_grad():
            return log_density(*heads(self.improving.params, pairs), changes)

    def _pass(self, pairs: Tensor, changes: Tensor, density: Tensor, gains: Tensor, targets: Tensor) -> None:
        size = min(self.settings.minibatch, len(pairs))
        order = torch.randperm(len(pairs), generator=self.random).to(pairs.device)
        for start in range(0, len(order) - size + 1, size):
            chosen = order[start : start + size]
            real = self.models.likelihood_rows()
            self.improving.step(pairs[chosen], changes[chosen], density[chosen], gains[chosen], *real)
            self.critic.step(pairs[chosen], targets[chosen])

    def compile(self, threads: int) -> None:
        """Compile the steps of all networks."""
        settings, models = self.settings, self.models
        models.compile(threads)
        rows = models.real[:1].expand(settings.batch_size, -1).clone()
        self.discriminator.compile((rows, rows), threads)
        size = min(settings.minibatch, settings.rollouts * settings.horizon)
        pairs, changes = models.pairs[:1].expand(size, -1).clone(), models.outputs[:1].expand(size, -1).clone()
        one = pairs.new_zeros(size)
        self.improving.compile((pairs, changes, one, one, *models.likelihood_rows()), threads)
        self.critic.compile((pairs, one), threads)

    @property
    def _parts(self) -> dict[str, Learned]:
        own = {"discriminator": self.discriminator, "improving": self.improving, "critic": self.critic}
        return {"fitting": self.models.fitting, "cloning": self.models.cloning} | own

    def state(self) -> dict[str, Tensor]:
        """Return a copy of everything that changes, by name."""
        own = {"iteration": torch.tensor(self.iteration), "random": self.random.get_state()}
        shots = {f"shot.{n}.{key}": t for n, shot in self.shots.items() for key, t in shot.tensors().items()}
        # Copies also because two parts share the generator's tensors, and no file takes a tensor twice.
        return {name: tensor.clone() for name, tensor in (own | parts_state(self._parts) | shots).items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned.

        Raises:
            KeyError: Something is missing.
        """
        shots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            kind, _, rest = name.partition(".")
            if kind == "shot":
                number, _, key = rest.partition(".")
                shots.setdefault(int(number), {})[key] = tensor
        device = self.models.device
        self.shots = {n: DynamicsReward.from_tensors(tensors, device) for n, tensors in sorted(shots.items())}
        restore_parts(self._parts, state)
        self.iteration = int(state["iteration"])
        self.random.set_state(state["random"].cpu())


def _value_loss(params: Params, inputs: Tensor, targets: Tensor) -> Tensor:
    return (mlp(params, inputs).squeeze(-1) - targets).square().mean()
