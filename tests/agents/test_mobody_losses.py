"""Golden values: every term of the dynamics' loss computed again in NumPy, in float64, by the formulas of the paper."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from offdyn_agents.engine.settings import build
from offdyn_agents.models.dual.losses import Rows, dynamics_loss, terms, weights
from offdyn_agents.models.dual.model import DualDynamics, dual_networks
from offdyn_agents.models.dual.settings import DualDynamicsSettings
from tests.agents.golden import net as numpy_net
from tests.agents.golden import swish
from tests.agents.synthetic import A, S

K, B, Z = 3, 6, 4


def settings(**overrides):
    small = {"form": "paper", "members": K, "elites": 2, "latent": Z, "width": 8, "action_width": 5}
    return build(DualDynamicsSettings, small | overrides)


def make_nets(chosen, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: network.shapes() for name, network in dual_networks(chosen, S, A).items()}
    return {name: [0.6 * torch.randn(s, generator=generator) for s in found] for name, found in shapes.items()}


def make_rows(seed=1):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    return Rows(
        normal(K, B, S), torch.tanh(normal(K, B, A)), normal(K, B, S), normal(K, B), normal(2, K, B, Z), normal(K, B, S)
    )


def net(params, k, x):
    """Member k of a network with Swish."""
    return numpy_net([tensor[k] for tensor in params], x, swish)


def cat(*parts):
    return np.concatenate(parts, axis=-1)


def golden(chosen, nets, rows, domain):
    """The terms of every member, and the whole loss, as the specification has them."""
    rows = Rows(*(part.double().numpy() for part in rows))
    psi = nets.get("action", nets.get(domain))

    def mean_prediction(k, s, a):
        if chosen.structure == "plain":
            return net(nets["plain"], k, cat(s, a))
        z = net(nets["encoder"], k, s)[:, :Z]
        return net(nets["transition"], k, z + net(psi, k, cat(z, a)))

    found = {name: np.zeros(K) for name in ("dynamics", "representation", "divergence", "reconstruction", "reward")}
    shared = np.stack([mean_prediction(k, rows.observations[0], rows.actions[0]) for k in range(K)])
    fake = shared + shared.std(axis=0, ddof=1) * rows.noise
    for k in range(K):
        s, a, s2, r = rows.observations[k], rows.actions[k], rows.following[k], rows.rewards[k]
        true = net(nets["reward"], k, cat(s, a, s2))[:, 0]
        invented = net(nets["reward"], k, cat(rows.observations[0], rows.actions[0], fake[k]))[:, 0]
        found["reward"][k] = np.mean((true - r) ** 2) + np.mean((invented - rows.rewards[0]) ** 2)
        if chosen.structure == "plain":
            found["dynamics"][k] = np.mean((mean_prediction(k, s, a) - s2) ** 2)
            continue
        z, kl = [], []
        for state, noise in ((s, rows.latent_noise[0, k]), (s2, rows.latent_noise[1, k])):
            mu, sigma = np.split(net(nets["encoder"], k, state), 2, axis=-1)
            sigma = np.exp(sigma / 2)
            z.append(mu + sigma * noise)
            kl.append(0.5 * (sigma**2 + mu**2 - 1) - np.log(sigma))
        after = z[0] + net(psi, k, cat(z[0], a))
        found["dynamics"][k] = np.mean((net(nets["transition"], k, after) - s2) ** 2)
        found["representation"][k] = np.mean((after - z[1]) ** 2)
        errors = [np.mean((net(nets["transition"], k, z[i]) - (s, s2)[i]) ** 2) for i in range(2)]
        kl = [(each.sum(axis=-1) if chosen.kl == "sum" else each.mean(axis=-1)).mean() for each in kl]
        if chosen.loss_weights == "paper":
            found["divergence"][k], found["reconstruction"][k] = kl[0], errors[0]
        else:
            found["divergence"][k], found["reconstruction"][k] = sum(kl), sum(errors)
    lambdas = dict.fromkeys(found, 1.0)
    if chosen.loss_weights == "code":
        five = 5.0 if domain == "target" else 1.0
        lambdas |= {"representation": five, "divergence": 0.05 * five, "reconstruction": 100.0 * five}
        lambdas["reward"] = 1.0 if domain == "target" else 0.01
    for name in ("representation", "divergence", "reconstruction"):
        lambdas[name] *= chosen.lambda_rep * chosen.representation_loss * (chosen.structure != "plain")
    for name in ("divergence", "reconstruction"):
        lambdas[name] *= chosen.cycle_loss
    return found, lambdas, sum(lambdas[name] * found[name].sum() for name in found)


VARIANTS = [
    {},
    {"kl": "sum"},
    {"kl": "sum", "loss_weights": "code"},
    {"lambda_rep": 0.3},
    {"loss_weights": "code"},
    {"loss_weights": "code", "lambda_rep": 2.0, "structure": "single"},
    {"structure": "single"},
    {"structure": "plain"},
    {"structure": "plain", "loss_weights": "code"},
    {"cycle_loss": False},
    {"cycle_loss": False, "loss_weights": "code"},
    {"representation_loss": False},
    {"representation_loss": False, "loss_weights": "code"},
]


@pytest.mark.parametrize("domain", ["source", "target"])
@pytest.mark.parametrize("overrides", VARIANTS)
def test_terms_equal_their_formulas(overrides, domain):
    chosen = settings(**overrides)
    nets = {name: [tensor.double() for tensor in tensors] for name, tensors in make_nets(chosen).items()}
    rows = Rows(*(part.double() for part in make_rows()))
    expected, lambdas, total = golden(chosen, nets, rows, domain)
    found = terms(nets, rows, chosen, domain)
    for name, factor in lambdas.items():
        if factor:
            np.testing.assert_allclose(found[name].numpy(), expected[name], rtol=1e-6, err_msg=name)
        else:
            assert name not in found
    for name, factor in weights(chosen, domain)._asdict().items():
        assert factor == pytest.approx(lambdas[name])
    np.testing.assert_allclose(float(dynamics_loss(nets, rows, chosen, domain)), total, rtol=1e-6)


def test_domains_differ_only_in_the_action_encoder():
    chosen, rows = settings(), make_rows()
    nets = make_nets(chosen)
    ours = terms(nets, rows, chosen, "source")["dynamics"]
    assert not torch.allclose(ours, terms(nets, rows, chosen, "target")["dynamics"])
    twin = nets | {"target": nets["source"]}
    torch.testing.assert_close(ours, terms(twin, rows, chosen, "target")["dynamics"])


def gradients(chosen, domain, name, nets=None):
    """Gradient of one term with respect to every network."""
    nets, rows = nets or make_nets(chosen), make_rows()
    return torch.func.grad(lambda n: terms(n, rows, chosen, domain)[name].sum())(nets)


def moves(found):
    return {name for name, tensors in found.items() if any(bool(t.any()) for t in tensors)}


def test_a_divergence_by_hand():
    """Mean m and variance exp(v) in each of Z dimensions: (exp(v) + m^2 - 1 - v) / 2 of each."""
    m, v, nets = 0.7, -0.4, make_nets(settings())
    *_, weight, bias = nets["encoder"]
    weight.zero_()
    bias.copy_(torch.cat([torch.full((Z,), m), torch.full((Z,), v)]).expand_as(bias))
    each = 0.5 * (np.exp(v) + m**2 - 1.0 - v)
    for kl, times in (("mean", 1), ("sum", Z)):
        found = terms(nets, make_rows(), settings(kl=kl), "target")["divergence"]
        np.testing.assert_allclose(found.numpy(), np.full(K, times * each), rtol=1e-5)


@pytest.mark.parametrize("form", ["paper", "code"])
def test_what_each_term_trains(form):
    chosen = settings(loss_weights=form)
    assert moves(gradients(chosen, "target", "dynamics")) == {"encoder", "target", "transition"}
    assert moves(gradients(chosen, "source", "representation")) == {"encoder", "source"}
    assert moves(gradients(chosen, "target", "divergence")) == {"encoder"}
    assert moves(gradients(chosen, "target", "reconstruction")) == {"encoder", "transition"}
    # Rewards are fitted at predicted next states, but do not bend the dynamics.
    assert moves(gradients(chosen, "target", "reward")) == {"reward"}


def test_the_representation_loss_has_a_fixed_end():
    """No gradient reaches z_s': with z + psi moved there by hand, its encoder stays as it is."""
    chosen, rows = settings(), make_rows()
    nets = make_nets(chosen)

    def loss(following):
        moved = rows._replace(following=following)
        return terms(nets, moved, chosen, "source")["representation"].sum()

    assert not torch.func.grad(loss)(rows.following).any()
    assert not torch.isclose(loss(rows.following), loss(rows.following + 1.0))


