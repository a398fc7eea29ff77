"""DARA's classifiers: their losses, what they learn about known densities, and the cache."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from offdyn_agents.engine.rows import Layout, pack
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.models import classifiers
from offdyn_agents.models.classifiers import (
    ClassifierSettings,
    CorrectionSettings,
    classifier_loss,
    fit_classifiers,
    gap,
    log_odds,
    offsets,
    training,
)
from offdyn_agents.models.short_training import Learner

CPU = torch.device("cpu")
LAYOUT = Layout(1, 1)
SMALL = {"width": 32, "learning_rate": 3e-3, "updates": 900, "batch_size": 256}


def settings(**overrides):
    return CorrectionSettings(**(SMALL | overrides))


def world(rows, seed, shift, start=0.0):
    """s ~ N(start, 1), a ~ N(0, 1), s' ~ N(s + shift, 1)."""
    rng = np.random.default_rng(seed)
    s, a, e = rng.standard_normal((3, rows, 1))
    s = s + start
    data = SimpleNamespace(
        observations=s, actions=a, next_observations=s + shift + e, rewards=np.zeros(rows), terminations=np.zeros(rows)
    )
    return pack(data, "world")


def fit(source, target, seed=0, **overrides):
    chosen = settings(**overrides)
    return chosen, Learner(training(chosen, LAYOUT), CPU, compiled=False).fit(source, target, seed).nets


def make_params(seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = classifiers.networks(CorrectionSettings(width=6), LAYOUT)
    return {name: [torch.randn(shape, generator=generator) for shape in net.shapes()] for name, net in found.items()}


@pytest.mark.parametrize("form", ["paper", "odrl", "code"])
def test_loss_and_answer_equal_their_formulas(form):
    params, generator = make_params(), torch.Generator().manual_seed(1)
    inputs = {"sas": torch.randn(20, 3, generator=generator), "sa": torch.randn(20, 2, generator=generator)}
    expected, odds = 0.0, {}
    for name, x in inputs.items():
        x = x.double().numpy()
        arrays = [tensor.double().numpy() for tensor in params[name]]
        h = np.maximum(np.maximum(x @ arrays[0] + arrays[1], 0.0) @ arrays[2] + arrays[3], 0.0)
        z = h @ arrays[4] + arrays[5]

        def softmax(z):
            e = np.exp(z - z.max(axis=-1, keepdims=True))
            return e / e.sum(axis=-1, keepdims=True)

        probability = softmax(z) if form == "paper" else softmax(softmax(z))
        labels = np.array([0] * 10 + [1] * 10)
        expected += -np.mean(np.log(probability[np.arange(20), labels]))
        probability = softmax(z) if form == "odrl" else probability
        odds[name] = np.log(probability[..., 1]) - np.log(probability[..., 0])
        # 1e-10 in the logarithms of public code keeps odds within 23.
        told = log_odds(params[name], inputs[name], form)
        np.testing.assert_allclose(told, odds[name], rtol=1e-3 if form == "odrl" else 1e-4, atol=1e-5)
    np.testing.assert_allclose(float(classifier_loss(params, inputs, 10, form)), expected, rtol=1e-5)
    if form == "code":
        assert max(np.abs(found).max() for found in odds.values()) <= 1.0


def test_gap_is_clipped_and_weighted():
    nets, rows = make_params(), world(5000, 3, 0.0)
    wide = settings(clip=1e9, weight=0.5)
    found = gap(wide, nets, LAYOUT, rows)
    assert float(found.abs().max()) > 2.0
    s, a, s2, *_ = LAYOUT.split(rows)
    sas, sa = torch.cat([s, a, s2], dim=-1), torch.cat([s, a], dim=-1)
    whole = log_odds(nets["sas"], sas, "paper") - log_odds(nets["sa"], sa, "paper")
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gap(settings(clip=2.0), nets, LAYOUT, rows), found.clamp(-2.0, 2.0))
    torch.testing.assert_close(offsets(wide, nets, LAYOUT, rows), 0.5 * found)
    assert float(gap(settings(clip=1e9, form="code"), nets, LAYOUT, rows).abs().max()) <= 2.0


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_a_known_density_ratio(noise):
    """s' ~ N(s, 1) and N(s + 1, 1), with other states besides; noise of variance v makes them flatter.

    Without noise dr = (s' - s) - .5. With it the joint densities are Gaussian with covariance C + v I, and dr is the
    difference of their log ratios.
    """
    shift, start = 1.0, 0.7
    chosen, found = fit(world(20_000, 0, 0.0), world(20_000, 1, shift, start), noise=noise)
    rows = world(2000, 2, 0.5, 0.35)
    s, _, s2, *_ = (part.double().numpy() for part in LAYOUT.split(rows))

    def ratio(x, covariance, mean):
        inverse = np.linalg.inv(covariance + noise * np.eye(len(mean)))
        return x @ inverse @ mean - 0.5 * mean @ inverse @ mean

    joint = np.array([[1.0, 1.0], [1.0, 2.0]])
    exact = ratio(np.concatenate([s, s2], axis=1), joint, np.array([start, start + shift]))
    exact -= ratio(s, np.eye(1), np.array([start]))
    if noise == 0.0:
        np.testing.assert_allclose(exact, (s2 - s)[:, 0] * shift - 0.5 * shift**2, atol=1e-9)
    said = gap(chosen, found, LAYOUT, rows).double().numpy()
    assert np.corrcoef(said, exact)[0, 1] > 0.9
    assert np.mean((said - exact) ** 2) < 0.15 * np.mean(exact**2)


