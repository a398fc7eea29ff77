from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import benchmark_boards as boards
import numpy as np
import pytest

from offdyn_envs import cli
from offdyn_envs.atomic import write_json
from offdyn_envs.benchmark.entries import reruns, standings, submissions, verdicts, verification
from offdyn_envs.benchmark.page import charts, markup, page, standings_table
from offdyn_envs.benchmark.scoring import critics, protocol, scores
from offdyn_envs.benchmark.scoring.statistics import iqm, t_interval
from offdyn_envs.shifts import Gravity
from offdyn_envs.tasks import get_track

ROOT = Path(__file__).parents[2]
CELLS = [("gravity", 0.5, 0.7), ("gravity", 2.0, 0.6), ("friction", 0.5, 0.9), ("min-q", 0.1, 0.8), ("min-q", 0.2, 0.5)]
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
BOTH = (boards.HOPPER, boards.CHEETAH)
FIVE = (0, 1, 2, 3, 4)


def at_level(level: float, *, count: int = 20) -> Any:
    def returns(task: str, seed: int) -> list[float]:
        low, high = (20.0, 3000.0) if task == boards.HOPPER else (-250.0, 6500.0)
        rng = np.random.default_rng([seed, round(100 * level)])
        return [round(float(low + (high - low) * (level + 0.05 * rng.standard_normal())), 3) for _ in range(count)]

    return returns


def rerun(entry: submissions.Entry, result: submissions.Result, factor: float, episodes: int, grid: bool) -> Any:
    """What a re-run would find: in claimed cells what is claimed, in the others of the grid as much as without them."""
    here = (result.task, result.seed)
    own = {(cell.family, cell.level): cell for cell in entry.perturbed if (cell.task, cell.seed) == here}
    cells = {
        cell: [factor * float(np.mean(own[cell].returns if cell in own else result.returns))] * 20
        for cell in (reruns.cells_of(entry, result.task) if grid else ())
    }
    return reruns.Rerun(result, [factor * value for value in (result.returns * 5)[:episodes]], cells, [], [])


def reproduced(board: Path, name: str, *, factor: float = 1.0, episodes: int = 100, grid: bool = True) -> None:
    """Writes the verdict that a re-run would give which earns `factor` times what was claimed."""
    entry = submissions.load_entry(board / "submissions" / name)
    found = verification._judge(entry, [rerun(entry, result, factor, episodes, grid) for result in entry.results])
    held_out = {f"{result.task}/{result.seed}": [0.5 * np.mean(result.returns)] * 20 for result in entry.results}
    found |= {"isolation": ["resource-limits"], "held_out": {"shifts": [Gravity(0.83).to_json()], "returns": held_out}}
    seed = verification.evaluation_seed(entry, "later")
    verdict = verdicts.binding(entry) | {"episodes": episodes, "salt": "later", "seed": seed} | found
    write_json(verdicts.verdict_path(board, name), verdict)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    plans: list[tuple[str, float, tuple[str, ...], tuple[int, ...], dict[str, Any]]] = [
        ("droco", 0.7, BOTH, FIVE, {"family": "model-based"}),
        ("demo-iql", 0.2, BOTH, FIVE, {"method": "IQL (demo)"}),
        (protocol.REFERENCE_IQL, 0.6, BOTH, FIVE, {}),
        ("bc", 0.4, BOTH, FIVE, {"reference": True}),
        ("three", 0.8, BOTH, (0, 1, 2), {}),
        ("unverified", 0.9, (boards.HOPPER,), FIVE, {}),
        ("forged", 0.95, (boards.HOPPER,), FIVE, {"method": EVIL, "authors": [EVIL]}),
    ]
    for name, level, tasks, seeds, changes in plans:
        entry, files = boards.entry_json(name, tasks, seeds, returns=at_level(level), cells=CELLS, **changes)
        if name == "forged":
            entry["disclosure"]["tasks"][boards.HOPPER] = boards.training(
                device=EVIL, command=EVIL, hyperparameters={EVIL: EVIL}, tuning_evaluations=300
            )
        boards.write_entry(folder, entry, files)
        if name != "unverified":
            reproduced(folder, name, factor=0.4 if name == "forged" else 1.0)
    return folder


@pytest.fixture
def board(made: Path, tmp_path: Path) -> Path:
    """A leaderboard to change."""
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def build(board: Path) -> dict[str, Any]:
    judged, refusals = standings.load_board(board)
    assert refusals == []
    return standings.compute_standings(judged, table=boards.REFERENCES)


def track(result: dict[str, Any]) -> dict[str, Any]:
    return next(item for item in result["tracks"] if item["name"] == "mobody-32")


