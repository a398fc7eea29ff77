from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmark_boards as boards
import benchmark_models as models
import pytest

from offdyn_envs import cli
from offdyn_envs.benchmark.entries import entries_from_runs, schemas, submissions, verdicts
from offdyn_envs.benchmark.gate import strict_json
from offdyn_envs.benchmark.gate.half import halved
from offdyn_envs.errors import OffDynError

Change = Callable[[dict[str, Any], dict[str, bytes]], None]
CELLS = (("gravity", 0.5, 0.8), ("min-q", 0.2, 0.5))


def test_an_entry_made_by_hand_loads(tmp_path: Path) -> None:
    entry, files = boards.entry_json("mine", (boards.HOPPER, boards.CHEETAH), (0, 1, 2, 3, 4), cells=CELLS)
    loaded = submissions.load_entry(boards.write_entry(tmp_path, entry, files))
    assert loaded.tasks == (boards.CHEETAH, boards.HOPPER)
    assert len(loaded.results) == 10
    assert len(loaded.perturbed) == 20
    assert loaded.policy_hashes[f"{boards.HOPPER}/3"] == entry["results"][3]["policy_sha256"]


@pytest.mark.parametrize("schema", [schemas.ENTRY_SCHEMA, schemas.VERDICT_SCHEMA])
def test_the_published_schemas_are_schemas(schema: Path) -> None:
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(json.loads(schema.read_text()))


