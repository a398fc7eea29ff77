"""Rollouts in an ensemble: each number of a row against NumPy in float64, ends of rollouts, choosers."""

import math

import numpy as np
import pytest
import torch

from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.termination import never
from offdyn_agents.models.ensemble.model import MATRICES, Ensemble, ensemble_network
from offdyn_agents.models.ensemble.rollouts import Choice, Proposer, RolloutModel, choose_any, roll_out
from offdyn_agents.models.ensemble.settings import EnsembleSettings
from tests.agents.synthetic import A, S

LAYOUT = Layout(S, A)
RANKING = torch.tensor([4, 2, 0, 6, 1, 3, 5])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_ensemble():
    network = ensemble_network(EnsembleSettings(width=8), S, A)
    draw = generator(1)
    params = [0.6 * torch.randn(shape, generator=draw) for shape in network.shapes()]
    params += [torch.full((7, 1, 1 + S), bound) for bound in (-6.0, 0.5)]
    return Ensemble(params, torch.randn(S + A, generator=draw), 0.5 + torch.rand(S + A, generator=draw), RANKING)


def constant_ensemble():
    """Member k moves every state by k and rewards with 10 k, with next to no noise."""
    network = ensemble_network(EnsembleSettings(width=4), S, A)
    params = [torch.zeros(shape) for shape in network.shapes()]
    for k in range(7):
        params[MATRICES - 1][k, 0, : 1 + S] = float(k)
        params[MATRICES - 1][k, 0, 0] = 10.0 * k
        params[MATRICES - 1][k, 0, 1 + S :] = -200.0
    params += [torch.full((7, 1, 1 + S), bound) for bound in (-60.0, 0.5)]
    return Ensemble(params, torch.zeros(S + A), torch.ones(S + A), RANKING)


def still(observations, draw):
    return torch.zeros(len(observations), A)


def model(ensemble=None, terminated=never, elites=5, samples=1, clip=math.inf, **arguments):
    return RolloutModel(Proposer(ensemble or constant_ensemble(), elites, samples, clip), terminated, **arguments)


def distribution(ensemble, observations, actions):
    """Means and standard deviations of (r, s') in float64, [7, N, 1 + S]."""
    arrays = [tensor.double().numpy() for tensor in ensemble.params]
    s, a = observations.double().numpy(), actions.double().numpy()
    x = (np.concatenate([s, a], axis=1) - ensemble.mean.double().numpy()) / ensemble.std.double().numpy()
    means, stds = [], []
    for k in range(7):
        h = x
        for layer in range(5):
            h = h @ arrays[2 * layer][k] + arrays[2 * layer + 1][k]
            h = h / (1.0 + np.exp(-h)) if layer < 4 else h
        mean, lv = h[:, : 1 + S].copy(), h[:, 1 + S :]
        mean[:, 1:] += s
        low, high = arrays[MATRICES][k], arrays[MATRICES + 1][k]
        lv = high - np.log1p(np.exp(high - lv))
        lv = low + np.log1p(np.exp(lv - low))
        means.append(mean)
        stds.append(np.exp(0.5 * lv))
    return np.stack(means), np.stack(stds)


