"""Plans become populations, populations are spread over a cluster, and a lost worker costs nothing."""

import csv
import importlib.util
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from offdyn_agents.engine.training.module import Budget, Hardware
from offdyn_agents.runs.cluster import Cluster, connected, default_threads, slots
from offdyn_agents.runs.locks import held, holder
from offdyn_agents.runs.plans import Plan, read_run
from offdyn_agents.runs.runs import arrange, train_tasks
from offdyn_agents.runs.track import Arrangement, Ledger, Population, duration, reason, time_left
from offdyn_envs import cli
from offdyn_envs.errors import OffDynError
from tests.agents import stand_ins

ROOT = Path(__file__).parents[2]
GRAVITIES = ("0.1", "0.5", "2.0", "5.0")
TASKS = ("hopper-gravity-0.5-medium", "walker2d-gravity-0.5-medium", "halfcheetah-friction-0.1-medium")
ROLLOUTS = {"starts": "40", "horizon": "2", "refill_every": "100", "dynamics.width": "16", "dynamics.epochs": "3"}
NEEDS_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")


def plan(task, out, budget=None, agent="bc", seeds=(0, 1), **where):
    overrides = {"width": "16", "batch_size": "32", **(ROLLOUTS if agent == "mopo" else {})}
    hardware = Hardware(**({"threads": 1, "compiled": False} | where))
    return Plan(agent, task, seeds, overrides, budget or Budget(12, 12, 6), hardware, out, quiet=True)


@pytest.fixture
def data(monkeypatch):
    monkeypatch.setattr("offdyn_envs.load_task", stand_ins.load_task)
    monkeypatch.setattr("offdyn_envs.datasets.load_dataset", stand_ins.load_dataset)
    monkeypatch.setattr("offdyn_envs.datasets.task.available", stand_ins.available)
    monkeypatch.setattr("offdyn_agents.runs.problems.target_returns", stand_ins.target_returns)


# ---- planning


def members(plans, *how):
    return [population.members for population in arrange(plans, *how).populations]


def test_plans_of_equal_dimensions_are_one_population_of_a_gpu(data, tmp_path):
    plans = [plan(task, tmp_path, device="cuda") for task in TASKS]
    assert arrange(plans).populations == [Population((0,), 24), Population((1, 2), 48)]
    assert members(plans, 1) == [(0,), (1,), (2,)]
    # Several have a share each.
    many = [plan(task, tmp_path, device="cuda") for task in (f"halfcheetah-gravity-{g}-medium" for g in GRAVITIES)]
    assert [len(group) for group in members(many)] == [4]
    assert [len(group) for group in members(many, 0, 2)] == [2, 2]
    assert [len(group) for group in members(many, 0, 9)] == [1] * 4
    assert [len(group) for group in members(many, 3, 9)] == [3, 1]


