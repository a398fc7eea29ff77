"""The command that makes the suite's critics, on small stand-ins for the datasets."""

import json

import numpy as np
import pytest

from offdyn_envs import cli
from offdyn_envs.benchmark.gate.gate import inspect_model
from offdyn_envs.benchmark.gate.onnx_policy import load_critic
from offdyn_envs.benchmark.scoring import critics
from offdyn_envs.errors import OffDynError
from tests.agents import stand_ins

TASK = "hopper-gravity-0.5-medium"


@pytest.fixture
def data(monkeypatch):
    import offdyn_envs
    import offdyn_envs.datasets

    monkeypatch.setattr(offdyn_envs, "load_task", stand_ins.load_task)
    monkeypatch.setattr(offdyn_envs.datasets, "load_dataset", stand_ins.load_dataset)
    monkeypatch.setattr("offdyn_envs.datasets.task.available", stand_ins.available)
    monkeypatch.setattr("offdyn_agents.runs.problems.target_returns", stand_ins.target_returns)
    monkeypatch.setattr("offdyn_agents.engine.execution.can_compile", lambda _: False)


def offdyn(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    output = capsys.readouterr()
    return ended.value.code, output.out, output.err


def command(folder, *more):
    small = ("--set", "width=16", "--set", "batch_size=32", "--quiet", "--threads", 1)
    return ("behaviour", "critics", TASK, "--runs", folder / "runs", "--out", folder / "critics", *small, *more)


def test_a_critic_is_made_once_and_found_with_its_hash(data, tmp_path, capsys):
    code, out, err = offdyn(capsys, *command(tmp_path, "--updates", 12))
    assert (code, err) == (0, "")
    assert out.startswith(f"{TASK}: ")
    found = critics.find_critic(TASK, tmp_path / "critics")
    model = load_critic(found.path)
    assert model.sha256 == found.sha256
    assert len(found.sigma) == model.observation_dim == 11
    told = critics.read_index(tmp_path / "critics")[TASK]
    assert (told["agent"], told["updates"], told["seed"], told["settings"]["data"]) == ("iql", 12, 0, "merged")
    # The run's own critic, but for the rounding of its weights.
    own = load_critic(tmp_path / "runs" / TASK / "iql" / "seeds/0/critic.onnx")
    rng = np.random.default_rng(0)
    pairs = rng.standard_normal((50, 11)), rng.uniform(-1, 1, (50, 3))
    np.testing.assert_allclose(model(*pairs), own(*pairs), rtol=0.01, atol=0.01)
    assert model(*pairs).tolist() != own(*pairs).tolist()
    assert found.path.stat().st_size < (tmp_path / "runs" / TASK / "iql" / "seeds/0/critic.onnx").stat().st_size
    assert inspect_model(found.path.read_bytes(), "critic").parameters > 0
    written = found.path.stat().st_mtime_ns
    assert offdyn(capsys, *command(tmp_path, "--updates", 12))[:2] == (0, f"{TASK}: there already\n")
    assert found.path.stat().st_mtime_ns == written
    code, out, err = offdyn(capsys, *command(tmp_path, "--updates", 13))
    assert (code, out) == (2, "")
    assert "has a reference critic of 12 updates, and 13 are asked for" in err


def test_evaluation_attacks_every_agent_with_it(data, tmp_path, capsys, monkeypatch):
    assert offdyn(capsys, *command(tmp_path, "--updates", 12))[0] == 0
    small = ("--seeds", 1, "--updates", 6, "--set", "width=16", "--quiet", "--threads", 1)
    assert offdyn(capsys, "train", "bc", TASK, "--out", tmp_path, *small)[0] == 0
    monkeypatch.setattr(critics, "CRITICS", tmp_path / "critics")
    line = ("evaluate", tmp_path / TASK / "bc", "--episodes", 2, "--cell-episodes", 2, "--quiet", "--json")
    code, out, _ = offdyn(capsys, *line)
    assert code == 0
    told = json.loads(out)
    conditions = [row["condition"] for row in told["rows"]]
    assert told["left_out"] == []
    assert {"min-q 0.1", "min-q 0.2", "kinematic hard", "morphology easy", "worn-motors 0.5"} <= set(conditions)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / "x.onnx").write_bytes(b"other"), "is not the one that critics.json names"),
        (lambda root: (root / "x.onnx").unlink(), "reference critic of 'x' cannot be read"),
        (lambda root: (root / "critics.json").write_text("{"), "cannot be read"),
    ],
)
def test_a_damaged_critic_is_refused(tmp_path, spoil, words):
    (tmp_path / "x.onnx").write_bytes(b"critic")
    told = {"file": "x.onnx", "sha256": "", "sigma": [1.0]}
    (tmp_path / "critics.json").write_text(json.dumps({"critics": {"x": told}}))
    spoil(tmp_path)
    with pytest.raises(OffDynError, match=words):
        critics.find_critic("x", tmp_path)


def test_a_task_without_a_critic_has_none(tmp_path):
    assert critics.find_critic(TASK, tmp_path) is None
