"""Training of the difference form: what it learns, what the anchor and each domain's rows are for, its schedule."""

import itertools
import math

import numpy as np
import pytest
import torch

from offdyn_agents.models.dual import schedules
from offdyn_agents.models.dual import training as mobody_training
from offdyn_agents.models.dual.schedules import BOTH
from offdyn_agents.models.dual.training import DualLearner
from tests.agents.test_mobody_training import CPU, LAYOUT, SOURCE, TARGET, UNSEEN, error, fit, world
from tests.agents.test_mobody_training import settings as any_settings

SMALL = {"members": 2, "elites": 2, "width": 32, "latent": 8, "action_width": 16, "learning_rate": 5e-3, "updates": 300}
TINY = SMALL | {"members": 3, "width": 8, "latent": 4, "updates": 90, "source_batch": 16, "target_batch": 8}


def settings(base=SMALL, **overrides):
    return any_settings(base, **overrides)


def test_two_action_encoders_learn_what_one_cannot():
    few = TARGET[:60]
    dual = fit(settings(), target=few)
    assert error(dual) < 0.25
    assert error(dual, SOURCE, "source") < 0.2
    assert error(dual, UNSEEN, "source") > 1.0
    assert error(fit(settings(structure="single"))) > 0.4
    assert error(fit(settings(structure="plain"))) > 0.4
    # So few target rows alone teach less than both domains together.
    assert error(fit(settings(data="target"), target=few)) > 1.3 * error(dual)


def test_where_the_target_says_nothing_the_source_is_believed():
    """Target rows, where actions do the opposite, lie on one side; what the source says of the other is asked there."""

    def side(rows, sign):
        return rows[sign * (rows[:, 0] + rows[:, 1]) > 0.7]

    target, asked = side(world(300, 1, -1.0), 1.0), side(world(800, 2, 1.0), -1.0)
    with_anchor, without = (error(fit(settings(anchor=anchor), SOURCE, target), asked) for anchor in (0.5, 0.0))
    assert with_anchor < 0.6 * without


@pytest.mark.parametrize("gone", ["source", "target"])
def test_rows_of_both_domains_are_learned(gone, monkeypatch):
    """With a domain's rows of no weight its own encoder learns nothing."""
    real = mobody_training.Part.__init__

    def weightless(self, rows, units, domain, *more):
        real(self, rows, units, domain, *more)
        if domain == gone:
            self.weights = 1e-9 * self.weights

    rows = {"source": SOURCE, "target": UNSEEN}[gone]
    assert error(fit(settings(anchor=0.0)), rows, gone) < 0.2
    monkeypatch.setattr(mobody_training.Part, "__init__", weightless)
    assert error(fit(settings(anchor=0.0)), rows, gone) > 0.5


def test_rewards_of_samples():
    dynamics = fit(settings())
    s, a, *_ = LAYOUT.split(UNSEEN)
    found = dynamics.predict(s, a, torch.Generator(), "changes")
    meant = found.following.sum(-1)
    assert float((found.rewards - meant).square().mean()) < 0.1 * float(meant.var())


def test_what_is_learned_does_not_depend_on_the_units_of_states():
    found = []
    for scale, move in ((1.0, 0.0), (1000.0, 5.0)):
        rows = [table.clone() for table in (SOURCE[:500], TARGET, UNSEEN)]
        for table in rows:
            for states in (LAYOUT.split(table)[0], LAYOUT.split(table)[2]):
                states.copy_(scale * (states + move))
        dynamics = fit(settings(TINY), *rows[:2])
        s, a, *_ = LAYOUT.split(rows[2])
        found.append(dynamics.means(s, a) / scale - move)
        assert error(dynamics, rows[2]) < 1.0
    torch.testing.assert_close(found[0], found[1], rtol=0.02, atol=0.02)


def training(chosen, source=SOURCE[:500], target=TARGET):
    return mobody_training._Training(DualLearner(chosen, LAYOUT, CPU, compiled=False), source, target, 0)


