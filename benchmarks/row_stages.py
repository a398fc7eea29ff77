"""What the stages of methods that judge rows before the policy cost: their trainings, and what is said of every row.

Whatever an agent's `stages` does is measured, so that nothing here knows of methods. Trainings are told and left out
while `stages` runs on a few rows; each is then timed by some of its steps at full size. What is left grows with the
rows and is extrapolated from the difference between two numbers of them, for one seed and for two: some of it is done
once for all seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from training_peers import Work

from offdyn_agents.engine.agent import Agent
from offdyn_agents.engine.execution import threads_inside
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.stages import StageContext, StageResults
from offdyn_agents.models import clusters
from offdyn_agents.models.ensemble.model import Ensemble, ensemble_network, initial_ensemble
from offdyn_agents.models.ensemble.settings import GaussianSettings
from offdyn_agents.models.ensemble.training import EnsembleLearner
from offdyn_agents.models.short_training import Fit, Learner, ShortTraining

ROWS, SURE = 1000, 1.0
"""Source rows of a slice, and of one twice as large; four times as many where they differ by fewer seconds than it."""
STEPS = 200
"""Steps of a training that are timed."""
Trained = Callable[[Callable[[int], Any]], float]
"""Takes a training of a seed; returns the seconds of one, of as many as threads on cores that are free."""
Seen = list[ShortTraining | clusters.ClusterSettings | GaussianSettings]
"""Trainings that were left out."""


def untrained_ensemble(settings: GaussianSettings, layout: Layout) -> Ensemble:
    """Return an ensemble as it is before it is trained."""
    network = ensemble_network(settings, layout.observation_dim, layout.action_dim)
    params = initial_ensemble(settings, network, torch.Generator().manual_seed(0))
    whole = [tensor.expand(settings.members, *tensor.shape[1:]).contiguous() for tensor in params]
    width = layout.observation_dim + layout.action_dim
    return Ensemble(whole, torch.zeros(width), torch.ones(width), torch.arange(settings.members))


@contextmanager
def untrained(seen: Seen) -> Iterator[None]:
    """Leave trainings out, but tell which they are; networks stay as they are at first, and centres are any rows."""

    def fit(self: Learner, source: Tensor, target: Tensor, seed: int, *rest: object) -> Fit:
        del source, target, rest
        seen.append(self.training)
        size = sum(self.lengths.values())
        return Fit(self._named(self._initial(torch.Generator().manual_seed(seed))[:size]))

    def k_means(points: Tensor, settings: clusters.ClusterSettings, *rest: object) -> Tensor:
        del rest
        seen.append(settings)
        return points[: settings.clusters]

    def ensemble(self: EnsembleLearner, *rest: object, **more: object) -> Ensemble:
        del rest, more
        seen.append(self.settings)
        return untrained_ensemble(self.settings, self.layout)

    left_out = (Learner, "fit", fit), (EnsembleLearner, "fit", ensemble), (clusters, "k_means", k_means)
    with ExitStack() as stack:
        for place, name, function in left_out:
            stack.enter_context(mock.patch.object(place, name, function))
        yield


def judged(agent: Agent, source: Tensor, target: Tensor, seeds: int, threads: int) -> tuple[float, StageResults]:
    """Return the processor seconds of an agent's stages on some rows over the number of threads, and their results."""
    layout, numbers = Work.layout(agent), tuple(range(seeds))
    # So many updates that what is predicted of rows is worth keeping.
    context = StageContext(layout, source, target, numbers, 1_000_000, threads=threads, compiled=False)
    with threads_inside(threads):
        begun = time.process_time()
        results = agent.stages(context)
        return (time.process_time() - begun) / threads, results


def says_something(results: StageResults) -> bool:
    """Whether an agent's stages say anything of source rows."""
    return bool(results.predicted or any(column.named() for column in results.columns))


def measure_rows(agent: Agent, source: Tensor, target: Tensor, seeds: int, threads: int) -> tuple[float | None, Seen]:
    """Return the seconds that one more source row takes for all seeds, None where nothing is said, and the trainings.

    Args:
        agent: The agent.
        source: Packed source rows, `2 * ROWS` of them or more.
        target: Packed target rows, all of them.
        seeds: Number of seeds.
        threads: CPU threads.
    """
    seen: Seen = []
    with untrained(seen):
        results = judged(agent, source[:ROWS], target, 1, threads)[1]
        trainings = list(seen)
        if not says_something(results):
            return None, trainings

        def as_many_again(rows: int, count: int) -> float:
            one, two = (judged(agent, source[:many], target, count, threads)[0] for many in (rows, 2 * rows))
            return two - one

        rows, one = ROWS, as_many_again(ROWS, 1)
        # What takes a moment would drown in all that does not grow with the rows.
        while one < SURE and 8 * rows <= len(source):
            rows *= 4
            one = as_many_again(rows, 1)
        two = as_many_again(rows, 2)
    return max(one + (seeds - 1) * max(two - one, 0.0), 0.0) / rows, trainings


def measure_step(training: ShortTraining, source: Tensor, target: Tensor, trained: Trained) -> float:
    """Return the seconds of one step of a training of one seed.

    Args:
        training: What is trained.
        source: Packed source rows.
        target: Packed target rows.
        trained: Runs and times it.
    """
    few = replace(training, updates=min(STEPS, training.updates), holdout=0.0)
    learner = Learner(few, target.device)
    learner.warm_up(source, target)
    return trained(lambda seed: learner.fit(source, target, seed)) / few.updates


def measure_clusters(settings: clusters.ClusterSettings, points: Tensor, trained: Trained) -> float:
    """Return the seconds of finding the clusters of one seed, at most: of random points, which seldom settle early.

    Args:
        settings: How they are found.
        points: Standardised points of a slice.
        trained: Runs and times it.
    """
    few = replace(settings, restarts=1)

    def find(seed: int) -> Tensor:
        return clusters.k_means(points, few, torch.Generator().manual_seed(seed), lambda *_, **__: None)

    return trained(find) * settings.restarts * settings.fitted_rows / len(points)
