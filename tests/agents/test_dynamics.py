"""The ensemble: its loss, its schedules, what it learns, and that kept predictions are those made on the way."""

import numpy as np
import pytest
import torch

from offdyn_agents.algorithms.droco import Ball
from offdyn_agents.engine.rows import Layout, pack
from offdyn_agents.engine.training.module import Budget, Hardware
from offdyn_agents.engine.training.supplies import TaskRuns, make_supply
from offdyn_agents.models.dual.training import DualLearner
from offdyn_agents.models.ensemble import stages as ensemble_stages
from offdyn_agents.models.ensemble import training as dynamics_training
from offdyn_agents.models.ensemble.model import Ensemble, ensemble_loss, ensemble_network, forward
from offdyn_agents.models.ensemble.settings import DynamicsSettings
from offdyn_agents.models.ensemble.training import EnsembleLearner
from offdyn_envs.errors import OffDynError
from tests.agents.synthetic import A, S, dataset, make

CPU = torch.device("cpu")
LAYOUT = Layout(S, A)
DECAY = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
"""Published weight decay, layer by layer."""
SMALL = {"width": 16, "batch_size": 64, "learning_rate": 3e-3}


def learner(**settings):
    return EnsembleLearner(DynamicsSettings(**(SMALL | settings)), LAYOUT, CPU, compiled=False)


@pytest.mark.usefixtures("float64")
def test_loss_is_its_formula():
    network = ensemble_network(DynamicsSettings(width=8, members=3), S, A)
    generator = torch.Generator().manual_seed(0)
    params = [0.5 * torch.randn(shape, generator=generator) for shape in network.shapes()]
    x, y = torch.randn(3, 10, S + A, generator=generator), torch.randn(3, 10, 1 + S, generator=generator)
    expected = 0.0
    for k in range(3):
        h = x[k].double().numpy()
        arrays = [tensor[k].double().numpy() for tensor in params]
        for layer in range(5):
            h = h @ arrays[2 * layer] + arrays[2 * layer + 1]
            if layer < 4:
                h = h / (1.0 + np.exp(-h))
            expected += 0.5 * DECAY[layer] * np.square(arrays[2 * layer]).sum()
        mean, lv = h[:, : 1 + S], h[:, 1 + S :]
        lv = 0.5 - np.log1p(np.exp(0.5 - lv))
        lv = -10.0 + np.log1p(np.exp(lv + 10.0))
        expected += np.mean((mean - y[k].double().numpy()) ** 2 * np.exp(-lv) + lv)
    np.testing.assert_allclose(float(ensemble_loss(params, x, y)), expected, rtol=1e-6)


def test_the_ensemble_learns_the_dynamics():
    data, other = dataset(1500, 0, noise=0.02), dataset(400, 1, noise=0.02)
    ensemble = learner(width=32, epochs=60).fit(pack(data, "target"), seed=0)
    rewards, states, variances = ensemble.predict(torch.from_numpy(other.observations), torch.from_numpy(other.actions))
    assert (states.shape, rewards.shape, variances.shape) == ((7, 400, S), (7, 400), (7, 400, 1 + S))
    error = (states - torch.from_numpy(other.next_observations)).square().mean((1, 2)).sqrt()
    change = np.sqrt(np.mean((other.next_observations - other.observations) ** 2))
    assert float(error.max()) < 0.3 * change
    # Members differ: each has its own initialisation, resample and orders.
    assert float(states.std(0).mean()) > 1e-4


@pytest.mark.parametrize(("rows", "held"), [(5, 1), (400, 40), (30_000, 3000)])
def test_a_tenth_is_held_out_of_however_many_rows(rows, held):
    data = pack(dataset(rows, 0), "target")
    training = dynamics_training._Training(learner(width=4), data, 0)
    assert (len(training.held_inputs), len(training.inputs)) == (held, rows - held)


def test_errors_do_not_depend_on_how_many_rows_are_judged_at_once(monkeypatch):
    training = dynamics_training._Training(learner(width=4), pack(dataset(400, 0), "target"), 0)
    whole = training._errors()
    monkeypatch.setattr(dynamics_training, "ERROR_ROWS", 7)
    torch.testing.assert_close(training._errors(), whole)


@pytest.mark.parametrize(("schedule", "epochs"), [("annealed", 6), ("published", 6), ("early-stopping", 400)])
def test_schedules(schedule, epochs):
    seen = []
    rows = pack(dataset(300, 0, noise=1.0), "target")
    learner(schedule=schedule, epochs=epochs, patience=2).fit(rows, 0, lambda epoch, error: seen.append(epoch))
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) == epochs if schedule != "early-stopping" else 3 <= len(seen) < epochs


def test_a_seed_decides_everything():
    rows = pack(dataset(300, 0), "target")
    first, again, other = (learner(epochs=2).fit(rows, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.params, again.params, strict=True))
    assert not torch.equal(first.params[0], other.params[0])