def test_a_cpu_takes_as_many_tasks_as_its_threads_have_runs_for(data, tmp_path):
    tasks = [f"halfcheetah-gravity-{g}-medium" for g in GRAVITIES]
    for threads, seeds, expected in ((1, 2, 1), (2, 3, 1), (4, 3, 2), (4, 2, 2), (16, 1, 4), (2, 5, 1)):
        plans = [plan(task, tmp_path, seeds=tuple(range(seeds)), threads=threads) for task in tasks]
        assert [len(group) for group in members(plans)] == [expected] * (4 // expected)
        assert members(plans, 4) == [(0, 1, 2, 3)]


def test_plans_with_nothing_left_are_left_alone(data, tmp_path):
    plans = [plan(task, tmp_path) for task in TASKS]
    assert members(plans) == [(0,), (1,), (2,)]
    assert not list(tmp_path.iterdir())
    train_tasks(plans[1:2])
    found = arrange(plans)
    assert found.earlier.keys() == {1}
    assert found.earlier[1]["status"] == "complete"
    assert [p.members for p in found.populations] == [(0,), (2,)]


def test_what_is_equally_far_stays_together(data, tmp_path, monkeypatch):
    plans = [plan(task, tmp_path) for task in TASKS]
    monkeypatch.setattr("offdyn_agents.runs.runs.peek", lambda folder: 9 if "halfcheetah" in str(folder) else 0)
    assert arrange(plans, 3).populations == [Population((0,), 24), Population((1,), 24), Population((2,), 6)]


def test_a_folder_has_one_process(data, tmp_path):
    one = plan(TASKS[0], tmp_path)
    one.folder.mkdir(parents=True)
    with held(one.folder / "lock") as mine:
        assert mine
        with pytest.raises(OffDynError, match=rf"medium/bc' is being trained by process {os.getpid()} on "):
            train_tasks([one])
        with held(one.folder / "lock", wait=0.3) as again:
            assert not again
    assert train_tasks([one])[0].facts["status"] == "complete"
    assert holder(one.folder / "lock").startswith(f"process {os.getpid()} on")
    assert holder(tmp_path / "nothing") == "another process"


def test_who_waits_gets_the_lock(tmp_path):
    let_go = threading.Event()

    def hold():
        with held(tmp_path / "lock"):
            let_go.wait(10)

    other = threading.Thread(target=hold)
    other.start()
    threading.Timer(0.3, let_go.set).start()
    with held(tmp_path / "lock", wait=10) as mine:
        assert mine
    other.join()


# ---- time left


def test_time_left_of_one_population_at_a_time():
    assert time_left([10, 20, 30], [], 5.0) is None
    assert time_left([10, 20, 30], [0], 5.0) == pytest.approx(25.0)
    assert time_left([10, 20, 30], [0, 1], 20.0) == pytest.approx(20.0)
    assert time_left([10, 20, 30], [0, 1, 2], 40.0) == 0.0
    assert time_left([0, 0], [0], 1.0) is None


def test_time_left_of_several_at_a_time():
    # Four equal ones on two workers: after the first, the second is as good as done.
    assert time_left([10, 10, 10, 10], [0], 60.0, 2) == pytest.approx(60.0)
    # Five: one worker has three.
    assert time_left([10] * 5, [0, 1], 60.0, 2) == pytest.approx(120.0)
    assert time_left([10, 10], [1], 60.0, 8) == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (120, "2 min"), (3599, "1 h 0 min"), (8000, "2 h 13 min"), (200_000, "2 d 8 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_ledger_tells_what_is_left(tmp_path, capsys):
    plans = [replace(plan(task, tmp_path), quiet=False) for task in TASKS]
    reported = []
    populations = [Population((0,), 600), Population((2,), 1200)]
    ledger = Ledger(plans, Arrangement({1: {"n": 1}}, populations), lambda outcome: reported.append(outcome.facts))
    ledger.ended(0, [{"n": 0}])
    err = capsys.readouterr().err
    assert err.startswith("1 of 2 populations done (2 of 3 tasks), 1 left; ")
    assert err.endswith(" left\n")
    assert ledger.outlook(30.0) == (
        "1 of 2 populations done (2 of 3 tasks), 1 left; 20 seed-updates/s all told; about 60 s left"
    )
    ledger.ended(1, [{"n": 2}])
    assert ledger.outlook(90.0) == "2 of 2 populations done (3 of 3 tasks), 0 left; 20 seed-updates/s all told"
    assert [(outcome.facts["n"], outcome.fresh) for outcome in ledger.outcomes()] == [(0, True), (1, False), (2, True)]
    assert [facts["n"] for facts in reported] == [1, 0, 2]


def test_a_track_shows_the_time_left(data, tmp_path, capsys):
    plans = [replace(plan(task, tmp_path), quiet=False) for task in TASKS]
    train_tasks(plans, 2)
    lines = [line for line in capsys.readouterr().err.splitlines() if "populations done" in line]
    assert len(lines) == 2
    assert lines[0].startswith("1 of 2 populations done (1 of 3 tasks), 1 left; ")
    assert lines[1].startswith("2 of 2 populations done (3 of 3 tasks), 0 left; ")


class Large:
    """What a training holds in memory."""


@pytest.mark.parametrize("error", [MemoryError("out of memory"), RuntimeError("a kernel"), OffDynError("settings")])
def test_what_fails_on_one_machine_leaves_the_others_alone(data, tmp_path, monkeypatch, capsys, error):
    plans = [plan(task, tmp_path, agent="iql") for task in TASKS]
    real, found = stand_ins.load_task, []

    def load_task(name):
        if name == TASKS[0]:
            loaded = Large()
            raise error if loaded else KeyError
        return real(name)

    monkeypatch.setattr("offdyn_envs.load_task", load_task)
    # Memory that cannot be had has a line of its own.
    shown = OffDynError(f"not enough memory: {error}") if isinstance(error, MemoryError) else error
    with pytest.raises(type(shown), match=str(shown)) as told:
        train_tasks(plans, 0, lambda outcome: found.append(outcome.plan.task))
    assert found == list(TASKS[1:])
    error, named = shown, "" if isinstance(shown, OffDynError) else f"{TASKS[0]} iql: "
    line = f"offdyn: {named}{reason(error)}; the others go on"
    assert capsys.readouterr().err.splitlines().count(line) == 1
    assert isinstance(error, OffDynError) or reason(error) == f"{type(error).__name__}: {error}"
    # What the failed one held is not kept while the others train.
    where, held = told.tb, []
    while where:
        held += [value for value in where.tb_frame.f_locals.values() if isinstance(value, Large)]
        where = where.tb_next
    assert not held


# ---- room on a cluster


def test_room_for_populations():
    nodes = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 6.0}, {"memory": 1.0}]
    assert slots(nodes, 1, False) == 22
    assert slots(nodes, 4, False) == 5
    assert slots(nodes, 17, False) == 0
    assert slots(nodes, 4, True) == 2
    assert slots(nodes, 16, True) == 1
    assert default_threads(nodes, False) == 6
    assert default_threads(nodes, True) == 8
    assert default_threads([], False) == 1


