"""The command: tables, JSON, one line for bad input, nothing heavy at start."""

import json
import subprocess
import sys

import pytest

from offdyn_envs.cli import main
from offdyn_envs.report import print_table

BAD = (
    (("envs", "show", "Hoper-v0"), "unknown environment 'Hoper-v0'"),
    (("tasks", "--track", "mobody"), "did you mean 'mobody-32'"),
    (("nonsense",), "nonsense"),
    (("envs", "list", "--jsn"), "--jsn"),
    (("data", "info", "offdyn/hopper/nominal/medum-5k-v0"), "medium-5k-v0"),
    (("data", "build", "hopper-gravity-0.5-mediun"), "hopper-gravity-0.5-medium"),
    (("data", "verify", "hopper-gravity-0.7-medium"), "gravity-0."),
    (("train", "drcoo", "hopper-gravity-0.5-medium"), "did you mean 'droco'"),
    (("train", "droco", "hopper-gravity-0.6-medium"), "did you mean 'hopper-gravity-0."),
    (("train", "droco", "hopper-gravity-0.5-medium", "--set", "betta=0.3"), "did you mean 'beta'"),
    (("evaluate", "no/such/run"), "no/such/run"),
    (("leaderboard", "verify", "no/such/entry"), "no/such/entry"),
    (("dev", "behaviour", "train", "--robot", "hoper"), "hoper"),
    (("data", "info", "hopper"), "names that begin so: hopper-nominal-random"),
    (("diagnose", "judge", "walker"), "names that begin with 'walker2d': walker2d-nominal-random"),
)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    return ended.value.code, out, err


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_bad_input_is_one_line_and_status_2(capsys, arguments, words):
    status, out, err = run(capsys, *arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("offdyn: ") and err.count("\n") == 1
    assert words in err


def test_missing_extra_is_named():
    code = """
import sys
sys.modules["lightning"] = None
from offdyn_envs.cli import main
from offdyn_envs.report import print_table
main(["train", "iql", "hopper-gravity-0.5-medium"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and ".[agents]" in done.stderr


def test_unusable_folder_is_one_line(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OFFDYN_DATA_DIR", str(tmp_path / "file"))
    status, _, err = run(capsys, "data", "build", "offdyn/hopper/nominal/random-500-v0")
    assert status == 2
    assert err.count("\n") == 1 and str(tmp_path / "file") in err


def test_lists(capsys):
    status, out, _ = run(capsys, "envs", "list", "--json")
    assert status == 0
    assert len(json.loads(out)) == 92 + 28 + 1
    status, out, _ = run(capsys, "tasks", "--track", "mobody-32", "--json")
    assert [row["task"] for row in json.loads(out)].count("hopper-gravity-0.5-medium") == 1
    status, out, _ = run(capsys, "envs", "show", "OffDyn/Hopper-gravity-0.5-v0", "--json")
    assert json.loads(out)["gravity z in m/s^2"] == -4.905
    status, out, _ = run(capsys, "envs", "show", "Hopper-friction-2.0")
    assert "floor included" in out


@pytest.mark.parametrize(
    "group", ((), ("envs",), ("data",), ("leaderboard",), ("train",), ("evaluate",), ("behaviour",))
)
def test_help(capsys, group):
    status, out, _ = run(capsys, *group, "--help")
    assert status == 0
    assert "Usage" in out


def test_nothing_heavy_is_imported():
    """`import offdyn_envs` and `offdyn --help` load neither torch nor a simulator nor a file format."""
    code = """
import sys
import offdyn_envs
from offdyn_envs.cli import build_app
build_app()
heavy = {"torch", "lightning", "mujoco", "h5py", "minari", "matplotlib", "onnx", "onnxruntime"} & set(sys.modules)
print(sorted(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_environments_and_datasets_never_import_torch():
    code = """
import sys, gymnasium, offdyn_envs
import offdyn_envs.vector, offdyn_envs.datasets, offdyn_envs.policies, offdyn_envs.benchmark.scoring.rollouts
gymnasium.make("OffDyn/Hopper-v0").reset(seed=0)
print("torch" in sys.modules, any(name.startswith("offdyn_agents") for name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


EARLY = (
    (("train", "drocco", "x"), "unknown agent 'drocco'; did you mean 'droco'?"),
    (("train", "drocco", "--settings"), "unknown agent 'drocco'"),
    (("train", "droco", "x"), "unknown task 'x'"),
    (("train", "droco", "--track", "cor-12"), "did you mean 'core-12'"),
    (("train", "droco", "hopper-gravity-0.5-medium", "--set", "beta"), "setting 'beta' is not of the form key=value"),
    (("evaluate", "no/such/run"), "no/such/run"),
    (("curves", "no/such/run"), "no/such/run"),
    (("judge", "hoper"), "unknown task 'hoper'"),
    (("ablate", "moreck", "x"), "did you mean 'morec'"),
    (("ablate", "morec", "x"), "unknown task 'x'"),
)


def test_names_are_checked_before_torch_is_loaded():
    """All in one process: what the last of them loads, none of the others loads either."""
    code = f"""
import sys
from offdyn_envs.cli import main
from offdyn_envs.report import print_table
for words in {[list(words) for words, _ in EARLY]!r}:
    try:
        main(words)
    except SystemExit as ended:
        assert ended.code == 2
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    lines = done.stderr.splitlines()
    assert len(lines) == len(EARLY)
    for line, (_, words) in zip(lines, EARLY, strict=True):
        assert words in line


def test_a_misspelt_agent_is_told_at_once():
    """Processor time, best of three: a wall clock would also measure what else runs on the machine."""
    assert min(processor_seconds("train", "drocco", "x") for _ in range(3)) < 1.5
    assert min(processor_seconds("--help") for _ in range(5)) < 0.5


def processor_seconds(*words):
    """Return the processor time of a command, from the start of its process to its end."""
    code = "import sys, time; from offdyn_envs.cli import main\ntry: main()\nfinally: print(time.process_time())"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    return float(done.stdout.splitlines()[-1])


def test_numbers_of_tables_are_written_out(capsys):
    print_table("", [{"mean return": 18669.4, "size": 0.04399123, "small": 2e-6}], False)
    assert capsys.readouterr().out.split()[-3:] == ["18669", "0.04399", "2e-06"]
