"""The ensemble of MOPO, MOBILE and MOREC: learned bounds of the log-variance, elites, held-out rows."""

import numpy as np
import pytest
import torch

from offdyn_agents.engine.rows import Layout, pack
from offdyn_agents.engine.soundness import better, fault
from offdyn_agents.models.ensemble import training as dynamics_training
from offdyn_agents.models.ensemble.model import (
    MATRICES,
    Ensemble,
    ensemble_loss,
    ensemble_network,
    gaussians,
    initial_ensemble,
)
from offdyn_agents.models.ensemble.settings import PUBLISHED, DynamicsSettings, EnsembleSettings
from offdyn_agents.models.ensemble.stages import fit_ensembles
from offdyn_agents.models.ensemble.training import EnsembleLearner
from offdyn_envs.errors import OffDynError
from tests.agents.synthetic import A, S, dataset

CPU = torch.device("cpu")
LAYOUT = Layout(S, A)
DECAY = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
"""Published weight decay, layer by layer."""
SMALL = PUBLISHED | {"width": 16, "batch_size": 64, "learning_rate": 3e-3}
CURED = SMALL | {"schedule": "annealed", "outputs": "changes", "target_share": 0.25}


def fit(rows, seed=0, report=None, **settings):
    learner = EnsembleLearner(EnsembleSettings(**(SMALL | settings)), LAYOUT, CPU, compiled=False)
    return learner.fit(rows, seed, report)


def heads(params, k, h):
    """Means and log variances of member k in float64, its bounds as they are learned."""
    arrays = [tensor.double().numpy() for tensor in params]
    low, high = (bound[k] if len(bound) > 1 else bound[0] for bound in arrays[MATRICES:])
    for layer in range(5):
        h = h @ arrays[2 * layer][k] + arrays[2 * layer + 1][k]
        if layer < 4:
            h = h / (1.0 + np.exp(-h))
    mean, lv = h[:, : 1 + S], h[:, 1 + S :]
    lv = high - np.log1p(np.exp(high - lv))
    return mean, low + np.log1p(np.exp(lv - low))


def golden(params, x, y):
    """The loss in float64, member by member."""
    arrays = [tensor.double().numpy() for tensor in params]
    low, high = arrays[MATRICES:]
    total = 0.01 * (high.sum() - low.sum())
    for k in range(len(arrays[0])):
        total += sum(0.5 * DECAY[layer] * np.square(arrays[2 * layer][k]).sum() for layer in range(5))
        mean, lv = heads(params, k, x[k].double().numpy())
        total += np.mean((mean - y[k].double().numpy()) ** 2 * np.exp(-lv) + lv)
    return total


@pytest.fixture
def case(float64):
    network = ensemble_network(EnsembleSettings(width=8, members=3), S, A)
    generator = torch.Generator().manual_seed(0)
    params = [0.5 * torch.randn(shape, generator=generator) for shape in network.shapes()]
    params += [torch.randn(1, 1, 1 + S, generator=generator) - 4.0, torch.randn(1, 1, 1 + S, generator=generator)]
    x, y = torch.randn(3, 10, S + A, generator=generator), torch.randn(3, 10, 1 + S, generator=generator)
    return params, x, y


def test_loss_is_its_formula(case):
    np.testing.assert_allclose(float(ensemble_loss(*case)), golden(*case), rtol=1e-6)


def test_the_bounds_are_pulled_together(case):
    """Far from where the network's log-variance lies, only the coefficient of .01 moves a bound."""
    params, x, y = case
    params[MATRICES:] = [torch.full((1, 1, 1 + S), -60.0), torch.full((1, 1, 1 + S), 60.0)]
    gradients = torch.func.grad(ensemble_loss)(params, x, y)
    for gradient, expected in zip(gradients[MATRICES:], (-0.01, 0.01), strict=True):
        torch.testing.assert_close(gradient, torch.full_like(gradient, expected))


