"""Rollouts of a policy in a model and in the simulator: what is counted, and that equal dynamics give equal walks."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from offdyn_agents.algorithms.morec import Judged
from offdyn_agents.algorithms.registry import agent_class
from offdyn_agents.engine.rollouts import RunView
from offdyn_agents.engine.rows import Layout, pack
from offdyn_agents.engine.settings import build, flat
from offdyn_agents.engine.termination import termination
from offdyn_agents.models.dynamics_reward.contrast import NoiseContrast
from offdyn_agents.models.dynamics_reward.scorer import fit_scorers
from offdyn_agents.models.dynamics_reward.stage import fit_dynamics_reward
from offdyn_agents.models.ensemble.rollouts import Candidates, Choice, RolloutModel
from offdyn_agents.models.ensemble.stages import fit_ensembles
from offdyn_agents.models.ensemble.training import EnsembleLearner
from offdyn_agents.runs.judging_rollouts import Begin, _begins, judge_rollouts, walk_in_model, walk_in_simulator
from offdyn_agents.runs.plans import read_run
from offdyn_envs import cli
from offdyn_envs.benchmark.gate.onnx_policy import load_policy
from offdyn_envs.errors import OffDynError
from offdyn_envs.vector import OffDynVectorEnv
from tests.agents.test_judging import datasets  # noqa: F401 - a fixture
from tests.agents.test_run_judging import here, plan, task, trained  # noqa: F401 - fixtures

HORIZON = 8
"""Steps after which some robots have fallen and some have not."""


def counting(limit):
    """A model in which the first number of the state grows by the action; above `limit` the robot has fallen."""

    def propose(observations, actions, generator):
        following = observations + torch.nn.functional.pad(actions, (0, observations.shape[-1] - 1))
        return Candidates(
            observations, actions, following[None], following[None, :, 0], torch.full((len(actions),), 9.0)
        )

    def choose(candidates, generator):
        refused = candidates.next_observations[0, :, 1] > 0.0
        return Choice(torch.zeros(len(refused), dtype=torch.int64), refused)

    return RolloutModel(propose, lambda s: s[:, 0] > limit, choose, penalty=5.0, drop_refused=True)


def test_steps_and_ends_in_a_model_are_counted():
    starts = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0], [-9.0, 0.0]])
    walks = walk_in_model(counting(3.5), lambda s: np.ones((len(s), 1), np.float32), starts, horizon=6)
    assert walks.steps.tolist() == [4.0, 2.0, 1.0, 6.0]
    # Rewards are the model's own, without the penalty.
    assert walks.returns.tolist() == [10.0, 7.0, 1.0, -33.0]
    assert walks.fell.tolist() == [True, True, False, False]
    assert walks.refused.tolist() == [False, False, True, False]
    shares = walks.figures()
    assert shares == {
        "steps": 3.25,
        "reward": pytest.approx(-15 / 13),
        "fell": 0.5,
        "refused": 0.25,
        "refused_at_once": 0.25,
    }


def test_the_simulator_as_a_model_walks_like_itself(datasets):  # noqa: F811
    _, target = datasets
    rows = np.arange(0, len(target), 25)
    qpos, qvel = target.qpos[rows], target.qvel[rows]

    def policy(observations):
        return np.sin(3.0 * observations[:, :3]).astype(np.float32)

    def env():
        shifts = target.card["shifts"]
        return OffDynVectorEnv("hopper", len(rows), shifts=shifts, autoreset_mode="disabled")

    real = walk_in_simulator(env(), policy, Begin(qpos, qvel), HORIZON)
    assert 0 < int(real.fell.sum()) < len(rows)
    # Each row alone, with the environment's own words.
    for place in range(0, len(rows), 4):
        single = OffDynVectorEnv("hopper", 1, shifts=target.card["shifts"], autoreset_mode="disabled")
        single.reset(seed=3)
        seen, total, steps, ended = single.set_state(qpos[[place]], qvel[[place]]), 0.0, 0, False
        while steps < HORIZON and not ended:
            seen, rewards, ends, _, _ = single.step(policy(seen.astype(np.float32)))
            steps, total, ended = steps + 1, total + float(rewards[0]), bool(ends[0])
        assert (real.steps[place], bool(real.fell[place])) == (steps, ended)
        assert float(real.returns[place]) == pytest.approx(total, rel=1e-5)
    # Where an observation is all there is to know, a model that asks the simulator gives the same.
    batch = env()
    state = {"qpos": qpos, "qvel": qvel}

    def propose(observations, actions, generator):
        batch.reset(seed=0)
        batch.set_state(np.resize(state["qpos"], qpos.shape), np.resize(state["qvel"], qvel.shape))
        padded = np.zeros((len(rows), 3), np.float32)
        padded[: len(actions)] = actions.numpy()
        following, rewards, ends, _, _ = batch.step(padded)
        count = len(actions)
        keep = ~ends[:count]
        state.update(qpos=batch.qpos[:count][keep], qvel=batch.qvel[:count][keep])
        following = torch.from_numpy(following[:count].astype(np.float32))
        rewards = torch.from_numpy(rewards[:count].astype(np.float32))
        return Candidates(observations, actions, following[None], rewards[None], torch.zeros(count))

    model = RolloutModel(propose, termination("hopper"))
    starts = torch.from_numpy(target.observations[rows])
    learned = walk_in_model(model, policy, starts, HORIZON)
    assert torch.equal(learned.steps, real.steps)
    assert torch.equal(learned.fell, real.fell)
    torch.testing.assert_close(learned.returns, real.returns, rtol=1e-4, atol=1e-3)
    assert not learned.refused.any()


@pytest.mark.parametrize(("agent", "data"), [("morec", "merged"), ("mopo", "target")])
def test_a_finished_run(agent, data, task, tmp_path, capsys, monkeypatch):  # noqa: F811
    _, folder = trained(agent, tmp_path / "runs", data=data)
    # Its stages are found, not trained again, wherever one stands.
    monkeypatch.setattr(EnsembleLearner, "fit", lambda *args, **named: pytest.fail("trained again"))
    monkeypatch.setattr(NoiseContrast, "advance", lambda *args, **named: pytest.fail("trained again"))
    monkeypatch.chdir(folder.parent)
    offdyn("diagnose", "rollouts", folder.name, "--starts", "20", "--json")
    record = json.loads(capsys.readouterr().out)
    assert (record["agent"], record["starts"], record["horizon"]) == (agent, 20, 2)
    assert [seed["seed"] for seed in record["seeds"]] == [0, 1]
    # Every seed's policy is in the model of its own.
    assert record["seeds"] == [by_hand(agent, folder, task, data, seed) for seed in (0, 1)]
    offdyn("diagnose", "rollouts", folder.name, "--starts", "20")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 * 3 * 2
    assert lines[-1].split()[:3] == ["1", "resets", "simulator"]


def offdyn(*words):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    assert ended.value.code == 0


def by_hand(name, folder, task, data, seed):  # noqa: F811
    """What a run's record says of a seed, from the files in its cache."""
    facts, layout = read_run(folder), Layout(11, 3)
    agent = agent_class(name)(build(agent_class(name).settings_class, flat(facts["settings"])), 11, 3)
    without, cache = (data == "target", False), folder.parent.parent / ".stages"
    rows = [pack(dataset, "rows")[: 0 if wanted else None] for dataset, wanted in zip(task, without, strict=True)]
    joined, target = torch.cat(rows), len(rows[1])
    (ensemble,) = fit_ensembles(agent.settings.dynamics, layout, joined, [seed], cache, target=target)
    results = ensemble
    if name == "morec":
        reward = fit_dynamics_reward(
            agent.settings.dynamics_reward, layout, rows[1], cache, source=rows[0], terminated=termination("hopper")
        )
        usable = reward.thinned(agent.settings.discriminators).usable()
        tables, proposers = [table for table in rows if len(table)], [agent.proposer(ensemble)]
        ((scorer, _),) = fit_scorers(agent.settings.scorer, layout, tables, usable, proposers, [seed], cache)
        results = Judged(ensemble, scorer)
    view = RunView(seed, 12, {}, results, *rows, layout, termination("hopper"))
    policy = load_policy(folder / "seeds" / str(seed) / "policy.onnx", observation_dim=11, action_dim=3)
    found = {"seed": seed}
    for label, dataset in zip(("source", "target"), task, strict=True):
        numbers = np.random.default_rng(0).integers(0, len(dataset), 20)
        env = OffDynVectorEnv("hopper", 20, shifts=task[1].card["shifts"], autoreset_mode="disabled")
        walks = {
            "model": walk_in_model(agent.world(view), policy, torch.from_numpy(dataset.observations[numbers]), 2),
            "simulator": walk_in_simulator(env, policy, Begin(dataset.qpos[numbers], dataset.qvel[numbers]), 2),
        }
        found[label] = {where: walk.figures() for where, walk in walks.items()}
    env = OffDynVectorEnv("hopper", 20, shifts=task[1].card["shifts"], autoreset_mode="disabled")
    observations, _ = env.reset(seed=0)
    model = walk_in_model(agent.world(view), policy, torch.from_numpy(observations.astype(np.float32)), 2)
    walks = {"model": model, "simulator": walk_in_simulator(env, policy, Begin(env.qpos, env.qvel), 2)}
    found["resets"] = {where: walk.figures() for where, walk in walks.items()}
    return found


