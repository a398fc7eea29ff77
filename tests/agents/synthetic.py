"""Small datasets and agents without a simulator."""

import torch

from offdyn_agents.algorithms.registry import agent_class
from offdyn_agents.algorithms.returns import FACTS
from offdyn_agents.engine.rows import Batch
from offdyn_agents.engine.settings import build
from offdyn_agents.engine.update import initial_population
from offdyn_agents.testing import small_agent
from offdyn_agents.testing.data import A, Killed, S, dataset, first_updates, killed_at

SCALE, LOW, HIGH = 0.25, -0.4, 0.8
"""Scale of rewards and bounds of values."""

__all__ = [
    "A",
    "Killed",
    "S",
    "dataset",
    "first_updates",
    "killed_at",
    "make",
    "make_batch",
    "make_params",
    "population_of",
    "tiny",
]


def make(name, **overrides):
    kind = agent_class(name)
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return kind(build(kind.settings_class, {"width": 16, "batch_size": 32} | dotted), S, A)


def tiny(name, **settings):
    """Return an agent as small as the conformance suite's, with further settings."""
    return small_agent(agent_class(name), settings)


def population_of(agent, seeds):
    """The state before the first update, with what the stages of agents of this package find in rewards."""
    # Bounds so tight that some values are clipped.
    facts = [torch.full((len(seeds),), fact) for fact in (SCALE, LOW, HIGH)]
    return initial_population(agent, seeds, {FACTS: facts})


def make_params(agent, seed=0, runs=None):
    """Networks and averaged copies that differ from them, for one run, or stacked for several."""
    seeds = [seed] if runs is None else range(seed, seed + runs)
    population = population_of(agent, seeds)
    other = initial_population(agent, [s + 1000 for s in seeds])
    # Without the numbers that runs differ in: a loss then reads the settings of the agent that it is of.
    params = {FACTS: population.frozen[FACTS], **population.params}
    params |= {f"{name}_target": tensors for name, tensors in other.targets.items()}
    # Larger than at initialisation, so that rounding cannot hide a wrong term.
    stretched = {name: 1.0 if name in population.frozen else 3.0 for name in params}
    params = {name: [stretched[name] * tensor for tensor in tensors] for name, tensors in params.items()}
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