def test_bounds_start_where_they_should_and_are_trained():
    rows = pack(dataset(300, 0), "target")
    ensemble = fit(rows, epochs=4)
    low, high = ensemble.params[MATRICES:]
    assert low.shape == high.shape == (7, 1, 1 + S)
    for tensor, start in ((low, -10.0), (high, 0.5)):
        moved = (tensor - start).abs()
        assert 1e-4 < float(moved.max()) < 0.5
    still = fit(rows, epochs=1, learning_rate=1e-30)
    assert torch.equal(still.params[MATRICES], torch.full((7, 1, 1 + S), -10.0))
    assert torch.equal(still.params[MATRICES + 1], torch.full((7, 1, 1 + S), 0.5))


def test_it_learns_the_dynamics_and_their_noise():
    noise = 0.2
    data, other = dataset(1500, 0, noise=noise), dataset(500, 1, noise=0.0)
    ensemble = fit(pack(data, "target"), width=32, epochs=30)
    _, states, variances = ensemble.predict(torch.from_numpy(other.observations), torch.from_numpy(other.actions))
    error = (states - torch.from_numpy(other.next_observations)).square().mean((1, 2)).sqrt()
    assert float(error.max()) < 0.5 * noise
    assert float(variances[..., 1:].sqrt().median()) == pytest.approx(noise, rel=0.2)


@pytest.mark.parametrize(("rows", "held"), [(40, 8), (300, 60), (6000, 1000)])
def test_held_out_rows(rows, held, monkeypatch):

    seen = []
    real = dynamics_training._Training.__init__

    def counted(self, *args):
        real(self, *args)
        seen.append((len(self.held_inputs), len(self.inputs)))

    monkeypatch.setattr(dynamics_training._Training, "__init__", counted)
    fit(pack(dataset(rows, 0), "target"), epochs=1)
    assert seen == [(held, rows - held)]


def test_the_ranking_is_by_held_out_error():
    errors = []
    ensemble = fit(pack(dataset(400, 0, noise=0.3), "target"), epochs=10, report=lambda _, error: errors.append(error))
    assert sorted(ensemble.ranking.tolist()) == list(range(7))
    other = dataset(20_000, 0, noise=0.3)
    _, states, _ = ensemble.predict(torch.from_numpy(other.observations), torch.from_numpy(other.actions))
    found = (states - torch.from_numpy(other.next_observations)).square().mean((1, 2))[ensemble.ranking]
    assert float(found[:3].mean()) < float(found[-3:].mean())
    best = ensemble.elites(5)
    assert best.ranking.tolist() == [0, 1, 2, 3, 4]
    for ours, theirs in zip(best.params, ensemble.params, strict=True):
        assert torch.equal(ours, theirs[ensemble.ranking[:5]])


def test_training_ends_when_nothing_improves():
    epochs = []
    fit(pack(dataset(200, 0, noise=0.5), "target"), epochs=500, report=lambda epoch, _: epochs.append(epoch))
    assert 8 < len(epochs) < 500
    assert epochs == list(range(1, len(epochs) + 1))


def test_a_seed_decides_everything():
    rows = pack(dataset(200, 0), "target")
    first, again, other = (fit(rows, seed, epochs=2) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.params, again.params, strict=True))
    assert not torch.equal(first.params[0], other.params[0])


def test_rounded_products_learn_the_same_but_for_rounding(tmp_path):
    """Only the loss is rounded: parameters, and the errors by which training stops, stay fp32; kept apart."""
    rows = pack(dataset(200, 0), "target")
    settings = EnsembleSettings(**SMALL, epochs=5)

    def errors(precision):
        (found,) = fit_ensembles(settings, LAYOUT, rows, [0], tmp_path, compiled=False, precision=precision)
        assert all(tensor.dtype == torch.float32 for tensor in found.params)
        inputs = rows[:, :S], rows[:, S : S + A]
        return (found.predict(*inputs)[1].mean(0) - rows[:, S + A : 2 * S + A]).square().mean()

    exact, rounded = errors("fp32"), errors("bf16")
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.0)
    assert torch.equal(errors("bf16"), rounded)


