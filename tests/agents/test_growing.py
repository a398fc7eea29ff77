"""Runs that grow in updates and in seeds end as ones that were trained so at once; a kill anywhere costs nothing."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from offdyn_agents.algorithms.registry import AGENTS, agent_class
from offdyn_agents.engine.rollouts import ModelBased
from offdyn_agents.engine.settings import setting_names
from offdyn_agents.engine.stages import StageResults
from offdyn_agents.engine.training.module import Budget, Hardware, PopulationModule
from offdyn_agents.runs import growing
from offdyn_agents.runs.cluster import Cluster
from offdyn_agents.runs.plans import Plan, read_run
from offdyn_agents.runs.runs import arrange, plan_agent, train_tasks
from offdyn_agents.testing.sizes import small_settings
from offdyn_envs import cli
from offdyn_envs.atomic import write_json
from offdyn_envs.errors import OffDynError
from tests.agents import stand_ins
from tests.agents.synthetic import Killed, first_updates, killed_at
from tests.agents.test_cluster import Wire

TASKS = ("walker2d-gravity-0.5-medium", "halfcheetah-friction-0.1-medium")
TASK = TASKS[0]
OTHER = {"wall_clock_s", "seed_updates_per_second", "commit", "versions", "command", "variant"}
BUDGET = Budget(18, 6, 4, checkpoint_seconds=0.0)
CONSTANT = replace(BUDGET, schedule="constant")


def small(patch):
    """Put small things in the place of the large ones."""
    patch.setattr("offdyn_envs.load_task", stand_ins.load_task)
    patch.setattr("offdyn_envs.datasets.load_dataset", stand_ins.load_dataset)
    patch.setattr("offdyn_envs.datasets.task.available", stand_ins.available)
    patch.setattr("offdyn_agents.runs.problems.target_returns", stand_ins.target_returns)
    # Compiling and drawing take longer than these runs.
    patch.setattr("offdyn_agents.engine.execution.can_compile", lambda _: False)
    patch.setattr("offdyn_agents.runs.runs.draw_ended", lambda *_: None)


@pytest.fixture(autouse=True)
def data(monkeypatch):
    small(monkeypatch)


def plan(out, agent="td3-bc", seeds=(0, 1), budget=BUDGET, task=TASK, **more):
    kind = agent_class(agent).settings_class
    overrides = {key: str(value) for key, value in small_settings(kind).items()} | {"data": "merged"}
    # Rates that fall end with a run.
    overrides |= {"decay": "none"} if "decay" in setting_names(kind) else {}
    hardware = Hardware(threads=1, compiled=False)
    return Plan(agent, task, seeds, overrides, budget, hardware, out, quiet=True, judge=False, **more)


def train(*args, **named):
    made = plan(*args, **named)
    (outcome,) = train_tasks([made])
    return made.folder, outcome


def table(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def told(folder):
    return {key: value for key, value in read_run(folder).items() if key not in OTHER}


def same(ours, theirs, exact=True):
    """Hold one run folder against another; joined losses are means of means, equal up to rounding."""
    assert told(ours) == told(theirs)
    for seed in read_run(theirs)["seeds"]:
        home = f"seeds/{seed}"
        mine, other = (load_file(folder / home / "weights.safetensors") for folder in (ours, theirs))
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], other[key]) for key in mine), seed
        assert (ours / home / "policy.onnx").read_bytes() == (theirs / home / "policy.onnx").read_bytes()
    mine, other = table(ours), table(theirs)
    assert list(mine[0]) == list(other[0])
    assert len(mine) == len(other)
    for a, b in zip(mine, other, strict=True):
        for name in a.keys() - {"seed_updates_per_second"}:
            if exact or not a[name] or name in ("updates", "score") or name.startswith("return_"):
                assert a[name] == b[name], name
            else:
                assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-5, abs=1e-6)
    logs = [folder / "rollouts.jsonl" for folder in (ours, theirs)]
    assert [log.read_text() for log in logs if log.exists()] in (
        [],
        [logs[1].read_text()] * 2 if logs[1].exists() else [],
    )
    assert not (ours / growing.HOME).exists()
    assert not (ours / growing.LEFT).exists()


def steps(folder):
    """Return which updates TensorBoard shows of the first tag, and its tags."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    tags = sorted(tag for tag in found.Tags()["scalars"] if tag != "epoch")
    return {tag: [event.step for event in found.Scalars(tag)] for tag in tags}


# ---- more updates


