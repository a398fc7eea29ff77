"""The adversarial training: advantages and snapshots, what it learns, exact resume, the cache, the conditions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from offdyn_agents.engine.execution import can_compile
from offdyn_agents.engine.networks import Network, mlp
from offdyn_agents.engine.policy_gradient import log_density
from offdyn_agents.engine.rows import Layout
from offdyn_agents.engine.settings import build
from offdyn_agents.engine.stage_cache import Unfinished, stage_key
from offdyn_agents.models.dynamics_reward import training as training_module
from offdyn_agents.models.dynamics_reward.checkpoints import FrozenOpponents
from offdyn_agents.models.dynamics_reward.conditions import Asked, measure_conditions, other_policies, rank
from offdyn_agents.models.dynamics_reward.discriminator import Scaling, discriminator_loss
from offdyn_agents.models.dynamics_reward.generator import heads
from offdyn_agents.models.dynamics_reward.models import split_rows
from offdyn_agents.models.dynamics_reward.settings import DynamicsRewardSettings
from offdyn_agents.models.dynamics_reward.stage import fit_dynamics_reward
from offdyn_agents.models.dynamics_reward.training import Adversaries
from offdyn_agents.models.ensemble.model import Ensemble
from offdyn_envs import load_dataset
from offdyn_envs.errors import OffDynError
from tests.agents.killing import kill_after

S, A = 2, 1
LAYOUT = Layout(S, A)
UNITS = torch.tensor([300.0, 0.003])
"""The numbers of a state differ by a factor of 100,000 in size."""
TINY = {
    "opponent": "ppo",
    "iterations": 5,
    "pretraining": 20,
    "width": 16,
    "rollouts": 4,
    "horizon": 6,
    "batch_size": 32,
    "judges": 2,
    "minibatch": 10,
    "opponent_steps": 15,
    "discriminator_steps": 2,
}
LEARNING = {
    "opponent": "ppo",
    "iterations": 60,
    "pretraining": 50,
    "width": 32,
    "rollouts": 10,
    "horizon": 20,
    "batch_size": 128,
    "judges": 3,
    "epochs": 2,
    "minibatch": 200,
}


def settings(*layers, **more):
    return build(DynamicsRewardSettings, *layers, more)


def step(states, actions):
    """Known dynamics, in units of 1."""
    return torch.stack([0.9 * states[..., 0] + 0.3 * actions[..., 0], 0.5 * states[..., 1] - 0.4 * actions[..., 0]], -1)


def world(rows, seed):
    """States and actions of a behaviour that leans towards a = s_0, and what follows; states in `UNITS`."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.rand(rows, S, generator=generator) * 2 - 1
    actions = (0.5 * states[:, :1] + 0.3 * torch.randn(rows, A, generator=generator)).clamp(-1, 1)
    following = step(states, actions) + 0.02 * torch.randn(rows, S, generator=generator)
    return LAYOUT.join(
        states * UNITS, actions, following * UNITS, torch.zeros(rows), torch.zeros(rows, dtype=torch.bool)
    )


ROWS, UNSEEN = world(1500, 0), world(300, 1)


def fit(*layers, rows=ROWS, kind=Adversaries, seed=0, **more):
    training = kind(settings(*layers, **more), LAYOUT, rows, seed)
    while training.done < training.length:
        training.advance()
    return training


