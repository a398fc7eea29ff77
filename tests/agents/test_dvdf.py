"""DVDF: what rows are ranked by, sparse Q-learning on known problems, and the planted rows."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from offdyn_agents.algorithms.registry import make_agent
from offdyn_agents.algorithms.rowwise.agent import SCORES, WEIGHTS
from offdyn_agents.algorithms.rowwise.dvdf import ADVANTAGES, DVDF, DVDFSettings, mixed
from offdyn_agents.algorithms.rowwise.igdf import IGDF
from offdyn_agents.algorithms.rowwise.otdf import OTDF, OTDFSettings
from offdyn_agents.engine.networks import value
from offdyn_agents.engine.rows import Batch, pack
from offdyn_agents.models import sparse_q
from offdyn_agents.models.contrastive import EncoderSettings
from offdyn_agents.models.short_training import fit
from offdyn_agents.models.sparse_q import SparseSettings, advantages, value_terms
from offdyn_agents.testing.conformance import same, train, weights
from tests.agents.planted import LAYOUT, earning, good_share, planted
from tests.agents.test_igdf import ENCODERS

OVER_OTDF = DVDFSettings(score="otdf", mix=1.0)
FAST = {"width": 32, "batch_size": 64, "learning_rate": 5e-3, "polyak": 0.05}


def test_ranks_of_a_batch_and_the_first_terms_of_v():
    """G7."""
    h, a = torch.tensor([0.9, 0.1]), torch.tensor([-2.0, 6.0])
    torch.testing.assert_close(mixed(h, a, 0.7), torch.tensor([0.63, 0.37]))
    torch.testing.assert_close(value_terms(torch.tensor([1.0, -0.3]), torch.zeros(2), 0.1), torch.tensor([36.0, 0.0]))
    assert float(value_terms(torch.tensor(-0.3), torch.tensor(2.0), 0.1)) == pytest.approx(20.0)


def test_each_batch_of_each_run_has_its_own_extremes():
    h, a = torch.rand(2, 3, 8), torch.randn(2, 3, 8)
    whole = mixed(h, a, 0.4)
    for run in range(2):
        for i in range(3):
            torch.testing.assert_close(whole[run, i], mixed(h[run, i], a[run, i], 0.4))


def test_a_constant_advantage_ranks_nothing():
    h = torch.rand(32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mixed(h, torch.full((32,), -7.0), 0.7), 0.7 * h)


@pytest.mark.parametrize("rows", [64, 61, 5])
def test_the_g_on_record_is_that_of_batches(rows):
    """One A far off would leave all others alike among all rows; in batches it does so in its own alone."""
    generator = torch.Generator().manual_seed(0)
    h, a = torch.rand(rows, generator=generator), torch.rand(rows, generator=generator)
    a[0] = 1e6
    agent = DVDF(DVDFSettings(batch_size=16, mix=0.0), 1, 1)
    found = agent._with_advantages({SCORES: h}, a)["g"]
    assert bool(torch.isfinite(found).all()) and float(found[0]) == pytest.approx(1.0)
    if rows == 5:  # Fewer than a batch has: all at once.
        torch.testing.assert_close(found, mixed(h, a, 0.0))
        return
    drawn = torch.stack([torch.randperm(rows, generator=generator)[:8] for _ in range(40_000)])
    for row in (0, 7, 30):
        with_it = drawn[(drawn == row).any(-1)]
        expected = mixed(h[with_it], a[with_it], 0.0)[with_it == row].mean()
        assert float(found[row]) == pytest.approx(float(expected), abs=0.2)
    assert float(found[1:].std()) > 0.1 > float(mixed(h, a, 0.0)[1:].std())


def batch_of(h, a):
    columns = {SCORES: h, WEIGHTS: h.exp(), ADVANTAGES: a}
    return Batch(*[torch.zeros(1, 4)] * 5, None, 4, columns=columns)


@pytest.mark.parametrize("weighting", ["similarity", "value"])
def test_weights_are_of_the_similarity_or_of_what_ranks(weighting):
    h, a = torch.tensor([[0.5, -0.9, 0.2, 0.4]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]])
    terms = DVDF(DVDFSettings(weighting=weighting), 1, 1).terms({}, batch_of(h, a))
    g = mixed(h, a, 0.7)
    assert torch.equal(terms.scores, g) and float(g.min()) < 0.0
    # A weight below 0 would make the critic's loss one without a bottom.
    assert torch.equal(terms.weights, h.exp() if weighting == "similarity" else g.clamp(min=0.0))


def chain(rows, seed):
    """Two states, 0 and 1; actions -1 and 1, of which 1 earns 1 more, and both lead to the other state."""
    rng = np.random.default_rng(seed)
    s, a = rng.integers(0, 2, (2, rows, 1)).astype(float)
    data = SimpleNamespace(
        observations=s,
        actions=2.0 * a - 1.0,
        next_observations=1.0 - s,
        rewards=(a + s)[:, 0],
        terminations=np.zeros(rows),
    )
    return pack(data, "chain")


@pytest.mark.parametrize(("alpha", "mean"), [(10.0, 0.5), (0.1, 0.8)])
def test_sparse_q_learning_on_two_states(alpha, mean):
    """A large alpha gives the values of the behaviour; a small one those of the better action less 2 alpha.

    There the mean of u is 1 while the worse action's is cut at 0: (q - V) / (2 alpha) + 1 = 2 for the better one.
    """
    context = replace(planted(), source=chain(4000, 0))
    settings = SparseSettings(updates=600, alpha=alpha, discount=0.5, **FAST)
    nets = fit(sparse_q.training(settings, LAYOUT), settings, context)[0]
    found = value(nets["value"], torch.tensor([[0.0], [1.0]]))
    # V(0) = m + .5 V(1) and V(1) = m + 1 + .5 V(0), m what an action earns more as V counts it.
    exact = torch.tensor([mean + 0.5 * (mean + 1.0), mean + 1.0 + 0.5 * mean]) / 0.75
    torch.testing.assert_close(found, exact, atol=0.1, rtol=0.0)
    said = advantages(nets, LAYOUT, context.source)
    better = context.source[:, 1] > 0.0
    torch.testing.assert_close(said[better].mean(), torch.tensor(1.0 - mean), atol=0.1, rtol=0.0)
    torch.testing.assert_close(said[~better].mean(), torch.tensor(-mean), atol=0.1, rtol=0.0)


def test_advantages_are_learned_from_source_rows_and_rewards_as_iql_scales_them():
    context = planted()
    source = context.source.clone()
    source[:, LAYOUT.reward_column] = 3.0
    context = replace(context, source=source)
    agent = DVDF(DVDFSettings(), 1, 1)
    # One-step episodes but for chance: a range of returns so small that nothing is scaled; then one of 9,000.
    assert torch.equal(agent._scaled(context).source, source)
    source[0, LAYOUT.reward_column] = 9003.0
    scaled = agent._scaled(context).source
    torch.testing.assert_close(scaled[1:, LAYOUT.reward_column], torch.full((len(source) - 1,), 1.0 / 3.0))
    assert float(source[1, LAYOUT.reward_column]) == 3.0
    assert DVDF(DVDFSettings(reward_scale="none"), 1, 1)._scaled(context) is context
    plan = sparse_q.training(SparseSettings(), LAYOUT)
    assert (plan.updates, plan.source, plan.target, plan.averaged, plan.polyak) == (10**5, 128, 0, ("critic",), 0.005)


def test_with_dynamics_alone_it_is_igdf_with_its_share(tmp_path):
    small = {"encoders.updates": 5, "keep_share": 0.5}
    train(IGDF, tmp_path / "igdf", settings=small)
    train(DVDF, tmp_path / "dvdf", settings=small | {"mix": 1.0})
    for seed in (0, 1):
        same(weights(tmp_path / "igdf", seed), weights(tmp_path / "dvdf", seed))
    train(DVDF, tmp_path / "other", seeds=(0,), settings=small | {"mix": 0.2})
    assert not torch.equal(weights(tmp_path / "igdf", 0)["value.0"], weights(tmp_path / "other", 0)["value.0"])


@pytest.mark.parametrize(("score", "share", "action"), [("igdf", 0.6, 0.2), ("otdf", 0.72, 0.18)])
def test_the_filter_finds_the_planted_rows_and_the_good_actions(score, share, action):
    """Share of good rows in the better half by g, and its mean action.

    Measured: .65 and .28 over IGDF, where h alone keeps .86 and no better actions; with encoders of full size .62, .32
    and .92. A is spread over all of [0, 1] and h is not, so that advantages have more to say than their .3. OTDF's h is
    spread over [-1, 0]: .76 and .22, where h alone keeps .92.
    """
    # An action is worth what it is: of the rows with the target's dynamics, those with a > 0 are to be kept.
    context = earning(planted())
    sql = SparseSettings(updates=400, discount=0.5, alpha=1.0, **FAST)
    settings = DVDFSettings(score=score, encoders=EncoderSettings(**ENCODERS), sql=sql)
    said, actions = DVDF(settings, 1, 1).row_columns(context)[0].extras, LAYOUT.split(context.source)[1][:, 0]
    assert float(torch.corrcoef(torch.stack([said[ADVANTAGES], actions]))[0, 1]) > 0.9
    g = said["g"]
    kept = g.argsort(descending=True)[: len(g) // 2]
    assert share < good_share(g) < good_share(said[SCORES])
    assert float(actions[kept].mean()) > action


@pytest.mark.parametrize("robot", ["hopper", "ant"])
def test_published_constants(robot):
    own, paper, code = (
        make_agent("dvdf", robot, 11, 3, more).settings for more in ({}, {"form": "paper"}, {"form": "code"})
    )
    assert (own.mix, own.keep_share, own.score, own.weighting) == (0.7, 0.5, "igdf", "similarity")
    assert (own.sql.alpha, own.sql.learning_rate, own.encoders.updates) == (0.1, 3e-4, 7000)
    assert (paper.weighting, code.weighting, paper.reward_scale) == ("value", "similarity", "none")


def test_over_otdf_h_is_its_relative_cost_within_a_batch():
    agent = DVDF(OVER_OTDF, 1, 1)
    # Costs .1, .2 and .5: G5.
    batch = Batch(*(torch.zeros(3, 1),) * 2, torch.zeros(3), torch.zeros(3, 1), torch.ones(3), None, 3)
    terms = agent.terms({}, batch._replace(columns={"scores": torch.tensor([-0.1, -0.2, -0.5])}))
    torch.testing.assert_close(terms.scores, torch.tensor([0.0, -0.25, -1.0]))
    torch.testing.assert_close(terms.weights, torch.tensor([1.0, 0.778801, 0.367879]))


def test_over_otdf_with_dynamics_alone_it_weighs_and_ranks_as_otdf():
    scores = -torch.rand(2, 16, generator=torch.Generator().manual_seed(0))
    batch = batch_of(scores, torch.randn(2, 16))
    ours, theirs = (kind.terms({}, batch) for kind in (DVDF(OVER_OTDF, 1, 1), OTDF(OTDFSettings(), 1, 1)))
    assert torch.equal(ours.weights, theirs.weights)
    assert torch.equal(ours.scores.argsort(), theirs.scores.argsort())