def test_equal_worlds_have_no_gap():
    chosen, found = fit(world(20_000, 0, 0.0), world(20_000, 1, 0.0), updates=300)
    assert float(gap(chosen, found, LAYOUT, world(1000, 2, 0.0)).abs().mean()) < 0.1


def test_swapping_the_domains_flips_the_sign():
    one, other, rows = world(20_000, 0, 0.0), world(20_000, 1, 1.0), world(1000, 2, 0.5)
    there, back = (gap(*fit(*pair, noise=0.0, updates=300), LAYOUT, rows) for pair in ((one, other), (other, one)))
    assert float((there + back).abs().mean()) < 0.2 * float(there.abs().mean())


def test_own_settings_may_have_more(monkeypatch):
    @dataclass(frozen=True)
    class Own(CorrectionSettings):
        extra: int = 3

    seen = []
    monkeypatch.setattr(classifiers, "fit", lambda training, trained, context: seen.append(trained))
    asked = SimpleNamespace(layout=LAYOUT)
    for chosen in (Own(weight=0.5), CorrectionSettings(weight=0.5), ClassifierSettings()):
        fit_classifiers(chosen, asked)
    assert [type(one) for one in seen] == [Own, CorrectionSettings, CorrectionSettings]
    assert [(one.weight, one.clip) for one in seen] == [(0.0, 0.0)] * 3


def test_a_seed_decides_everything():
    source, target = world(300, 0, 0.0), world(300, 1, 1.0)
    first, again, other = (fit(source, target, seed, updates=3)[1]["sas"][0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_stages_are_found_again_by_content(tmp_path, monkeypatch):
    calls, real = [], Learner.fit

    def counted(self, source, target, seed, report=None, copy=None):
        calls.append(seed)
        return real(self, source, target, seed, report, copy)

    monkeypatch.setattr(Learner, "fit", counted)
    source, target = world(300, 0, 0.0), world(200, 1, 1.0)

    def stage(chosen, source=source, target=target, seeds=(0, 1)):
        context = StageContext(LAYOUT, source, target, seeds, 1, cache=tmp_path, compiled=False)
        return fit_classifiers(chosen, context)

    few = settings(updates=3, width=4)
    first = stage(few)
    assert sorted(calls) == [0, 1]
    # What is done with the answer is another matter.
    again = stage(settings(updates=3, width=4, weight=0.3, clip=1.0))
    stage(ClassifierSettings(**SMALL | {"updates": 3, "width": 4}))
    assert len(calls) == 2
    for a, b in zip(first, again, strict=True):
        assert torch.equal(gap(few, a, LAYOUT, source), gap(few, b, LAYOUT, source))
    stage(settings(updates=3, width=4, form="code"), seeds=(0,))
    stage(few, source + 1.0, seeds=(0,))
    stage(few, torch.cat([source, target[:1]]), target[1:], seeds=(0,))
    assert len(calls) == 5


def test_answers_that_are_not_finite_are_told_and_never_taken_for_sound(tmp_path):
    source, target = world(300, 0, 0.0), world(200, 1, 1.0)
    context = StageContext(LAYOUT, source, target, (0, 1), 1, cache=tmp_path, compiled=False)
    found = fit_classifiers(settings(updates=60, width=16, learning_rate=1e15), context)
    assert found.failed.keys() == {0, 1}
    assert {path.suffix for path in tmp_path.iterdir()} == {".failed"}
