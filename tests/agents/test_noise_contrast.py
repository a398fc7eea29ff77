"""Fakes around the real next states: their formula and inputs in float64 NumPy, what is learned, resume, kills."""

import math

import numpy as np
import pytest
import torch

from offdyn_agents.engine.execution import can_compile
from offdyn_agents.engine.settings import build
from offdyn_agents.models.dynamics_reward.contrast import NoiseContrast, widened
from offdyn_agents.models.dynamics_reward.discriminator import DynamicsReward, Scaling
from offdyn_agents.models.dynamics_reward.inputs import Standardised, whitening
from offdyn_agents.models.dynamics_reward.settings import DynamicsRewardSettings
from offdyn_agents.models.dynamics_reward.stage import fit_dynamics_reward
from offdyn_envs.errors import OffDynError
from tests.agents.golden import net
from tests.agents.killing import kill_after
from tests.agents.test_dynamics_reward import draw
from tests.agents.test_dynamics_reward_training import LAYOUT, ROWS, UNITS, UNSEEN, A, S, equal, preferred, world

PLAIN = {"inputs": "standardised", "input_noise": 0.0}
"""Inputs that few steps learn from."""
TINY = PLAIN | {
    "guess_updates": 230,
    "guesses": 3,
    "updates": 205,
    "snapshots": 4,
    "width": 16,
    "discriminator_width": 16,
    "batch_size": 32,
}
LEARNING = PLAIN | {"guess_updates": 400, "guesses": 3, "updates": 400, "width": 32, "discriminator_width": 64}
LEARNING |= {"batch_size": 128, "snapshots": 5}


def settings(*layers, **more):
    return build(DynamicsRewardSettings, *layers, more)


def source_rows(rows=1500, seed=7):
    """The same states and actions, in a world that pushes the first number on by a constant."""
    table = world(rows, seed).clone()
    table[:, S + A] += 0.4 * UNITS[0]
    return table


def fit(*layers, rows=ROWS, seed=0, source=None, **more):
    training = NoiseContrast(settings(*layers, **more), LAYOUT, rows, seed, source)
    while training.done < training.length:
        training.advance()
    return training


@pytest.mark.usefixtures("float64")
def test_widened_draws():
    mean, log_std, normal = draw(50, 3, seed=1), draw(50, 3, seed=2), draw(50, 3, seed=3)
    uniform = torch.rand(50, 1, generator=torch.Generator().manual_seed(4))
    k = np.exp(uniform.double().numpy() * np.log(20.0))
    expected = mean.double().numpy() + k * np.exp(log_std.double().numpy()) * normal.double().numpy()
    assert k.min() >= 1.0 and k.max() <= 20.0 and np.median(k) == pytest.approx(math.sqrt(20.0), rel=0.5)
    np.testing.assert_allclose(widened(mean, log_std, uniform, normal, 20.0), expected, rtol=1e-6)
    torch.testing.assert_close(widened(mean, log_std, uniform, normal, 1.0), mean + log_std.exp() * normal)


