"""STC: its correction against numbers by hand, which rows it corrects, and that without corrections it is IQL."""

from dataclasses import replace

import pytest
import torch

from offdyn_agents.algorithms.iql import IQL
from offdyn_agents.algorithms.rowwise import stc
from offdyn_agents.algorithms.rowwise.stc import STC, STCSettings, corrections, slope_step
from offdyn_agents.models.transitions import TransitionSettings, Units
from offdyn_agents.testing.conformance import same, train, weights
from tests.agents.planted import LAYOUT, SOURCE_ROWS, earning, good_rows, planted, world

SMALL = TransitionSettings(width=16, updates=800, patience=5, batch_size=64, learning_rate=3e-3)
ONE = torch.tensor(1.0)
PLAIN = Units(*((0.0 * m, m) for m in (torch.ones(1), torch.ones(1), ONE)))
"""Units in which everything is as it is."""


@pytest.fixture(scope="module")
def corrected():
    context = earning(planted())
    return context, good_rows(), STC(STCSettings(models=SMALL), 1, 1).row_columns(context)[0]


def with_models(patch, forward, rewards, backward):
    patch.setattr(stc, "change", lambda nets, states, actions: forward(states, actions))
    patch.setattr(stc, "reward", lambda nets, states, actions: rewards(states, actions))
    patch.setattr(stc, "inverse", lambda nets, states, changes: backward(states, changes))


def row(state, action, following, reward=1.0):
    numbers = (torch.tensor([[x]]) for x in (state, action, following))
    return LAYOUT.join(*numbers, torch.tensor([reward]), torch.tensor([False]))


def test_the_rewards_correction_is_of_first_order(monkeypatch):
    """G8: r = a^2, from .5 to .7: r + .2, where the difference itself is .24."""
    with_models(monkeypatch, lambda s, a: a, lambda s, a: a.square()[:, 0], lambda s, d: d)
    step = slope_step({}, torch.zeros(1, 1), torch.tensor([[0.5]]), torch.tensor([[0.7]]))
    assert float(step) == pytest.approx(0.2)
    said = corrections(STCSettings(), {}, PLAIN, LAYOUT, row(0.0, 0.5, 0.7))
    assert said[0].tolist() == pytest.approx([0.7, 0.2, 1.0, -0.2, -0.2])


@pytest.mark.parametrize(
    ("settings", "added"),
    [({"coefficient": 0.5}, 0.1), ({"reward_clip": 0.15}, 0.15), ({"coefficient": 0.0}, 0.0)],
)
def test_switches_of_the_rewards_correction(monkeypatch, settings, added):
    with_models(monkeypatch, lambda s, a: a, lambda s, a: a.square()[:, 0], lambda s, d: d)
    said = corrections(STCSettings(**settings), {}, PLAIN, LAYOUT, row(0.0, 0.5, 0.7))
    assert float(said[0, 1]) == pytest.approx(added)


@pytest.mark.parametrize(("kappa", "accepted"), [(1.0, True), (0.3, False), (0.6, True)])
def test_only_what_the_forward_model_finds_nearer_by_kappa_is_corrected(monkeypatch, kappa, accepted):
    """The error is .4 with the row's own action and .2 with the other: the inverse model goes half of the way."""
    with_models(monkeypatch, lambda s, a: a, lambda s, a: a[:, 0], lambda s, d: 0.5 + 0.5 * (d - 0.5))
    said = corrections(STCSettings(kappa=kappa), {}, PLAIN, LAYOUT, row(0.0, 0.5, 0.9))[0]
    expected = [0.7, 0.2, 1.0] if accepted else [0.5, 0.0, 0.0]
    assert said.tolist() == pytest.approx([*expected, -0.2, -0.4])


def test_a_row_stays_where_the_new_action_is_no_nearer(monkeypatch):
    with_models(monkeypatch, lambda s, a: a, lambda s, a: a[:, 0], lambda s, d: d + 1.0)
    assert corrections(STCSettings(), {}, PLAIN, LAYOUT, row(0.0, 0.5, 0.9))[0, :3].tolist() == [0.5, 0.0, 0.0]


def test_units_are_the_targets():
    context = earning(planted())
    units = Units.of(LAYOUT, context.target)
    states, actions, changes, rewards, continues = LAYOUT.split(units.table(LAYOUT, context.target))
    for values in (states[:, 0], changes[:, 0], rewards):
        assert float(values.mean()) == pytest.approx(0.0, abs=1e-5)
        assert float(values.std(correction=0)) == pytest.approx(1.0, abs=1e-4)
    assert torch.equal(actions, LAYOUT.split(context.target)[1]) and bool((continues == 1.0).all())


def test_planted_rows_of_the_mirror_get_the_action_of_the_target(corrected):
    """The target takes the action (s' - s) / .5 for the same change: of the mirror's rows the opposite of their own.

    Measured: 99.7% of them corrected, with a mean error of .006 where their own actions are off by 1.0.
    """
    context, good, columns = corrected
    states, actions, following, *_ = LAYOUT.split(context.source)
    needed = (following - states) / 0.5
    errors = (columns.actions - needed).abs()[:, 0]
    assert float(columns.extras["corrected"][~good].mean()) > 0.97
    assert float(errors[~good].mean()) < 0.05 < 0.9 < float((actions - needed).abs()[~good].mean())
    # Rewards are a: their correction is a^ - a, but for its clip.
    moved = (columns.actions - actions)[:, 0]
    limit = float(Units.of(LAYOUT, context.target).rewards[1])
    assert float((columns.rewards - moved.clamp(-limit, limit)).abs().mean()) < 0.02


def test_the_error_before_tells_the_kinds_apart(corrected):
    """As a score it would keep rows of the target's kind alone: measured, 99% of the better half."""
    _, good, columns = corrected
    better = columns.extras["nearness"].argsort(descending=True)[: len(good) // 2]
    assert float(good[better].float().mean()) > 0.95


def test_the_less_an_action_moves_the_nearer_is_the_row(corrected):
    """More is better in each column that rates rows; that of the correction itself marks the mirrored rows here."""
    _, good, columns = corrected
    better = columns.extras["closeness"].argsort(descending=True)[: len(good) // 2]
    assert float(good[better].float().mean()) > 0.95
    assert bool((columns.extras["closeness"] <= 0.0).all())


def test_rows_of_the_targets_kind_hardly_move(corrected):
    context, good, columns = corrected
    actions = LAYOUT.split(context.source)[1]
    assert float((columns.actions - actions).abs()[good].mean()) < 0.02
    assert -0.05 < float(columns.extras["closeness"][good].mean()) <= 0.0


def test_a_weaker_source_gets_smaller_actions():
    """s' = s + b a with b .25 in the source and .5 in the target: a^ = a / 2."""
    context = earning(replace(planted(), source=world(SOURCE_ROWS, 2, 0.25)))
    columns = STC(STCSettings(models=SMALL), 1, 1).row_columns(context)[0]
    torch.testing.assert_close(columns.actions, 0.5 * LAYOUT.split(context.source)[1], rtol=0.0, atol=0.06)


def test_without_corrections_it_is_iql(tmp_path):
    train(IQL, tmp_path / "iql")
    train(STC, tmp_path / "stc", settings={"kappa": 0.0})
    for seed in (0, 1):
        same(weights(tmp_path / "stc", seed), weights(tmp_path / "iql", seed))
    train(STC, tmp_path / "corrected", seeds=(0,))
    assert not torch.equal(weights(tmp_path / "corrected", 0)["actor.0"], weights(tmp_path / "iql", 0)["actor.0"])