def model(chosen, seed=0):
    return DualDynamics(make_nets(chosen, seed), torch.tensor([2, 0]), torch.zeros(K), torch.zeros(S), torch.ones(S))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("structure", ["dual", "single", "plain"])
def test_predictions_equal_their_formulas(structure):
    chosen = settings(structure=structure)
    dynamics, count = model(chosen), 600
    generator = torch.Generator().manual_seed(3)
    s, a = torch.randn(count, S, generator=generator), torch.rand(count, A, generator=generator)
    paper, code = (dynamics.predict(s, a, torch.Generator().manual_seed(5), form) for form in ("paper", "code"))
    rows = SimpleNamespace(s=s.double().numpy(), a=a.double().numpy())
    nets = dynamics.nets

    def mean_of(k):
        if structure == "plain":
            return net(nets["plain"], k, cat(rows.s, rows.a))
        z = net(nets["encoder"], k, rows.s)[:, :Z]
        psi = nets["action" if structure == "single" else "target"]
        return net(nets["transition"], k, z + net(psi, k, cat(z, rows.a)))

    means = np.stack([mean_of(k) for k in range(K)])
    np.testing.assert_allclose(dynamics.means(s, a).numpy(), means, rtol=1e-6)
    away = means - means.mean(axis=0)
    np.testing.assert_allclose(paper.uncertainty, np.linalg.norm(away, axis=-1).max(axis=0), rtol=1e-6)
    np.testing.assert_allclose(code.uncertainty, np.linalg.norm(away[..., :-1], axis=-1).max(axis=0), rtol=1e-6)
    assert torch.equal(paper.following, code.following)
    # Every sample is an elite's mean plus sigma times a standard normal number.
    sigma = means.std(axis=0, ddof=1)
    noise = (paper.following.numpy() - means[[2, 0]]) / sigma
    best = np.abs(noise).max(axis=-1).argmin(axis=0)
    chosen_noise = noise[best, np.arange(count)]
    assert abs(chosen_noise.std() - 1.0) < 0.2
    assert 0.3 < best.mean() < 0.7
    rewards = np.mean(
        [net(nets["reward"], k, cat(rows.s, rows.a, paper.following.double().numpy()))[:, 0] for k in range(K)], axis=0
    )
    np.testing.assert_allclose(paper.rewards, rewards, rtol=1e-6)


