"""What the pages of entries and tasks say, and the tables beside them."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import benchmark_boards as boards
import pytest

from offdyn_agents.algorithms import registry
from offdyn_envs import cli
from offdyn_envs.benchmark.entries import comparisons, history, schemas, standings, submissions, task_facts
from offdyn_envs.benchmark.entries.entries_from_runs import Details, FinishedRun, add_entry
from offdyn_envs.benchmark.page import commands_shown, curves, films, page, shown, tables
from offdyn_envs.benchmark.results import rows
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.statistics import mean_difference
from offdyn_envs.datasets.gap import report
from offdyn_envs.errors import OffDynError
from offdyn_envs.tasks import get_task, get_track

WIDER = "hopper-gravity-2.0-medium"
"""A task that core-6 lacks."""
COMMITTED = Path(__file__).parents[2] / "leaderboard"


def scored(level: float) -> Any:
    """Returns that on Hopper score around a level, a little apart between seeds."""
    return lambda task, seed: [20.0 + 2980.0 * (level + 0.01 * seed)] * 10


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    cells = [("gravity", 0.5, 0.7)]
    curve = {"updates": [1000, 2000], "returns": {str(seed): [100.0, 1000.0] for seed in range(3)}}
    links = {"code": "https://example.org/code", "paper": "https://example.org/paper"}
    for name, level, changes in (
        ("better", 0.6, {"family": "model-based", "curves": {boards.HOPPER: curve}, "links": links}),
        ("worse", 0.5, {"method": "=SUM(A1:A9)", "authors": ["C. & D. {Author}_1"]}),
        ("elsewhere", 0.5, {}),
    ):
        tasks = (boards.CHEETAH,) if name == "elsewhere" else (boards.HOPPER,)
        boards.write_entry(folder, *boards.entry_json(name, tasks, returns=scored(level), cells=cells, **changes))
    return folder


@pytest.fixture(scope="module")
def built(board: Path) -> dict[str, Any]:
    judged, refusals = standings.load_board(board)
    assert refusals == []
    return standings.compute_standings(judged, table=boards.REFERENCES)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_every_pair_with_tasks_in_common_is_compared_from_both_sides(built: dict[str, Any]) -> None:
    found = {(one.ours, one.theirs): one for one in comparisons.compare(built)}
    assert set(found) == {("better", "worse"), ("worse", "better")}
    scores = {entry["name"]: entry["tasks"].get(boards.HOPPER, {}).get("scores") for entry in built["entries"]}
    one, other = found["better", "worse"], found["worse", "better"]
    assert one.overall == mean_difference([scores["better"]], [scores["worse"]])
    assert one.overall.mean == pytest.approx(10.0)
    assert (other.overall.mean, other.overall.low) == (-one.overall.mean, -one.overall.high)
    assert dict(one.tasks) == {boards.HOPPER: one.overall}
    assert one.source == standings.CLAIM


def test_the_page_of_an_entry_says_all_of_it(board: Path, built: dict[str, Any]) -> None:
    html = page.render(built)["pages/entry-better.html"]
    digest = next(iter(submissions.load_entry(board / "submissions/better").policy_hashes.values()))
    for expected in (
        digest,
        "../submissions/better/policies/hopper-gravity-0.5-medium/0.onnx",
        "returns-better.csv",
        "Score during training",
        "@misc{leaderboard-better,",
        "offdyn leaderboard verify leaderboard/submissions/better",
        "It has had no place.",
        "model-based",
        "protocol 2",
        "entry-worse.html",
        "gravity 0.5",
    ):
        assert expected in html, expected
    assert "Score during training" not in page.render(built)["pages/entry-worse.html"]


def test_the_page_of_a_task_tells_shift_gap_behaviour_and_entries(built: dict[str, Any]) -> None:
    pictures = {f"task-{boards.HOPPER}": films.Picture("../pictures/hopper.png")}
    html = page.render(built, pictures)[f"pages/task-{boards.HOPPER}.html"]
    task = built["tasks"][boards.HOPPER]
    assert 0.0 < task["behaviour"]["score"] < 100.0
    assert f"{task['gap']['mean']:.3g} standard deviations" in html
    assert task["target"]["shifts"][0] in html
    assert "the robot as published" in html
    assert '<img src="../pictures/hopper.png" alt="' in html
    assert "entry-better.html" in html
    assert "entry-elsewhere.html" not in html


@pytest.mark.parametrize("task", get_track("core-6"))
def test_the_gap_of_every_task_of_the_small_track_is_known(task: str, tmp_path: Path) -> None:
    boards.write_entry(tmp_path, *boards.entry_json("any", (task,)))
    judged, _ = standings.load_board(tmp_path)
    facts = standings.compute_standings(judged)["tasks"][task]
    assert facts["gap"]["mean"] > 0.0
    assert (COMMITTED / f"pictures/task-{task}.png").is_file()
    assert facts["behaviour"]["score"] < 110.0


def test_a_task_without_gap_or_picture_says_what_makes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    single = next(task for task in get_track("single-12") if task.startswith("hopper"))
    boards.write_entry(tmp_path, *boards.entry_json("any", (WIDER, single)))
    made = page.render(standings.compute_standings(standings.load_board(tmp_path)[0]))
    render = f"offdyn render {WIDER} --out leaderboard/pictures/task-{WIDER}.png"
    for command in (f"offdyn diagnose gap {WIDER} --rows 5000", render):
        assert f"<pre>{command}</pre>" in made[f"pages/task-{WIDER}.html"]
        with pytest.raises(SystemExit) as ended:
            cli.main([*command.split()[1:], "--help"])
        assert ended.value.code == 0
    assert "diagnose gap" not in made[f"pages/task-{single}.html"]
    assert "the same dynamics, and no gap" in made[f"pages/task-{single}.html"]


def test_measured_gaps_get_onto_the_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = {"rows": 5000, "valid": 4990, "changed": 1.0, "mean": 0.123456, "median": 0.0}
    asked: list[tuple[str, int]] = []

    def measured(task: str, rows: int) -> Any:
        asked.append((task, rows))
        return SimpleNamespace(summary=lambda: summary)

    monkeypatch.setattr(report, "task_gap", measured)
    monkeypatch.setattr(task_facts, "FILE", Path(shutil.copy(task_facts.FILE, tmp_path)))
    monkeypatch.setattr(task_facts, "_known", task_facts._known.__wrapped__)
    before = json.loads(task_facts.FILE.read_text())["gap"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["dev", "task-gaps", WIDER])
    assert (ended.value.code, asked) == (0, [(WIDER, 5000)])
    told = {"rows": 5000, "changed": 1.0, "mean": 0.123, "median": 0.0}
    assert json.loads(task_facts.FILE.read_text())["gap"] == before | {WIDER: told}
    assert task_facts.task_facts(get_task(WIDER), None)["gap"] == told
    with pytest.raises(OffDynError, match=f"^task '{WIDER}': none of 5000 source rows"):
        task_facts.add_gap(WIDER, summary | {"valid": 0})


def test_the_pages_of_the_repository_are_what_its_entries_make(tmp_path: Path) -> None:
    """Whoever changes an entry, a verdict or the pages' code writes them anew: `offdyn leaderboard page`."""
    committed, copy = COMMITTED, tmp_path / "leaderboard"
    files = [*committed.glob("*.html"), *committed.glob("*.json"), *committed.glob("pages/*")]
    shutil.copytree(committed, copy)
    for path in files:
        (copy / path.relative_to(committed)).unlink()
    _, refusals = page.write_page(copy)
    assert refusals == []
    written = [*copy.glob("*.html"), *copy.glob("*.json"), *copy.glob("pages/*")]
    now, then = (
        {path.relative_to(root).as_posix(): path.read_bytes() for path in found}
        for root, found in ((copy, written), (committed, files))
    )
    assert now.keys() == then.keys()
    assert [name for name in now if now[name] != then[name]] == []


