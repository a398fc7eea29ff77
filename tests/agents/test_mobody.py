"""MOBODY's policy: golden values of its losses in float64 NumPy, its rollouts, and a whole small run."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from offdyn_agents.algorithms.registry import agent_class, make_agent
from offdyn_agents.engine.networks import member
from offdyn_agents.engine.rollouts import RunView
from offdyn_agents.engine.rows import Layout, pack
from offdyn_agents.engine.settings import build
from offdyn_agents.engine.termination import never
from offdyn_agents.engine.training.module import Budget, Hardware
from offdyn_agents.models.dual.model import DualDynamics, dual_networks
from offdyn_agents.presets import chosen, preset, tuning
from offdyn_agents.runs.runs import train_population
from tests.agents.golden import net, twins
from tests.agents.synthetic import A, S, dataset, make, make_batch, make_params
from tests.agents.test_losses import doubled

LAYOUT = Layout(S, A)
SMALL = {
    "refill_every": 20,
    "source_starts": 60,
    "target_starts": 20,
    "capacity": 400,
    "dara__updates": 5,
    "dara__width": 8,
    "dynamics__updates": 5,
    "dynamics__width": 8,
    "dynamics__latent": 4,
}
SOURCE, TARGET = dataset(400, 0), dataset(120, 1)


def worst(params, s, a):
    return twins(params, s, a).min(axis=0)


def golden_weights(agent, params, batch):
    """w of every row."""
    n = len(batch.rewards) - batch.fake_rows
    c = agent.settings
    s, a = batch.observations.double().numpy()[:n], batch.actions.double().numpy()[:n]
    if c.bc_weight == "paper":
        q = worst(params["critic"], s, np.tanh(net(params["actor"], s)))
        w = np.exp(q / np.abs(q).mean())
    elif c.bc_weight == "code":
        q = worst(params["critic"], s, a)
        w = np.exp(c.temperature * q / np.abs(q).mean())
    elif c.bc_weight == "awr":
        w = np.exp(c.temperature * (worst(params["critic_target"], s, a) - net(params["value"], s)[:, 0]))
    else:
        w = np.ones(n)
    return np.minimum(w, c.weight_clip)


def golden(agent, params, batch):
    c = agent.settings
    s, a, r, s2, m = (np.asarray(part, dtype=np.float64) for part in batch[:5])
    n = len(r) - batch.fake_rows
    pi, pi2 = np.tanh(net(params["actor"], s)), np.tanh(net(params["actor"], s2))
    y = r + c.discount * m * worst(params["critic_target"], s2, pi2)
    found = {"critic_loss": sum(np.mean((y - q) ** 2) for q in twins(params["critic"], s, a))}
    climbed = worst(params["critic"], s, pi)
    if c.bc_weight == "awr":
        ahead = worst(params["critic_target"], s, a) - net(params["value"], s)[:, 0]
        found["value_loss"] = np.mean([(c.expectile if d > 0 else 1 - c.expectile) * d * d for d in ahead])
    w = golden_weights(agent, params, batch)
    each = np.mean(w[:, None] * (pi[:n] - a[:n]) ** 2, axis=1)
    k = batch.source_rows
    shares = (1 - c.target_share) * each[:k].mean() + c.target_share * each[k:].mean()
    found["imitation_loss"] = each.mean() if c.target_share == 0.5 else shares
    lam = c.q_scale / np.abs(climbed).mean()
    found["actor_loss"] = -lam * climbed.mean() + c.bc * found["imitation_loss"]
    found["weight"] = w.mean()
    return found


VARIANTS = [
    {},
    {"bc": 0.05, "q_scale": 1.0},
    {"weight_clip": 1.5},
    {"bc_weight": "code"},
    {"bc_weight": "code", "temperature": 1.0, "weight_clip": 2.0},
    {"bc_weight": "plain"},
    {"target_share": 0.9},
    {"target_share": 1.0, "target_ratio": 0.25, "bc_weight": "code"},
    {"bc_weight": "awr"},
    {"bc_weight": "awr", "expectile": 0.9, "temperature": 0.1},
    {"target_ratio": 0.25, "fake_ratio": 2.0, "discount": 0.5},
]


@pytest.mark.parametrize("overrides", VARIANTS)
def test_losses_equal_their_formulas(overrides):
    agent = make("mobody", **overrides)
    params, batch = doubled(make_params(agent), make_batch(agent, predicted=False))
    loss, metrics = agent.loss(params, batch)
    expected = golden(agent, params, batch)
    for key, value in expected.items():
        np.testing.assert_allclose(float(metrics[key]), value, rtol=1e-6, err_msg=key)
    assert ("value_loss" in metrics) == ("value_loss" in expected)
    total = sum(expected.get(name, 0.0) for name in ("critic_loss", "actor_loss", "value_loss"))
    np.testing.assert_allclose(float(loss), total, rtol=1e-6)


@pytest.mark.parametrize("bc_weight", ["paper", "code", "plain", "awr"])
def test_what_each_part_trains(bc_weight):
    """The actor's gradient is that of -lambda mean Q + bc mean w (pi - a)^2 with lambda and w held fixed."""
    agent = make("mobody", bc_weight=bc_weight)
    params, batch = make_params(agent), make_batch(agent, predicted=False)
    found = torch.func.grad(lambda p: agent.loss({**params, **p}, batch)[0])({n: params[n] for n in agent.networks()})
    expected = golden(agent, params, batch)
    n = len(batch.rewards) - batch.fake_rows
    double = {name: [t.double() for t in tensors] for name, tensors in params.items()}
    s, a = batch.observations.double(), batch.actions.double()
    stored = torch.from_numpy(golden_weights(agent, params, batch))

    def actor(tensors):
        pi = torch.tanh(forward(tensors, s))
        pair = torch.cat([s, pi], dim=-1)
        q = torch.stack([forward([t[k] for t in double["critic"]], pair)[:, 0] for k in range(2)]).amin(0)
        lam = agent.settings.q_scale / q.detach().abs().mean()
        return -lam * q.mean() + agent.settings.bc * (stored * (pi - a)[:n].square().mean(-1)).mean()

    np.testing.assert_allclose(float(actor(double["actor"])), expected["actor_loss"], rtol=1e-6)
    for ours, theirs in zip(found["actor"], torch.func.grad(actor)(double["actor"]), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=2e-3, atol=1e-5)

    def critic(tensors):
        pair = torch.cat([s, a], dim=-1)
        y = torch.as_tensor(agent.targets(params, batch)).double()
        return sum((y - forward([t[k] for t in tensors], pair)[:, 0]).square().mean() for k in range(2))

    for ours, theirs in zip(found["critic"], torch.func.grad(critic)(double["critic"]), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=2e-3, atol=1e-3)


