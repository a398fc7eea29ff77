"""The difference form of MOBODY's dynamics: golden values in float64 NumPy, its units, and what is held out."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from offdyn_agents.engine.rows import Layout, pack
from offdyn_agents.engine.settings import build
from offdyn_agents.models.dual.differences import LossUnits, difference_loss, difference_terms
from offdyn_agents.models.dual.losses import Rows
from offdyn_agents.models.dual.model import DualDynamics, dual_networks
from offdyn_agents.models.dual.parts import LARGEST_WEIGHT, Part, Units, episodes, error_weights
from offdyn_agents.models.dual.settings import DualDynamicsSettings
from tests.agents.golden import net as numpy_net
from tests.agents.golden import swish
from tests.agents.synthetic import A, S

K, B, Z = 3, {"source": 6, "target": 4}, 4
LAYOUT = Layout(S, A)
ENCODERS = {
    "single": {"source": ["action"], "target": ["action"]},
    "own": {"source": ["source"], "target": ["target"]},
    "correction": {"source": ["source"], "target": ["source", "correction"]},
}
"""Networks that add up to the action encoder of a domain."""


def settings(**overrides):
    return build(
        DualDynamicsSettings, {"members": K, "elites": 2, "latent": Z, "width": 8, "action_width": 5} | overrides
    )


def make_nets(chosen, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: network.shapes() for name, network in dual_networks(chosen, S, A).items()}
    return {name: [0.6 * torch.randn(s, generator=generator) for s in found] for name, found in shapes.items()}


def make_parts(domains=tuple(B), seed=1):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    made = {
        d: Rows(normal(K, n, S), normal(K, n, A).tanh(), normal(K, n, S), normal(K, n), normal(2, K, n, Z), normal(0))
        for d, n in B.items()
    }
    return {domain: made[domain] for domain in domains}


def make_units(domains=tuple(B)):
    generator = torch.Generator().manual_seed(7)
    ratio, weights = torch.rand(S, generator=generator), 3.0 * torch.rand(len(B), S + 1, generator=generator)
    return LossUnits(ratio, weights[[list(B).index(domain) for domain in domains]])


def net(params, k, x):
    return numpy_net([tensor[k] for tensor in params], x, swish)


def psi(chosen, nets, domain, k, z, a):
    """The action encoder of a domain, member k."""
    names = ENCODERS["single" if chosen.structure == "single" else chosen.target_encoder][domain]
    return sum(net(nets[name], k, cat(z, a)) for name in names)


def cat(*parts):
    return np.concatenate(parts, axis=-1)


def golden(chosen, nets, parts, units):
    """Every term of every member, and the whole loss, by the formulas of `offdyn_agents.models.dual.differences`."""
    found = {}
    for place, (domain, rows) in enumerate(parts.items()):
        s, a, y, r, noise = (part.double().numpy() for part in rows[:5])
        weights, ratio = units.weights[place].double().numpy(), units.ratio.double().numpy()

        def put(name, k, value, domain=domain):
            found.setdefault(f"{name} {domain}", np.zeros(K))[k] = value

        for k in range(K):
            put("reward", k, weights[-1] * np.mean((net(nets["reward"], k, cat(s[k], a[k], y[k]))[:, 0] - r[k]) ** 2))
            if chosen.structure == "plain":
                put("dynamics", k, np.mean(weights[:-1] * (net(nets["plain"], k, cat(s[k], a[k])) - y[k]) ** 2))
                continue
            z, kl = [], []
            for state, own in ((s[k], noise[0, k]), (s[k] + y[k] * ratio, noise[1, k])):
                mu, log_variance = np.split(net(nets["encoder"], k, state), 2, axis=-1)
                z.append(mu + chosen.latent_noise * np.exp(log_variance / 2) * own)
                kl.append(0.5 * (np.exp(log_variance) + mu**2 - 1.0 - log_variance))

            def answer(of, z=z[0], k=k, a=a):
                after = z + psi(chosen, nets, of, k, z, a[k])
                return after, net(nets["transition"], k, after) - net(nets["transition"], k, z)

            after, own = answer(domain)
            put("dynamics", k, np.mean(weights[:-1] * (own - y[k]) ** 2))
            if domain == "source" and chosen.anchor and chosen.structure == "dual":
                put("anchor", k, np.mean(weights[:-1] * (answer("target")[1] - y[k]) ** 2))
            if chosen.representation:
                put("representation", k, np.mean((after - z[1]) ** 2))
            if chosen.divergence:
                put("divergence", k, (kl[0].sum(-1) if chosen.kl == "sum" else kl[0].mean(-1)).mean())
    factors = {
        "dynamics": 1.0,
        "reward": 1.0,
        "anchor": chosen.anchor,
        "representation": chosen.representation,
        "divergence": chosen.divergence,
    }
    return found, sum(factors[name.split()[0]] * term.sum() for name, term in found.items())


VARIANTS = [
    {},
    {"anchor": 0.0},
    {"anchor": 0.7},
    {"target_encoder": "own"},
    {"structure": "single"},
    {"structure": "plain"},
    {"latent_noise": True},
    {"representation": 0.3},
    {"representation": 0.3, "latent_noise": True, "divergence": 0.2},
    {"divergence": 0.2, "kl": "sum"},
]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("domains", [("source", "target"), ("source",), ("target",)])
@pytest.mark.parametrize("overrides", VARIANTS)
def test_terms_equal_their_formulas(overrides, domains):
    chosen = settings(**overrides)
    nets, parts, units = make_nets(chosen), make_parts(domains), make_units(domains)
    expected, total = golden(chosen, nets, parts, units)
    found = difference_terms(nets, parts, chosen, units)
    assert found.keys() == expected.keys()
    for name, term in found.items():
        np.testing.assert_allclose(term.numpy(), expected[name], rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(float(difference_loss(nets, parts, chosen, units)), total, rtol=1e-6)


@pytest.mark.parametrize(
    ("term", "trained"),
    [
        ("dynamics source", {"encoder", "source", "transition"}),
        ("dynamics target", {"encoder", "source", "correction", "transition"}),
        ("anchor source", {"encoder", "source", "correction", "transition"}),
        ("representation source", {"encoder", "source"}),
        ("divergence target", {"encoder"}),
        ("reward target", {"reward"}),
    ],
)
def test_what_each_term_trains(term, trained):
    chosen = settings(representation=0.3, divergence=0.2)
    found = torch.func.grad(lambda nets: difference_terms(nets, make_parts(), chosen, make_units())[term].sum())(
        make_nets(chosen)
    )
    assert {name for name, tensors in found.items() if any(bool(t.any()) for t in tensors)} == trained


UNITS = {
    "center": torch.linspace(-1.0, 1.0, S),
    "scale": torch.linspace(0.5, 2.0, S),
    "change": torch.linspace(0.01, 3.0, S),
}


def model(chosen, seed=0):
    return DualDynamics(make_nets(chosen, seed), torch.tensor([2, 0]), torch.zeros(K), **UNITS, differences=True)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "overrides", [{}, {"target_encoder": "own"}, {"structure": "single"}, {"structure": "plain"}], ids=str
)
def test_predictions_equal_their_formulas(overrides):
    chosen, count = settings(**overrides), 50
    dynamics = model(chosen)
    generator = torch.Generator().manual_seed(3)
    s, a = torch.randn(count, S, generator=generator), torch.rand(count, A, generator=generator)
    center, scale, change = (UNITS[name].double().numpy() for name in ("center", "scale", "change"))
    states, actions, nets = s.double().numpy(), a.double().numpy(), dynamics.nets
    x = (states - center) / scale

    def mean_of(k, domain):
        if chosen.structure == "plain":
            return states + change * net(nets["plain"], k, cat(x, actions))
        z = net(nets["encoder"], k, x)[:, :Z]
        after = z + psi(chosen, nets, domain, k, z, actions)
        return states + change * (net(nets["transition"], k, after) - net(nets["transition"], k, z))

    for domain in B:
        expected = np.stack([mean_of(k, domain) for k in range(K)])
        found = dynamics.means(s, a, domain)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
        rows = LAYOUT.join(s, a, s, torch.zeros(count), torch.zeros(count, dtype=torch.bool))
        assert torch.equal(dynamics.next_states(LAYOUT, rows, domain), found.transpose(0, 1))
    means = np.stack([mean_of(k, "target") for k in range(K)])
    said = dynamics.predict(s, a, torch.Generator().manual_seed(5), "changes")
    away = (means - means.mean(axis=0)) / change
    np.testing.assert_allclose(said.uncertainty, np.sqrt((away**2).mean(axis=-1)).max(axis=0), rtol=1e-6)
    y = (said.following.double().numpy() - states) / change
    rewards = np.mean([net(nets["reward"], k, cat(x, actions, y))[:, 0] for k in range(K)], axis=0)
    np.testing.assert_allclose(said.rewards, rewards, rtol=1e-6)


def test_psi_0_is_no_change():
    dynamics = model(settings())
    for name in ("source", "correction"):
        dynamics.nets[name][2:] = [torch.zeros_like(tensor) for tensor in dynamics.nets[name][2:]]
    s, a = torch.randn(20, S), torch.rand(20, A)
    assert torch.equal(dynamics.means(s, a), s.expand(K, 20, S))
    assert torch.equal(dynamics.reconstruct(s), s.expand(K, 20, S))


def test_tensors_and_back():
    dynamics = model(settings())
    again = DualDynamics.from_tensors(dynamics.tensors(), torch.device("cpu"))
    s, a = torch.randn(20, S), torch.rand(20, A)
    assert again.differences
    assert torch.equal(dynamics.means(s, a, "source"), again.means(s, a, "source"))
    assert not DualDynamics.from_tensors(
        {**dynamics.tensors(), "differences": torch.tensor(False)}, s.device
    ).differences


def walks(lengths, seed=0, step=1.0):
    """Packed rows of episodes, each a random walk."""
    generator = np.random.default_rng(seed)
    states = [np.cumsum(step * generator.standard_normal((length + 1, S)), axis=0) for length in lengths]
    count = sum(lengths)
    data = SimpleNamespace(
        observations=np.concatenate([own[:-1] for own in states]),
        actions=generator.uniform(-1, 1, (count, A)),
        next_observations=np.concatenate([own[1:] for own in states]),
        rewards=step * generator.standard_normal(count),
        terminations=np.zeros(count, dtype=bool),
    )
    return pack(data, "walks")


def test_both_domains_count_alike():
    source, target = walks([400, 500]).double(), walks([60, 40], seed=1, step=0.25).double()
    units = Units.of([source, target], LAYOUT, settings())
    tables = [[part.double().numpy() for part in LAYOUT.split(rows)] for rows in (source, target)]
    center = np.mean([s.mean(axis=0) for s, *_ in tables], axis=0)
    scale = np.sqrt(np.mean([((s - center) ** 2).mean(axis=0) for s, *_ in tables], axis=0))
    changes = np.array([((s2 - s) ** 2).mean(axis=0) for s, _, s2, *_ in tables])
    np.testing.assert_allclose(units.center, center, rtol=1e-6)
    np.testing.assert_allclose(units.scale, scale, rtol=1e-6)
    np.testing.assert_allclose(units.change, np.sqrt(changes.mean(axis=0)), rtol=1e-6)
    for rows, (s, a, s2, r, _), own in zip((source, target), tables, changes, strict=True):
        weights = error_weights(rows, units, LAYOUT)
        np.testing.assert_allclose(weights, [*(changes.mean(axis=0) / own), 1.0 / r.var()], rtol=1e-6)
        seen = LAYOUT.split(units.seen(rows, LAYOUT, settings()))
        np.testing.assert_allclose(seen[0], (s - center) / scale, rtol=1e-6)
        np.testing.assert_allclose(seen[2], (s2 - s) / np.sqrt(changes.mean(axis=0)), rtol=1e-6)
        assert torch.equal(seen[1].double(), torch.from_numpy(a))


def test_units_of_what_does_not_move():
    source, target = walks([50, 50]), walks([20, 20], seed=1)
    for rows, still in ((source, [0]), (target, [0, 1])):
        rows[:, still] = rows[:, [S + A + i for i in still]] = 2.0
    units = Units.of([source, target], LAYOUT, settings())
    assert units.scale[0] == units.change[0] == 1.0
    assert error_weights(target, units, LAYOUT)[:2].tolist() == [1.0, 1.0]
    # It moves in one domain, and hardly in the other.
    target[:, S + A + 1] += 1e-2 * torch.randn(40, generator=torch.Generator().manual_seed(0))
    assert error_weights(target, Units.of([source, target], LAYOUT, settings()), LAYOUT)[1] == LARGEST_WEIGHT


def test_episodes_of_packed_rows():
    rows = walks([5, 1, 7])
    assert episodes(rows, LAYOUT).tolist() == [0] * 5 + [1] + [2] * 7
    rows[2, -1] = 0.0
    assert episodes(rows, LAYOUT).tolist() == [0] * 3 + [1] * 2 + [2] + [3] * 7
    assert episodes(walks([40])[::4], LAYOUT).tolist() == list(range(10))


@pytest.mark.parametrize(
    ("lengths", "held"),
    [
        ([100] * 5, {100}),
        ([30] * 20, {120}),
        ([1000] * 8, {1000}),
        ([500] * 10, {1000}),
        ([100], {20}),
        ([1], {1}),
        ([1000, 86, 1000, 627, 448, 1000, 839], range(800, 1501)),
        ([900, 3], {3}),
    ],
)
def test_whole_episodes_are_held_out(lengths, held):
    rows = walks(lengths)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        part = Part(rows, Units.of([rows], LAYOUT, settings()), "target", LAYOUT, settings(), generator)
        assert len(part.held) in held
        assert len(part.held) + len(part.kept) == max(2, len(rows))
        kept = set(part.kept.tolist())
        for number, length in enumerate(lengths):
            own = (episodes(rows, LAYOUT) == number).nonzero()[:, 0].tolist()
            assert len(kept.intersection(own)) in (0, length) or len(lengths) == 1
        assert set(part.resample.unique().tolist()) <= set(range(len(part.kept)))
        draws = part.draws(7, generator)
        assert draws.shape == (7, K, part.batch)
        assert set(draws.unique().tolist()) <= kept
        # A member draws from its own resample.
        own = [set(part.kept[resample].tolist()) for resample in part.resample]
        assert all(set(draws[:, k].unique().tolist()) <= own[k] for k in range(K))


def test_the_published_form_is_one_setting():
    found = build(DualDynamicsSettings, {"form": "paper"})
    assert (found.schedule, found.decay, found.latent, found.action_width) == ("blocks", "none", 16, 32)
    assert found.target_encoder == "own"
    ours = build(DualDynamicsSettings, {})
    assert (ours.schedule, ours.decay, ours.latent, ours.action_width) == ("interleaved", "cosine", 32, 128)
    assert build(DualDynamicsSettings, {"form": "paper", "latent": "8", "schedule": "interleaved"}).latent == 8
