"""`offdyn train` and `offdyn evaluate` on small stand-ins for the datasets."""

import json
import shutil
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from offdyn_agents.runs import evaluation
from offdyn_envs import cli
from offdyn_envs.robots import get_robot
from tests.agents import stand_ins
from tests.agents.synthetic import dataset

TASK = "hopper-gravity-0.5-medium"
DYNAMICS = ["--set", "dynamics.epochs=1", "--set", "dynamics.width=16"]


@pytest.fixture
def data(monkeypatch):
    """Datasets of Hopper's shape in the place of the million rows."""
    import gymnasium

    import offdyn_envs
    import offdyn_envs.datasets

    source, target = (dataset(rows, seed, observation_dim=11, action_dim=3) for rows, seed in ((500, 0), (200, 1)))
    used = []

    def load_task(name):
        used.append(name)
        return gymnasium.make("OffDyn/Hopper-gravity-0.5-v0"), source, target

    monkeypatch.setattr(offdyn_envs, "load_task", load_task)
    monkeypatch.setattr("offdyn_envs.datasets.task.available", stand_ins.available)
    monkeypatch.setattr(offdyn_envs.datasets, "load_dataset", lambda name: used.append(str(name)) or target)
    # Compiling takes longer than these runs.
    monkeypatch.setattr("offdyn_agents.engine.execution.can_compile", lambda _: False)
    monkeypatch.setattr("offdyn_agents.models.ensemble.training.can_compile", lambda _: False)
    return used


