"""An agent with a model on the Adroit hand: its rollouts end where the pen drops."""

import numpy as np
import pytest

import offdyn
from offdyn_agents.algorithms.registry import agent_class
from offdyn_agents.api.recipe import recipe
from offdyn_agents.testing.sizes import small_settings
from offdyn_envs.datasets import load_dataset
from offdyn_envs.datasets.collecting.build import build
from offdyn_envs.robots import HANDS
from offdyn_envs.tasks import DatasetId


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Names of two small datasets of the pen."""
    monkeypatch.setenv("OFFDYN_DATA_DIR", str(tmp_path / "data"))
    names = [f"offdyn/adroit-pen/{dynamics}/random-500-v0" for dynamics in ("nominal", "broken-joint-easy")]
    for name in names:
        build(DatasetId.parse(name), quiet=True)
    return names


def test_mobody_trains_on_the_pen(pair, tmp_path, monkeypatch):
    for module in ("engine.execution", "models.short_training", "models.ensemble.training"):
        monkeypatch.setattr(f"offdyn_agents.{module}.can_compile", lambda _: False)
    asked, pen = [], type(HANDS["adroit-pen"])
    real = pen.terminated_from_observation

    def ends(self, observation):
        asked.append((observation, real(self, observation)))
        return asked[-1][1]

    monkeypatch.setattr(pen, "terminated_from_observation", ends)
    run = offdyn.fit(
        recipe("mobody", small_settings(agent_class("mobody").settings_class)),
        *pair,
        seeds=1,
        updates=5,
        eval_every=5,
        out=tmp_path / "runs",
        progress=False,
    )
    assert (run.facts["status"], run.facts["updates"]) == ("complete", 5)
    # Rollouts in the learned target were judged, and some ended.
    rolled = [(seen, said) for seen, said in asked if seen.ndim > 1]
    assert all(seen.shape[-1] == 45 for seen, _ in rolled)
    assert any(said.any() for _, said in rolled) and any(not said.all() for _, said in rolled)
    actions = run.policy(0)(load_dataset(pair[1]).observations[:7])
    assert actions.shape == (7, 24)
    assert np.abs(actions).max() <= 1.0