def test_every_page_of_the_repository_has_its_day_and_every_entry_its_year() -> None:
    pages = [COMMITTED / "index.html", *(COMMITTED / "pages").glob("*.html")]
    dated = re.compile(r"<p>As of 20\d\d-\d\d-\d\d: protocol")
    assert [path.name for path in pages if not dated.search(path.read_text())] == []
    entries = list((COMMITTED / "pages").glob("entry-*.html"))
    assert entries and all(re.search(r"  year = \{20\d\d\},", path.read_text()) for path in entries)


def test_every_task_of_the_small_track_has_a_page_and_no_other_without_entries(
    built: dict[str, Any], tmp_path: Path
) -> None:
    judged, _ = standings.load_board(tmp_path)
    empty = page.render(standings.compute_standings(judged), {})
    named = {f"pages/task-{task}.html" for task in get_track("core-6")}
    assert {name for name in empty if name.startswith("pages/task-") and name.endswith(".html")} == named
    assert "No entry covers a scored task yet." in empty["index.html"]
    assert "<dt>tasks with entries</dt><dd>0</dd>" in empty["index.html"]
    ant = empty["pages/task-ant-gravity-5.0-medium.html"]
    for expected in ("standard deviations", "Random actions", "Behaviour of the target", "Figures of "):
        assert expected in ant
    assert "No entry covers this task yet." in ant and "Entries of ant" not in ant
    # Training refuses to begin without the data.
    for what, html in (("ant-gravity-5.0-medium", ant), ("--track core-6", empty["index.html"])):
        first, then = (f"offdyn {command} {what}" for command in ("data build", "train AGENT"))
        assert f"{first}\n{then} --" in html
    assert "offdyn leaderboard add runs/ant-gravity-5.0-medium/AGENT --name NAME" in ant
    covered = page.render(built)[f"pages/task-{boards.HOPPER}.html"]
    assert "Entries of hopper" in covered and "No entry covers this task yet." not in covered
    assert "<dt>tasks with entries</dt><dd>2</dd>" in page.render(built)["index.html"]
    with_entry = tmp_path / "board"
    boards.write_entry(with_entry, *boards.entry_json("any", ("hopper-gravity-2.0-medium",)))
    judged, _ = standings.load_board(with_entry)
    assert set(standings.compute_standings(judged)["tasks"]) == {*get_track("core-6"), "hopper-gravity-2.0-medium"}