def test_pages_tell_entries_of_one_method_apart(board: Path) -> None:
    result = build(board)
    assert len({entry["method"] for entry in result["entries"]}) == len(result["entries"])
    for entry in result["entries"][:2]:
        entry["method"] = "DROCO"
    names = [entry["name"] for entry in result["entries"][:2]]
    files = page.render(result)
    for name in names:
        assert f">DROCO ({name})</a>" in files["index.html"]
        assert f"DROCO ({name})" in files[f"pages/entry-{name}.html"]
    assert {entry["method"] for entry in result["entries"][:2]} == {"DROCO"}


def test_places_need_every_scored_task_a_verdict_and_five_seeds(board: Path) -> None:
    rows = {row["name"]: row for row in track(build(board))["rows"]}
    assert {name: row["rank"] for name, row in rows.items()} == {
        "droco": 1,
        "iql": 2,
        "demo-iql": 3,
        "three": None,
        "bc": None,
        "unverified": None,
        "forged": None,
    }
    assert rows["three"]["unranked"] == "3 seeds, 5 needed"
    assert rows["bc"]["unranked"] == "reference row"
    # Two of the track's tasks have references here; these cover one.
    assert rows["unverified"]["unranked"] == "not verified; 1 of 2 tasks"
    assert rows["forged"]["unranked"] == "not reproduced; 1 of 2 tasks"
    reproduced(board, "unverified", episodes=20)
    assert "20 episodes" in {r["name"]: r for r in track(build(board))["rows"]}["unverified"]["unranked"]
    reproduced(board, "unverified")
    rows = {row["name"]: row for row in track(build(board))["rows"]}
    assert (rows["unverified"]["rank"], rows["unverified"]["unranked"]) == (None, "1 of 2 tasks")
    assert rows["unverified"]["iqm"]["mean"] > rows["droco"]["iqm"]["mean"]
    assert [row["name"] for row in track(build(board))["rows"]][-1] in ("unverified", "forged")
    reproduced(board, "droco", grid=False)
    rows = {row["name"]: row for row in track(build(board))["rows"]}
    assert rows["droco"]["unranked"].endswith(" robustness cells not re-run")
    assert rows["iql"]["rank"] == 1


def test_figures_equal_the_definitions(board: Path) -> None:
    result = build(board)
    entry = next(item for item in result["entries"] if item["name"] == "droco")
    claimed = submissions.load_entry(board / "submissions" / "droco")
    means = [np.mean(item.returns) for item in claimed.results if item.task == boards.HOPPER]
    expected = 100 * (np.array(means) - 20.0) / 2980.0
    hopper = entry["tasks"][boards.HOPPER]
    assert hopper["source"] == "re-run"
    np.testing.assert_allclose(hopper["scores"], expected, atol=1e-5)
    np.testing.assert_allclose([hopper["score"][k] for k in ("mean", "low", "high")], t_interval(expected), atol=1e-5)
    every = [value for task in BOTH for value in entry["tasks"][task]["scores"]]
    row = next(item for item in track(result)["rows"] if item["name"] == "droco")
    assert row["iqm"]["mean"] == pytest.approx(float(iqm(every)), abs=1e-5)
    assert row["sum"] == pytest.approx(sum(np.mean(entry["tasks"][task]["scores"]) for task in BOTH), abs=1e-5)
    assert row["improvement"]["over"] == "iql"
    assert 0.5 < row["improvement"]["mean"] <= 1.0
    attack = next(c for c in entry["kept"] if (c["family"], c["level"]) == ("min-q", 0.2))
    cells = {
        task: next(c["score"]["mean"] for c in entry["robustness"][task]["cells"] if c["level"] == 0.2) for task in BOTH
    }
    clean = {task: entry["robustness"][task]["clean"]["mean"] for task in BOTH}
    assert attack["value"] == pytest.approx(sum(cells.values()) / sum(clean.values()), abs=1e-5)
    assert attack["words"] == f"{100 * attack['value']:.0f} % kept"
    assert entry["kept"][0]["cell"] == "friction 0.5"


def test_places_are_given_within_a_division_and_equal_scores_share_one(board: Path) -> None:
    for name, updates in (("long", 1_000_000), ("longest", 2_000_000), ("twin", 100_000)):
        entry, files = boards.entry_json(name, BOTH, FIVE, returns=at_level(0.7), cells=CELLS)
        entry["disclosure"]["tasks"] = {task: boards.training(updates=updates) for task in BOTH}
        boards.write_entry(board, entry, files)
        reproduced(board, name)
    rows = {row["name"]: row for row in track(build(board))["rows"]}
    assert {name: rows[name]["division"] for name in ("droco", "long", "longest")} == {
        "droco": "100k",
        "long": "1m",
        "longest": None,
    }
    assert [rows[name]["rank"] for name in ("droco", "twin", "iql", "long", "longest")] == [1, 1, 3, 1, None]
    assert rows["longest"]["unranked"] == "more than 1,000,000 updates"


