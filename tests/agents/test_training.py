"""Training in Lightning: counts, checkpoints, logs; a killed run goes on and ends where an unbroken one does."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from offdyn_agents.algorithms.registry import agent_class
from offdyn_agents.engine.networks import policy
from offdyn_agents.engine.training.callbacks import Checkpoints, Evaluation
from offdyn_agents.engine.training.module import Budget, Hardware
from offdyn_agents.engine.training.populations import train_population
from offdyn_envs.errors import OffDynError
from tests.agents.synthetic import A, S, dataset, first_updates, killed_at, make

SOURCE, TARGET = dataset(600, 0), dataset(200, 1)


def train(folder, name="iql", budget=None, seeds=(0, 1), evaluation=None, threads=1, **overrides):
    if name == "droco":
        overrides = {"dynamics__epochs": 2, "dynamics__width": 16} | overrides
    agent = make(name, **overrides)
    budget = budget or Budget(60, 30, 25)
    hardware = Hardware(compiled=False, threads=threads)
    return train_population(agent, seeds, SOURCE, TARGET, budget, hardware, folder, evaluation, quiet=True)


def weights(folder, seeds=(0, 1)):
    return [load_file(folder / "seeds" / str(seed) / "weights.safetensors") for seed in seeds]


def same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key]), key


def log(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("updates", "every", "chunk"), [(60, 30, 25), (7, 10, 100), (50, 20, 20), (1, 1, 1)])
def test_every_update_is_done_once(tmp_path, updates, every, chunk):
    budget = Budget(updates, every, chunk)
    module = train(tmp_path, "bc", budget)
    assert module.updates_done == updates
    assert module.population.step.tolist() == [updates, updates]
    sizes, done = [], 0
    while size := budget.next_chunk(done):
        sizes.append(size)
        done += size
    assert done == updates
    assert module.trainer.global_step == len(sizes)
    assert [int(row["updates"]) for row in log(tmp_path)] == np.cumsum(sizes).tolist()


@pytest.mark.parametrize("name", ["iql", "droco"])
def test_chunks_and_threads_change_nothing(tmp_path, name):
    train(tmp_path / "a", name, Budget(40, 40, 40))
    train(tmp_path / "b", name, Budget(40, 10, 7), threads=2)
    same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_evaluations_fall_on_their_updates(tmp_path):
    seen = []

    def returns(act, members):
        actions = act(np.zeros((members, 4, S)))
        assert actions.shape == (members, 4, A)
        seen.append(actions)
        return np.full((members, 4), 100.0 * len(seen)) + np.arange(members)[:, None]

    evaluation = Evaluation(returns, lambda means: means / 10.0)
    module = train(tmp_path, "bc", Budget(70, 30, 25), evaluation=evaluation)
    rows = log(tmp_path)
    assert [row["updates"] for row in rows if row["score"]] == ["30", "60", "70"]
    assert [float(row["return_1"]) for row in rows if row["score"]] == [101.0, 201.0, 301.0]
    assert [float(row["score"]) for row in rows if row["score"]] == pytest.approx([10.05, 20.05, 30.05])
    with torch.no_grad():
        expected = policy(module.population.params["actor"], torch.zeros(2, 4, S))
    np.testing.assert_allclose(seen[-1], expected, atol=1e-6)
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def interrupted(folder, monkeypatch, at, **arguments):
    """Train until the process is at an update."""
    with killed_at(monkeypatch, at):
        train(folder, **arguments)


@pytest.mark.parametrize("name", ["iql", "droco", "bc"])
def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path, monkeypatch, name):
    budget = Budget(60, 30, 10, checkpoint_seconds=0.0)
    train(tmp_path / "whole", name, budget)
    interrupted(tmp_path / "broken", monkeypatch, 20, name=name, budget=budget)
    checkpoint = tmp_path / "broken/checkpoints/last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["state_dict"]["updates"] == 20
    interrupted(tmp_path / "broken", monkeypatch, 50, name=name, budget=budget)
    with first_updates(monkeypatch) as begun:
        module = train(tmp_path / "broken", name, budget)
    assert begun == [50]
    assert module.trainer.global_step == 6
    same(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    columns = [key for key in log(tmp_path / "whole")[0] if key != "seed_updates_per_second"]
    assert [[row[c] for c in columns] for row in log(tmp_path / "broken")] == [
        [row[c] for c in columns] for row in log(tmp_path / "whole")
    ]


def test_log_lines_after_the_checkpoint_are_written_once(tmp_path, monkeypatch):
    budget = Budget(60, 30, 10, checkpoint_seconds=0.0)
    interrupted(tmp_path, monkeypatch, 20, budget=budget)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("30,1.0,1.0,1.0,1.0,1.0,1.0,5.0,,,\n40,1.0,1.")
    with first_updates(monkeypatch) as begun:
        train(tmp_path, budget=budget)
    assert begun == [20, 30, 40, 50]
    assert [row["updates"] for row in log(tmp_path)] == ["10", "20", "30", "40", "50", "60"]
    assert len({row["value_loss"] for row in log(tmp_path)}) == 6


def test_a_finished_checkpoint_trains_no_more(tmp_path, monkeypatch):
    train(tmp_path)
    before = weights(tmp_path)
    with first_updates(monkeypatch) as begun:
        module = train(tmp_path)
    assert begun == []
    assert module.updates_done == 60
    same(before, weights(tmp_path))


def test_a_checkpoint_of_other_runs_is_refused(tmp_path):
    train(tmp_path)
    with pytest.raises(OffDynError, match=r"ckpt' is of iql with seeds \[0, 1\]; iql with seeds \[3, 4\] is allowed"):
        train(tmp_path, seeds=(3, 4))


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.agents.test_training import train
from offdyn_agents.engine.training.module import Budget
train(Path(sys.argv[1]), "iql", Budget(800, 400, 20, checkpoint_seconds=0.0))
"""


