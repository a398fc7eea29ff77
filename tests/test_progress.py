"""Progress of long computations where no terminal shows a bar."""

from types import SimpleNamespace

import pytest

from offdyn_envs import progress as module


@pytest.mark.parametrize(("at_most", "words"), [(False, "8 s left"), (True, "at most 8 s left")])
def test_a_line_says_what_is_left_and_whether_that_is_a_bound(monkeypatch, capsys, at_most, words):
    clock = iter([0.0, 1.0, 12.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with module.progress("dynamics", 1000, start=400, at_most=at_most) as advance:
        advance(1)
        advance(359, epoch=360, error=0.123456)
    assert capsys.readouterr().err == f"dynamics: 760/1,000  {words}  epoch 360  error 0.1235\n"


def test_a_stage_that_stops_early_says_that_its_epochs_are_a_bound(monkeypatch):
    from offdyn_agents.engine.rows import pack
    from offdyn_agents.models.dual import stages as mobody_stages
    from offdyn_agents.models.ensemble import stages as ensemble_stages
    from offdyn_agents.models.ensemble.settings import DynamicsSettings, EnsembleSettings
    from tests.agents import test_mobody_training as duals
    from tests.agents.synthetic import dataset
    from tests.agents.test_ensemble import LAYOUT, SMALL

    real, seen = module.progress, []

    def progress(title, total, **named):
        seen.append((title, named.get("at_most", False)))
        return real(title, total, **named)

    monkeypatch.setattr(module, "progress", progress)
    rows = pack(dataset(200, 0), "target")
    for kind, more in ((EnsembleSettings, {}), (DynamicsSettings, {"schedule": "published"})):
        ensemble_stages.fit_ensembles(kind(**SMALL, epochs=1, **more), LAYOUT, rows, [0], None, compiled=False)
    mobody_stages.fit_dynamics(duals.settings(duals.TINY), duals.context(None))
    assert seen == [("dynamics", True), ("dynamics", False), ("dynamics", True)]