def result(entry: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return entry["results"][index]


def duplicate_seed(entry: dict[str, Any], files: dict[str, bytes]) -> None:
    entry["results"].append(dict(result(entry)))


def renumbered_seed(entry: dict[str, Any], files: dict[str, bytes]) -> None:
    path = f"policies/{boards.HOPPER}/1.onnx"
    files[path] = files[f"policies/{boards.HOPPER}/0.onnx"]
    result(entry, 1)["policy_sha256"] = result(entry)["policy_sha256"]


def hash_mismatch(entry: dict[str, Any], files: dict[str, bytes]) -> None:
    files[f"policies/{boards.HOPPER}/0.onnx"] = models.policy(11, 3, seed=77)


def setter(place: str, value: Any) -> Change:
    def change(entry: dict[str, Any], files: dict[str, bytes]) -> None:
        where: Any = entry
        *path, last = place.split("/")
        for part in path:
            where = where[int(part) if part.isdigit() else part]
        where[int(last) if last.isdigit() else last] = value

    return change


def curve(updates: list[int], length: int) -> dict[str, Any]:
    return {"updates": updates, "returns": {str(seed): [1.0] * length for seed in range(3)}}


CURVE = {"updates": [1], "returns": {"0": [1.0]}}


def dropped_cell(entry: dict[str, Any], files: dict[str, bytes]) -> None:
    del entry["perturbed"][0]


def doubled_cell(entry: dict[str, Any], files: dict[str, bytes]) -> None:
    entry["perturbed"].append(dict(entry["perturbed"][0]))


def missing_policy(entry: dict[str, Any], files: dict[str, bytes]) -> None:
    del files[f"policies/{boards.HOPPER}/2.onnx"]


def two_seeds(entry: dict[str, Any], files: dict[str, bytes]) -> None:
    entry["results"].pop()
    entry["perturbed"] = []


def large_policy(entry: dict[str, Any], files: dict[str, bytes]) -> None:
    files[f"policies/{boards.HOPPER}/0.onnx"] = b"x" * (16 * 2**20 + 1)


REFUSED: dict[str, tuple[Change, str]] = {
    "duplicate seed": (duplicate_seed, "seed 0 appears twice"),
    "one policy under two seeds": (renumbered_seed, "same policy as seed 0"),
    "hash mismatch": (hash_mismatch, "has SHA-256"),
    "too few returns": (setter("results/1/returns", [1.0] * 9), "has 9 returns; the entry says 10"),
    "too many returns": (setter("results/1/returns", [1.0] * 11), "has 11 returns; the entry says 10"),
    "wrong cell length": (setter("perturbed/0/returns", [1.0]), "has 1 returns; the entry says 5"),
    "absurd return": (setter("results/0/returns/0", 1e9), "beyond 1e"),
    "text among returns": (setter("results/0/returns/0", "1.0"), "breaks its schema at results/0/returns/0"),
    "unknown task": (setter("results/0/task", "hoper-gravity-0.5-medium"), "did you mean 'hopper-gravity-0.5-medium'"),
    "negative seed": (setter("results/0/seed", -1), "breaks its schema"),
    "seed of a cell without a run": (setter("perturbed/0/seed", 9), "belongs to no policy"),
    "missing cell": (dropped_cell, "lacks seed 0"),
    "double cell": (doubled_cell, "appears twice"),
    "unknown family": (setter("perturbed/0/family", "wind"), "breaks its schema"),
    "parent path": (setter("results/0/policy", "../../other/policies/x.onnx"), "names the file"),
    "absolute path": (setter("results/0/policy", "/etc/passwd"), "names the file '/etc/passwd'"),
    "other seed's file": (setter("results/0/policy", f"policies/{boards.HOPPER}/1.onnx"), "names the file"),
    "missing policy": (missing_policy, "cannot be read"),
    "large policy": (large_policy, "bytes; 1 to"),
    "two seeds": (two_seeds, "has 2 seeds; at least 3"),
    "other protocol": (setter("protocol", 3), "breaks its schema at protocol"),
    "unknown field": (setter("rank", 1), "breaks its schema"),
    "own verdict": (setter("verdict", {"status": "reproduced"}), "breaks its schema"),
    "plain link": (setter("links/code", "http://example.org"), "breaks its schema at links/code"),
    "script link": (setter("links/code", "javascript:alert(1)"), "breaks its schema at links/code"),
    "quote in a link": (setter("links/code", 'https://example.org/"onclick="x'), "breaks its schema at links/code"),
    "control character": (setter("method", "good\x1b[2Jbad"), "control character"),
    "text direction": (setter("authors/0", "abc\u202edef"), "control character"),
    "line break": (setter("method", "two\nlines"), "control character"),
    "other name": (setter("name", "other"), "calls itself 'other'"),
    "undisclosed task": (setter("disclosure/tasks", {}), "disclosure must cover"),
    "curve of another task": (setter("curves", {boards.CHEETAH: CURVE}), "is not of the seeds of any policy"),
    "curve without a seed": (setter("curves", {boards.HOPPER: CURVE}), "is not of the seeds 0, 1, 2"),
    "curve that goes back": (setter("curves", {boards.HOPPER: curve([2, 1], 2)}), "its updates do not rise"),
    "short curve": (setter("curves", {boards.HOPPER: curve([1, 2], 1)}), "has 1 returns; the entry says 2"),
    "a day that is none": (setter("date", "yesterday"), "breaks its schema at date"),
    "a month that is none": (setter("date", "2026-13-01"), "date '2026-13-01' is no day"),
    "unknown kind": (setter("family", "magic"), "breaks its schema at family"),
    "huge method name": (setter("method", "x" * 1000), "breaks its schema at method"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_entry_is_refused_in_one_line_and_others_are_not(case: str, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    entry, files = boards.entry_json("bad", cells=CELLS)
    change(entry, files)
    (boards.write_entry(tmp_path, entry | {"name": "bad"}, files) / "entry.json").write_text(json.dumps(entry))
    boards.write_entry(tmp_path, *boards.entry_json("good"))
    loaded, refusals = submissions.load_entries(tmp_path)
    assert [item.name for item in loaded] == ["good"]
    assert len(refusals) == 1
    assert message in refusals[0]
    assert refusals[0].startswith("entry 'bad'")
    assert refusals[0].isprintable()
    assert len(refusals[0]) < 600


TEXTS = {
    "NaN": ('{"returns": [NaN]}', "NaN is not allowed"),
    "infinity": ('{"returns": [-Infinity]}', "Infinity is not allowed"),
    "overflow": ('{"returns": [1e999]}', "not finite"),
    "long integer": ('{"returns": [' + "9" * 5000 + "]}", "more than 20 digits"),
    "deep list": ("[" * 100_000 + "]" * 100_000, "nests deeper"),
    "deep object": ('{"a":' * 50_000 + "1" + "}" * 50_000, "nests deeper"),
    "duplicate key": ('{"name": 1, "name": 2}', "appears twice"),
    "cut": ('{"name": ', "no strict JSON"),
    "not text": ("\udcff", "no strict JSON"),
    "list": ("[]", "breaks its schema"),
    "empty": ("", "no strict JSON"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_bad_json_is_refused(case: str, tmp_path: Path) -> None:
    text, message = TEXTS[case]
    folder = tmp_path / "submissions" / "bad"
    folder.mkdir(parents=True)
    (folder / "entry.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(OffDynError, match=message):
        submissions.load_entry(folder)


def test_a_gigabyte_of_json_is_refused_unread(tmp_path: Path) -> None:
    folder = tmp_path / "submissions" / "bad"
    folder.mkdir(parents=True)
    with (folder / "entry.json").open("wb") as stream:
        stream.truncate(2**30)
    begun = time.monotonic()
    with pytest.raises(OffDynError, match="1073741824 bytes; at most"):
        submissions.load_entry(folder)
    assert time.monotonic() - begun < 0.5


def test_brackets_inside_strings_do_not_count_as_depth(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"text": "[" * 100 + '\\"' + "{" * 100}))
    assert strict_json.read_json(path, "x")["text"].count("[") == 100


def test_links_in_place_of_files_and_folders_are_refused(tmp_path: Path) -> None:
    entry, files = boards.entry_json("linked")
    folder = boards.write_entry(tmp_path, entry, files)
    policy = folder / "policies" / boards.HOPPER / "0.onnx"
    outside = tmp_path / "outside.onnx"
    policy.rename(outside)
    policy.symlink_to(outside)
    with pytest.raises(OffDynError, match="no regular file"):
        submissions.load_entry(folder)
    policy.unlink()
    outside.rename(policy)
    submissions.load_entry(folder)
    (folder / "policies").rename(tmp_path / "elsewhere")
    (folder / "policies").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OffDynError, match="no folder inside the entry"):
        submissions.load_entry(folder)
    linked = tmp_path / "submissions" / "alias"
    linked.symlink_to(folder)
    with pytest.raises(OffDynError, match="is no folder"):
        submissions.load_entry(linked)
    (folder / "entry.json").rename(tmp_path / "entry.json")
    (folder / "entry.json").symlink_to(tmp_path / "entry.json")
    with pytest.raises(OffDynError, match="no regular file"):
        submissions.load_entry(folder)


def test_a_device_in_place_of_a_file_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "submissions" / "pipe"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "entry.json")
    with pytest.raises(OffDynError, match="no regular file"):
        submissions.load_entry(folder)


@pytest.mark.parametrize(
    "name", ["", "../up", "a/b", ".hidden", "UPPER", "a b", "x" * 65, "a\n", "<script>", "-dash", "é"]
)
def test_names_that_are_no_names(name: str) -> None:
    with pytest.raises(OffDynError, match="entry name"):
        submissions.check_name(name)


def test_adding_finished_runs_makes_a_whole_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries_from_runs, "today", lambda: "2026-11-21")
    runs = [boards.write_run(tmp_path / "runs" / task / "iql", task=task) for task in (boards.HOPPER, boards.CHEETAH)]
    details = entries_from_runs.Details(
        method="IQL", authors=("Kostrikov",), code="https://example.org/x", commit="abc"
    )
    folder = entries_from_runs.add_entry(runs, "iql", tmp_path / "board", details=details)
    entry = submissions.load_entry(folder)
    assert folder == tmp_path / "board" / "submissions" / "iql"
    assert (entry.method, entry.date) == ("IQL", "2026-11-21")
    assert entry.episodes == 12
    assert entry.cell_episodes == 4
    evaluation = json.loads((runs[0] / "evaluation.json").read_text())
    hopper = [item for item in entry.results if item.task == boards.HOPPER]
    assert list(hopper[1].returns) == evaluation["clean"]["1"]
    assert (folder / hopper[1].policy).read_bytes() == halved((runs[0] / "seeds/1/policy.onnx").read_bytes())
    assert {result.critic for result in entry.results} == {None}
    training = entry.disclosure["tasks"][boards.HOPPER]
    assert training["hyperparameters"] == {"tau": 0.7, "dynamics.epochs": 5, "layers": "[256, 256]", "name": None}
    assert training["command"] == f"offdyn train iql {boards.HOPPER} --seeds 3 --updates 1000"
    assert not entry.reference
    assert [path.name for path in folder.parent.iterdir()] == ["iql"]


def test_own_critics_are_added_on_request(tmp_path: Path) -> None:
    run = boards.write_run(tmp_path / "runs" / boards.HOPPER / "iql")
    details = entries_from_runs.Details(critics=True)
    entry = submissions.load_entry(entries_from_runs.add_entry([run], "iql", tmp_path / "board", details=details))
    assert [result.critic for result in entry.results] == [
        f"policies/{boards.HOPPER}/{i}.critic.onnx" for i in range(3)
    ]


@pytest.mark.parametrize(
    ("cells", "changes", "words"),
    [
        ([("kinematic", 4.0, 0.5)], {}, "perturbed kinematic 4 of .* are allowed"),
        ([("min-q-own", 0.2, 0.5)], {}, "needs a critic of every seed, and the entry has none"),
    ],
)
def test_cells_that_cannot_be_run_are_refused(tmp_path: Path, cells: Any, changes: Any, words: str) -> None:
    folder = boards.write_entry(tmp_path, *boards.entry_json("mine", cells=cells, **changes))
    with pytest.raises(OffDynError, match=words):
        submissions.load_entry(folder)


def test_policies_and_critics_of_too_many_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = boards.write_run(tmp_path / "run")
    folder = entries_from_runs.add_entry([run], "iql", tmp_path, details=entries_from_runs.Details(critics=True))
    size = sum(path.stat().st_size for path in folder.rglob("*.onnx"))
    monkeypatch.setattr(submissions.protocol, "ENTRY_BYTES", size)
    submissions.load_entry(folder)
    monkeypatch.setattr(submissions.protocol, "ENTRY_BYTES", size - 1)
    with pytest.raises(OffDynError, match=f"its policies and critics have {size:,} bytes, {size - 1:,} are allowed"):
        submissions.load_entry(folder)


def test_a_run_grown_from_three_seeds_to_five_is_added_once_all_are_evaluated(tmp_path: Path) -> None:
    board, run = tmp_path / "board", boards.write_run(tmp_path / "run")
    assert len(submissions.load_entry(entries_from_runs.add_entry([run], "iql", board)).results) == 3
    old = (run / "evaluation.json").read_text()
    shutil.rmtree(run)
    boards.write_run(run, seeds=(0, 1, 2, 3, 4))
    new = (run / "evaluation.json").read_text()
    (run / "evaluation.json").write_text(old)
    with pytest.raises(OffDynError, match=f"is not evaluated for seeds 3, 4; use: offdyn evaluate {run}"):
        entries_from_runs.add_entry([run], "iql", board, replace=True)
    assert len(submissions.load_entry(board / "submissions/iql").results) == 3
    (run / "evaluation.json").write_text(new)
    grown = submissions.load_entry(entries_from_runs.add_entry([run], "iql", board, replace=True))
    assert [result.seed for result in grown.results] == [0, 1, 2, 3, 4]
    assert {cell.seed for cell in grown.perturbed} == {0, 1, 2, 3, 4}


def test_adding_twice_needs_replace(tmp_path: Path) -> None:
    run = boards.write_run(tmp_path / "run", agent="bc", critic=False)
    board = tmp_path / "board"
    entries_from_runs.add_entry([run], "bc", board)
    with pytest.raises(OffDynError, match="exists"):
        entries_from_runs.add_entry([run], "bc", board)
    details = entries_from_runs.Details(method="Again")
    assert (
        submissions.load_entry(entries_from_runs.add_entry([run], "bc", board, details=details, replace=True)).method
        == "Again"
    )
    assert [path.name for path in (board / "submissions").iterdir()] == ["bc"]


@pytest.mark.parametrize(
    ("family", "data", "reference"),
    [
        ("model-free", "merged", False),
        ("model-free", "target", True),
        ("model-free", "source", True),
        ("model-free", "oracle", True),
        ("filtering or reweighting", "target", True),
        (None, "target", True),
        (None, "merged", False),
        (None, None, False),
        # What only imitates is a method with the target's rows alone: BC.
        ("cloning", "target", False),
        ("cloning", "merged", False),
        ("cloning", "oracle", True),
    ],
)
def test_what_stands_for_its_data_is_a_reference_row(
    family: str | None, data: str | None, reference: bool, tmp_path: Path
) -> None:
    run = boards.write_run(tmp_path / "run")
    edited(run / "run.json", family=family, settings={"data": data})
    folder = entries_from_runs.add_entry([run], "one", tmp_path / "board")
    assert json.loads((folder / "entry.json").read_text())["reference"] is reference
    # Whoever writes entry.json by hand does not get round it.
    edited(folder / "entry.json", reference=False)
    assert submissions.load_entry(folder).reference is reference


def test_a_variant_keeps_its_name(tmp_path: Path) -> None:
    def method(run: Path) -> str:
        return entries_from_runs.FinishedRun.load(run).method

    plain = boards.write_run(tmp_path / "mobody", agent="mobody")
    paper = boards.write_run(tmp_path / "mobody@paper", agent="mobody", task=boards.CHEETAH)
    formed = boards.write_run(tmp_path / "elsewhere", agent="mobody")
    edited(formed / "run.json", settings={"form": "paper"})
    named = boards.write_run(tmp_path / "mobody@other", agent="mobody")
    edited(named / "run.json", variant="data-target")
    suite = boards.write_run(tmp_path / "run", agent="mobody")
    edited(suite / "run.json", settings={"form": "suite"})
    assert [method(run) for run in (plain, paper, formed, named, suite)] == [
        "mobody",
        "mobody@paper",
        "mobody@form-paper",
        "mobody@data-target",
        "mobody",
    ]
    board = tmp_path / "board"
    assert submissions.load_entry(entries_from_runs.add_entry([paper], "one", board)).method == "mobody@paper"
    with pytest.raises(OffDynError, match=r"different variants \(mobody, mobody@paper\); name .* --method"):
        entries_from_runs.add_entry([plain, paper], "both", board)
    both = entries_from_runs.Details(method="MOBODY")
    entries_from_runs.add_entry([plain, paper], "both", board, details=both)


def test_a_population_of_several_tasks_has_one_clock(tmp_path: Path) -> None:
    runs = [boards.write_run(tmp_path / task / "iql", task=task) for task in (boards.HOPPER, boards.CHEETAH)]
    for run in runs:
        edited(run / "run.json", wall_clock_s=100.0, population={"runs": 6, "tasks": 2})
    entry = submissions.load_entry(entries_from_runs.add_entry(runs, "iql", tmp_path / "board"))
    assert [told["wall_clock_s"] for told in entry.disclosure["tasks"].values()] == [50.0, 50.0]


def test_a_broken_add_leaves_nothing_and_a_killed_one_is_cleaned_up(tmp_path: Path) -> None:
    run, board = boards.write_run(tmp_path / "run"), tmp_path / "board"
    policy = run / "seeds" / "2" / "policy.onnx"
    good = policy.read_bytes()
    policy.write_bytes(models.policy(17, 6))
    with pytest.raises(OffDynError, match="this task's is 11"):
        entries_from_runs.add_entry([run], "iql", board)
    assert not board.exists()
    policy.write_bytes(good)
    (board / "submissions" / ".iql+abc.part").mkdir(parents=True)
    other = board / "submissions" / ".iql.v2+abc.part"
    other.mkdir()
    assert submissions.load_entries(board) == ([], [])
    entries_from_runs.add_entry([run], "iql", board)
    assert sorted(path.name for path in (board / "submissions").iterdir()) == [other.name, "iql"]


def test_a_replacement_that_fails_leaves_the_old_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, board = boards.write_run(tmp_path / "run"), tmp_path / "board"
    folder = entries_from_runs.add_entry([run], "iql", board, details=entries_from_runs.Details(method="Old"))
    rename, moves = Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        moves.append(self.name)
        if len(moves) == 2:
            raise OSError("disk trouble")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="disk trouble"):
        entries_from_runs.add_entry([run], "iql", board, replace=True)
    assert moves == ["iql", "iql", "replaced"]
    assert submissions.load_entry(folder).method == "Old"
    assert [path.name for path in folder.parent.iterdir()] == ["iql"]


KILLED = """
import os, sys
from pathlib import Path
from offdyn_envs.benchmark.entries import entries_from_runs
rename = Path.rename
def killed(self, target):
    if self.parent.suffix == ".part":
        os.kill(os.getpid(), 9)
    return rename(self, target)
Path.rename = killed
entries_from_runs.add_entry([Path(sys.argv[1])], "iql", Path(sys.argv[2]), replace=True)
"""


def test_a_replacement_killed_halfway_is_reported_and_brought_back(tmp_path: Path) -> None:
    run, board = boards.write_run(tmp_path / "run"), tmp_path / "board"
    old = entries_from_runs.Details(method="Old")
    folder = entries_from_runs.add_entry([run], "iql", board, details=old)
    done = subprocess.run([sys.executable, "-c", KILLED, str(run), str(board)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not folder.exists()
    entries, refusals = submissions.load_entries(board)
    assert entries == []
    assert refusals == [
        "entry 'iql' is missing: its replacement was interrupted; offdyn leaderboard add brings it back"
    ]
    with pytest.raises(OffDynError, match="exists"):
        entries_from_runs.add_entry([run], "iql", board)
    assert submissions.load_entry(folder).method == "Old"
    assert [path.name for path in folder.parent.iterdir()] == ["iql"]
    assert submissions.load_entries(board)[1] == []


def test_the_disclosure_comes_from_the_run(tmp_path: Path) -> None:
    run, board = boards.write_run(tmp_path / "run"), tmp_path / "board"
    note = "the paper tuned beta online"
    edited(run / "run.json", tuning_evaluations=300, tuning_note=note, commit="abc123", precision="bf16")
    entry = submissions.load_entry(entries_from_runs.add_entry([run], "mine", board))
    training = entry.disclosure["tasks"][boards.HOPPER]
    assert (training["tuning_evaluations"], training["tuning_note"], training["precision"]) == (300, note, "bf16")
    assert entry.disclosure["commit"] == "abc123"
    given = entries_from_runs.Details(commit="def456")
    entry = submissions.load_entry(entries_from_runs.add_entry([run], "given", board, details=given))
    assert entry.disclosure["commit"] == "def456"
    other = boards.write_run(tmp_path / "other", task=boards.CHEETAH)
    with pytest.raises(OffDynError, match=r"different commits \(an unknown one, abc123\)"):
        entries_from_runs.add_entry([run, other], "both", board)
    edited(other / "run.json", commit="abc123")
    both = submissions.load_entry(entries_from_runs.add_entry([run, other], "both", board))
    assert both.disclosure["commit"] == "abc123"
    assert "tuning_note" not in both.disclosure["tasks"][boards.CHEETAH]
    edited(run / "run.json", tuning_evaluations=None)
    with pytest.raises(OffDynError, match=r"does not state tuning\.evaluations, the number of online evaluations"):
        entries_from_runs.add_entry([run], "silent", board)
    facts = json.loads((run / "run.json").read_text())
    del facts["tuning_evaluations"]
    (run / "run.json").write_text(json.dumps(facts))
    with pytest.raises(OffDynError, match="lacks or misstates 'tuning_evaluations'"):
        entries_from_runs.add_entry([run], "silent", board)


@pytest.mark.parametrize("value", [None, "NaN", True, [1.0]])
def test_a_run_with_failed_episodes_is_refused_clearly(value: Any, tmp_path: Path) -> None:
    run = boards.write_run(tmp_path / "run")
    evaluation = json.loads((run / "evaluation.json").read_text())
    clean = json.loads(json.dumps(evaluation["clean"]))
    clean["1"][3] = value
    edited(run / "evaluation.json", clean=clean)
    with pytest.raises(OffDynError, match=r"clean returns of seed 1 hold .* no finite number"):
        entries_from_runs.add_entry([run], "mine", tmp_path / "board")
    evaluation["perturbed"][1]["returns"]["2"][0] = value
    edited(run / "evaluation.json", clean=evaluation["clean"], perturbed=evaluation["perturbed"])
    with pytest.raises(OffDynError, match=r"perturbed min-q 0.2 returns of seed 2 hold .* no finite number"):
        entries_from_runs.add_entry([run], "mine", tmp_path / "board")


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("run.json", {"status": "running"}, "only complete runs"),
        ("run.json", {"format": 2}, "format 2"),
        ("run.json", {"agent": "droco"}, "another task or agent"),
        ("run.json", {"seeds": None}, "lacks or misstates"),
        ("evaluation.json", {"protocol": 0}, "protocol 0"),
        ("evaluation.json", {"clean": {"0": [1.0] * 12}}, "is not evaluated for seeds 1, 2"),
        (
            "evaluation.json",
            {"clean": {str(seed): [1.0] * 12 for seed in range(3)}, "episodes": 9},
            "breaks its schema",
        ),
    ],
)
def test_unfinished_or_inconsistent_runs_are_refused(
    file: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    run = boards.write_run(tmp_path / "run")
    edited(run / file, **changes)
    with pytest.raises(OffDynError, match=message):
        entries_from_runs.add_entry([run], "iql", tmp_path / "board")


def test_runs_that_are_not_there_or_not_evaluated(tmp_path: Path) -> None:
    run = boards.write_run(tmp_path / "run")
    (run / "evaluation.json").unlink()
    with pytest.raises(OffDynError, match="offdyn evaluate"):
        entries_from_runs.add_entry([run], "iql", tmp_path / "board")
    with pytest.raises(OffDynError, match="cannot be read"):
        entries_from_runs.add_entry([tmp_path / "nothing"], "iql", tmp_path / "board")
    with pytest.raises(OffDynError, match="at least one run"):
        entries_from_runs.add_entry([], "iql", tmp_path / "board")


def test_the_add_command_and_its_refusals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "entry_points", lambda group: [])
    run = boards.write_run(tmp_path / "run")
    arguments = ["leaderboard", "add", str(run), "--leaderboard", str(tmp_path / "board"), "--name"]
    options = ["--method", "IQL", "--author", "A", "--author", "B", "--code", "https://example.org", "--reference"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "iql", *options])
    assert ended.value.code == 0
    board, folder = str(tmp_path / "board"), str(tmp_path / "board" / "submissions" / "iql")
    said = capsys.readouterr().out.split("next: ")[1]
    assert said == (
        f"offdyn leaderboard verify {folder} --leaderboard {board} && offdyn leaderboard page --leaderboard {board}\n"
    )
    verify, page = ([*line.split()[1:]] for line in said.split("&&"))
    with pytest.raises(SystemExit) as ended:
        cli.main([*verify, "--episodes", "2", "--no-perturbed"])
    assert verdicts.verdict_path(tmp_path / "board", "iql").exists()
    with pytest.raises(SystemExit) as ended:
        cli.main(page)
    assert ended.value.code == 0
    assert (tmp_path / "board" / "index.html").exists()
    capsys.readouterr()
    entry = submissions.load_entry(tmp_path / "board" / "submissions" / "iql")
    assert (entry.method, entry.authors, entry.reference) == ("IQL", ("A", "B"), True)
    for name, message in (("iql", "exists"), ("../iql", "entry name"), ("<script>", "entry name")):
        with pytest.raises(SystemExit) as ended:
            cli.main([*arguments, name])
        printed = capsys.readouterr()
        assert ended.value.code == 2
        assert message in printed.err
        assert len(printed.err.splitlines()) == 1