def test_it_is_cached(tmp_path, monkeypatch):
    rows = pack(dataset(200, 0), "target")
    settings = EnsembleSettings(**SMALL, epochs=2)
    first = fit_ensembles(settings, LAYOUT, rows, [0, 1], tmp_path, compiled=False)
    monkeypatch.setattr(EnsembleLearner, "fit", lambda *_, **__: pytest.fail("trained again"))
    again = fit_ensembles(settings, LAYOUT, rows, [1, 0], tmp_path, compiled=False)
    for ours, theirs in zip(first, again[::-1], strict=True):
        assert ours.tensors().keys() == theirs.tensors().keys()
        for name, tensor in ours.tensors().items():
            assert torch.equal(tensor, theirs.tensors()[name]), name


def test_what_is_trained_is_kept_at_once(tmp_path, monkeypatch):
    """A kill while the second seed trains does not cost the first."""
    rows = pack(dataset(100, 0), "target")
    settings = EnsembleSettings(**SMALL, epochs=1)
    real = EnsembleLearner.fit

    def dying(self, rows, seed, *more, **named):
        if seed == 1:
            raise KeyboardInterrupt
        return real(self, rows, seed, *more, **named)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EnsembleLearner, "fit", dying)
        fit_ensembles(settings, LAYOUT, rows, [0, 1], tmp_path, compiled=False)
    seeds = []

    def fit(self, rows, seed, *more, **named):
        seeds.append(seed)
        return real(self, rows, seed, *more, **named)

    monkeypatch.setattr(EnsembleLearner, "fit", fit)
    fit_ensembles(settings, LAYOUT, rows, [0, 1], tmp_path, compiled=False)
    assert seeds == [1]


@pytest.mark.parametrize("at", [1, 4])
@pytest.mark.parametrize("form", [SMALL | {"epochs": 8}, CURED | {"updates": 15}])
def test_an_interrupted_training_ends_as_an_unbroken_one(tmp_path, monkeypatch, at, form):
    """The annealed one takes 15 steps, two in each pass over 160 rows, so that its last pass is cut short."""
    monkeypatch.setattr(dynamics_training, "SAVE_SECONDS", 0.0)
    rows, settings = pack(dataset(200, 0), "target"), EnsembleSettings(**form)
    (whole,) = fit_ensembles(settings, LAYOUT, rows, [3], None, target=50, compiled=False)
    real, epochs = dynamics_training._Training._epoch, []

    def epoch(self):
        if len(epochs) == at:
            raise KeyboardInterrupt
        epochs.append(self.epoch)
        real(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dynamics_training._Training, "_epoch", epoch)
        fit_ensembles(settings, LAYOUT, rows, [3], tmp_path, target=50, compiled=False)
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    monkeypatch.setattr(dynamics_training._Training, "_epoch", lambda self: epochs.append(self.epoch) or real(self))
    (resumed,) = fit_ensembles(settings, LAYOUT, rows, [3], tmp_path, target=50, compiled=False)
    assert epochs == list(range(8))
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), name
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