def test_held_out_scores_stand_beside_the_clean_ones(board: Path) -> None:
    result = build(board)
    entry = next(item for item in result["entries"] if item["name"] == "droco")
    hopper = entry["tasks"][boards.HOPPER]
    returns = 0.5 * np.array(hopper["returns"])
    np.testing.assert_allclose(hopper["held_out_scores"], 100 * (returns - 20) / 2980, atol=1e-5)
    row = next(item for item in track(result)["rows"] if item["name"] == "droco")
    assert row["held_out"]["mean"] < row["iqm"]["mean"]
    assert entry["held_out"] == [{"kind": "gravity", "scale": 0.83}]
    assert "Held out: scales drawn for this entry, gravity 0.83." in page_of(board, "droco")
    assert "Held out: scales" not in page_of(board, "unverified")
    assert next(item for item in track(result)["rows"] if item["name"] == "unverified")["held_out"] is None


def test_entries_of_protocol_1_stay_readable_without_a_place(board: Path) -> None:
    entry, files = boards.entry_json("old", BOTH, FIVE, returns=at_level(0.9), cells=CELLS, protocol=1)
    boards.write_entry(board, entry, files)
    reproduced(board, "old", grid=False)
    assert json.loads(verdicts.verdict_path(board, "old").read_text())["verifier"] == 1
    result = build(board)
    row = next(item for item in track(result)["rows"] if item["name"] == "old")
    assert (row["rank"], row["unranked"]) == (None, "protocol 1, retired")
    shown = next(item for item in result["entries"] if item["name"] == "old")
    assert shown["status"] == "reproduced"
    # Its attack was one with its own critic.
    assert {cell["family"] for cell in shown["kept"]} == {"friction", "gravity", "min-q-own"}
    found = verification.verify_entries([board / "submissions" / "old"], board)
    assert [verdict["status"] for verdict in found.verdicts] == [verification.RETIRED]
    assert found.refusals == []


def test_retired_entries_stand_apart_and_are_counted_nowhere_else(board: Path) -> None:
    def without(html: str) -> str:
        head, _, rest = html.partition('<section id="retired"')
        return text_of(head + rest.partition("</section>")[2])

    before = page.render(build(board))
    assert "Retired entries" not in before["index.html"]
    entry, files = boards.entry_json("old", BOTH, FIVE, returns=at_level(0.9), protocol=1, method="IQL (demo)")
    boards.write_entry(board, entry, files)
    reproduced(board, "old", grid=False)
    after = page.render(build(board))
    # One more file of raw returns is all that the rest of the page tells of it.
    assert without(after["index.html"]).replace(" , old , ", " , ") == without(before["index.html"])
    told = text_of("<main" + after["index.html"].split('<section id="retired"')[1].split("</section>")[0] + "</main>")
    assert "IQL (demo) (retired) 1" in told and "score reproduced" in told
    own = text_of(after["pages/entry-old.html"])
    assert "IQL (demo) (retired) score reproduced" in own and "none: protocol 1, retired" in own
    assert "IQL (demo) (retired)" in after[f"pages/task-{boards.HOPPER}.html"]
    assert after["pages/task-facts.csv"] == before["pages/task-facts.csv"]


def test_further_seeds_of_an_easy_task_lift_nobody(tmp_path: Path) -> None:
    def returns(task: str, seed: int) -> list[float]:
        low, high = (20.0, 3000.0) if task == boards.HOPPER else (-250.0, 6500.0)
        score = (10 if task == boards.HOPPER else 60) + (seed % 5 - 2)
        return [low + score / 100 * (high - low)] * 10

    for name, extra in (("equal", 5), ("more-of-the-easy-one", 25)):
        entry, files = boards.entry_json(name, BOTH, range(5), returns=returns)
        if extra > 5:
            more, more_files = boards.entry_json(name, [boards.CHEETAH], range(5, extra), returns=returns)
            entry["results"] += more["results"]
            files |= more_files
        boards.write_entry(tmp_path, entry, files)
    tracks = build(tmp_path)["tracks"]
    assert len(tracks) > 1
    for found in tracks:
        equal, easy = found["rows"]
        assert (equal["name"], easy["name"]) == ("equal", "more-of-the-easy-one")
        assert equal["iqm"]["mean"] == easy["iqm"]["mean"] == 35.0
        assert equal["mean"] == easy["mean"] == 35.0
    for name in ("equal", "more-of-the-easy-one"):
        intervals = [row["iqm"] for found in tracks for row in found["rows"] if row["name"] == name]
        assert all(interval == intervals[0] for interval in intervals)


def test_a_forged_entry_shows_what_the_re_run_earned(board: Path) -> None:
    entry = next(item for item in build(board)["entries"] if item["name"] == "forged")
    hopper = entry["tasks"][boards.HOPPER]
    assert entry["status"] == "not reproduced"
    assert hopper["claimed_score"] > 90
    assert hopper["score"]["mean"] < 50