def test_films_are_made_once_for_each_entry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("first", "second.v2"):
        boards.write_entry(tmp_path, *boards.entry_json(name))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/entry-first.png").write_bytes(b"a picture")
    for number in range(2):
        with pytest.raises(SystemExit) as ended:
            cli.main(["leaderboard", "page", "--films", "--leaderboard", str(tmp_path)])
        assert ended.value.code == 0
        assert ("entry-second.v2.mp4: " in capsys.readouterr().out) == (number == 0)
    (film,) = (tmp_path / "pictures").glob("*.mp4")
    assert film.name == "entry-second.v2.mp4" and film.read_bytes()[4:8] == b"ftyp"
    assert (tmp_path / "pictures/entry-first.png").read_bytes() == b"a picture"
    assert (tmp_path / "pictures/entry-second.v2.txt").read_text() == f"{boards.HOPPER}/0\n"
    second, first = ((tmp_path / f"pages/entry-{name}.html").read_text() for name in ("second.v2", "first"))
    assert '<figure class="film"><video src="../pictures/entry-second.v2.mp4"' in second
    acts = "the policy of seed 0 acts in the source (first panel) and in the target (second panel)."
    named = f'<a href="task-{boards.HOPPER}.html">{boards.HOPPER}</a>'
    assert f"<figcaption>{named}: {acts}</figcaption>" in second
    # Nobody has said whose picture it is.
    assert "<figcaption>A policy of FIRST acts.</figcaption>" in first


def test_tables_hold_the_figures_and_no_formula(built: dict[str, Any]) -> None:
    files = page.render(built)
    for name in tables.TABLES:
        assert files[f"pages/{name}"].encode().startswith(tables.HEADS)
    lines = {row["entry"]: row for row in rows_of(files["pages/standings.csv"]) if row["track"] == "core-6"}
    core = next(track for track in built["tracks"] if track["name"] == "core-6")
    assert {name: float(line["iqm"]) for name, line in lines.items()} == {
        row["name"]: row["iqm"]["mean"] for row in core["rows"]
    }
    assert lines["worse"]["method"] == "'=SUM(A1:A9)"
    assert len(rows_of(files["pages/seeds.csv"])) == 9
    difference = next(row for row in rows_of(files["pages/comparisons.csv"]) if row["entry"] == "worse")
    assert float(difference["difference"]) == pytest.approx(-10.0)


def test_raw_returns_are_those_of_the_entry(board: Path) -> None:
    judged = next(one for one in standings.load_board(board)[0] if one.entry.name == "better")
    rows = rows_of(tables.raw_returns(judged))
    assert [row["condition"] for row in rows] == ["clean"] * 3 + ["gravity 0.5"] * 3
    written = [float(value) for value in rows[0]["returns"].split()]
    assert written == pytest.approx(judged.entry.results[0].returns, abs=0.005)


def standing(*, long: int | None = None, **ranks: int | None) -> dict[str, Any]:
    rows = [{"name": name, "division": "100k", "rank": rank} for name, rank in ranks.items()]
    rows.append({"name": "long", "division": "1m", "rank": long})
    return {"tracks": [{"name": "core-6", "rows": rows}]}


