"""The suite that every agent passes, whatever it learns.

A run is the same alone and in company, whole and interrupted, as networks in memory and as files: these promises are
the trainer's, and an agent can break each of them. It trains for a handful of updates on data that mean nothing; what
an agent learns, its own tests must show.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from offdyn_agents.algorithms.registry import agent_class, names
from offdyn_agents.engine.agent import Agent
from offdyn_agents.engine.execution import Executor, can_compile
from offdyn_agents.engine.networks import Network, mlp, twin
from offdyn_agents.engine.resources import Budget, Hardware
from offdyn_agents.engine.settings import build, flat, setting_names, to_json
from offdyn_agents.engine.training.module import PopulationModule
from offdyn_agents.engine.training.populations import train_population
from offdyn_agents.engine.training.supplies import TaskRuns, make_supply
from offdyn_agents.engine.update import Population, initial_population, make_update, schedule
from offdyn_agents.presets import preset, tuning
from offdyn_agents.testing.data import A, S, dataset, first_updates, killed_at
from offdyn_agents.testing.sizes import small_agent
from offdyn_envs.benchmark.gate.onnx_policy import load_critic, load_policy

__all__ = ["BUDGET", "SEEDS", "SOURCE", "TARGET", "AgentConformance", "CompiledConformance", "same", "train", "weights"]

SOURCE, TARGET = dataset(240, 0), dataset(120, 1)
SEEDS = (0, 1)
BUDGET = Budget(18, 6, 3, checkpoint_seconds=0.0)
KILLED_AT = 12
TOTAL = 40
"""Updates of the training that a single update is taken from."""


def train(
    kind: type[Agent],
    folder: Path,
    seeds: Sequence[int] = SEEDS,
    cache: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    hardware: Hardware | None = None,
) -> PopulationModule:
    """Train a small agent for a handful of updates.

    Args:
        kind: Its class.
        folder: The run's folder.
        seeds: Seeds of the runs.
        cache: Folder of cached stages, None for none.
        settings: Settings that go before the small ones.
        hardware: Where; by default a CPU, uncompiled.
    """
    agent, where = small_agent(kind, settings), hardware or Hardware(compiled=False)
    return train_population(agent, seeds, SOURCE, TARGET, BUDGET, where, folder, quiet=True, cache=cache)


def weights(folder: Path, seed: int) -> dict[str, Tensor]:
    """Return what a run wrote for one of its seeds."""
    return load_file(folder / "seeds" / str(seed) / "weights.safetensors")


def same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Demand equality bit for bit."""
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key