def test_a_task_without_references_is_listed_and_not_scored(board: Path) -> None:
    table = {"protocol": 2, "returns": {"hopper": boards.REFERENCES["returns"]["hopper"]}}
    judged, _ = standings.load_board(board)
    result = standings.compute_standings(judged, table=table)
    entry = next(item for item in result["entries"] if item["name"] == "droco")
    assert "score" not in entry["tasks"][boards.CHEETAH]
    assert "return" in entry["tasks"][boards.CHEETAH]
    assert next(r for r in track(result)["rows"] if r["name"] == "droco")["tasks"] == [boards.HOPPER]
    page.render(result)
    nothing = standings.compute_standings(judged, table={"protocol": 2, "returns": {}})
    assert nothing["tracks"] == []
    assert "No entry covers a scored task yet" in page.render(nothing)["index.html"]


def lines_of(result: dict[str, Any], name: str) -> list[dict[str, str]]:
    """The lines of a table that are no other track's."""
    lines = csv.DictReader(io.StringIO(page.render(result)[f"pages/{name}"]))
    return [line for line in lines if line.get("track", "mobody-32") == "mobody-32"]


def test_what_the_pages_show_is_in_a_table(board: Path) -> None:
    result = build(board)
    entry = next(item for item in result["entries"] if item["name"] == "droco")
    row = next(item for item in track(result)["rows"] if item["name"] == "droco")
    line = next(line for line in lines_of(result, "standings.csv") if line["entry"] == "droco")
    expected = {"sum": row["sum"], "min_q_kept": row["kept"]["value"]}
    for kind, found in (("iqm", row["iqm"]), ("held_out", row["held_out"]), ("over_iql", row["improvement"])):
        expected |= {kind: found["mean"], f"{kind}_low": found["low"], f"{kind}_high": found["high"]}
    assert {key: float(line[key]) for key in expected} == expected
    assert (line["over_iql_source"], line["min_q_kept_source"]) == ("re-run", "re-run")
    hopper = entry["tasks"][boards.HOPPER]
    line = next(one for one in lines_of(result, "tasks.csv") if (one["entry"], one["task"]) == ("droco", boards.HOPPER))
    found = [float(line[f"held_out_score{end}"]) for end in ("", "_low", "_high")]
    assert found == [hopper["held_out_score"][end] for end in ("mean", "low", "high")]
    assert line["held_out_dynamics"] == "gravity 0.83"
    trained = [line for line in lines_of(result, "training.csv") if line["entry"] == "droco"]
    assert [line["task"] for line in trained] == sorted(BOTH)
    told = {"updates": "100000", "wall_clock_s": "900.0", "device": "2 CPU cores", "precision": "fp32"}
    assert told.items() <= trained[0].items() and trained[0]["parameters"] == "150000"
    facts = {line["task"]: line for line in lines_of(result, "task-facts.csv")}
    assert facts.keys() == result["tasks"].keys()
    line, task = facts[boards.HOPPER], result["tasks"][boards.HOPPER]
    assert (line["environment"], line["entries"], line["source_shifts"]) == (task["env"], "7", "")
    assert line["target_shifts"] == task["target"]["shifts"][0]
    expected = {"gap": task["gap"]["mean"], "behaviour_score": task["behaviour"]["score"], "random_return": 20.0}
    assert {key: float(line[key]) for key in expected} == expected
    assert float(line["expert_score_low"]) == task["expert"]["score"]["low"]
    assert facts["ant-gravity-5.0-medium"]["expert_score"] == ""