def test_schedule():
    """A fixed number of steps, each on rows of both domains, judged forty times, with a rate that falls to 0."""
    chosen, rates, kinds, seen = settings(TINY), [], [], []
    run = training(chosen)
    real = run._next_batch

    def counted(kind, numbers):
        found = real(kind, numbers)
        kinds.append((kind, [tuple(own.shape) for own in numbers]))
        rates.append(found[0][0])
        return found

    run._next_batch = counted
    dynamics = run.run(lambda number, worst: seen.append((number, worst)), None)
    assert kinds == [(BOTH, [(3, 16), (3, 8)])] * 90
    assert [number for number, _ in seen] == list(range(1, 41))
    assert all(b <= a for (_, a), (_, b) in itertools.pairwise(seen))
    for done, rate in enumerate(rates):
        meant = 0.5 * (1.0 + math.cos(math.pi * done / 90)) * 5e-3 / (1.0 - 0.9 ** (done + 1))
        assert float(rate[0]) == pytest.approx(meant, rel=1e-4)
    assert sorted(dynamics.errors.tolist())[:2] == dynamics.errors[dynamics.elites].tolist()
    constant = training(settings(TINY, decay="none"))
    constant.taken[BOTH] = 89
    assert float(schedules.rates(constant.settings, constant.parts, constant.taken, BOTH)[0, 0]) == pytest.approx(
        5e-3 / (1.0 - 0.9**90), rel=1e-4
    )


@pytest.mark.parametrize("structure", ["dual", "plain"])
def test_kept_parameters_are_those_of_the_kept_error_in_units_of_a_change(structure):
    run = training(settings(TINY, structure=structure))
    dynamics, part = run.run(None, None), run.parts["target"]
    held = np.setdiff1d(np.arange(len(TARGET)), part.kept.numpy())
    s, a, following, *_ = LAYOUT.split(TARGET[held])
    own = (LAYOUT.split(TARGET)[2] - LAYOUT.split(TARGET)[0]).square().mean(0)
    errors = ((dynamics.means(s, a) - following).square() / own).mean((1, 2))
    torch.testing.assert_close(errors, dynamics.errors, rtol=1e-3, atol=1e-5)


def test_a_target_that_moves_less_does_not_outweigh_the_source():
    """Errors count in units of their own domain's change, those of target rows no more than those of source rows."""
    for scale in (0.1, 10.0):
        target = TARGET.clone()
        for states in (LAYOUT.split(target)[0], LAYOUT.split(target)[2]):
            states.mul_(scale)
        run = training(settings(TINY), target=target)
        own = {domain: part.weights for domain, part in run.parts.items()}
        ratio, weights = run._batch(BOTH, run._any_rows(BOTH))[1:3]
        assert torch.equal(weights[0], own["source"])
        assert torch.equal(weights[1], torch.minimum(own["source"], own["target"]))
        torch.testing.assert_close(ratio, run.units.change / run.units.scale)


@pytest.mark.parametrize(
    "overrides", [{}, {"schedule": "blocks", "epochs": 4}, {"latent_noise": True, "structure": "single"}]
)
def test_an_interrupted_training_ends_as_it_would_have(overrides, monkeypatch):
    monkeypatch.setattr(mobody_training, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(schedules, "JUDGEMENTS", 4)
    learner, states = DualLearner(settings(TINY, **overrides), LAYOUT, CPU, compiled=False), []

    def save(state):
        states.append({name: tensor.clone() for name, tensor in state.items()})

    whole = learner.fit(SOURCE[:300], TARGET, 0, save=save)
    assert len(states) == 4
    for state in states:
        again = learner.fit(SOURCE[:300], TARGET, 0, resume=state)
        assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in whole.tensors().items())
    # A copy of the other schedule is not what `save` was given.
    other = {name: tensor for name, tensor in states[0].items() if not name.startswith("steps.")}
    assert torch.equal(learner.fit(SOURCE[:300], TARGET, 0, resume=other).errors, whole.errors)


def test_the_published_form_can_be_interleaved_and_the_difference_form_in_blocks():
    paper = {"form": "paper", "loss_weights": "code", "schedule": "interleaved", "decay": "cosine"}
    for overrides in (paper, {"schedule": "blocks", "epochs": 8, "batch_size": 64}):
        assert error(fit(settings(**overrides), SOURCE[:1000])) < 0.8


def test_the_compiled_step_is_the_written_one():
    learner = DualLearner(settings(TINY, updates=40), LAYOUT, CPU)
    if not learner.compiled:
        pytest.skip("no compiler")
    written = DualLearner(learner.settings, LAYOUT, CPU, compiled=False).fit(SOURCE[:300], TARGET, 0)
    learner.warm_up(SOURCE[:300], TARGET)
    compiled = learner.fit(SOURCE[:300], TARGET, 0)
    s, a, *_ = LAYOUT.split(UNSEEN)
    # The decoder's last bias is in no prediction: what it becomes is rounding.
    for domain in ("source", "target"):
        torch.testing.assert_close(written.means(s, a, domain), compiled.means(s, a, domain), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(written.errors, compiled.errors, rtol=1e-3, atol=0.0)