def close(ours: Population, theirs: Population) -> None:
    """Demand equality up to rounding."""
    for (key, mine), (_, other) in zip(ours.named(), theirs.named(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


def be_killed(path: str, settings: str, folder: str) -> None:
    """Train in this process until it kills itself, right before an update.

    Args:
        path: The agent's class, "module:Class".
        settings: As `train` takes them, in JSON.
        folder: Where the run and the cached stages go.
    """
    module, _, name = path.partition(":")
    real = PopulationModule.training_step

    def step(self: PopulationModule, batch: Any, batch_idx: int) -> None:
        if self.updates_done >= KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, batch, batch_idx)

    PopulationModule.training_step = step
    train(
        getattr(import_module(module), name), Path(folder, "run"), SEEDS, Path(folder, "stages"), json.loads(settings)
    )


@dataclasses.dataclass(frozen=True)
class Trained:
    """An agent that was trained once, without a break.

    Attributes:
        module: What trained it.
        folder: Holds its run under "run", its cached stages under "stages".
    """

    module: PopulationModule
    folder: Path


class _Suite:
    """What both suites have.

    Attributes:
        agent: The agent: its name, or its class.
        settings: Settings that it shall be tested with, by dotted names; sizes of well-known names (`width`, `epochs`,
            `batch_size`, ...) are small without being named here.
    """

    agent: ClassVar[str | type[Agent]]
    settings: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture(scope="class")
    @classmethod
    def kind(cls) -> type[Agent]:
        """The agent's class; to be overridden where several share a suite."""
        return agent_class(cls.agent) if isinstance(cls.agent, str) else cls.agent


class AgentConformance(_Suite):
    """Settings, fit, act, company, resume, kill, files, and one update of a population.

    See `_Suite` for the attributes that a subclass gives.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, kind: type[Agent], tmp_path_factory: pytest.TempPathFactory) -> Trained:
        """Train the agent once, without a break."""
        folder = tmp_path_factory.mktemp(kind.name)
        return Trained(train(kind, folder / "run", cache=folder / "stages", settings=cls.settings), folder)

    def test_it_is_found_by_its_name(self, kind: type[Agent]) -> None:
        """A name leads to the class, where the agent is known by one."""
        if isinstance(getattr(self, "agent", ""), str):
            assert kind.name in names()
            assert agent_class(kind.name) is kind

    def test_settings(self, kind: type[Agent]) -> None:
        """Plain values with defaults that JSON and the command line can say; presets name what exists."""
        settings = kind.settings_class
        assert dataclasses.is_dataclass(settings)
        assert "data" in setting_names(settings)
        _plain(settings)
        default = settings()
        assert build(settings, flat(to_json(default))) == default
        build(settings, preset(kind))
        assert "tuning_evaluations" in tuning(kind)
        # The first metric is what every update has.
        assert set(kind.optional) <= set(kind.metrics[1:])

    def test_fit(self, kind: type[Agent], trained: Trained) -> None:
        """Every update is done, every network learns, every metric is logged and finite."""
        module = trained.module
        assert module.updates_done == BUDGET.updates
        assert module.live == list(range(len(SEEDS)))
        with (trained.folder / "run/metrics.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        ends, done = list[int](), 0
        while chunk := BUDGET.next_chunk(done, module.refill_every):
            done += chunk
            ends.append(done)
        assert ends[-1] == BUDGET.updates
        assert [int(row["updates"]) for row in rows] == ends
        assert {"updates", *kind.metrics} <= rows[0].keys()
        for metric in kind.metrics:
            values = [float(row[metric]) for row in rows if row[metric]]
            assert values or metric in kind.optional, metric
            assert np.isfinite(values).all(), metric
        start = initial_population(module.agent, SEEDS)
        for name, network in module.agent.networks().items():
            if isinstance(network, Network):
                assert not torch.equal(module.population.params[name][0], start.params[name][0]), name

    def test_act(self, trained: Trained) -> None:
        """Actions in [-1, 1], other ones for another seed, and the same alone as in company."""
        module, runs = trained.module, len(SEEDS)
        observations = torch.from_numpy(dataset(50, 7).observations)
        actions = module.act(observations.expand(runs, -1, -1))
        assert actions.shape == (runs, 50, A)
        assert float(actions.abs().max()) <= 1.0
        assert not torch.equal(actions[0], actions[1])
        for run in range(runs):
            torch.testing.assert_close(module.act(observations[None], slice(run, run + 1))[0], actions[run])

    def test_a_run_is_itself_in_any_company(self, kind: type[Agent], trained: Trained, tmp_path: Path) -> None:
        """Also: the same seed gives the same result, and a stage from the cache is the one that was trained."""
        folder = trained.folder
        train(kind, tmp_path / "alone", seeds=SEEDS[1:], settings=self.settings)
        same(weights(tmp_path / "alone", SEEDS[1]), weights(folder / "run", SEEDS[1]))
        turned = SEEDS[::-1]
        train(kind, tmp_path / "cached", seeds=turned, cache=folder / "stages", settings=self.settings)
        for seed in SEEDS:
            same(weights(tmp_path / "cached", seed), weights(folder / "run", seed))

    def test_resumed_is_uninterrupted(
        self, kind: type[Agent], trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Interrupted twice, a run ends as one that was not, and does no update twice."""
        stages = trained.folder / "stages"
        for at in (6, KILLED_AT):
            with killed_at(monkeypatch, at):
                train(kind, tmp_path, cache=stages, settings=self.settings)
            assert not (tmp_path / "seeds").exists()
        _goes_on(kind, tmp_path, stages, self.settings, trained, monkeypatch)

    def test_killed_is_uninterrupted(
        self, kind: type[Agent], trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process that is killed with signal 9 leaves what another one goes on from."""
        script = "import sys; from offdyn_agents.testing import conformance; conformance.be_killed(*sys.argv[1:])"
        words = [f"{kind.__module__}:{kind.__qualname__}", json.dumps(dict(self.settings)), str(tmp_path)]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        killed = subprocess.run([sys.executable, "-c", script, *words], env=env, timeout=300, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert not (tmp_path / "run/seeds").exists()
        _goes_on(kind, tmp_path / "run", tmp_path / "stages", self.settings, trained, monkeypatch)

    def test_saved_networks_are_the_trained_ones(self, trained: Trained) -> None:
        """The ONNX files pass the leaderboard's gate and say what the population says, within 1e-5."""
        module, data = trained.module, dataset(64, 3)
        observations, actions = torch.from_numpy(data.observations), torch.from_numpy(data.actions)
        acted = module.act(observations.expand(len(SEEDS), -1, -1))
        readable = module.population.readable()
        for run, seed in enumerate(SEEDS):
            home = trained.folder / "run/seeds" / str(seed)
            policy = load_policy(home / "policy.onnx", observation_dim=S, action_dim=A)
            np.testing.assert_allclose(policy(data.observations), acted[run], atol=1e-5)
            saved = weights(trained.folder / "run", seed)
            layers = [saved[f"actor.{i}"] for i in range(sum(key.startswith("actor.") for key in saved))]
            np.testing.assert_allclose(torch.tanh(mlp(layers, observations))[:, :A], acted[run], atol=1e-5)
            exported = module.agent.exported({name: [t[run] for t in tensors] for name, tensors in readable.items()})
            assert (home / "critic.onnx").exists() == ("critic" in exported)
            if "critic" in exported:
                critic = load_critic(home / "critic.onnx", observation_dim=S, action_dim=A)
                expected = twin(exported["critic"], observations, actions).amin(0)
                np.testing.assert_allclose(critic(data.observations, data.actions), expected, atol=1e-5, rtol=1e-5)

    def test_an_update_of_a_population_is_that_of_its_runs(self, trained: Trained) -> None:
        """One stacked update, as a GPU does it, in every phase."""
        module = trained.module
        agent, counts, layout = module.agent, module.agent.rows(), module.supply.layout
        for phase in dict.fromkeys(agent.phases):
            update = make_update(agent, layout, phase=phase)
            rows, predicted = module.supply.batches(range(len(SEEDS)), module.sampler.draw(1), counts)
            drawn = [module.sampler.noise(run, 1) for run in range(len(SEEDS))]
            known = [noise for noise in drawn if noise is not None]
            noise = torch.stack(known, dim=1) if known else None
            scale = schedule(agent, BUDGET.updates, 1, TOTAL)[0]
            stacked = module.population.clone()
            first, *more = rows[0], *(None if part is None else part[0] for part in (predicted, noise))
            update(stacked, scale, first, *more)
            for run in range(len(SEEDS)):
                alone = module.population.members(slice(run, run + 1)).clone()
                own = slice(run, run + 1)
                update(alone, scale, first[own], *(None if part is None else part[own] for part in more))
                close(alone, stacked.members(slice(run, run + 1)))


class CompiledConformance(_Suite):
    """Updates as a compiler makes them, which takes up to a minute; see `_Suite` for what a subclass gives."""

    @pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")
    def test_compiled_updates_are_the_written_ones(self, kind: type[Agent], tmp_path: Path) -> None:
        """The same rows and noise lead to the same networks."""
        agent, populations = small_agent(kind, self.settings), list[Population]()
        for compiled in (False, True):
            tasks = [TaskRuns(SOURCE, TARGET, SEEDS, tmp_path / str(compiled))]
            given = make_supply(agent, tasks, BUDGET, Hardware(compiled=False))
            population = initial_population(agent, SEEDS, given.frozen)
            if given.refill is not None:
                given.refill(population.readable(), (0, 1), 0, 1)
            noise = given.sampler.noise
            executor = Executor(agent, population, given.supply, total=TOTAL, noise=noise, threads=2, compiled=compiled)
            executor.run(given.sampler.draw(5))
            assert executor.compiled == compiled
            populations.append(population)
        close(*populations)


def _goes_on(
    kind: type[Agent],
    folder: Path,
    stages: Path,
    settings: Mapping[str, Any],
    trained: Trained,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Demand that a run that was cut short goes on where it stopped and ends as the whole one."""
    with first_updates(monkeypatch) as begun:
        train(kind, folder, cache=stages, settings=settings)
    # Not once more from the start, which would end in the same place.
    assert (begun[0], begun) == (KILLED_AT, sorted(set(begun)))
    for seed in SEEDS:
        same(weights(folder, seed), weights(trained.folder / "run", seed))


def _plain(settings: type[Any]) -> None:
    """Demand types of settings that presets, the command line and run.json can hold."""
    hints = get_type_hints(settings)
    for item in dataclasses.fields(settings):
        hint = hints[item.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            _plain(hint)
        else:
            assert hint in (bool, int, float, str), f"{settings.__name__}.{item.name} is a {hint}"
