"""One network in the place of many discriminators: what it is to say, what it learns from, and that seeds are alone."""

import numpy as np
import pytest
import torch

from offdyn_agents.engine.networks import mlp
from offdyn_agents.engine.settings import build
from offdyn_agents.models.dynamics_reward import scorer as scorer_module
from offdyn_agents.models.dynamics_reward.discriminator import ensemble_reward, range_normalised
from offdyn_agents.models.dynamics_reward.scorer import candidates, distil, fit_scorers, heights, scorer_loss
from offdyn_agents.models.dynamics_reward.settings import ScorerSettings
from offdyn_agents.models.ensemble.rollouts import Proposer
from tests.agents.golden import net
from tests.agents.test_dynamics_reward import draw
from tests.agents.test_dynamics_reward_training import LAYOUT, ROWS, UNSEEN, A, Bent, S
from tests.agents.test_noise_contrast import LEARNING, fit

TINY = {"starts": 60, "width": 8, "updates": 5, "batch_size": 32}


def settings(*layers, **more):
    return build(ScorerSettings, *layers, more)


@pytest.fixture(scope="module")
def reward():
    return fit(LEARNING, spread=5.0).result().usable()


def propose():
    return Proposer(Bent(), 5, 2)


def test_heights_are_what_an_ensembles_reward_comes_from():
    y = torch.linspace(0.0, 1.0, 21, dtype=torch.float64)
    rewards = -np.log(1 - 1 / (1 + np.exp(-(2 * y.numpy() - 1))))
    np.testing.assert_allclose(heights(torch.from_numpy(rewards)), y, atol=1e-12)
    # One discriminator with logits between 0 and 1 gives the reward of that height back.
    one, none = torch.ones(1), torch.zeros(1)
    again = ensemble_reward(range_normalised(y.float()[None], one, none))
    np.testing.assert_allclose(again, rewards, atol=1e-6)


def test_loss():
    params = [draw(5, 4, seed=0), draw(1, 4, seed=1), draw(4, 1, seed=2), draw(1, 1, seed=3)]
    params, x, y = [one.double() for one in params], draw(30, 5, seed=4).double(), draw(30, seed=5).double()
    expected = np.mean((net(params, x.numpy())[:, 0] - y.numpy()) ** 2)
    assert float(scorer_loss(params, x, y)) == pytest.approx(expected, rel=1e-12)


def test_candidates_are_judged_as_they_are(reward):
    states, actions, *_ = LAYOUT.split(ROWS[:50])
    found = candidates(reward, propose(), states, actions, torch.Generator().manual_seed(0))
    assert found.inputs.shape == (10, 50, 2 * S + A)
    assert found.rewards.shape == (10, 50)
    torch.testing.assert_close(reward.seen(found.inputs), found.rewards)
    # States on the way too, and actions within what the data's span.
    acts = found.inputs[0, :, S : S + A] * reward.scaling.std[S : S + A] + reward.scaling.mean[S : S + A]
    assert float(acts.amin()) >= float(actions.amin()) - 1e-4
    assert float(acts.amax()) <= float(actions.amax()) + 1e-4
    seen = {round(float(x), 3) for x in found.inputs[0, :, 0]}
    own = {round(float(x), 3) for x in reward.scaling.inputs(states, actions, states)[:, 0]}
    assert 5 <= len(seen & own) < 50


def test_a_scorer_says_what_the_discriminators_say(reward):
    learning = settings(starts=2000, width=64, updates=800, batch_size=256)
    ((scorer, facts),) = fit_scorers(learning, LAYOUT, [ROWS], reward, [propose()], [0], None)
    assert len(scorer) == 1
    assert facts["correlation"] > 0.95
    assert facts["within"] > 0.9
    assert facts["agreement"] > 0.9
    s, a, following, *_ = LAYOUT.split(UNSEEN)
    for change in (0.0, 0.1, 1.0):
        ours, theirs = (judge(s, a, following + change * following.std(0)) for judge in (scorer, reward))
        assert float((ours - theirs).abs().mean()) < 0.1
    # It is one: the logit of a network, clipped.
    logits = mlp([t[0] for t in scorer.params], scorer.scaling.inputs(s, a, following)).squeeze(-1)
    expected = -torch.log(1 - torch.sigmoid(2 * logits.clamp(0, 1) - 1))
    torch.testing.assert_close(scorer(s, a, following), expected)


def test_facts_are_of_candidates_that_were_held_out(reward, monkeypatch):
    trained = []
    real = scorer_module.Learned.step
    monkeypatch.setattr(scorer_module.Learned, "step", lambda self, *x: (trained.append(x[0]), real(self, *x))[1])
    judged = []
    told = scorer_module._agreement
    monkeypatch.setattr(scorer_module, "_agreement", lambda a, b: (judged.append(b), told(a, b))[1])
    distil(settings(TINY), LAYOUT, ROWS[:60], reward, propose(), torch.Generator().manual_seed(0))
    assert judged[0].shape == (10, 6)
    seen = {float(x) for x in reward.seen(torch.cat(trained)).flatten()}
    assert len(trained) == 5
    assert not seen & {float(x) for x in judged[0].flatten() if 0.32 < float(x) < 1.31}


def test_a_seeds_scorer_does_not_depend_on_others_and_is_found_again(reward, tmp_path, monkeypatch):
    calls = []
    real = scorer_module.distil
    monkeypatch.setattr(scorer_module, "distil", lambda *x: (calls.append(1), real(*x))[1])

    def run(seeds, judge=reward, **more):
        calls.clear()
        proposers = [propose() for _ in seeds]
        found = fit_scorers(settings(TINY, **more), LAYOUT, [ROWS, UNSEEN], judge, proposers, seeds, tmp_path)
        return found, len(calls)

    both, count = run([0, 1])
    assert count == 2
    alone, count = run([1])
    assert count == 0
    assert alone[0][1] == both[1][1]
    assert all(torch.equal(a, b) for a, b in zip(alone[0][0].params, both[1][0].params, strict=True))
    assert not torch.equal(both[0][0].params[0], both[1][0].params[0])
    assert run([0], reward.thinned(2))[1] == run([0], updates=6)[1] == 1