def test_the_history_of_places_is_kept_when_an_entry_is_verified_again(tmp_path: Path) -> None:
    (tmp_path / "verdicts").mkdir()
    history.add_step(tmp_path, "2026-01-01", standing(a=None))
    assert history.load_history(tmp_path) == []
    history.add_step(tmp_path, "2026-01-02", standing(a=1, c=2, none=None))
    history.add_step(tmp_path, "2026-02-01", standing(a=2, b=1, c=3))
    first = history.history_path(tmp_path).read_text()
    # Verified again: the same places add nothing, others add a step and take none away.
    history.add_step(tmp_path, "2026-03-01", standing(a=2, b=1, c=3))
    assert history.history_path(tmp_path).read_text() == first
    history.add_step(tmp_path, "2026-03-02", standing(long=1, a=None, b=1, c=2))
    assert history.history_path(tmp_path).read_text().startswith(first)
    past = history.load_history(tmp_path)
    assert history.of_track(past, "core-6") == [
        {"date": "2026-01-02", "places": {"100k": {"a": 1, "c": 2}}},
        {"date": "2026-02-01", "places": {"100k": {"a": 2, "b": 1, "c": 3}}},
        {"date": "2026-03-02", "places": {"100k": {"b": 1, "c": 2}, "1m": {"long": 1}}},
    ]
    assert history.of_track(past, "wide-32") == []


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"date": "2026-01-01"}',
        *(f'{{"date": "d", "places": {{"core-6": {at}}}}}' for at in ("[1]", '{"a": 1}')),
    ],
)
def test_a_damaged_history_is_named_with_its_line(line: str, tmp_path: Path) -> None:
    (tmp_path / "verdicts").mkdir()
    history.add_step(tmp_path, "2026-01-02", standing(a=1))
    with history.history_path(tmp_path).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(OffDynError, match=r"places\.jsonl' line 2 is damaged"):
        history.load_history(tmp_path)