@pytest.mark.parametrize("agent", AGENTS)
def test_more_updates_and_more_seeds(agent, tmp_path, monkeypatch):
    whole, _ = train(tmp_path, agent, (0, 1, 2), CONSTANT, variant="whole")
    train(tmp_path, agent, (0, 2), replace(CONSTANT, updates=10))
    with first_updates(monkeypatch) as begun:
        grown, outcome = train(tmp_path, agent, (0, 1, 2), CONSTANT)
    assert outcome.fresh
    # The newcomer comes to where the others are, then all go on.
    assert begun[0] == 0
    assert begun == sorted(set(begun))
    same(grown, whole, exact=False)
    assert ("schedule" in read_run(whole)) == bool(plan_agent(plan(tmp_path, agent)).annealed)
    assert (grown / "buffers").exists() == issubclass(agent_class(agent), ModelBased)


def test_an_end_between_evaluations_leaves_no_trace(tmp_path):
    whole, _ = train(tmp_path, variant="whole", budget=BUDGET)
    # 4 is the end of a chunk and no evaluation; 5 is neither; the last line had an evaluation each time.
    for updates in (4, 5, 11):
        broken, _ = train(tmp_path, budget=replace(BUDGET, updates=updates))
        assert [row["updates"] for row in table(broken) if row["score"]][-1] == str(updates)
    broken, _ = train(tmp_path, budget=BUDGET)
    same(broken, whole)


def test_the_end_is_forgotten_even_after_a_kill(tmp_path, monkeypatch):
    whole, _ = train(tmp_path, variant="whole", budget=BUDGET)
    train(tmp_path, budget=replace(BUDGET, updates=5))
    for at in (5, 12):
        with killed_at(monkeypatch, at):
            train(tmp_path, budget=BUDGET)
    with first_updates(monkeypatch) as begun:
        broken, _ = train(tmp_path, budget=BUDGET)
    assert begun == [12, 16]
    same(broken, whole)


def test_an_unfinished_run_may_be_given_more(tmp_path, monkeypatch):
    whole, _ = train(tmp_path, variant="whole", budget=replace(BUDGET, updates=30))
    with killed_at(monkeypatch, 10):
        train(tmp_path, budget=BUDGET)
    broken, _ = train(tmp_path, budget=replace(BUDGET, updates=30))
    same(broken, whole)


def test_a_cosine_is_tied_to_its_updates(tmp_path):
    folder, _ = train(tmp_path, "bc", budget=BUDGET)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    message = (
        r"holds a run with updates 18, not 30: its rates fall to 0 over them; --schedule constant is for runs that may "
        "go on; take another --out, or --variant"
    )
    with pytest.raises(OffDynError, match=message):
        train(tmp_path, "bc", budget=replace(BUDGET, updates=30))
    with pytest.raises(OffDynError, match="holds a run with schedule cosine, not constant"):
        train(tmp_path, "bc", budget=CONSTANT)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"} == {
        path: content for path, content in before.items() if path.name != "lock"
    }


def test_a_constant_rate_is_another_training(tmp_path):
    falling, _ = train(tmp_path / "cosine", "bc", budget=BUDGET)
    constant, _ = train(tmp_path / "constant", "bc", budget=CONSTANT)
    first, second = (load_file(folder / "seeds/0/weights.safetensors") for folder in (falling, constant))
    assert not all(torch.equal(first[key], second[key]) for key in first)
    # An agent that anneals nothing has one training by either name.
    falling, _ = train(tmp_path / "cosine", budget=BUDGET)
    constant, _ = train(tmp_path / "constant", budget=CONSTANT)
    same(constant, falling)
    assert not train(tmp_path / "cosine", budget=CONSTANT)[1].fresh


@pytest.mark.parametrize("seeds", [(0, 1), (0, 1, 2)])
def test_fewer_updates_are_refused(seeds, tmp_path):
    train(tmp_path)
    with pytest.raises(OffDynError, match="holds a run with updates 18, not 12; take another --out"):
        train(tmp_path, seeds=seeds, budget=replace(BUDGET, updates=12))


def test_other_settings_are_refused_as_ever(tmp_path):
    train(tmp_path)
    other = plan(tmp_path, seeds=(0, 1, 2), budget=replace(BUDGET, updates=30))
    with pytest.raises(OffDynError, match="holds a run with width 16, not 24"):
        train_tasks([replace(other, overrides=other.overrides | {"width": "24"})])


def test_rows_that_are_gone_are_missed_at_once(tmp_path):
    folder, _ = train(tmp_path, "mobody")
    shutil.rmtree(folder / "buffers")
    before = (folder / "run.json").read_bytes()
    with pytest.raises(OffDynError, match=r"from 18 updates to 30: the rows of model rollouts of seed 0.* are gone"):
        train(tmp_path, "mobody", budget=replace(BUDGET, updates=30))
    assert (folder / "run.json").read_bytes() == before


