"""One network that says what an ensemble of discriminators says, at a fraction of the cost: for the filter of rollouts.

It learns, by least squares, the number y in [0, 1] with r_D = -log(1 - sigmoid(2 y - 1)) of candidates of a run's own
ensemble: at states of the data and a few steps on, at actions of the data with noise and at any others. Its answer is
clipped to [0, 1], so that a scorer is a dynamics reward of a single discriminator whose logits lie between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from offdyn_agents.engine.data import stream
from offdyn_agents.engine.networks import Params, mlp
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.stage_cache import Keep, Tensors, cached
from offdyn_agents.engine.stages import Advance, each_seed, shares
from offdyn_agents.models.dynamics_reward.discriminator import DynamicsReward, discriminator_network
from offdyn_agents.models.dynamics_reward.learned import Learned, falling
from offdyn_agents.models.dynamics_reward.settings import ScorerSettings
from offdyn_agents.models.ensemble.rollouts import Proposer

__all__ = ["Scored", "distil", "fit_scorers", "heights", "scorer_loss"]

NAME, VERSION = "dynamics-reward-scorer", 1
STEPS = 5
"""Steps that states are followed for."""
NOISE = 0.3
"""Standard deviation of what is added to half of the actions, as a share of what the data's actions span."""
HELD = 0.1
"""Share of the states whose candidates are kept to tell how well a scorer does."""


@dataclass(frozen=True)
class Scored:
    """What a scorer learns from.

    Attributes:
        inputs: What discriminators see of candidates, [C, N, 2 |S| + |A|].
        rewards: Their r_D, [C, N].
    """

    inputs: Tensor
    rewards: Tensor


def heights(rewards: Tensor) -> Tensor:
    """Return the number y of each r_D = -log(1 - sigmoid(2 y - 1)), in [0, 1] but for rounding."""
    # sigmoid(x) = 1 - exp(-r), so that x = log(exp(r) - 1).
    return 0.5 * (torch.log(torch.expm1(rewards)) + 1.0)


