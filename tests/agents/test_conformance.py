"""What every agent must do, whatever it learns: an agent joins by being in `AGENTS`."""

import csv

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from offdyn_agents.algorithms.registry import AGENTS, agent_class
from offdyn_agents.engine.execution import Executor, can_compile
from offdyn_agents.engine.networks import mlp, twin
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.settings import build, setting_names
from offdyn_agents.engine.training.module import Budget, Hardware
from offdyn_agents.engine.training.supplies import TaskRuns, make_supply
from offdyn_agents.engine.update import initial_population, make_update, schedule
from offdyn_agents.runs.runs import train_population
from offdyn_envs.benchmark.gate.onnx_policy import load_critic, load_policy
from tests.agents.synthetic import A, S, dataset, first_updates, killed_at

SOURCE, TARGET = dataset(240, 0), dataset(120, 1)
SEEDS = (0, 1)
BUDGET = Budget(18, 6, 3, checkpoint_seconds=0.0)
TINY = {
    "width": 16,
    "batch_size": 24,
    "refill_every": 7,
    "starts": 40,
    "source_starts": 20,
    "target_starts": 20,
    "horizon": 2,
    "elites": 2,
    "capacity": 150,
    "dara.updates": 5,
    "dara.width": 16,
    "dynamics.epochs": 1,
    "dynamics.batch_size": 32,
    "dynamics.width": 16,
    "dynamics.members": 3,
    "dynamics.elites": 2,
    "dynamics_reward.iterations": 2,
    "dynamics_reward.pretraining": 5,
    "dynamics_reward.width": 16,
    "dynamics_reward.rollouts": 4,
    "dynamics_reward.horizon": 5,
    "dynamics_reward.batch_size": 32,
    "dynamics_reward.judges": 2,
}
"""Sizes of everything, as far as an agent has it; an agent with further stages adds theirs here."""


SWITCHED_OFF = {"mobody": ("value_loss",)}
"""Metrics of terms that presets leave out."""


def tiny(name, **more):
    kind = agent_class(name)
    names = setting_names(kind.settings_class)
    return kind(build(kind.settings_class, {key: value for key, value in TINY.items() if key in names} | more), S, A)


def train(name, folder, seeds=SEEDS, cache=None, **more):
    agent, hardware = tiny(name, **more), Hardware(compiled=False)
    return train_population(agent, seeds, SOURCE, TARGET, BUDGET, hardware, folder, quiet=True, cache=cache)


@pytest.fixture(scope="module", params=AGENTS)
def whole(request, tmp_path_factory):
    """Every agent, trained once without a break."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, train(request.param, folder / "run", cache=folder / "stages"), folder


def weights(folder, seed):
    return load_file(folder / "seeds" / str(seed) / "weights.safetensors")


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key


def test_fit(whole):
    name, module, folder = whole
    assert module.updates_done == 18
    assert module.live == [0, 1]
    with (folder / "run/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ends, done = list[int](), 0
    while chunk := BUDGET.next_chunk(done, module.refill_every):
        done += chunk
        ends.append(done)
    assert ends[-1] == 18
    assert [int(row["updates"]) for row in rows] == ends
    assert {"updates", *module.agent.metrics} <= rows[0].keys()
    for metric in module.agent.metrics:
        values = [float(row[metric]) for row in rows if row[metric]]
        assert bool(values) == (metric not in SWITCHED_OFF.get(name, ())), metric
        assert np.isfinite(values).all(), metric
    start = initial_population(module.agent, SEEDS)
    for network in module.agent.networks():
        assert not torch.equal(module.population.params[network][0], start.params[network][0]), (name, network)


def test_act(whole):
    _, module, _ = whole
    observations = torch.from_numpy(dataset(50, 7).observations)
    actions = module.act(observations.expand(2, -1, -1))
    assert actions.shape == (2, 50, A)
    assert float(actions.abs().max()) <= 1.0
    assert not torch.equal(actions[0], actions[1])
    for run in (0, 1):
        torch.testing.assert_close(module.act(observations[None], slice(run, run + 1))[0], actions[run])


def test_a_run_is_itself_in_any_company(whole, tmp_path):
    """Also: the same seed gives the same result, and a stage from the cache is the one that was trained."""
    name, _, folder = whole
    train(name, tmp_path / "alone", seeds=(1,))
    same(weights(tmp_path / "alone", 1), weights(folder / "run", 1))
    train(name, tmp_path / "cached", seeds=(1, 0), cache=folder / "stages")
    for seed in SEEDS:
        same(weights(tmp_path / "cached", seed), weights(folder / "run", seed))


def test_resumed_is_uninterrupted(whole, tmp_path, monkeypatch):
    name, _, folder = whole
    for at in (6, 12):
        with killed_at(monkeypatch, at):
            train(name, tmp_path, cache=folder / "stages")
        assert not (tmp_path / "seeds").exists()
    with first_updates(monkeypatch) as begun:
        train(name, tmp_path, cache=folder / "stages")
    # Not once more from the start, which would end in the same place.
    assert (begun[0], begun) == (12, sorted(set(begun)))
    for seed in SEEDS:
        same(weights(tmp_path, seed), weights(folder / "run", seed))


def test_saved_networks_are_the_trained_ones(whole):
    """The ONNX files pass the leaderboard's gate and say what the population says, within 1e-5."""
    _, module, folder = whole
    data = dataset(64, 3)
    observations = torch.from_numpy(data.observations)
    acted = module.act(observations.expand(2, -1, -1))
    for run, seed in enumerate(SEEDS):
        home = folder / "run/seeds" / str(seed)
        policy = load_policy(home / "policy.onnx", observation_dim=S, action_dim=A)
        np.testing.assert_allclose(policy(data.observations), acted[run], atol=1e-5)
        saved = weights(folder / "run", seed)
        layers = [saved[f"actor.{i}"] for i in range(sum(key.startswith("actor.") for key in saved))]
        np.testing.assert_allclose(torch.tanh(mlp(layers, observations))[:, :A], acted[run], atol=1e-5)
        assert (home / "critic.onnx").exists() == ("critic" in module.agent.networks())
        if "critic" in module.agent.networks():
            critic = load_critic(home / "critic.onnx", observation_dim=S, action_dim=A)
            layers = [tensor[run] for tensor in module.population.readable()["critic"]]
            expected = twin(layers, observations, torch.from_numpy(data.actions)).amin(0)
            np.testing.assert_allclose(critic(data.observations, data.actions), expected, atol=1e-5, rtol=1e-5)


