"""Small datasets and agents without a simulator."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from offdyn_agents.algorithms.registry import agent_class
from offdyn_agents.engine.rows import Batch
from offdyn_agents.engine.settings import build
from offdyn_agents.engine.update import initial_population

S, A = 5, 2


class Killed(Exception):
    """Stops a training as hard as one process can stop itself."""


@contextmanager
def killed_at(monkeypatch, updates):
    """Whatever trains in the block must reach this update, and dies there."""
    from offdyn_agents.engine.training.module import PopulationModule

    real = PopulationModule.training_step

    def step(self, batch, batch_idx):
        if self.updates_done >= updates:
            raise Killed
        real(self, batch, batch_idx)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(PopulationModule, "training_step", step)
        yield


@contextmanager
def first_updates(monkeypatch):
    """Give the list of how many updates there were before each chunk that is trained in the block: none twice."""
    from offdyn_agents.engine.training.module import PopulationModule

    real, begun = PopulationModule.training_step, []

    def step(self, batch, batch_idx):
        before = self.updates_done
        real(self, batch, batch_idx)
        if self.updates_done > before:
            begun.append(before)

    with monkeypatch.context() as patch:
        patch.setattr(PopulationModule, "training_step", step)
        yield begun


def dataset(rows, seed, noise=0.05, observation_dim=S, action_dim=A):
    """Linear dynamics with noise; the reward likes small states."""
    rng = np.random.default_rng(seed)
    observations = rng.standard_normal((rows, observation_dim)).astype(np.float32)
    actions = rng.uniform(-1, 1, (rows, action_dim)).astype(np.float32)
    mix = np.random.default_rng(99).standard_normal((action_dim, observation_dim)).astype(np.float32)
    change = 0.3 * actions @ mix - 0.1 * observations + noise * rng.standard_normal(observations.shape)
    return SimpleNamespace(
        observations=observations,
        actions=actions,
        next_observations=(observations + change).astype(np.float32),
        rewards=-np.square(observations).mean(axis=1).astype(np.float32),
        terminations=rng.random(rows) < 0.02,
        truncations=np.zeros(rows, dtype=bool),
    )


def make(name, **overrides):
    kind = agent_class(name)
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return kind(build(kind.settings_class, {"width": 16, "batch_size": 32} | dotted), S, A)


def make_params(agent, seed=0, runs=None):
    """Networks and averaged copies that differ from them, for one run, or stacked for several."""
    seeds = [seed] if runs is None else range(seed, seed + runs)
    population = initial_population(agent, seeds)
    other = initial_population(agent, [s + 1000 for s in seeds])
    params = dict(population.params)
    params |= {f"{name}_target": tensors for name, tensors in other.targets.items()}
    # Larger than at initialisation, so that rounding cannot hide a wrong term.
    params = {name: [3.0 * tensor for tensor in tensors] for name, tensors in params.items()}
    return params if runs is not None else {name: [t[0] for t in tensors] for name, tensors in params.items()}


def make_batch(agent, seed=0, runs=None, members=7, predicted=True, phase=""):
    generator = torch.Generator().manual_seed(seed)
    lead = () if runs is None else (runs,)
    rows = agent.rows()
    size = sum(rows)

    def normal(*shape):
        return torch.randn(*lead, *shape, generator=generator)

    observations = normal(size, S)
    return Batch(
        observations=observations,
        actions=torch.tanh(normal(size, A)),
        rewards=10.0 * normal(size),
        next_observations=observations + 0.3 * normal(size, S),
        continues=(torch.rand(*lead, size, generator=generator) > 0.3).float(),
        predicted=normal(rows.source, members, S) if predicted else None,
        source_rows=rows.source,
        fake_rows=rows.fake,
        noise=normal(size, agent.noise_width) if agent.noise_width else None,
        phase=phase,
    )