def test_evaluations_of_the_shorter_run_are_not_the_longer_ones(tmp_path):
    folder, _ = train(tmp_path)
    for name in growing.EVALUATIONS:
        (folder / name).write_text("{}")
    train(tmp_path)
    assert all((folder / name).exists() for name in growing.EVALUATIONS)
    train(tmp_path, budget=replace(BUDGET, updates=30))
    assert not any((folder / name).exists() for name in growing.EVALUATIONS)


# ---- more seeds


@pytest.mark.parametrize("agent", ["td3-bc", "mopo"])
def test_more_seeds_of_an_ended_run(agent, tmp_path, monkeypatch):
    whole, _ = train(tmp_path, agent, (0, 1, 2, 3), variant="whole")
    train(tmp_path, agent, (0, 2))
    with first_updates(monkeypatch) as begun:
        grown, outcome = train(tmp_path, agent, (0, 1, 2, 3))
    assert outcome.fresh
    assert begun[0] == 0
    assert begun == sorted(set(begun))
    same(grown, whole, exact=False)
    assert steps(grown) == steps(whole)


@pytest.mark.parametrize("agent", ["bc", "mobody"])
def test_more_seeds_of_an_unfinished_run(agent, tmp_path, monkeypatch):
    whole, _ = train(tmp_path, agent, (0, 1, 2), variant="whole")
    with killed_at(monkeypatch, 10):
        train(tmp_path, agent, (1,))
    with first_updates(monkeypatch) as begun:
        grown, _ = train(tmp_path, agent, (0, 1, 2))
    assert begun.count(0) == 1
    assert begun == sorted(set(begun))
    same(grown, whole, exact=False)


def test_what_is_there_is_not_trained_again(tmp_path, monkeypatch):
    folder, _ = train(tmp_path, seeds=(2, 0, 1))
    for seeds in ((0, 1, 2), (1, 0), (2,)):
        with first_updates(monkeypatch) as begun:
            _, outcome = train(tmp_path, seeds=seeds)
        assert (begun, outcome.fresh, outcome.facts["seeds"]) == ([], False, [0, 1, 2])
    # Others go along to more updates.
    train(tmp_path, seeds=(1,), budget=replace(BUDGET, updates=30))
    assert (read_run(folder)["seeds"], read_run(folder)["updates"]) == ([0, 1, 2], 30)


def test_an_unfinished_run_goes_on_with_all_its_seeds(tmp_path, monkeypatch):
    whole, _ = train(tmp_path, variant="whole", seeds=(0, 1, 2))
    with killed_at(monkeypatch, 10):
        train(tmp_path, seeds=(0, 1, 2))
    broken, _ = train(tmp_path, seeds=(0,))
    same(broken, whole)


def test_tasks_grow_as_one_population(tmp_path, monkeypatch):
    def plans(out, seeds):
        return [plan(tmp_path / out, "iql", seeds, task=task) for task in TASKS]

    train_tasks(plans("whole", (0, 1, 2)), 2)
    train_tasks(plans("broken", (0, 1)), 2)
    sizes = []
    real = PopulationModule.training_step

    def step(self, batch, batch_idx):
        sizes.append(len(self.seeds))
        real(self, batch, batch_idx)

    monkeypatch.setattr(PopulationModule, "training_step", step)
    wanted = plans("broken", (0, 1, 2))
    (population,) = arrange(wanted, 2).populations
    assert (population.members, population.work) == ((0, 1), 2 * 18)
    train_tasks(wanted, 2)
    assert set(sizes) == {2}
    for ours, theirs in zip(wanted, plans("whole", (0, 1, 2)), strict=True):
        same(ours.folder, theirs.folder, exact=False)


def diverge(monkeypatch, seed, at):
    """Make a run of a seed diverge in the chunk that has an update."""
    real = PopulationModule.training_step

    def step(self, batch, batch_idx):
        if self.updates_done <= at < self.updates_done + batch and seed in self.seeds:
            self.population.params["actor"][0][self.seeds.index(seed)] = torch.nan
        real(self, batch, batch_idx)

    monkeypatch.setattr(PopulationModule, "training_step", step)