def mixed(rows=4000, seed=0):
    """Transitions whose changes are nearly linear in s and a, with a small residual and one constant action."""
    generator = torch.Generator().manual_seed(seed)
    s = torch.randn(rows, 2, generator=generator) * torch.tensor([5.0, 0.1])
    a = torch.cat([s[:, :1] + 0.5 * torch.randn(rows, 1, generator=generator), torch.full((rows, 1), 7.0)], 1)
    change = 0.3 * s + 0.05 * a[:, :1] + 0.01 * torch.randn(rows, 2, generator=generator)
    return s, a, s + change


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["whitened", "pairs", "standardised"])
def test_inputs_again_in_numpy(kind):
    s, a, following = mixed()
    floor = 1e-4
    x = np.concatenate([t.double().numpy() for t in (s, a, following - s)], 1)
    std = x.std(0)
    std[std < 1e-6] = 1.0
    z = (x - x.mean(0)) / std
    count = {"whitened": 6, "pairs": 4, "standardised": 0}[kind]
    matrix = np.eye(6)
    correlations = z[:, :count].T @ z[:, :count] / len(z)
    correlations[np.diag_indices(count)] += np.diag(correlations) < 1e-6
    if count:
        values, vectors = np.linalg.eigh(correlations)
        matrix[:count, :count] = vectors @ np.diag(np.maximum(values, floor) ** -0.5) @ vectors.T
    seen = Standardised.of(s, a, following, kind, floor)
    found = seen.inputs(s, a, following)
    np.testing.assert_allclose(found, z @ matrix, rtol=1e-6, atol=1e-9)
    again = DynamicsReward.from_tensors(
        DynamicsReward([torch.zeros(1, 1, 1)] * 8, torch.ones(1), torch.zeros(1), seen).tensors(), torch.device("cpu")
    )
    assert torch.equal(again.scaling.inputs(s, a, following), found)
    # Where all is whitened, an error of the size of the residual is one of the size of the inputs.
    moved = seen.inputs(s, a, following + 0.02) - found
    far = float(moved.abs().amax())
    assert (far > 1.0) == (kind == "whitened")


@pytest.mark.usefixtures("float64")
def test_whitened_columns_are_uncorrelated_and_the_floor_bounds_what_is_blown_up():
    s, a, following = mixed()
    x = torch.cat([s, a[:, :1], following - s], 1)
    z = (x - x.mean(0)) / x.std(0, correction=0)
    white = z.double() @ whitening(z, 1e-9).double()
    np.testing.assert_allclose(white.mT @ white / len(z), np.eye(5), atol=1e-6)
    assert float(torch.linalg.matrix_norm(whitening(z, 0.01), 2)) == pytest.approx(10.0, rel=1e-3)


