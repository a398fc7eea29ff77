"""Agents that learn from target rows alone: the million source rows are neither here nor asked for."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file

import offdyn
from offdyn_agents.algorithms.registry import agent_class, names
from offdyn_agents.engine.resources import Budget, Hardware
from offdyn_agents.runs.offline import load_target
from offdyn_agents.runs.plans import Plan
from offdyn_agents.runs.problems import Loaded, NamedTask
from offdyn_agents.runs.runs import train_tasks
from offdyn_agents.testing.conformance import same
from offdyn_agents.testing.sizes import small_settings
from offdyn_envs import cli, load_dataset
from offdyn_envs.datasets.store import flat
from offdyn_envs.errors import OffDynError
from tests.agents.stand_ins import target_returns
from tests.agents.synthetic import dataset, first_updates, killed_at

TASK = "hopper-gravity-0.5-medium"
SOURCE, TARGET = "offdyn/hopper/nominal/medium-1m-v0", "offdyn/hopper/gravity-0p5/medium-5k-v0"


def choices(name):
    """Return the rows that an agent may be told to learn from."""
    return agent_class(name).settings_class.__dataclass_fields__["data"].metadata["bounds"].choices


ALONE = [name for name in names() if "target" in choices(name)]
PAIRED = [name for name in names() if "target" not in choices(name)]


@pytest.fixture(autouse=True)
def target_only(monkeypatch, tmp_path):
    """A data folder that is empty: only what is shipped is here, and that are targets."""
    monkeypatch.setenv("OFFDYN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr("offdyn_agents.runs.problems.target_returns", target_returns)
    for module in ("engine.execution", "models.ensemble.training", "models.dynamics_reward.learned"):
        monkeypatch.setattr(f"offdyn_agents.{module}.can_compile", lambda _: False)


def command(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    return ended.value.code, *capsys.readouterr()


def train(capsys, agent, out, *words, data="target", where=(TASK,)):
    small = {key: value for key, value in small_settings(agent_class(agent).settings_class).items() if key != "data"}
    sets = [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
    rows = [] if data is None else ["--set", f"data={data}"]
    more = ["--seeds", 1, "--updates", 12, "--eval-every", 6, "--threads", 1, "--quiet", *sets, *rows, *words]
    code, told, error = command(capsys, "train", agent, *where, "--variant", "it", "--out", out, *more)
    return code, told, error, out / TASK / f"{agent}@it"


def weights(folder):
    return {file.name: load_file(file) for file in sorted((folder / "seeds" / "0").glob("*.safetensors"))}


@pytest.mark.parametrize("agent", ALONE)
def test_the_source_is_not_needed_and_changes_nothing(agent, capsys, monkeypatch, tmp_path):
    assert NamedTask(TASK).load("target", with_source=False).source is None
    code, _, error, alone = train(capsys, agent, tmp_path / "alone", "--no-judge")
    assert (code, error) == (0, "")
    facts = json.loads((alone / "run.json").read_text())
    assert facts["status"] == "complete"
    assert facts["data"].keys() == {"target", "sha256"} and facts["data"]["target"] == TARGET
    # With source rows at hand, as it was before.
    source = dataset(300, 0, observation_dim=11, action_dim=3)
    loaded = Loaded(source, load_dataset(TARGET), {"source": SOURCE, "target": TARGET})
    monkeypatch.setattr(NamedTask, "load", lambda *_: loaded)
    code, _, _, paired = train(capsys, agent, tmp_path / "paired", "--no-judge")
    assert code == 0
    assert json.loads((paired / "run.json").read_text())["data"]["sha256"] == facts["data"]["sha256"]
    found, wanted = weights(alone), weights(paired)
    assert found.keys() == wanted.keys() and found
    for name in found:
        same(found[name], wanted[name])


def test_behaviour_cloning_goes_on_and_is_scored_without_the_source(capsys, monkeypatch, tmp_path):
    opened, read = [], flat.read_flat
    monkeypatch.setattr(
        "offdyn_envs.datasets.store.folders.read_flat",
        lambda folder, *more: opened.append(folder) or read(folder, *more),
    )
    hardware = Hardware(threads=1, compiled=False)
    told = Plan(
        "bc", TASK, (0,), {"width": "16"}, Budget(12, 6, 3, checkpoint_seconds=0.0), hardware, tmp_path / "runs", True
    )
    with killed_at(monkeypatch, 6):
        train_tasks([told])
    train_tasks([replace(told, out=tmp_path / "whole")])
    with first_updates(monkeypatch) as begun:
        (done,) = train_tasks([told])
    folder = done.plan.folder
    assert (begun[0], done.facts["status"]) == (6, "complete")
    same(weights(folder)["weights.safetensors"], weights(tmp_path / "whole" / TASK / "bc")["weights.safetensors"])
    words = ("--episodes", 1, "--cell-episodes", 2, "--threads", 1, "--quiet")
    assert command(capsys, "evaluate", folder, *words)[0] == 0
    assert json.loads((folder / "evaluation.json").read_text())["clean"]["0"]
    assert not [place for place in opened if "nominal" in str(place)]
    assert not (tmp_path / "data/offdyn").exists()


@pytest.mark.parametrize("agent", [*PAIRED, *(name for name in ALONE if name != "bc")])
def test_agents_of_both_kinds_of_rows_say_what_they_miss(agent, capsys, tmp_path):
    data = None if agent in PAIRED else "merged"
    code, out, error, _ = train(capsys, agent, tmp_path / "runs", data=data)
    assert (code, out) == (2, "")
    assert error == f"offdyn: not on this machine: {SOURCE}; build with: offdyn data build {SOURCE}\n"
    assert not (tmp_path / "runs").exists()


MODELS = [name for name in ALONE if hasattr(agent_class(name), "world")]


def test_learned_models_are_not_judged_without_source_rows_to_ask_about(capsys, tmp_path):
    code, _, _, folder = train(capsys, MODELS[0], tmp_path / "runs")
    assert code == 0
    (told,) = json.loads((folder / "run.json").read_text())["stages"]["judged"].values()
    assert told == f"source rows are not on this machine; build them with: offdyn data build {SOURCE}"
    # Asked for, it is a fault.
    code, _, error, _ = train(capsys, MODELS[0], tmp_path / "judged", "--judge")
    assert (code, error) == (
        2,
        f"offdyn: not on this machine: {SOURCE}; build with: offdyn data build {SOURCE}\n",
    )
    assert not (tmp_path / "judged").exists()


@pytest.fixture
def own(tmp_path):
    """Pusher-like transitions in a file, of a robot that nobody knows."""
    rows = dataset(60, 3)
    keys = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
    np.savez(tmp_path / "mine.npz", **{key: getattr(rows, key) for key in keys})
    return tmp_path / "mine.npz"


def test_own_target_rows_are_enough(own, capsys, tmp_path):
    words = ("--target", own)
    code, _, error, _ = train(capsys, "bc", tmp_path / "runs", data=None, where=words)
    folder = tmp_path / "runs/mine/bc@it"
    assert (code, error) == (0, "")
    facts = json.loads((folder / "run.json").read_text())
    assert facts["pair"]["source"] is None and facts["data"].keys() == {"target", "sha256"}
    assert f"--target {own}" in facts["command"] and "--source" not in facts["command"]
    # The same command finds it, other rows are another run, and an evaluation needs no source.
    assert "already complete" in train(capsys, "bc", tmp_path / "runs", data=None, where=words)[1]
    assert "not None" not in train(capsys, "bc", tmp_path / "runs", data=None, where=("--source", own, *words))[2]
    assert len(load_target(facts).rewards) == 60


@pytest.mark.parametrize("agent", [PAIRED[0], "iql"])
def test_own_target_rows_are_not_enough_for_agents_of_both(agent, own, capsys, tmp_path):
    code, out, error, _ = train(capsys, agent, tmp_path / "runs", data=None, where=("--target", own))
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert f"agent '{agent}' learns from source rows (data=merged), and none are named; give --source" in error
    assert not (tmp_path / "runs").exists()


def test_fit_takes_none_for_the_source(own, tmp_path):
    more = {"seeds": 1, "updates": 4, "threads": 1, "progress": False, "out": tmp_path / "runs"}
    run = offdyn.fit(offdyn.agents.BC(width=16), None, str(own), **more)
    assert run.folder == tmp_path / "runs/mine/bc" and run.facts["pair"]["source"] is None
    run = offdyn.fit(offdyn.agents.IQL(width=16, data="target"), None, load_dataset(TARGET), **more)
    assert run.folder == tmp_path / "runs" / TASK / "iql@data-target"
    with pytest.raises(OffDynError, match="agent 'droco' learns from source rows"):
        offdyn.fit("droco", None, load_dataset(TARGET), **more)
    assert not (tmp_path / "runs" / TASK / "droco").exists()
