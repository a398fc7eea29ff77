"""The results page: its sentences, tables and verdicts on boards made by hand, with scores that are known."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import benchmark_boards as boards
import numpy as np
import pytest

from offdyn_envs import cli
from offdyn_envs.benchmark.entries.published import lost_shares, papers, published_scores
from offdyn_envs.benchmark.entries.standings import Judged, compute_standings
from offdyn_envs.benchmark.entries.submissions import CellResult, Entry, Result
from offdyn_envs.benchmark.page.front import front
from offdyn_envs.benchmark.page.tables import table_files
from offdyn_envs.benchmark.results import claims, forest, order, publish, rows, sentences, shares
from offdyn_envs.benchmark.results.page import page
from offdyn_envs.benchmark.results.plan import Planned, read_plan
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.cells import full_grid
from offdyn_envs.benchmark.scoring.scores import get_reference
from offdyn_envs.errors import OffDynError
from offdyn_envs.tasks import TRACKS, get_task

ROOT = Path(__file__).parents[2]
CORE = TRACKS["core-6"]
FIVE = (0, 1, 2, 3, 4)
WALKER = "walker2d-gravity-5.0-medium"
KINEMATIC = "hopper-from-kinematic-severe-medium"


def judged(
    name: str,
    scores: Mapping[str, float],
    seeds: Sequence[int] = FIVE,
    *,
    spread: float = 1.0,
    kept: Mapping[tuple[str, float], float] | None = None,
    data: str = "merged",
    grid: bool = True,
    **changes: Any,
) -> Judged:
    """An entry, re-run, whose seeds score `spread` above and below what is said.

    `kept` are shares in cells; of the others of the grid, which are re-run too where it is whole, all is kept.
    """
    returns = {
        (task, seed): float(_raw(task, score + spread * (seed - (len(seeds) - 1) / 2)))
        for (task, score), seed in product(sorted(scores.items()), seeds)
    }
    results = tuple(
        Result(task, seed, "", f"{name}{task}{seed}", None, None, (value, value))
        for (task, seed), value in returns.items()
    )
    shares_of = {task: {cell: 1.0 for cell in (full_grid(task) if grid else ())} | dict(kept or {}) for task in scores}
    cells = tuple(
        CellResult(task, seed, *cell, (_raw(task, share * _score(task, value)),) * 2)
        for (task, seed), value in returns.items()
        for cell, share in shares_of[task].items()
    )
    told: dict[str, Any] = {
        "folder": Path(),
        "name": name,
        "date": "",
        "protocol": protocol.PROTOCOL,
        "method": name,
        "family": "model-free",
        "authors": (),
        "links": {},
        "reference": False,
        "episodes": 2,
        "cell_episodes": 2,
        "disclosure": {
            "commit": "",
            "tasks": {task: boards.training(hyperparameters={"data": data}, wall_clock_s=500.0) for task in scores},
        },
        "results": results,
        "perturbed": cells,
        "curves": {},
    }
    entry = Entry(**(told | changes))
    verdict = {
        "status": "reproduced",
        "episodes": protocol.CLEAN_EPISODES,
        "date": "2026-11-29",
        "returns": {f"{task}/{seed}": [value, value] for (task, seed), value in returns.items()},
        "perturbed": [
            {"task": c.task, "seed": c.seed, "family": c.family, "level": c.level, "returns": list(c.returns)}
            for c in cells
        ],
    }
    return Judged(entry, verdict)


def _raw(task: str, score: float) -> float:
    found = get_reference(get_task(task).robot, get_task(task).scoring)
    return found.random + score / 100 * found.span


def _score(task: str, value: float) -> float:
    return float(get_reference(get_task(task).robot, get_task(task).scoring).normalise(value))


def everywhere(score: float, **other: float) -> dict[str, float]:
    return {task: other.get(task.partition("-")[0], score) for task in CORE}


ALL_CELLS = {condition: 0.5 for condition in shares.TABLE}
BOARD = [
    judged("droco", everywhere(50), kept=ALL_CELLS),
    judged("iql", everywhere(40), kept={**ALL_CELLS, ("kinematic", 3.0): 0.2, ("min-q", 0.2): 1.1}),
    judged("igdf", everywhere(45), kept={condition: 0.25 for condition in shares.TABLE}),
    judged("td3-bc", {task: 30.0 for task in CORE if task != WALKER}, grid=False),
    judged("mobody", everywhere(60, walker2d=20), (0, 1, 2), grid=False),
    judged("iql@data-target", {task: 20.0 + 4 * k for k, task in enumerate(CORE)}, data="target", reference=True),
]


def material(board: Sequence[Judged] | None = None) -> sentences.Material:
    return usual() if board is None else publish.material_of(rows.gather(board, [], "core-6", "100k"), "core-6")


@cache
def usual() -> sentences.Material:
    return material(BOARD)


@cache
def usual_page() -> str:
    return page(usual(), command="offdyn", latest="", version="0")


def by_name(board: Sequence[Judged] | None = None) -> dict[str, rows.Row]:
    return {row.name: row for row in material(board).rows}


def test_places_need_all_tasks_and_five_seeds_and_rows_say_what_they_lack() -> None:
    found = by_name()
    assert {name: row.rank for name, row in found.items()} == {
        "droco": 1,
        "igdf": 2,
        "iql": 3,
        "td3-bc": None,
        "mobody": None,
        "iql@data-target": None,
    }
    assert found["td3-bc"].lacks[1:] == ("5 of 6 tasks: lacks walker2d-gravity-5.0",)
    assert found["mobody"].lacks[1:] == ("3 seeds, 5 needed",)
    assert found["td3-bc"].left == 500_000 and found["mobody"].left == 6 * 2 * 100_000
    # 500 seconds for five seeds of 100,000 updates.
    assert found["td3-bc"].seconds == pytest.approx(0.001)
    text = usual_page()
    assert "not re-run; 5 of 6 tasks: lacks walker2d-gravity-5.0 | 500,000 | 8 min |" in text
    assert "not re-run; 3 seeds, 5 needed | 1,200,000 | 33 min |" in text
    assert "| all | - | 1,700,000 | 42 min, one after the other |" in text
    (line,) = (line for line in text.partition("## Scores")[2].splitlines() if line.startswith("| `td3-bc` | - |"))
    assert line.startswith("| `td3-bc` | - | - | 30.0 [") and "| - | 30.0" in line
    assert "3 methods have a place, of 6 with figures." in text


def without_policies(folder: Path) -> None:
    """Leaves of runs what docs/results keeps of them."""
    for path in folder.rglob("seeds"):
        shutil.rmtree(path)


def missing_lines(found: Sequence[rows.Row], plan: Sequence[Planned] = ()) -> list[list[str]]:
    """The table of what is missing, a list of cells a line."""
    made = replace(publish.material_of(found, "core-6"), plan=plan)
    text = page(made, command="offdyn", latest="", version="0").partition("## What is missing")[2]
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")][2:]


def test_each_method_lacks_what_its_nearest_row_lacks_and_runs_without_policies_spare_nothing(tmp_path: Path) -> None:
    board = [
        judged("bc", {boards.HOPPER: 40.0}, grid=False),
        judged("bc-old", everywhere(40), (0, 1, 2), method="BC (target only)", protocol=1),
    ]
    for task in CORE:
        boards.write_run(tmp_path / task / "bc", agent="bc", task=task)
    for task in CORE[:2]:
        boards.write_run(tmp_path / task / "iql", task=task)
    bc, iql, total = missing_lines(rows.gather(board, [tmp_path], "core-6", "100k"))
    # The runs have policies and three seeds of six tasks, of 1,000 updates each; the retired entry has no more.
    assert bc == ["`bc`", "no entry; 3 seeds, 5 needed", "12,000", "49 s"]
    lacking = ", ".join(rows.short(task) for task in CORE[2:])
    assert iql[:3] == ["`iql`", f"no entry; 2 of 6 tasks: lacks {lacking}; 3 seeds, 5 needed", "24,000"]
    assert total == ["all", "-", "36,000", "2 min, one after the other"]
    without_policies(tmp_path)
    bc, iql, total = missing_lines(
        rows.gather(board, [tmp_path], "core-6", "100k"), [Planned("otdf", 9, 8.0), Planned("cql", 7, None)]
    )[:3]
    assert bc[0] == "`bc`" and "1 of 6 tasks: lacks" in bc[1] and bc[2] == "2,500,000"
    # As fast as on six tasks, not as on the one of the entry.
    assert bc[3] == "2 h 51 min"
    assert iql[:3] == ["`iql`", "no entry; its runs hold no policies", "30,000"]


def test_what_nobody_has_timed_is_left_out_of_the_sum() -> None:
    *_, total = missing_lines([], [Planned("otdf", 9, 8.0), Planned("cql", 7, None)])
    assert total == ["all", "-", "16", "8 s, one after the other; 1 not measured"]


def test_methods_without_figures_are_named_with_what_they_would_take() -> None:
    plan = (Planned("droco", 3_000_000, 60.0), Planned("otdf", 3_000_000, 7_200.0), Planned("iql@data-oracle", 5, None))
    text = page(replace(usual(), plan=plan), command="offdyn", latest="", version="0")
    missing = text.partition("## What is missing")[2]
    assert "| `otdf` | no figures yet | 3,000,000 | 2 h 0 min |" in missing
    assert "| `iql@data-oracle` | no figures yet | 5 | not measured yet |" in missing
    assert "| `droco` | no figures yet" not in missing
    # What cannot be trained here is still named where papers have it.
    assert "No figures at all of bosa, cql, dara, mopo, reag, which" in missing
    assert "No figures at all of bosa, cql, dara, mopo, otdf, reag, which" in usual_page()
    assert "no figures yet" not in usual_page()


def test_one_easy_task_is_no_first_place_on_the_board_or_the_page() -> None:
    board = [judged("whole", everywhere(50)), judged("easy", {CORE[0]: 90.0})]
    (track,) = (one for one in compute_standings(board)["tracks"] if one["name"] == "core-6")
    assert [(row["name"], row["rank"], row["unranked"]) for row in track["rows"]] == [
        ("whole", 1, None),
        ("easy", None, "1 of 6 tasks"),
    ]
    assert {name: row.rank for name, row in by_name(board).items()} == {"whole": 1, "easy": None}
    html = "".join(front(compute_standings(board)))
    plot = html.split('class="forest')[1].split("</ol>")[0]
    assert plot.index('data-entry="whole"') < plot.index('data-entry="easy"')
    table = html.split('class="board')[1].split("</table>")[0]
    assert table.index('data-entry="whole"') < table.index("Random policy") < table.index('data-entry="easy"')


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        (lambda cell: cell["family"] == "min-q", "robustness cells not re-run"),
        (lambda cell: (cell["task"], cell["seed"]) == (WALKER, 4), "robustness cells not re-run"),
        (lambda cell: True, "robustness cells not re-run"),
    ],
)
def test_a_place_needs_the_whole_grid_re_run_whatever_is_claimed(lost: Any, words: str) -> None:
    whole = judged("whole", everywhere(50))
    assert whole.verdict is not None
    cells = whole.verdict["perturbed"]
    kept = [cell for cell in cells if not lost(cell)]
    verdict = {key: value for key, value in whole.verdict.items() if key != "perturbed"}
    part = Judged(whole.entry, verdict | ({"perturbed": kept} if kept else {}))
    assert by_name([whole])["whole"].rank == 1
    row = by_name([part])["whole"]
    assert (row.rank, row.lacks) == (None, (f"{len(cells) - len(kept)} {words}",))


def test_a_share_is_told_over_all_tasks_or_not_at_all() -> None:
    hard = ("kinematic", 3.0)
    one = judged("a", everywhere(50), kept={hard: 0.5}, grid=False)
    assert one.verdict is not None
    assert [kept["cell"] for kept in compute_standings([one])["entries"][0]["kept"]] == ["kinematic hard"]
    chosen = [cell for cell in one.verdict["perturbed"] if cell["task"] != WALKER]
    part = Judged(one.entry, {**one.verdict, "perturbed": chosen})
    assert compute_standings([part])["entries"][0]["kept"] == []
    row = by_name([part])["a"]
    assert shares.kept(row, hard) is None and shares.score_under(row, hard) is None


def test_forest_plots_say_what_keeps_scores_from_being_compared() -> None:
    few = {boards.HOPPER: 50.0, boards.CHEETAH: 40.0}
    board = [
        judged("whole", everywhere(50)),
        judged("few", few),
        judged("few-old", few, method="few", protocol=1),
        judged("thin", everywhere(40), (0, 1, 2)),
    ]
    # On the board retired entries stand apart.
    html = "".join(front(compute_standings(board))).split('class="forest')[1].split("</ol>")[0]
    lines = {line.partition('"')[0]: line for line in html.split('data-entry="')[1:]}
    shown = {name: re.findall(r'class="sub">([^<]*)<', line)[:1] for name, line in lines.items()}
    assert shown == {
        "whole": ["1st in 100k"],
        "few": ["no place: 2 of 6 tasks"],
        "thin": ["no place: 3 seeds, 5 needed"],
    }
    found = material(board).rows
    assert forest.labels(found, CORE) == [
        "whole",
        "few\n2 of 6 tasks",
        "few-old\n2 of 6 tasks, protocol 1, retired",
        "thin",
    ]
    scores = page(material(board), command="o", latest="", version="0").partition("## Scores")[2]
    assert "| `few` (few) | - |" in scores and "| `few` (few-old) (protocol 1, retired) | - |" in scores


def test_the_board_names_the_tasks_that_an_entry_lacks() -> None:
    html = "".join(front(compute_standings(BOARD[3:4])))
    assert "5 of 6" in html and "lacks walker2d-gravity-5.0-medium" in html
    assert "lacks" not in "".join(front(compute_standings([judged("few", {WALKER: 50.0}), BOARD[0]])))


def test_other_reasons_against_a_place_are_told() -> None:
    board = [
        judged("old", everywhere(40), protocol=1),
        Judged(BOARD[0].entry, None),
        judged("long", everywhere(40), disclosure=_told(updates=1_000_000)),
    ]
    found = by_name(board)
    assert set(found) == {"old", "droco"}
    assert found["old"].lacks == ("protocol 1, retired",) and found["old"].cells == {}
    assert found["droco"].lacks == ("not verified",) and found["droco"].source == "claim"
    assert [row.name for row in rows.gather(board, [], "core-6", "1m")] == ["long"]


def _told(**changes: Any) -> dict[str, Any]:
    return {"commit": "", "tasks": {task: boards.training(**changes) for task in CORE}}


def test_the_first_sentence_tells_winners_and_whether_they_are_clear() -> None:
    told = sentences.winners(material())
    # mobody scores most but has no place.
    begins = "Of 3 methods with a place `droco` has the highest interquartile mean over all tasks, 50.0 ["
    assert told.sentence.startswith(begins) and "], clearly above `igdf`: 5.0 [" in told.sentence
    assert told.details == tuple(f"{rows.short(task)}: `droco` 50.0, clear of `igdf` with 45.0." for task in CORE)
    wide = sentences.winners(material([judged("droco", everywhere(50), spread=9), BOARD[2]]))
    assert all(line.endswith("not clear of `igdf` with 45.0.") for line in wide.details)
    wider = sentences.winners(material([judged("droco", everywhere(50), spread=30), BOARD[2]]))
    assert "not clearly above `igdf`" in wider.sentence
    early = sentences.winners(material([BOARD[3], BOARD[4]]))
    assert early.sentence == "Of 2 methods with figures, but no place, only one covers all 6 tasks."
    assert "walker2d-gravity-5.0: 1 method, nothing to compare." in early.details
    assert "1 method with figures, 2 or more are needed" in sentences.winners(material([BOARD[0]])).sentence


def test_papers_and_ours_are_put_side_by_side() -> None:
    told = sentences.papers_say(material())
    begins = "Papers report 4 of the 6 tasks; of 1 that can be compared, the same method is first here on"
    assert told.sentence == f"{begins} 1, another on 0, not clear on 0."
    common = "hopper-from-kinematic-severe: DROCO (ICLR 2026) has BOSA first; of 3 methods in common it has `droco`"
    assert f"{common}, and so have we, by 5.0 [2.7, 7.3]." in told.details
    turned = sentences.papers_say(material([judged("droco", everywhere(30)), *BOARD[1:3]]))
    assert f"{common}, we have `igdf`, by 5.0 [2.7, 7.3]." in turned.details
    assert turned.sentence == f"{begins} 0, another on 1, not clear on 0."


def test_a_first_place_within_the_noise_of_seeds_neither_agrees_nor_disagrees_with_a_paper() -> None:
    begins = "Papers report 4 of the 6 tasks; of 1 that can be compared, the same method is first here on"
    for level in (46, 44):
        noisy = sentences.papers_say(material([judged("droco", everywhere(level), spread=9), *BOARD[1:3]]))
        assert noisy.sentence == f"{begins} 0, another on 0, not clear on 1."
        (line,) = (line for line in noisy.details if line.startswith("hopper-from-kinematic-severe"))
        leads = "`droco` leads `igdf`" if level == 46 else "`igdf` leads `droco`"
        assert f"it has `droco`, here it is not clear: {leads} by 1.0 [-" in line


PAPER = {"bosa": 71.4, "droco": 55.4, "igdf": 54.3, "dara": 48.8, "iql": 48.8, "otdf": 46.3, "cql": 35.7}


def test_an_order_that_is_the_papers_agrees_and_a_turned_one_does_not() -> None:
    same = material([judged(name, everywhere(value)) for name, value in PAPER.items()])
    (one,) = (found for found in same.orders if found.correlation is not None)
    assert (one.task, one.correlation) == (KINEMATIC, (1.0, pytest.approx(0.93, abs=0.08), pytest.approx(1.0)))
    # Two of seven share a rank, so 2 of 5040 orders do as well.
    assert one.chance == pytest.approx(2 / 5040) and one.clear
    assert sentences.order(same).sentence.endswith("it agrees.")
    turned = material([judged(name, everywhere(100 - value)) for name, value in PAPER.items()])
    assert sentences.order(turned).sentence.endswith("it does not agree.")


def test_three_methods_in_common_are_no_order() -> None:
    found = material()
    assert {len(one.ours) for one in found.orders} == {0, 3}
    assert all(one.correlation is None for one in found.orders)
    assert order.pooled(found.orders, found.rows) is None
    assert sentences.order(found).sentence == (
        "It cannot be told: a task needs 4 methods in common with a paper, and none has more than 3."
    )
    assert "needs 4 methods in common, has 3" in usual_page()


def test_noise_of_seeds_widens_the_interval_of_the_order() -> None:
    noisy = material([judged(name, everywhere(value), spread=15) for name, value in PAPER.items()])
    (one,) = (found for found in noisy.orders if found.correlation is not None)
    assert one.correlation.low < 0.7
    four = {name: PAPER[name] for name in ("droco", "igdf", "iql", "cql")}
    found = material([judged(name, everywhere(value)) for name, value in four.items()])
    (few,) = (one for one in found.orders if one.correlation is not None)
    # One order of 24 at best: two methods more, or 5 % of doubt are not enough.
    assert few.chance == pytest.approx(1 / 24) and few.clear
    pooled = order.pooled(found.orders, found.rows)
    assert pooled is not None and pooled.correlation == few.correlation


def test_orders_of_several_tasks_count_the_same() -> None:
    ant = "ant-gravity-5.0-medium"
    scores: dict[str, dict[str, float]] = {}
    for task in (WALKER, ant):
        (paper,) = published_scores(task)
        for name in ("MOBODY", "MOPO", "DARA", "TD3-BC"):
            value = 40 * (1 + np.log(paper.figures[name]))
            scores.setdefault(name.lower(), {})[task] = value if task == WALKER else 300 - value
    found = material([judged(name, told) for name, told in scores.items()])
    by_task = {one.task: one.correlation.mean for one in found.orders if one.correlation is not None}
    assert by_task == {WALKER: 1.0, ant: -1.0}
    together = order.pooled(found.orders, found.rows)
    assert together is not None and together.correlation.mean == 0.0
    # By chance the mean of two orders is as often above 0 as below.
    assert 0.45 < together.chance < 0.62 and not together.clear
    assert sentences.order(found).sentence.endswith("whether it agrees cannot be told.")


def test_spearman_is_the_definition() -> None:
    assert order.spearman([1, 2, 3, 4], [10, 20, 30, 40]) == 1.0
    assert order.spearman([1, 2, 3], [3, 2, 1]) == -1.0
    assert order.spearman([1, 1, 1], [1, 2, 3]) == 0.0
    # With ties: Pearson's correlation of mean ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4.
    expected = np.corrcoef([1, 2.5, 2.5, 4], [1, 2, 3, 4])[0, 1]
    assert order.spearman([0, 5, 5, 9], [1, 2, 3, 4]) == pytest.approx(expected)
    both = order.spearman([[1, 2, 3], [3, 2, 1]], [1, 2, 3])
    assert both.tolist() == [1.0, -1.0]


def test_shares_are_sums_over_sums_of_tasks_with_a_clean_score_to_speak_of() -> None:
    hard = ("kinematic", 3.0)
    one = by_name([judged("a", everywhere(50, walker2d=8), kept={hard: 0.5}, spread=0.0, grid=False)])["a"]
    found = shares.kept(one, hard)
    assert found is not None and WALKER not in found.tasks and len(found.tasks) == 5
    assert found.share == pytest.approx((0.5, 0.5, 0.5))
    assert shares.score_under(one, hard).mean == pytest.approx((5 * 25 + 4) / 6)
    assert shares.kept(one, ("min-q", 0.2)) is None and shares.score_under(one, ("min-q", 0.2)) is None
    apart = shares.difference(by_name()["droco"], by_name()["igdf"], hard)
    assert apart is not None and apart.share == pytest.approx((0.25, 0.25, 0.25))


def test_the_board_and_the_results_page_tell_the_same_shares() -> None:
    hard = ("kinematic", 3.0)
    board = [judged("a", everywhere(50, walker2d=8), kept={hard: 0.5}, grid=False)]
    (told,) = compute_standings(board)["entries"][0]["kept"]
    found = shares.kept(by_name(board)["a"], hard)
    assert found is not None and (told["value"], told["tasks"]) == (pytest.approx(found.share.mean), 5)


def test_less_than_nothing_is_never_kept() -> None:
    hard = ("kinematic", 3.0)
    board = [
        judged(name, everywhere(40), kept={hard: share}, grid=False) for name, share in (("a", -2.19), ("b", -0.1))
    ]
    built = compute_standings(board)
    assert [(told["value"], told["words"]) for told in built["entries"][0]["kept"]] == [(0.0, "nothing kept")]
    assert table_files(built, [])["kept.csv"].splitlines()[1].endswith(",6,0.0")
    found = by_name(board)
    told = shares.kept(found["a"], hard)
    assert told is not None and told.share == (0.0, 0.0, 0.0)
    assert sentences.share(told.share) == "nothing [0, 0]"
    # What is printed of two methods is what is compared.
    apart = shares.difference(found["a"], found["b"], hard)
    assert apart is not None and apart.share == (0.0, 0.0, 0.0)


def test_a_track_tells_what_is_kept_on_its_own_tasks() -> None:
    further = "hopper-gravity-2.0-medium"
    one = judged("a", everywhere(50) | {further: 50.0}, kept={("min-q", 0.2): 0.5})
    assert one.verdict is not None
    nothing = {"returns": [_raw(further, 0.0)] * 2}
    cells = [cell | (nothing if cell["task"] == further else {}) for cell in one.verdict["perturbed"]]
    built = compute_standings([Judged(one.entry, {**one.verdict, "perturbed": cells})])
    (track,) = (found for found in built["tracks"] if found["name"] == "core-6")
    shown = track["rows"][0]["kept"]
    assert (shown["value"], shown["tasks"]) == (0.5, 6)
    (whole,) = (told for told in built["entries"][0]["kept"] if told["cell"] == "min-q 0.2")
    assert (whole["value"], whole["tasks"]) == (pytest.approx(6 * 0.5 / 7), 7)
    table = "".join(front(built)).split('class="board')[1].split("</table>")[0]
    assert "50 % kept" in table and "43 % kept" not in table


def test_droco_s_table_has_its_methods_and_conditions() -> None:
    text = usual_page()
    head = (
        "| method | tasks | kinematic easy | kinematic medium | kinematic hard | morphology easy | morphology medium | "
    )
    assert head + "morphology hard | min-q 0.1 | min-q 0.2 |" in text
    lines = {line.split(" | ")[0][2:]: line for line in text.partition("## Under perturbations")[2].splitlines()[:10]}
    assert "50 % [50, 50] (25.0)" in lines["`droco`"]
    assert "20 % [20, 20] (8.0)" in lines["`iql`"] and "110 % [110, 110], a gain (44.0)" in lines["`iql`"]
    assert set(lines["`otdf`"].split(" | ")[1:-1]) == {"-"}
    assert "| DROCO (paper) | - | 81 % | about 70 % | about 55 % | 58 % | - | - | - | 62 % |" in text


def test_what_robustness_costs_is_told_in_points_of_clean_score() -> None:
    told = sentences.robustness(material())
    between = "between 20 % [20, 20] (`iql`) and 50 % [50, 50] (`droco`) of their clean scores."
    assert told.sentence == f"Under kinematic hard, 3 methods keep, on 6 common tasks, {between}"
    assert told.details[1].startswith(
        "Under min-q 0.2, 3 methods keep, on 6 common tasks, between 25 % [25, 25] (`igdf`) and 110 % [110, 110]"
    )
    price = "`iql`, which keeps most in the mean of the table, scores 10.0 [9.2, 10.8] below `droco`."
    assert told.details[2] == price
    assert "It cannot be told" in sentences.robustness(material([BOARD[3], BOARD[4]])).sentence


def test_shares_of_other_tasks_are_counted_and_compared_on_common_ones_alone(tmp_path: Path) -> None:
    hard = ("kinematic", 3.0)
    few = judged("droco", {task: 40.0 for task in CORE if task != WALKER}, kept={hard: 0.9}, spread=0.0)
    # What is kept on Walker2d, which the other lacks, is no part of the range.
    half = judged("iql", {WALKER: 90.0, KINEMATIC: 40.0}, kept={hard: 0.5}, spread=0.0)
    assert half.verdict is not None
    gone = {"returns": [_raw(WALKER, 0.0)] * 2}
    cells = [cell | (gone if cell["task"] == WALKER else {}) for cell in half.verdict["perturbed"]]
    found = material([few, Judged(half.entry, {**half.verdict, "perturbed": cells})])
    told = sentences.robustness(found).sentence
    between = "between 50 % [50, 50] (`iql`) and 90 % [90, 90] (`droco`) of their clean scores."
    assert told == f"Under kinematic hard, 2 methods keep, on 1 common task, {between}"
    lines = page(found, command="o", latest="", version="0").partition("## Under perturbations")[2].splitlines()
    # Two tasks have no critic, so no attack.
    assert any(line.startswith("| `droco` | 5 (kinematic, morphology), 3 (min-q) |") for line in lines)
    assert any(line.startswith("| `iql` | 2 |") and " 15 % [15, 15] (10.0) |" in line for line in lines)
    apart = material([few, judged("iql", {WALKER: 90.0}, kept={hard: 0.5})])
    assert sentences.robustness(apart).sentence == "Under kinematic hard, 2 methods have no task in common."
    boards.write_run(tmp_path / boards.HOPPER / "iql")
    run = publish.material_of(rows.gather([], [tmp_path], "core-6", "100k"), "core-6")
    assert (
        "\n| `iql` (run) | - |" in page(run, command="o", latest="", version="0").partition("## Under perturbations")[2]
    )


def test_what_cannot_be_told_is_no_refutation() -> None:
    told = page(material([BOARD[3]]), command="o", latest="", version="0").partition("## Claims of")[2]
    assert "\nOf 18 claims 0 hold here, 0 do not hold, and 18 cannot be told." in told
    assert "\nOf 18 claims 8 hold here, 0 do not hold, and 10 cannot be told." in usual_page()


def test_claims_are_judged_by_intervals_of_differences() -> None:
    def verdict(text: str, found: sentences.Material | None = None) -> claims.Outcome:
        (claim,) = (one for one in claims.known_claims() if one.text == text)
        return claims.judge(claim, (found or usual()).rows)

    assert verdict("DROCO scores higher than IQL").verdict == claims.HOLDS
    assert verdict("DROCO scores higher than IQL").difference.mean == pytest.approx(10.0)
    weak = material([judged("droco", everywhere(35)), *BOARD[1:3]])
    assert verdict("DROCO scores higher than IQL", weak).verdict == claims.FAILS
    noisy = material([judged("droco", everywhere(50), spread=20), judged("iql", everywhere(40), spread=20)])
    assert verdict("DROCO scores higher than IQL", noisy).verdict == claims.UNKNOWN
    assert verdict("DROCO scores higher than OTDF").why == "no figures of otdf"
    broken = verdict("DROCO scores higher than IQL where the source is a broken Hopper")
    assert (broken.verdict, broken.tasks) == (claims.HOLDS, 1)
    share = verdict("DROCO keeps a larger share than IGDF under a hard kinematic change")
    assert (share.verdict, share.tasks) == (claims.HOLDS, 6)
    assert share.difference == pytest.approx((0.25, 0.25, 0.25))
    bare = material([judged(name, everywhere(40), grid=False) for name in ("droco", "igdf")])
    none = verdict("DROCO keeps a larger share than IGDF under a hard kinematic change", bare)
    assert none.why == "no task with kinematic hard and a clean score above 10 of both"
    assert "target-rows" in verdict("Fewer target rows cost every method, DROCO least").why


def test_claims_and_published_figures_are_sound() -> None:
    names = {paper.name for paper in papers()}
    assert all(paper.link.startswith("https://arxiv.org/abs/") and paper.table for paper in papers())
    for claim in claims.known_claims():
        assert claim.paper in names and set(claim.tasks) <= set(CORE)
        assert bool(claim.needs) != bool(claim.ours and claim.theirs)
        assert (claim.figure == "kept") == (claim.condition is not None)
        assert claim.condition is None or claim.condition in shares.TABLE
    assert all((row.family, row.level) in shares.TABLE and row.paper.name in names for row in lost_shares())
    assert [one.figures["MOBODY"] for one in published_scores(WALKER)] == [46.05]
    assert [one.figures["DROCO"] for one in published_scores(KINEMATIC)] == [55.4]
    assert published_scores("hopper-gravity-0.5-medium") == []


def test_gains_over_the_target_alone_go_with_the_gap() -> None:
    found = material()
    sizes = [found.gaps[task] for task in CORE]
    assert len(sizes) == 6 and order.target_only(found.rows).name == "iql@data-target"
    ordered = sorted(CORE, key=lambda task: found.gaps[task])
    alone = judged("iql@data-target", {task: 20.0 for task in CORE}, data="target", spread=0.1)
    falling = judged("droco", {task: 60.0 - 5 * k for k, task in enumerate(ordered)}, spread=0.1)
    fit = material([alone, falling]).fit
    assert fit.correlation == pytest.approx((-1.0, -1.0, -1.0)) and fit.methods == 1
    assert fit.gains["droco"][fit.tasks.index(ordered[0])] == pytest.approx(40.0)
    told = sentences.gap(material([alone, falling]))
    assert told.sentence.endswith("is -1.00 [-1.00, -1.00]: methods gain less where the gap is larger.")
    assert told.details[0] == "It is the mean of 1 method over 6 tasks."
    assert fit.chance == pytest.approx(2 / 720) and "0.3% would" in told.details[1]
    mixed = judged("iql", {task: 60.0 + 5 * (k % 3) for k, task in enumerate(ordered)}, spread=0.1)
    unclear = material([alone, mixed])
    assert unclear.fit.correlation.low > 0 and unclear.fit.chance > 0.3
    assert "no relation can be told" in sentences.gap(unclear).sentence
    assert "learned from the target's rows alone" in sentences.gap(material(BOARD[:3])).sentence
    three = judged("iql@data-target", dict.fromkeys(CORE[:3], 20.0), data="target")
    assert "3 tasks with a gap" in sentences.gap(material([three, falling])).sentence


def test_runs_that_are_no_entries_stand_beside_entries(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for task in (boards.HOPPER, boards.CHEETAH):
        boards.write_run(runs / task / "iql", task=task)
    boards.write_run(runs / boards.HOPPER / "iql@lr")
    target = boards.write_run(runs / boards.HOPPER / "iql@data-target")
    run = json.loads((target / "run.json").read_text())
    run |= {"variant": "data-target", "settings": {"data": "target"}, "population": {"tasks": 2}}
    (target / "run.json").write_text(json.dumps(run))
    found = {row.name: row for row in rows.gather(BOARD[:1], [runs], "core-6", "100k")}
    assert list(found) == ["droco", "iql (runs)", "iql@data-target (runs)"]
    # What learned from the target's rows alone is a reference, no rival.
    assert {name: row.reference for name, row in found.items()} == {
        "droco": False,
        "iql (runs)": False,
        "iql@data-target (runs)": True,
    }
    assert "iql@data-target" not in {row.key for row in rows.field_of([*found.values()])}
    ours = found["iql (runs)"]
    assert (ours.source, ours.rank, sorted(ours.scores)) == ("run", None, [boards.CHEETAH, boards.HOPPER])
    assert "no entry" in ours.lacks and ours.cells[boards.HOPPER][("min-q", 0.2)].keys() == {0, 1, 2}
    assert ours.seconds == pytest.approx(12.34 / 3000)
    assert found["iql@data-target (runs)"].target_only and not ours.target_only
    assert found["iql@data-target (runs)"].seconds == pytest.approx(12.34 / 2 / 3000)
    with pytest.raises(OffDynError, match="are both iql on"):
        rows.gather([], [runs, boards.write_run(tmp_path / "again")], "core-6", "100k")
    with pytest.raises(OffDynError, match="has 1 seed; 2 or more"):
        rows.gather([], [boards.write_run(tmp_path / "one", seeds=(0,))], "core-6", "100k")
    with pytest.raises(OffDynError, match="has no evaluated runs below it"):
        rows.gather([], [tmp_path / "nothing"], "core-6", "100k")


def test_fewer_updates_than_others_have_are_told_in_the_table_of_scores(tmp_path: Path) -> None:
    for agent, updates in (("iql", (100_000, 100_000)), ("bc", (50_000, 50_000)), ("dara", (50_000, 100_000))):
        for task, count in zip((boards.HOPPER, boards.CHEETAH), updates, strict=True):
            file = boards.write_run(tmp_path / task / agent, agent, task) / "run.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | {"updates": count}))
    found = rows.gather(BOARD[:1], [tmp_path], "core-6", "100k")
    text = page(publish.material_of(found, "core-6"), command="o", latest="", version="0").partition("## Scores")[2]
    names = ("`droco`", "`iql` (run)", "`bc` (run) (50,000 updates)", "`dara` (run) (50,000 to 100,000 updates)")
    assert all(f"\n| {name} |" in text for name in names)
    note = "fewer than the division allows"
    assert note in text and note not in usual_page()


def test_of_two_rows_of_a_method_the_better_founded_counts() -> None:
    few = judged("iql-old", {WALKER: 90.0}, (0, 1, 2), method="IQL (merged)")
    keys = {row.key: row.name for row in rows.field_of(rows.gather([few, *BOARD[3:5]], [], "core-6", "100k"))}
    assert keys == {"iql": "iql-old", "td3-bc": "td3-bc", "mobody": "mobody"}
    keys = {row.key: row.name for row in rows.field_of(rows.gather([few, *BOARD], [], "core-6", "100k"))}
    assert keys == {"droco": "droco", "iql": "iql", "igdf": "igdf"}


def test_two_entries_of_a_method_are_told_apart() -> None:
    board = [judged("iql", {WALKER: 50.0}), judged("iql-old", {WALKER: 40.0}, method="IQL (merged)"), BOARD[0]]
    text = page(material(board), command="offdyn", latest="", version="0")
    assert "1 method has a place, of 2 with figures." in text
    found = text.partition("## Scores")[2]
    for name in ("| `iql` (iql) |", "| `IQL (merged)` (iql-old) |", "| `droco` |"):
        assert name in found.partition("\n## ")[0]


def test_the_same_entries_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = [judged(name, everywhere(50), kept=ALL_CELLS, grid=False) for name in ("droco", "iql")]
    monkeypatch.setattr(publish, "load_board", lambda _: (board, ["entry 'bad' is refused"]))
    for out in (tmp_path / "b", tmp_path / "a"):
        files, refusals = publish.write_results(tmp_path, [], out, command="offdyn leaderboard results")
        assert refusals == ["entry 'bad' is refused"]
    assert [path.relative_to(tmp_path / "a").as_posix() for path in files] == [
        "core-6.md",
        "core-6/forest.png",
        "core-6/figures.csv",
    ]
    for path in files:
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    lines = (tmp_path / "a/core-6/figures.csv").read_text().splitlines()
    assert lines[0] == ",".join(publish.COLUMNS)
    assert any(line.startswith("IQM,droco,all,clean,re-run,,50.0,") for line in lines)
    assert any(line.startswith(f"kept,droco,{' '.join(sorted(CORE))},min-q 0.1,re-run,,0.5,") for line in lines)
    text = files[0].read_text()
    assert ", as of 2026-11-29." in text
    assert "@misc{offdyn-core-6," in text and "  year = {2026}," in text.partition("```bibtex")[2]
    assert "year" not in usual_page().partition("```bibtex")[2].partition("```")[0]
    (tmp_path / "b/core-6.md").write_text("mine")
    with pytest.raises(OffDynError, match=r"core-6\.md"):
        publish.write_results(tmp_path, [], tmp_path / "b", command="offdyn")
    assert (tmp_path / "b/core-6.md").read_text() == "mine"


def test_a_division_has_a_page_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = [
        judged(f"droco-{updates}", everywhere(50), grid=False, disclosure=_told(updates=updates))
        for updates in (100_000, 1_000_000)
    ]
    monkeypatch.setattr(publish, "load_board", lambda _: (board, []))
    written = {
        division: publish.write_results(tmp_path, [], tmp_path / "out", division=division, command="offdyn")[0]
        for division in protocol.DIVISIONS
    }
    names = {path.relative_to(tmp_path / "out").as_posix() for files in written.values() for path in files}
    ends = (".md", "/forest.png", "/figures.csv")
    assert names == {f"{name}{end}" for name in ("core-6", "core-6-1m") for end in ends}
    first, second = (written[division][0].read_text() for division in ("100k", "1m"))
    assert "`droco-100000`" in first and "`droco-1000000`" not in first
    assert "`droco-1000000`" in second and "`droco-100000`" not in second
    assert second.startswith("# Which method wins on the six tasks of core-6 in division 1m?")
    assert "(core-6-1m/forest.png)" in second and "(core-6-1m/figures.csv)" in second
    assert "division 1m, version" in second


def test_a_method_s_name_ends_no_cell() -> None:
    text = page(material([judged("droco", everywhere(50), method="a|`b`\n<c>")]), command="o", latest="", version="0")
    scores, robustness = (line for line in text.splitlines() if line.startswith("| `a"))
    assert scores.startswith("| `a\\|b <c>` | 1 |")
    assert robustness.startswith("| `a\\|b <c>` | 6 (kinematic, morphology), 4 (min-q) | 100 % [")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--track", "core-7"], "did you mean 'core-6'"),
        (["--division", "2m"], "division '2m'"),
        (["--leaderboard", "nowhere"], "leaderboard 'nowhere' does not exist"),
        (["--leaderboard", "."], "no entry and no run has figures on 'core-6' in division 100k"),
        (["--plan", "none.json"], "plan 'none.json' cannot be read"),
        (["--plan", "odd.json"], "plan 'odd.json' is not what `offdyn train --agents all --plan --json` prints"),
        (["runs"], "'runs' is no run and has no evaluated runs below it"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leaderboard").mkdir()
    (tmp_path / "odd.json").write_text('{"agents": [{"agent": "iql", "seed_updates_left": "all"}]}')
    with pytest.raises(SystemExit) as ended:
        cli.main(["leaderboard", "results", *words])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "docs").exists()


def test_the_page_of_the_site_is_what_its_command_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever adds an entry makes the page anew, with the command at its end."""
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs/results/core-6.md").read_text()
    command = text.strip().splitlines()[-2].split()
    planned = read_plan(Path(command[command.index("--plan") + 1]))
    assert all(f"| `{one.method}`" in text.partition("## What is missing")[2] for one in planned)
    with pytest.raises(SystemExit) as ended:
        cli.main([*command[1:], "--out", str(tmp_path)])
    assert ended.value.code == 0
    assert (tmp_path / "core-6.md").read_text() == text
    assert (tmp_path / "core-6/figures.csv").read_text() == (ROOT / "docs/results/core-6/figures.csv").read_text()
    assert "precision.json" not in capsys.readouterr().out, "the list of methods in bf16 is of other runs"