def forward(tensors, x):
    for i in range(0, len(tensors), 2):
        x = x @ tensors[i] + tensors[i + 1]
        if i < len(tensors) - 2:
            x = torch.relu(x)
    return x


def test_weights_stay_finite_where_values_are_huge():
    agent = make("mobody", bc_weight="awr")
    params, batch = make_params(agent), make_batch(agent, predicted=False)
    params["critic_target"] = [1e3 * tensor for tensor in params["critic_target"]]
    loss, metrics = agent.loss(params, batch)
    assert torch.isfinite(loss)
    assert float(metrics["weight"]) <= 100.0 * (1 + 1e-5)


def test_rows_of_a_batch():
    assert tuple(make("mobody", batch_size=256).rows()) == (128, 128, 64)
    assert tuple(make("mobody", batch_size=256, target_ratio=0.09375).rows()) == (128, 12, 64)


def test_a_population_is_its_runs():
    agent = make("mobody", bc_weight="awr")
    params, batch = make_params(agent, runs=3), make_batch(agent, runs=3, predicted=False)
    losses, metrics = agent.loss(params, batch)
    for run in range(3):
        alone = {key: member(tensors, run) for key, tensors in params.items()}
        parts = [part[run] if isinstance(part, torch.Tensor) else part for part in batch]
        loss, own = agent.loss(alone, type(batch)(*parts))
        torch.testing.assert_close(losses[run], loss, rtol=1e-4, atol=1e-5)
        for key in own:
            torch.testing.assert_close(metrics[key][run], own[key], rtol=1e-4, atol=1e-5)