def test_standardised_states_are_folded_into_what_is_saved(tmp_path):
    module = train("td3-bc", tmp_path, data="target", normalise="true")
    data = dataset(64, 3)
    observations = torch.from_numpy(data.observations)
    acted = module.act(observations.expand(2, -1, -1))
    for run, seed in enumerate(SEEDS):
        policy = load_policy(tmp_path / "seeds" / str(seed) / "policy.onnx", observation_dim=S, action_dim=A)
        np.testing.assert_allclose(policy(data.observations), acted[run], atol=1e-5)
        critic = load_critic(tmp_path / "seeds" / str(seed) / "critic.onnx", observation_dim=S, action_dim=A)
        params = {name: [t[run] for t in tensors] for name, tensors in module.population.readable().items()}
        mean, std = params["moments"]
        standard = (observations - mean) / std
        expected = twin(params["critic"], standard, torch.from_numpy(data.actions)).amin(0)
        np.testing.assert_allclose(critic(data.observations, data.actions), expected, atol=1e-5, rtol=1e-5)


def test_losses_of_a_population_are_those_of_its_runs(whole):
    """One stacked update, as a GPU does it, in every phase."""
    _, module, _ = whole
    agent, counts, layout = module.agent, module.agent.rows(), Layout(S, A)
    for phase in dict.fromkeys(agent.phases):
        update = make_update(agent, layout, phase=phase)
        rows, predicted = module.supply.batches(range(2), module.sampler.draw(1), counts)
        drawn = [module.sampler.noise(run, 1) for run in (0, 1)]
        noise = None if drawn[0] is None else torch.stack(drawn, dim=1)
        scale = schedule(agent, 18, 1, 40)[0]
        stacked = module.population.clone()
        parts = [None if part is None else part[0] for part in (rows, predicted, noise)]
        update(stacked, scale, *parts)
        for run in (0, 1):
            alone = module.population.members(slice(run, run + 1)).clone()
            update(alone, scale, *(None if part is None else part[run : run + 1] for part in parts))
            found = stacked.members(slice(run, run + 1))
            for (name, ours), (_, theirs) in zip(alone.named(), found.named(), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")
@pytest.mark.parametrize("name", AGENTS)
def test_compiled_updates_are_the_written_ones(name, tmp_path):
    agent, populations = tiny(name), []
    for compiled in (False, True):
        tasks = [TaskRuns(SOURCE, TARGET, SEEDS, tmp_path / str(compiled))]
        given = make_supply(agent, tasks, BUDGET, Hardware(compiled=False))
        population = initial_population(agent, SEEDS, given.frozen)
        if given.refill is not None:
            given.refill(population.readable(), (0, 1), 0, 1)
        noise = given.sampler.noise
        executor = Executor(agent, population, given.supply, total=40, noise=noise, threads=2, compiled=compiled)
        executor.run(given.sampler.draw(5))
        assert executor.compiled == compiled
        populations.append(population)
    for (key, ours), (_, theirs) in zip(*(population.named() for population in populations), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
