"""Adam, annealing, averaged copies; threads, stacking and compilation change nothing but speed."""

import numpy as np
import pytest
import torch

from offdyn_agents.engine.data import Sampler, Supply, stream
from offdyn_agents.engine.execution import Compiled, Executor, _share, bound, can_compile, exact_fast_products
from offdyn_agents.engine.networks import Network, mlp
from offdyn_agents.engine.rows import Layout, pack
from offdyn_agents.engine.training.module import Hardware
from offdyn_agents.engine.update import adam, make_update, scales, schedule
from tests.agents.synthetic import A, S, dataset, make, population_of

ROWS = 400


TOTAL = 100


def setting(name, runs=3, threads=1, compiled=False, seeds=None, **overrides):
    agent = make(name, **overrides)
    layout = Layout(S, A)
    table = torch.cat([pack(dataset(ROWS, 0), "source"), pack(dataset(100, 1), "target")])
    generator = torch.Generator().manual_seed(5)
    seeds = list(range(runs)) if seeds is None else seeds
    tables = [torch.randn(ROWS, 7, S, generator=generator) for _ in range(10)]
    supply = Supply(table, layout, [tables[seed] for seed in seeds] if name == "droco" else None)
    sampler = Sampler(seeds, [(0, ROWS)] * len(seeds), [(ROWS, 100)] * len(seeds), agent.rows())
    population = population_of(agent, seeds)
    executor = Executor(agent, population, supply, total=TOTAL, threads=threads, compiled=compiled)
    return agent, population, sampler, executor


def close(ours, theirs, **tolerance):
    for (name, tensor), (_, other) in zip(ours.named(), theirs.named(), strict=True):
        torch.testing.assert_close(tensor, other, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def test_adam_is_torchs():
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(6, 4, generator=generator)
    theirs = ours.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=3e-3)
    first, second = torch.zeros_like(ours), torch.zeros_like(ours)
    for step in range(1, 51):
        gradient = torch.randn(6, 4, generator=generator) * 10.0 ** (step % 5 - 2)
        adam(ours, gradient, first, second, *scales(3e-3, step - 1, 1)[0, [0, 2]])
        theirs.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


def test_cosine_is_torchs_schedule():
    parameter = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=3e-4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    rates = scales(3e-4, 0, 40, 40)
    assert torch.equal(rates[13:20], scales(3e-4, 13, 7, 40))
    for done in range(40):
        correction = 1.0 - 0.9 ** (done + 1)
        assert float(rates[done, 0]) * correction == pytest.approx(3e-4, rel=1e-6)
        assert float(rates[done, 1]) * correction == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        cosine.step()


def test_one_update_moves_every_network_and_its_copy():
    agent, population, sampler, executor = setting("iql")
    before = population.clone()
    executor.run(sampler.draw(1))
    for name in agent.networks():
        for now, then in zip(population.params[name], before.params[name], strict=True):
            # The first step of Adam has the size of the learning rate wherever there is a gradient.
            assert float((now - then).abs().max()) == pytest.approx(3e-4, rel=1e-2)
    for copy, old, new in zip(
        population.targets["critic"], before.targets["critic"], population.params["critic"], strict=True
    ):
        torch.testing.assert_close(copy, old + 0.005 * (new - old))
    assert population.step.tolist() == [1.0, 1.0, 1.0]


def test_annealed_actor_stands_still_at_the_end():
    _, population, sampler, executor = setting("iql", runs=1)
    executor.run(sampler.draw(99))
    before = population.clone()
    executor.run(sampler.draw(1))
    moved = max(
        float((a - b).abs().max()) for a, b in zip(population.params["actor"], before.params["actor"], strict=True)
    )
    other = max(
        float((a - b).abs().max()) for a, b in zip(population.params["value"], before.params["value"], strict=True)
    )
    assert moved < 1e-3 * other


