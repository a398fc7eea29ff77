"""Short trainings: one that is broken off goes on from its copy, to the same numbers."""

from functools import partial

import pytest
import torch

from offdyn_agents.engine.networks import Network
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.models import short_training, sparse_q, transitions
from offdyn_agents.models.short_training import Learner, ShortTraining, fit
from offdyn_agents.models.sparse_q import SparseSettings
from offdyn_agents.models.transitions import TransitionSettings
from tests.agents.planted import LAYOUT, world

SIZES = {"updates": 900, "width": 8, "batch_size": 16}
KINDS = {
    "fixed": (sparse_q.training, SparseSettings(**SIZES)),
    # So fast that the best step is hardly the last.
    "held out": (
        partial(transitions.training, name="change"),
        TransitionSettings(**SIZES, holdout=0.3, learning_rate=0.1),
    ),
}


def stage(cache, kind):
    training, settings = KINDS[kind]
    context = StageContext(LAYOUT, world(200, 1, 0.5), world(50, 0, 0.5), (3,), 1, cache=cache, compiled=False)
    return fit(training(settings, LAYOUT), settings, context)


class Broken(Exception):
    pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_training_goes_on_to_the_same_numbers(kind, tmp_path, monkeypatch):
    whole = stage(None, kind)[0]
    monkeypatch.setattr(short_training, "COPY_EVERY", 300)
    real, reports = Learner.fit, []

    def dies(self, source, target, seed, report=None, copy=None):
        def told(steps):
            reports.append(steps)
            if sum(reports) >= 800:
                raise Broken

        return real(self, source, target, seed, told, copy)

    with monkeypatch.context() as patch, pytest.raises(Broken):
        patch.setattr(Learner, "fit", dies)
        stage(tmp_path, kind)
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    reports.clear()

    def counts(self, source, target, seed, report=None, copy=None):
        return real(self, source, target, seed, reports.append, copy)

    monkeypatch.setattr(Learner, "fit", counts)
    again = stage(tmp_path, kind)[0]
    assert reports == [600, 100, 100, 100]
    for name, tensors in whole.items():
        for ours, theirs in zip(tensors, again[name], strict=True):
            assert torch.equal(ours, theirs), name
    # The copy goes when the training has ended.
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_held_out_rows_end_a_training_and_the_best_step_counts():

    rows = world(1000, 0, 0.5)

    def loss(nets, source, target, noises):
        states = LAYOUT.split(target)[0]
        weight = nets["line"][0]
        return ((states @ weight).squeeze(-1) - 0.3 * states[:, 0]).square().mean() + 0.01

    def fitted(**settings):
        training = ShortTraining("line", "line", {"line": Network((1, 1))}, loss, 1500, 0, 32, 0.05, **settings)
        steps = []
        Learner(training, torch.device("cpu"), compiled=False).fit(rows[:0], rows, 0, steps.append)
        return sum(steps)

    assert fitted() == 1500
    # Nothing is gained once the line fits: a hundred steps for that, three more that gain nothing.
    assert fitted(holdout=0.1, patience=3) in (400, 500)
    assert fitted(holdout=0.1, patience=6) in (700, 800)


def test_what_held_out_rows_have_said_is_kept():
    watch, state = short_training._Watch(2), [torch.zeros(2)]
    assert not watch.enough(1.0, [torch.tensor([1.0, 2.0])]) and not watch.enough(0.995, [torch.tensor([3.0, 4.0])])
    other = short_training._Watch(2)
    other.restore(watch.tensors(), state)
    assert torch.equal(other.best[0], torch.tensor([3.0, 4.0]))
    # .992 is the best so far, but no gain of 1% on 1.
    assert other.enough(0.992, [torch.tensor([5.0, 6.0])]) and torch.equal(other.best[0], torch.tensor([5.0, 6.0]))
    fresh = short_training._Watch(2)
    fresh.restore(short_training._Watch(2).tensors(), state)
    assert fresh.best == [] and not fresh.enough(float("nan"), state) and fresh.enough(float("nan"), state)