class SimpleReference:
    def __init__(self, function, plans):
        self.function, self.plans = function, plans


class Wire:
    """A cluster in this process: tasks run when they are asked for; `dies` says which worker never answers."""

    class RayError(Exception):
        pass

    def __init__(self, nodes, dies=lambda task: None):
        self._nodes, self._dies, self.asked = nodes, dies, []
        self.exceptions = SimpleNamespace(RayError=self.RayError)

    def nodes(self):
        return [{"Alive": True, "Resources": node} for node in self._nodes] + [{"Alive": False, "Resources": {}}]

    def remote(self, **first):
        def wrap(function):
            def options(**more):
                def send(plans):
                    self.asked.append(first | more)
                    # Any object with an identity, as Ray's references have one.
                    return SimpleReference(function, plans)

                return SimpleNamespace(remote=send)

            return SimpleNamespace(options=options)

        return wrap

    def wait(self, references, num_returns):
        assert num_returns == 1
        return references[:1], references[1:]

    def get(self, reference):
        function, plans = reference.function, reference.plans
        error = self._dies(plans[0].task)
        if error is not None:
            raise error
        try:
            return function(list(plans))
        except Exception as cause:
            error = self.RayError("ray::train_here() (pid=1, ip=127.0.0.1)\na traceback")
            error.cause = cause
            raise error from None


def test_hardware_of_a_cluster():
    both = Cluster(Wire([{"CPU": 16.0, "GPU": 2.0}, {"CPU": 6.0}]))
    assert both.hardware("auto", "fp32", None) == Hardware("cuda", "fp32", 8)
    assert both.hardware("cpu", "bf16", None) == Hardware("cpu", "bf16", 6)
    assert both.hardware("cpu", "fp32", 16).threads == 16
    with pytest.raises(OffDynError, match="no machine of the cluster has 17 CPU threads; the largest has 16 CPUs"):
        both.hardware("cpu", "fp32", 17)
    with pytest.raises(OffDynError, match="device 'cuda' is not on any machine of the cluster; cpu is allowed"):
        Cluster(Wire([{"CPU": 6.0}])).hardware("cuda", "fp32", None)
    with pytest.raises(OffDynError, match="unknown device 'tpu'"):
        both.hardware("tpu", "fp32", None)


