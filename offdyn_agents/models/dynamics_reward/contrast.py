"""Noise contrast: discriminators against next states drawn around the real ones, at the real rows' own (s, a).

    s'_fake = mean(s, a) + k sigma(s, a) eps,   eps ~ N(0, 1),   log k uniform between 0 and log `spread`,

with mean and sigma of Gaussian generators that are fitted by likelihood. Nothing about the state gives a fake away, so
that the reward cannot learn where the data are, which under other policies points where the model errs anyway. This
departs from the method, whose fakes are rollouts of a generator trained by PPO (`offdyn_agents.models.dynamics_reward.
training`), as do the inputs in units that show a small error. Of an off-dynamics pair a share of the fakes is what a
generator of SOURCE rows says at the same target (s, a): the reward learns what the target does not do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from offdyn_agents.engine.data import stream
from offdyn_agents.engine.networks import Network, Params
from offdyn_agents.engine.rows import Layout
from offdyn_agents.models.dynamics_reward.discriminator import (
    DynamicsReward,
    Scaling,
    discriminator_loss,
    discriminator_network,
    joined,
    snapshot,
)
from offdyn_agents.models.dynamics_reward.generator import heads, likelihood_loss
from offdyn_agents.models.dynamics_reward.inputs import Inputs, Standardised, standard_units
from offdyn_agents.models.dynamics_reward.learned import Learned, falling
from offdyn_agents.models.dynamics_reward.models import (
    GRADIENT_NORM,
    LIKELIHOOD_ROWS,
    Part,
    parts_state,
    restore_parts,
)
from offdyn_agents.models.dynamics_reward.settings import DynamicsRewardSettings

__all__ = ["Guesses", "NoiseContrast", "seen_as", "widened"]

BLOCK = 100
"""Steps at a time."""
FIRST_COPY = 10
"""Steps of likelihood after which the first copy of a generator is taken."""


def seen_as(settings: DynamicsRewardSettings, observations: Tensor, actions: Tensor, following: Tensor) -> Inputs:
    """Return how discriminators see transitions, by real ones [N, .]."""
    real = (observations, actions, following)
    if settings.inputs == "raw":
        return Scaling.of(*real, settings.changes)
    return Standardised.of(*real, settings.inputs, settings.eigenvalue_floor)


def widened(mean: Tensor, log_std: Tensor, uniform: Tensor, normal: Tensor, spread: float) -> Tensor:
    """Return mean + k sigma eps with k = spread^uniform, [*shape, n].

    Args:
        mean: [*shape, n].
        log_std: Logarithm of sigma, likewise.
        uniform: Numbers in [0, 1], one for all numbers of a row, [*shape, 1].
        normal: eps, [*shape, n].
        spread: The largest k; the smallest is 1.
    """
    return mean + (uniform * math.log(spread) + log_std).exp() * normal


class Guesses:
    """A Gaussian over the change of the state, fitted by likelihood, with copies of it along the way.

    Args:
        settings: How it is trained.
        layout: Layout of packed rows.
        rows: Packed rows [N, W] to learn from.
        random: Draws everything.
    """

    def __init__(self, settings: DynamicsRewardSettings, layout: Layout, rows: Tensor, random: torch.Generator) -> None:
        self.settings, self.layout, self.rows, self.random = settings, layout, rows, random
        states, actions, following, *_ = layout.split(rows)
        self.units = standard_units(torch.cat([states, actions], dim=-1))
        self.change = standard_units(following - states)
        s, a, width = layout.observation_dim, layout.action_dim, settings.width
        initial = Network((s + a, width, width, 2 * s)).initial(random)
        rate = settings.guess_rate
        self.fitting = Learned([t.to(rows.device) for t in initial], likelihood_loss, rate, GRADIENT_NORM)
        self.copies: list[Params] = []

    @property
    def length(self) -> int:
        """Number of calls of `advance` in all."""
        return -(-self.settings.guess_updates // BLOCK)

    @property
    def done(self) -> int:
        """Number of calls of `advance` made."""
        return -(-self.fitting.steps // BLOCK)

    @property
    def milestones(self) -> list[int]:
        """Steps after which copies are taken, growing geometrically up to the last step; few steps give few copies."""
        last, count = self.settings.guess_updates, self.settings.guesses
        first = min(FIRST_COPY, last)
        # Early steps change a generator most.
        return sorted({round(last * (first / last) ** (number / max(1, count - 1))) for number in range(count)})

    def advance(self) -> None:
        """Take a block of steps."""
        milestones = self.milestones
        for _ in range(min(BLOCK, self.settings.guess_updates - self.fitting.steps)):
            self.fitting.step(*self._batch())
            if self.fitting.steps in milestones:
                self.copies.append([tensor.clone() for tensor in self.fitting.params])

    def _batch(self) -> tuple[Tensor, Tensor]:
        states, actions, following = self.some(LIKELIHOOD_ROWS)
        return self._pairs(states, actions), (following - states - self.change[0]) / self.change[1]

    def some(self, count: int) -> tuple[Tensor, ...]:
        """Return s, a and s' of rows drawn with replacement, [count, .] each."""
        chosen = self.rows[torch.randint(len(self.rows), (count,), generator=self.random).to(self.device)]
        return self.layout.split(chosen)[:3]

    def _pairs(self, states: Tensor, actions: Tensor) -> Tensor:
        return (torch.cat([states, actions], dim=-1) - self.units[0]) / self.units[1]

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.rows.device

    def draw(self, states: Tensor, actions: Tensor, spread: float) -> Tensor:
        """Draw next states [B, |S|] at states [B, |S|] and actions [B, |A|], an equal share from every copy."""
        pairs = self._pairs(states, actions)
        # Rows are drawn at random already, so that it does not matter which copy speaks at which.
        parts = zip(self.copies, pairs.tensor_split(len(self.copies)), strict=True)
        with torch.no_grad():
            means, log_stds = (torch.cat(part) for part in zip(*(heads(*part) for part in parts), strict=True))
        uniform = torch.rand(len(pairs), 1, generator=self.random).to(self.device)
        normal = torch.randn(states.shape, generator=self.random).to(self.device)
        changes = widened(means, log_stds, uniform, normal, spread)
        return states + self.change[0] + self.change[1] * changes

    def compile(self, threads: int) -> None:
        """Compile the step."""
        self.fitting.compile(self._batch(), threads)

    def state(self) -> dict[str, Tensor]:
        """Return everything that changes, by name."""
        copies = {f"copy.{n}.{i}": t for n, copy in enumerate(self.copies) for i, t in enumerate(copy)}
        return self.fitting.state() | copies

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned.

        Raises:
            KeyError: Something is missing.
        """
        self.fitting.restore(state)
        count = sum(step <= self.fitting.steps for step in self.milestones)
        places = range(len(self.fitting.params))
        self.copies = [[state[f"copy.{n}.{i}"].to(self.device) for i in places] for n in range(count)]


class NoiseContrast:
    """The discriminator, the generators whose next states it is shown, and where their training stands.

    Args:
        settings: How they are trained.
        layout: Layout of packed rows.
        rows: Packed real rows [N, W] to learn from.
        seed: Decides everything that is drawn.
        source: Packed source rows [M, W], of whose generator a share of the fakes is drawn; None in a single domain.
    """

    def __init__(
        self,
        settings: DynamicsRewardSettings,
        layout: Layout,
        rows: Tensor,
        seed: int = 0,
        source: Tensor | None = None,
    ) -> None:
        self.settings, self.layout, self.rows = settings, layout, rows
        self.random = torch.Generator().manual_seed(stream(seed, "dynamics-reward"))
        self.scaling = seen_as(settings, *layout.split(rows)[:3])
        network = discriminator_network(layout.observation_dim, layout.action_dim, width=settings.discriminator_width)
        judge = partial(discriminator_loss, entropy=settings.entropy)
        initial = [tensor.to(rows.device) for tensor in network.initial(self.random)]
        self.discriminator = Learned(initial, judge, settings.discriminator_rate)
        self.guesses = {"target": Guesses(settings, layout, rows, self.random)}
        if source is not None and len(source):
            self.guesses["source"] = Guesses(settings, layout, source, self.random)
        self.shots: list[DynamicsReward] = []

    @property
    def length(self) -> int:
        """Number of calls of `advance` in all."""
        return sum(guesses.length for guesses in self.guesses.values()) - (-self.settings.updates // BLOCK)

    @property
    def done(self) -> int:
        """Number of calls of `advance` made."""
        return sum(guesses.done for guesses in self.guesses.values()) - (-self.discriminator.steps // BLOCK)

    @property
    def milestones(self) -> list[int]:
        """Steps of the discriminator after which snapshots are taken: evenly over the second half."""
        last, count = self.settings.updates, self.settings.snapshots
        return sorted({last - number * (last - last // 2) // count for number in range(count)})

    def advance(self) -> dict[str, float]:
        """Let a generator or, when these are done, the discriminator take some steps; return what was measured."""
        for guesses in self.guesses.values():
            if guesses.done < guesses.length:
                guesses.advance()
                return {}
        settings, milestones = self.settings, self.milestones
        for _ in range(min(BLOCK, settings.updates - self.discriminator.steps)):
            gone = self.discriminator.steps / settings.updates
            self.discriminator.rate = falling(settings.discriminator_rate, gone)
            self.discriminator.step(*self._noisy(*self.opposed(settings.batch_size)))
            if self.discriminator.steps in milestones:
                self.shots.append(self._snapshot())
        if not self.shots:
            return {}
        return {"expert": float(self.shots[-1].expert), "learner": float(self.shots[-1].learner)}

    def opposed(self, count: int) -> tuple[Tensor, Tensor]:
        """Return what the discriminator sees of `count` real transitions and of as many fakes at the same (s, a)."""
        states, actions, following = self.guesses["target"].some(count)
        share = round(self.settings.source_fakes * count) if "source" in self.guesses else 0
        parts = {
            "target": (slice(share, None), self.settings.spread),
            "source": (slice(share), self.settings.source_spread),
        }
        fakes = [
            self.guesses[name].draw(states[rows], actions[rows], spread)
            for name, (rows, spread) in reversed(parts.items())
            if name in self.guesses
        ]
        see = self.scaling.inputs
        return see(states, actions, following), see(states, actions, torch.cat(fakes))

    def _noisy(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        noise = self.settings.input_noise
        if not noise:
            return inputs
        return tuple(x + noise * torch.randn(x.shape, generator=self.random).to(x.device) for x in inputs)

    def _snapshot(self) -> DynamicsReward:
        """Return a copy of the discriminator with its mean logits on real rows and on fakes."""
        return snapshot(self.discriminator.params, *self.opposed(self.settings.batch_size), self.scaling)

    def result(self) -> DynamicsReward:
        """Return the snapshots, also useless ones."""
        return joined(self.shots)

    def compile(self, threads: int) -> None:
        """Compile the steps of all networks; nothing is drawn by that."""
        state = self.random.get_state()
        for guesses in self.guesses.values():
            guesses.compile(threads)
        self.random.set_state(state)
        rows = self.scaling.inputs(*self.layout.split(self.rows[:1])[:3]).expand(self.settings.batch_size, -1).clone()
        self.discriminator.compile((rows, rows.clone()), threads)

    @property
    def _parts(self) -> dict[str, Part]:
        return {"discriminator": self.discriminator, **self.guesses}

    def state(self) -> dict[str, Tensor]:
        """Return a copy of everything that changes, by name."""
        own = {"random": self.random.get_state()} | parts_state(self._parts)
        if self.shots:
            own |= {f"shots.{key}": tensor for key, tensor in self.result().tensors().items()}
        return {name: tensor.clone() for name, tensor in own.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned.

        Raises:
            KeyError: Something is missing.
        """
        restore_parts(self._parts, state)
        shots = {key.removeprefix("shots."): t for key, t in state.items() if key.startswith("shots.")}
        if shots:
            found = DynamicsReward.from_tensors(shots, self.rows.device)
            self.shots = [found.where(torch.tensor([n], device=self.rows.device)) for n in range(len(found))]
        self.random.set_state(state["random"].cpu())