@pytest.mark.parametrize("name", ["iql", "droco", "bc"])
def test_a_run_does_not_depend_on_its_population(name):
    _, together, sampler, executor = setting(name, runs=3, threads=2)
    executor.run(sampler.draw(7))
    executor.run(sampler.draw(16))
    _, alone, sampler, executor = setting(name, seeds=[2])
    executor.run(sampler.draw(23))
    close(together.members(slice(2, 3)), alone, rtol=0.0, atol=0.0)


def test_a_stacked_update_is_that_of_its_runs():
    agent, single, sampler, executor = setting("droco")
    numbers = sampler.draw(10)
    executor.run(numbers)
    stacked = population_of(agent, [0, 1, 2])
    update = make_update(agent, Layout(S, A))
    for step in range(10):
        chosen = numbers[:, step]
        rows = executor.supply.rows(chosen)
        predicted = torch.stack([executor.supply.predicted[r][chosen[r, :16]] for r in range(3)])
        update(stacked, schedule(agent, step, 1, TOTAL)[0], rows, predicted, None)
    close(stacked, single, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")
def test_a_compiled_update_is_the_written_one():
    _, eager, sampler, executor = setting("droco")
    executor.run(sampler.draw(5))
    _, compiled, sampler, executor = setting("droco", compiled=True, threads=2)
    executor.run(sampler.draw(5))
    assert executor.compiled
    close(compiled, eager, rtol=1e-4, atol=1e-5)


def test_a_failing_compiler_leaves_the_written_update(monkeypatch, capsys):
    def broken(*args):
        raise RuntimeError("no such compiler\nat all")

    monkeypatch.setattr("offdyn_agents.engine.execution.compile_flat", broken)
    monkeypatch.setattr("offdyn_agents.engine.execution.can_compile", lambda _: True)
    _, eager, sampler, executor = setting("iql", compiled=True)
    executor.run(sampler.draw(3))
    assert not executor.compiled
    assert capsys.readouterr().err == "not compiled, the updates will be slower: no such compiler\n"
    _, other, sampler, executor = setting("iql")
    executor.run(sampler.draw(3))
    close(eager, other, rtol=0.0, atol=0.0)


def test_a_graph_is_recorded_of_what_is_compiled_for_a_gpu_alone(monkeypatch):
    def written(*_):
        pass

    def compiled(*_):
        pass

    monkeypatch.setattr("offdyn_agents.engine.execution.graphed", lambda call, state, inputs: (call, state, inputs))
    assert bound(written, [], []) is written
    assert bound(Compiled(compiled, torch.device("cpu")), [], []) is compiled
    state, inputs = [torch.zeros(1)], [torch.ones(1)]
    assert bound(Compiled(compiled, torch.device("cuda")), state, inputs) == (compiled, state, inputs)


def test_shared_tasks_keep_their_order_and_raise():
    log = [[] for _ in range(5)]
    tasks = [[lambda i=i, j=j: log[i].append(j) for j in range(20)] for i in range(5)]
    _share(2, 1, tasks)
    assert log == [list(range(20))] * 5

    def fail():
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        _share(2, 1, [[fail], [lambda: None]])


def test_fast_products_are_used_only_where_exact():
    flags = getattr(torch.backends.mkldnn, "matmul", None)
    before = getattr(flags, "fp32_precision", None)
    with exact_fast_products(256, (11, 14), 256) as used:
        assert isinstance(used, bool)
        x = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(1))
        error = (torch.bmm(x, x).double() - torch.bmm(x.double(), x.double())).abs().max()
        assert float(error) < 2e-4
        assert (getattr(flags, "fp32_precision", None) == before) != used
    assert getattr(flags, "fp32_precision", None) == before


def test_an_inexact_product_is_refused(monkeypatch):
    flags = getattr(torch.backends.mkldnn, "matmul", None)
    before = getattr(flags, "fp32_precision", None)
    real = torch.bmm

    def rounded(a, b):
        if a.dtype == torch.float32:
            return real(a.bfloat16().float(), b.bfloat16().float())
        return real(a, b)

    monkeypatch.setattr(torch, "bmm", rounded)
    with exact_fast_products(64, (11,), 64) as used:
        assert not used
        assert getattr(flags, "fp32_precision", None) == before


