"""OTDF: what transport costs, which rows it keeps, and the target's behaviour beside the actor."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from offdyn_agents.algorithms.iql import IQL
from offdyn_agents.algorithms.registry import make_agent
from offdyn_agents.algorithms.rowwise.otdf import OTDF, relative
from offdyn_agents.engine.rows import Layout, RowCounts
from offdyn_agents.models.behaviour_cvae import CVAE, VARIANCE, fit_behaviour
from offdyn_agents.models.transport import TransportSettings, potentials, row_costs, transport_costs
from offdyn_agents.testing.conformance import same, train, weights
from offdyn_agents.testing.data import A, S
from tests.agents.planted import context, good_rows, good_share, planted


def packed(s, a, following):
    parts = [torch.as_tensor(part, dtype=torch.float32)[:, None] for part in (s, a, following)]
    return torch.cat([*parts, torch.zeros(len(s), 1), torch.ones(len(s), 1)], dim=1)


def ranks(numbers):
    return numbers.argsort().argsort().double()


def correlation(one, other):
    return float(torch.corrcoef(torch.stack([ranks(one), ranks(other)]))[0, 1])


def test_the_coupling_of_two_rows():
    """G4."""
    cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    logits = -cost / 0.5
    g = potentials(logits)
    assert torch.allclose(0.5 * (logits + g).softmax(1), torch.tensor([[0.440399, 0.059601], [0.059601, 0.440399]]))
    assert torch.allclose(-0.5 * row_costs(logits, g), torch.tensor([-0.119203] * 2))


@pytest.mark.parametrize(("form", "cost"), [("row", 0.119203), ("mass", 0.059601)])
def test_the_cost_of_two_rows(form, cost):
    """G4 on two rows that are at right angles; public code has half of it, as each row has half of the mass."""
    rows = packed([1.0, 0.0], [0.0, 1.0], [0.0, 0.0])
    found = transport_costs(TransportSettings(epsilon=1.0, form=form), context(rows, rows))
    assert torch.allclose(found, torch.tensor([cost] * 2), atol=1e-6)


def test_masses_against_plain_iterations_in_float64():
    """Costs of which a plain kernel in float32 would keep nothing: exp(-400) is 0."""
    generator = torch.Generator().manual_seed(0)
    logits = -400.0 * torch.rand(40, 30, generator=generator)
    g, exact = potentials(logits, 2000, 0.0), torch.zeros(30, dtype=torch.float64)
    for _ in range(5000):
        f = -(logits.double() + exact).logsumexp(1) - np.log(40)
        exact = -(logits.double() + f[:, None]).logsumexp(0) - np.log(30)
    coupling = (logits + g).softmax(1) / 40
    assert float((coupling.sum(0) - 1 / 30).abs().max()) < 1e-3
    torch.testing.assert_close(row_costs(logits, g).double(), row_costs(logits.double(), exact), rtol=2e-2, atol=0.5)


def test_the_form_of_public_code_punishes_a_short_last_chunk():
    """F6 (docs/methods/README.md): mass times distance."""
    given = planted(rows=250, target=60)
    # Chunks of 100, 100 and 50 rows.
    right, mass = (transport_costs(TransportSettings(chunk=100, form=f), given) for f in ("row", "mass"))
    last = torch.randperm(250, generator=torch.Generator().manual_seed(0))[200:]
    ratio = mass / right
    assert torch.allclose(ratio[last], torch.tensor(1 / 50))
    assert torch.allclose(ratio.sort().values[:200], torch.tensor(1 / 100))


def test_chunks_and_a_cap_of_rows_leave_the_ranking():
    given = planted(target=100)
    whole = transport_costs(TransportSettings(), given)
    # Of a few hundred rows a chunk is another sample of the source each time: .96 and less.
    for settings in (
        TransportSettings(chunk=5000),
        TransportSettings(chunk=2500),
        TransportSettings(chunk=5000, rows=5000),
    ):
        assert correlation(whole, transport_costs(settings, given)) > 0.99
    turned = torch.arange(10_000).flip(0)
    other = transport_costs(TransportSettings(chunk=5000), replace(given, source=given.source[turned]))
    assert correlation(whole[turned], other) > 0.99


def test_a_row_as_far_from_all_targets_is_not_among_the_best():
    """F7 (docs/methods/README.md): float16 rounds each of its couplings to 0, and with them its cost."""
    rng = np.random.default_rng(1)
    s, a = rng.uniform(0.5, 1.0, (2, 400))
    target = packed(s, a, np.zeros(400))
    s, a = rng.uniform(0.5, 1.0, (2, 199))
    # Orthogonal to all targets.
    source = torch.cat([packed(s, a, 0.1 * s), packed([0.0], [0.0], [1.0])])
    costs = transport_costs(TransportSettings(), context(source, target))
    assert float(costs[-1]) == pytest.approx(1.0, abs=1e-5)
    assert int(costs.argmax()) == 199


@pytest.mark.parametrize(("unit", "nearer"), [(1.0, "right positions"), (100.0, "right velocities")])
def test_the_largest_units_decide(unit, nearer):
    """F9 (docs/methods/README.md): the wrong place with the target's velocities, the right one with turned velocities.

    In units in which positions and velocities are of one size the former are farther (cosine 0, of the latter .8).
    Costs are of raw units: velocities a hundred times as large leave nothing of the place.
    """
    layout, generator = Layout(3, 1), torch.Generator().manual_seed(0)

    def rows(count, place, velocity):
        states = torch.tensor([place, *(unit * part for part in velocity)]) + 0.01 * torch.randn(
            count, 3, generator=generator
        )
        return layout.join(states, torch.zeros(count, 1), states, torch.zeros(count), torch.zeros(count) > 0)

    kinds = {"right velocities": rows(50, -1.0, (1.0, 0.0)), "right positions": rows(50, 1.0, (0.6, 0.8))}
    given = replace(context(torch.cat(list(kinds.values())), rows(100, 1.0, (1.0, 0.0))), layout=layout)
    costs = dict(zip(kinds, transport_costs(TransportSettings(), given).split(50), strict=True))
    other = next(name for name in kinds if name != nearer)
    assert float(costs[nearer].max()) < float(costs[other].min())


def test_identical_sets_cost_alike():
    source = planted(rows=1000).source
    target = source[good_rows(1000)]
    alike = transport_costs(TransportSettings(), context(target, target))
    other = transport_costs(TransportSettings(), context(source, target))
    assert float(alike.std()) < 0.5 * float(other.std())
    assert float(alike.mean()) < 0.5 * float(other.mean())


def test_costs_are_found_once_for_all_seeds(tmp_path):
    sizes = {"rows": 300, "target": 50, "cache": tmp_path}
    first = transport_costs(TransportSettings(), planted((0, 1), **sizes))
    files = list(tmp_path.glob("*.safetensors"))
    assert len(files) == 1
    written = files[0].stat().st_mtime_ns
    assert torch.equal(transport_costs(TransportSettings(), planted((7,), **sizes)), first)
    assert files[0].stat().st_mtime_ns == written and len(list(tmp_path.iterdir())) == 1


def test_relative_costs():
    """G5; and rows that all cost the same weigh 1."""
    found = relative(-torch.tensor([[0.1, 0.2, 0.5], [0.3, 0.3, 0.3]]))
    assert torch.allclose(found, torch.tensor([[0.0, -0.25, -1.0], [0.0, 0.0, 0.0]]))
    assert torch.allclose(found[0].exp(), torch.tensor([1.0, 0.778801, 0.367879]))


def test_planted_rows():
    """Share of good rows in the nearer half of the source: measured .92, on raw cosines."""
    assert good_share(-transport_costs(TransportSettings(), planted())) > 0.88


def test_published_constants():
    own, paper, code = (
        make_agent("otdf", "hopper", 11, 3, {"form": form}).settings for form in ("suite", "paper", "code")
    )
    assert (own.keep_share, own.sharpness, own.regularisation, own.samples) == (0.8, 1.0, 0.5, 10)
    assert int(own.keep_share * 128) == 102
    transport, behaviour = own.transport, own.behaviour
    assert (transport.chunk, transport.epsilon, transport.iterations, transport.tolerance) == (10_000, 0.05, 100, 1e-3)
    assert (behaviour.updates, behaviour.batch_size, behaviour.width) == (10_000, 128, 750)
    assert (behaviour.learning_rate, behaviour.kl, VARIANCE) == (1e-3, 0.5, 0.4 / 4)
    assert (own.actions, own.advantage, transport.form) == ("mean", "row", "row")
    assert (code.actions, code.advantage, code.transport.form) == ("sample", "mean", "mass")
    own_of_ours = {name: getattr(own, name) for name in ("value_bounds", "reward_scale", "density_every")}
    assert replace(paper, form="suite", **own_of_ours) == own
    assert (own.density_every, paper.density_every, code.density_every) == (4, 1, 1)
    assert (code.value_bounds, code.reward_scale) == (paper.value_bounds, paper.reward_scale) == ("none", "none")


def test_neutral_settings_are_iql(tmp_path):
    train(IQL, tmp_path / "iql")
    train(OTDF, tmp_path / "otdf", settings={"keep_share": 1.0, "sharpness": 0.0, "regularisation": 0.0})
    same(weights(tmp_path / "otdf", 0), weights(tmp_path / "iql", 0))


def agent_of(**settings):
    return OTDF(OTDF.settings_class(**{"width": 8, "density_every": 1} | settings), S, A)


def drawn(agent, rows=6, source=4, lead=(2,)):
    generator = torch.Generator().manual_seed(3)
    layout = Layout(S, A, agent.columns)
    table = torch.randn(*lead, rows, layout.width + 1, generator=generator)
    noise = torch.randn(*lead, rows, agent.noise_width, generator=generator)
    return layout.batch(table, None, RowCounts(source, rows - source), noise)


def parameters(agent, runs=2):
    generator = torch.Generator().manual_seed(4)
    nets = agent.networks() | {f"behaviour_{name}": net for name, net in agent._behaviour.networks().items()}
    return {
        name: [0.3 * torch.randn(runs, *shape, generator=generator) for shape in net.shapes()]
        for name, net in nets.items()
    }


def test_the_actors_term_at_every_so_many_rows_estimates_that_of_all():
    """Batches that begin with every row in turn: the mean of the estimates is the term of all rows."""
    agent, some = agent_of(samples=3), agent_of(samples=3, density_every=3)
    batch, params = drawn(agent), parameters(agent)
    found = torch.stack(
        [
            some.actor_extra(
                params,
                batch._replace(observations=batch.observations.roll(shift, -2), noise=batch.noise.roll(shift, -2)),
            )
            for shift in range(3)
        ]
    )
    assert float(found.std(0).min()) > 0.0
    torch.testing.assert_close(found.mean(0), agent.actor_extra(params, batch))


@pytest.mark.parametrize("actions", ["mean", "sample"])
def test_the_actors_term(actions):
    agent = agent_of(samples=3, actions=actions, regularisation=0.5)
    batch, params = drawn(agent), parameters(agent)
    found = agent.actor_extra(params, batch)
    # One run by hand, row by row and sample by sample.
    own = {name: [tensor[1] for tensor in tensors] for name, tensors in params.items()}

    def net(name, x):
        *hidden, weight, bias = own[name]
        for index in range(0, len(hidden), 2):
            x = torch.relu(x @ hidden[index] + hidden[index + 1][0])
        return x @ weight + bias[0]

    logs = []
    for s, noise in zip(batch.observations[1], batch.noise[1], strict=True):
        inner = net("actor", s)
        if actions == "sample":
            inner = inner + net("spread", s).exp() * noise[-A:]
        a, samples = torch.tanh(inner), []
        mean, log_std = net("behaviour_encoder", torch.cat([s, a])).chunk(2)
        for k in range(3):
            z = mean + log_std.clamp(-4, 15).exp() * noise[k * 2 * A : (k + 1) * 2 * A]
            decoded = torch.tanh(net("behaviour_decoder", torch.cat([s, z])))
            samples.append(torch.distributions.Normal(decoded, VARIANCE**0.5).log_prob(a).sum())
        logs.append(torch.stack(samples).logsumexp(0))
    # The cloning error is a mean over dimensions here, a sum in public code: lambda is for the sum.
    torch.testing.assert_close(found[1], -0.5 / A * torch.stack(logs).mean())


def test_advantages_of_public_code_choose_nothing():
    """F5 (docs/methods/README.md): a column of weights times a row of errors."""
    w, e = torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0])
    right, faulty = (agent_of(advantage=form).actor_loss(w, e, 1) for form in ("row", "mean"))
    assert float(right) == 3.5
    assert float(faulty) == float((w[:, None] * e).mean()) == 3.0


def test_density_of_actions():
    """A decoder that knows nothing and an encoder at its prior: the density is the decoder's, whatever the samples."""
    model = CVAE(2, 1, 4)
    params = {name: [torch.zeros(shape) for shape in net.shapes()] for name, net in model.networks().items()}
    noise = torch.randn(5, 10 * model.latent, generator=torch.Generator().manual_seed(0))
    y = torch.linspace(-1, 1, 5)[:, None]
    expected = torch.distributions.Normal(0.0, VARIANCE**0.5).log_prob(y)[:, 0]
    torch.testing.assert_close(model.log_density(params, torch.zeros(5, 2), y, noise), expected)
    added = model.log_density(params, torch.zeros(5, 2), y, noise, importance=False)
    torch.testing.assert_close(added, expected + np.log(10))