def dynamics(spread=0.0):
    """Members that agree, moved apart by `spread` at their last layer."""
    networks = dual_networks(make("mobody", **SMALL).settings.dynamics, S, A)
    generator = torch.Generator().manual_seed(1)
    nets = {}
    for name, network in networks.items():
        one = [0.5 * torch.randn(shape[1:], generator=generator) for shape in network.shapes()]
        nets[name] = [tensor.expand(7, *tensor.shape).clone() for tensor in one]
    nets["transition"][-1] += spread * torch.arange(7.0)[:, None, None]
    return DualDynamics(nets, torch.arange(5), torch.zeros(7), torch.zeros(S), torch.ones(S))


def view(agent, model, terminated=never):
    params = {name: net.initial(torch.Generator().manual_seed(2)) for name, net in agent.networks().items()}
    return RunView(0, 0, params, model, pack(SOURCE, "s"), pack(TARGET, "t"), LAYOUT, terminated)


def test_refill():
    agent, model = make("mobody", **SMALL), dynamics()
    run = view(agent, model)
    rows = agent.refill(run, torch.Generator().manual_seed(0))
    again = agent.refill(run, torch.Generator().manual_seed(0))
    assert torch.equal(rows, again)
    assert rows.shape == (60 + 20 + 60, LAYOUT.width)
    s, a, following, _, continues = LAYOUT.split(rows)
    # From source states, from target states, then the same source states with the actions of the data.
    known = {tuple(row) for row in LAYOUT.split(run.source)[0].tolist()}
    assert all(tuple(row) in known for row in s[:60].tolist())
    own = {tuple(row) for row in LAYOUT.split(run.target)[0].tolist()}
    assert all(tuple(row) in own for row in s[60:80].tolist())
    assert torch.equal(s[:60], s[80:])
    torch.testing.assert_close(a[:80], agent.act(run.params, s[:80]))
    pairs = {tuple(row) for row in torch.cat(LAYOUT.split(run.source)[:2], dim=-1).tolist()}
    assert all(tuple(row) in pairs for row in torch.cat([s, a], dim=-1)[80:].tolist())
    # Members agree: samples are their mean in the target, and nothing is penalised.
    torch.testing.assert_close(following, model.means(s, a, "target")[0])
    assert not torch.allclose(following, model.means(s, a, "source")[0])
    assert (continues == 1.0).all()
    assert run.report["source_1_kept"] == run.report["relabelled_kept"] == 1.0
    assert len(agent.refill(view(make("mobody", **SMALL, relabel=False), model), torch.Generator())) == 140
    agent = make("mobody", **SMALL, relabel=False)
    assert len(agent.refill(view(agent, model), torch.Generator())) == 80


def test_the_penalty_and_the_limit():
    # Means 3 k apart in each of 5 dimensions: u = 9 sqrt(5) = 20.1 everywhere; without the last one 9 * 2 = 18. With a
    # change of 2 in each dimension their root mean square is 4.5 changes.
    model = dynamics(spread=3.0)
    rows = {}
    for beta in (0.0, 0.5):
        agent = make("mobody", **SMALL, beta=beta, uncertainty="paper", uncertainty_limit="inf")
        rows[beta] = LAYOUT.split(agent.refill(view(agent, model), torch.Generator().manual_seed(0)))[3]
    np.testing.assert_allclose((rows[0.0] - rows[0.5]).numpy(), 0.5 * 9 * np.sqrt(5), rtol=1e-3)
    limits = {"paper": 9 * np.sqrt(5), "code": 18.0, "changes": 4.5}
    cases = [(limit + more, form, 140 if more > 0 else 0) for form, limit in limits.items() for more in (-0.1, 0.1)]
    model = replace(model, change=torch.full((S,), 2.0))
    for limit, form, kept in cases:
        agent = make("mobody", **SMALL, uncertainty_limit=limit, uncertainty=form)
        run = view(agent, model)
        assert len(agent.refill(run, torch.Generator())) == kept
        assert run.report["target_1_kept"] == (1.0 if kept else 0.0)
        assert run.report["target_1_uncertainty"] == pytest.approx(limits[form], rel=1e-3)


