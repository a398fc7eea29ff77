"""STC's models of transitions: each is trained for as long as its own held-out rows ask for."""

from dataclasses import replace

import torch

from offdyn_agents.models.short_training import Learner
from offdyn_agents.models.transitions import TransitionSettings, Units, fit_transitions
from tests.agents.planted import LAYOUT, context, earning, world

SETTINGS = TransitionSettings(updates=1200, patience=2, width=16, batch_size=32, learning_rate=3e-3)


def fitted(given, monkeypatch):
    """Return the networks, and how many updates each was trained for."""
    steps, real = {}, Learner.fit

    def told(self, source, target, seed, report=None, copy=None):
        done = []
        found = real(self, source, target, seed, done.append, copy)
        steps[self.training.name] = sum(done)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "fit", told)
        return fit_transitions(SETTINGS, given, Units.of(LAYOUT, given.target))[0], steps


def test_each_network_stops_by_itself(monkeypatch):
    """Rewards that nothing can predict end the reward's training alone; rewards that are there to be learned do not."""
    plain = context(world(10, 1, 0.5), world(300, 0, 0.5))
    known = earning(plain)
    noise = known.target.clone()
    noise[:, LAYOUT.reward_column] = torch.randn(300, generator=torch.Generator().manual_seed(0))
    nets, steps = fitted(known, monkeypatch)
    others, fewer = fitted(replace(known, target=noise), monkeypatch)
    assert fewer["transitions reward"] < steps["transitions reward"]
    for name in ("change", "inverse"):
        assert fewer[f"transitions {name}"] == steps[f"transitions {name}"]
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(nets[name], others[name], strict=True))
    assert set(nets) == {"change", "reward", "inverse"}