def test_coordinate_minimum():
    ensemble = learner(epochs=1).fit(pack(dataset(200, 0), "target"), 0)
    rows = pack(dataset(30, 1), "source")
    s, a, *_ = LAYOUT.split(rows)
    _, states, variances = ensemble.predict(s, a)
    expected = (states + variances[..., 1:]).amin(0)
    found = ensemble.next_states(LAYOUT, rows, "coordinate")
    assert found.shape == (30, 1, S)
    torch.testing.assert_close(found[:, 0], expected)
    torch.testing.assert_close(ensemble.next_states(LAYOUT, rows), states.transpose(0, 1))


DUAL = {"ensemble": "dual", "dual__updates": 5, "dual__width": 16, "dual__members": 7}


@pytest.mark.parametrize("more", [{}, {"robust_min": "coordinate"}, DUAL])
def test_kept_predictions_are_those_made_on_the_way(tmp_path, more):
    agent = make("droco", dynamics__epochs=1, dynamics__width=16, **more)
    tasks = [TaskRuns(dataset(300, 0), dataset(200, 1), (0, 1), tmp_path)]
    supplies = [make_supply(agent, tasks, Budget(updates), Hardware(compiled=False)).supply for updates in (1, 1000)]
    assert supplies[0].predicted is None
    assert supplies[1].predicted is not None
    numbers = torch.randint(300, (4, 16), generator=torch.Generator().manual_seed(0))
    for run in (0, 1):
        made, kept = (supply.predictions(run, numbers, supply.rows(numbers)) for supply in supplies)
        assert made.shape == (4, 16, 1 if "robust_min" in more else 7, S)
        torch.testing.assert_close(made, kept, rtol=0.0, atol=1e-6)
    assert not torch.allclose(supplies[1].predicted[0], supplies[1].predicted[1])


def test_the_variances_of_models_that_have_none_are_refused():
    with pytest.raises(OffDynError, match="robust_min is 'coordinate'") as told:
        make("droco", ensemble="dual", robust_min="coordinate")
    assert "\n" not in str(told.value)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("radius", [0.5, 2.0, np.inf])
def test_the_ball_equals_its_formula(radius):
    target, rows, predicted = unequal_rows(50).double(), unequal_rows(20).double(), torch.randn(20, 3, S)
    (before, _, after, *_), (_, _, center, *_) = (LAYOUT.split(table) for table in (target, rows))
    reach = radius * np.sqrt(np.square((after - before).numpy()).mean(axis=0))
    center = center.numpy()[:, None]
    expected = np.clip(predicted.numpy(), center - reach, center + reach)
    np.testing.assert_allclose(Ball(LAYOUT, target, radius).clip(rows, predicted.clone()), expected, rtol=1e-6)


@pytest.mark.parametrize("radius", [0.5, 2.0])
def test_predictions_lie_in_the_ball(tmp_path, radius):
    target = dataset(200, 1)
    agent = make("droco", dynamics__epochs=1, dynamics__width=16, radius=radius)
    tasks = [TaskRuns(dataset(300, 0), target, (0,), tmp_path)]
    supply = make_supply(agent, tasks, Budget(1000), Hardware(compiled=False)).supply
    unit = np.sqrt(np.mean((target.next_observations - target.observations) ** 2, axis=0))
    away = (supply.predicted[0] - LAYOUT.split(supply.table[:300])[2][:, None]).abs() / torch.from_numpy(unit)
    # Models that have learned nothing yet are wrong by more than this almost everywhere.
    assert float(away.max()) == pytest.approx(radius, rel=1e-4)
    wide = make("droco", dynamics__epochs=1, dynamics__width=16, radius="inf")
    free = make_supply(wide, tasks, Budget(1000), Hardware(compiled=False)).supply
    inside = (away < radius * (1 - 1e-4)).all(-1)
    assert inside.any()
    torch.testing.assert_close(supply.predicted[0][inside], free.predicted[0][inside])


@pytest.mark.parametrize("name", ["droco", "mopo", "mobody"])
def test_the_precision_of_a_training_is_that_of_its_dynamics(tmp_path, monkeypatch, name):
    settings = {"epochs": 1, "width": 16}
    short = {"dara__updates": 10, "dynamics__updates": 10} if name == "mobody" else {}
    agent = make(name, **{f"dynamics__{key}": value for key, value in settings.items()}, **short)
    learner = DualLearner if name == "mobody" else EnsembleLearner
    used, real = [], learner.fit

    def fit(self, *more, **named):
        used.append(self.precision)
        return real(self, *more, **named)

    monkeypatch.setattr(learner, "fit", fit)
    for precision in ("bf16", "fp32", "bf16"):
        tasks = [TaskRuns(dataset(300, 0), dataset(200, 1), (0,), tmp_path)]
        hardware = Hardware(precision=precision, compiled=False)
        make_supply(agent, tasks, Budget(10), hardware, cache=tmp_path / "stages")
    assert used == ["bf16", "fp32"], "the third finds what the first kept"