def test_populations_travel_with_what_they_need(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OFFDYN_DATA_URL", "https://example.org")
    wire = Wire([{"CPU": 2.0}])
    plans = [plan(task, Path("here")) for task in TASKS]
    reported = []
    outcomes = Cluster(wire).train(plans, 1, reported.append)
    assert [outcome.plan for outcome in outcomes] == plans
    assert all(outcome.fresh and outcome.facts["status"] == "complete" for outcome in outcomes)
    assert reported == outcomes
    assert [asked["name"] for asked in wire.asked] == [f"{task} bc" for task in TASKS]
    for asked in wire.asked:
        assert (asked["num_cpus"], asked["num_gpus"], asked["max_calls"], asked["max_retries"]) == (1, 0, 1, 10)
        assert asked["runtime_env"]["env_vars"]["OFFDYN_DATA_URL"] == "https://example.org"
    assert read_run(tmp_path / "here" / TASKS[0] / "bc")["status"] == "complete"
    again = Cluster(wire).train(plans)
    assert not any(outcome.fresh for outcome in again)
    assert len(wire.asked) == 3


def test_ended_runs_are_judged_by_workers(data, tmp_path, monkeypatch):
    wire = Wire([{"CPU": 2.0}])
    plans = [plan(task, tmp_path) for task in TASKS[:2]]
    Cluster(wire).train(plans)
    judged = []

    def judge_stages(judge, task, data, failed, facts):
        judged.append((task.folder, judge.compare))
        facts["stages"] = {"judged": "told"}

    # Cloning has no model; what is looked at is who is asked.
    monkeypatch.setattr("offdyn_agents.runs.runs.learned_model", lambda agent: "merged")
    monkeypatch.setattr("offdyn_agents.runs.runs.judge_stages", judge_stages)
    outcomes = Cluster(wire).train([replace(plans[0], judge=True), plans[1]])
    assert judged == [(plans[0].folder.resolve(), True)]
    assert [outcome.facts.get("stages", {}).get("judged") for outcome in outcomes] == ["told", None]
    assert read_run(plans[0].folder)["stages"]["judged"] == "told"


def test_a_population_that_fails_leaves_the_others_alone(data, tmp_path, capsys):
    wire = Wire([{"CPU": 2.0}], lambda task: Wire.RayError("The worker died.\nMore.") if task == TASKS[0] else None)
    plans = [plan(task, tmp_path) for task in TASKS]
    damaged = plans[1].folder / "checkpoints/last.ckpt"
    cluster_of_one = Cluster(wire)
    found = []

    def report(outcome):
        found.append(outcome.plan.task)

    real = wire.get

    def get(reference):
        # Damaged after the populations were arranged: the worker finds it.
        damaged.parent.mkdir(parents=True, exist_ok=True)
        damaged.write_bytes(b"")
        return real(reference)

    wire.get = get
    with pytest.raises(OffDynError) as told:
        cluster_of_one.train(plans, 1, report)
    died = f"{TASKS[0]} bc: The worker died. The same command goes on from the checkpoints.; "
    assert str(told.value).startswith(died)
    assert "last.ckpt' is damaged" in str(told.value)
    assert "\n" not in str(told.value)
    assert found == [TASKS[2]]
    assert capsys.readouterr().err.count("; the others go on") == 2


def test_a_fault_of_ours_keeps_its_traceback(data, tmp_path, monkeypatch):
    def broken(name):
        raise KeyError(name)

    monkeypatch.setattr("offdyn_envs.load_task", broken)
    with pytest.raises(Wire.RayError, match="\na traceback"):
        Cluster(Wire([{"CPU": 2.0}])).train([plan(TASKS[0], tmp_path, agent="iql")])


def test_an_ended_run_that_cannot_be_judged_keeps_no_other_from_training(data, tmp_path, monkeypatch, capsys):
    wire = Wire([{"CPU": 2.0}])
    plans = [plan(task, tmp_path) for task in TASKS[:2]]
    Cluster(wire).train(plans[:1])

    def broken(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr("offdyn_agents.runs.runs.learned_model", lambda agent: "merged")
    monkeypatch.setattr("offdyn_agents.runs.runs.judge_stages", broken)
    outcomes = Cluster(wire).train([replace(plans[0], judge=True), replace(plans[1], judge=False)])
    assert [outcome.facts["status"] for outcome in outcomes] == ["complete"] * 2
    line = f"offdyn: {TASKS[0]} bc: learned dynamics not judged: RuntimeError: no memory"
    assert capsys.readouterr().err.splitlines().count(line) == 1
    # Likewise on one machine.
    plans[1] = plan(TASKS[2], tmp_path)
    outcomes = train_tasks([replace(plans[0], judge=True), replace(plans[1], judge=False)])
    assert [outcome.fresh for outcome in outcomes] == [False, True]
    assert capsys.readouterr().err.splitlines().count(line) == 1


# ---- the command


def offdyn(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    output = capsys.readouterr()
    return ended.value.code, output.out, output.err


def test_without_the_extra_there_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, out, err = offdyn(capsys, "train", "bc", "--track", "core-12", "--ray", "auto", "--out", tmp_path)
    assert (code, out) == (2, "")
    assert err == "offdyn: this command needs 'ray', which is not installed: pip install '.[ray]' in the checkout\n"
    assert not list(tmp_path.iterdir())


def test_nobody_at_the_address_is_one_line(monkeypatch):
    fake = SimpleNamespace(is_initialized=lambda: False, exceptions=SimpleNamespace(RayError=Wire.RayError))
    monkeypatch.setitem(sys.modules, "ray", fake)
    with pytest.raises(OffDynError, match=r"no Ray cluster answers at '127\.0\.0\.1:9': Connection refused"):
        with connected("127.0.0.1:9"):
            pass


# ---- a real one


@pytest.fixture
def local_cluster(monkeypatch):
    """Two workers on this machine, with small datasets in every process."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Otherwise Ray would write a token into the home folder.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    import ray

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": "tests.agents.stand_ins.install"},
    )
    yield
    ray.shutdown()


def lines(folder):
    """The lines of a run's log, without its speed."""
    path = folder / "metrics.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seed_updates_per_second"} for row in csv.DictReader(file)]


def kill_midway(folder, updates, found):
    """Kill the worker that trains in a folder as soon as its checkpoint is so far."""
    checkpoint = folder / "checkpoints/last.ckpt"
    until = time.monotonic() + 300
    while time.monotonic() < until:
        if checkpoint.exists():
            done = int(torch.load(checkpoint, weights_only=True)["state_dict"]["updates"])
            if done >= updates:
                pid = int(holder(folder / "lock").split()[1])
                assert "ray::" in Path(f"/proc/{pid}/cmdline").read_text()
                log = (folder / "metrics.csv").read_text().splitlines()
                os.kill(pid, signal.SIGKILL)
                found.update(pid=pid, updates=done, log=log[: 1 + done // 20])
                return
        time.sleep(0.02)


@pytest.mark.slow
@NEEDS_RAY
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("agent", ["iql", "mopo"])
def test_a_killed_worker_costs_nothing(local_cluster, data, tmp_path, agent):
    """Also that of an agent with stages and a file of rollout rows."""
    budget = Budget(600, 300, 20, checkpoint_seconds=0.2)
    tasks = [*TASKS[:2], "hopper-friction-2.0-medium"]
    ours = [plan(task, tmp_path / "spread", budget, agent) for task in tasks]
    theirs = [plan(task, tmp_path / "alone", budget, agent) for task in tasks]
    killed, reported = {}, []
    watcher = threading.Thread(target=kill_midway, args=(ours[0].folder, 200, killed))
    watcher.start()
    with connected("auto") as place:
        assert place.hardware("cpu", "fp32", 1) == Hardware("cpu", "fp32", 1)
        outcomes = place.train(ours, 2, reported.append)
    watcher.join()
    assert 200 <= killed["updates"] < 600
    assert len(reported) == len(tasks)
    assert all(outcome.fresh and outcome.facts["status"] == "complete" for outcome in outcomes)
    # Another process went on from the checkpoint: what was logged before it stands as it was, with its speeds.
    assert f"process {killed['pid']} " not in holder(ours[0].folder / "lock")
    assert (ours[0].folder / "metrics.csv").read_text().splitlines()[: len(killed["log"])] == killed["log"]
    assert os.getpid() not in {int(holder(one.folder / "lock").split()[1]) for one in ours}
    train_tasks(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for seed in one.seeds:
            weights = [load_file(p.folder / "seeds" / str(seed) / "weights.safetensors") for p in (one, other)]
            assert weights[0].keys() == weights[1].keys()
            assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
        assert lines(one.folder) == lines(other.folder)
        assert [row["updates"] for row in lines(one.folder)] == [str(n) for n in range(20, 601, 20)]


@pytest.mark.slow
@NEEDS_RAY
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
def test_the_command_on_a_cluster(local_cluster, tmp_path, capsys):
    words = ["train", "bc", *TASKS[:2], "--ray", "auto", "--threads", 1, "--seeds", 1, "--updates", 12]
    words += ["--set", "width=16", "--out", tmp_path]
    code, out, err = offdyn(capsys, *words)
    assert code == 0
    assert out.count("next: offdyn evaluate") == 2
    assert "1 of 2 populations done (1 of 2 tasks), 1 left; " in err
    code, out, _ = offdyn(capsys, *words)
    assert (code, out.count("already complete")) == (0, 2)
    code, out, err = offdyn(capsys, *words, "--set", "learning_rate=0.5")
    assert code == 2
    assert "holds a run with learning_rate" in err
    # A worker's own complaint: the checkpoint is of other data.
    folder = tmp_path / TASKS[0] / "bc"
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    checkpoint["offdyn"]["identity"]["data"] = "0" * 64
    torch.save(checkpoint, folder / "checkpoints/last.ckpt")
    (folder / "run.json").unlink()
    code, out, err = offdyn(capsys, *words)
    assert code == 2
    assert err.splitlines()[-1].startswith("offdyn: checkpoint '")
    assert "is of other data: SHA-256" in err.splitlines()[-1]