def test_rollouts_end_where_the_robot_falls():
    agent, model = make("mobody", **SMALL, source_length=3, target_length=2, relabel=False), dynamics()
    whole = LAYOUT.split(agent.refill(view(agent, model), torch.Generator().manual_seed(0)))[2]
    level = whole[:60, 0].median()
    run = view(agent, model, lambda observations: observations[..., 0] > level)
    _, _, following, _, continues = LAYOUT.split(agent.refill(run, torch.Generator().manual_seed(0)))
    fallen = following[:, 0] > level
    assert 0 < int(fallen.sum()) < len(fallen)
    assert torch.equal(continues == 0.0, fallen)
    s = LAYOUT.split(agent.refill(run, torch.Generator().manual_seed(0)))[0]
    # The second step starts where the first one ended, except where the robot fell.
    second = following[:60][~fallen[:60]]
    assert torch.equal(s[60 : 60 + len(second)], second)


def train(folder, seeds=(0, 1), budget=None, cache=None, **overrides):
    agent = make("mobody", **(SMALL | overrides))
    budget = budget or Budget(50, 50, 15)
    return train_population(
        agent, seeds, SOURCE, TARGET, budget, Hardware(compiled=False), folder, quiet=True, cache=cache
    )


def weights(folder, seed):
    return load_file(folder / "seeds" / str(seed) / "weights.safetensors")


def test_a_run_and_its_company(tmp_path):
    train(tmp_path / "both", cache=tmp_path / "stages")
    alone = train(tmp_path / "alone", seeds=(1,), cache=tmp_path / "stages")
    ours, theirs = weights(tmp_path / "both", 1), weights(tmp_path / "alone", 1)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    lines = [json.loads(line) for line in (tmp_path / "alone" / "rollouts.jsonl").read_text().splitlines()]
    assert [line["updates"] for line in lines] == [0, 20, 40]
    assert {"source_1_kept", "relabelled_uncertainty"} <= set(lines[0])
    assert alone.supply.columns is not None
    assert float(alone.supply.columns[0].rewards.abs().max()) > 0.0


def test_an_interrupted_run_ends_as_it_would_have(tmp_path):
    stages = tmp_path / "stages"
    train(tmp_path / "whole", seeds=(0,), cache=stages)
    with pytest.raises((KeyboardInterrupt, SystemExit)), pytest.MonkeyPatch.context() as patch:
        from offdyn_agents.algorithms.mobody import MOBODY

        real = MOBODY.refill

        def dying(self, run, generator):
            rows = real(self, run, generator)
            if run.updates == 40:
                raise KeyboardInterrupt
            return rows

        patch.setattr(MOBODY, "refill", dying)
        train(tmp_path / "broken", seeds=(0,), cache=stages)
    train(tmp_path / "broken", seeds=(0,), cache=stages)
    ours, theirs = weights(tmp_path / "broken", 0), weights(tmp_path / "whole", 0)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_rewards_are_left_alone_without_dara(tmp_path):
    assert not train(tmp_path, seeds=(0,), budget=Budget(1), dara__weight=0.0).supply.columns


@pytest.mark.parametrize("robot", ["hopper", "halfcheetah", "walker2d", "ant"])
def test_preset(robot):
    kind = make("mobody").settings_class
    settings = build(kind, preset(agent_class("mobody"), robot))
    assert (settings.beta, settings.bc, settings.dynamics.loss_weights) == (1.0, 1.0, "code")
    assert (settings.bc_weight, settings.target_share, settings.decay) == ("code", 0.9, "cosine")
    assert build(kind).dynamics.loss_weights == "paper"
    assert tuning(agent_class("mobody"))["tuning_evaluations"] == 99