def test_memory_limit_keeps_nothing(tmp_path):
    agent = make("droco", dynamics__epochs=1, dynamics__width=16, dynamics__memory_gb=1e-6)
    hardware = Hardware(compiled=False)
    tasks = [TaskRuns(dataset(300, 0), dataset(200, 1), (0,), tmp_path)]
    supply = make_supply(agent, tasks, Budget(1000), hardware).supply
    assert supply.predicted is None
    assert supply.predictor is not None


def test_stages_are_found_again_by_content(tmp_path, monkeypatch):
    rows = pack(dataset(200, 0), "target")
    settings = DynamicsSettings(**SMALL, epochs=1)
    calls = []
    real = EnsembleLearner.fit

    def counted(self, rows, seed, *more, **named):
        calls.append(seed)
        return real(self, rows, seed, *more, **named)

    monkeypatch.setattr(EnsembleLearner, "fit", counted)

    def fit(settings, rows, seeds):
        return ensemble_stages.fit_ensembles(settings, LAYOUT, rows, seeds, tmp_path, compiled=False)

    first = fit(settings, rows, [0, 1])
    again = fit(settings, rows, [1, 0, 2])
    assert calls == [0, 1, 2]
    for a, b in zip(first, [again[1], again[0]], strict=True):
        assert isinstance(b, Ensemble)
        assert all(torch.equal(x, y) for x, y in zip(a.params, b.params, strict=True))
        assert torch.equal(a.mean, b.mean)
    fit(DynamicsSettings(**(SMALL | {"width": 8}), epochs=1), rows, [0])
    fit(settings, rows + 1.0, [0])
    fit(DynamicsSettings(**SMALL, epochs=1, memory_gb=1.0), rows, [0])
    assert calls == [0, 1, 2, 0, 0]


def unequal_rows(count=600):
    """Rows whose first dimension moves a thousandth of what the others do, as a position beside velocities."""
    generator = torch.Generator().manual_seed(5)
    s, a = torch.randn(count, S, generator=generator), torch.rand(count, A, generator=generator) - 0.5
    units = torch.tensor([0.002] + [2.0] * (S - 1))
    moved = s + units * torch.tanh(s + a[:, :1])
    return LAYOUT.join(s, a, moved, a.sum(-1), torch.zeros(count, dtype=torch.bool))


def test_outputs_in_units_of_a_change_learn_the_small_ones_too():
    rows, errors = unequal_rows(), {}
    states, actions, following, *_ = LAYOUT.split(rows)
    unit = (following - states).square().mean(0)
    for outputs in ("raw", "changes"):
        found = learner(outputs=outputs, epochs=40, width=32, batch_size=32).fit(rows, 0)
        _, predicted, _ = found.predict(states, actions)
        errors[outputs] = (predicted - following).square().mean((0, 1)) / unit
    assert errors["changes"][0] < 0.5 * errors["raw"][0]
    assert (errors["changes"] < 0.5).all(), "worse than half of predicting no change"


def test_units_of_outputs_are_multiplied_back():
    found = learner(epochs=1).fit(unequal_rows(100), 0)
    s, a = torch.randn(7, S), torch.rand(7, A)
    inputs = (torch.cat([s, a], -1) - found.mean) / found.std
    mean, log_variance = forward(found.params, inputs.unsqueeze(0))
    rewards, states, variances = found.predict(s, a)
    torch.testing.assert_close(rewards, mean[..., 0] * found.scale[0])
    torch.testing.assert_close(states, s + mean[..., 1:] * found.scale[1:])
    torch.testing.assert_close(variances, log_variance.exp() * found.scale.square())
    again = Ensemble.from_tensors(found.tensors(), CPU)
    assert torch.equal(again.predict(s, a)[1], states)
    assert torch.equal(found.elites(2).predict(s, a)[1], states[found.ranking[:2]])


def test_the_rate_falls_to_nothing_where_it_is_annealed(monkeypatch):
    rates = []
    real = dynamics_training.adam
    monkeypatch.setattr(dynamics_training, "adam", lambda *all: (rates.append(float(all[4])), real(*all)))
    learner(epochs=3, batch_size=40).fit(unequal_rows(100), 0)
    per_step = rates[:: len(rates) // 6]
    assert len(per_step) == 6, "two steps of each of three epochs"
    expected = [1.5e-3 * (1 + np.cos(np.pi * t / 6)) / (1 - 0.9 ** (t + 1)) for t in range(6)]
    np.testing.assert_allclose(per_step, expected, rtol=1e-5)
