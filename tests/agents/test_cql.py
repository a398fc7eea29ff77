"""CQL: the conservative term against numbers by hand, its switches, and that without it there is SAC."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from offdyn_agents.algorithms.cql import CQL, CQLSettings
from offdyn_agents.algorithms.returns import FACTS
from offdyn_agents.algorithms.sac import SAC, SACSettings
from offdyn_agents.engine.networks import member
from offdyn_agents.engine.settings import build
from offdyn_agents.presets import preset
from offdyn_agents.testing.conformance import train
from offdyn_envs.errors import OffDynError
from tests.agents.golden import net, twins
from tests.agents.synthetic import A, S, make_batch, make_params
from tests.agents.test_sac import normal_log, run_of

PLAIN = {"networks": "plain", "normalise": False}


def make_cql(action_dim=A, **settings):
    return CQL(build(CQLSettings, {"width": 16, "batch_size": 8, "conservative_every": 1, **settings}), S, action_dim)


def params_of(agent, runs=None):
    """Networks, and moments that are not 0 and 1."""
    params = make_params(agent, runs=runs)
    lead = () if runs is None else (runs,)
    generator = torch.Generator().manual_seed(5)
    params["moments"] = [
        torch.randn(*lead, 1, S, generator=generator),
        0.5 + torch.rand(*lead, 1, S, generator=generator),
    ]
    return params


def test_the_conservative_term_where_all_values_are_0():
    """G12: 10 actions of density 1/2 and 20 of density 1/e: ln(20 + 20 e), times 10."""
    agent = CQL(build(CQLSettings, PLAIN | {"batch_size": 4, "width": 4, "conservative_every": 1}), S, 1)
    params = {name: [0.0 * t for t in tensors] for name, tensors in make_params(make_cql(**PLAIN)).items()}
    params["critic"] = [torch.zeros(2, *shape[1:]) for shape in agent.networks()["critic"].shapes()]
    batch = make_batch(make_cql(**PLAIN, batch_size=4), predicted=False)
    batch = batch._replace(actions=batch.actions[..., :1], noise=torch.zeros(4, agent.noise_width))
    # Two critics.
    agent._samples = lambda *_: (
        torch.zeros(4, 30, 1),
        torch.cat([torch.full((4, 10), -math.log(2.0)), torch.full((4, 20), -1.0)], dim=1),
    )
    assert float(agent.conservative(params, batch)) * 10.0 / 2.0 == pytest.approx(43.0899, abs=1e-4)


@pytest.mark.parametrize("settings", [PLAIN, {"normalise": False}, {"temperature": 2.5}, {"conservative_on": "source"}])
def test_the_conservative_term_equals_a_sum_by_hand(settings):
    agent = make_cql(**settings)
    params, batch = params_of(agent), make_batch(agent, predicted=False)
    batch = agent._seen(params, batch)
    s, a, s2, noise = (
        part.double().numpy() for part in (batch.observations, batch.actions, batch.next_observations, batch.noise)
    )
    rows, heat = batch.source_rows if "conservative_on" in settings else len(s), agent.settings.temperature
    parts = []
    for i in range(rows):
        normals = noise[i, 2 * A :].reshape(30, A)
        terms = []
        for k in range(30):
            if k < 10:
                action = np.array([math.erf(x / math.sqrt(2.0)) for x in normals[k]])
                density = A * math.log(0.5)
            else:
                out = net(params["actor"], (s if k < 20 else s2)[i : i + 1])[0]
                log_std = out[A:]
                if agent.deep:
                    log_std = float(params["log_std_scale"][0]) * log_std + float(params["log_std_offset"][0])
                log_std = np.clip(log_std, -20.0, 2.0)
                u = out[:A] + np.exp(log_std) * normals[k]
                action = np.tanh(u)
                slope = np.log(4.0) - 2.0 * np.logaddexp(u, -u)
                density = (normal_log(u, out[:A], np.exp(log_std)) - slope).sum()
            terms.append(twins(params["critic"], s[i : i + 1], action[None])[:, 0] - density)
        high = heat * np.logaddexp.reduce(np.stack(terms) / heat, axis=0)
        parts.append((high - twins(params["critic"], s[i : i + 1], a[i : i + 1])[:, 0]).sum())
    np.testing.assert_allclose(float(agent.conservative(params, batch)), np.mean(parts), rtol=1e-4)


def test_the_term_of_every_so_many_rows_has_the_expectation_of_all():
    """Batches that begin with every row in turn: the mean of the estimates is the term of all rows."""
    agent, some = make_cql(), make_cql(conservative_every=4)
    params, batch = params_of(agent), make_batch(agent, predicted=False)
    names = ("observations", "actions", "next_observations", "noise")
    found = []
    for shift in range(4):
        rolled = {name: getattr(batch, name).roll(shift, -2) for name in names}
        found.append(float(some.conservative(params, batch._replace(**rolled))))
    assert np.std(found) > 0.0
    np.testing.assert_allclose(np.mean(found), float(agent.conservative(params, batch)), rtol=1e-5)


@pytest.mark.parametrize("backup", [True, False])
def test_without_its_weight_it_is_sac(backup):
    shared = {"width": 16, "batch_size": 8, "deterministic_backup": backup}
    sac, agent = SAC(build(SACSettings, shared), S, A), make_cql(**PLAIN, weight=0.0, deterministic_backup=backup)
    assert sac.noise_width == agent.noise_width
    params, batch = make_params(sac), make_batch(sac, predicted=False)
    params["alpha"] = [torch.tensor(-0.7)]
    # Within both limits of the standard deviation.
    params["actor"][-2:] = [0.1 * tensor for tensor in params["actor"][-2:]]
    ours, theirs = agent.loss(params, batch), sac.loss(params, batch)
    assert torch.equal(ours[0], theirs[0])
    assert all(torch.equal(ours[1][name], theirs[1][name]) for name in SAC.metrics)


def test_the_weighted_term_is_added():
    agent, plain = make_cql(weight=3.0), make_cql(weight=0.0)
    params, batch = params_of(agent), make_batch(agent, predicted=False)
    loss, metrics = agent.loss(params, batch)
    without, _ = plain.loss(params, batch)
    torch.testing.assert_close(loss, without + 3.0 * metrics["conservative"])


def test_the_conservative_term_moves_the_critics_alone():
    agent = make_cql()
    params = params_of(agent)
    batch = agent._seen(params, make_batch(agent, predicted=False))
    own = {name: params[name] for name in agent.networks()}
    gradients = torch.func.grad(lambda p: agent.conservative(params | p, batch))(own)
    for name, tensors in gradients.items():
        assert any(bool((t != 0).any()) for t in tensors) == (name == "critic"), name


def test_numbers_of_uniform_actions_are_uniform():
    agent = make_cql(batch_size=200)
    batch = make_batch(agent, predicted=False)
    actions, densities = agent._samples(
        params_of(agent), batch.observations, batch.next_observations, batch.noise[..., 2 * A :]
    )
    assert actions.shape == (200, 30, A) and densities.shape == (200, 30)
    shares = actions[:, :10].flatten().histc(4, -1.0, 1.0) / (200 * 10 * A)
    torch.testing.assert_close(shares, torch.full((4,), 0.25), rtol=0.0, atol=0.03)
    assert bool((densities[:, :10] == -A * math.log(2.0)).all())
    # 32 |A| numbers a row.
    assert agent.noise_width == 32 * A


@pytest.mark.parametrize("settings", [{}, {"reward_scale": "returns"}, {"conservative_on": "source", **PLAIN}])
def test_a_population_is_its_runs(settings):
    agent = make_cql(**settings)
    params, batch = params_of(agent, runs=3), make_batch(agent, runs=3, predicted=False)
    losses, metrics = agent.loss(params, batch)
    for run in range(3):
        loss, own = agent.loss({key: member(t, run) for key, t in params.items()}, run_of(batch, run))
        torch.testing.assert_close(losses[run], loss, rtol=1e-4, atol=1e-4)
        for key in agent.metrics:
            torch.testing.assert_close(metrics[key][run], own[key], rtol=1e-3, atol=1e-4)


def test_initial_networks_are_corls():
    agent = CQL(build(CQLSettings, preset(CQL, form="paper")), 11, 3)
    networks, generator = agent.networks(), torch.Generator().manual_seed(0)
    assert networks["critic"].sizes == (14, 256, 256, 256, 1) and networks["actor"].sizes == (11, 256, 256, 256, 6)
    critic = networks["critic"].initial(generator)
    for weight in critic[2:6:2]:
        for matrix in weight:
            torch.testing.assert_close(matrix @ matrix.T, 2.0 * torch.eye(256), rtol=0.0, atol=1e-4)
    assert [float(matrix.norm()) for matrix in critic[6]] == pytest.approx([0.01, 0.01])
    assert not any(bool(bias.any()) for bias in critic[1::2])
    actor = networks["actor"].initial(generator)
    assert float(actor[-2].abs().max()) <= 0.01 * math.sqrt(6.0 / 262) and not bool(actor[-1].any())
    assert float(actor[1].abs().max()) > 0.0
    again = networks["critic"].initial(torch.Generator().manual_seed(0))
    assert all(torch.equal(one, other) for one, other in zip(critic, again, strict=True))
    # The policy's spread at the start: e^-1.
    params = {
        name: network.initial(generator) for name, network in networks.items() if name.startswith(("actor", "log"))
    }
    _, log_std = agent.law(params, torch.randn(5, 11, generator=generator))
    torch.testing.assert_close(log_std, torch.full((5, 3), -1.0), rtol=0.0, atol=0.05)


def test_the_actor_alone_is_as_shallow_as_the_other_agents():
    short, corl = (CQL(build(CQLSettings, preset(CQL, form=form)), 11, 3).networks() for form in ("", "paper"))
    assert short["actor"] == dataclasses.replace(corl["actor"], sizes=(11, 256, 256, 6))
    assert {name for name in corl if short[name] != corl[name]} == {"actor"}


def test_numbers_are_corls():
    """Those of its files for locomotion; F23 (docs/methods/README.md): the defaults of its code scale rewards."""
    agent = CQL(build(CQLSettings, preset(CQL)), S, A)
    assert agent.scale({}) == 1.0
    rates = dict.fromkeys(("actor", "alpha", "log_std_scale", "log_std_offset"), 3e-5)
    assert agent.rates == rates and agent.settings.learning_rate == 3e-4 and agent.annealed == ()
    # Unlike in SAC for rollouts, the temperature may exceed 1.
    assert float(agent.temperature({"alpha": [torch.tensor(1.0)]})) == pytest.approx(math.e)


def test_the_published_form():
    settings = build(CQLSettings, preset(CQL, "hopper", "medium", form="code"))
    assert settings.conservative_on == "source" and not settings.auto_alpha and not settings.deterministic_backup
    assert settings.reward_scale == "none" and settings.actor_rate == settings.learning_rate == 3e-4
    assert build(CQLSettings, preset(CQL, "hopper", "medium")).reward_scale == "returns"


@pytest.mark.parametrize("form", ["code", "paper", "suite"])
@pytest.mark.parametrize("data", ["merged", "source"])
def test_both_forms_train(tmp_path, form, data):
    settings = preset(CQL, form="" if form == "suite" else form) | {"data": data}
    module = train(CQL, tmp_path, seeds=(0,), settings=settings)
    assert module.live == [0]


def test_exported_critics_are_in_units_of_the_data():
    agent = make_cql(reward_scale="returns", normalise=False)
    params = params_of(agent)
    s, a = torch.randn(4, S), torch.rand(4, A)
    exported = agent.exported(params)["critic"]
    expected = twins(params["critic"], s.double().numpy(), a.double().numpy()) / float(params[FACTS][0])
    np.testing.assert_allclose(twins(exported, s.double().numpy(), a.double().numpy()), expected, rtol=1e-5)


@pytest.mark.parametrize("data", ["target", "oracle"])
def test_a_conservative_term_needs_rows(data):
    with pytest.raises(OffDynError, match=f"conservative_on is 'source', which data={data} has no rows of"):
        build(CQLSettings, {"data": data, "conservative_on": "source"})
    assert dataclasses.replace(CQLSettings(), data=data).conservative_on == "all"
