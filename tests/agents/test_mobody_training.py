"""Training of the dynamics: what it learns that one model of both domains cannot, its schedule, and its cache."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from offdyn_agents.engine.rows import Layout, pack
from offdyn_agents.engine.settings import build
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.models.dual import losses as mobody_losses
from offdyn_agents.models.dual import training as mobody_training
from offdyn_agents.models.dual.parts import Part, Units
from offdyn_agents.models.dual.settings import DualDynamicsSettings
from offdyn_agents.models.dual.stages import fit_dynamics
from offdyn_agents.models.dual.training import DualLearner
from offdyn_envs.errors import OffDynError
from tests.agents.killing import kill_after
from tests.agents.synthetic import A, S

CPU = torch.device("cpu")
LAYOUT = Layout(S, A)
PUBLISHED = {"form": "paper", "batch_size": 64, "epochs": 8}
SMALL = PUBLISHED | {"members": 2, "elites": 2, "width": 32, "latent": 8, "learning_rate": 3e-3}
TINY = SMALL | {"members": 3, "width": 8, "latent": 4, "epochs": 3}


def settings(base=SMALL, **overrides):
    return build(DualDynamicsSettings, base | overrides)


def world(rows, seed, sign, scale=1.0):
    """Transitions of one domain: an action does in the target what its opposite does in the source."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).standard_normal((A, S))
    drift = np.random.default_rng(98).standard_normal((S, S))
    states, actions = rng.standard_normal((rows, S)), rng.uniform(-1, 1, (rows, A))
    following = states + np.tanh(0.5 * states @ drift + sign * actions @ mix)
    data = SimpleNamespace(
        observations=scale * states,
        actions=actions,
        next_observations=scale * following,
        rewards=following.sum(axis=1),
        terminations=np.zeros(rows, dtype=bool),
    )
    return pack(data, "world")


SOURCE, TARGET, UNSEEN = world(4000, 0, 1.0), world(250, 1, -1.0), world(800, 2, -1.0)


def error(dynamics, rows=UNSEEN, domain="target"):
    """Mean squared error of the mean prediction, in units of the change from s to s'."""
    s, a, following, *_ = LAYOUT.split(rows)
    return float((dynamics.means(s, a, domain).mean(0) - following).square().mean() / (following - s).square().mean())


def fit(chosen, source=SOURCE, target=TARGET, seed=0):
    return DualLearner(chosen, LAYOUT, CPU, compiled=False).fit(source, target, seed)


def test_two_action_encoders_learn_what_one_cannot(monkeypatch):
    dual = fit(settings(loss_weights="code", epochs=14))
    assert error(dual) < 0.25
    assert error(dual, SOURCE, "source") < 0.15
    # The source's answer is wrong in the target, and so is that of one encoder for both.
    assert error(dual, UNSEEN, "source") > 1.0
    assert error(fit(settings(loss_weights="code", structure="single"))) > 0.4
    assert error(fit(settings(structure="plain"))) > 0.4
    # So few target rows alone teach less than both domains together.
    assert error(fit(settings(loss_weights="code", data="target"))) > 0.4
    # Without L_dyn nothing is learned.
    real = mobody_losses.weights
    monkeypatch.setattr(mobody_losses, "weights", lambda *args: real(*args)._replace(dynamics=0.0))
    assert error(fit(settings(representation_loss=False))) > 0.9


def test_the_papers_weights_learn_with_an_averaged_divergence():
    """At a scale of 1 a divergence that is summed outweighs all the rest, and the latent states say nothing."""
    averaged, summed = (fit(settings(kl=kl, epochs=14)) for kl in ("mean", "sum"))
    assert error(averaged) < 0.6
    assert error(averaged, SOURCE, "source") < 0.5
    assert error(summed) > 1.0
    s, *_ = LAYOUT.split(UNSEEN)
    away = [float((found.reconstruct(s).mean(0) - s).square().mean() / s.var()) for found in (averaged, summed)]
    assert away[0] < 0.4
    assert away[1] > 0.7


def test_the_cycle_loss_makes_psi_0_recover_the_state():
    s, *_ = LAYOUT.split(UNSEEN)

    def away(**overrides):
        found = fit(settings(loss_weights="code", epochs=6, **overrides)).reconstruct(s)
        return float((found - s).square().mean() / s.var())

    assert away() < 0.03
    assert away(cycle_loss=False) > 0.1
    assert away(representation_loss=False) > 0.1


def test_standardised_states_are_learned_at_any_scale():
    """What is learned does not depend on where states lie and how large they are."""
    chosen, found = settings(TINY, loss_weights="code", standardise=True), []
    for scale, move in ((1.0, 0.0), (1000.0, 5.0)):
        source, target, unseen = SOURCE[:500].clone(), TARGET.clone(), UNSEEN.clone()
        for rows in (source, target, unseen):
            for states in (LAYOUT.split(rows)[0], LAYOUT.split(rows)[2]):
                states.copy_(scale * (states + move))
        dynamics = fit(chosen, source, target)
        s, a, *_ = LAYOUT.split(unseen)
        found.append(dynamics.means(s, a) / scale - move)
        both = torch.cat([source, target])[:, :S]
        torch.testing.assert_close(dynamics.center, both.mean(0))
        torch.testing.assert_close(dynamics.scale, both.std(0, correction=0))
    torch.testing.assert_close(found[0], found[1], rtol=0.02, atol=0.02)