@pytest.mark.parametrize("diverging", [0, 2])
@pytest.mark.parametrize("seeds", [(0, 1), (0,)])
def test_a_diverged_seed_stays_so(diverging, seeds, tmp_path, monkeypatch):
    """Also where it was the only one, among the first and among those that come later."""
    diverge(monkeypatch, diverging, 7)
    whole, _ = train(tmp_path, variant="whole", seeds=(*seeds, 2))
    train(tmp_path, seeds=seeds)
    broken, outcome = train(tmp_path, seeds=(*seeds, 2))
    assert outcome.facts["status"] == "diverged"
    assert list(outcome.facts["stopped"]) == [str(diverging)]
    assert told(broken) == told(whole)
    sound = {0, 1, 2} & {*seeds, 2} - {diverging}
    for seed in sound:
        ours, theirs = (load_file(folder / f"seeds/{seed}/weights.safetensors") for folder in (broken, whole))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    columns = ["updates", "score", *(f"return_{seed}" for seed in sound)]
    assert [[row[c] for c in columns] for row in table(broken)] == [[row[c] for c in columns] for row in table(whole)]
    assert train(tmp_path, seeds=(*seeds, 2))[1].fresh is False


def test_the_clock_of_both_trainings_counts(tmp_path):
    folder, outcome = train(tmp_path, "droco")
    content = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    content["offdyn"]["seconds"] = 1000.0
    torch.save(content, folder / "checkpoints/last.ckpt")
    assert train(tmp_path, "droco", seeds=(0, 1, 2))[1].facts["wall_clock_s"] > 1000.0
    assert outcome.facts["wall_clock_s"] < 1000.0


def test_other_data_are_refused_before_newcomers_are_trained(tmp_path, monkeypatch):
    folder, _ = train(tmp_path)

    def swapped(name):
        env, source, target = stand_ins.load_task(name)
        return env, target, source

    monkeypatch.setattr("offdyn_envs.load_task", swapped)
    with first_updates(monkeypatch) as begun, pytest.raises(OffDynError, match=r"last.ckpt' is of other data"):
        train(tmp_path, seeds=(0, 1, 2))
    assert begun == []
    assert read_run(folder)["status"] == "complete"


def test_newcomers_that_were_begun_come_along(tmp_path, monkeypatch):
    whole, _ = train(tmp_path, variant="whole", seeds=(0, 1, 2, 3))
    train(tmp_path, seeds=(0,))
    with killed_at(monkeypatch, 8):
        train(tmp_path, seeds=(0, 2, 3))
    # The run itself is as it was.
    assert train(tmp_path, seeds=(0,))[1].fresh is False
    broken, _ = train(tmp_path, seeds=(0, 1, 2))
    assert read_run(broken)["seeds"] == [0, 1, 2, 3]
    same(broken, whole, exact=False)


@pytest.mark.parametrize("failing", [(2,), (2, 3)])
def test_a_newcomer_whose_stage_fails(failing, tmp_path, monkeypatch):
    def stages(self, context):
        return StageResults(failed={i: "no use" for i, seed in enumerate(context.seeds) if seed in failing})

    monkeypatch.setattr(agent_class("td3-bc"), "stages", stages)
    whole, _ = train(tmp_path, seeds=(0, 2, 3), variant="whole")
    train(tmp_path, seeds=(0,))
    grown, outcome = train(tmp_path, seeds=(0, 2, 3))
    assert outcome.facts["stopped"][str(failing[0])] == {"updates": 0, "why": "no use; other settings are needed"}
    assert told(grown) == told(whole)
    assert sorted(path.name for path in grown.glob("seeds/*")) == sorted(path.name for path in whole.glob("seeds/*"))


def test_figures_of_the_stages_are_those_of_all_seeds(tmp_path):
    folder, _ = train(tmp_path, "droco", (0,), CONSTANT)
    facts = read_run(folder)
    facts["stages"] = {**facts["stages"], "judged": {"seeds": [0]}}
    write_json(folder / "run.json", facts)
    train(tmp_path, "droco", (0,), replace(CONSTANT, updates=24))
    assert read_run(folder)["stages"]["judged"] == {"seeds": [0]}
    train(tmp_path, "droco", (0, 1), replace(CONSTANT, updates=24))
    assert "judged" not in read_run(folder)["stages"]


def test_workers_of_a_cluster_grow_runs(tmp_path):
    cluster = Cluster(Wire([{"CPU": 1.0}]))

    def plans(seeds, **more):
        return [plan(tmp_path, "bc", seeds, task=task, **more) for task in TASKS]

    whole = cluster.train(plans((0, 1, 2), variant="whole"), 2)
    cluster.train(plans((0, 1)), 2)
    grown = cluster.train(plans((1, 2)), 2)
    assert [outcome.facts["seeds"] for outcome in grown] == [[0, 1, 2]] * 2
    for ours, theirs in zip(grown, whole, strict=True):
        same(ours.plan.folder, theirs.plan.folder, exact=False)
    assert not any(outcome.fresh for outcome in cluster.train(plans((0, 2)), 2))