def test_kill_9_in_the_middle(tmp_path):
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}

    def start(folder):
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], cwd=root, env=environment)

    broken = start(tmp_path / "broken")
    checkpoint = tmp_path / "broken/checkpoints/last.ckpt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() or int(torch.load(checkpoint, weights_only=True)["state_dict"]["updates"]) < 60:
        assert time.monotonic() < deadline
        assert broken.poll() is None
        time.sleep(0.05)
    broken.send_signal(signal.SIGKILL)
    assert broken.wait() == -signal.SIGKILL
    assert not (tmp_path / "broken/seeds").exists()
    done = int(torch.load(checkpoint, weights_only=True)["state_dict"]["updates"])
    assert 60 <= done < 800
    lines = (tmp_path / "broken/metrics.csv").read_text().splitlines()[: 1 + done // 20]
    again = start(tmp_path / "broken")
    whole = start(tmp_path / "whole")
    assert (again.wait(timeout=240), whole.wait(timeout=240)) == (0, 0)
    same(weights(tmp_path / "broken"), weights(tmp_path / "whole"))
    assert [row["updates"] for row in log(tmp_path / "broken")] == [str(20 * i) for i in range(1, 41)]
    # What was logged before stands as it was, with its speeds: it was not trained once more.
    assert (tmp_path / "broken/metrics.csv").read_text().splitlines()[: len(lines)] == lines


def test_a_checkpoint_never_runs_ahead_of_the_log(tmp_path, monkeypatch):
    """Killed right after a checkpoint: its line is in the log, and once only after resuming."""
    budget = Budget(60, 60, 20, checkpoint_seconds=0.0)

    class Dying(Checkpoints):
        def on_train_batch_end(self, trainer, pl_module, *args):
            super().on_train_batch_end(trainer, pl_module, *args)
            if pl_module.updates_done == 40:
                raise KeyboardInterrupt

    monkeypatch.setattr("offdyn_agents.engine.training.populations.Checkpoints", Dying)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(tmp_path, budget=budget)
    assert [row["updates"] for row in log(tmp_path)] == ["20", "40"]
    monkeypatch.undo()
    with first_updates(monkeypatch) as begun:
        train(tmp_path, budget=budget)
    assert begun == [40]
    assert [row["updates"] for row in log(tmp_path)] == ["20", "40", "60"]


def test_divergence_is_one_line_and_leaves_no_policy(tmp_path):
    with pytest.raises(OffDynError, match="seed 0 diverged before update"):
        train(tmp_path, learning_rate=1e30)
    assert not (tmp_path / "seeds").exists()
    # All have: nothing is left to train.
    content = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert int(content["state_dict"]["updates"]) == 25


@pytest.mark.parametrize("at", [0, 30])
def test_a_diverged_run_stops_alone(tmp_path, monkeypatch, capsys, at):
    """One run gets parameters that overflow; it keeps its last finite ones, and the others end as without it."""
    from offdyn_agents.engine.training.module import PopulationModule

    real = PopulationModule.training_step

    def step(self, batch, batch_idx):
        if self.updates_done == at and 1 in self.seeds:
            run = self.seeds.index(1)
            kept.append([tensor[run].clone() for tensor in self.population.params["actor"]])
            self.population.params["critic"][0][run] *= 1e30
        real(self, batch, batch_idx)

    kept = []
    budget = Budget(60, 30, 15, checkpoint_seconds=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(PopulationModule, "training_step", step)
        returns = lambda act, members: np.arange(members, dtype=float)[:, None] + act(np.zeros((members, 1, S))).mean(2)  # noqa: E731
        with pytest.raises(OffDynError, match=f"train: seed 1 diverged before update {at + 15}: a loss or a parameter"):
            train(tmp_path / "three", seeds=(0, 1, 2), budget=budget, evaluation=Evaluation(returns, None))
    assert f"train: seed 1 diverged before update {at + 15}" in capsys.readouterr().err
    train(tmp_path / "two", seeds=(0, 2), budget=budget)
    for seed in (0, 2):
        same(weights(tmp_path / "three", (seed,)), weights(tmp_path / "two", (seed,)))
    assert sorted(path.name for path in (tmp_path / "three/seeds").iterdir()) == ["0", "2"]
    content = torch.load(tmp_path / "three/checkpoints/last.ckpt", weights_only=True)
    assert content["offdyn"]["stopped"][1][0] == at + 15
    for index, tensor in enumerate(kept[0]):
        assert torch.equal(content["state_dict"][f"params_actor_{index}"][1], tensor)
    assert int(content["state_dict"]["updates"]) == 60
    rows = log(tmp_path / "three")
    assert [row["return_1"] != "" for row in rows if row["return_0"]] == [at >= 30, False]
    assert all(np.isfinite(float(row["critic_loss"])) for row in rows)


def test_another_dataset_or_setting_is_refused(tmp_path, monkeypatch):
    budget = Budget(60, 30, 10, checkpoint_seconds=0.0)
    interrupted(tmp_path, monkeypatch, 20, budget=budget)
    before = (tmp_path / "checkpoints/last.ckpt").read_bytes()
    with pytest.raises(OffDynError, match=r"last.ckpt' is of other settings: SHA-256 \w{12}..., not \w{12}"):
        train(tmp_path, budget=budget, discount=0.9)
    with pytest.raises(OffDynError, match="is of other settings"):
        train(tmp_path, budget=Budget(61, 30, 10))
    changed = dataset(200, 1)
    changed.rewards[17] += 1e-6
    monkeypatch.setattr("tests.agents.test_training.TARGET", changed)
    with pytest.raises(OffDynError, match=r"last.ckpt' is of other data: SHA-256 .* bring those data back") as told:
        train(tmp_path, budget=budget)
    assert "\n" not in str(told.value)
    assert (tmp_path / "checkpoints/last.ckpt").read_bytes() == before


@pytest.mark.parametrize("how", ["truncated", "empty", "text", "other"])
def test_a_damaged_checkpoint_is_one_line(tmp_path, how):
    train(tmp_path, budget=Budget(5))
    path = tmp_path / "checkpoints/last.ckpt"
    content = path.read_bytes()
    damaged = {"truncated": content[: len(content) // 2], "empty": b"", "text": b"no checkpoint"}
    if how == "other":
        torch.save({"state_dict": {}, "offdyn": {"agent": "iql"}}, path)
    else:
        path.write_bytes(damaged[how])
    with pytest.raises(OffDynError, match=r"last.ckpt' is damaged or of an older version; remove the folder") as told:
        train(tmp_path, budget=Budget(5))
    assert "\n" not in str(told.value)


def test_tensorboard_shows_no_step_twice(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from offdyn_agents.engine.training.module import PopulationModule

    budget = Budget(60, 30, 10, checkpoint_seconds=1e9)
    # The checkpoint of update 20 is the last one of a process that is killed at update 50.
    real = PopulationModule.training_step

    def step(self, batch, batch_idx):
        if self.updates_done == 20:
            self.write_checkpoint()
        real(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(PopulationModule, "training_step", step)
        interrupted(tmp_path, monkeypatch, 50, budget=budget)
    # Every process writes a file that is named by the second.
    time.sleep(1.1)
    train(tmp_path, budget=budget)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("value_loss")] == [10, 20, 30, 40, 50, 60]


def test_tasks_of_one_population_are_each_alone(tmp_path, monkeypatch):
    """Two tasks side by side, with rows of their own; each may be continued in other company."""
    from offdyn_agents.engine.training.populations import train_runs
    from offdyn_agents.engine.training.supplies import TaskRuns

    budget, hardware = Budget(60, 30, 10, checkpoint_seconds=0.0), Hardware(compiled=False, threads=2)
    data = {"a": (SOURCE, TARGET), "b": (dataset(350, 5), dataset(90, 6))}

    def run(name, folder, seeds=(0, 1), tasks="ab"):
        agent = make(name, **({"dynamics__epochs": 2, "dynamics__width": 16} if name == "droco" else {}))
        jobs = [TaskRuns(*data[task], seeds, folder / task, task) for task in tasks]
        return train_runs(agent, jobs, budget, hardware, [], "test", quiet=True, cache=None)

    for name in ("iql", "droco"):
        module = run(name, tmp_path / name)
        assert len(module.seeds) == 4
        for task in "ab":
            run(name, tmp_path / name / "alone", tasks=task)
            same(weights(tmp_path / name / task), weights(tmp_path / name / "alone" / task))
            ours, theirs = log(tmp_path / name / task), log(tmp_path / name / "alone" / task)
            columns = [key for key in ours[0] if key != "seed_updates_per_second"]
            for a, b in zip(ours, theirs, strict=True):
                assert [a[c] for c in columns] == [b[c] for c in columns]
    with killed_at(monkeypatch, 30):
        run("iql", tmp_path / "broken")
    run("iql", tmp_path / "broken", tasks="b")
    run("iql", tmp_path / "broken", tasks="a")
    for task in "ab":
        same(weights(tmp_path / "broken" / task), weights(tmp_path / "iql" / task))


def test_a_checkpoint_of_a_version_with_fewer_metrics_is_gone_on_with(tmp_path, monkeypatch):
    """What is logged does not decide what is learned."""
    kind, budget = agent_class("td3-bc"), Budget(12, 4, 4, checkpoint_seconds=0.0)
    train(tmp_path / "whole", "td3-bc", budget)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "metrics", kind.metrics[:4])
        with killed_at(monkeypatch, 8):
            train(tmp_path / "run", "td3-bc", budget)
    with first_updates(monkeypatch) as begun:
        train(tmp_path / "run", "td3-bc", budget)
    assert begun[0] == 8
    same(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    assert [row["outside"] != "" for row in log(tmp_path / "run")] == [False, False, True]