@pytest.mark.parametrize("more", [{}, {"learning_rate": 1e-30}, {"learning_rate": 1e-3, "improvement": 1.0}])
def test_what_learns_nothing_is_told_and_not_tried_again(tmp_path, monkeypatch, more):
    """Steps that are too large or too small, and an improvement that none is large enough for."""
    rows = pack(dataset(100, 0), "target")
    settings = EnsembleSettings(**(SMALL | {"learning_rate": 1e6, "epochs": 2, "patience": 2} | more))
    found = fit_ensembles(settings, LAYOUT, rows, [3, 4], tmp_path, compiled=False)
    assert found.failed == dict.fromkeys((0, 1), "dynamics: training made none of 7 members better than at the start")
    assert [path.suffix for path in tmp_path.iterdir()] == [".failed"] * 2
    with pytest.raises(OffDynError, match="other settings are needed"):
        found.sound()
    real, fitted = EnsembleLearner.fit, []
    monkeypatch.setattr(EnsembleLearner, "fit", lambda self, *a, **k: fitted.append(a[1]) or real(self, *a, **k))
    again = fit_ensembles(settings, LAYOUT, rows, [3, 4], tmp_path, compiled=False)
    assert (again.failed, fitted) == (found.failed, [])
    for ours, theirs in zip(found, again, strict=True):
        for name, tensor in ours.tensors().items():
            torch.testing.assert_close(tensor, theirs.tensors()[name], rtol=0, atol=0, equal_nan=True)
    # A file that is damaged says nothing.
    next(tmp_path.iterdir()).write_bytes(b"else")
    assert fit_ensembles(settings, LAYOUT, rows, [3, 4], tmp_path, compiled=False).failed == found.failed
    assert len(fitted) == 1


def test_faults_of_an_ensemble():
    start = torch.ones(3)
    nan, inf = torch.nan, torch.inf
    cases = [
        ([0.5, 0.6, 0.7], [0.5, nan, 3.0], ""),
        ([0.5, 0.6, 1.0], [0.5, 0.6, 1.1], ""),
        ([0.5, 0.6, 1.0], [0.5, 0.6, nan], "1 of 3 members diverged before they became any better"),
        ([0.5, inf, 9.0], [0.5, nan, 9.0], "1 of 3 members diverged before they became any better"),
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], "training made none of 3 members better than at the start"),
        ([nan, nan, nan], [nan, nan, nan], "training made none of 3 members better than at the start"),
    ]
    for kept, last, why in cases:
        assert fault(start, torch.tensor(kept), torch.tensor(last), True) == why
    assert fault(torch.full((3,), inf), start, start, True) == ""
    # Few steps, which ended before anything had improved enough to be kept.
    assert fault(start, start, torch.tensor([0.999, 1.1, 1.2]), False) == ""
    assert fault(start, start, torch.tensor([2.1, 3.0, 2.2]), False)
    assert fault(start, start, torch.tensor([1.1, nan, 1.2]), False)


def test_improvements():
    nan, inf = torch.nan, torch.inf
    old, fresh = torch.tensor([1.0, 1.0, 1.0, inf, inf, nan, 1.0]), torch.tensor([0.98, 0.995, nan, 5.0, inf, 2.0, inf])
    assert better(old, fresh, 0.01).tolist() == [True, False, False, True, False, True, False]
    assert better(old, fresh, 1.0).tolist() == [False, False, False, True, False, True, False]


def training_of(rows, target, **settings):
    learner = EnsembleLearner(EnsembleSettings(**(CURED | settings)), LAYOUT, CPU, compiled=False)
    return dynamics_training._Training(learner, rows, 0, target)


def numbered(source, target):
    """Rows whose reward is their number, those of the target last."""
    rows = pack(dataset(source + target, 0), "both")
    rows[:, LAYOUT.reward_column] = torch.arange(source + target).float()
    return rows


@pytest.mark.parametrize(
    ("source", "target", "held"), [(4000, 400, (800, 80)), (900, 300, (180, 60)), (30, 600, (6, 32))]
)
def test_target_rows_have_their_share_in_every_resample_and_among_the_rows_held_out(source, target, held):
    """A quarter; of rows held out no more than a fifth of either domain's."""
    found = training_of(numbered(source, target), target, outputs="raw")
    kept, out = found.outputs[:, 0], found.held_outputs[:, 0]
    assert sorted([*kept.tolist(), *out.tolist()]) == list(range(source + target))
    assert (int((out < source).sum()), int((out >= source).sum())) == held
    ours = kept[found.resample] >= source
    assert (ours.sum(1) == round(0.25 * len(kept))).all()


