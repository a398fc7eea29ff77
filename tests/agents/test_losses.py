"""Golden values: every loss computed again in NumPy, in float64, by loops and formulas of the specification."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offdyn_agents.algorithms.droco import huber
from offdyn_agents.algorithms.registry import make_agent
from offdyn_agents.engine.networks import member
from tests.agents.golden import net, twins
from tests.agents.synthetic import HIGH, LOW, SCALE, S, make, make_batch, make_params


def golden(agent, params, batch):
    """Value, critic and actor losses, row by row."""
    c = agent.settings
    s, a, r, s2, m = (np.asarray(part, dtype=np.float64) for part in batch[:5])
    n = batch.source_rows
    scale = SCALE if c.reward_scale == "returns" else 1.0
    low, high = (LOW, HIGH) if c.value_bounds == "rewards" else (-np.inf, np.inf)
    r = r * scale
    v, free = net(params["value"], s)[:, 0], net(params["value"], s2)[:, 0]
    v2, asked, bonus = np.clip(free, low, high), [free], 0
    q_target = twins(params["critic_target"], s, a).min(axis=0)
    y = r + c.discount * m * v2
    if agent.name == "droco":
        s_hat = batch.predicted.double().numpy()
        for i in range(n):
            if c.robust_min == "q":
                mu = np.tanh(net(params["actor"], s_hat[i]))
                worst = twins(params["critic_target"], s_hat[i], mu).min()
            else:
                asked.append(net(params["value"], s_hat[i])[:, 0])
                worst = asked[-1].min()
            u = v2[i] - min(max(worst, low), high)
            bonus += u < 0
            if c.penalty_clamp:
                u = max(u, 0.0)
            y[i] = r[i] + c.discount * m[i] * min(max(v2[i] - c.beta * u, low), high)
    advantage = q_target - v
    value_loss = np.mean([(c.expectile if d > 0 else 1 - c.expectile) * d * d for d in advantage])
    critic_loss = 0.0
    for q in twins(params["critic"], s, a):
        e = y - q
        bent = (
            np.array([0.5 * x * x if abs(x) <= delta else delta * (abs(x) - delta / 2) for x in e])
            if (delta := scale * getattr(c, "delta", np.inf)) < np.inf
            else 0.5 * e * e
        )
        if agent.name == "iql":
            critic_loss += np.mean(e * e)
        elif c.huber_on == "both":
            critic_loss += bent.mean()
        else:
            critic_loss += bent[:n].mean() + (0.5 * e[n:] ** 2).mean()
    weight = np.minimum(np.exp(c.temperature * advantage), c.weight_clip)
    rows = (weight[:, None] * (np.tanh(net(params["actor"], s)) - a) ** 2).mean(axis=1)
    both = 0 < n < len(rows)
    actor_loss = (1 - c.target_share) * rows[:n].mean() + c.target_share * rows[n:].mean() if both else rows.mean()
    shares = {"capped": np.mean(np.exp(c.temperature * advantage) > c.weight_clip)}
    if c.value_bounds == "rewards":
        shares["outside"] = np.mean([not low <= x <= high for part in asked for x in part])
    if agent.name == "droco":
        shares["bonus"] = bonus / n
    return {"value_loss": value_loss, "critic_loss": critic_loss, "actor_loss": actor_loss}, shares


def doubled(params, batch):
    """The same in float64: what is left are the formulas."""
    parts = [part.double() if isinstance(part, torch.Tensor) else part for part in batch]
    return {name: [tensor.double() for tensor in tensors] for name, tensors in params.items()}, type(batch)(*parts)


PUBLISHED = {"value_bounds": "none", "reward_scale": "none"}
VARIANTS = [
    ("iql", {}),
    ("iql", {"data": "target"}),
    ("iql", {"expectile": 0.9, "temperature": 10.0, "weight_clip": 5.0, "data": "source"}),
    ("droco", {"beta": 0.1}),
    ("droco", {"beta": 1.0, "delta": 2.0}),
    ("droco", {"beta": 2.0, "weight_clip": 2.0}),
    ("droco", {"beta": 2.0, "penalty_clamp": False}),
    ("droco", {"beta": 0.3, "robust_min": "q", "penalty_clamp": True}),
    ("droco", {"beta": 0.7, "robust_min": "coordinate"}),
    ("droco", {"beta": 0.5, "delta": 3.0, "huber_on": "both"}),
    ("droco", {"beta": 0.5, "delta": "inf"}),
    ("iql", {"target_share": 0.8}),
    ("droco", {"target_share": 0.8, "value_bounds": "none"}),
    ("iql", PUBLISHED),
    ("droco", PUBLISHED | {"penalty_clamp": False, "delta": 2.0}),
    ("droco", PUBLISHED | {"robust_min": "q", "reward_scale": "returns"}),
]


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_losses_equal_their_formulas(name, settings):
    agent = make(name, **settings)
    members = 1 if settings.get("robust_min") == "coordinate" else 7
    params, batch = doubled(make_params(agent), make_batch(agent, predicted=name == "droco", members=members))
    loss, metrics = agent.loss(params, batch)
    expected, shares = golden(agent, params, batch)
    for key, value in expected.items():
        np.testing.assert_allclose(float(metrics[key]), value, rtol=1e-6, err_msg=key)
    np.testing.assert_allclose(float(loss), sum(expected.values()), rtol=1e-6)
    for key, value in shares.items():
        assert float(metrics[key]) == pytest.approx(value), key
    assert ("outside" in metrics) == ("outside" in shares)


def test_shares_are_neither_none_nor_all():
    """Else the formulas above would say nothing of them."""
    agent = make("droco", weight_clip=2.0)
    shares = golden(agent, make_params(agent), make_batch(agent, members=2))[1]
    assert all(0.0 < shares[name] < 1.0 for name in ("outside", "capped", "bonus")), shares


@pytest.mark.parametrize("data", ["target", "source", "merged"])
def test_behaviour_cloning_is_least_squares(data):
    agent = make("bc", data=data)
    params, batch = make_params(agent), make_batch(agent, predicted=False)
    loss, metrics = agent.loss(params, batch)
    errors = np.tanh(net(params["actor"], batch.observations.double().numpy())) - batch.actions.numpy()
    np.testing.assert_allclose(float(loss), np.mean(errors**2), rtol=1e-5)
    assert metrics["actor_loss"] == loss


def test_droco_without_penalty_and_bend_is_iql():
    droco, iql = make("droco", beta=0.0, delta="inf"), make("iql")
    params, batch = make_params(droco), make_batch(droco)
    ours, _ = droco.targets(params, batch)
    theirs, _ = iql.targets(params, batch._replace(predicted=None))
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-6)

    def gradients(agent, rows):
        return torch.func.grad(lambda p: agent.loss({**params, **p}, rows)[0])(
            {name: params[name] for name in agent.networks()}
        )

    for name, tensors in gradients(droco, batch).items():
        for ours, theirs in zip(tensors, gradients(iql, batch)[name], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_droco_with_one_perfect_model_backs_up_its_prediction():
    agent = make("droco", beta=1.0, penalty_clamp=False, **PUBLISHED)
    params, batch = make_params(agent), make_batch(agent, members=1)
    targets, _ = agent.targets(params, batch)
    predicted = net(params["value"], batch.predicted[:, 0].double().numpy())[:, 0]
    n = batch.source_rows
    expected = batch.rewards[:n].numpy() + 0.99 * batch.continues[:n].numpy() * predicted
    np.testing.assert_allclose(targets[:n].numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("robust_min", ["value", "q", "coordinate"])
def test_penalty_touches_source_rows_only(robust_min):
    free = PUBLISHED | {"penalty_clamp": False}
    penalised, plain = make("droco", beta=1.0, robust_min=robust_min, **free), make("iql", **PUBLISHED)
    params, batch = make_params(penalised), make_batch(penalised)
    ours, _ = penalised.targets(params, batch)
    theirs, _ = plain.targets(params, batch)
    n = batch.source_rows
    assert torch.equal(ours[n:], theirs[n:])
    running = batch.continues[:n] == 1
    assert not torch.isclose(ours[:n][running], theirs[:n][running]).any()
    assert torch.equal(ours[:n][~running], batch.rewards[:n][~running])


def test_clamped_penalty_never_raises_a_target():
    agent, plain = make("droco", beta=1.0), make("iql")
    params, batch = make_params(agent), make_batch(agent, members=1)
    assert (agent.targets(params, batch)[0] <= plain.targets(params, batch)[0] + 1e-6).all()
    free = make("droco", beta=1.0, penalty_clamp=False)
    assert (free.targets(params, batch)[0] > plain.targets(params, batch)[0] + 1e-3).any()


@given(st.floats(-1e4, 1e4, width=32), st.floats(0.1, 100.0))
def test_huber_gradient_is_bounded(error, delta):
    value = torch.tensor(error, dtype=torch.float64)
    slope = torch.func.grad(lambda e: huber(e, delta))(value)
    assert abs(float(slope)) <= delta * (1 + 1e-12)
    inside = abs(error) <= delta
    expected = 0.5 * error**2 if inside else delta * (abs(error) - delta / 2)
    assert float(huber(value, delta)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_huber_without_bend_is_half_the_square():
    errors = torch.tensor([-1e3, -1.0, 0.0, 2.0])
    assert torch.equal(huber(errors, float("inf")), 0.5 * errors.square())


@pytest.mark.parametrize("name", ["iql", "droco", "bc"])
def test_a_population_is_its_runs(name):
    agent = make(name)
    params, batch = make_params(agent, runs=3), make_batch(agent, runs=3, predicted=name == "droco")
    losses, metrics = agent.loss(params, batch)
    assert losses.shape == (3,)
    for run in range(3):
        alone = {key: member(tensors, run) for key, tensors in params.items()}
        parts = [part[run] if isinstance(part, torch.Tensor) else part for part in batch]
        loss, own = agent.loss(alone, type(batch)(*parts))
        torch.testing.assert_close(losses[run], loss, rtol=1e-5, atol=1e-6)
        for key in agent.metrics:
            torch.testing.assert_close(metrics[key][run], own[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize(("name", "beta"), [("iql", None), *(("droco", beta) for beta in (0.0, 0.5, 1.0, 2.0, 10.0))])
def test_values_stay_inside_their_bounds_and_the_published_form_does_not(name, beta, clamp):
    for settings, clipped in (({}, True), (PUBLISHED, False)):
        own = {} if beta is None else {"beta": beta, "penalty_clamp": clamp}
        agent = make(name, **settings, **own)
        params, batch = make_params(agent), make_batch(agent)
        targets, _ = agent.targets(params, batch._replace(rewards=torch.zeros_like(batch.rewards)))
        beyond = (targets > 0.99 * HIGH + 1e-6) | (targets < 0.99 * LOW - 1e-6)
        assert bool(beyond.any()) != clipped, name


@pytest.mark.parametrize("beta", [0.1, 0.3, 1.0])
def test_up_to_one_beta_needs_no_second_clip(beta):
    """Recorded trainings have none: not even the last bit may be another."""
    agent = make("droco", beta=beta)
    params, batch = make_params(agent), make_batch(agent)
    targets, _ = agent.targets(params, batch)
    v, worst, _ = agent._next_values(params, batch)
    n = batch.source_rows
    robust = v[:n] - beta * (v[:n] - worst).clamp(min=0.0)
    assert torch.equal(targets, batch.rewards + 0.99 * batch.continues * torch.cat([robust, v[n:]]))


def test_exported_critics_and_values_are_in_the_units_of_the_rewards():
    from offdyn_agents.engine.networks import twin, value

    agent = make("iql")
    params, batch = make_params(agent), make_batch(agent)
    found, s, a = agent.exported(params), batch.observations, batch.actions
    torch.testing.assert_close(SCALE * twin(found["critic"], s, a), twin(params["critic"], s, a))
    torch.testing.assert_close(SCALE * value(found["value"], s), value(params["value"], s))


TD3BC_VARIANTS = [
    {},
    {"value_bounds": "none"},
    {"alpha": 0.5, "target_noise": 2.0, "target_noise_clip": 0.1},
    {"target_noise": 0.0, "discount": 0.9},
    {"normalise": "true"},
]


@pytest.mark.parametrize("overrides", TD3BC_VARIANTS, ids=str)
@pytest.mark.parametrize("phase", ["critic", "both"])
def test_td3_bc_is_its_formula(overrides, phase):
    agent = make("td3-bc", **overrides)
    params, batch = doubled(make_params(agent, seed=3), make_batch(agent, seed=4, phase=phase))
    c = agent.settings
    s, a, r, s2, m = (np.asarray(part, dtype=np.float64) for part in batch[:5])
    if c.normalise:
        mean, std = (torch.linspace(*ends, S, dtype=torch.float64).view(1, S) for ends in ((-1, 1), (0.5, 2)))
        params["moments"] = [mean, std]
        s, s2 = ((x - mean.double().numpy()) / std.double().numpy() for x in (s, s2))
    noise = np.asarray(batch.noise, dtype=np.float64)
    y, outside = np.empty(len(r)), 0
    for i in range(len(r)):
        epsilon = [max(-c.target_noise_clip, min(c.target_noise_clip, c.target_noise * z)) for z in noise[i]]
        action = np.tanh(net(params["actor_target"], s2[i : i + 1])) + np.array(epsilon)
        action = np.minimum(np.maximum(action, -1.0), 1.0)
        following = min(twins(params["critic_target"], s2[i : i + 1], action)[:, 0])
        if c.value_bounds == "rewards":
            outside += not LOW <= following <= HIGH
            following = min(max(following, LOW), HIGH)
        y[i] = r[i] + c.discount * m[i] * following
    expected = {"critic_loss": sum(np.mean((y - q) ** 2) for q in twins(params["critic"], s, a))}
    if c.value_bounds == "rewards":
        expected["outside"] = outside / len(r)
        assert 0 < outside < len(r)
    if phase == "both":
        actions = np.tanh(net(params["actor"], s))
        q = twins(params["critic"], s, actions)[0]
        cloning = np.mean((actions - a) ** 2)
        expected |= {"cloning": cloning, "actor_loss": cloning - c.alpha / np.mean(np.abs(q)) * np.mean(q)}
    loss, metrics = agent.loss(params, batch)
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-6), name
    assert float(loss) == pytest.approx(expected["critic_loss"] + expected.get("actor_loss", 0.0), rel=1e-6)
    assert ("actor_loss" in metrics) == (phase == "both")


def test_td3_bc_actors_loss_leaves_the_critics_alone():
    agent = make("td3-bc")
    params, batches = make_params(agent), [make_batch(agent, phase=phase) for phase in ("critic", "both")]

    def gradient(batch):
        return torch.func.grad(lambda critic: agent.loss(params | {"critic": critic}, batch)[0])(params["critic"])

    for ours, theirs in zip(*map(gradient, batches), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_td3_bc_exports_networks_of_states_as_they_come():
    from offdyn_agents.engine.networks import policy, twin

    agent = make("td3-bc", normalise="true")
    params, batch = make_params(agent, runs=2), make_batch(agent, runs=2)
    generator = torch.Generator().manual_seed(0)
    mean, std = torch.randn(2, 1, S, generator=generator), torch.rand(2, 1, S, generator=generator) + 0.5
    params["moments"] = [mean, std]
    s, a = batch.observations, batch.actions
    found = agent.exported(params)
    torch.testing.assert_close(agent.act(params, s), policy(params["actor"], (s - mean) / std), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(policy(found["actor"], s), agent.act(params, s))
    expected = twin(params["critic"], (s - mean) / std, a)
    torch.testing.assert_close(twin(found["critic"], s, a), expected, rtol=1e-4, atol=1e-4)


def test_published_constants_of_td3_bc():
    """Those that ports lose: the losses above are computed with the settings' own numbers."""
    settings = make_agent("td3-bc", "halfcheetah", 17, 6, {}).settings
    assert (settings.alpha, settings.target_noise, settings.target_noise_clip) == (2.5, 0.2, 0.5)
    assert (settings.actor_delay, settings.polyak, settings.discount) == (2, 0.005, 0.99)
    assert (settings.learning_rate, settings.batch_size, settings.width) == (3e-4, 256, 256)
    assert not settings.normalise
    assert make_agent("td3-bc", "halfcheetah", 17, 6, {"data": "target"}).settings.normalise
