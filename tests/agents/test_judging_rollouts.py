"""Rollouts of a policy in a model and in the simulator: what is counted, and that equal dynamics give equal walks."""

import json
import math

import numpy as np
import pytest
import torch

from offdyn_agents.judging_rollouts import STARTS, judge_rollouts, main, walk_in_model, walk_in_simulator
from offdyn_agents.model_rollouts import Candidates, Choice, RolloutModel
from offdyn_agents.termination import termination
from offdyn_envs.errors import OffDynError
from offdyn_envs.vector import OffDynVectorEnv
from tests.agents.test_judging import datasets  # noqa: F401 - a fixture
from tests.agents.test_run_judging import here, plan, task, trained  # noqa: F401 - fixtures


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

    real = walk_in_simulator(env(), policy, qpos, qvel, 30)
    assert 0 < int(real.fell.sum()) < len(rows) or real.steps.min() < 30
    # Each row alone, with the environment's own words.
    for place in range(0, len(rows), 4):
        single = OffDynVectorEnv("hopper", 1, shifts=target.card["shifts"], autoreset_mode="disabled")
        single.reset(seed=3)
        seen, total, steps, ended = single.set_state(qpos[[place]], qvel[[place]]), 0.0, 0, False
        while steps < 30 and not ended:
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
    learned = walk_in_model(model, policy, starts, 30)
    assert torch.equal(learned.steps, real.steps)
    assert torch.equal(learned.fell, real.fell)
    torch.testing.assert_close(learned.returns, real.returns, rtol=1e-4, atol=1e-3)
    assert not learned.refused.any()


def test_a_finished_run(task, tmp_path, capsys):  # noqa: F811
    _, folder = trained("morec", tmp_path / "runs")
    main([str(folder), "--starts", "20", "--json"])
    record = json.loads(capsys.readouterr().out)
    assert (record["agent"], record["starts"], record["horizon"]) == ("morec", 20, 2)
    assert [seed["seed"] for seed in record["seeds"]] == [0, 1]
    for seed in record["seeds"]:
        for name in ("source", "target"):
            for figures in seed[name].values():
                assert 1.0 <= figures["steps"] <= 2.0
                assert math.isfinite(figures["reward"])
            assert seed[name]["simulator"]["refused"] == 0.0
    main([str(folder), "--starts", "20"])
    assert len(capsys.readouterr().out.splitlines()) == 2 + 2 * 2 * 2


def test_runs_that_have_no_rollouts_in_an_ensemble(task, tmp_path):  # noqa: F811
    _, folder = trained("bc", tmp_path / "runs")
    with pytest.raises(OffDynError, match=r"is of agent 'bc'; agents with rollouts in an ensemble are wanted"):
        judge_rollouts(folder, STARTS)
    with pytest.raises(OffDynError, match=r"is no run"):
        judge_rollouts(tmp_path)