def test_members_that_agree_are_certain():
    chosen = settings()
    nets = {
        name: [t[:1].expand(K, *t.shape[1:]).clone() for t in tensors] for name, tensors in make_nets(chosen).items()
    }
    dynamics = DualDynamics(nets, torch.tensor([0, 1]), torch.zeros(K), torch.zeros(S), torch.ones(S))
    s, a = torch.randn(50, S), torch.rand(50, A)
    found = dynamics.predict(s, a, torch.Generator())
    torch.testing.assert_close(found.following, dynamics.means(s, a)[0])
    assert float(found.uncertainty.max()) < 1e-5


def test_without_an_action_the_decoder_answers():
    """psi = 0 leaves phi_T(phi_E(s)): what `reconstruct` returns."""
    chosen = settings()
    nets = make_nets(chosen)
    nets["target"][2:] = [torch.zeros_like(tensor) for tensor in nets["target"][2:]]
    dynamics = DualDynamics(nets, torch.tensor([0, 1]), torch.zeros(K), torch.zeros(S), torch.ones(S))
    s, a = torch.randn(20, S), torch.rand(20, A)
    torch.testing.assert_close(dynamics.means(s, a), dynamics.reconstruct(s))


def test_tensors_and_back():
    dynamics = model(settings())
    again = DualDynamics.from_tensors(dynamics.tensors(), torch.device("cpu"))
    s, a = torch.randn(20, S), torch.rand(20, A)
    torch.testing.assert_close(dynamics.means(s, a, "source"), again.means(s, a, "source"), rtol=0.0, atol=0.0)
    assert torch.equal(dynamics.elites, again.elites)


def test_units_of_states():
    """Networks see (s - center) / scale, and what they answer is turned back."""
    chosen, count = settings(), 40
    nets, zero, one = make_nets(chosen), torch.zeros(S), torch.ones(S)
    center, scale = torch.linspace(-3.0, 3.0, S), torch.linspace(0.1, 5.0, S)
    raw = DualDynamics(nets, torch.tensor([2, 0]), torch.zeros(K), zero, one)
    scaled = DualDynamics(nets, torch.tensor([2, 0]), torch.zeros(K), center, scale)
    s, a = torch.randn(count, S), torch.rand(count, A)
    moved = s * scale + center
    torch.testing.assert_close(scaled.means(moved, a), raw.means(s, a) * scale + center, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scaled.reconstruct(moved), raw.reconstruct(s) * scale + center, rtol=1e-4, atol=1e-4)
    ours, theirs = (model.predict(x, a, torch.Generator()) for model, x in ((scaled, moved), (raw, s)))
    torch.testing.assert_close(ours.following, theirs.following * scale + center, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.rewards, theirs.rewards, rtol=1e-4, atol=1e-4)
    # Uncertainty is a distance between states, not between standardised ones.
    away = (scaled.means(moved, a) - scaled.means(moved, a).mean(0)).norm(dim=-1).amax(0)
    torch.testing.assert_close(ours.uncertainty, away)
