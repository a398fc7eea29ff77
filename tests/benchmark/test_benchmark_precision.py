"""bf16 beside fp32: the pairs that runs make, the list of them on the leaderboard, and places that need it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import benchmark_boards as boards
import pytest
from test_benchmark_results import BOARD, CORE, WALKER, _raw, _told, everywhere, judged, usual, usual_page

from offdyn_envs import cli
from offdyn_envs.benchmark.entries.history import load_history
from offdyn_envs.benchmark.entries.precision import Held, held_text, in_bf16, load_held, not_held
from offdyn_envs.benchmark.entries.standings import Judged, compute_standings
from offdyn_envs.benchmark.page.front import front
from offdyn_envs.benchmark.results import publish, rows
from offdyn_envs.benchmark.results.page import page
from offdyn_envs.benchmark.results.precision import Unlike, held_against, renewed
from offdyn_envs.benchmark.scoring.statistics import Interval
from offdyn_envs.errors import OffDynError

REFERENCES = rows.references_of("core-6")
HELD = Held("droco", boards.HOPPER, 100_000, Interval(1.0, -1.0, 3.0), Interval(2.0, 1.0, 3.0))


def in_both(folder: Path, task: str, gain: float, **exact: Any) -> None:
    """A run in bf16 beside the same in fp32, which scores `gain` points less; curves are twice as far apart."""
    for name, precision, lead in (("iql", "bf16", gain), ("iql@fp32", "fp32", 0.0)):
        place = boards.write_run(folder / task / name, task=task)
        run = json.loads((place / "run.json").read_text()) | {"precision": precision, "updates": 100_000}
        (place / "run.json").write_text(json.dumps(run | (exact if precision == "fp32" else {})))
        told = json.loads((place / "evaluation.json").read_text())
        told["clean"] = {str(seed): [_raw(task, 40 + seed + lead)] * 2 for seed in range(3)}
        (place / "evaluation.json").write_text(json.dumps(told))
        lines = [[10 * step, *(_raw(task, 10 + step + seed + 2 * lead) for seed in range(3))] for step in (1, 2)]
        head = "updates,return_0,return_1,return_2"
        (place / "metrics.csv").write_text("\n".join([head, *(",".join(map(str, line)) for line in lines)]))


def bf16(name: str = "droco", **changes: Any) -> Judged:
    return judged(name, everywhere(50), disclosure=_told(precision="bf16"), **changes)


def text_of(held: tuple[Held, ...] = (), unlike: tuple[Unlike, ...] = (), board: tuple[Judged, ...] = ()) -> str:
    """The section on precision."""
    found = publish.material_of(rows.gather([*board, *BOARD[1:2]], [], "core-6", "100k", held=held), "core-6")
    text = page(replace(found, held=held, unlike=unlike), command="offdyn", latest="", version="0")
    return text.partition("## Precision")[2].partition("\n## ")[0]


def test_bf16_is_held_against_fp32_with_an_interval(tmp_path: Path) -> None:
    in_both(tmp_path, boards.HOPPER, 3.0)
    boards.write_run(tmp_path / WALKER / "bc", agent="bc", task=WALKER)
    assert "iql@fp32 (runs)" not in {row.name for row in rows.gather([], [tmp_path], "core-6", "100k")}
    for given in ([tmp_path], [tmp_path / boards.HOPPER / "iql"]):
        (iql,), unlike = held_against(given, REFERENCES)
        assert (iql.method, iql.task, iql.updates, unlike) == ("iql", boards.HOPPER, 100_000, [])
        # Two samples of three seeds, each of variance 1: 4 degrees of freedom, and 2.776 * sqrt(2 / 3).
        assert iql.final == pytest.approx((3.0, 3.0 - 2.267, 3.0 + 2.267), abs=1e-3)
        assert iql.curve.mean == pytest.approx(6.0, abs=1e-4)
    text = text_of((iql,), board=(bf16(),))
    assert "| `iql` | hopper-gravity-0.5 | 100,000 | 3.0 [0.7, 5.3] | 6.0 [3.7, 8.3] |" in text
    assert "| `droco` | - | - | not held against fp32 yet | - |" in text
    assert "No figures here say that they are in bf16." in usual_page()


def test_the_page_prints_all_of_the_command_for_the_other_side(tmp_path: Path) -> None:
    train = "offdyn train AGENT TASK --seeds 5 --updates {} --eval-every 5k --precision fp32 --variant fp32\n"
    then = "offdyn evaluate runs/TASK/AGENT@fp32\n```"
    assert train.format("100k") + then in usual_page()
    long = page(replace(usual(), division="1m"), command="offdyn", latest="", version="0")
    assert train.format("1m") + then in long
    assert "(ant-gravity-5.0-medium/td3-bc@paper-fp32/metrics.csv)" in text_of()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"precision": "tf32"}, "they are in bf16 and tf32, not bf16 and fp32"),
        ({"updates": 20_000}, "they differ in updates, not in precision alone"),
        ({"settings": {}}, "they differ in settings, not in precision alone"),
        ({"status": "running"}, "only complete runs can be added"),
    ],
)
def test_two_runs_that_differ_in_more_than_precision_are_no_evidence_and_leave_the_page_standing(
    changed: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_both(tmp_path / "runs", boards.HOPPER, 1.0, **changed)
    monkeypatch.setattr(publish, "load_board", lambda _: ([bf16("iql", grid=False)], []))
    (tmp_path / "precision.json").write_text(held_text([HELD, HELD._replace(method="iql")]))
    (text_file, *_), _ = publish.write_results(tmp_path, [tmp_path / "runs"], tmp_path, command="offdyn")
    (line,) = (line for line in text_file.read_text().splitlines() if "cannot be compared:" in line)
    assert line.startswith("| `iql` | hopper-gravity-0.5 | - | cannot be compared: ") and message in line
    # What an earlier run had said of the same method on the same task is no evidence any more.
    assert load_held(tmp_path) == (HELD,)
    assert "bf16 not held against fp32" in text_file.read_text().partition("## What is missing")[2]


def test_runs_that_were_looked_at_on_other_occasions_are_no_pair(tmp_path: Path) -> None:
    in_both(tmp_path, boards.HOPPER, 1.0)
    curve = tmp_path / boards.HOPPER / "iql@fp32/metrics.csv"
    for text in (curve.read_text().replace("\n20,", "\n30,"), None):
        curve.unlink()
        if text:
            curve.write_text(text)
        held, unlike = held_against([tmp_path], REFERENCES)
        assert held == []
        assert unlike == [
            Unlike("iql", boards.HOPPER, "they were not evaluated after the same updates of training"),
        ]
        curve.touch()


def test_the_list_is_kept_renewed_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_both(tmp_path / "runs", boards.CHEETAH, 3.0)
    monkeypatch.setattr(publish, "load_board", lambda _: ([bf16("iql", grid=False)], []))
    (tmp_path / "precision.json").write_text(held_text([HELD]))
    files, _ = publish.write_results(tmp_path, [tmp_path / "runs"], tmp_path / "out", command="offdyn")
    assert files[-1] == tmp_path / "precision.json"
    held = load_held(tmp_path)
    assert [(one.method, one.task) for one in held] == [("droco", boards.HOPPER), ("iql", boards.CHEETAH)]
    assert held[0] == HELD and held[1].final.mean == 3.0
    # Its own text it leaves alone; without the runs the page stays the same.
    files, _ = publish.write_results(tmp_path, [], tmp_path / "again", command="offdyn")
    assert files[-1].name == "figures.csv"
    sections = {
        (tmp_path / name / "core-6.md").read_text().partition("## Precision")[2][:1500] for name in ("out", "again")
    }
    assert len(sections) == 1
    assert renewed(held, [held[1]._replace(updates=5)], []) == (HELD, held[1]._replace(updates=5))


def test_a_place_that_comes_with_a_pair_of_runs_is_in_the_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_both(tmp_path / "runs", boards.CHEETAH, 3.0)
    (tmp_path / "verdicts").mkdir()
    monkeypatch.setattr(publish, "load_board", lambda _: ([bf16("iql")], []))
    for given, expected in (([], []), ([tmp_path / "runs"], [{"100k": {"iql": 1}}]), ([], [{"100k": {"iql": 1}}])):
        publish.write_results(tmp_path, given, tmp_path / "out", command="offdyn")
        assert [step["places"]["core-6"] for step in load_history(tmp_path)] == expected


@pytest.mark.parametrize("text", ["[]", "{", '{"held": [{"method": "iql"}]}', '{"held": 1}'])
def test_a_damaged_list_is_named(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precision.json").write_text(text)
    with pytest.raises(OffDynError, match=r"list of methods in bf16 '.*precision\.json' is"):
        load_held(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(["leaderboard", "page", "--leaderboard", str(tmp_path)])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and "precision.json" in error


def test_a_place_in_bf16_needs_bf16_to_be_held_against_fp32() -> None:
    def lacks(entry: Judged, *held: Held) -> list[str]:
        (track,) = (one for one in compute_standings([entry], held=held)["tracks"] if one["name"] == "core-6")
        (row,) = track["rows"]
        assert (row["rank"] is None) == bool(row["lacks"])
        (again,) = rows.gather([entry], [], "core-6", "100k", held=held)
        assert list(again.lacks) == row["lacks"]
        return row["lacks"]

    why = ["bf16 not held against fp32"]
    assert lacks(judged("droco", everywhere(50))) == []
    assert lacks(bf16()) == lacks(bf16(), HELD._replace(method="iql")) == why
    assert lacks(bf16(), HELD) == []
    assert lacks(bf16("mine", method="DROCO (ours)"), HELD) == lacks(bf16("droco@x"), HELD) == []
    # A pair of fewer updates says nothing of what comes after them.
    assert lacks(bf16(), HELD._replace(updates=20_000)) == why
    assert lacks(judged("droco", everywhere(50), disclosure=_told(precision="tf32"))) == []


def test_runs_in_bf16_lack_it_too(tmp_path: Path) -> None:
    for task in CORE:
        in_both(tmp_path, task, 1.0)
    (row,) = rows.gather([], [tmp_path], "core-6", "100k")
    assert row.lacks == ("no entry", "3 seeds, 5 needed", "bf16 not held against fp32") and row.bf16
    held, _ = held_against([tmp_path], REFERENCES)
    (row,) = rows.gather([], [tmp_path], "core-6", "100k", held=held[:1])
    assert row.lacks == ("no entry", "3 seeds, 5 needed")


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("bf16", True), ("bfloat16", True), ("BF16-mixed", True), ("fp32", False), ("tf32", False), (None, False)],
)
def test_every_spelling_of_bf16_is_one(precision: str | None, expected: bool) -> None:
    assert in_bf16(precision) is expected
    assert (not_held("iql", [{"precision": precision, "updates": 1}], []) is not None) is expected


def test_the_front_page_says_that_a_place_waits_for_fp32() -> None:
    html = "".join(front(compute_standings([bf16()])))
    assert html.count("no place: bf16 not held against fp32") == 2
    assert "bf16 not held against fp32" not in "".join(front(compute_standings([bf16()], held=[HELD])))