def test_an_agent_without_a_model_is_run_in_the_simulator_alone(task, tmp_path, capsys):  # noqa: F811
    _, folder = trained("bc", tmp_path / "runs")
    record = judge_rollouts(folder, 10, quiet=True)
    assert record["horizon"] == 100
    assert [list(seed) for seed in record["seeds"]] == [["seed", "source", "target", "resets"]] * 2
    for seed in record["seeds"]:
        assert all(list(seed[name]) == ["simulator"] for name in ("source", "target", "resets"))
        # An untrained Hopper falls, and from the same states it does so again.
        assert 1 <= seed["resets"]["simulator"]["steps"] < 100
    assert judge_rollouts(folder, 10, quiet=True) == record
    offdyn("diagnose", "rollouts", str(folder), "--starts", "10", "--horizon", "1", "--json")
    short = json.loads(capsys.readouterr().out)
    assert all(seed["resets"]["simulator"]["steps"] == 1 for seed in short["seeds"])


def test_under_a_delay_rollouts_begin_with_the_actions_under_way(datasets):  # noqa: F811
    """From resets there are none."""
    env = OffDynVectorEnv("hopper", 9, shifts=[{"kind": "delay", "steps": 2}], autoreset_mode="disabled")
    found = _begins(*datasets, env)
    for name, dataset in zip(("source", "target"), datasets, strict=True):
        rows = np.random.default_rng(0).integers(0, len(dataset), 9)
        sent = dataset.arrays.under_way(rows, 2)
        assert sent.any()
        found[name].put(env)
        np.testing.assert_array_equal(env.queue, sent)
        np.testing.assert_array_equal(env.qpos, dataset.qpos[rows])
    found["resets"].put(env)
    assert not env.queue.any()


