"""The speed measurement runs, and its peers compute the same numbers; how fast they are is not asserted."""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offdyn_agents.algorithms.registry import agent_class, names
from offdyn_envs.robots import HANDS, WALKERS, register_robot
from tests.envs.test_own_robots import REACHER

FOLDER = Path(__file__).parents[1] / "benchmarks"
OURS = {"offdyn", "bare rollout", "thread pool"}


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import environment_peers

    return environment_peers


def test_environment_benchmark_runs(tmp_path):
    arguments = ["--robots", "halfcheetah", "--rows", "2", "--rounds", "1", "--turn", "8", "--json"]
    command = [sys.executable, str(FOLDER / "environments.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    (result,) = json.loads(done.stdout)["results"]
    expected = OURS | {f"{name}, own models" for name in OURS} | {"gymnasium sync", "gymnasium async", "envpool"}
    assert set(result["peers"]) | set(result["skipped"]) == expected
    assert set(result["skipped"]) <= {"envpool"}
    assert all(figures["steps/s"] > 0 for figures in result["peers"].values())
    assert result["peers"]["gymnasium sync"]["x sync"] == result["peers"]["bare rollout"]["x bare"] == 1.0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", WALKERS)
def test_bare_peers_compute_what_the_environment_does(peers, name):
    robot = WALKERS[name]
    actions = np.random.default_rng(0).uniform(-1, 1, (60, 5, robot.action_dim)).astype(np.float32)
    recording = peers.record(robot, peers.different_rows(robot, 5), actions, threads=2)
    assert len(set(map(id, recording.models()))) == 5
    if robot.z_range is not None:
        assert (recording.before[1:] != recording.after[:-1]).any(), "no episode ended: resets were not replayed"
    for kind in (peers.OffDyn, peers.BareRollout, peers.ThreadPool):
        peer = kind(recording)
        for step in range(len(actions)):
            peer.step(step)
        assert peer.agrees(), kind
        peer.close()


@pytest.mark.usefixtures("own_robots")
@pytest.mark.parametrize("name", ("reacher", "adroit-door"))
def test_bare_peers_follow_goals_that_resets_write(peers, name):
    robot = HANDS[name] if name in HANDS else register_robot(REACHER)
    steps = 3 if name in HANDS else 65  # Two episodes; a hand's is long.
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, 3, robot.action_dim)).astype(np.float32)
    recording = peers.record(robot, peers.different_rows(robot, 3), actions, threads=2)
    assert len(np.unique(recording.goals.reshape(-1, 3), axis=0)) == (3 if name in HANDS else 9)
    for kind in (peers.OffDyn, peers.BareRollout, peers.ThreadPool):
        peer = kind(recording)
        for step in range(steps):
            peer.step(step)
        assert peer.agrees(), kind
        peer.close()
    tips = robot.bodies(recording.before[-1, :, 1:2], "tip")[:, 0] if robot.name == "reacher" else None
    for kind in () if tips is None else (peers.BareRollout, peers.ThreadPool):
        peer = kind(replace(recording, goals=np.broadcast_to(tips, recording.goals.shape)))
        for step in range(steps):
            peer.step(step)
        assert not peer.agrees(), kind  # Targets at the tips push them away.
        peer.close()


def test_a_robot_without_a_stock_one_is_measured(peers, capsys):
    import environments

    result = environments.measure(HANDS["adroit-pen"], rows=2, threads=1, rounds=1, turn=4)
    assert set(result["peers"]) == OURS | {f"{name}, own models" for name in OURS}
    assert result["skipped"]["gymnasium sync"] == "Gymnasium has no AdroitPen-v5"
    assert all(figures["x sync"] is None and figures["x bare"] > 0 for figures in result["peers"].values())
    environments.print_table(result)
    assert "skipped: Gymnasium has no AdroitPen-v5" in capsys.readouterr().out


def test_a_peer_that_computes_something_else_is_noticed(peers):
    robot = WALKERS["hopper"]
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 2, 3)).astype(np.float32)
    recording = peers.record(robot, [(), ()], actions, threads=1)
    weaker = replace(recording, actions=0.9 * actions)
    for kind in (peers.OffDyn, peers.BareRollout, peers.ThreadPool):
        peer = kind(weaker)
        for step in range(len(actions)):
            peer.step(step)
        assert not peer.agrees(), kind
        peer.close()