def test_published_constants():
    """Losses are held against formulas with the settings' own numbers; these are the numbers."""
    agent = make_agent("mobody", "halfcheetah", 17, 6, {"form": "paper"})
    settings, dara, dynamics = agent.settings, agent.settings.dara, agent.settings.dynamics
    counts = agent.rows()
    assert (counts.source, counts.target, counts.fake) == (128, 128, 64)
    assert (settings.discount, settings.polyak, settings.q_scale, settings.bc) == (0.99, 0.005, 2.5, 1.0)
    assert (settings.temperature, settings.weight_clip) == (3.0, 100.0)
    # In these eight the suite's own form departs from it.
    assert (settings.beta, settings.uncertainty, settings.uncertainty_limit) == (0.1, "paper", 10.0)
    assert (settings.bc_weight, settings.target_share, settings.decay) == ("paper", 0.5, "none")
    assert (dynamics.form, dynamics.loss_weights) == ("paper", "paper")
    assert (settings.source_starts, settings.target_starts, settings.refill_every) == (50_000, 2000, 5000)
    assert (settings.source_length, settings.target_length, settings.relabel) == (1, 1, True)
    assert agent.capacity == 1_000_000
    assert (dara.form, dara.updates, dara.batch_size, dara.width, dara.learning_rate) == ("paper", 5000, 128, 256, 3e-4)
    assert (dara.noise, dara.clip, dara.weight) == (1.0, 10.0, 0.1)
    assert (dynamics.members, dynamics.elites, dynamics.latent) == (7, 5, 16)
    assert (dynamics.width, dynamics.action_width, dynamics.batch_size) == (256, 32, 256)
    assert (dynamics.learning_rate, dynamics.target_passes, dynamics.source_share) == (1e-3, 3, 1.0)
    assert (dynamics.patience, dynamics.improvement, dynamics.lambda_rep) == (5, 0.01, 1.0)
    assert (dynamics.representation_loss, dynamics.cycle_loss, dynamics.structure) == (True, True, "dual")


def test_fewer_settings_than_the_published_form_are_not_what_was_published():
    """The four that name its dynamics and its uncertainty leave cloning and rates as ours are."""
    four = {"dynamics.form": "paper", "uncertainty": "paper", "uncertainty_limit": "10", "beta": "0.1"}
    ours, published = (make_agent("mobody", "hopper", 11, 3, more).settings for more in (four, {"form": "paper"}))
    named = ("bc_weight", "target_share", "decay")
    assert all(getattr(ours, name) != getattr(published, name) for name in named)
    assert replace(ours, form="paper", dynamics=published.dynamics, **{n: getattr(published, n) for n in named}) == (
        published
    )


@pytest.mark.parametrize(("unit", "beta", "limit"), [("changes", 1.0, 1.0), ("paper", 0.1, 10.0), ("code", 0.1, 10.0)])
def test_weight_and_limit_of_u_belong_to_its_unit(unit, beta, limit):
    def chosen_by(**more):
        found = make_agent("mobody", "hopper", 11, 3, {"uncertainty": unit, **more}).settings
        return found.beta, found.uncertainty_limit

    assert chosen_by() == (beta, limit)
    assert chosen_by(beta="0") == (0.0, limit)
    assert chosen_by(uncertainty_limit="inf") == (beta, np.inf)


def test_the_code_has_its_own_classifiers():
    forms = {
        form: make_agent("mobody", "hopper", 11, 3, {"form": form}).settings for form in ("suite", "paper", "code")
    }
    assert {form: found.dara.form for form, found in forms.items()} == {
        "suite": "paper",
        "paper": "paper",
        "code": "code",
    }


@pytest.mark.parametrize(("limit", "told"), [(0.0, True), (100.0, False)])
def test_a_refill_that_keeps_nearly_nothing_is_told_of(limit, told, capsys):
    agent = make("mobody", **SMALL, uncertainty_limit=limit)
    rows = agent.refill(view(agent, dynamics(spread=3.0)), torch.Generator())
    err = capsys.readouterr().err
    assert (len(rows), err.count("\n")) == ((0, 1) if told else (140, 0))
    assert not told or ("0 of 140 rows" in err and "uncertainty_limit=0 (uncertainty=changes)" in err)


def test_rates_fall_unless_the_published_form_is_asked_for():
    assert make("mobody").annealed == ("critic", "actor")
    assert make("mobody", decay="none").annealed == ()
    published = chosen(agent_class("mobody"), "walker2d", overrides={"form": "paper"})
    assert (published.decay, published.target_share, published.bc_weight) == ("none", 0.5, "paper")