@pytest.mark.parametrize(("samples", "clip"), [(1, math.inf), (2, math.inf), (2, 1.0)])
def test_candidates_are_draws_of_the_elites(samples, clip):
    ensemble = random_ensemble()
    observations, actions = torch.randn(9, S, generator=generator(2)), torch.rand(9, A, generator=generator(3))
    found = Proposer(ensemble, 5, samples, clip)(observations, actions, generator(4))
    noise = torch.randn(samples, 5, 9, 1 + S, generator=generator(4)).double().numpy()
    means, stds = distribution(ensemble, observations, actions)
    best = RANKING[:5].numpy()
    expected = np.clip(np.concatenate([means[best] + stds[best] * n for n in noise]), -clip, clip)
    np.testing.assert_allclose(found.rewards, expected[..., 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.next_observations, expected[..., 1:], rtol=1e-4, atol=1e-5)
    # Members that are no elites count here: the most uncertain of all seven.
    largest = np.sqrt((stds**2).sum(-1)).max(0)
    np.testing.assert_allclose(found.uncertainty, largest, rtol=1e-5)
    assert (largest > np.sqrt((stds[best] ** 2).sum(-1)).max(0) + 1e-3).any()


def test_a_row_is_what_was_chosen_less_the_penalty():
    ensemble = random_ensemble()
    observations, actions = torch.randn(6, S, generator=generator(2)), torch.rand(6, A, generator=generator(3))
    candidates = Proposer(ensemble, 5, 2)(observations, actions, generator(4))
    chosen = torch.tensor([0, 9, 4, 5, 7, 2])
    world = model(ensemble, samples=2, penalty=2.5, choose=lambda c, g: Choice(chosen, never(c.observations)))
    rows = roll_out(world, lambda o, g: actions, observations, 1, generator(4))
    s, a, following, rewards, continues = LAYOUT.split(rows)
    assert torch.equal(s, observations)
    assert torch.equal(a, actions)
    _, stds = distribution(ensemble, observations, actions)
    for i, k in enumerate(chosen.tolist()):
        assert torch.equal(following[i], candidates.next_observations[k, i])
        expected = float(candidates.rewards[k, i]) - 2.5 * max(np.linalg.norm(std[i]) for std in stds)
        assert float(rewards[i]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert torch.equal(continues, torch.ones(6))


def test_any_elite_is_as_likely_as_another_and_no_other_member():
    rows = roll_out(model(), still, torch.zeros(5000, S), 1, generator())
    _, _, following, rewards, _ = LAYOUT.split(rows)
    members = (rewards / 10.0).round().int()
    assert set(members.tolist()) == set(RANKING[:5].tolist())
    # A member's state comes with its reward, and elites are equally likely: 1000 of each, give or take 28.
    torch.testing.assert_close(following, members[:, None].float().expand(-1, S), atol=1e-3, rtol=0.0)
    counts = torch.bincount(members, minlength=7)[RANKING[:5]]
    assert int((counts - 1000).abs().max()) < 150


def test_a_step_starts_where_the_last_one_ended():
    starts = torch.randn(8, S, generator=generator(5))
    rows = roll_out(model(), still, starts, 4, generator())
    s, _, following, _, continues = (part.unflatten(0, (4, 8)) for part in LAYOUT.split(rows))
    assert torch.equal(s[0], starts)
    assert torch.equal(s[1:], following[:-1])
    assert bool(continues.all())


def test_chunks_keep_the_order_of_steps():
    rows = roll_out(model(), still, torch.randn(8, S, generator=generator(5)), 3, generator(), chunk=3)
    s, _, following, _, _ = (part.unflatten(0, (3, 8)) for part in LAYOUT.split(rows))
    assert torch.equal(s[1:], following[:-1])


def test_an_episode_that_ends_is_not_gone_on_with():
    rows = roll_out(model(terminated=lambda s: s[:, 0] > 5.0), still, torch.zeros(200, S), 6, generator())
    s, _, following, _, continues = LAYOUT.split(rows)
    assert bool((s[:, 0] <= 5.0).all())
    assert torch.equal(continues == 0, following[:, 0] > 5.0)
    assert 200 < len(rows) < 1200
    assert int((continues == 0).sum()) <= 200


def test_no_rollout_outlives_its_start():
    rows = roll_out(model(terminated=lambda s: ~never(s)), still, torch.zeros(10, S), 100, generator())
    assert len(rows) == 10


@pytest.mark.parametrize("drop", [False, True])
def test_a_refused_transition_is_stored_as_an_end_or_dropped(drop):
    def choose(candidates, draw):
        chosen, _ = choose_any(candidates, draw)
        moved = candidates.next_observations[chosen, torch.arange(len(chosen)), 0]
        return Choice(chosen, moved > 3.0)

    rows = roll_out(model(choose=choose, drop_refused=drop), still, torch.zeros(300, S), 5, generator())
    s, _, following, _, continues = LAYOUT.split(rows)
    assert bool((s[:, 0] <= 3.0).all())
    assert torch.equal(continues == 0, following[:, 0] > 3.0)
    assert bool((continues == 0).any()) != drop


def test_a_seed_decides_the_rollouts():
    def act(observations, draw):
        return torch.tanh(torch.randn(len(observations), A, generator=draw))

    starts = torch.randn(20, S, generator=generator(5))
    first, again, other = (roll_out(model(random_ensemble()), act, starts, 3, generator(g)) for g in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