def offdyn(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    output = capsys.readouterr()
    return ended.value.code, output.out, output.err


def train(capsys, folder, *words, agent="droco", updates=12):
    more = DYNAMICS if agent == "droco" else []
    line = ["train", agent, TASK, "--out", folder, "--updates", updates, "--eval-every", 6, "--quiet", *more, *words]
    return offdyn(capsys, *line, "--set", "width=16", "--set", "batch_size=32")


def test_train_then_evaluate(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("offdyn_envs.benchmark.scoring.critics.CRITICS", tmp_path / "none")
    code, out, err = train(capsys, tmp_path, "--seeds", 2)
    run = tmp_path / TASK / "droco"
    assert (code, err) == (0, "")
    assert f"next: offdyn evaluate {run}" in out
    facts = json.loads((run / "run.json").read_text())
    assert facts["status"] == "complete"
    assert (facts["seeds"], facts["updates"], facts["precision"]) == ([0, 1], 12, "fp32")
    assert facts["settings"]["beta"] == 0.1
    assert facts["settings"]["dynamics"]["epochs"] == 1
    assert facts["wall_clock_s"] > 0
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert {f"seeds/{s}/{f}" for s in (0, 1) for f in ("policy.onnx", "critic.onnx", "weights.safetensors")} <= files
    assert {"run.json", "metrics.csv", "checkpoints/last.ckpt"} <= files

    code, out, err = offdyn(capsys, "evaluate", run, "--episodes", 3, "--cell-episodes", 2, "--quiet")
    assert (code, err) == (0, "")
    assert f"the suite has no reference critic of {TASK}: no min-Q attack" in out
    code, out, err = offdyn(capsys, "evaluate", run, "--episodes", 3, "--cell-episodes", 2, "--quiet", "--own-critics")
    assert "min-q-own 0.1" in out
    result = json.loads((run / "evaluation.json").read_text())
    assert (result["protocol"], result["task"], result["agent"], result["episodes"]) == (2, TASK, "droco", 3)
    assert {seed: len(returns) for seed, returns in result["clean"].items()} == {"0": 3, "1": 3}
    cells = {(cell["family"], cell["level"]) for cell in result["perturbed"]}
    assert len(cells) == len(result["perturbed"]) == 18
    assert {("gravity", 0.5), ("kinematic", 3.0), ("worn-motors", 0.5), ("min-q-own", 0.2)} <= cells
    for cell in result["perturbed"]:
        assert cell["episodes"] == 2
        assert np.isfinite([cell["returns"][seed] for seed in ("0", "1")]).all()

    code, out, _ = offdyn(
        capsys, "evaluate", run, "--episodes", 3, "--cell-episodes", 2, "--quiet", "--json", "--own-critics"
    )
    told = json.loads(out)
    assert (told["folder"], told["task"], told["agent"]) == (str(run), TASK, "droco")
    assert [row["condition"] for row in told["rows"]][:2] == ["clean", "gravity 0.5"]
    assert told["left_out"] == [f"the suite has no reference critic of {TASK}: no min-Q attack"]
    assert json.loads((run / "evaluation.json").read_text()) == result

    more = ("--episodes", 3, "--cell-episodes", 2, "--quiet", "--json", "--own-critics")
    code, out, _ = offdyn(capsys, "evaluate", run, run, *more)
    assert json.loads(out) == [told, told]


def test_missing_datasets_are_all_named_before_anything_is_trained(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("offdyn_envs.datasets.task.available", lambda dataset: "gravity" in str(dataset))
    line = ("train", "iql", TASK, "walker2d-gravity-5.0-medium", "--out", tmp_path, "--updates", 4, "--quiet")
    code, out, err = offdyn(capsys, *line)
    named = ["offdyn/hopper/nominal/medium-1m-v0", "offdyn/walker2d/nominal/medium-1m-v0"]
    assert (code, out) == (2, "")
    assert err == f"offdyn: not on this machine: {', '.join(named)}; build with: offdyn data build {' '.join(named)}\n"
    assert data == []


def test_a_population_that_fails_does_not_keep_the_others_from_their_end(data, tmp_path, capsys, monkeypatch):
    import offdyn_envs
    from offdyn_envs.errors import OffDynError

    def load_task(name):
        if name.startswith("walker2d"):
            raise OffDynError(f"{name} is damaged")
        return stand_ins.load_task(name)

    monkeypatch.setattr(offdyn_envs, "load_task", load_task)
    monkeypatch.setattr("offdyn_agents.runs.problems.target_returns", stand_ins.target_returns)
    tasks = ("walker2d-gravity-5.0-medium", "ant-gravity-5.0-medium", TASK)
    line = ("train", "iql", *tasks, "--out", tmp_path, "--updates", 4, "--quiet", "--set", "width=16", "--seeds", 1)
    code, out, err = offdyn(capsys, *line)
    assert code == 2
    assert err == f"offdyn: {tasks[0]} is damaged; the others go on\noffdyn: {tasks[0]} is damaged\n"
    for task in tasks:
        done = (tmp_path / task / "iql/run.json").exists()
        assert done == (task != tasks[0])
        assert (f"{tmp_path / task / 'iql'}: 4 updates" in out) == done


def test_evaluation_is_the_policys_own_rollout(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("offdyn_envs.benchmark.scoring.critics.CRITICS", tmp_path / "none")
    from offdyn_envs.benchmark.gate.half import halved
    from offdyn_envs.benchmark.gate.onnx_policy import load_policy
    from offdyn_envs.benchmark.scoring import protocol
    from offdyn_envs.benchmark.scoring.rollouts import episode_returns
    from offdyn_envs.shifts import Gravity

    train(capsys, tmp_path, "--seeds", 2, agent="bc")
    run = tmp_path / TASK / "bc"
    told = []

    @contextmanager
    def progress(title, total, **named):
        told.append((total, named["at_most"]))
        yield lambda n=1, episodes="": told.append((n, episodes))

    monkeypatch.setattr("offdyn_envs.progress.progress", progress)
    code, _, _ = offdyn(capsys, "evaluate", run, "--episodes", 3, "--cell-episodes", 2, "--quiet")
    assert code == 0
    result = json.loads((run / "evaluation.json").read_text())
    # What is left is a matter of control steps: all episodes run side by side, and most of them end together.
    (steps, bound), *units = told
    assert (steps, bound) == (1000, True) and 0 < sum(n for n, _ in units) <= steps and {n for n, _ in units} == {1}
    assert units[-1][1] == "{0}/{0}".format(2 * (3 + 2 * len(result["perturbed"])))
    assert {cell["family"] for cell in result["perturbed"]} == (
        {"gravity", "friction", "kinematic", "morphology", "worn-friction", "worn-motors"}
    )
    # What an entry stores is what is scored.
    policy = load_policy(halved((run / "seeds/1/policy.onnx").read_bytes()))
    alone = episode_returns(policy, get_robot("hopper"), [Gravity(0.5)], 3, protocol.EVALUATION_SEED)
    np.testing.assert_allclose(result["clean"]["1"], alone, rtol=1e-6)
    cell = next(cell for cell in result["perturbed"] if (cell["family"], cell["level"]) == ("gravity", 2.0))
    twice = episode_returns(policy, get_robot("hopper"), [Gravity(0.5), Gravity(2.0)], 2, protocol.EVALUATION_SEED)
    np.testing.assert_allclose(cell["returns"]["1"], twice, rtol=1e-6)


def test_the_same_command_twice(data, tmp_path, capsys):
    assert train(capsys, tmp_path, agent="bc")[0] == 0
    policy = tmp_path / TASK / "bc/seeds/0/policy.onnx"
    written = policy.stat().st_mtime_ns
    code, out, err = train(capsys, tmp_path, agent="bc")
    assert (code, err) == (0, "")
    assert out == f"{tmp_path / TASK / 'bc'}: already complete\n"
    assert policy.stat().st_mtime_ns == written


def test_json(data, tmp_path, capsys):
    code, out, _ = train(capsys, tmp_path, "--json", agent="bc")
    assert code == 0
    facts = json.loads(out)
    assert (facts["agent"], facts["trained"], facts["folder"]) == ("bc", True, str(tmp_path / TASK / "bc"))


def test_a_run_of_other_settings_is_left_alone(data, tmp_path, capsys):
    train(capsys, tmp_path, agent="bc")
    code, out, err = train(capsys, tmp_path, "--set", "learning_rate=0.1", agent="bc")
    assert (code, out) == (2, "")
    assert "holds a run with learning_rate 0.0003, not 0.1; take another --out, or --variant of offdyn train," in err
    code, _, err = train(capsys, tmp_path, agent="bc", updates=13)
    assert code == 2
    assert "holds a run with updates 12, not 13" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "drocko", TASK], "unknown agent 'drocko'; did you mean 'droco'?"),
        (["train", "iql", "hoper-gravity-0.5-medium"], "did you mean 'hopper-gravity-0.5-medium'?"),
        (["train", "iql", TASK, "--set", "betta=1"], "unknown setting 'betta'"),
        (["train", "iql", TASK, "--precision", "fp16"], "'--precision': 'fp16' is not one of 'fp32', 'bf16', 'tf32'"),
        (["train", "iql", TASK, "--device", "tpu"], "'--device': 'tpu' is not one of 'auto', 'cpu', 'cuda'"),
        (["train", "iql", TASK, "--updates", "0"], "'--updates'"),
        (["train", "iql"], "name tasks or --track"),
        (["train", "iql", "--track", "mobody-31"], "did you mean 'mobody-32'?"),
        (["evaluate", "nowhere"], "'nowhere' is no run: it has no run.json"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, words, message):
    if words[0] == "train":
        words = [*words, "--out", str(tmp_path)]
    code, out, err = offdyn(capsys, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_unfinished_run_is_not_evaluated(data, tmp_path, capsys):
    train(capsys, tmp_path, agent="bc")
    run = tmp_path / TASK / "bc"
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(facts | {"status": "running"}))
    code, _, err = offdyn(capsys, "evaluate", run)
    assert code == 2
    assert "is not complete; finish it with: offdyn train bc" in err
    (run / "run.json").write_text("{")
    code, _, err = offdyn(capsys, "evaluate", run)
    assert code == 2
    assert "run.json is no JSON" in err


@pytest.fixture
def runs(data, tmp_path, capsys):
    """Four runs of one agent: one that is not complete, a diverged one, and two that are complete."""
    train(capsys, tmp_path, "--seeds", 2, agent="bc")
    home = tmp_path / TASK
    for name in ("again", "begun", "blown"):
        shutil.copytree(home / "bc", home / name)
    facts = json.loads((home / "bc/run.json").read_text())
    for name, more in (("begun", {"status": "running"}), ("blown", {"status": "diverged", "stopped": {"1": {}}})):
        (home / name / "run.json").write_text(json.dumps(facts | more))
    return home


@pytest.fixture
def evaluated(monkeypatch):
    """The names of the runs whose evaluation was made, not taken as it is."""
    original, found = evaluation.write_json, []
    monkeypatch.setattr(
        evaluation, "write_json", lambda path, told: found.append(path.parent.name) or original(path, told)
    )
    return found


FEW = ("--episodes", 2, "--cell-episodes", 2, "--quiet")


def test_runs_that_are_not_done_do_not_keep_the_others_from_their_evaluation(runs, evaluated, tmp_path, capsys):
    code, out, err = offdyn(capsys, "evaluate", tmp_path, *FEW, "--json")
    assert code == 2
    assert [told["folder"] for told in json.loads(out)] == [str(runs / "again"), str(runs / "bc")]
    first, second = err.splitlines()
    assert first.startswith(f"offdyn: run '{runs / 'begun'}' is not complete; finish it with: offdyn train bc")
    assert second.startswith(f"offdyn: run '{runs / 'blown'}' diverged in seed 1")
    assert evaluated == ["again", "bc"]
    code, out, err = offdyn(capsys, "evaluate", runs / "begun", runs / "blown", *FEW, "--json")
    assert (code, out, len(err.splitlines())) == (2, "", 2)


def test_what_is_evaluated_is_not_evaluated_again(runs, evaluated, capsys):
    run = runs / "bc"
    line = ("evaluate", run, *FEW, "--json")
    first = offdyn(capsys, *line)
    assert offdyn(capsys, *line) == first
    assert evaluated == ["bc"]
    before = json.loads((run / "evaluation.json").read_text())
    # Other policies, and other episodes, clean or of the cells, are other results.
    seeds = run / "seeds"
    for place, name in (("0", "other"), ("1", "0"), ("other", "1")):
        (seeds / place).rename(seeds / name)
    offdyn(capsys, *line)
    assert len(evaluated) == 2
    after = json.loads((run / "evaluation.json").read_text())
    assert [after["clean"][seed] for seed in "01"] == [before["clean"][seed] for seed in "10"]
    for words in (("--episodes", 3), ("--cell-episodes", 4)):
        offdyn(capsys, *line, *words)
    assert len(evaluated) == 4
    told = json.loads((run / "evaluation.json").read_text())
    for changed in ({"protocol": 1}, {"perturbed": told["perturbed"][1:]}, {"policy_sha256": {}}):
        (run / "evaluation.json").write_text(json.dumps(told | changed))
        offdyn(capsys, *line, "--cell-episodes", 4)
        assert json.loads((run / "evaluation.json").read_text()) == told
    assert len(evaluated) == 7


def test_an_edited_policy_is_refused(data, tmp_path, capsys):
    train(capsys, tmp_path, agent="bc")
    run = tmp_path / TASK / "bc"
    (run / "seeds/0/policy.onnx").write_bytes(b"no model")
    code, _, err = offdyn(capsys, "evaluate", run, "--quiet")
    assert code == 2
    assert "policy.onnx" in err
    assert not (run / "evaluation.json").exists()


def test_wrong_dimensions_are_one_line(data, monkeypatch, tmp_path, capsys):
    import offdyn_envs

    env, source, _ = offdyn_envs.load_task(TASK)
    narrow = dataset(100, 0, observation_dim=10, action_dim=3)
    monkeypatch.setattr(offdyn_envs, "load_task", lambda name: (env, source, narrow))
    monkeypatch.setattr("offdyn_envs.datasets.task.available", stand_ins.available)
    code, _, err = train(capsys, tmp_path, agent="iql")
    assert code == 2
    assert "target: rows of width 25; 27 is this robot's" in err


def test_help_imports_no_torch():
    script = (
        "import sys; from offdyn_envs.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'lightning', 'onnx', 'onnxruntime'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in ("train", "evaluate", "behaviour"))


def test_misspelt_settings_are_told_before_data_are_read_and_lightning_is_imported():
    words = [TASK], ["--source", "nosuch.npz", "--target", "nosuch.npz"]
    script = (
        "import sys; from offdyn_envs.cli import main\n"
        f"for words in {words}:\n"
        "    try: main(['train', 'dara', *words, '--set', 'dara.updatez=5'])\n"
        "    except SystemExit as ended: print(ended.code, {'lightning', 'h5py', 'mujoco'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == 2 * "2 set()\n"
    for line in done.stderr.splitlines():
        assert line.startswith("offdyn: unknown setting 'dara.updatez'; did you mean 'dara.updates'?")


def many(capsys, folder, *words, tasks, agent="iql", updates=12):
    line = ["train", agent, *tasks, "--out", folder, "--updates", updates, "--eval-every", 6, "--quiet", "--seeds", 2]
    line += [] if "--together" in words else ["--together", 2]
    return offdyn(capsys, *line, "--set", "width=16", "--set", "batch_size=32", *words)


def test_several_tasks_are_one_population_and_one_document(data, tmp_path, capsys):
    tasks = [TASK, "hopper-friction-2.0-medium", TASK]
    code, out, err = many(capsys, tmp_path, "--json", tasks=tasks)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [facts["task"] for facts in found] == tasks[:2]
    assert all(facts["population"] == {"tasks": 2, "runs": 4} for facts in found)
    assert all(facts["trained"] and facts["status"] == "complete" for facts in found)
    for task in tasks:
        folder = tmp_path / task / "iql"
        facts = json.loads((folder / "run.json").read_text())
        assert len(facts["data"]["sha256"]) == len(facts["settings_sha256"]) == 64
        assert "--seeds 2" in facts["command"]
        assert task in facts["command"]
        assert (folder / "seeds/1/policy.onnx").exists()
        assert (folder / "checkpoints/last.ckpt").exists()
    code, out, _ = many(capsys, tmp_path, "--json", tasks=[*tasks, "hopper-friction-0.5-medium"], agent="iql")
    assert [facts["trained"] for facts in json.loads(out)] == [False, False, True]
    code, out, _ = many(capsys, tmp_path, tasks=tasks)
    assert out.count("already complete") == 2


def test_together_limits_a_population(data, tmp_path, capsys):
    tasks = [TASK, "hopper-friction-2.0-medium"]
    code, out, err = many(capsys, tmp_path, "--together", 1, "--json", tasks=tasks, agent="bc")
    assert (code, err) == (0, "")
    assert [facts["population"] for facts in json.loads(out)] == [{"tasks": 1, "runs": 2}] * 2


def test_oracle_learns_from_the_large_target(data, tmp_path, capsys):
    code, out, err = train(capsys, tmp_path, "--set", "data=oracle", "--json", agent="iql")
    assert (code, err) == (0, "")
    name = "offdyn/hopper/gravity-0p5/medium-1m-v0"
    assert data == [name]
    assert json.loads(out)["data"].keys() == {"target", "sha256"}
    assert json.loads(out)["data"]["target"] == name


def test_a_diverged_seed_ends_with_a_line_and_a_status(data, tmp_path, capsys):
    words = ("--set", "learning_rate=1e30")
    code, out, err = train(capsys, tmp_path, *words, "--seeds", 2, agent="bc")
    assert code == 2
    run = tmp_path / TASK / "bc"
    assert err.splitlines()[-1].endswith(
        f"diverged, without a policy: {TASK} seed 0 at update 6, {TASK} seed 1 at update 6; other settings are needed"
    )
    facts = json.loads((run / "run.json").read_text())
    assert facts["status"] == "diverged"
    assert facts["stopped"]["1"]["updates"] == 6
    assert "next:" not in out
    code, out, err = train(capsys, tmp_path, *words, "--seeds", 2, agent="bc")
    assert (code, out) == (2, f"{run}: already diverged\n")
    code, _, err = offdyn(capsys, "evaluate", run)
    assert code == 2
    assert "diverged in seed 0, 1" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "run.json is no JSON"),
        ("[]", "run.json is not of format 1"),
        ('{"format": 1}', "run.json has no agent that is a str; it is damaged"),
        ('{"format": 1, "agent": "bc", "task": "x", "seeds": 3}', "run.json has no seeds that is a list"),
        ("\x00\x01", "run.json is no JSON"),
    ],
)
def test_a_damaged_run_is_one_line(data, tmp_path, capsys, text, message):
    run = tmp_path / TASK / "bc"
    run.mkdir(parents=True)
    (run / "run.json").write_text(text)
    for code, _, err in (train(capsys, tmp_path, agent="bc"), offdyn(capsys, "evaluate", run)):
        assert code == 2
        assert message in err
        assert err.count("\n") == 1