PEERS = ("droco", "iql", "td3-bc", "mobody")


def small_work(monkeypatch, name, folder):
    from offdyn_agents.algorithms.registry import agent_class
    from offdyn_agents.engine.settings import build

    monkeypatch.syspath_prepend(FOLDER)
    import training_peers

    kind = agent_class(name)
    # Where the Huber loss bends, errors of random rows lie on both sides.
    own = {"delta": 0.5} if name == "droco" else {}
    agent = kind(build(kind.settings_class, {"width": 32, "batch_size": 32} | own), 5, 2)
    # A short training, in which an annealed rate changes from one update to the next.
    return replace(training_peers.Work.random(agent, 3, folder, rows=(300, 60, 200)), total=100)


def ours_after(work, updates):
    from offdyn_agents.engine.execution import Executor

    population, sampler = work.population(), work.sampler()
    before = population.clone().readable()
    executor = Executor(
        work.agent, population, work.supply, total=work.total, noise=sampler.noise, threads=2, compiled=False
    )
    executor.run(sampler.draw(updates))
    return before, population.readable()


def assert_same_update(ours, theirs, before):
    assert set(theirs) == set(ours) - {"numbers", "rewards"}
    for name, tensors in theirs.items():
        for tensor, other, first in zip(tensors, ours[name], before[name], strict=True):
            mine = other[: len(tensor)].numpy()
            np.testing.assert_allclose(np.asarray(tensor), mine, rtol=1e-5, atol=3e-6, err_msg=name)
            # The tolerance is small against what the updates have changed; averaged copies hardly move.
            least = 5e-5 if name.endswith("_target") else 1e-3
            assert np.abs(mine - first[: len(tensor)].numpy()).max() > least, name


