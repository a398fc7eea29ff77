"""The dynamics reward's formulas, again in float64 NumPy; its bounds; which snapshots count."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offdyn_agents.engine import networks
from offdyn_agents.engine.settings import build
from offdyn_agents.engine.termination import never
from offdyn_agents.models.dynamics_reward.discriminator import (
    DynamicsReward,
    Scaling,
    discriminator_loss,
    discriminator_network,
    ensemble_reward,
    joined,
    range_normalised,
)
from offdyn_agents.models.dynamics_reward.filtering import RewardFilter, softmax_choice
from offdyn_agents.models.dynamics_reward.generator import Play, likelihood_loss, surrogate_loss
from offdyn_agents.models.dynamics_reward.learned import Learned
from offdyn_agents.models.dynamics_reward.settings import DynamicsRewardSettings
from offdyn_agents.models.ensemble.rollouts import Candidates
from offdyn_envs.errors import OffDynError
from tests.agents.golden import net

S, A, K = 3, 2, 5
LOW, HIGH = -math.log(1 - 1 / (1 + math.e)), -math.log(1 - 1 / (1 + math.exp(-1)))


def draw(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def transitions(rows=40, seed=0):
    states = draw(rows, S, seed=seed) * torch.tensor([1.0, 100.0, 0.01])
    return states, draw(rows, A, seed=seed + 1), states + 0.1 * draw(rows, S, seed=seed + 2) * states.std(0)


def make_reward(members=K, seed=0, expert=None, learner=None):
    generator = torch.Generator().manual_seed(seed)
    params = [4.0 * tensor for tensor in discriminator_network(S, A, members).initial(generator)]
    expert = draw(members, seed=seed + 1).abs() if expert is None else expert
    learner = -draw(members, seed=seed + 2).abs() if learner is None else learner
    return DynamicsReward(params, expert, learner, Scaling.of(*transitions()))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.usefixtures("float64")
def test_min_max_normalisation():
    states, actions, following = (t.double().numpy() for t in transitions())
    scaling = Scaling.of(*transitions())
    both, change = np.concatenate([states, following]), following - states

    def scaled(x, data, half):
        return (2 * (x - data.min(0)) / (data.max(0) - data.min(0)) - 1) * half

    expected = np.concatenate(
        [scaled(states, both, 0.8), scaled(actions, actions, 1.0), scaled(change, change, 0.8)], axis=1
    )
    found = scaling.inputs(*transitions())
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)
    assert float(found[:, S : S + A].amax()) == pytest.approx(1.0)
    assert float(found[:, S + A :].amin()) == pytest.approx(-0.8, abs=1e-5)


def test_numbers_that_are_not_finite_are_no_verdict():
    expert, learner = torch.tensor([1.0, torch.inf, 1.0, torch.nan]), torch.tensor([0.0, 0.0, -torch.inf, 0.0])
    reward = make_reward(4, expert=expert, learner=learner)
    assert reward.able.tolist() == [True, False, False, False]
    reward.params[2][0, 0, 0] = torch.nan
    assert not bool(reward.able.any())


@pytest.mark.usefixtures("float64")
def test_changes_as_differences_of_normalised_states():
    """The method's form: (s, a, s' - s) of states that are normalised before the difference is taken."""
    states, _, following = (t.double().numpy() for t in transitions())
    both = np.concatenate([states, following])
    low, high = both.min(0), both.max(0)
    before, after = ((2 * (x - low) / (high - low) - 1) * 0.8 for x in (states, following))
    scaling = Scaling.of(*transitions(), "states")
    np.testing.assert_allclose(scaling.inputs(*transitions())[:, S + A :], after - before, rtol=1e-6, atol=1e-12)
    own = Scaling.of(*transitions())
    torch.testing.assert_close(scaling.pairs(*transitions()[:2]), own.pairs(*transitions()[:2]))


def test_what_does_not_vary_keeps_its_size():
    states, actions, following = transitions()
    states[:, 1] = following[:, 1] = 7.0
    actions[:, 0] = 0.5
    scaling = Scaling.of(states, actions, following)
    inputs = scaling.inputs(states + torch.tensor([0.0, 2.0, 0.0]), actions + 1.0, following)
    assert torch.isfinite(inputs).all()
    torch.testing.assert_close(inputs[:, 1], torch.full((40,), 2.0))
    torch.testing.assert_close(inputs[:, S], torch.full((40,), 1.0))
    torch.testing.assert_close(inputs[:, S + A + 1], torch.full((40,), -2.0))


def test_discriminator_shape():
    assert discriminator_network(11, 3).sizes == (25, 128, 256, 256, 1)
    assert discriminator_network(11, 3, 40).shapes()[0] == (40, 25, 128)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("entropy", [0.0, 1e-3, 0.5])
def test_cross_entropy_with_bonus(entropy):
    params = [2.0 * p for p in discriminator_network(S, A).initial(torch.Generator().manual_seed(0))]
    real, fake = draw(30, 2 * S + A, seed=1), draw(20, 2 * S + A, seed=2)
    p = sigmoid(net(params, real.double().numpy())[:, 0])
    q = sigmoid(net(params, fake.double().numpy())[:, 0])
    everyone = np.concatenate([p, q])
    shannon = -(everyone * np.log(everyone) + (1 - everyone) * np.log(1 - everyone))
    expected = -(np.log(p).sum() + np.log(1 - q).sum()) / 50 - entropy * shannon.mean()
    assert float(discriminator_loss(params, real, fake, entropy)) == pytest.approx(expected, rel=1e-6)


def test_loss_of_stacked_discriminators():
    params = discriminator_network(S, A, K).initial(torch.Generator().manual_seed(0))
    real, fake = draw(K, 12, 2 * S + A, seed=1), draw(K, 12, 2 * S + A, seed=2)
    together = discriminator_loss(params, real, fake, 1e-3)
    alone = [discriminator_loss([p[i] for p in params], real[i], fake[i], 1e-3) for i in range(K)]
    torch.testing.assert_close(together, torch.stack(alone))


@pytest.mark.usefixtures("float64")
def test_reward_of_an_ensemble():
    reward = make_reward()
    states, actions, following = transitions(30, seed=5)
    x = reward.scaling.inputs(states, actions, following).double().numpy()
    verdicts = []
    for i in range(K):
        logit = net([p[i] for p in reward.params], x)[:, 0]
        low, high = float(reward.learner[i]), float(reward.expert[i])
        y = 2 * (np.clip(logit, low, high) - low) / (high - low) - 1
        verdicts.append(sigmoid(y))
    expected = -np.log(1 - np.mean(verdicts, axis=0))
    assert np.ptp(expected) > 0.3
    np.testing.assert_allclose(reward(states, actions, following), expected, rtol=1e-6)
    # Any shape in front, in any portions.
    many = [t.repeat(50, 1).view(5, 300, -1) for t in (states, actions, following)]
    np.testing.assert_allclose(reward(*many).flatten(), np.tile(expected, 50), rtol=1e-6)


def test_range_normalisation_by_hand():
    logits = torch.tensor([[-3.0, 0.0, 1.0, 2.0, 9.0]])
    found = range_normalised(logits, torch.tensor([2.0]), torch.tensor([0.0]))
    assert found[0].tolist() == pytest.approx(sigmoid(np.array([-1.0, -1.0, 0.0, 1.0, 1.0])).tolist())
    assert float(ensemble_reward(found[:, 2:3])) == pytest.approx(math.log(2.0))
    # The threshold lies two fifths of the way from learner to expert.
    at = range_normalised(torch.tensor([[0.8]]), torch.tensor([2.0]), torch.tensor([0.0]))
    assert float(ensemble_reward(at)) == pytest.approx(0.6, abs=0.01)


floats = st.floats(-1e6, 1e6, width=32)


@given(
    st.lists(st.tuples(floats, st.floats(2.0**-10, 1e6, width=32)), min_size=1, max_size=6),
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=6),
)
def test_bounds_for_any_logits(ranges, logits):
    learner = torch.tensor([low for low, _ in ranges])
    expert = learner + torch.tensor([width for _, width in ranges])
    able = expert > learner
    table = torch.tensor(logits).expand(len(ranges), -1)
    if bool(able.any()):
        found = ensemble_reward(range_normalised(table[able], expert[able], learner[able]))
        assert bool(((found >= LOW - 1e-5) & (found <= HIGH + 1e-5)).all())
    assert (LOW, HIGH) == (pytest.approx(0.313, abs=1e-3), pytest.approx(1.313, abs=1e-3))


@pytest.mark.parametrize(
    ("opponent", "name"), [("nce", "updates"), ("ppo", "iterations"), ("checkpoints", "iterations")]
)
def test_what_is_advised_is_a_setting_that_the_opponent_has(opponent, name):
    reward = make_reward(2, expert=torch.zeros(2), learner=torch.ones(2))
    asked = DynamicsRewardSettings(opponent=opponent, updates=7, iterations=9)
    assert asked.length == {"updates": 7, "iterations": 9}[name]
    with pytest.raises(OffDynError) as found:
        reward.usable(asked)
    told = (
        "none of 2 discriminators rates real transitions above generated ones; "
        f"more dynamics_reward.{name} or another dynamics_reward.discriminator_rate are needed"
    )
    assert str(found.value) == told
    with pytest.raises(OffDynError) as found:
        reward.usable(asked, prefix="")
    assert str(found.value) == told.replace("dynamics_reward.", "")


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=9))
def test_snapshots_that_cannot_tell_are_skipped(pairs):
    expert, learner = torch.tensor(pairs).float().unbind(1)
    reward = make_reward(len(pairs), expert=expert, learner=learner)
    wanted = [i for i, (e, f) in enumerate(pairs) if e > f]
    if not wanted:
        with pytest.raises(OffDynError, match="none of"):
            reward.usable()
        return
    found = reward.usable()
    assert len(found) == len(wanted)
    for ours, theirs in zip(found.params, reward.params, strict=True):
        assert torch.equal(ours, theirs[wanted])


def test_thinning():
    reward = make_reward(40, expert=torch.arange(40.0))
    assert reward.thinned(10).expert.tolist() == list(range(3, 40, 4))
    assert reward.thinned(1).expert.tolist() == [39]
    assert reward.thinned(40).expert.tolist() == reward.thinned(100).expert.tolist() == list(range(40))
    assert len(joined([reward.thinned(10), reward.thinned(1)])) == 11


@pytest.mark.parametrize(("iterations", "stride"), [(1000, 10), (400, 10), (399, 9), (60, 1), (3, 1)])
def test_stride(iterations, stride):
    assert build(DynamicsRewardSettings, {"iterations": iterations}).stride == stride


def test_tensors_and_back():
    reward = make_reward()
    again = DynamicsReward.from_tensors(reward.tensors(), torch.device("cpu"))
    assert torch.equal(again(*transitions()), reward(*transitions()))


def test_softmax_choice():
    scores = torch.tensor([0.4, 1.0, 0.7])[:, None].expand(-1, 40_000)
    generator = torch.Generator().manual_seed(0)
    assert bool((softmax_choice(scores, 0.0, generator) == 1).all())
    for temperature in (0.1, 1.0):
        chosen = softmax_choice(scores, temperature, generator)
        found = torch.bincount(chosen, minlength=3).double() / 40_000
        expected = torch.softmax(scores[:, 0].double() / temperature, 0)
        torch.testing.assert_close(found, expected, atol=0.01, rtol=0)


class Told:
    """A reward that knows the scores of candidates: their first number."""

    def __call__(self, observations, actions, following):
        assert observations.shape[:-1] == actions.shape[:-1] == following.shape[:-1]
        return following[..., 0]


def test_filter_takes_and_refuses():
    following = torch.zeros(4, 3, S)
    following[..., 0] = torch.tensor([[0.4, 0.5, 1.2], [0.59, 0.7, 0.3], [0.3, 0.61, 0.3], [0.1, 0.2, 0.3]])
    candidates = Candidates(draw(3, S), draw(3, A), following, torch.zeros(4, 3), torch.zeros(3))
    generator = torch.Generator().manual_seed(0)
    choice = RewardFilter(Told(), 0.0, 0.6)(candidates, generator)
    assert choice.chosen.tolist() == [1, 1, 0]
    assert choice.refused.tolist() == [True, False, False]
    assert not bool(RewardFilter(Told(), 0.0, 0.0)(candidates, generator).refused.any())
    picks = torch.stack([RewardFilter(Told(), 0.0, 0.6, False)(candidates, generator).chosen for _ in range(400)])
    assert sorted(picks.unique().tolist()) == [0, 1, 2, 3]
    # The one that was taken decides, not the best of all.
    for _ in range(50):
        choice = RewardFilter(Told(), 0.5, 0.6)(candidates, generator)
        taken = following[choice.chosen, torch.arange(3), 0]
        assert choice.refused.tolist() == (taken < 0.6).tolist()


def gaussian_density(params, x, y):
    mean, log_std = np.split(net(params, x), 2, axis=1)
    log_std = np.clip(log_std, -4, 1)
    return (-0.5 * ((y - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)).sum(1)


def gaussian_params(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(S + A, 8), (1, 8), (8, 2 * S), (1, 2 * S)]
    return [0.4 * torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.usefixtures("float64")
def test_likelihood_loss():
    params, x, y = gaussian_params(), draw(25, S + A, seed=1), draw(25, S, seed=2)
    expected = -gaussian_density(params, x.double().numpy(), y.double().numpy()).mean()
    assert float(likelihood_loss(params, x, y)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("likelihood", [0.0, 0.3])
def test_surrogate_loss(likelihood):
    params, x, y = gaussian_params(), draw(25, S + A, seed=1), draw(25, S, seed=2)
    new = gaussian_density(params, x.double().numpy(), y.double().numpy())
    density, gains = torch.from_numpy(new) + draw(25, seed=3, scale=0.4), draw(25, seed=4)
    real = draw(9, S + A, seed=5), draw(9, S, seed=6)
    found = surrogate_loss(params, x, y, density, gains, *real, clip=0.2, likelihood=likelihood)
    ratio, a = np.exp(new - density.double().numpy()), gains.double().numpy()
    assert ((ratio < 0.8) & (a < 0)).any() and ((ratio > 1.2) & (a > 0)).any()
    expected = -np.minimum(ratio * a, np.clip(ratio, 0.8, 1.2) * a).mean()
    expected -= likelihood * gaussian_density(params, *(t.double().numpy() for t in real)).mean()
    assert float(found) == pytest.approx(expected, rel=1e-6)


def make_play(terminated=never, settle=None, generator=None):
    states, actions, following = transitions(200)
    scaling = Scaling.of(states, actions, following)
    change = following - states
    behaviour = [torch.zeros(S, 2 * A), torch.zeros(1, 2 * A)]
    known = (scaling, torch.stack([change.mean(0), change.std(0)]), states, terminated)
    return Play(generator or gaussian_params(), behaviour, *known, *([settle] if settle else []))


def test_rollouts_of_the_generator():
    play = make_play()
    found = play.roll_out(7, 4, torch.Generator().manual_seed(0))
    assert found.observations.shape == (4, 7, S)
    assert torch.equal(found.observations[1:], found.following[:-1])
    assert torch.equal(found.actions[1:], found.following_actions[:-1])
    assert found.ended.tolist() == [[False] * 7] * 3 + [[True] * 7]
    starts = set(map(tuple, play.starts.tolist()))
    assert all(tuple(row) in starts for row in found.observations[0].tolist())
    # What was drawn is what followed, where nothing was cut off.
    middle = play.scaling.centre[:S] - found.following
    inside = ((middle * play.scaling.scale[:S]).abs() < 1.59).all(-1)
    moved = found.observations + play.change[0] + found.changes * play.change[1]
    assert bool(inside.any())
    torch.testing.assert_close(moved[inside], found.following[inside], rtol=1e-3, atol=1e-4)


def test_rollouts_start_again_where_they_end_and_stay_finite():
    wild = [50.0 * tensor for tensor in gaussian_params()]
    ends = lambda states: states[..., 0] > 0.5  # noqa: E731
    play = make_play(ends, generator=wild)
    found = play.roll_out(20, 10, torch.Generator().manual_seed(0))
    assert torch.equal(found.ended[:-1], ends(found.following[:-1]))
    starts = set(map(tuple, play.starts.tolist()))
    fresh = found.observations[1:][found.ended[:-1]]
    assert len(fresh) > 10
    assert all(tuple(row) in starts for row in fresh.tolist())
    reach = ((found.following - play.scaling.centre[:S]) * play.scaling.scale[:S]).abs()
    assert 0.8 < float(reach.max()) <= 1.6 + 1e-3


def test_settled_actions():
    found = make_play(settle=lambda actions: (actions > 0).float()).roll_out(9, 5, torch.Generator().manual_seed(0))
    assert found.actions.unique().tolist() == [0.0, 1.0]


def test_a_step_is_adams_with_a_bounded_gradient():
    start = [draw(4, 3, seed=1), draw(3, seed=2)]

    def objective(params, x):
        return (torch.tanh(x @ params[0] + params[1]) - 3.0).square().mean()

    ours = Learned([t.clone() for t in start], objective, 0.01, 0.1)
    theirs = [t.clone().requires_grad_() for t in start]
    optimizer = torch.optim.Adam(theirs, lr=0.01)
    for i in range(5):
        x = draw(6, 4, seed=10 + i)
        ours.step(x)
        optimizer.zero_grad()
        objective(theirs, x).backward()
        torch.nn.utils.clip_grad_norm_(theirs, 0.1)
        optimizer.step()
    for a, b in zip(ours.params, theirs, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-4, atol=1e-5)


@pytest.fixture
def fused(monkeypatch):
    """The calls of the fused product."""
    calls, real = [], networks._LINEAR
    monkeypatch.setattr(networks, "_LINEAR", real and (lambda *args: (calls.append(args), real(*args))[1]))
    return calls


ABLE = networks._LINEAR is not None and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def test_fused_layers_are_what_autocast_computes(fused, monkeypatch):
    reward = make_reward()
    given, inputs = transitions(300), draw(300, 2 * S + A)
    evaluate = networks.MLPsInTurn(reward.params)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, scores = evaluate(inputs), reward(*given)
        assert len(fused) == (2 * K * len(reward.params) // 2 if ABLE else 0)
        with monkeypatch.context() as patch:
            patch.setattr(networks, "_LINEAR", None)
            plain, plain_scores = evaluate(inputs), reward(*given)
    # Processors may add products in different orders; most sums round to the same number all the same.
    assert (outputs == plain).float().mean() > 0.8
    torch.testing.assert_close(outputs, plain, rtol=2**-6, atol=2**-6 * float(plain.abs().max()))
    torch.testing.assert_close(scores, plain_scores, rtol=0.02, atol=0.02)


def test_products_are_rounded_only_where_autocast_asks(fused):
    reward, given = make_reward(), transitions(300)
    exact = reward(*given)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = reward(*given)
    assert bool(fused) == ABLE
    fused.clear()
    assert torch.equal(reward(*given), exact)
    with torch.autocast("cpu", torch.float16):
        reward(*given)
    assert not fused
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_no_number_gets_no_reward(rounds, number, fused):
    states, actions, following = transitions(300)
    following[7, 1] = number
    with torch.autocast("cpu", torch.bfloat16, enabled=rounds):
        scores = make_reward()(states, actions, following)
    assert torch.isnan(scores).nonzero().flatten().tolist() == [7]