def test_the_command_grows_runs_and_says_what_it_cannot(tmp_path, capsys):
    def offdyn(agent, *more):
        line = ["train", agent, TASK, "--out", str(tmp_path), "--set", "width=16", "--quiet", "--threads", "1", *more]
        with pytest.raises(SystemExit) as ended:
            cli.main(line)
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    folder = tmp_path / TASK / "iql"
    constant = ("--schedule", "constant")
    assert offdyn("iql", "--seeds", "1,", "--updates", "4", *constant)[0] == 0
    code, out, _ = offdyn("iql", "--seeds", "0,1", "--updates", "1e1", *constant)
    assert (code, f"{folder}: 10 updates of 2 seeds" in out) == (0, True)
    command = read_run(folder)["command"]
    assert "--seeds 2 --updates 10 --precision fp32 --schedule constant" in command
    assert offdyn("iql", "--seeds", "1,", "--updates", "10", *constant)[:2] == (0, f"{folder}: already complete\n")
    code, out, err = offdyn("iql", "--seeds", "2", "--updates", "10")
    assert (code, out) == (2, "")
    assert "holds a run with schedule constant, not cosine; take another --out" in err
    code, _, err = offdyn("iql", "--schedule", "linear")
    assert (code, err) == (2, "offdyn: Invalid value for '--schedule': 'linear' is not one of 'cosine', 'constant'.\n")


# ---- kills


FIRST, LAST = replace(BUDGET, updates=12), BUDGET
POINTS = {
    # Where: what is called again and again, and in which call of it the process is killed.
    "newcomers": (PopulationModule, "training_step", 3),
    "united": (growing, "unite", 1),
    "put together": (growing, "write_json", 1),
    "appeared": (growing, "settle", 2),
    "buffers": (growing, "_move", 2),
    "logs": (growing, "_move", 5),
    "checkpoint": (growing, "_move", 6),
    "run.json": (growing, "_move", 7),
    "moved": (growing.shutil, "rmtree", 4),
    "joined": (growing, "remove_evaluations", 1),
    "all": (PopulationModule, "training_step", 6),
}


def die_at(where, die, patch=setattr):
    """Let `die` be called in a point."""
    owner, name, at = POINTS[where]
    real, calls = getattr(owner, name), []

    def call(*arguments, **named):
        calls.append(arguments)
        if len(calls) == at:
            die()
        return real(*arguments, **named)

    patch(owner, name, call)


def be_killed(where, folder):
    """Grow in this process until it is killed."""
    stand_ins.install()
    die_at(where, lambda: os.kill(os.getpid(), signal.SIGKILL))
    train(Path(folder), "mobody", (0, 1, 2, 3), LAST)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Give a training of all seeds and updates at once, and one of fewer."""
    folder = tmp_path_factory.mktemp("growing")
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        whole, _ = train(folder / "whole", "mobody", (0, 1, 2, 3), LAST)
        train(folder / "few", "mobody", (0, 1), FIRST)
    return whole, folder / "few"


@pytest.fixture
def runs(unbroken, tmp_path):
    """Give a folder with the shorter run of fewer seeds, for each test to grow."""
    shutil.copytree(unbroken[1], tmp_path / "runs")
    return tmp_path / "runs"


def grow_on(out, whole, monkeypatch):
    with first_updates(monkeypatch) as begun:
        grown, _ = train(out, "mobody", (0, 1, 2, 3), LAST)
    assert begun == sorted(set(begun)), "no chunk is trained twice"
    same(grown, whole, exact=False)


@pytest.mark.parametrize("where", ["newcomers", "checkpoint", "all"])
def test_killed_and_grown_on(where, unbroken, runs, monkeypatch):
    script = f"from tests.agents.test_growing import be_killed; be_killed({where!r}, {str(runs)!r})"
    root = Path(__file__).parents[2]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    killed = subprocess.run([sys.executable, "-c", script], cwd=root, env=env, timeout=300, check=False)
    assert killed.returncode == -signal.SIGKILL
    grow_on(runs, unbroken[0], monkeypatch)


@pytest.mark.parametrize("where", [where for where in POINTS if where not in ("newcomers", "checkpoint", "all")])
def test_ended_anywhere_and_grown_on(where, unbroken, runs, monkeypatch):
    """Steps of joining, which are renamings: an exception leaves the files as a kill does."""

    def die():
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(where, die, patch.setattr)
        train(runs, "mobody", (0, 1, 2, 3), LAST)
    grow_on(runs, unbroken[0], monkeypatch)
