"""The script that trains the table on a bare machine with a GPU: what it would do, and on a CPU that it does it."""

import json
import shutil
import subprocess
import sys
import tarfile

import pytest

from tests.pages import ROOT

FOLDER = ROOT / "benchmarks/gpu"
SCRIPT = FOLDER / "table.sh"


def table(*words):
    return subprocess.run([str(SCRIPT), *map(str, words)], capture_output=True, text=True, check=False)


@pytest.fixture
def pack(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import pack

    return pack


def test_a_dry_run_says_all_steps_and_takes_none(tmp_path):
    done = table("--wheels", "carried", "--minutes", 10, "--work", tmp_path / "w", "--out", tmp_path / "o", "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(line.startswith("+ ") for line in lines)
    installs = "pip install --quiet --no-index --find-links carried offdyn[agents]"
    steps = ("-m venv", installs, "data build --track core-6", "train", "pack.py")
    assert [word for word, line in zip(steps, lines, strict=True) if word not in line] == []
    # Two of ten minutes are for packing.
    assert "timeout --signal=INT --kill-after=30 480 " in lines[3]
    assert "--track core-6 --seeds 5 --updates 100k" in lines[3] and "--device cuda --precision tf32" in lines[3]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--wheels", "nowhere"), "name --out"),
        (("--out", "o"), "name --wheels"),
        (("--out", "o", "--wheels", "/nowhere"), "--wheels '/nowhere' is no folder"),
        (("--out", "o", "--wheels"), "--wheels needs a value"),
        (("--out", "o", "--python", "p", "--minutes", "0"), "--minutes '0' is no whole number"),
        (("--fast",), "unknown option '--fast'"),
    ],
)
def test_bad_options_are_one_line(words, message, monkeypatch):
    monkeypatch.delenv("OUT", raising=False)
    done = table(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr


def test_shellcheck_finds_nothing():
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck")
    subprocess.run(["shellcheck", SCRIPT], check=True)


def test_runs_go_into_the_first_file_that_has_room(pack):
    assert pack.shared_out([6, 5, 4, 3, 11, 9], files=2, size=10) == [[0, 2], [1, 3]]
    assert pack.shared_out([]) == []


def test_ended_runs_are_packed_with_their_policies_halved(pack, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "tests/benchmark")
    import benchmark_boards as boards

    for agent, status in (("iql", "complete"), ("bc", "running")):
        folder = boards.write_run(tmp_path / "runs" / boards.HOPPER / agent)
        facts = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(facts | {"status": status}))
        (folder / "metrics.csv").write_text("updates\n")
    monkeypatch.setattr(sys, "argv", ["pack.py", str(tmp_path / "runs"), str(tmp_path / "out")])
    assert pack.main() == 0
    assert "1 runs in 1 files" in capsys.readouterr().out
    (file,) = (tmp_path / "out").iterdir()
    before = file.read_bytes()
    assert pack.main() == 0 and file.read_bytes() == before
    with tarfile.open(file) as packed:
        packed.extractall(tmp_path / "back", filter="data")
    home = tmp_path / "back/runs" / boards.HOPPER / "iql"
    names = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    assert names == {"run.json", "metrics.csv", *(f"seeds/{seed}/policy.onnx" for seed in range(3))}
    original = tmp_path / "runs" / boards.HOPPER / "iql/seeds/0/policy.onnx"
    assert (home / "seeds/0/policy.onnx").read_bytes() == pack.halved(original.read_bytes())
    monkeypatch.setattr(pack, "shared_out", lambda sizes: [])
    assert pack.main() == 3
    assert "no room for" in capsys.readouterr().err


@pytest.mark.slow
def test_a_tiny_table_is_trained_packed_and_evaluated(tmp_path):
    words = ("--python", sys.executable, "--tiny", "--work", tmp_path / "work", "--out", tmp_path / "out")
    done = table(*words)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "out").iterdir()
    with tarfile.open(file) as packed:
        packed.extractall(tmp_path / "back", filter="data")
    run = tmp_path / "back/runs/hopper-gravity-0.5-medium/bc"
    assert json.loads((run / "run.json").read_text())["status"] == "complete"
    again = table(*words)
    assert again.returncode == 0 and "already complete" in again.stdout
    command = [sys.executable, "-m", "offdyn_envs.cli", "evaluate", run, "--episodes", "2", "--cell-episodes", "2"]
    assert subprocess.run(command, check=False, cwd=ROOT).returncode == 0
