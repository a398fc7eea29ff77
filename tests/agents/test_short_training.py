"""Short trainings: one that is broken off goes on from its copy, to the same numbers."""

import pytest
import torch

from offdyn_agents.engine.stages import StageContext
from offdyn_agents.models import short_training, sparse_q
from offdyn_agents.models.short_training import Learner, fit
from offdyn_agents.models.sparse_q import SparseSettings
from tests.agents.planted import LAYOUT, world

SETTINGS = SparseSettings(updates=900, width=8, batch_size=16)


def stage(cache):
    context = StageContext(LAYOUT, world(200, 1, 0.5), world(50, 0, 0.5), (3,), 1, cache=cache, compiled=False)
    return fit(sparse_q.training(SETTINGS, LAYOUT), SETTINGS, context)


class Broken(Exception):
    pass


def test_a_broken_training_goes_on_to_the_same_numbers(tmp_path, monkeypatch):
    whole = stage(None)[0]
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
        stage(tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    reports.clear()

    def counts(self, source, target, seed, report=None, copy=None):
        return real(self, source, target, seed, reports.append, copy)

    monkeypatch.setattr(Learner, "fit", counts)
    again = stage(tmp_path)[0]
    assert reports == [600, 100, 100, 100]
    for name, tensors in whole.items():
        for ours, theirs in zip(tensors, again[name], strict=True):
            assert torch.equal(ours, theirs), name
    # The copy goes when the training has ended.
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
