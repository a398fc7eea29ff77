"""SAC: golden values of every term and switch in float64 NumPy, densities, what each part's gradient reaches."""

import math

import numpy as np
import pytest
import torch

from offdyn_agents.algorithms.sac import SAC, SACSettings, gaussian, squashed
from offdyn_agents.engine.networks import member
from offdyn_agents.engine.settings import build
from tests.agents.golden import net, twins
from tests.agents.synthetic import A, S, make_batch, make_params


def make_sac(**settings):
    return SAC(build(SACSettings, {"width": 16, "batch_size": 32, **settings}), S, A)


def noisy(agent, seed=0, runs=None):
    """A batch with the noise that the agent asks for."""
    return make_batch(agent, seed, runs, predicted=False)


def run_of(batch, run):
    """The batch of one run out of a population's."""
    return batch._replace(**{k: v[run] for k, v in batch._asdict().items() if isinstance(v, torch.Tensor)})


def normal_log(x, mean=0.0, std=1.0):
    """Log density of the normal distribution."""
    return -0.5 * ((x - mean) / std) ** 2 - np.log(std * math.sqrt(2.0 * math.pi))


def draw(actor, s, noise):
    """Actions and log densities in float64, with 1 - tanh(u)^2 = 4 / (e^u + e^-u)^2."""
    out = net(actor, s)
    mean, log_std = out[..., :A], np.clip(out[..., A:], -5.0, 2.0)
    u = mean + np.exp(log_std) * noise
    density = normal_log(u, mean, np.exp(log_std)) - (np.log(4.0) - 2.0 * np.logaddexp(u, -u))
    return np.tanh(u), density.sum(-1)


def golden(agent, params, batch, lowest=-np.inf):
    c = agent.settings
    s, a, r, s2, m = (
        part.double().numpy()
        for part in (batch.observations, batch.actions, batch.rewards, batch.next_observations, batch.continues)
    )
    noise = batch.noise.double().numpy()
    alpha = min(math.exp(float(params["alpha"][0])), 1.0) if c.auto_alpha else c.alpha
    a2, density2 = draw(params["actor"], s2, noise[:, :A])
    y = []
    for i in range(len(r)):
        q = min(twins(params["critic_target"], s2[i : i + 1], a2[i : i + 1])[:, 0])
        soft = 0.0 if c.deterministic_backup else alpha * density2[i]
        y.append(max(lowest, r[i] + c.discount * m[i] * (q - soft)))
    critic_loss = sum(np.mean((q - np.array(y)) ** 2) for q in twins(params["critic"], s, a))
    mine, density = draw(params["actor"], s, noise[:, A : 2 * A])
    judged = twins(params["critic" if c.actor_critics == "online" else "critic_target"], s, mine).min(0)
    actor_loss = np.mean(alpha * density - judged)
    alpha_loss = np.mean(-float(params["alpha"][0]) * (density - A)) if c.auto_alpha else 0.0
    return {
        "critic_loss": critic_loss,
        "actor_loss": actor_loss,
        "q": twins(params["critic"], s, a).mean(),
        "alpha": alpha,
        "entropy": -density.mean(),
    }, critic_loss + actor_loss + alpha_loss


def with_alpha(params, log_alpha):
    shape = params["actor"][0].shape[:-2]
    return params | {"alpha": [torch.full(shape, log_alpha)]}


VARIANTS = [
    ({}, -0.7),
    ({}, 1.2),
    ({"deterministic_backup": True}, -0.7),
    ({"actor_critics": "target"}, -0.7),
    ({"auto_alpha": False}, 0.0),
    ({"auto_alpha": False, "alpha": 0.7, "discount": 0.9, "deterministic_backup": True}, 0.0),
]


@pytest.mark.parametrize(("settings", "log_alpha"), VARIANTS)
def test_losses_equal_their_formulas(settings, log_alpha):
    agent = make_sac(**settings)
    params = with_alpha(make_params(agent), log_alpha)
    batch = noisy(agent)
    loss, metrics = agent.loss(params, batch)
    expected, total = golden(agent, params, batch)
    assert tuple(metrics) == agent.metrics
    for key, value in expected.items():
        np.testing.assert_allclose(float(metrics[key]), value, rtol=5e-5, err_msg=key)
    np.testing.assert_allclose(float(loss), total, rtol=5e-5)


