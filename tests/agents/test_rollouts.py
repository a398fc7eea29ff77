"""Rows that runs make themselves: the ring, exact resume, one run that fails alone."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from offdyn_agents.engine.buffers import RolloutBuffer
from offdyn_agents.engine.training.module import Budget, Hardware, PopulationModule
from offdyn_agents.engine.training.populations import train_population
from offdyn_envs.atomic import DiskFullError
from offdyn_envs.errors import OffDynError
from tests.agents.synthetic import Killed, dataset
from tests.agents.toy import Toy, make_toy

SOURCE, TARGET = dataset(300, 0), dataset(100, 1)
BUDGET = Budget(70, 50, 15, checkpoint_seconds=1e9)


def train(folder, seeds=(0, 1), budget=BUDGET, threads=1, compiled=False, cache=None, **settings):
    hardware = Hardware(compiled=compiled, threads=threads)
    return train_population(
        make_toy(**settings), seeds, SOURCE, TARGET, budget, hardware, folder, quiet=True, cache=cache
    )


def weights(folder, seed):
    return load_file(folder / "seeds" / str(seed) / "weights.safetensors")


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key


def refills(folder):
    return [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]


def test_ring(tmp_path):
    ring = RolloutBuffer(tmp_path / "ring.f32", 10, 3)
    expected, written = np.zeros((10, 3), dtype=np.float32), 0
    for count in (4, 4, 4, 0, 10, 3, 25):
        rows = torch.arange(written * 3, (written + count) * 3).view(count, 3).float() + 1.0
        start = ring.cursor
        ring.add(rows)
        for i, row in enumerate(rows[-10:]):
            expected[(start + i) % 10] = row
        written += count
        assert ring.fill == min(10, written)
        np.testing.assert_array_equal(ring.rows(torch.arange(ring.fill)), expected[: ring.fill])
    state = ring.state()
    again = RolloutBuffer(tmp_path / "ring.f32", 10, 3)
    again.restore(state)
    assert (again.cursor, again.fill) == (ring.cursor, ring.fill)
    np.testing.assert_array_equal(again.rows(torch.arange(10)), expected)


def test_ring_without_room(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ring = RolloutBuffer(tmp_path / "ring.f32", 10, 3)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    try:
        with pytest.raises(DiskFullError, match="120 bytes are needed"):
            ring.add(torch.ones(2, 3))
        assert list(tmp_path.iterdir()) == []
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        ring.add(torch.ones(2, 3))
        resource.setrlimit(resource.RLIMIT_FSIZE, (24, limit[1]))
        # Through a map of the file this would end the process where the disk is full.
        with pytest.raises(DiskFullError, match=r"ring\.f32"):
            ring.add(torch.ones(2, 3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (ring.cursor, ring.fill) == (2, 2)


def test_a_lost_ring_is_one_line(tmp_path):
    ring = RolloutBuffer(tmp_path / "ring.f32", 10, 3)
    ring.add(torch.ones(4, 3))
    state = ring.state()
    del ring
    (tmp_path / "ring.f32").unlink()
    for _ in range(2):  # what was refused once must not be found the next time
        with pytest.raises(OffDynError, match=r"ring.f32' with the 4 rows of the checkpoint is gone"):
            RolloutBuffer(tmp_path / "ring.f32", 10, 3).restore(state)
        assert not (tmp_path / "ring.f32").exists()
    (tmp_path / "ring.f32").write_bytes(b"else")
    with pytest.raises(OffDynError, match="gone or of another size than 120 bytes"):
        RolloutBuffer(tmp_path / "ring.f32", 10, 3).restore(state)
    assert (tmp_path / "ring.f32").read_bytes() == b"else"


def test_refills_fall_on_their_updates(tmp_path):
    module = train(tmp_path)
    found = refills(tmp_path)
    assert [(r["updates"], r["seed"]) for r in found] == [(u, s) for u in (0, 20, 40, 60) for s in (0, 1)]
    assert [r["rows"] for r in found[::2]] == [50, 51, 52, 53]
    assert [r["fill"] for r in found[::2]] == [50, 101, 120, 120]
    assert found[-1]["cursor"] == (50 + 51 + 52 + 53) % 120
    assert all(np.isfinite(r["mean"]) for r in found)
    assert module.updates_done == 70
    buffer = module.supply.buffers[0]
    assert buffer.path == tmp_path / "buffers/0.f32"
    assert not torch.equal(buffer.rows(torch.arange(120)), module.supply.buffers[1].rows(torch.arange(120)))
    checkpoint = tmp_path / "checkpoints/last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["offdyn"]["buffers"] == [[86, 120], [86, 120]]
    assert not any("frozen" in name for name in torch.load(checkpoint, weights_only=True)["state_dict"])


def test_batches_hold_each_runs_own_rows(tmp_path):
    module = train(tmp_path, seeds=(0, 3))
    supply, counts = module.supply, module.agent.rows()
    numbers = module.sampler.draw(4)
    rows, predicted = supply.batches(range(2), numbers, counts)
    assert predicted is None
    assert rows.shape == (4, 2, 32, supply.layout.width)
    assert int(numbers[..., 24:].min()) >= 400
    for run, seed in enumerate((0, 3)):
        for update in range(4):
            expected = supply.table[numbers[run, update, :24]].clone()
            expected[:12, supply.layout.reward_column] += 0.1 * seed
            fake = supply.buffers[run].rows(numbers[run, update, 24:] - 400)
            assert torch.equal(rows[update, run], torch.cat([expected, fake]))


def test_chunks_and_threads_and_company_change_nothing(tmp_path):
    train(tmp_path / "a")
    train(tmp_path / "b", budget=Budget(70, 10, 7), threads=2)
    train(tmp_path / "c", seeds=(1,))
    same(weights(tmp_path / "a", 0), weights(tmp_path / "b", 0))
    same(weights(tmp_path / "a", 1), weights(tmp_path / "b", 1))
    same(weights(tmp_path / "a", 1), weights(tmp_path / "c", 1))


def test_runs_that_are_left_share_all_threads_whoever_was_stopped(tmp_path, monkeypatch):
    seen, real_refill = [], Toy.refill

    def refill(self, run, generator):
        seen.append((run.updates, run.seed, torch.get_num_threads()))
        return real_refill(self, run, generator)

    monkeypatch.setattr(Toy, "refill", refill)
    with pytest.raises(OffDynError, match="seed 0 diverged before update 20"):
        train(tmp_path, seeds=(0, 1, 2), threads=2, fail_seed=0, fail_at=20)
    first, later = [(0, 1), (1, 1), (2, 2)], [(1, 1), (2, 2)]
    expected = {0: first, 20: first, 40: later, 60: later}
    assert sorted(seen) == [(updates, *run) for updates, runs in expected.items() for run in runs]


@pytest.mark.parametrize("where", ["mid-refill", "after-refill", "between"])
def test_a_killed_run_repeats_its_refill(tmp_path, monkeypatch, where):
    train(tmp_path / "whole")
    real_refill, real_step = Toy.refill, PopulationModule.training_step

    def refill(self, run, generator):
        rows = real_refill(self, run, generator)
        if where == "mid-refill" and (run.updates, run.seed) == (40, 1):
            raise Killed
        return rows

    def step(self, batch, batch_idx):
        real_step(self, batch, batch_idx)
        if where == "after-refill" and self.updates_done == 50:
            raise Killed
        if where == "between" and self.updates_done == 35:
            self.write_checkpoint()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Toy, "refill", refill)
        patch.setattr(PopulationModule, "training_step", step)
        with pytest.raises(Killed):
            train(tmp_path / "broken")
    checkpoint = torch.load(tmp_path / "broken/checkpoints/last.ckpt", weights_only=True)
    if where != "between":
        assert int(checkpoint["state_dict"]["updates"]) == 40
        assert checkpoint["offdyn"]["buffers"] == [[101, 101], [101, 101]]
    train(tmp_path / "broken")
    for seed in (0, 1):
        same(weights(tmp_path / "whole", seed), weights(tmp_path / "broken", seed))
        ours, theirs = ((tmp_path / name / f"buffers/{seed}.f32").read_bytes() for name in ("whole", "broken"))
        assert ours == theirs
    assert refills(tmp_path / "whole") == refills(tmp_path / "broken")


def test_one_run_fails_alone(tmp_path, capsys):
    settings = {"fail_seed": 1, "fail_at": 40}
    with pytest.raises(OffDynError, match="seed 1 diverged before update 40: a row of its"):
        train(tmp_path / "some", seeds=(0, 1, 2), **settings)
    assert "train: seed 1 diverged before update 40" in capsys.readouterr().err
    assert not (tmp_path / "some/seeds/1").exists()
    train(tmp_path / "none", seeds=(0, 2), **settings)
    for seed in (0, 2):
        same(weights(tmp_path / "some", seed), weights(tmp_path / "none", seed))
    with pytest.raises(OffDynError, match="seed 1 diverged before update 40"):
        train(tmp_path / "some", seeds=(0, 1, 2), **settings)


def test_phases_count_their_own_updates(tmp_path):
    from offdyn_agents.engine.update import scales, schedule

    agent = make_toy()
    table = schedule(agent, 7, 5, 70)
    assert table.shape == (5, 3, 2)
    torch.testing.assert_close(table[:, 0], scales(1e-3, 7, 5)[:, [0, 2]])
    # Updates 2, 5, 8, 11 are "both": at updates 8 and 11 the actor has done 2 and 3 steps of its own.
    torch.testing.assert_close(table[[1, 4], 1], scales(1e-3, 2, 2)[:, [0, 2]])
    torch.testing.assert_close(table[[1, 4], 2], scales(1e-2, 2, 2)[:, [0, 2]])
    module = train(tmp_path, budget=Budget(2, 2, 2))
    start = PopulationModule(agent, module.parts, module.supply, module.sampler, BUDGET, Hardware()).population
    assert torch.equal(module.population.params["actor"][0], start.params["actor"][0])
    assert torch.equal(module.population.targets["critic"][0], start.targets["critic"][0])
    assert not torch.equal(module.population.params["critic"][0], start.params["critic"][0])
    assert module.metrics_of(0).keys() == {"critic_loss"}
    module = train(tmp_path / "three", budget=Budget(3, 3, 3))
    assert not torch.equal(module.population.params["actor"][0], start.params["actor"][0])
    assert not torch.equal(module.population.params["scale"][0], start.params["scale"][0])
    assert module.metrics_of(0).keys() == {"critic_loss", "actor_loss", "scale"}


def test_stages_are_cached(tmp_path):
    Toy.fitted.clear()
    train(tmp_path / "a", cache=tmp_path / "stages", budget=Budget(5))
    train(tmp_path / "b", cache=tmp_path / "stages", seeds=(1, 2), budget=Budget(5))
    assert Toy.fitted == [0, 1, 2]
    same(weights(tmp_path / "a", 1), weights(tmp_path / "b", 1))


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.agents.test_rollouts import train
from offdyn_agents.engine.training.module import Budget
train(Path(sys.argv[1]), budget=Budget(3000, 1000, 10, checkpoint_seconds=0.3), cache=Path(sys.argv[1]) / "stages")
"""


@pytest.mark.slow
def test_kill_9_again_and_again(tmp_path):
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}

    def start(name):
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / name)], cwd=root, env=environment)

    checkpoint = tmp_path / "broken/checkpoints/last.ckpt"
    for at in (1, 700, 1500):
        process, deadline = start("broken"), time.monotonic() + 300
        while not checkpoint.exists() or int(torch.load(checkpoint, weights_only=True)["state_dict"]["updates"]) < at:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.013 * (at % 7))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert start("broken").wait(timeout=600) == start("whole").wait(timeout=600) == 0
    for seed in (0, 1):
        same(weights(tmp_path / "whole", seed), weights(tmp_path / "broken", seed))
        ours, theirs = ((tmp_path / name / f"buffers/{seed}.f32").read_bytes() for name in ("whole", "broken"))
        assert ours == theirs
    assert refills(tmp_path / "whole") == refills(tmp_path / "broken")
