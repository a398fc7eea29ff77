"""SRPO: its ratio, whom the discriminator takes for good, and what it learns."""

import math

import pytest
import torch
from torch.nn.functional import logsigmoid

from offdyn_agents.algorithms.iql import IQL
from offdyn_agents.algorithms.registry import make_agent
from offdyn_agents.algorithms.returns import FACTS
from offdyn_agents.algorithms.rowwise.srpo import SRPO, SRPOSettings, log_ratio, top_labels
from offdyn_agents.engine.rows import Layout, RowCounts, pack
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.engine.update import adam, scales
from offdyn_agents.testing.conformance import SOURCE, TARGET, same, train, weights
from offdyn_agents.testing.data import A, S

LAYOUT = Layout(S, A)


def agent_of(**settings):
    return SRPO(SRPOSettings(width=16, **settings), S, A)


def parameters(agent, lead=(2,)):
    generator = torch.Generator().manual_seed(4)
    found = {
        name: [torch.randn(*lead, *s, generator=generator) for s in net.shapes()]
        for name, net in agent.networks().items()
    }
    return found | {"critic_target": found["critic"], FACTS: [torch.full(lead, f) for f in (0.5, -1e9, 1e9)]}


def drawn(rows=24, source=12, lead=(2,)):
    packed = torch.randn(*lead, rows, LAYOUT.width, generator=torch.Generator().manual_seed(3))
    packed[..., -1] = 1.0
    return LAYOUT.batch(packed, None, RowCounts(source, rows - source))


@pytest.mark.parametrize(
    ("ratio", "expected"), [("odds", (0.05, -0.230259, 0.230259)), ("logit", (-0.069315, -0.230259, 0.138629))]
)
def test_rewards_of_logits(ratio, expected):
    """G6: the right form, and that of public code, F10 (docs/methods/README.md)."""
    agent, batch = agent_of(ratio=ratio), drawn(rows=3, source=2, lead=())
    zeros = [torch.zeros(s) for s in agent.networks()["discriminator"].shapes()]
    for logit, reward in zip((0.5, -3.0, 4.0), expected, strict=True):
        terms = agent.terms({"discriminator": [*zeros[:-1], torch.full((1, 1), logit)]}, batch)
        # The target's row too; the ratio knows of no domain.
        torch.testing.assert_close(terms.rewards, torch.full((3,), reward), atol=1e-6, rtol=0.0)
        assert terms.weights is None and terms.scores is None


def test_odds_and_their_logarithm():
    x = torch.linspace(-2.0, 2.0, 9)
    torch.testing.assert_close(log_ratio(x, "odds"), (x.sigmoid() / (1.0 - x.sigmoid())).log())
    assert float(log_ratio(torch.tensor(0.5), "logit")) == pytest.approx(math.log(0.5))


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, [1, 0, 1, 0]), (0.25, [1, 0, 0, 0]), (0.1, [1, 0, 0, 0]), (1.0, [1, 1, 1, 1])]
)
def test_the_highest_values_of_a_batch_have_label_1(share, expected):
    values = torch.tensor([[3.0, 1.0, 3.0, 2.0], [3.0, 1.0, 3.0, 2.0]])
    assert top_labels(values, share).tolist() == [expected] * 2


def test_the_discriminators_loss_is_a_cross_entropy_that_reaches_it_alone():
    agent, batch = agent_of(top_share=0.25), drawn()
    params = parameters(agent)
    params = {name: [t.requires_grad_() for t in tensors] for name, tensors in params.items()}
    loss = agent.actor_extra(params, batch)
    values = score(params["value"], batch.observations)
    order = values.argsort(-1, descending=True)
    logits = score(params["discriminator"], batch.observations)
    for run in (0, 1):
        good, rest = order[run, :6], order[run, 6:]
        expected = -(logsigmoid(logits[run, good]).sum() + logsigmoid(-logits[run, rest]).sum()) / 24
        torch.testing.assert_close(loss[run], expected, rtol=1e-4, atol=1e-4)
    loss.sum().backward()
    reached = {name for name, tensors in params.items() if any(t.grad is not None for t in tensors)}
    assert reached == {"discriminator"}