def test_a_nominal_target(task, tmp_path, monkeypatch):  # noqa: F811
    source, target = task
    monkeypatch.setattr("offdyn_envs.load_task", lambda name: (SimpleNamespace(close=lambda: None), target, source))
    _, folder = trained("mopo", tmp_path / "runs")
    assert source.card["shifts"] == []
    assert len(judge_rollouts(folder, 10, quiet=True)["seeds"]) == 2


def test_runs_of_which_nothing_can_be_said(task, tmp_path, monkeypatch):  # noqa: F811
    source, target = task
    with pytest.raises(OffDynError, match=r"is no run"):
        judge_rollouts(tmp_path)
    _, folder = trained("mopo", tmp_path / "runs")
    facts = read_run(folder)
    (folder / "run.json").write_text(json.dumps(facts | {"status": "running"}))
    with pytest.raises(OffDynError, match=r"is running; finish it with: offdyn train mopo"):
        judge_rollouts(folder)
    (folder / "run.json").write_text(json.dumps(facts | {"status": "diverged", "stopped": {"0": "a loss"}}))
    assert [seed["seed"] for seed in judge_rollouts(folder, 10, quiet=True)["seeds"]] == [1]
    older = {key: value for key, value in facts["settings"].items() if key != "penalty"}
    (folder / "run.json").write_text(json.dumps(facts | {"settings": older}))
    with pytest.raises(OffDynError, match=r"does not say what penalty was, which came later"):
        judge_rollouts(folder)
    (folder / "run.json").write_text(json.dumps(facts | {"settings": facts["settings"] | {"gone": 1}}))
    with pytest.raises(OffDynError, match=r"run.json has gone, which agent 'mopo' has no more; train it again"):
        judge_rollouts(folder)
    (folder / "run.json").write_text(json.dumps(facts))
    monkeypatch.setattr("offdyn_envs.load_task", lambda name: (SimpleNamespace(close=lambda: None), target, source))
    with pytest.raises(OffDynError, match=r"learned from other rows than task '.*' has now"):
        judge_rollouts(folder)