def test_behaviour_is_that_of_the_target():
    """A target whose actions follow the state, a source whose actions go against it."""
    rng = np.random.default_rng(2)
    s = rng.uniform(-1, 1, 400)
    noise = 0.05 * rng.standard_normal(400)
    source, target = packed(s, np.tanh(-s + noise), s), packed(s, np.tanh(s + noise), s)
    from offdyn_agents.models.behaviour_cvae import CVAESettings, behaviour

    settings = CVAESettings(updates=200, width=32, batch_size=64)
    found = fit_behaviour(settings, context(source, target), merged=False).sound()[0]
    model = behaviour(settings, 1, 1)
    draws = torch.randn(200, 10 * model.latent, generator=torch.Generator().manual_seed(0))
    x = torch.linspace(-1, 1, 200)[:, None]
    right, wrong = (model.log_density(found, x, torch.tanh(k * x), draws).mean() for k in (1.0, -1.0))
    assert float(right) > float(wrong) + 0.5


def test_weights_reach_the_losses():
    agent = agent_of(keep_share=0.5, regularisation=0.0, sharpness=2.0)
    batch = drawn(agent)
    terms = agent.terms({}, batch)
    cost = -batch.columns["scores"]
    assert cost.shape == (2, 4)
    assert torch.equal(terms.scores, -cost)
    least, most = cost.amin(-1, keepdim=True), cost.amax(-1, keepdim=True)
    torch.testing.assert_close(terms.weights, torch.exp(-2.0 * (cost - least) / (most - least)))