def test_rewards_of_samples():
    dynamics = fit(settings(loss_weights="code"))
    s, a, *_ = LAYOUT.split(UNSEEN)
    found = dynamics.predict(s, a, torch.Generator())
    meant = found.following.sum(-1)
    assert float((found.rewards - meant).square().mean()) < 0.1 * float(meant.var())


@pytest.mark.parametrize(
    ("overrides", "most"), [({"epochs": 4}, 4), ({"epochs": 300, "patience": 2, "improvement": 0.5}, 12)]
)
def test_schedule(overrides, most):
    seen = []
    learner = DualLearner(settings(TINY, **overrides), LAYOUT, CPU, compiled=False)
    dynamics = learner.fit(SOURCE[:300], TARGET, 0, lambda epoch, worst: seen.append((epoch, worst)))
    assert [epoch for epoch, _ in seen] == list(range(1, len(seen) + 1))
    assert len(seen) == most if overrides["epochs"] == most else 3 <= len(seen) <= most
    # What is kept never gets worse, and elites are the best of all.
    assert all(b <= a for (_, a), (_, b) in itertools.pairwise(seen))
    assert sorted(dynamics.errors.tolist())[:2] == dynamics.errors[dynamics.elites].tolist()


def test_kept_parameters_are_those_of_the_kept_error():
    chosen = settings(TINY, loss_weights="code", improvement=0.2)
    training = mobody_training._Training(DualLearner(chosen, LAYOUT, CPU, compiled=False), SOURCE[:500], TARGET, 0)
    dynamics = training.run(None, None)
    held = training.parts["target"].held
    assert len(held) == 50
    s, a, following, *_ = LAYOUT.split(held)
    errors = (dynamics.means(s, a) - following).square().mean((1, 2))
    torch.testing.assert_close(errors, dynamics.errors, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "domain", "held"),
    [(4000, "source", 800), (9000, "source", 1000), (250, "target", 50), (9000, "target", 500), (2, "target", 1)],
)
def test_held_out_rows(rows, domain, held):
    table = torch.arange(rows, dtype=torch.float32)[:, None].expand(-1, LAYOUT.width)
    chosen = settings(TINY)
    part = Part(table, Units.of([table], LAYOUT, chosen), domain, LAYOUT, chosen, torch.Generator())
    assert (len(part.held), len(part.kept)) == (held, rows - held)
    assert set(part.held[:, 0].long().tolist()).isdisjoint(part.kept.tolist())
    passes = torch.cat(part.orders(torch.Generator()), dim=1)
    assert set(passes.unique().tolist()) <= set(part.kept.tolist())
    if rows > 1000:
        # A bootstrap resample leaves out 1/e of the rows, others for other members.
        left = [1.0 - len(own.unique()) / len(part.kept) for own in passes]
        assert left == pytest.approx([np.exp(-1.0)] * 3, abs=0.05)
        assert not torch.equal(passes[0].sort().values, passes[1].sort().values)
        assert len(torch.cat(part.orders(torch.Generator(), 0.25), dim=1)[0]) == pytest.approx(
            0.25 * len(part.kept), abs=64
        )