def test_sampler_streams():
    args = ([(0, 50), (100, 7)], [(50, 9), (110, 3)])
    rows = make("iql").rows()
    whole = Sampler([3, 4], *args, rows).draw(30)
    cut = Sampler([3, 4], *args, rows)
    assert torch.equal(torch.cat([cut.draw(11), cut.draw(19)], dim=1), whole)
    assert whole.shape == (2, 30, 32)
    for run, (source, target) in enumerate(zip(*args, strict=True)):
        for part, (start, count) in ((whole[run, :, :16], source), (whole[run, :, 16:], target)):
            assert part.min() >= start
            assert part.max() < start + count
            assert set(part.flatten().tolist()) == set(range(start, start + count))
    other = Sampler([4, 3], *args, rows)
    states = other.state()
    first = other.draw(5)
    other.restore(states)
    assert torch.equal(other.draw(5), first)
    assert not torch.equal(first[0], whole[0, :5])


def test_packing_keeps_every_number():
    data = dataset(20, 3)
    observations, actions, following, rewards, continues = Layout(S, A).split(pack(data, "x"))
    np.testing.assert_array_equal(observations, data.observations)
    np.testing.assert_array_equal(actions, data.actions)
    np.testing.assert_array_equal(following, data.next_observations)
    np.testing.assert_array_equal(rewards, data.rewards)
    np.testing.assert_array_equal(continues, 1.0 - data.terminations)


def test_rounded_products_are_close_but_not_equal():
    agent, exact, sampler, executor = setting("iql", width=64)
    numbers = sampler.draw(1)
    executor.run(numbers)
    rounded = population_of(agent, [0, 1, 2])
    update = make_update(agent, Layout(S, A), Hardware(precision="bf16").products)
    update(rounded, schedule(agent, 0, 1, TOTAL)[0], executor.supply.rows(numbers[:, 0]), None, None)
    difference = (rounded.sums - exact.sums).abs()
    assert float(difference.max()) > 1e-6
    torch.testing.assert_close(rounded.sums, exact.sums, rtol=0.05, atol=0.05)
    assert all(tensor.dtype == torch.float32 for _, tensor in rounded.named())


def test_values_are_not_rounded_themselves():
    """In bf16 a value near 300 would be a multiple of 2: errors below that would teach nothing."""
    generator = torch.Generator().manual_seed(0)
    shapes = Network((8, 32, 1)).shapes()
    w0, b0, w1, b1 = (torch.randn(shape, generator=generator) for shape in shapes)
    x, hidden = (torch.randn(256, n, generator=generator) for n in (8, 32))
    with Hardware(precision="bf16").products():
        last = mlp([100.0 * w1, b1], hidden)
        values = mlp([w0, b0, 100.0 * w1, b1], x)
    assert torch.equal(last, hidden @ (100.0 * w1) + b1)
    assert not torch.equal(values, mlp([w0, b0, 100.0 * w1, b1], x)), "the product before it is rounded"
    assert len(values.unique()) > 250


def test_streams_are_apart():
    """No purpose of a seed shares a generator with another one, nor with the initial networks of any small seed."""
    purposes = ("rows", "noise", "refill", "ensemble", "anything else")
    seeds = [stream(seed, purpose) for seed in range(50) for purpose in purposes]
    seeds += [stream(seed, "refill", updates) for seed in range(5) for updates in range(20)]
    # PyTorch's CPU generator takes the lower 32 bits.
    drawn = [tuple(torch.randint(2**62, (3,), generator=torch.Generator().manual_seed(s)).tolist()) for s in seeds]
    drawn += [tuple(torch.randint(2**62, (3,), generator=torch.Generator().manual_seed(s)).tolist()) for s in range(50)]
    assert len(set(drawn)) == len(drawn)
