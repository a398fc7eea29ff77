"""What a GPU must do as a CPU does: `pytest -m gpu` on a machine that has one."""

from functools import partial

import pytest
import torch

from offdyn_agents.algorithms.registry import AGENTS
from offdyn_agents.engine.data import Sampler
from offdyn_agents.engine.resources import room
from offdyn_agents.engine.rows import Layout, pack
from offdyn_agents.engine.training.module import Budget, Hardware
from offdyn_agents.models.dynamics_reward import stage
from offdyn_agents.models.ensemble.settings import DynamicsSettings
from offdyn_agents.models.ensemble.stages import fit_ensembles, predict_all
from offdyn_agents.runs.runs import train_population
from offdyn_agents.testing.conformance import BUDGET, SEEDS, SOURCE, TARGET, weights
from offdyn_envs.errors import OffDynError
from tests.agents.synthetic import A, S, dataset, killed_at, tiny
from tests.agents.toy import make_toy

pytestmark = pytest.mark.gpu
LAYOUT = Layout(S, A)


def train(name, folder, hardware, seeds=SEEDS, cache=None):
    return train_population(tiny(name), seeds, SOURCE, TARGET, BUDGET, hardware, folder, quiet=True, cache=cache)


def close(ours, theirs, rtol=1e-3, atol=1e-4):
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key].cpu(), theirs[key].cpu(), rtol=rtol, atol=atol)


@pytest.fixture(scope="module", params=AGENTS)
def on_cpu(request, tmp_path_factory):
    """Every agent, trained on the CPU; its stages are those that GPUs will find in the cache."""
    folder = tmp_path_factory.mktemp(request.param)
    train(request.param, folder / "run", Hardware(compiled=False), cache=folder / "stages")
    return request.param, folder


@pytest.mark.parametrize("compiled", [False, True])
def test_updates_are_those_of_the_cpu(on_cpu, tmp_path, compiled, capsys):
    name, folder = on_cpu
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    module = train(name, tmp_path, Hardware("cuda", compiled=compiled), cache=folder / "stages")
    assert module.updates_done == BUDGET.updates
    assert torch.cuda.max_memory_allocated() > before
    for seed in SEEDS:
        close(weights(tmp_path, seed), weights(folder / "run", seed))
    assert "not compiled" not in capsys.readouterr().err


@pytest.mark.parametrize("name", AGENTS)
def test_stages_and_updates_in_other_precisions(name, tmp_path):
    for precision in ("bf16", "tf32"):
        module = train(name, tmp_path / precision, Hardware("cuda", precision, compiled=False))
        assert module.live == [0, 1], precision


@pytest.mark.parametrize("name", ["td3-bc", "mobody"])
def test_resumed_is_uninterrupted(name, tmp_path, monkeypatch):
    hardware, cache = Hardware("cuda"), tmp_path / "stages"
    train(name, tmp_path / "whole", hardware, cache=cache)
    with killed_at(monkeypatch, 12):
        train(name, tmp_path / "cut", hardware, cache=cache)
    train(name, tmp_path / "cut", hardware, cache=cache)
    for seed in SEEDS:
        close(weights(tmp_path / "cut", seed), weights(tmp_path / "whole", seed), rtol=1e-5, atol=1e-6)


def test_a_run_is_itself_in_any_company(tmp_path):
    train("iql", tmp_path / "both", Hardware("cuda"))
    train("iql", tmp_path / "alone", Hardware("cuda"), seeds=(1,))
    close(weights(tmp_path / "alone", 1), weights(tmp_path / "both", 1))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_stopped_run_leaves_the_others_alone(tmp_path, compiled):
    def run(folder, **settings):
        agent, hardware = make_toy(**settings), Hardware("cuda", compiled=compiled)
        return train_population(agent, SEEDS, SOURCE, TARGET, Budget(60, 60, 20), hardware, folder, quiet=True)

    run(tmp_path / "whole")
    with pytest.raises(OffDynError, match="seed 0 diverged before update 20"):
        run(tmp_path / "cut", fail_seed=0, fail_at=20)
    close(weights(tmp_path / "cut", 1), weights(tmp_path / "whole", 1), rtol=1e-6, atol=1e-7)
    assert not (tmp_path / "cut/seeds/0").exists()


@pytest.mark.parametrize("schedule", ["early-stopping", "published"])
def test_ensembles_recorded_as_graphs_are_those_of_the_cpu(schedule):
    settings = DynamicsSettings(epochs=3, width=32, members=3, batch_size=32, schedule=schedule)
    rows = pack(TARGET, "target")
    found = [
        fit_ensembles(settings, LAYOUT, rows.to(device), [0, 1], None, compiled=compiled)
        for device, compiled in (("cpu", False), ("cuda", False), ("cuda", True))
    ]
    for seed in (0, 1):
        close(found[1][seed].tensors(), found[0][seed].tensors())
        close(found[2][seed].tensors(), found[0][seed].tensors())
    source = pack(SOURCE, "source")
    shape, widths = (settings.members, LAYOUT.observation_dim), (settings.width, LAYOUT.width)
    ours, theirs = (
        predict_all([partial(e.next_states, LAYOUT) for e in group], source.to(device), shape, widths)
        for group, device in ((found[0], "cpu"), (found[2], "cuda"))
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-3, atol=1e-4)


def test_rows_are_drawn_alike_everywhere():
    given = ([0, 1], [(0, 100), (3, 50)], [(100, 7), (100, 9)], tiny("iql").rows())
    assert torch.equal(Sampler(*given).draw(11), Sampler(*given).draw(11, "cuda").cpu())


def test_room_is_a_share_of_the_memory():
    assert room(torch.device("cuda"), 1e-3) == pytest.approx(0.6 * torch.cuda.mem_get_info()[1])
    assert room(torch.device("cuda"), 1e6) == 1e15


def test_large_data_are_predicted_in_parts_alike():
    rows = pack(dataset(40_000, 3), "source").to("cuda")
    settings = DynamicsSettings(epochs=1, width=32, members=3, batch_size=32)
    (ensemble,) = fit_ensembles(settings, LAYOUT, rows[:500], [0], None, compiled=False)
    whole = ensemble.next_states(LAYOUT, rows)
    torch.testing.assert_close(whole[39_000:], ensemble.next_states(LAYOUT, rows[39_000:]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mobody", "morec"])
def test_stages_recorded_as_graphs_are_those_of_the_cpu(name, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "WORTH_COMPILING", 1)  # else so short a training of the reward is not compiled
    train(name, tmp_path / "cpu", Hardware(compiled=False))
    train(name, tmp_path / "cuda", Hardware("cuda"))
    for seed in SEEDS:
        close(weights(tmp_path / "cuda", seed), weights(tmp_path / "cpu", seed), rtol=1e-2, atol=1e-3)