def test_a_seed_decides_everything():
    first, again, other = (fit(settings(TINY), SOURCE[:300], TARGET, seed).nets["transition"][0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.slow
def test_compiled_steps_are_the_written_ones():
    learner = DualLearner(settings(TINY, epochs=1, loss_weights="code"), LAYOUT, CPU)
    if not learner.compiled:
        pytest.skip("no C++ compiler")
    written = fit(learner.settings, SOURCE[:300])
    plain = dict(learner.steps)
    learner.warm_up(SOURCE[:300], TARGET)
    assert all(learner.steps[domain] is not plain[domain] for domain in plain)
    compiled = learner.fit(SOURCE[:300], TARGET, 0)
    for name, tensors in written.nets.items():
        for ours, theirs in zip(tensors, compiled.nets[name], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_an_interrupted_training_ends_as_it_would_have(monkeypatch):
    monkeypatch.setattr(mobody_training, "SAVE_SECONDS", 0.0)
    learner = DualLearner(settings(TINY, epochs=4), LAYOUT, CPU, compiled=False)
    states = []

    def save(state):
        states.append({name: tensor.clone() for name, tensor in state.items()})

    whole = learner.fit(SOURCE[:300], TARGET, 0, save=save)
    assert len(states) == 4
    for state in states:
        again = learner.fit(SOURCE[:300], TARGET, 0, resume=state)
        for name, tensors in whole.nets.items():
            assert all(torch.equal(a, b) for a, b in zip(tensors, again.nets[name], strict=True))
        assert torch.equal(whole.errors, again.errors)
    damaged = learner.fit(SOURCE[:300], TARGET, 0, resume={"epoch": torch.tensor(2)})
    assert torch.equal(whole.errors, damaged.errors)


def test_rounded_products_learn_the_same_but_for_rounding():
    """Only the losses are rounded: parameters, and the errors by which training stops, stay fp32."""
    chosen = settings(TINY, epochs=3)
    exact, rounded = (
        DualLearner(chosen, LAYOUT, CPU, compiled=False, precision=precision).fit(SOURCE[:300], TARGET, 0)
        for precision in ("fp32", "bf16")
    )
    assert not torch.equal(exact.errors, rounded.errors)
    torch.testing.assert_close(rounded.errors, exact.errors, rtol=0.02, atol=0.0)
    assert all(t.dtype == torch.float32 for tensors in rounded.nets.values() for t in tensors)


def test_rounded_dynamics_are_kept_apart(tmp_path):
    def found(precision):
        context = StageContext(
            LAYOUT, SOURCE[:300], TARGET, (0,), 1, cache=tmp_path, compiled=False, precision=precision
        )
        return fit_dynamics(settings(TINY, epochs=1), context)[0]

    exact, rounded = found("fp32"), found("bf16")
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert not torch.equal(exact.errors, rounded.errors)
    assert torch.equal(found("bf16").errors, rounded.errors)
    assert torch.equal(found("fp32").errors, exact.errors)


def test_stages_are_found_again_by_content(tmp_path, monkeypatch):
    calls, real = [], DualLearner.fit

    def counted(self, source, target, seed, *args, **named):
        calls.append(seed)
        return real(self, source, target, seed, *args, **named)

    monkeypatch.setattr(DualLearner, "fit", counted)

    def stage(chosen, source, target, seeds):
        context = StageContext(LAYOUT, source, target, tuple(seeds), 1, cache=tmp_path, compiled=False)
        return fit_dynamics(chosen, context)

    chosen, source = settings(TINY, epochs=1), SOURCE[:200]
    first = stage(chosen, source, TARGET, [0, 1])
    again = stage(chosen, source, TARGET, [1, 0, 2])
    assert sorted(calls) == [0, 1, 2]
    for a, b in zip(first, [again[1], again[0]], strict=True):
        assert torch.equal(a.errors, b.errors)
        assert torch.equal(a.nets["target"][0], b.nets["target"][0])
    # Other settings, other rows, another cut between the domains.
    stage(settings(TINY, epochs=1, cycle_loss=False), source, TARGET, [0])
    stage(chosen, source + 1.0, TARGET, [0])
    stage(chosen, torch.cat([source, TARGET[:1]]), TARGET[1:], [0])
    assert len(calls) == 6
    only = settings(TINY, epochs=1, data="target")
    stage(only, source, TARGET, [0])
    stage(only, source + 1.0, TARGET, [0])
    assert len(calls) == 7
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"torn")
    stage(chosen, source, TARGET, [0])
    assert len(calls) == 8


def context(cache):
    return StageContext(LAYOUT, SOURCE[:300], TARGET, (0,), 1, cache=cache, compiled=False)


def test_a_training_that_diverges_is_told_and_never_taken_for_sound(tmp_path):
    for times in (1, 2):
        found = fit_dynamics(settings(TINY, learning_rate=1e6), context(tmp_path))
        assert found.failed.keys() == {0}, times
        assert found.failed[0].startswith("dynamics: training made none")
        assert [path.suffix for path in tmp_path.iterdir()] == [".failed"]
    with pytest.raises(OffDynError, match="other settings are needed"):
        found.sound()
    assert not fit_dynamics(settings(TINY), context(tmp_path)).failed
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_anything_finite_is_better_than_nothing():
    """Also where no improvement would be large enough: inf * 0 is no number."""
    dynamics = fit(settings(TINY, improvement=1.0), SOURCE[:300])
    assert bool(torch.isfinite(dynamics.errors).all())
    assert not dynamics.failed


SCRIPT = """
from offdyn_agents.models.dual import stages, training
from tests.agents.test_mobody_training import TINY, context, settings
training.SAVE_SECONDS = 0.0
stages.fit_dynamics(settings(TINY), context(folder))
"""


def test_killed_in_the_middle(tmp_path, monkeypatch):
    monkeypatch.setattr(mobody_training, "SAVE_SECONDS", 0.0)

    def stage(cache):
        found = fit_dynamics(settings(TINY), context(cache))
        return [tensor for tensors in found[0].nets.values() for tensor in tensors]

    broken = tmp_path / "broken"
    kill_after(2, broken, SCRIPT)
    epochs, real = [], mobody_training._Training._epoch
    monkeypatch.setattr(mobody_training._Training, "_epoch", lambda self: (epochs.append(self.epoch), real(self)))
    resumed = stage(broken)
    assert epochs == [2]
    assert [path.suffix for path in broken.iterdir()] == [".safetensors"]
    assert all(torch.equal(a, b) for a, b in zip(resumed, stage(tmp_path / "whole"), strict=True))
