"""Fitted Q evaluation: what deterministic policies are worth, from logged transitions alone.

Of every policy a few Q networks are trained on r + discount m Q'(s', pi(s')), each on a bootstrap of the episodes, all
of them side by side. The answer is the mean of Q(s0, pi(s0)) over the first states of episodes that were held out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offdyn_agents.engine.data import stream
from offdyn_agents.engine.networks import Network, Params, mlp, stack
from offdyn_agents.engine.products import threads_inside
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.settings import setting
from offdyn_envs.errors import OffDynError

__all__ = ["CAUTION", "FQESettings", "Policy", "Values", "evaluate_policies", "logged_returns"]

Policy = Callable[[NDArray[Any]], NDArray[Any]]
"""Maps observations [B, |S|] to actions [B, |A|] in [-1, 1]."""
CAUTION = 2.0
"""By how many standard deviations of a policy's copies its value is lowered where policies are compared.

Copies disagree about actions that nobody has logged; chosen on Hopper, see docs/results/offline-evaluation.md.
"""
CHUNK = 16_384


@dataclass(frozen=True)
class FQESettings:
    """How policies are evaluated.

    Attributes:
        discount: Discount of the values.
        copies: Q networks of each policy, each on a bootstrap of the episodes to learn from.
        width: Width of the two hidden layers.
        warm_updates: Updates before, in which the networks learn the returns of the data themselves, for all policies
            alike: from zero, values would need several times as long.
        updates: Updates.
        batch_size: Rows of a batch of every network.
        learning_rate: Adam's step size at the beginning; it falls to 0 along a cosine.
        polyak: Share of the network in its averaged copy after an update. Values need about
            1 / (polyak (1 - discount)) updates to settle.
        held_share: Share of the episodes that is held out.
    """

    discount: float = setting(0.99, low=0.0, high=0.9999)
    copies: int = setting(4, low=1)
    width: int = setting(64, low=1)
    warm_updates: int = setting(1000, low=0)
    updates: int = setting(1500, low=1)
    batch_size: int = setting(256, low=1)
    learning_rate: float = setting(1e-3, low=0.0, open_low=True)
    polyak: float = setting(0.2, low=0.0, high=1.0, open_low=True)
    held_share: float = setting(0.2, low=0.0, high=0.9, open_low=True)


@dataclass(frozen=True)
class Values:
    """What policies are worth, P policies, K copies, E episodes.

    Attributes:
        starts: Q(s0, pi(s0)) in the first state of each episode, [P, K, E].
        held: Which episodes were held out, bool [E].
        error: Root of the mean squared error of r + discount m Q'(s', pi(s')) on held-out rows, in units of the
            rewards, [P].
    """

    starts: NDArray[np.float64]
    held: NDArray[np.bool_]
    error: NDArray[np.float64]


class _Evaluation:
    """The networks of one evaluation, and the rows that they learn from."""

    def __init__(
        self,
        rows: Tensor,
        layout: Layout,
        lengths: NDArray[np.int64],
        actions: Tensor,
        settings: FQESettings,
        seed: int,
    ) -> None:
        self.settings, self.policies = settings, len(actions)
        observations, logged, following, rewards, continues = layout.split(rows)
        self.held = held_out(len(lengths), settings.held_share, seed)
        self.held_rows = torch.from_numpy(np.repeat(self.held, lengths))
        some = observations[~self.held_rows].double()
        mean, deviation = some.mean(0).float(), some.std(0, correction=0).clamp(min=1e-3).float()
        self.pairs = torch.cat([(observations - mean) / deviation, logged], dim=-1)
        self.following, self.actions = (following - mean) / deviation, actions
        learned = rewards[~self.held_rows]
        # Values of about 1, whatever the rewards are.
        self.scale = float(learned.abs().mean().clamp(min=1e-6)) / (1.0 - settings.discount)
        self.rewards, self.discounts = rewards / self.scale, settings.discount * continues
        worst, best = (float(value) / self.scale / (1.0 - settings.discount) for value in learned.aminmax())
        # No policy is worth more than the best reward for ever, or less than the worst.
        self.bounds = (min(worst, 0.0), max(best, 0.0))
        self.drawn = self._bootstraps(lengths, seed)
        network = Network((layout.observation_dim + layout.action_dim, settings.width, settings.width, 1))
        copies = [
            network.initial(torch.Generator().manual_seed(stream(seed, "fqe", copy))) for copy in range(settings.copies)
        ]
        self.params: Params = stack(copies)

    def _bootstraps(self, lengths: NDArray[np.int64], seed: int) -> list[Tensor]:
        """Return, for each copy, the rows of a bootstrap of the episodes to learn from."""
        rng = np.random.default_rng(stream(seed, "fqe episodes"))
        firsts = np.cumsum(lengths) - lengths
        kept = np.flatnonzero(~self.held)
        found: list[Tensor] = []
        for _ in range(self.settings.copies):
            # A single copy learns from all of them: a bootstrap would only lose rows.
            chosen = rng.choice(kept, len(kept)) if self.settings.copies > 1 else kept
            rows = np.concatenate(
                [np.arange(firsts[episode], firsts[episode] + lengths[episode]) for episode in chosen]
            )
            found.append(torch.from_numpy(rows))
        return found

    def train(self, returns: Tensor, seed: int, report: Callable[[int, float], None]) -> Params:
        """Train all networks and return their averaged copies.

        Args:
            returns: Discounted returns from each row on, [N], in units of the rewards.
            seed: Decides the batches.
            report: Called with the updates done and the error.
        """
        settings = self.settings
        generator = torch.Generator().manual_seed(stream(seed, "fqe rows"))
        scaled = returns / self.scale

        def logged(done: int) -> Tensor:
            rows = self._draw(generator)
            return (_q(self.params, self.pairs[rows]) - scaled[rows]).square().mean(-1)

        self._descend(logged, settings.warm_updates)
        # Every policy begins with the same networks: that they differ in the end is the policies' own.
        self.params = [tensor.repeat(self.policies, *[1] * (tensor.dim() - 1)) for tensor in self.params]
        averaged = [tensor.clone() for tensor in self.params]

        def fitted(done: int) -> Tensor:
            if done:
                for average, tensor in zip(averaged, self.params, strict=True):
                    average.lerp_(tensor.detach(), settings.polyak)
            rows = self._draw(generator)
            targets = self._targets(averaged, rows)
            error = (_q(self.params, self._repeated(self.pairs[rows])) - targets).square().mean(-1)
            if done % 100 == 0:
                report(done, float(error.detach().mean()))
            return error

        self._descend(fitted, settings.updates)
        return averaged

    def _draw(self, generator: torch.Generator) -> Tensor:
        """Return rows [K, B], each copy's from its own bootstrap."""
        size = self.settings.batch_size
        return torch.stack([some[torch.randint(len(some), (size,), generator=generator)] for some in self.drawn])

    def _descend(self, error: Callable[[int], Tensor], updates: int) -> None:
        """Minimise the errors of all networks [n] for some updates; they get the number of updates done."""
        for tensor in self.params:
            tensor.requires_grad_(True)
        descent = torch.optim.Adam(self.params, lr=self.settings.learning_rate)
        rates = torch.optim.lr_scheduler.CosineAnnealingLR(descent, max(1, updates))
        for done in range(updates):
            descent.zero_grad()
            error(done).sum().backward()
            descent.step()
            rates.step()
        for tensor in self.params:
            tensor.requires_grad_(False)

    def _targets(self, averaged: Params, rows: Tensor) -> Tensor:
        """Return r + discount m Q'(s', pi(s')) [P K, B] of rows [K, B]."""
        with torch.no_grad():
            following = self._repeated(self.following[rows])
            acted = self.actions[:, rows].flatten(0, 1)
            values = _q(averaged, torch.cat([following, acted], dim=-1)).clamp(*self.bounds)
            return self._repeated(self.rewards[rows]) + self._repeated(self.discounts[rows]) * values

    def _repeated(self, values: Tensor) -> Tensor:
        """Return what all policies share [K, ...] once for each, [P K, ...]."""
        return values.expand(self.policies, *values.shape).flatten(0, 1)

    def error(self, averaged: Params) -> NDArray[np.float64]:
        """Return the error on held-out rows, see `Values`."""
        numbers = self.held_rows.nonzero().squeeze(1)
        squares = torch.zeros(len(averaged[0]), dtype=torch.float64)
        with torch.no_grad():
            for some in numbers.split(max(1, CHUNK // self.settings.copies)):
                rows = some.expand(self.settings.copies, -1)
                missed = _q(averaged, self._repeated(self.pairs[rows])) - self._targets(averaged, rows)
                squares += missed.double().square().sum(-1)
        roots = (squares / len(numbers)).sqrt().view(self.policies, -1).mean(1) * self.scale
        return roots.numpy()

    def values(self, averaged: Params, firsts: Tensor, actions: Tensor) -> NDArray[np.float64]:
        """Return Q(s0, pi(s0)) [P, K, E] for first rows [E] and actions [P, E, |A|]."""
        states = self.pairs[firsts, : self.following.shape[1]]
        pairs = torch.cat([states.expand(self.policies, -1, -1), actions], dim=-1)
        pairs = pairs.repeat_interleave(self.settings.copies, 0)
        with torch.no_grad():
            found = _q(averaged, pairs).clamp(*self.bounds).double() * self.scale
        return found.view(self.policies, self.settings.copies, -1).numpy()


def _q(params: Params, pairs: Tensor) -> Tensor:
    """Return the values [n, B] of standardised pairs [n, B, |S| + |A|].

    Hidden layers are normalised: without that, values of actions that nobody has logged run away.
    """
    return mlp(params, pairs, lambda x: torch.relu(torch.nn.functional.layer_norm(x, x.shape[-1:]))).squeeze(-1)


def held_out(episodes: int, share: float, seed: int) -> NDArray[np.bool_]:
    """Return which of so many episodes are held out, bool [E]: about a share of them, at least one.

    Raises:
        OffDynError: There is one episode only.
    """
    if episodes < 2:
        raise OffDynError(f"offline evaluation: {episodes} target episode; at least 2 are needed to hold one out")
    held = np.zeros(episodes, dtype=bool)
    count = min(max(1, round(share * episodes)), episodes - 1)
    held[np.random.default_rng(stream(seed, "held-out episodes")).permutation(episodes)[:count]] = True
    return held


def evaluate_policies(
    policies: Sequence[Policy],
    rows: Tensor,
    layout: Layout,
    lengths: NDArray[np.int64],
    settings: FQESettings | None = None,
    *,
    seed: int = 0,
    threads: int = 1,
    quiet: bool = True,
    title: str = "fitted Q evaluation",
) -> Values:
    """Evaluate policies on logged transitions, all of them side by side on the same draws.

    Args:
        policies: P policies.
        rows: Packed rows [N, W] on the CPU, episodes in order.
        layout: Layout of packed rows.
        lengths: Rows of each episode, [E].
        settings: How.
        seed: Decides which episodes are held out, initial parameters, bootstraps and batches.
        threads: CPU threads.
        quiet: Show no progress.
        title: What the progress line says.

    Returns:
        The values.

    Raises:
        OffDynError: There are fewer than two episodes, a policy's actions are not finite, or the evaluation diverged.
    """
    from offdyn_envs.progress import progress

    terms = settings or FQESettings()
    observations, _, following, *_ = layout.split(rows)
    lengths = np.asarray(lengths, dtype=np.int64)
    firsts = torch.from_numpy(np.cumsum(lengths) - lengths)
    with threads_inside(threads):
        evaluation = _Evaluation(rows, layout, lengths, _actions(policies, following), terms, seed)
        with progress(title, terms.updates, quiet=quiet) as advance:
            before = 0

            def report(done: int, error: float) -> None:
                nonlocal before
                advance(done - before, error=error)
                before = done

            averaged = evaluation.train(
                torch.from_numpy(logged_returns(rows, layout, lengths, terms.discount)).float(), seed, report
            )
        starts = evaluation.values(averaged, firsts, _actions(policies, observations[firsts]))
        if not np.isfinite(starts).all():
            raise OffDynError("offline evaluation: a value is not finite; other settings are needed")
        return Values(starts, evaluation.held, evaluation.error(averaged))


def logged_returns(rows: Tensor, layout: Layout, lengths: NDArray[np.int64], discount: float) -> NDArray[np.float64]:
    """Return the discounted returns from each row to its episode's end, [N].

    Where an episode was cut it is taken to go on with its mean reward.
    """
    *_, rewards, continues = layout.split(rows)
    found = np.empty(len(rows))
    ends = np.cumsum(lengths)
    told, going = rewards.double().numpy(), continues.numpy()
    for first, last in zip(ends - lengths, ends, strict=True):
        rest = going[last - 1] * told[first:last].mean() / (1.0 - discount)
        for row in range(last - 1, first - 1, -1):
            found[row] = rest = told[row] + discount * rest
    return found


def _actions(policies: Sequence[Policy], observations: Tensor) -> Tensor:
    """Return the actions of policies, float32 [P, N, |A|], clipped to [-1, 1] as the environments do."""
    states = observations.numpy()
    found = np.stack(
        [
            np.concatenate([np.asarray(policy(states[i : i + CHUNK])) for i in range(0, len(states), CHUNK)])
            for policy in policies
        ]
    ).astype(np.float32)
    if not np.isfinite(found).all():
        raise OffDynError("offline evaluation: a policy's action is not finite; finite ones are allowed")
    return torch.from_numpy(found.clip(-1.0, 1.0))