def scorer_loss(params: Params, inputs: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean squared error of outputs [B, 1] of inputs [B, .] from numbers [B]."""
    return (mlp(params, inputs).squeeze(-1) - wanted).square().mean()


def fit_scorers(
    settings: ScorerSettings,
    layout: Layout,
    tables: Sequence[Tensor],
    reward: DynamicsReward,
    proposers: Sequence[Proposer],
    seeds: Sequence[int],
    cache: Path | None,
    *,
    threads: int = 1,
    quiet: bool = True,
) -> list[tuple[DynamicsReward, dict[str, float]]]:
    """Train or find the scorer of every seed.

    Args:
        settings: How they are trained.
        layout: Layout of packed rows.
        tables: Packed rows [N, W] of the agent's datasets, in whose states rollouts start, as many in each.
        reward: What they learn; the same for all seeds.
        proposers: Draw the candidates of each seed.
        seeds: The seeds.
        cache: Folder of results; None keeps nothing.
        threads: CPU threads.
        quiet: Show no progress.

    Returns:
        For each seed the scorer, and on candidates that it has not seen: "correlation" with r_D, "within", the same
        among the candidates of one state, and "agreement", on which side of .6 they lie.
    """
    found: dict[int, tuple[DynamicsReward, dict[str, float]]] = {}
    device = tables[0].device

    def fit(seed: int, advance: Advance) -> None:
        propose = proposers[list(seeds).index(seed)]
        generator = torch.Generator().manual_seed(stream(seed, "scorer"))
        each = settings.starts // len(tables)
        picks = [torch.randint(len(rows), (each,), generator=generator).to(device) for rows in tables]
        starts = torch.cat([rows[pick] for rows, pick in zip(tables, picks, strict=True)])

        def compute(missing: list[int], keep: Keep) -> None:
            for number in missing:
                keep(number, distil(settings, layout, starts, reward, propose, generator))

        known = [starts, *reward.tensors().values(), *propose.ensemble.tensors().values(), propose.best]
        (tensors,) = cached(NAME, settings, known, [seed], cache, compute, VERSION)
        facts = {key: float(tensors[key]) for key in ("correlation", "within", "agreement")}
        found[seed] = DynamicsReward.from_tensors(tensors, device), facts
        advance(1)

    each_seed("scorers", 1, seeds, fit, shares(device, threads, seeds), quiet)
    return [found[seed] for seed in seeds]


def distil(
    settings: ScorerSettings,
    layout: Layout,
    starts: Tensor,
    reward: DynamicsReward,
    propose: Proposer,
    generator: torch.Generator,
) -> Tensors:
    """Train one scorer.

    Args:
        settings: How.
        layout: Layout of packed rows.
        starts: Packed rows [N, W] in whose states candidates are asked for.
        reward: What it learns.
        propose: Draws candidates.
        generator: Draws everything.

    Returns:
        Its tensors by name, and how well it does; see `fit_scorers`.
    """
    states, actions, *_ = layout.split(starts[torch.randperm(len(starts), generator=generator).to(starts.device)])
    data = candidates(reward, propose, states, actions, generator)
    held = max(1, round(HELD * data.rewards.shape[1]))
    inputs, wanted = data.inputs[:, held:].flatten(0, 1), heights(data.rewards[:, held:].flatten())
    s, a = states.shape[1], actions.shape[1]
    initial = discriminator_network(s, a, width=settings.width).initial(generator)
    learned = Learned([tensor.to(starts.device) for tensor in initial], scorer_loss, settings.learning_rate)
    for step in range(settings.updates):
        learned.rate = falling(settings.learning_rate, step / settings.updates)
        rows = torch.randint(len(inputs), (settings.batch_size,), generator=generator).to(starts.device)
        learned.step(inputs[rows], wanted[rows])
    one = torch.ones(1, device=starts.device)
    scorer = DynamicsReward([t.detach()[None] for t in learned.params], one, torch.zeros_like(one), reward.scaling)
    scores = scorer.seen(data.inputs[:, :held])
    return {**scorer.tensors(), **_agreement(scores, data.rewards[:, :held])}


def candidates(
    reward: DynamicsReward, propose: Proposer, states: Tensor, actions: Tensor, generator: torch.Generator
) -> Scored:
    """Ask for candidates at states [N, |S|], a fifth of them after 0 to 4 steps each, and at actions near or far.

    Args:
        reward: Judges them.
        propose: Draws them.
        states: Of the data, in any order.
        actions: Of the data in these states, [N, |A|].
        generator: Draws everything.
    """
    low, high = actions.amin(0), actions.amax(0)
    inputs: list[Tensor] = []
    rewards: list[Tensor] = []
    with torch.no_grad():
        for number, (part, own) in enumerate(zip(states.chunk(STEPS), actions.chunk(STEPS), strict=True)):
            here = part
            for _ in range(number):
                drawn = propose(here, _acts(own, low, high, generator), generator).next_observations
                here = drawn[0]
            acts = _acts(own, low, high, generator)
            following = propose(here, acts, generator).next_observations
            count = len(following)
            seen = reward.scaling.inputs(here.expand(count, -1, -1), acts.expand(count, -1, -1), following)
            inputs.append(seen)
            rewards.append(reward.seen(seen))
    order = torch.randperm(len(states), generator=generator).to(states.device)
    return Scored(torch.cat(inputs, 1)[:, order], torch.cat(rewards, 1)[:, order])


def _acts(own: Tensor, low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
    """Return actions: of every four rows one with its own, one with noise on it, and two with any."""
    span = high - low
    noisy = own + NOISE * span * torch.randn(own.shape, generator=generator).to(own.device)
    free = low + span * torch.rand(own.shape, generator=generator).to(own.device)
    kind = torch.randint(4, (len(own), 1), generator=generator).to(own.device)
    return torch.where(kind == 0, own, torch.where(kind == 1, noisy.clamp(low, high), free))


def _agreement(scores: Tensor, rewards: Tensor) -> Tensors:
    from offdyn_agents.models.dynamics_reward.conditions import THRESHOLD, correlation

    a, b = scores.double(), rewards.double()
    return {
        "correlation": correlation(a.reshape(-1, 1), b.reshape(-1, 1))[0],
        "within": correlation(a, b).mean(),
        "agreement": ((a >= THRESHOLD) == (b >= THRESHOLD)).double().mean(),
    }
