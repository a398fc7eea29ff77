"""No room at twenty points: one line that names the file, status 2, nothing half-written, and a command to repeat.

A limit on the size of files stands for a full disk or a quota: the system answers a write beyond it in the same way.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from offdyn_envs.datasets.importing.exporters import export
from offdyn_envs.datasets.store.folders import read_dataset
from offdyn_envs.shipped import shipped_root

SOURCE, TARGET = "offdyn/hopper/nominal/medium-5k-v0", "offdyn/hopper/gravity-0p5/medium-5k-v0"
TASK, ENTRY = "hopper-gravity-0.5-medium", "board/submissions/offdyn-bc"
BOARD = Path(__file__).parents[1] / "leaderboard"

# A process for each command, with its own end: an object that HDF5 could not close crashes there. They are forked from
# one that has imported what takes time.
FORKS = """
import gc, json, os, resource, sys
import h5py, minari.serialization, onnx, matplotlib.figure, matplotlib.backends.backend_agg
import offdyn_agents.engine.export, offdyn_agents.engine.training.events
import offdyn_agents.runs.evaluation, offdyn_agents.runs.runs
import offdyn_envs.benchmark.page.page, offdyn_envs.datasets.collecting.build, offdyn_envs.datasets.importing.importer
from offdyn_envs import cli
cli.build_app()
gc.freeze()  # A second of each process's end.
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for line in sys.stdin:
    words, home, limit = json.loads(line)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writing, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.environ["OFFDYN_DATA_DIR"] = home + "/data"
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        sys.argv = ["offdyn", *words]
        cli.main()
    os.close(writing)
    with open(reading, errors="replace") as stream:
        said = stream.read()
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said]), flush=True)
"""
TRAIN = "train bc --source FILES/source.hdf5 --target FILES/target.hdf5 --env Hopper-v5 --name own --updates 4 "
TRAIN += "--eval-every 2 --seeds 2 --threads 1 --schedule constant --set width=16 --quiet --out HOME/runs"
RUN = "HOME/runs/own/bc"
LARGEST = max([*BOARD.glob("*.*"), *(BOARD / "pages").iterdir()], key=lambda path: path.stat().st_size)
"""Of what `leaderboard page` writes."""
# What is run, and limits in bytes with the file that does not fit first.
COMMANDS = {
    "build": (
        f"data build {SOURCE} --seed 3",
        {1: ".gitignore", **dict.fromkeys((5_000, 90_000, 400_000, 800_000), f"{SOURCE}/data/main_data.hdf5")},
    ),
    "import": (
        "data import FILES/source.hdf5 --out imported/new",
        {
            1: ".gitignore",
            **dict.fromkeys((3_000, 100_000, 219_000), "imported/new/flat/observations.npy"),
            230_000: "imported/new/flat/qpos.npy",
        },
    ),
    "export": (
        f"data export {SOURCE} HOME/new/x.hdf5 --layout d4rl",
        dict.fromkeys((1, 3_000, 100_000, 800_000), "new/x.hdf5"),
    ),
    "train": (TRAIN, {1: f"{RUN}/run.json", 1_000: f"{RUN}/run.json", 20_000: f"{RUN}/checkpoints/last.ckpt"}),
    "evaluate": (f"evaluate {RUN} --episodes 1 --cell-episodes 2 --threads 1 --quiet", {100: f"{RUN}/evaluation.json"}),
    "page": (
        "leaderboard page --leaderboard HOME/board",
        {10_000: "board/index.html", LARGEST.stat().st_size - 1: f"board/{LARGEST.relative_to(BOARD)}"},
    ),
    "publish": (
        f"data publish HOME/tree {SOURCE}",
        {
            1: "tree/.building/.gitignore",
            200: f"tree/{SOURCE}/data/metadata.json",
            9_000: f"tree/{SOURCE}/data/main_data.hdf5",
        },
    ),
    "add": (
        "leaderboard add FILES/run --name offdyn-bc --replace --leaderboard HOME/board",
        {
            1: f"{ENTRY}/policies/{TASK}/0.onnx",
            100_000: f"{ENTRY}/policies/{TASK}/0.onnx",
            300_000: f"{ENTRY}/entry.json",
        },
    ),
}
assert sum(len(limits) for _, limits in COMMANDS.values()) >= 20


Command = Callable[[str, Path, int], tuple[int, str]]


@pytest.fixture(scope="module")
def offdyn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """Run a command in a home, under a limit or 0 for none; return its status and what it says on standard error."""
    # Without a compiler, and so without a minute of compiling.
    environment = {**os.environ, "PATH": str(tmp_path_factory.mktemp("programs")), "CXX": ""}
    arguments = [sys.executable, "-c", FORKS]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin and process.stdout
        asked, told = process.stdin, process.stdout

        def run(command: str, home: Path, limit: int) -> tuple[int, str]:
            asked.write(json.dumps([command.replace("HOME", str(home)).split(), str(home), limit]) + "\n")
            asked.flush()
            status, said = json.loads(told.readline())
            return status, said

        yield run
        asked.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, offdyn: Command) -> Path:
    """A folder with what commands are given: two data files, a trained run and a leaderboard."""
    folder = tmp_path_factory.mktemp("files")
    for name, dataset in (("source", SOURCE), ("target", TARGET)):
        export(read_dataset(shipped_root() / dataset), folder / f"{name}.hdf5", "d4rl")
    shutil.copytree(
        BOARD, folder / "page" / "board", ignore=shutil.ignore_patterns("index.html", "standings.json", "pages")
    )
    shutil.copytree(folder / "page" / "board", folder / "add" / "board")
    write_run(folder / "run")
    assert offdyn(TRAIN.replace("FILES", str(folder)), folder / "evaluate", 0) == (0, "")
    return folder


def write_run(folder: Path) -> None:
    """Write a run of BC, the policies of a shipped entry, with as many returns as make its entry larger than they."""
    policies = sorted((BOARD / "submissions/offdyn-bc/policies" / TASK).iterdir())
    for seed, policy in enumerate(policies):
        (folder / "seeds" / str(seed)).mkdir(parents=True)
        shutil.copyfile(policy, folder / "seeds" / str(seed) / "policy.onnx")
    returns = {str(seed): [100 / 3] * 1000 for seed in range(len(policies))}
    cells = [{"family": "gravity", "level": level / 8, "returns": returns} for level in range(1, 8)]
    both = {"agent": "bc", "task": TASK}
    run = {"format": 1, "seeds": list(range(len(policies))), "settings": {}, "status": "complete", "commit": "abc123"}
    run |= {
        "updates": 9,
        "wall_clock_s": 1,
        "device": "cpu",
        "precision": "fp32",
        "parameters": 9,
        "tuning_evaluations": 0,
    }
    evaluation = {"protocol": 2, "episodes": 1000, "clean": returns, "perturbed": cells}
    (folder / "run.json").write_text(json.dumps(run | both))
    (folder / "evaluation.json").write_text(json.dumps(evaluation | both))


def contents(home: Path) -> dict[str, int]:
    """Return the files of a home, with their sizes; those that keep other processes out of runs are left aside."""
    found = [path for path in home.rglob("*") if path.is_file()]
    return {path.relative_to(home).as_posix(): path.stat().st_size for path in found if path.name != "lock"}


def check_left(home: Path, before: dict[str, int], limit: int) -> None:
    """See that a command without room has left what was there, and else only whole files of a run that goes on."""
    left = contents(home)
    assert not [name for name in left if name not in before and not name.startswith("runs/")]
    assert before.items() <= left.items()
    assert not [name for name in left if ".part" in name or "stage-" in name or left[name] in (0, limit)]
    assert not [path for path in home.rglob("*") if path.is_dir() and not any(path.iterdir())]
    for name in set(left) - set(before):
        if name.endswith(".json"):
            json.loads((home / name).read_text())
        elif name.endswith(".csv"):
            assert (home / name).read_text().endswith("\n")
        else:
            assert Path(name).name == "hparams.yaml" or "tfevents" in name


@pytest.mark.parametrize(
    ("name", "limit", "file"),
    [(name, limit, file) for name, (_, limits) in COMMANDS.items() for limit, file in limits.items()],
)
def test_no_room(name: str, limit: int, file: str, files: Path, offdyn: Command, tmp_path: Path) -> None:
    home, command = tmp_path / "home", COMMANDS[name][0].replace("FILES", str(files))
    if (files / name).exists():
        shutil.copytree(files / name, home)
    before = contents(home)
    status, said = offdyn(command, home, limit)
    assert status == 2, said
    assert said.startswith(f"offdyn: {home}/")
    assert said.count("\n") == 1
    assert f"{file.replace('HOME/', '')} cannot be written: File too large; " in said
    assert f" bytes are needed, files may have {limit:,} bytes at most (ulimit -f)" in said
    check_left(home, before, limit)
    assert offdyn(command, home, 0) == (0, "")


def test_a_checkpoint_without_room_leaves_the_one_before(files: Path, offdyn: Command, tmp_path: Path) -> None:
    home, longer = tmp_path / "home", TRAIN.replace("FILES", str(files)).replace("--updates 4", "--updates 8")
    shutil.copytree(files / "evaluate", home)
    checkpoint = home / "runs/own/bc/checkpoints/last.ckpt"
    before = checkpoint.read_bytes()
    status, said = offdyn(longer, home, 20_000)
    assert (status, said.count("\n")) == (2, 1)
    assert said.startswith(f"offdyn: {checkpoint} cannot be written: File too large; ")
    assert checkpoint.read_bytes() == before
    assert offdyn(longer, home, 0) == (0, "")
    assert checkpoint.read_bytes() != before
