"""Own data from end to end: a pair of a robot that the suite does not know, trained on, scored and exported."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

import offdyn
from offdyn_agents.algorithms import registry
from offdyn_agents.api.recipe import recipe
from offdyn_agents.engine.networks import mlp
from offdyn_agents.engine.rollouts import ModelBased
from offdyn_agents.engine.training.module import PopulationModule
from offdyn_agents.examples.episode_files import transitions
from offdyn_agents.examples.pusher import HeavyPusher, collect
from offdyn_agents.examples.pusher import main as make_pair
from offdyn_agents.models import termination
from offdyn_agents.runs.own_pairs import OwnPair
from offdyn_agents.testing.conformance import same
from offdyn_agents.testing.sizes import small_settings
from offdyn_envs import cli
from offdyn_envs.benchmark.scoring.environments import find_place, place_returns
from offdyn_envs.datasets import read_own
from offdyn_envs.errors import OffDynError

SUFFIXES = {"npz": ".npz", "csv": ".csv", "parquet": ".parquet", "lerobot": ""}
EPISODES = (6, 3)
MODEL_BASED = [name for name in registry.names() if issubclass(registry.agent_class(name), ModelBased)]
METHODS = [name for name in registry.names() if not registry.agent_class(name).diagnosis]
UPDATES = 14


def compile_nothing(patch):
    """Compiling takes longer than these runs."""
    for module in (
        "engine.execution",
        "models.ensemble.training",
        "models.short_training",
        "models.dynamics_reward.learned",
    ):
        patch.setattr(f"offdyn_agents.{module}.can_compile", lambda _: False)


@pytest.fixture(scope="module", autouse=True)
def small_stages():
    with pytest.MonkeyPatch.context() as patch:
        compile_nothing(patch)
        patch.setattr("offdyn_agents.runs.runs.EPISODES", 2)
        patch.setattr(termination, "TerminationSettings", partial(termination.TerminationSettings, updates=400))
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with Pusher's pair in every format, and Hopper's, which terminates, as imported datasets."""
    folder = tmp_path_factory.mktemp("own")
    for kind in SUFFIXES:
        make_pair(["--out", str(folder / kind), "--format", kind, "--episodes", *map(str, EPISODES)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFDYN_DATA_DIR", str(folder / "data"))
        for number, name in enumerate(("hop-source", "hop-target")):
            write_hopper(folder / f"{name}.hdf5", 60 - 20 * number, seed=1000 * number)
            words = ["data", "import", folder / f"{name}.hdf5", "--robot", "none", "--out", f"imported/{name}"]
            with pytest.raises(SystemExit) as ended:
                cli.main([str(word) for word in words])
            assert ended.value.code == 0
    return folder


def write_hopper(path, episodes, seed):
    env = gymnasium.make("Hopper-v5")
    env.action_space.seed(seed)
    rows = []
    for episode in range(episodes):
        state, done = env.reset(seed=seed + episode)[0], False
        while not done:
            action = env.action_space.sample()
            following, reward, terminated, truncated, _ = env.step(action)
            rows.append((state, action, reward, following, terminated, truncated))
            state, done = following, terminated or truncated
    keys = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
    with h5py.File(path, "w") as file:
        for key, column in zip(keys, zip(*rows, strict=True), strict=True):
            file[key] = np.array(column, np.float32 if key[0] != "t" else bool)


@pytest.fixture
def here(home, tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.setenv("OFFDYN_DATA_DIR", str(home / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(home, kind="npz", source="source", target="target"):
    source, target = (home / kind / f"{name}{SUFFIXES[kind]}" for name in (source, target))
    return ["--source", source, "--target", target, "--spec", home / kind / "spec.json"]


def small(agent):
    return small_settings(registry.agent_class(agent).settings_class)


def words_of(agent, *more):
    sets = [word for key, value in small(agent).items() for word in ("--set", f"{key}={value}")]
    return ["train", agent, "--seeds", 2, "--updates", UPDATES, "--eval-every", 7, "--quiet", *sets, *more]


def offdyn_command(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    output = capsys.readouterr()
    return ended.value.code, output.out, output.err


def weights(run, seed):
    return load_file(run / "seeds" / str(seed) / "weights.safetensors")


def run_onnx(home, observations):
    session = onnxruntime.InferenceSession(str(home / "policy.onnx"))
    return session.run(None, {"observation": observations.astype(np.float32)})[0]


def check_exported(home, run):
    """The ONNX files give the networks' actions, mapped by hand to N m."""
    states = read_own(home / "npz/target.npz", home / "npz/spec.json").observations
    for seed in (0, 1):
        folder = run / "seeds" / str(seed)
        tensors = weights(run, seed)
        actor = [tensors[f"actor.{i}"] for i in range(sum(name.startswith("actor.") for name in tensors))]
        wanted = 2.0 * torch.tanh(mlp(actor, torch.from_numpy(states))).numpy()
        actions = run_onnx(folder, states)
        np.testing.assert_allclose(actions, wanted, atol=1e-5)
        # Far from the data the network saturates, and rounding must not lead beyond a bound.
        assert np.abs(run_onnx(folder, 1e3 * states)).max() <= 2.0
        contract = json.loads((folder / "contract.json").read_text())
        assert contract["actions"][0]["name"] == "shoulder_pan"
        assert {(action["unit"], action["low"], action["high"]) for action in contract["actions"]} == {("N m", -2, 2)}
        assert len(contract["observations"]) == 23
        assert contract["time_step"] == 0.05
        assert contract["data_sha256"] == json.loads((run / "run.json").read_text())["data"]["sha256"]


@pytest.mark.parametrize("part", ["source", "target"])
def test_four_formats_hold_the_same_arrays(home, part):
    read = [read_own(home / kind / f"{part}{suffix}", home / kind / "spec.json") for kind, suffix in SUFFIXES.items()]
    assert len({data.sha256 for data in read}) == 1
    assert len(read[0]) == 100 * EPISODES[part == "target"]
    assert {data.contract.actions for data in read} == {read[0].contract.actions}
    assert {(data.contract.action_low, data.contract.action_high) for data in read} == {((-2.0,) * 7, (2.0,) * 7)}
    # Enough differs for an agent to learn what is better.
    sums = [part.sum() for part in np.split(read[0].rewards, np.cumsum(read[0].lengths)[:-1])]
    assert max(sums) - min(sums) > 30
    assert np.abs(read[0].actions).max() <= 1.0


def test_masses_differ():
    envs = gymnasium.make("Pusher-v5"), HeavyPusher()
    light, heavy = (env.unwrapped.model for env in envs)
    np.testing.assert_allclose(heavy.body_mass, 1.5 * light.body_mass)
    np.testing.assert_allclose(heavy.body_subtreemass, 1.5 * light.body_subtreemass)


@pytest.mark.parametrize("agent", METHODS)
def test_command_and_python_train_the_same_policy_scored_and_exported(home, here, capsys, agent):
    command = words_of(agent, *told(home), "--env", "Pusher-v5", "--name", "pusher")
    code, out, err = offdyn_command(capsys, *command)
    run = here / "runs" / "pusher" / agent
    assert (code, err) == (0, "")
    assert "next: offdyn evaluate runs/pusher/" in out

    facts = json.loads((run / "run.json").read_text())
    assert facts["status"] == "complete"
    assert facts["pair"] == {
        "source": str(home / "npz/source.npz"),
        "target": str(home / "npz/target.npz"),
        "spec": str(home / "npz/spec.json"),
        "env": "Pusher-v5",
        "termination": None,
    }
    assert facts["contract"]["action_high"] == [2.0] * 7
    assert ("termination" in facts.get("stages", {})) == (agent in MODEL_BASED)
    if agent in MODEL_BASED:
        # The data hold no termination: that is said, with their share.
        assert facts["stages"]["termination"] == {"kind": "never", "rows": 100 * sum(EPISODES), "terminations": 0.0}
    header, *rows = (run / "metrics.csv").read_text().splitlines()
    assert {"return_0", "return_1"} <= set(header.split(","))
    assert len([row for row in rows if row.split(",")[header.split(",").index("return_1")]]) == 2

    check_exported(home, run)
    assert offdyn_command(capsys, *command) == (0, f"runs/pusher/{agent}: already complete\n", "")
    line = ("evaluate", run, "--episodes", 2, "--quiet", "--json")
    code, out, err = offdyn_command(capsys, *line)
    assert (code, err) == (0, "")
    (row,) = json.loads(out)["rows"]
    assert row["condition"] == "clean"
    assert row["score"] == "-"
    clean = json.loads((run / "evaluation.json").read_text())["clean"]
    assert row["return"] == pytest.approx(np.mean(list(clean.values())), abs=0.06)
    # What is stored is of the environment as it was.
    stored = json.loads((run / "evaluation.json").read_text()) | {"clean": {seed: [0.0, 0.0] for seed in clean}}
    (run / "evaluation.json").write_text(json.dumps(stored))
    assert offdyn_command(capsys, *line)[1] == out
    assert offdyn_command(capsys, "curves", run) == (0, f"{run}/curves.png\n", "")

    arrays = [dict(np.load(home / "npz" / f"{part}.npz")) for part in ("source", "target")]
    again = offdyn.fit(
        recipe(agent, small(agent)),
        *arrays,
        seeds=2,
        updates=UPDATES,
        eval_every=7,
        env="Pusher-v5",
        out="python",
        name="pusher",
        progress=False,
    )
    for seed in (0, 1):
        same(weights(run, seed), weights(again.folder, seed))
    assert again.evaluate(episodes=2)[1]["return"] == pytest.approx(np.mean(clean["1"]))
    assert again.facts["pair"]["source"] == "in memory"
    assert again.facts["data"]["sha256"] == facts["data"]["sha256"]


KILLED_AT = 7


def be_killed(words, at=KILLED_AT):
    """Train by a command, and die without warning in the middle."""
    real = PopulationModule.training_step

    def step(self, batch, batch_idx):
        if self.updates_done >= at:
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        compile_nothing(patch)
        patch.setattr(PopulationModule, "training_step", step)
        cli.main(words)


def test_killed_and_gone_on(home, here, capsys):
    words = words_of("droco", *told(home, "csv"), "--env", "Pusher-v5", "--threads", 1, "--name", "pusher", "--out")
    words = [str(word) for word in words]
    script = "import sys; from tests.agents.test_own_data import be_killed; be_killed(sys.argv[1:])"
    root = Path(__file__).parents[2]
    line = [sys.executable, "-c", script, *words, "killed"]
    killed = subprocess.run(line, check=False, timeout=120, env=os.environ | {"PYTHONPATH": str(root)})
    assert killed.returncode == -signal.SIGKILL
    run = here / "killed" / "pusher" / "droco"
    assert json.loads((run / "run.json").read_text())["status"] == "running"
    code, _, err = offdyn_command(capsys, "evaluate", run)
    assert code == 2
    assert f"is not complete; finish it with: offdyn train droco --source {home}" in err
    assert offdyn_command(capsys, *words, "killed")[0] == 0
    assert offdyn_command(capsys, *words, "whole")[0] == 0
    for seed in (0, 1):
        same(weights(run, seed), weights(here / "whole" / "pusher" / "droco", seed))


def test_without_an_environment_only_the_score_is_missing(home, here, capsys):
    assert offdyn_command(capsys, *words_of("droco", *told(home, "lerobot")))[0] == 0
    run = here / "runs" / "source-to-target" / "droco"
    metrics = offdyn.load_run(run).curves()
    assert not {"score", "return_0", "return_1"} & set(metrics.columns)
    assert np.isfinite(metrics.column("critic_loss")).all()
    check_exported(home, run)
    assert offdyn_command(capsys, "curves", run)[0] == 0
    code, out, err = offdyn_command(capsys, "evaluate", run, "--quiet")
    assert (code, out) == (2, "")
    assert err == (
        "offdyn: source-to-target: there is no environment to score in; train with --env, or evaluate with --offline\n"
    )
    assert not (run / "evaluation.json").exists()
    # Python names one later, by id, as a class and as an object.
    plain = offdyn.evaluate(run, "Pusher-v5", 2, threads=1)
    heavy = offdyn.evaluate(run, "offdyn_agents.examples.pusher:HeavyPusher", 2, threads=1)
    assert heavy == offdyn.evaluate(run, HeavyPusher(), 2, threads=1)
    assert plain != heavy
    with pytest.raises(OffDynError, match=r"environment 'Reacher-v5': observations are Box\[10\]; the data have 23"):
        offdyn.evaluate(run, "Reacher-v5", 2)


HOPPER = ["--source", "imported/hop-source", "--target", "imported/hop-target"]
FUNCTIONS = """
import numpy as np

def fallen(states):
    return (states[..., 0] < 0.7) | (abs(states[..., 1]) > 0.2)

def always(states):
    return np.ones(states.shape[:-1], bool)

def wide(states):
    return np.ones(states.shape, bool)
"""


@pytest.fixture
def functions(here, monkeypatch):
    """A module of the user's in the folder."""
    (here / "endings.py").write_text(FUNCTIONS)
    yield
    sys.modules.pop("endings", None)


def train_hopper(capsys, home, agent, how):
    more = ["--termination", how] if how else []
    name = f"hop-{how or 'default'}".replace(":", "-")
    words = words_of(agent, *HOPPER, *more, "--name", name, "--out", home / "hop")
    code, _, err = offdyn_command(capsys, *words)
    assert (code, err) == (0, "")
    run = home / "hop" / name / agent
    return run, json.loads((run / "run.json").read_text())


def test_where_episodes_end_is_told(home, here, functions, capsys):
    told = {
        how: train_hopper(capsys, home, MODEL_BASED[0], how)[1] for how in ("never", "hopper", "endings:fallen", None)
    }
    reports = {how: facts["stages"]["termination"] for how, facts in told.items()}
    assert {how: facts["pair"]["termination"] for how, facts in told.items()} == {how: how for how in told}
    assert [report["kind"] for report in reports.values()] == ["never", "robot", "function", "learned"]
    assert reports["never"]["terminations"] > 0.01
    # Gymnasium's Hopper ends where its limits say, also where only float32 is known.
    assert reports["hopper"]["data"]["accuracy"] == reports["endings:fallen"]["data"]["accuracy"] == 1.0
    # Nothing was said: these data hold terminations, so that is learned, and reported with held-out rows.
    held = reports[None]["held_out"]
    assert held["rows"] > 100
    assert held["accuracy"] > 0.9
    assert held["balanced_accuracy"] > 0.9


@pytest.mark.parametrize("agent", MODEL_BASED)
def test_model_based_agents_heed_it(home, here, functions, capsys, agent):
    runs = [train_hopper(capsys, home, agent, how) for how in (None, "endings:always")]
    assert [facts["stages"]["termination"]["kind"] for _, facts in runs] == ["learned", "function"]
    critics = [torch.cat([x.flatten() for x in weights(run, 0).values()]) for run, _ in runs]
    assert not torch.equal(*critics)


@pytest.fixture(scope="module")
def broken(home):
    """Files that are refused, beside good ones."""
    good = dict(np.load(home / "npz" / "source.npz"))
    folder = home / "broken"
    folder.mkdir()
    np.savez(folder / "no-rewards.npz", **{key: array for key, array in good.items() if key != "rewards"})
    np.savez(folder / "narrow.npz", **good | {"actions": good["actions"][:, :6]})
    (folder / "spec.yaml").write_text("action_low: [unclosed")
    (folder / "nan.npz").write_bytes(b"no archive")
    return folder


BAD = {
    "missing column": (["--source", "{broken}/no-rewards.npz"], "rewards"),
    "other dimensions": (
        ["--source", "{broken}/narrow.npz", "--spec", "{broken}/bounds.json"],
        "source has 23 observations and 6 actions and target 23 observations and 7 actions; equal dimensions",
    ),
    "damaged": (["--source", "{broken}/nan.npz"], "nan.npz"),
    "no such file": (["--source", "{npz}/sourse.npz"], "nearest '{npz}/source.npz'"),
    "no such dataset": (["--source", "imported/hop-sorce"], "imported/hop-sorce"),
    "other spaces": (["--env", "Reacher-v5"], "environment 'Reacher-v5': observations are Box[10]; the data have 23"),
    "other bounds": (["--env", "narrow_pusher:Narrow"], "actions lie in [-1, 1]; those of the data in [-2, 2]"),
    "unknown environment": (["--env", "Pussher-v5"], "did you mean 'Pusher-v5'"),
    "no environment": (["--env", "narrow_pusher:Thing"], "environment 'narrow_pusher:Thing' is a Thing"),
    "no class": (["--env", "narrow_pusher:Narow"], "did you mean 'Narrow'"),
    "no module": (["--env", "nowhere:Narow"], "No module named 'nowhere'"),
    "fails when made": (["--env", "narrow_pusher:Fails"], "cannot be made: no licence"),
    "fails when reset": (["--env", "narrow_pusher:NoReset"], "cannot be made: no start"),
    "oracle": (["--set", "data=oracle"], "data=oracle needs a task of the suite"),
    "target rows": (["--target-rows", "500"], "--target-rows belongs to tasks of the suite"),
    "track": (["--track", "core"], "--track belongs to tasks of the suite"),
    "task": (["hopper-gravity-0.5-medium"], "the name of a task belongs to tasks of the suite"),
    "judge": (["--judge"], "--judge belongs to tasks of the suite"),
    "termination": (["--termination", "hoppper"], "unknown termination 'hoppper'; did you mean 'hopper'"),
    "of another robot": (["--termination", "hopper"], "termination 'hopper' is of 11 observations; the data's 23"),
    "wrong shape": (["--termination", "endings:wide"], "termination function 'wide' returns bool [3, 23]"),
    "no function": (["--termination", "endings:fell"], "did you mean 'fallen'"),
    "no spec": (["--spec", "{broken}/none.yaml"], "none.yaml: missing"),
    "unreadable spec": (["--spec", "{broken}/spec.yaml"], "spec.yaml: cannot be read as a spec"),
    "spec of no file": (["--source", "imported/hop-source", "--target", "imported/hop-target"], "neither source nor"),
    "name": (["--name", "../up"], "name '../up'"),
    "name of a task": (["--name", "hopper-gravity-0.5-medium"], "but for a task's name"),
    "setting": (["--set", "widht=3"], "widht"),
}
ENVIRONMENTS = """
import gymnasium
import numpy as np

class Narrow(gymnasium.Wrapper):
    def __init__(self):
        super().__init__(gymnasium.make("Pusher-v5"))
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (7,))

class Thing:
    pass

class Fails(gymnasium.Env):
    def __init__(self):
        raise RuntimeError("no\\nlicence")

class NoReset(gymnasium.Env):
    def reset(self, **_):
        raise RuntimeError("no start")

class Breaks(gymnasium.Wrapper):
    def __init__(self):
        super().__init__(gymnasium.make("Pusher-v5"))

    def step(self, action):
        raise ValueError("gear\\nbroken")

class Endless(gymnasium.Wrapper):
    def __init__(self):
        super().__init__(gymnasium.make("Pusher-v5").unwrapped)
"""


@pytest.fixture
def environments(here):
    """Environments of the user's in the folder."""
    (here / "narrow_pusher.py").write_text(ENVIRONMENTS)
    yield
    sys.modules.pop("narrow_pusher", None)


def bad_words(home, broken, words):
    places = {"broken": str(broken), "npz": str(home / "npz")}
    given = [word.format(**places) for word in words]
    usual = dict(zip(*[iter(map(str, told(home)))] * 2, strict=True))
    for key, value in usual.items():
        given += [] if key in given else [key, value]
    return given


@pytest.mark.parametrize("fault", BAD)
def test_what_is_refused_leaves_nothing_behind(home, here, broken, functions, environments, capsys, fault):
    words, message = BAD[fault]
    (broken / "bounds.json").write_text('{"action_low": -2, "action_high": 2}')
    command = ["train", "iql", "--seeds", 1, "--updates", 2, "--quiet", *bad_words(home, broken, words)]
    code, out, err = offdyn_command(capsys, *command, "--out", here / "runs")
    assert (code, out) == (2, "")
    assert err.startswith("offdyn: ")
    assert err.count("\n") == 1
    assert message.format(npz=home / "npz") in err
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "a.npz"], "--source and --target go together; name both"),
        (["--target", "a.npz"], "no dataset and no file of that name: 'a.npz'"),
        (["--env", "Pusher-v5"], "--env belongs to own data; name them with --source and --target"),
        (["--termination", "never"], "--termination belongs to own data"),
        (["--spec", "spec.yaml"], "--spec belongs to own data"),
    ],
)
def test_options_that_belong_together(here, capsys, words, message):
    code, out, err = offdyn_command(capsys, "train", "droco", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert list(here.iterdir()) == []


def test_names_are_checked_before_torch_is_loaded(home, here, broken):
    faults = ("no such file", "other spaces", "unknown environment", "termination", "judge", "unreadable spec", "name")
    lines = [["train", "droco", *bad_words(home, broken, BAD[fault][0])] for fault in faults]
    script = """if True:
        import json, sys
        from offdyn_envs import cli
        for line in json.loads(sys.argv[1]):
            try:
                cli.main(line)
            except SystemExit as ended:
                assert ended.code == 2
            assert "torch" not in sys.modules, line
    """
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", script, json.dumps(lines)], check=True, env=env, capture_output=True)


@pytest.mark.parametrize(
    ("change", "named", "message"),
    [
        ({"rewards": None}, {}, "source: rewards is missing"),
        ({"actions": np.full((600, 7), 3.0)}, {}, "source: action 'action_0' of row 0 is 3; [-2, 2] is allowed"),
        ({}, {"env": "Reacher-v5"}, "observations are Box[10]; the data have 23 numbers"),
        ({}, {"env": lambda: 3}, "is a int; a gymnasium.Env is allowed"),
        ({}, {"env": "Pussher-v5"}, "did you mean 'Pusher-v5'"),
        ({}, {"termination": "hoppper"}, "did you mean 'hopper'"),
        ({}, {"termination": lambda states: states}, "termination function"),
        ({}, {"name": "a/b"}, "name 'a/b'"),
    ],
)
def test_python_refuses_likewise(home, here, change, named, message):
    source, target = (dict(np.load(home / "npz" / f"{part}.npz")) for part in ("source", "target"))
    source = {key: value for key, value in (source | change).items() if value is not None}
    with pytest.raises(OffDynError) as told:
        offdyn.fit(
            "droco", source, target, **{"env": "Pusher-v5", "updates": 2, "seeds": 1, "progress": False, **named}
        )
    assert message in str(told.value)
    assert "\n" not in str(told.value)
    assert list(here.iterdir()) == []


def test_a_cluster_takes_what_has_a_name(home, here):
    data = {part: read_own(home / "npz" / f"{part}.npz", home / "npz/spec.json") for part in ("source", "target")}
    files = {part: str(home / "npz" / f"{part}.npz") for part in data}
    spec = home / "npz/spec.json"
    pair = OwnPair(**files, spec=spec, env=gymnasium.make("Pusher-v5"), termination="never").portable()
    assert (pair.source, pair.target, pair.env, pair.termination) == (*files.values(), "Pusher-v5", "never")
    (here / "near.npz").write_bytes(Path(files["source"]).read_bytes())
    for other, message in (
        (OwnPair(**data), "the source of 'source-to-target' is only in memory here; a cluster needs a name or a path"),
        (OwnPair(**files, spec=spec, env=HeavyPusher()), "the environment of 'source-to-target' is only in memory"),
        (OwnPair(**files, termination=len), "the termination of"),
        (OwnPair("near.npz", files["target"], spec=spec), "source 'near.npz' is found from this folder only"),
    ):
        with pytest.raises(OffDynError, match=message):
            other.portable()


def pushing(observations):
    """A fixed policy [..., 23] -> [..., 7] that depends on the state."""
    return np.tanh(observations[..., :7] + observations[..., 14:21])


def test_an_environment_given_as_an_object_is_itself():
    plain, changed = gymnasium.make("Pusher-v5"), gymnasium.make("Pusher-v5")
    changed.unwrapped.model.body_mass[:] *= 1.5
    places = [find_place(env) for env in (plain, changed, HeavyPusher())]
    assert [(place.told, place.copies) for place in places] == [("Pusher-v5", True), (None, False), (None, False)]
    returns = [place_returns(place, pushing, 2, 2, seed=3) for place in places]
    by_id = place_returns(find_place("Pusher-v5"), pushing, 2, 2, seed=3)
    by_class = place_returns(find_place("offdyn_agents.examples.pusher:HeavyPusher"), pushing, 2, 2, seed=3)
    np.testing.assert_array_equal(returns[0], by_id)
    np.testing.assert_array_equal(returns[2], by_class)
    assert not np.allclose(returns[1], by_id)
    np.testing.assert_array_equal(by_id[0], by_id[1])

    env = gymnasium.make("Pusher-v5")
    state, total, done = env.reset(seed=4)[0], 0.0, False
    while not done:
        state, reward, terminated, truncated, _ = env.step(pushing(state).astype(np.float32))
        total, done = total + reward, terminated or truncated
    assert by_id[0, 1] == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("Breaks", "environment 'narrow_pusher:Breaks' fails in step: ValueError: gear broken"),
        (
            "Endless",
            "environment 'narrow_pusher:Endless': an episode has not ended after 30 steps; give it a time limit",
        ),
    ],
)
def test_environments_that_fail_later(environments, monkeypatch, kind, message):
    monkeypatch.setattr("offdyn_envs.benchmark.scoring.environments.LIMIT", 30)
    place = find_place(f"narrow_pusher:{kind}")
    with pytest.raises(OffDynError) as told:
        place_returns(place, pushing, 1, 1, seed=0)
    assert str(told.value) == message


def test_the_example_writes_what_it_collects(tmp_path):
    episodes = collect(1.0, 2, seed=5)
    make_pair(["--out", str(tmp_path), "--episodes", "1", "2"])
    found = dict(np.load(tmp_path / "target.npz"))
    assert {key: array.shape for key, array in found.items()} == {
        key: array.shape for key, array in transitions(episodes).items()
    }
    assert found["truncations"].sum() == 2


@pytest.mark.filterwarnings("ignore")
def test_an_id_without_a_version_is_kept_with_it():
    assert [find_place(name).told for name in ("Pusher", "Pusher-v5")] == ["Pusher-v5", "Pusher-v5"]