@pytest.mark.parametrize("name", PEERS)
def test_plain_training_peers_do_the_same_update(monkeypatch, tmp_path, name):
    work = small_work(monkeypatch, name, tmp_path)
    from training_peers import PEERS as plain

    assert set(plain) == set(PEERS)
    peer = plain[name](work, 1)
    assert peer.turn(9) + peer.turn(11) == 20
    before, ours = ours_after(work, 20)
    assert_same_update(ours, peer.state(), before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", PEERS)
def test_jax_training_peers_do_the_same_update(monkeypatch, tmp_path, name):
    pytest.importorskip("jax")
    work = small_work(monkeypatch, name, tmp_path)
    from training_jax import JaxPeer

    peer = JaxPeer(work)
    assert peer.turn(8) + peer.turn(12) == 60
    before, ours = ours_after(work, 20)
    assert_same_update(ours, peer.state(), before)


def test_training_benchmark_runs(tmp_path):
    arguments = ["--agents", "td3-bc", "--ways", "plain", "jax", "--rounds", "1", "--seconds", "0.01", "--seeds", "1"]
    command = [sys.executable, str(FOLDER / "training.py"), *arguments, "--chunks", "0", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    (result,) = json.loads(done.stdout)["results"]
    assert set(result["seed_updates_per_second"]) | set(result["skipped"]) == {"plain", "jax"}
    assert all(value > 0 for value in result["seed_updates_per_second"].values())
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def agents(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import agents

    return agents


@pytest.mark.parametrize("name", names())
def test_agents_are_measured_with_policies_of_full_size(agents, name):
    ours, real = agents.agent_of(name, "hopper"), agent_class(name).settings_class()
    for item in ("width", "batch_size", "members", "elites"):
        assert getattr(ours.settings, item, None) == getattr(real, item, None)


@pytest.fixture
def stage_costs(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import row_stages
    import stage_costs

    monkeypatch.setattr(row_stages, "ROWS", 20)
    monkeypatch.setattr(row_stages, "STEPS", 1)
    monkeypatch.setattr(stage_costs, "SLICE", 60)
    monkeypatch.setattr("offdyn_agents.models.short_training.can_compile", lambda _: False)
    return stage_costs


def judging(stage_costs, name):
    """Return an agent's stages and what they cost, measured on a few rows."""
    import torch

    agent = stage_costs.agent_of(name, stage_costs.ROBOT)
    table = torch.rand(100, 2 * agent.observation_dim + agent.action_dim + 2)
    found = stage_costs.StageCosts("suite", 3, 1, 1)
    return stage_costs._judging(found, agent, table[:60], table[60:]), found.stages


def test_the_stages_of_an_agent_that_nobody_has_named_are_measured(stage_costs, monkeypatch):
    from offdyn_agents.algorithms import registry
    from offdyn_agents.algorithms.rowwise.dvdf import DVDF

    monkeypatch.setattr(registry, "_REGISTERED", {})
    kind = type("Newcomer", (DVDF,), {"name": "newcomer", "__module__": __name__})
    registry.register(kind)
    assert "newcomer" in stage_costs.rankable() and "oracle-filter" not in stage_costs.rankable()
    stages, seconds = judging(stage_costs, "newcomer")
    assert stages == ("encoders, newcomer", "values of the source, newcomer", "rows, newcomer")
    assert set(stages) == set(seconds) and all(seconds[stage] > 0.0 for stage in stages[:2])


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("iql", ()), ("lodada", ("clusters", "classifiers", "rows")), ("droco", ("ensemble, target", "rows"))],
)
def test_stages_are_told_by_what_they_do(stage_costs, name, wanted):
    stages, _ = judging(stage_costs, name)
    assert stages == tuple(title if "," in title else f"{title}, {name}" for title in wanted)


def test_every_agent_of_models_says_which_stages_it_has(stage_costs):
    from offdyn_agents.engine.rollouts import ModelBased

    for name in stage_costs.rankable():
        agent = stage_costs.agent_of(name, stage_costs.ROBOT)
        if isinstance(agent, ModelBased):
            stages = stage_costs.model_stages(agent)
            nested = [value for value in vars(agent.settings).values() if hasattr(value, "__dataclass_fields__")]
            assert len(stages) == len(nested) > 0, name
    # As published all discriminators judge in rollouts.
    ours, published = (stage_costs.agent_of("morec", stage_costs.ROBOT, form) for form in ("suite", "paper"))
    assert {*stage_costs.model_stages(ours)} - {*stage_costs.model_stages(published)} == {"scorers"}


def test_an_agent_is_measured_beside_the_yardstick(agents):
    calls = []

    def slow():
        calls.append("slow")
        time.sleep(0.02)
        return 10

    def quick():
        calls.append("quick")
        time.sleep(0.005)
        return 10

    chosen = argparse.Namespace(seconds=0.1, rounds=3)
    found = agents.measure("slow", slow, quick, chosen)
    assert calls[0] == "slow" and calls[-1] == "quick" and len(found["rounds"]) == 3
    assert 1.5 < found["times_iql"] < 8.0


def test_the_picture_of_the_demo_shows_the_end_of_its_screen():
    from benchmarks.demo_picture import LARGEST, document

    shown = document("one\ntwo <b>\nthree\n\n", Path("/x/index.html"), lines=2)
    assert "two &lt;b&gt;\nthree</pre>" in shown and "one" not in shown and 'src="file:///x/index.html"' in shown
    assert (Path(__file__).parents[1] / "docs/pictures/demo.png").stat().st_size <= LARGEST


def test_what_verification_takes_is_split_and_adds_up(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    import verify

    words = ["--robots", "hopper", "--episodes", "2", "--cell-episodes", "2", "--json"]
    done = subprocess.run([sys.executable, FOLDER / "verify.py", *words], capture_output=True, text=True, check=True)
    (result,) = json.loads(done.stdout)["results"]
    seconds = result["seconds"]
    assert result["attacked"] and all(seconds[part] > 0.0 for part in verify.PARTS)
    assert seconds["total"] == pytest.approx(seconds["rest"] + sum(seconds[part] for part in verify.PARTS))
    assert f"| `{result['task']}` | {seconds['total']:.1f} | " in verify.table([result])
    assert "| no critic |" in verify.table([result | {"attacked": False}])


def test_a_part_inside_another_counts_as_the_outer_ones(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import verify

    class Inner:
        def work(self):
            time.sleep(0.0)
            return sum(range(200_000))

    class Outer:
        def work(self):
            return Inner().work()

    monkeypatch.setattr(verify, "WATCHED", {"outer": (Outer, "work"), "inner": (Inner, "work")})
    seconds = {"outer": 0.0, "inner": 0.0}
    with verify.watched(seconds):
        Outer().work()
    assert seconds["outer"] > seconds["inner"] == 0.0
    with verify.watched(seconds):
        Inner().work()
    assert seconds["inner"] > 0.0