def score(params, x):
    return (((x @ params[0] + params[1]).relu() @ params[2] + params[3]).relu() @ params[4] + params[5]).squeeze(-1)


def test_a_shift_of_all_values_changes_nothing():
    agent, batch = agent_of(), drawn()
    params = parameters(agent)
    shifted = params | {"value": [*params["value"][:-1], params["value"][-1] + 8.0]}
    assert torch.equal(agent.actor_extra(params, batch), agent.actor_extra(shifted, batch))
    assert torch.equal(agent.terms(params, batch).rewards, agent.terms(shifted, batch).rewards)


def test_the_loss_is_iqls_on_other_rewards_and_the_discriminators():
    agent, plain, batch = agent_of(), IQL(IQL.settings_class(width=16), S, A), drawn()
    params = parameters(agent)
    loss, _ = agent.loss(params, batch)
    changed = batch._replace(rewards=batch.rewards + agent.terms(params, batch).rewards)
    torch.testing.assert_close(loss, plain.loss(params, changed)[0] + agent.actor_extra(params, batch))


def test_the_discriminator_learns_what_a_fixed_value_prefers():
    agent, generator = agent_of(), torch.Generator().manual_seed(0)
    direction = torch.randn(S, generator=generator)
    # relu(x) - relu(-x) is linear.
    first = torch.stack([direction, -direction], dim=1)
    zeros = torch.zeros(1, 2)
    net = [first, zeros, torch.eye(2), zeros, torch.tensor([[1.0], [-1.0]]), torch.zeros(1, 1)]
    trained = agent.networks()["discriminator"].initial(generator)
    one, two = ([torch.zeros_like(t) for t in trained] for _ in range(2))

    def batch(rows):
        packed = torch.randn(rows, LAYOUT.width, generator=generator)
        return LAYOUT.batch(packed, None, RowCounts(rows // 2, rows - rows // 2))

    for done in range(600):
        rows = batch(256)
        loss = torch.func.grad(lambda t, rows=rows: agent.actor_extra({"value": net, "discriminator": t}, rows))
        size, root = scales(agent.rates["discriminator"], done, 1)[0, [0, 2]]
        for parts in zip(trained, loss(trained), one, two, strict=True):
            adam(*parts, size, root)
    rows = batch(2000)
    said = score(trained, rows.observations) > 0.0
    assert float((said == (rows.observations @ direction > 0.0)).double().mean()) > 0.9


def test_without_its_weight_it_is_iql(tmp_path):
    train(IQL, tmp_path / "iql")
    train(SRPO, tmp_path / "srpo", settings={"weight": 0.0})
    for seed in (0, 1):
        same(weights(tmp_path / "iql", seed), weights(tmp_path / "srpo", seed))


def test_bounds_allow_for_what_is_added():
    agent = agent_of(weight=0.3, reward_scale="none")
    context = StageContext(LAYOUT, pack(SOURCE, "s"), pack(TARGET, "t"), (0,), 1)
    rewards = torch.cat([context.source, context.target])[:, LAYOUT.reward_column]
    _, low, high = agent.stages(context).frozen[FACTS]
    most = 0.3 * math.log(10.0)
    torch.testing.assert_close(low, (rewards.min()[None] - most) * 100.0, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(high, (rewards.max()[None] + most).clamp(min=0.0) * 100.0, rtol=1e-4, atol=1e-3)


def test_published_constants():
    own, code = (make_agent("srpo", "ant", 11, 3, more).settings for more in ({}, {"form": "code"}))
    assert (own.weight, own.top_share, own.ratio, own.discriminator_rate) == (0.1, 0.5, "odds", 1e-3)
    assert (code.ratio, code.value_bounds, code.reward_scale) == ("logit", "none", "none")