class Reader(HTMLParser):
    """Collects what a browser would see, and checks that tags nest."""

    VOID = frozenset({"meta", "br", "hr", "input", "link", "img"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, tag
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] not in ("script", "style"):
            self.texts.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.stack == []
    return reader


@pytest.fixture
def site(board: Path) -> dict[str, str]:
    """All pages by where they lie."""
    _, refusals = page.write_page(board, table=boards.REFERENCES)
    assert refusals == []
    places = [board / "index.html", *sorted((board / "pages").glob("*.html"))]
    return {str(place.relative_to(board)): place.read_text(encoding="utf-8") for place in places}


@pytest.fixture
def html(site: dict[str, str]) -> str:
    return site["index.html"]


KINDS = ("index.html", "pages/entry-forged.html", f"pages/task-{boards.HOPPER}.html")


@pytest.mark.parametrize("name", KINDS)
def test_every_text_of_an_entry_is_text(name: str, site: dict[str, str]) -> None:
    html = site[name]
    reader = read(html)
    assert [tag for tag, _ in reader.tags].count("script") == 1
    assert not any(tag in ("img", "iframe", "object", "embed", "link", "base", "form") for tag, _ in reader.tags)
    handlers = [
        name for _, attributes in reader.tags for name in attributes if name.startswith("on") or name == "style"
    ]
    assert handlers == []
    assert EVIL in "".join(reader.texts)
    assert "<script>alert" not in html


@pytest.mark.parametrize("name", KINDS)
def test_nothing_is_requested_and_the_policy_admits_only_the_page_itself(
    name: str, site: dict[str, str], board: Path
) -> None:
    html = site[name]
    reader = read(html)
    for tag, attributes in reader.tags:
        assert "src" not in attributes, tag
        assert "srcset" not in attributes, tag
        href = attributes.get("href")
        if href is not None:
            inside = ((board / name).parent / href.split("#")[0]).resolve()
            assert href.startswith(("#", "https://")) or (board.resolve() in inside.parents and inside.is_file()), href
    policy = next(
        a["content"] for t, a in reader.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert content is not None
        digest = base64.b64encode(hashlib.sha256(content.group(1).encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    assert "url(" not in style.group(1)
    assert "@import" not in style.group(1)


def test_ids_are_unique_and_every_link_between_pages_arrives(site: dict[str, str]) -> None:
    assert {"pages/entry-droco.html", "pages/entry-bc.html", f"pages/task-{boards.CHEETAH}.html"} <= set(site)
    ids: dict[str, list[str | None]] = {}
    for name, html in site.items():
        ids[name] = [attributes["id"] for _, attributes in read(html).tags if "id" in attributes]
        assert len(ids[name]) == len(set(ids[name])), name
    for name, html in site.items():
        for href in (str(attributes["href"]) for _, attributes in read(html).tags if "href" in attributes):
            place, _, anchor = href.partition("#")
            if anchor:
                to = os.path.normpath(Path(name).parent / place) if place else name
                assert anchor in ids[to], (name, href)
    for name in ("standings", "how", "tasks", "downloads", "submit", "track-core-6"):
        assert name in ids["index.html"], name


def test_the_pages_say_what_a_reader_needs(site: dict[str, str]) -> None:
    both = (site["index.html"], site["pages/entry-droco.html"])
    text = " ".join(" ".join(" ".join(read(html).texts) for html in both).split())
    for expected in (
        "score reproduced",
        "self-reported",
        "not reproduced",
        "Random policy",
        "Expert of the target",
        "offdyn leaderboard verify leaderboard/submissions/droco",
        "offdyn train droco hopper-gravity-0.5-medium --seeds 3",
        "git clone https://example.org/code code && cd code && git checkout abc123",
        "no place: 3 seeds, 5 needed",
        "no place: not verified; 1 of 2 tasks",
        "expert of the scoring environment with deterministic actions",
    ):
        assert expected in text, expected


def test_six_lines_explain_every_column_and_mark(site: dict[str, str]) -> None:
    how = site["index.html"].split('<section id="how"')[1].split("</section>")[0]
    assert how.count("<li>") == 6
    told = " ".join(read(f"<section{how}</section>").texts)
    heads = {name.partition(",")[0] for name, _ in standings_table.COLUMNS} - {"Place", "Method"}
    words = {*heads, "Places", "Retired", "bf16", "fp32", "Min-Q 0.2", "claimed"}
    assert {word for word in words if word not in told} == set()
    attacked = sum(critics.find_critic(task) is not None for task in get_track("core-6"))
    assert f"such a critic; {attacked} of the 6 tasks of core-6 have one. An entry's page tells how many count." in told
    assert not any("title" in attributes for html in site.values() for _, attributes in read(html).tags)


def test_five_steps_lead_from_the_installation_to_the_pull_request(html: str) -> None:
    steps = html.split('<section id="submit"')[1].split("</section>")[0].split("<li>")[1:]
    assert len(steps) == 5
    pres = [re.findall(r"<pre>(.*?)</pre>", step, re.DOTALL)[0].splitlines() for step in steps]
    assert pres[0][0] == "make install" and pres[-1][-1] == "git push -u origin NAME"
    assert "open a pull request" in steps[-1]
    lines = [line for commands in pres[1:-1] for line in commands]
    orders = ("data build", "train", "evaluate", "leaderboard add", "leaderboard verify")
    assert len(lines) == len(orders)
    assert all(line.startswith(f"offdyn {order} ") for line, order in zip(lines, orders, strict=True))


def test_the_front_page_names_methods_of_papers_without_an_entry(board: Path) -> None:
    told = "Without an entry, of the methods that papers report on these tasks: BOSA, CQL, DARA, IGDF, MOBODY,"
    assert told in text_of(rendered(board)) and "REAG, TD3-BC. What each method still needs" in text_of(rendered(board))
    boards.write_entry(board, *boards.entry_json("ours", seeds=FIVE, method="td3_bc (ours)"))
    assert "REAG. What each method still needs for a place is listed in docs/results/core-6.md" in text_of(
        rendered(board)
    )
    assert (ROOT / "docs/results/core-6.md").is_file()


def parts(html: str, tag: str, class_: str) -> list[str]:
    """What elements of a class contain, tags dropped."""
    found = re.findall(rf'<{tag}[^>]* class="{class_}"[^>]*>(.*?)</{tag}>', html, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", " ", item).split()) for item in found]


def row_of(html: str, entry: str) -> dict[str, str]:
    """The cells of an entry's line in the table, by label."""
    line = re.search(rf'<tr[^>]*data-entry="{entry}"[^>]*>(.*?)</tr>', html, re.DOTALL)
    assert line is not None
    cells = re.findall(r'<td data-label="([^"]*)"[^>]*>(.*?)</td>', line.group(1), re.DOTALL)
    return {label.replace("&gt;", ">"): " ".join(re.sub(r"<[^>]+>", " ", cell).split()) for label, cell in cells}


def page_of(board: Path, entry: str) -> str:
    """What the page of an entry says."""
    return text_of(page.render(build(board))[f"pages/entry-{entry}.html"])


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html.split("<main")[1].split("</main>")[0]).split())


def test_figures_that_are_only_claimed_say_so_and_re_run_ones_do_not(board: Path) -> None:
    reproduced(board, "bc", grid=False)
    page.write_page(board, table=boards.REFERENCES)
    html = (board / "index.html").read_text(encoding="utf-8")
    curves = (board / f"pages/task-{boards.HOPPER}.html").read_text(encoding="utf-8").split('id="robustness"')[1]
    droco, bc, unverified = (row_of(html, name) for name in ("droco", "bc", "unverified"))
    assert "claimed" not in " ".join(droco.values())
    assert droco["Kept, min-Q 0.2"].endswith("% kept")
    assert bc["Kept, min-Q 0.2"].endswith("% kept claimed")
    assert "claimed" not in bc["Score (IQM)"]
    assert unverified["Score (IQM)"].endswith("claimed")
    assert "Scores under perturbation: re-run" in page_of(board, "droco")
    assert "Scores under perturbation: claimed, not re-run" in page_of(board, "bc")
    legend = parts(curves, "ul", "legend")[0]
    assert "BC claimed" in legend
    assert "DROCO claimed" not in legend
    assert "BC (claimed):" in curves
    assert "DROCO (claimed)" not in curves
    heat = next(table for table in parts(html, "table", "heat") if "UNVERIFIED" in table)
    assert heat.count("claimed") == 1


def test_a_probability_over_a_claimed_baseline_is_a_claim(board: Path) -> None:
    assert row_of(rendered(board), "droco")["P(> IQL)"].endswith("1.00")
    verdicts.verdict_path(board, protocol.REFERENCE_IQL).unlink()
    assert row_of(rendered(board), "droco")["P(> IQL)"].endswith("claimed")


def rendered(board: Path) -> str:
    return page.render(build(board))["index.html"]


def disclose(board: Path, name: str, **changes: Any) -> None:
    path = board / "submissions" / name / "entry.json"
    entry = json.loads(path.read_text())
    for training in entry["disclosure"]["tasks"].values():
        training |= changes
    path.write_text(json.dumps(entry))


def test_precision_and_tuning_are_disclosed(board: Path) -> None:
    note = "beta is the paper's, which tuned it online"
    disclose(board, "droco", precision="bf16", tuning_evaluations=320, tuning_note=note)
    html = rendered(board)
    rows = {item["name"]: item for item in track(build(board))["rows"]}
    assert rows["droco"]["tuning_evaluations"] == 320
    assert row_of(html, "droco")["Tuning"] == "320"
    card = page_of(board, "droco")
    assert "Trained in bf16. A place needs bf16 to be held against fp32 on one task of the method" in card
    assert "none: bf16 not held against fp32" in card
    assert (rows["droco"]["rank"], rows["iql"]["rank"]) == (None, 1)
    assert "held against fp32" not in page_of(board, "bc")
    assert f"Tuned: {note.replace(chr(39), '&#x27;')}" in card
    assert re.search(r"DROCO.* 2 CPU cores bf16 150,000 320", card)
    tagged = re.findall(r'<tr[^>]*data-entry="([^"]*)"[^>]*>(?:(?!</tr>).)*<span class="badge plain">bf16</span>', html)
    assert tagged == ["droco"]


def test_entries_with_equal_tuning_stay_before_the_next_count(tmp_path: Path) -> None:
    for index in range(9):
        returns = at_level(0.1 * index)
        boards.write_entry(tmp_path, *boards.entry_json(f"entry-{index}", seeds=FIVE, returns=returns))
    html = rendered(tmp_path).split("Score against tuning</h3>")[1]
    label = re.search(r'<text x="([\d.]+)"[^>]*>1</text>', html)
    assert label is not None
    starts = [float(x) for x in re.findall(r'<g class="series"[^>]*><line[^>]*? x1="([\d.]+)"', html)]
    assert len(set(starts)) == 9
    assert max(starts) < 0.6 * float(label.group(1)) + 0.4 * min(starts)


def test_the_check_command_repeats_what_the_verdict_did(board: Path) -> None:
    reproduced(board, "unverified", episodes=20)
    assert "verify leaderboard/submissions/unverified --episodes 20 --salt later" in page_of(board, "unverified")


def test_an_entry_of_protocol_1_says_what_scores_its_policies_today(board: Path) -> None:
    boards.write_entry(board, *boards.entry_json("old", seeds=FIVE, protocol=1))
    told = page_of(board, "old")
    assert "leaderboard verify" not in told
    assert "offdyn leaderboard add --from-entry old --name old --replace" in told
    found = verification.verify_entries([board / "submissions/old"], board)
    assert "offdyn leaderboard add --from-entry old --name old --replace" in found.verdicts[0]["reason"]


def test_a_claimed_bc_is_a_reference_row_on_the_page(board: Path) -> None:
    verdicts.verdict_path(board, "bc").unlink()
    html = rendered(board)
    assert re.search(r'<tr class="ref" data-entry="bc"[^>]*>', html)
    row = row_of(html, "bc")
    assert row["Place"] == "\N{EN DASH}"
    assert row["Score (IQM)"].endswith("claimed")
    assert "reference row" in page_of(board, "bc")
    assert "no place" not in html.split('<tr class="ref" data-entry="bc"')[1].split("</tr>")[0]


def test_the_table_is_sortable_labelled_and_reachable_by_keyboard(html: str) -> None:
    reader = read(html)
    heads = [attributes for tag, attributes in reader.tags if tag == "th" and attributes.get("scope") == "col"]
    assert any(attributes.get("aria-sort") == "descending" for attributes in heads)
    cells = [attributes for tag, attributes in reader.tags if tag == "td" and "data-label" in attributes]
    assert cells
    assert all("data-sort" in attributes for attributes in cells)
    regions = [attributes for _, attributes in reader.tags if attributes.get("role") == "region"]
    assert regions
    assert all(attributes.get("tabindex") == "0" and attributes.get("aria-label") for attributes in regions)


def test_plots_tell_entries_apart_without_colour() -> None:
    looks = [charts.Look(index) for index in range(8)]
    shapes = {re.sub(r"-?[\d.]+", "", look.marker(0, 0)) + look.marker(0, 0).split("class")[0] for look in looks}
    assert len(shapes) == 8
    assert len({look.dash for look in looks}) == 8
    # Beyond eight entries the combination of colour, marker and dash still differs.
    many = [(look.colour, look.marker(0, 0).split(" class")[0], look.dash) for look in map(charts.Look, range(512))]
    assert len(set(many)) == charts.LOOKS == 512


def test_a_look_belongs_to_a_name_whoever_else_is_there() -> None:
    names = [f"method-{number}" for number in range(30)]
    together = charts.looks_of(names)
    assert sum(charts.looks_of([name])[name] == together[name] for name in names) >= 20
    assert charts.looks_of(reversed(names)) == together
    plots = {name: (look.colour, look.marker(0, 0)) for name, look in charts.looks_of(map(str, range(64))).items()}
    assert len(set(plots.values())) == 64
    assert len(charts.looks_of(map(str, range(1000)))) == 1000


def test_every_plot_has_a_name_and_its_numbers_as_text(site: dict[str, str]) -> None:
    panels = re.findall(r'<svg[^>]*role="img"[^>]*>(.*?)</svg>', "".join(site.values()), re.DOTALL)
    assert len(panels) == 15  # 7 families x 2 tasks, and the tuning plot of the one track with entries of its own
    assert all(panel.startswith("<title>") and "<desc>" in panel for panel in panels)
    assert all("nan" not in panel.lower() and "inf" not in panel.split("<desc>")[0].lower() for panel in panels)


def bytes_of(board: Path) -> dict[str, bytes]:
    """Everything that the command writes."""
    places = [board / "index.html", board / "standings.json", *(board / "pages").iterdir()]
    return {place.name: place.read_bytes() for place in places}


def test_the_same_submissions_give_the_same_bytes(board: Path) -> None:
    page.write_page(board, table=boards.REFERENCES)
    first = bytes_of(board)
    page.write_page(board, table=boards.REFERENCES)
    assert first == bytes_of(board)
    program = (
        "import sys, json; from pathlib import Path; from offdyn_envs.benchmark.page import page;"
        "page.write_page(Path(sys.argv[1]), table=json.loads(sys.argv[2]))"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(board), json.dumps(boards.REFERENCES)],
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )
    assert first == bytes_of(board)


def test_pages_of_what_is_gone_go_and_files_of_others_stay(board: Path) -> None:
    page.write_page(board, table=boards.REFERENCES)
    (board / "pages/notes.html").write_text("mine")
    (board / "pages/notes.csv").write_text("date,mine\n")
    # As an earlier version wrote it, with fewer columns.
    (board / "pages/history.csv").write_text("date,track,entry,place\n")
    shutil.rmtree(board / "submissions/three")
    page.write_page(board, table=boards.REFERENCES)
    names = {path.name for path in (board / "pages").iterdir()}
    assert not names & {"entry-three.html", "returns-three.csv"}
    assert {"entry-droco.html", "returns-droco.csv", "notes.html", "notes.csv"} <= names
    assert "division" in (board / "pages/history.csv").read_text()


def test_standings_are_strict_json(board: Path) -> None:
    page.write_page(board, table=boards.REFERENCES)
    text = (board / "standings.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name))["protocol"] == 2


KILLED = """
import sys, time
from pathlib import Path
from offdyn_envs.benchmark.page import page
board = Path(sys.argv[1])
page.load_board = lambda board: ([], [])
original = Path.write_bytes
def half(self, content):
    original(self, content[: len(content) // 2])
    if ".index.html." in self.name:
        print("half", flush=True)
        time.sleep(60)
    original(self, content)
Path.write_bytes = half
page.write_page(board)
"""


def test_a_killed_write_leaves_the_old_page_and_the_next_one_finishes(board: Path) -> None:
    page.write_page(board, table=boards.REFERENCES)
    old = (board / "index.html").read_bytes()
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(board)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"half\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert (board / "index.html").read_bytes() == old
    page.write_page(board, table=boards.REFERENCES)
    assert (board / "index.html").read_bytes() == old


def test_the_page_command_writes_the_good_entries_and_ends_with_2_on_a_bad_one(
    board: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "load_references", lambda: boards.REFERENCES)
    monkeypatch.setattr(cli, "entry_points", lambda group: [])
    with pytest.raises(SystemExit) as ended:
        cli.main(["leaderboard", "page", "--leaderboard", str(board)])
    assert ended.value.code == 0
    assert "index.html" in capsys.readouterr().out
    (board / "submissions" / "iql" / "entry.json").write_text("{")
    with pytest.raises(SystemExit) as ended:
        cli.main(["leaderboard", "page", "--leaderboard", str(board), "--json"])
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.err.startswith("offdyn: entry 'iql': entry.json is no strict JSON")
    assert len(printed.err.splitlines()) == 1
    assert "iql" not in [entry["name"] for entry in json.loads(printed.out)["entries"]]
    assert "pages/entry-droco.html" in (board / "index.html").read_text()
    assert not (board / "pages/entry-iql.html").exists()


def test_a_leaderboard_that_does_not_exist_is_refused_and_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "entry_points", lambda group: [])
    with pytest.raises(SystemExit) as ended:
        cli.main(["leaderboard", "page", "--leaderboard", str(tmp_path / "typo")])
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    assert "typo' does not exist" in printed.err
    assert list(tmp_path.iterdir()) == []


def test_an_empty_leaderboard_has_a_page(tmp_path: Path) -> None:
    result, refusals = page.write_page(tmp_path, table=boards.REFERENCES)
    assert (result["entries"], refusals) == ([], [])
    read((tmp_path / "index.html").read_text())


def test_escaping_is_the_default() -> None:
    assert markup.element("p", "<b>", title='"x"') == '<p title="&quot;x&quot;">&lt;b&gt;</p>'
    assert markup.element("p", markup.Html("<b></b>")) == "<p><b></b></p>"
    assert markup.join(["<", markup.element("i")]) == "&lt;<i></i>"
    for bad in ("http://x.org", "javascript:alert(1)", 'https://x.org/"onclick=', "https://x.org/\n", "//x.org"):
        assert "<a" not in markup.link("x", bad)
    assert 'href="https://x.org/a"' in markup.link("x", "https://x.org/a")
    assert markup.number(-0.04) == "0.0"
    assert markup.number(-12.34) == "\N{MINUS SIGN}12.3"


@pytest.mark.parametrize("name", ["index.html", "standings.json"])
def test_files_of_somebody_else_are_not_overwritten(name: str, board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page.write_page(board)
    written = {file: (board / file).read_bytes() for file in ("index.html", "standings.json")}
    page.write_page(board)  # Its own it replaces.
    for foreign in (b"<html><title>my home page</title></html>", b'{"mine": 1}'):
        (board / name).write_bytes(foreign)
        with pytest.raises(SystemExit) as ended:
            cli.main(["leaderboard", "page", "--leaderboard", str(board)])
        assert ended.value.code == 2
        err = capsys.readouterr().err
        assert f"{board / name}: stands there and is not a" in err and "; move it away" in err
        assert err.count("\n") == 1
        now = {file: (board / file).read_bytes() for file in written}
        assert now == written | {name: foreign}
    (board / name).write_bytes(b"")
    page.write_page(board)
    assert {file: (board / file).read_bytes() for file in written} == written
