"""Progress of long computations where no terminal shows a bar: plain lines, and a notebook's bar."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from offdyn_envs import progress as module


@pytest.mark.parametrize(("at_most", "words"), [(False, "12 s gone, 8 s left"), (True, "12 s gone, at most 8 s left")])
def test_a_line_says_what_is_left_and_whether_that_is_a_bound(monkeypatch, capsys, at_most, words):
    clock = iter([0.0, 1.0, 12.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with module.progress("dynamics", 1000, start=400, at_most=at_most) as advance:
        advance(1)
        advance(359, epoch=360, error=0.123456)
    assert capsys.readouterr().err == f"dynamics: 760/1,000  {words}  epoch 360  error 0.1235\n"


class ZMQInteractiveShell:
    """The shell of a notebook, by its name."""


class TerminalInteractiveShell:
    """That of IPython on a terminal."""


class Handle:
    """One display, and all that was shown there."""

    def __init__(self, shown):
        self.shown = [shown]

    def update(self, shown, raw):
        assert raw
        self.shown.append(shown)


@pytest.fixture
def notebook(monkeypatch):
    """Give a function that sets a shell in place and returns the list of displays that are made there."""

    def install(shell):
        made = []

        def display(shown, raw, display_id):
            assert raw and display_id
            made.append(Handle(shown))
            return made[-1]

        package, inner = ModuleType("IPython"), ModuleType("IPython.display")
        package.get_ipython, inner.display = (lambda: shell), display
        monkeypatch.setitem(sys.modules, "IPython", package)
        monkeypatch.setitem(sys.modules, "IPython.display", inner)
        return made

    return install


def test_a_notebook_shows_one_bar_that_changes_in_its_place(notebook, capsys):
    made = notebook(ZMQInteractiveShell())
    with module.progress("<train>", 1000, start=400) as advance:
        for _ in range(600):
            advance(1, loss=0.123456)
    (handle,) = made
    # However many units there are: the beginning, what a quarter of a second allows, the end.
    assert 2 <= len(handle.shown) < 30
    assert handle.shown[0]["text/html"].startswith('<progress max="1000" value="400"></progress> &lt;train&gt;: 400/')
    assert handle.shown[-1]["text/plain"].startswith("<train>: 1,000/1,000") and "loss 0.1235" in str(handle.shown[-1])
    assert '<progress max="1000" value="1000">' in handle.shown[-1]["text/html"]
    assert capsys.readouterr() == ("", "")


def test_a_notebooks_bar_stays_where_the_work_failed(notebook):
    made = notebook(ZMQInteractiveShell())
    with pytest.raises(KeyError), module.progress("train", 10) as advance:
        advance(3)
        raise KeyError
    assert made[0].shown[-1]["text/plain"].startswith("train: 3/10")


@pytest.mark.parametrize("shell", [None, TerminalInteractiveShell()])
def test_other_shells_are_no_notebook(notebook, shell):
    made = notebook(shell)
    with module.progress("train", 10) as advance:
        advance(10)
    assert made == []


def test_a_quiet_notebook_shows_nothing(notebook):
    made = notebook(ZMQInteractiveShell())
    with module.progress("train", 10, quiet=True) as advance:
        advance(10)
    assert made == []


def test_a_stage_that_stops_early_says_that_its_epochs_are_a_bound(monkeypatch):
    from offdyn_agents.engine.rows import pack
    from offdyn_agents.models.dual import stages as mobody_stages
    from offdyn_agents.models.ensemble import stages as ensemble_stages
    from offdyn_agents.models.ensemble.settings import DynamicsSettings, EnsembleSettings
    from tests.agents import test_mobody_training as duals
    from tests.agents.synthetic import dataset
    from tests.agents.test_ensemble import LAYOUT

    real, seen = module.progress, []

    def progress(title, total, **named):
        seen.append((title, named.get("at_most", False)))
        return real(title, total, **named)

    monkeypatch.setattr(module, "progress", progress)
    rows = pack(dataset(200, 0), "target")
    for kind, schedule in ((EnsembleSettings, "early-stopping"), (DynamicsSettings, "published")):
        settings = kind(width=16, batch_size=64, epochs=1, schedule=schedule)
        ensemble_stages.fit_ensembles(settings, LAYOUT, rows, [0], None, compiled=False)
    mobody_stages.fit_dynamics(duals.settings(duals.TINY), duals.context(None))
    assert seen == [("dynamics", True), ("dynamics", False), ("dynamics", True)]