def test_bf16_rounds_no_whitening():
    s, a, following = mixed()
    seen = Standardised.of(s, a, following, "whitened", 1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(seen.inputs(s, a, following), seen.inputs(s, a, following).float())
        rounded = seen.inputs(s, a, following)
    assert torch.equal(rounded, seen.inputs(s, a, following))


@pytest.mark.parametrize(("share", "source"), [(0.0, True), (0.25, True), (1.0, True), (0.5, False)])
def test_fakes_have_the_real_rows_states_and_actions(share, source, monkeypatch):
    training = fit(TINY, source=source_rows() if source else None, source_fakes=share)
    asked = {}
    for name, guesses in training.guesses.items():

        def drawn(states, actions, spread, name=name):
            asked[name] = states, actions, spread
            return states + {"target": 1.0, "source": 2.0}[name]

        monkeypatch.setattr(guesses, "draw", drawn)
    real, fake = training.opposed(40)
    assert torch.equal(real[:, : S + A], fake[:, : S + A])
    count = round(40 * share) if source else 0
    assert [len(asked[name][0]) for name in asked] == ([count, 40 - count] if source else [40])
    assert asked["target"][2] == 20.0
    if source:
        assert asked["source"][2] == 3.0
    pushed = (fake[:, S + A :] * training.scaling.std[S + A :]) + training.scaling.mean[S + A :]
    torch.testing.assert_close(pushed[:count], torch.full((count, S), 2.0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(pushed[count:], torch.full((40 - count, S), 1.0), rtol=1e-3, atol=1e-3)


def test_guesses_are_the_generators_numbers_in_units_of_a_change():
    guesses = fit(TINY).guesses["target"]
    guesses.copies = [gaussian_small(seed) for seed in (0, 1)]
    states, actions, *_ = LAYOUT.split(ROWS[:10])
    guesses.random.manual_seed(3)
    found = guesses.draw(states, actions, 5.0)
    random = torch.Generator().manual_seed(3)
    k = 5.0 ** torch.rand(10, 1, generator=random).double().numpy()
    normal = torch.randn(10, S, generator=random).double().numpy()
    s, a, following, *_ = (t.double().numpy() for t in LAYOUT.split(ROWS))
    pairs, change = np.concatenate([s, a], 1), following - s
    x = ((pairs - pairs.mean(0)) / pairs.std(0))[:10]
    heads = np.concatenate(
        [net(copy, x[part]) for copy, part in zip(guesses.copies, (slice(5), slice(5, 10)), strict=True)]
    )
    mean, log_std = heads[:, :S], np.clip(heads[:, S:], -4, 1)
    expected = s[:10] + change.mean(0) + change.std(0) * (mean + k * np.exp(log_std) * normal)
    np.testing.assert_allclose(found / UNITS, expected / UNITS.numpy(), atol=1e-4)


def gaussian_small(seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(S + A, 8), (1, 8), (8, 2 * S), (1, 2 * S)]
    return [0.4 * torch.randn(shape, generator=generator) for shape in shapes]


def test_milestones_and_step_sizes(monkeypatch):
    training = NoiseContrast(settings(TINY, updates=200), LAYOUT, ROWS)
    assert training.guesses["target"].milestones == [10, 48, 230]
    assert training.milestones == [125, 150, 175, 200]
    assert NoiseContrast(settings(TINY, updates=5, snapshots=10), LAYOUT, ROWS).milestones == [3, 4, 5]
    assert NoiseContrast(settings(TINY, guess_updates=1), LAYOUT, ROWS).guesses["target"].milestones == [1]
    rates = []
    real = training.discriminator.step
    monkeypatch.setattr(
        training.discriminator, "step", lambda *x: (rates.append(training.discriminator.rate), real(*x))[1]
    )
    while training.done < training.length:
        training.advance()
    np.testing.assert_allclose(rates, 1e-3 * (1 - 0.9 * np.arange(200) / 200))
    assert len(training.result()) == 4
    assert len(training.guesses["target"].copies) == 3
    newest = training.result().where(torch.tensor([3]))
    assert all(torch.equal(a[0], b) for a, b in zip(newest.params, training.discriminator.params, strict=True))


def test_noise_on_the_inputs():
    training = NoiseContrast(settings(TINY, input_noise=0.3), LAYOUT, ROWS)
    training.random.manual_seed(5)
    noisy = training._noisy(torch.full((400, 50), 2.0))[0]
    drawn = torch.randn(400, 50, generator=torch.Generator().manual_seed(5))
    np.testing.assert_allclose(noisy, 2.0 + 0.3 * drawn.double().numpy(), rtol=1e-6)
    plain = NoiseContrast(settings(TINY), LAYOUT, ROWS)
    x = torch.zeros(2, 3)
    assert plain._noisy(x)[0] is x


@pytest.mark.parametrize("inputs", ["whitened", "pairs", "standardised", "raw"])
def test_learns_what_is_real(inputs):
    reward = fit(LEARNING, inputs=inputs).result().usable()
    better, passing = preferred(reward)
    assert better > 0.9
    assert passing > 0.9
    assert isinstance(reward.scaling, Scaling) == (inputs == "raw")


def test_the_sources_answers_are_told_from_the_targets():
    """At target (s, a), what the source's world does scores low, and lower than without its answers as fakes."""
    s, a, following, *_ = LAYOUT.split(UNSEEN)
    answers = following + torch.tensor([0.4, 0.0]) * UNITS
    scores = {}
    for share in (0.0, 0.5):
        reward = fit(LEARNING, source=source_rows(), source_fakes=share, spread=2.0).result().usable()
        scores[share] = float(reward(s, a, answers).mean())
        assert float((reward(s, a, following) >= 0.6).float().mean()) > 0.9
    assert scores[0.5] < 0.4
    assert scores[0.5] <= scores[0.0]


def test_spread_of_one_at_the_truth_teaches_little():
    """Fakes that are as good as the real rows leave the discriminator at chance: what is learned comes from k."""
    gaps = [float((r := fit(LEARNING, spread=k).result()).expert[-1] - r.learner[-1]) for k in (1.0, 20.0)]
    assert gaps[0] < 0.5 * gaps[1]


def test_an_interrupted_training_ends_as_it_would_have():
    whole = NoiseContrast(settings(TINY, input_noise=0.1), LAYOUT, ROWS, 0, source_rows())
    states = []
    while whole.done < whole.length:
        whole.advance()
        states.append((whole.done, whole.state()))
    assert [done for done, _ in states] == list(range(1, 10))
    for done, state in states:
        again = NoiseContrast(settings(TINY, input_noise=0.1), LAYOUT, ROWS, 0, source_rows())
        again.restore(state)
        assert again.done == done
        while again.done < again.length:
            again.advance()
        equal(again.result(), whole.result())
    other = fit(TINY, seed=1).result()
    assert not torch.equal(other.params[0], whole.result().params[0])


def test_the_stage_is_found_again_by_what_it_learns_from(tmp_path, monkeypatch):
    calls = []
    real = NoiseContrast.advance
    monkeypatch.setattr(NoiseContrast, "advance", lambda self: (calls.append(self.done), real(self))[1])

    def run(source, **more):
        calls.clear()
        found = fit_dynamics_reward(settings(TINY, **more), LAYOUT, ROWS, tmp_path, source=source, compiled=False)
        return found, len(calls)

    first, length = run(source_rows())
    assert length == 9
    again, none = run(source_rows())
    assert none == 0
    equal(first, again)
    assert run(source_rows(seed=8))[1] == 9
    assert run(None)[1] == 6
    # Without a share of theirs, the source's rows are not read.
    assert run(source_rows(), source_fakes=0.0)[1] == 6
    assert run(source_rows(seed=8), source_fakes=0.0)[1] == 0


def test_a_reward_without_a_usable_snapshot_is_never_taken_for_sound(tmp_path):
    astray = settings(TINY, discriminator_rate=1e15)
    for _ in range(2):
        with pytest.raises(OffDynError, match=r"none of 4 discriminators rates real transitions above"):
            fit_dynamics_reward(astray, LAYOUT, ROWS, tmp_path, compiled=False).usable()
        assert [path.suffix for path in tmp_path.iterdir()] == [".failed"]


SCRIPT = """
from offdyn_agents.models.dynamics_reward import stage
from tests.agents.test_noise_contrast import LAYOUT, ROWS, TINY, settings, source_rows
stage.SAVE_SECONDS = 0.0
stage.fit_dynamics_reward(settings(TINY), LAYOUT, ROWS, folder, source=source_rows(), compiled=False)
"""


def test_killed_in_the_middle(tmp_path, monkeypatch):
    kill_after(8, tmp_path, SCRIPT)
    calls, real = [], NoiseContrast.advance
    monkeypatch.setattr(NoiseContrast, "advance", lambda self: (calls.append(self.done), real(self))[1])
    sources = {"source": source_rows(), "compiled": False}
    resumed = fit_dynamics_reward(settings(TINY), LAYOUT, ROWS, tmp_path, **sources)
    assert calls == [8]
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
    equal(resumed, fit_dynamics_reward(settings(TINY), LAYOUT, ROWS, None, **sources))


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")
def test_compiled_steps_are_the_written_ones():
    ours, theirs = (NoiseContrast(settings(TINY), LAYOUT, ROWS, 0, source_rows()) for _ in range(2))
    theirs.compile(1)
    for training in (ours, theirs):
        while training.done < training.length:
            training.advance()
    for a, b in zip(ours.result().params, theirs.result().params, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [{"opponent": "gan"}, {"inputs": "white"}, {"spread": 0.5}, {"source_fakes": 1.5}, {"eigenvalue_floor": 0.0}],
)
def test_settings_that_are_not_allowed(change):
    (name,) = change
    with pytest.raises(OffDynError, match=name):
        settings(change)