def test_a_member_draws_from_a_resample_of_its_own_of_the_targets_rows():
    """About 63% of them, however often they are drawn."""
    found = training_of(numbered(4000, 400), 400, outputs="raw")
    own = (found.outputs[:, 0] >= 4000).nonzero()[:, 0]
    members = [set(found.resample[member].tolist()) & set(own.tolist()) for member in range(7)]
    for seen in members:
        assert len(seen) / len(own) == pytest.approx(1.0 - np.exp(-1.0), abs=0.08)
    assert len({frozenset(seen) for seen in members}) == 7


@pytest.mark.parametrize(("target", "share"), [(0, 0.25), (300, 0.25), (100, 0.0)])
def test_rows_of_one_domain_or_without_a_share_are_drawn_as_published(target, share):
    rows = numbered(300 - target, target)
    ours = training_of(rows, target, target_share=share)
    published = training_of(rows, 0, target_share=0.0)
    assert torch.equal(ours.resample, published.resample)
    assert torch.equal(ours.inputs, published.inputs) and torch.equal(ours.held_outputs, published.held_outputs)


def test_annealed_steps_are_bounded_and_end_at_a_rate_of_zero():
    rows, reports = numbered(300, 100), []
    found = training_of(rows, 100, updates=13)
    rates, step = [], found.learner.step
    found.learner.step = lambda *tensors: rates.append(float(tensors[-3][0])) or step(*tensors)
    found.run(lambda epoch, _: reports.append(epoch), None)
    # Five steps in each pass over 320 rows.
    assert (found.total, len(rates), reports) == (13, 13, [1, 2, 3])
    correction = 1.0 - 0.9 ** np.arange(1, 14)
    cosine = 0.5 * 3e-3 * (1.0 + np.cos(np.pi * np.arange(13) / 13))
    np.testing.assert_allclose(rates, cosine / correction, rtol=1e-5)
    settings = EnsembleSettings(**CURED, updates=0, epochs=3)
    assert (settings.steps(400), settings.passes(400)) == (15, 3)
    assert EnsembleSettings(**SMALL, updates=13, epochs=3).steps(400) == 15


@pytest.mark.usefixtures("float64")
def test_units_of_a_change_equal_their_formulas():
    """Units, held-out errors in them, and predictions multiplied back: published members see the same rows raw."""
    rows = pack(dataset(440, 0), "both").double()
    found, raw = (training_of(rows, 40, outputs=outputs) for outputs in ("changes", "raw"))
    unit = np.sqrt(np.square(raw.outputs.numpy()).mean(axis=0))
    np.testing.assert_allclose(found.scale, unit, rtol=1e-6)
    np.testing.assert_allclose(found.outputs, raw.outputs.numpy() / unit, rtol=1e-6)
    x, y = found.held_inputs.numpy(), raw.held_outputs.numpy() / unit
    errors = [np.mean((heads(found.params, k, x)[0] - y) ** 2) for k in range(len(found.errors))]
    np.testing.assert_allclose(found.errors, errors, rtol=1e-6)
    ensemble = Ensemble(found.params, found.mean, found.std, torch.arange(len(errors)), scale=found.scale)
    s, a = torch.randn(9, S), torch.rand(9, A)
    inputs = (np.concatenate([s, a], axis=1) - found.mean.numpy()) / found.std.numpy()
    rewards, states, variances = ensemble.predict(s, a)
    for k in range(len(errors)):
        mean, lv = heads(found.params, k, inputs)
        np.testing.assert_allclose(rewards[k], mean[:, 0] * unit[0], rtol=1e-6)
        np.testing.assert_allclose(states[k], s.numpy() + mean[:, 1:] * unit[1:], rtol=1e-6)
        np.testing.assert_allclose(variances[k], np.exp(lv) * unit**2, rtol=1e-6)