def test_the_generator_is_judged_by_an_ensemble_not_by_the_newest_discriminator_alone(monkeypatch):
    training = Adversaries(settings(TINY, judges=3), LAYOUT, ROWS)
    for _ in range(-(-TINY["pretraining"] // training_module.PRETRAINING_BLOCK)):
        training.advance()
    newest = training._snapshot(training.models.real[:64])

    def shot(number, gap):
        return replace(newest, expert=torch.tensor([float(number)]), learner=torch.tensor([number - float(gap)]))

    training.iteration = 9
    training.shots = {number: shot(number, gap) for number, gap in ((1, 1), (2, -1), (3, 1), (5, 1), (7, 1), (9, 1))}
    judges = training._judges(shot(9, 1))
    # 9 once, 2 cannot tell real from generated; of 9, 7, 5, 3, 1 three that are evenly spaced.
    assert judges.expert.tolist() == [9.0, 7.0, 3.0]
    assert training._judges(shot(9, -1)).expert.tolist() == [7.0, 5.0, 3.0]
    training.shots = {}
    assert training._judges(shot(9, -1)) is None
    asked = []
    monkeypatch.setattr(training, "_judges", lambda newest: judges)
    monkeypatch.setattr(training, "_improve", lambda rollouts, judges: asked.append(judges) or {})
    training.advance()
    assert asked == [judges]


def test_passes_end_where_the_generator_has_moved_far(monkeypatch):
    """PPO's passes over one iteration's rollouts: all of them, or none after the one that went beyond `kl`."""
    for kl, expected in ((math.inf, 4), (1e-9, 1)):
        training = Adversaries(settings(TINY, epochs=4, kl=kl, generator_rate=1e-2), LAYOUT, ROWS)
        passes = []
        monkeypatch.setattr(training, "_judges", lambda newest: newest)
        while training.done < training.length:
            passes.append(training.advance().get("passes"))
        assert set(passes) - {None} == {expected}


def test_values_of_the_generator_are_regressed_on_returns():
    network = Network((2, 1)).initial(torch.Generator().manual_seed(0))
    inputs, targets = torch.randn(5, 2), torch.randn(5)
    weight, bias = (tensor.double().numpy() for tensor in network)
    expected = np.mean(((inputs.double().numpy() @ weight + bias)[:, 0] - targets.double().numpy()) ** 2)
    assert float(training_module._value_loss(network, inputs, targets)) == pytest.approx(expected, rel=1e-5)


def preferred(reward):
    """How often a true transition of unseen rows scores above one that is wrong by 15% of a state's range."""
    s, a, following, *_ = LAYOUT.split(UNSEEN)
    wrong = following + 0.3 * UNITS * torch.randn(following.shape, generator=torch.Generator().manual_seed(9)).sign()
    true, false = reward(s, a, following), reward(s, a, wrong)
    return float((true > false).float().mean()), float((true >= 0.6).float().mean())


@pytest.fixture(scope="module")
def trained():
    return fit(LEARNING).result()


def test_learns_what_is_real(trained):
    better, passing = preferred(trained.usable())
    assert better > 0.9
    assert passing > 0.9
    assert len(trained) == 40


def test_learns_against_frozen_opponents():
    training = fit(LEARNING, kind=FrozenOpponents, pretraining=100, batch_size=64, opponent_steps=50)
    assert preferred(training.result().usable())[0] > 0.9
    assert len(training.result()) == 40


def test_swapped_labels_teach_nothing(monkeypatch):
    def swapped(params, real, generated, entropy):
        return discriminator_loss(params, generated, real, entropy)

    monkeypatch.setattr(training_module, "discriminator_loss", swapped)
    training = fit(LEARNING)
    try:
        better, _ = preferred(training.result().usable())
    except OffDynError:
        return
    assert better < 0.5


def test_without_normalisation_nothing_is_learned(monkeypatch):
    plain = (torch.zeros(S + A), torch.ones(S + A), torch.zeros(S), torch.ones(S))
    monkeypatch.setattr(Scaling, "of", staticmethod(lambda *_: Scaling(*plain)))
    training = fit(LEARNING)
    try:
        better, _ = preferred(training.result().usable())
    except OffDynError:
        return
    assert better < 0.8


def test_advantages_are_sums_of_discounted_errors():
    training = Adversaries(settings(TINY), LAYOUT, ROWS)
    rng = np.random.default_rng(0)
    rewards, values, following = (rng.standard_normal((7, 3)) for _ in range(3))
    ended = rng.random((7, 3)) < 0.3
    ended[-1] = True
    arrays = [torch.from_numpy(x).float() for x in (rewards, values, following)]
    found = training._advantages(*arrays, torch.from_numpy(ended))
    errors = rewards + 0.99 * following - values
    for n in range(3):
        for t in range(7):
            total = 0.0
            for k in range(t, 7):
                total += (0.99 * 0.95) ** (k - t) * errors[k, n]
                if ended[k, n]:
                    break
            assert float(found[t, n]) == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize(("iterations", "kept"), [(5, [1, 2, 3, 4, 5]), (85, list(range(7, 86, 2)))])
def test_snapshots_that_are_kept(iterations, kept, monkeypatch):
    training = Adversaries(settings(TINY, iterations=iterations), LAYOUT, ROWS)
    monkeypatch.setattr(Adversaries, "_improve", lambda *_: {})
    play = training.models.play(training.improving.params).roll_out(4, 6, training.random)
    monkeypatch.setattr(type(training.models.play([])), "roll_out", lambda *_: play)
    while training.done < training.length:
        training.advance()
    assert sorted(training.shots) == kept
    assert len(training.result()) == min(iterations, 40)
    # The last is the discriminator as it is.
    newest = training.shots[iterations]
    assert all(torch.equal(a[0], b) for a, b in zip(newest.params, training.discriminator.params, strict=True))


def test_the_generator_follows_the_judges(trained):
    """PPO makes rollouts that the judges rate higher."""
    training = fit(LEARNING, iterations=1)
    judge = trained.usable()

    def rated():
        found = training.models.play(training.improving.params).roll_out(20, 20, torch.Generator().manual_seed(5))
        return float(judge(found.observations, found.actions, found.following).mean())

    # A generator that has forgotten what it was taught.
    for tensor in training.improving.params:
        tensor.add_(0.15 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    before = rated()
    training.settings = settings(LEARNING, likelihood=0.0, kl="inf", epochs=5)
    for _ in range(25):
        rollouts = training.models.play(training.improving.params).roll_out(10, 20, training.random)
        training._improve(rollouts, judge)
    assert rated() > before + 0.05


def test_an_iteration_moves_the_generator_by_its_loss_and_the_values_to_the_returns(monkeypatch):
    """One pass, one minibatch of all rows: what a step of Adam takes is the gradient of the whole loss."""
    training = Adversaries(settings(TINY, minibatch=24, epochs=1), LAYOUT, ROWS)
    training.advance()
    assert (training.models.steps, training.iteration) == (TINY["pretraining"], 0)
    pairs, changes = training.models.pairs[:24].clone(), training.models.outputs[:24].clone()
    gains = torch.randn(24, generator=torch.Generator().manual_seed(2))
    targets = 3.0 * torch.randn(24, generator=torch.Generator().manual_seed(3))
    density = training._density(pairs, changes)
    real = training.models.likelihood_rows()
    monkeypatch.setattr(training.models, "likelihood_rows", lambda: real)

    def losses(likelihood):
        def loss(params):
            ratio = torch.exp(log_density(*heads(params, pairs), changes) - density)
            clipped = ratio.clamp(1 - training.settings.clip, 1 + training.settings.clip)
            kept = log_density(*heads(params, real[0]), real[1]).mean()
            return -torch.minimum(ratio * gains, clipped * gains).mean() - likelihood * kept

        return torch.func.grad(loss)(training.improving.params)

    assert training.settings.likelihood > 0.0
    expected, without = losses(training.settings.likelihood), losses(0.0)
    regression = torch.func.grad(lambda params: (mlp(params, pairs).squeeze(-1) - targets).square().mean())
    towards = regression(training.critic.params)
    before = {
        name: [tensor.clone() for tensor in learned.params]
        for name, learned in (("improving", training.improving), ("critic", training.critic))
    }
    training._pass(pairs, changes, density, gains, targets)

    def against(name, gradients):
        # A first step of Adam has the sign of the gradient, whatever its size.
        steps = [new - old for new, old in zip(getattr(training, name).params, before[name], strict=True)]
        moved, gradient = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (steps, gradients))
        clear = gradient.abs() > 1e-3 * gradient.abs().max()
        return float((moved.sign() == -gradient.sign())[clear].float().mean())

    assert against("improving", expected) == 1.0
    assert against("improving", without) < 0.95
    assert against("critic", towards) == 1.0


def equal(ours, theirs):
    ours, theirs = ours.tensors(), theirs.tensors()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("opponent", ["ppo", "checkpoints"])
def test_an_interrupted_training_ends_as_it_would_have(opponent):
    kind = {"ppo": Adversaries, "checkpoints": FrozenOpponents}[opponent]
    whole = kind(settings(TINY), LAYOUT, ROWS)
    states = []
    while whole.done < whole.length:
        whole.advance()
        states.append((whole.done, whole.state()))
    assert len(states) == whole.length
    for done, state in states[1 :: max(1, len(states) // 3)]:
        again = kind(settings(TINY), LAYOUT, ROWS)
        again.restore(state)
        assert again.done == done
        while again.done < again.length:
            again.advance()
        equal(again.result(), whole.result())
    other = fit(TINY, kind=kind, seed=1).result()
    assert not torch.equal(other.params[0], whole.result().params[0])


def test_the_stage_is_found_again_and_a_damaged_copy_is_left(tmp_path, monkeypatch):
    calls = []
    real = Adversaries.advance
    monkeypatch.setattr(Adversaries, "advance", lambda self: (calls.append(self.done), real(self))[1])

    def run(rows=ROWS, seed=0, **more):
        calls.clear()
        found = fit_dynamics_reward(settings(TINY, **more), LAYOUT, rows, tmp_path, seed=seed)
        return found, len(calls)

    first, length = run()
    assert length == 6
    again, none = run()
    assert none == 0
    equal(first, again)
    assert all(run(**other)[1] for other in ({"rows": ROWS + 1.0}, {"seed": 1}, {"entropy": 0.1}))
    assert not list(tmp_path.glob("*.partial"))
    (path,) = (p for p in tmp_path.iterdir() if p.stem == stage_key("dynamics-reward", settings(TINY), ROWS, 0, 1))
    path.write_bytes(b"torn")
    path.with_suffix(".partial").write_bytes(b"torn too")
    equal(run()[0], first)
    Unfinished(tmp_path, path.stem).write({"iteration": torch.tensor(3)})
    path.unlink()
    equal(run()[0], first)


@pytest.mark.parametrize("opponent", ["ppo", "checkpoints"])
def test_a_reward_without_a_usable_snapshot_is_never_taken_for_sound(opponent, tmp_path):
    astray = settings(TINY, opponent=opponent, discriminator_rate=1e15)
    for _ in range(2):
        with pytest.raises(OffDynError, match=r"none of \d+ discriminators rates real transitions above"):
            fit_dynamics_reward(astray, LAYOUT, ROWS, tmp_path).usable()
        assert [path.suffix for path in tmp_path.iterdir()] == [".failed"]


SCRIPT = """
from offdyn_agents.models.dynamics_reward import stage
from tests.agents.test_dynamics_reward_training import LAYOUT, ROWS, TINY, settings
stage.SAVE_SECONDS = 0.0
stage.fit_dynamics_reward(settings(TINY), LAYOUT, ROWS, folder)
"""


def test_killed_in_the_middle(tmp_path, monkeypatch):
    kill_after(3, tmp_path, SCRIPT)
    calls, real = [], Adversaries.advance
    monkeypatch.setattr(Adversaries, "advance", lambda self: (calls.append(self.done), real(self))[1])
    resumed = fit_dynamics_reward(settings(TINY), LAYOUT, ROWS, tmp_path)
    assert calls == [3, 4, 5]
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
    equal(resumed, fit_dynamics_reward(settings(TINY), LAYOUT, ROWS, None))


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")
@pytest.mark.parametrize("kind", [Adversaries, FrozenOpponents])
def test_compiled_steps_are_the_written_ones(kind):
    ours, theirs = (kind(settings(TINY), LAYOUT, ROWS) for _ in range(2))
    theirs.compile(1)
    for training in (ours, theirs):
        while training.done < training.length:
            training.advance()
    for a, b in zip(ours.result().params, theirs.result().params, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_held_out_rows():
    kept, held = split_rows(ROWS)
    assert (len(kept), len(held)) == (1350, 150)
    assert {tuple(row) for row in ROWS.tolist()} == {tuple(row) for row in torch.cat([kept, held]).tolist()}
    assert len(split_rows(torch.zeros(20_000, 2))[1]) == 1000


def test_ranking_by_hand():
    errors = torch.tensor([[1.0, 2.0], [math.e, 4.0], [0.5, 1.0]], dtype=torch.float64)
    scores = -errors.log()
    found = rank(scores, errors)
    assert (found.correlation, found.within) == (pytest.approx(-1.0), pytest.approx(-1.0))
    assert found.best == found.lowest == pytest.approx(0.75)
    assert found.random == pytest.approx((1 + 2 + math.e + 4 + 0.5 + 1) / 6)
    assert rank(-scores, errors).best == pytest.approx((math.e + 4) / 2)
    assert rank(torch.ones_like(errors), errors).within == 0.0


def test_conditions_of_a_trained_reward(trained):
    """A model with errors of its own; the reward was trained without it."""
    reward = trained.usable()
    s, a, following, *_ = LAYOUT.split(UNSEEN)
    bend = Bent()
    held = Asked(s, a, following)
    acts = torch.rand(300, A, generator=torch.Generator().manual_seed(3)) * 2 - 1
    others = {"random": Asked(s, acts, step(s / UNITS, acts) * UNITS)}
    found = measure_conditions(reward, bend, held, others, 0.3 * UNITS)
    assert found.real > 0.9
    assert all(ranking.best < ranking.random for ranking in found.rankings.values())
    assert all(ranking.correlation < -0.3 for ranking in found.rankings.values())
    assert len(found.lines()) == 2 + 2 + 3
    assert found.holds()["the best candidate beats a random one"]
    lines = measure_conditions(reward, bend, held, {}, 0.3 * UNITS).lines()
    assert sum("holds" in line or "FAILS" in line for line in lines) == 3


class Bent(Ensemble):
    """Five members that add noise of their own size to the true next state."""

    def __init__(self):
        super().__init__([torch.zeros(5, 1)], torch.zeros(S + A), torch.ones(S + A), torch.arange(5))

    def predict(self, observations, actions):
        following = (step(observations / UNITS, actions) * UNITS).expand(5, -1, -1)
        sizes = torch.linspace(0.02, 0.4, 5)[:, None, None] * torch.cat([torch.ones(1), UNITS])
        return torch.zeros(following.shape[:2]), following, sizes.square().expand(-1, len(observations), -1)


def test_other_policies_are_simulated():
    dataset = load_dataset("offdyn/hopper/gravity-0p5/medium-5k-v0")
    rows = list(range(5, 45))
    found = other_policies(dataset, rows)
    assert found.keys() == {"noisy", "random"}
    for asked in found.values():
        assert asked.observations.shape == asked.following.shape == (40, 11)
        assert float((asked.actions - torch.from_numpy(np.asarray(dataset.actions)[rows])).abs().amax()) > 0.3
        assert not np.allclose(asked.following, np.asarray(dataset.next_observations)[rows], atol=1e-2)
        # Hopper's height hardly changes in one step, whatever is done.
        np.testing.assert_allclose(asked.following[:, 0], np.asarray(dataset.next_observations)[rows, 0], atol=0.05)