def test_the_pages_tell_places_that_were_lost_since(board: Path) -> None:
    places = {"100k": {"better": 2, "worse": 1}, "1m": {"elsewhere": 1}}
    past = [{"date": "2026-01-02", "places": {"core-6": places}}, {"date": "2026-03-02", "places": {}}]
    built = standings.compute_standings(standings.load_board(board)[0], table=boards.REFERENCES, past=past)
    html = page.render(built)
    assert "It has had no place." not in html["pages/entry-better.html"]
    told = html["pages/entry-better.html"].split("Places of BETTER")[1].split("</section>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in told.split("<tr>")[2:]]
    assert rows == [["2026-01-02", "core-6", "2 in 100k", "2"], ["2026-03-02", "core-6", "none", ""]]
    assert [list(row.values()) for row in rows_of(html["pages/history.csv"])] == [
        ["2026-01-02", "core-6", "better", "100k", "2"],
        ["2026-01-02", "core-6", "worse", "100k", "1"],
        ["2026-01-02", "core-6", "elsewhere", "1m", "1"],
    ]


def test_an_entry_has_a_line_for_each_track_that_adds_tasks(built: dict[str, Any], tmp_path: Path) -> None:
    def lines(html: str, method: str) -> list[str]:
        table = html.split(f'aria-label="Tracks of {method}"')[1].split("</table>")[0]
        return re.findall(r'<th scope="row">(.*?)</th>', table)

    assert len([track for track in built["tracks"] if any(row["name"] == "better" for row in track["rows"])]) > 1
    assert lines(page.render(built)["pages/entry-better.html"], "BETTER") == ["core-6"]
    boards.write_entry(tmp_path, *boards.entry_json("wide", (boards.HOPPER, WIDER)))
    wide = page.render(standings.compute_standings(standings.load_board(tmp_path)[0]))
    assert lines(wide["pages/entry-wide.html"], "WIDE") == ["core-6", "mobody-32"]


def test_a_track_without_entries_of_its_own_has_no_tab() -> None:
    def track(name: str, **tasks: list[str]) -> dict[str, Any]:
        return {"name": name, "rows": [{"name": entry, "tasks": covered} for entry, covered in tasks.items()]}

    core, wide = track("core-6", a=["x", "y"], b=["x"]), track("wide-32", a=["x"], b=["x"])
    assert shown.shown_tracks([wide, core]) == [core]
    wide["rows"][1]["tasks"] = ["x", "z"]
    assert shown.shown_tracks([wide, core]) == [core, wide]


def test_every_film_of_the_repository_says_which_policy_acts() -> None:
    for film in sorted((COMMITTED / "pictures").glob("*.mp4")):
        task, _, seed = film.with_suffix(".txt").read_text().strip().rpartition("/")
        html = (COMMITTED / f"pages/{film.stem}.html").read_text()
        assert f'">{task}</a>: the policy of seed {seed} acts' in html, film.name


@pytest.mark.parametrize("links", [{}, {"code": "https://example.org/code"}])
def test_the_commit_that_trained_an_entry_is_told_with_and_without_a_link(
    links: dict[str, str], built: dict[str, Any]
) -> None:
    def trained(commit: str) -> str:
        entries = [entry | {"links": links, "commit": commit} for entry in built["entries"]]
        html = page.render(built | {"entries": entries})["pages/entry-better.html"]
        return html.split('<section id="training"')[1].split("</section>")[0]

    fact = "<dt>Commit of the code that trained it</dt><dd>"
    assert f"{fact}<code>abc123</code></dd>" in trained("abc123")
    assert f"{fact}not given</dd>" in trained("")


def test_bibtex_cites_the_entry_and_notes_the_paper_of_its_method(built: dict[str, Any]) -> None:
    entry = next(one for one in built["entries"] if one["name"] == "better")
    written = commands_shown.bibtex(entry)
    assert "  url = {https://example.org/code}," in written
    assert "protocol 2, paper of the method: https://example.org/paper}," in written
    ours = commands_shown.bibtex(entry | {"links": {"paper": "https://example.org/a_b"}})
    assert "url = " not in ours
    assert r"paper of the method: https://example.org/a\_b}," in ours
    assert "paper" not in commands_shown.bibtex(entry | {"links": {}})


def test_bibtex_escapes_what_latex_would_read(built: dict[str, Any]) -> None:
    entry = next(one for one in built["entries"] if one["name"] == "worse")
    written = commands_shown.bibtex(entry)
    assert r"author = {{C. \& D. \{Author\}\_1}}" in written
    assert written.count("{") == written.count("}")
    assert "year" not in written
    again = entry | {"verdict": {"date": "2026-11-29"}}
    assert "year = {2026}" in commands_shown.bibtex(again)
    assert "year = {2025}" in commands_shown.bibtex(again | {"date": "2025-12-31"})


def test_every_agent_has_a_kind_and_the_entry_tells_it(tmp_path: Path) -> None:
    for name in registry.AGENTS:
        assert registry.agent_class(name).family in protocol.METHOD_FAMILIES, name
    run = boards.write_run(tmp_path / "run")
    (run / "metrics.csv").write_text(
        "updates,loss,return_0,return_1,return_2\n500,0.1,,,\n1000,0.1,1,2,3\n2000,,4,nan,6\n3000,0.1,7,8,9\n"
    )
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(facts | {"family": "model-free"}))
    entry = submissions.load_entry(add_entry([run], "told", tmp_path))
    assert entry.family == "model-free"
    returns = {"0": [1.0, 7.0], "1": [2.0, 8.0], "2": [3.0, 9.0]}
    assert entry.curves == {boards.HOPPER: {"updates": [1000, 3000], "returns": returns}}
    given = add_entry([run], "given", tmp_path, details=Details(family="model-based"))
    assert submissions.load_entry(given).family == "model-based"
    with pytest.raises(OffDynError, match=r"^entry 'wrong': unknown family 'model-fre'; did you mean 'model-free'\?"):
        add_entry([run], "wrong", tmp_path, details=Details(family="model-fre"))
    assert not (tmp_path / "submissions/wrong").exists()


def test_the_schemas_and_the_page_have_the_families_of_the_protocol() -> None:
    entry, verdict = (json.loads(path.read_text()) for path in (schemas.ENTRY_SCHEMA, schemas.VERDICT_SCHEMA))
    assert tuple(entry["properties"]["family"]["enum"]) == protocol.METHOD_FAMILIES
    for schema in (entry, verdict):
        assert tuple(schema["$defs"]["cell"]["properties"]["family"]["enum"]) == protocol.FAMILIES
    assert tuple(verdict["$defs"]["shift"]["properties"]["kind"]["enum"]) == protocol.HELD_OUT_KINDS
    assert sorted(name for name, *_ in curves.FAMILIES) == [*protocol.FAMILIES]


def test_our_reading_of_a_method_is_told_behind_its_name(tmp_path: Path) -> None:
    folder = boards.write_run(tmp_path / "run", "lodada")
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "reading": "our reading"}))
    assert FinishedRun.load(folder).method == "lodada (our reading)"
    board = tmp_path / "board"
    entry = submissions.load_entry(add_entry([folder], "told", board))
    given = submissions.load_entry(add_entry([folder], "given", board, details=Details(method="LoDADA")))
    twice = submissions.load_entry(add_entry([folder], "twice", board, details=Details(method="LoDADA (our reading)")))
    assert [one.method for one in (entry, given, twice)] == ["lodada (our reading)", *["LoDADA (our reading)"] * 2]
    assert {rows.key_of(one.method) for one in (entry, given, twice)} == {"lodada"}