def test_elites_are_those_with_the_lowest_error_in_units_of_a_change():
    """One dimension moves a thousand times as far as the others, so that in raw units it alone would decide."""
    rows = pack(dataset(400, 0, noise=0.3), "target")
    column = LAYOUT.split(torch.arange(rows.shape[1]).repeat(1, 1))[2][0, 0]
    rows[:, column] = rows[:, 0] + 1000.0 * (rows[:, column] - rows[:, 0])
    found = training_of(rows, 0, updates=60)
    ensemble = found.run(None, None)
    changes = rows[:, S + A : 2 * S + A] - rows[:, :S]
    np.testing.assert_allclose(float(ensemble.scale[1] / changes[:, 0].square().mean().sqrt()), 1.0, rtol=0.1)
    inputs = found.held_inputs * ensemble.std + ensemble.mean
    rewards, states, _ = ensemble.predict(inputs[:, :S], inputs[:, S:])
    errors = torch.cat([rewards[..., None], states - inputs[:, :S]], -1) / ensemble.scale - found.held_outputs
    assert torch.equal(ensemble.ranking, errors.square().mean((1, 2)).argsort())


def test_units_can_move_into_the_last_layer():
    generator = torch.Generator().manual_seed(0)
    settings = EnsembleSettings(members=3, width=16)
    params = initial_ensemble(settings, ensemble_network(settings, S, A), generator)
    params[MATRICES:] = [torch.randn(3, 1, 1 + S, generator=generator) + bound for bound in (-4.0, 0.5)]
    scale = torch.rand(1 + S, generator=generator) * 5.0 + 0.01
    ensemble = Ensemble(params, torch.zeros(S + A), torch.ones(S + A), torch.arange(3), scale=scale)
    raw = ensemble.in_raw_units()
    assert raw.scale is None and raw.in_raw_units() is raw
    s, a = torch.randn(50, S, generator=generator), torch.randn(50, A, generator=generator)
    for ours, theirs in zip(raw.predict(s, a), ensemble.predict(s, a), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    fixed = Ensemble(params[:MATRICES], torch.zeros(S + A), torch.ones(S + A), torch.arange(3), scale=scale)
    with pytest.raises(ValueError, match="fixed bounds"):
        fixed.in_raw_units()


@pytest.mark.parametrize("damage", ["missing", "shape", "counts"])
def test_a_copy_of_another_form_is_left_alone(damage):
    rows = pack(dataset(100, 0), "target")
    learner = EnsembleLearner(EnsembleSettings(**SMALL, epochs=2), LAYOUT, CPU, compiled=False)
    whole = learner.fit(rows, 0)
    state = dynamics_training._Training(learner, rows, 0).state()
    if damage == "missing":
        del state["errors"]
    elif damage == "shape":
        state["params.0"] = state["params.0"][..., :3]
    else:
        state["counts"] = torch.tensor([1])
    states = [learner.fit(rows, 0, resume=state).tensors(), whole.tensors()]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


def test_a_file_without_ranking_is_read():
    tensors = fit(pack(dataset(100, 0), "target"), epochs=1).tensors()
    del tensors["ranking"]
    assert Ensemble.from_tensors(tensors, CPU).ranking.tolist() == list(range(7))


@pytest.mark.parametrize("dynamics", [EnsembleSettings, DynamicsSettings])
def test_members_in_turn_predict_what_they_do_together(dynamics):
    settings = dynamics(members=3, width=16)
    generator = torch.Generator().manual_seed(0)
    params = initial_ensemble(settings, ensemble_network(settings, 4, 2), generator)
    ensemble = Ensemble(params, torch.randn(6, generator=generator), torch.full((6,), 2.0), torch.arange(3))
    s, a = torch.randn(50, 4, generator=generator), torch.randn(50, 2, generator=generator)
    together = gaussians(params, ensemble.mean, ensemble.std, s, a)
    for ours, theirs in zip(ensemble.predict(s, a), together, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