def test_density_integrates_to_one():
    mean, std = 0.3, 0.5
    actor = [torch.zeros(S, 2), torch.tensor([[mean, math.log(std)]])]
    grid = np.linspace(-1.0, 1.0, 4001)[1:-1]
    noise = torch.from_numpy((np.arctanh(grid) - mean) / std).float()[:, None]
    actions, density = squashed(actor, torch.zeros(len(grid), S), noise)
    np.testing.assert_allclose(actions[:, 0], grid, atol=1e-5)
    assert np.trapezoid(np.exp(density.double().numpy()), grid) == pytest.approx(1.0, abs=1e-3)


def test_density_stays_finite_where_tanh_is_one():
    actor = [torch.zeros(S, 2 * A), torch.tensor([[30.0, -40.0, 0.0, 0.0]])]
    actions, density = squashed(actor, torch.zeros(1, S), torch.zeros(1, A))
    assert actions.tolist() == [[1.0, -1.0]]
    # log(1 - tanh(u)^2) tends to log 4 - 2 |u|.
    assert float(density) == pytest.approx(2 * normal_log(0.0) - 2 * math.log(4.0) + 2 * 70.0, rel=1e-6)


def test_standard_deviations_are_bounded():
    actor = [torch.zeros(S, 2 * A), torch.tensor([[0.0, 0.0, 9.0, -9.0]])]
    _, log_std = gaussian(actor, torch.zeros(1, S))
    assert log_std.tolist() == [[2.0, -5.0]]


def test_each_part_moves_its_own_network():
    """The actor's loss must not push the critics up, nor the targets the actor."""
    agent = make_sac()
    params, batch = with_alpha(make_params(agent), -0.7), noisy(agent)
    own = {name: params[name] for name in agent.networks()}

    def gradients(**changed):
        agent_ = make_sac(**changed)
        return torch.func.grad(lambda p: agent_.loss(params | p, batch)[0])(own)

    whole = gradients()
    q_only = torch.func.grad(
        lambda critic: (
            (agent.targets(params, batch, agent.temperature(params))[0] - critic_values(critic, batch))
            .square()
            .mean(-1)
            .sum()
        )
    )(params["critic"])
    for ours, theirs in zip(whole["critic"], q_only, strict=True):
        torch.testing.assert_close(ours, theirs)
    # Targets depend on the actor too, but no gradient flows there: another backup leaves the actor's gradient alone.
    other = gradients(deterministic_backup=True)
    for ours, theirs in zip(whole["actor"], other["actor"], strict=True):
        assert torch.equal(ours, theirs)
    assert any(bool((t != 0).any()) for t in whole["actor"])
    _, metrics = agent.loss(params, batch)
    torch.testing.assert_close(whole["alpha"][0], metrics["entropy"] + A)


def critic_values(critic, batch):
    from offdyn_agents.engine.networks import twin

    return twin(critic, batch.observations, batch.actions)


def test_a_population_is_its_runs():
    agent = make_sac()
    params, batch = make_params(agent, runs=3), noisy(agent, runs=3)
    params["alpha"] = [torch.tensor([-1.0, 0.0, 0.5])]
    losses, metrics = agent.loss(params, batch)
    assert losses.shape == (3,)
    for run in range(3):
        alone = {key: member(tensors, run) for key, tensors in params.items()}
        loss, own = agent.loss(alone, run_of(batch, run))
        torch.testing.assert_close(losses[run], loss, rtol=1e-5, atol=1e-6)
        for key in agent.metrics:
            torch.testing.assert_close(metrics[key][run], own[key], rtol=1e-4, atol=1e-5)


def test_networks():
    agent = SAC(SACSettings(), 11, 3)
    assert agent.parameters == 2 * 69_889 + (11 * 256 + 256 + 256 * 256 + 256 + 256 * 6 + 6) + 1
    assert "alpha" not in make_sac(auto_alpha=False).networks()
    assert agent.rates == {"actor": 1e-4, "alpha": 1e-4}
    assert agent.settings.learning_rate == 3e-4
    assert agent.annealed == ("actor",)


def test_the_policy_acts_with_its_mean():
    agent = make_sac()
    params = make_params(agent)
    s = torch.randn(7, S, generator=torch.Generator().manual_seed(0))
    expected = np.tanh(net(params["actor"], s.double().numpy())[:, :A])
    np.testing.assert_allclose(agent.act(params, s), expected, atol=1e-6)
