"""Draws the leaderboard page: one self-contained file, nothing requested from outside, every text escaped.

The content security policy admits exactly the page's own style sheet and script, by their hashes; nothing inline
besides them could run even if an escape were forgotten. Without a script the page shows the same figures, unsorted and
without tabs.
"""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from offdyn_envs.atomic import json_text, refuse_foreign, write_together
from offdyn_envs.benchmark.entries.standings import CLAIM, RERUN, Json, build_standings
from offdyn_envs.benchmark.page.cards import claimed, entry_card
from offdyn_envs.benchmark.page.charts import (
    Axis,
    Look,
    Point,
    Series,
    key,
    linear_axis,
    log_axis,
    panel,
    tuning_axis,
    whisker,
)
from offdyn_envs.benchmark.page.markup import Html, element, join, number
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.errors import OffDynError

__all__ = ["badge", "render", "write_page"]

_HERE = Path(__file__).parent
SECTIONS = (("standings", "Standings"), ("robustness", "Robustness"), ("tuning", "Tuning"), ("entries", "Entries"))
TITLE, FIRST = b"<title>offdyn leaderboard</title>", [b"{", b'"entries":']
"""By which pages and standings are known, near their beginning."""
FULL_PRECISION = "fp32"
"""The precision that needs no tag; entries that name none are taken to have it."""
BADGES = {
    "reproduced": ("ok", "score reproduced"),
    "self-reported": ("self", "self-reported"),
    "not reproduced": ("no", "not reproduced"),
    "refused": ("no", "refused"),
}


def write_page(board: Path, *, table: Mapping[str, Any] | None = None) -> tuple[Json, list[str]]:
    """Writes `standings.json` and `index.html`, both or neither.

    Args:
        board: The leaderboard's folder.
        table: Contents of a references.json to use instead of the package's.

    Returns:
        The standings, and one line for each refused entry or verdict.

    Raises:
        OffDynError: The folder does not exist, or holds files of these names that are somebody else's.
    """
    if not board.is_dir():
        raise OffDynError(f"leaderboard '{board}' does not exist; make one with: offdyn leaderboard add")
    refuse_foreign(board / "index.html", lambda begins: TITLE in begins, "a page of this command")
    refuse_foreign(board / "standings.json", lambda begins: begins.split()[:2] == FIRST, "a file of this command")
    standings, refusals = build_standings(board, table=table)
    write_together({board / "standings.json": json_text(standings), board / "index.html": render(standings)})
    return standings, refusals


def render(standings: Json) -> str:
    """Returns the page of a leaderboard; the same standings give the same bytes."""
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    looks = {entry["name"]: Look(index) for index, entry in enumerate(standings["entries"])}
    parts = [
        _hero(standings),
        _standings(standings, looks),
        _robustness(standings, looks),
        _tuning(standings, looks),
        _entries(standings, looks),
    ]
    template = Template((_HERE / "page_template.html").read_text(encoding="utf-8"))
    navigation = join(element("a", label, href=f"#{name}") for name, label in SECTIONS)
    return template.substitute(
        policy=policy, style=style, script=script, navigation=navigation, content=join(parts, Html("\n"))
    )


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")


def _hero(standings: Json) -> Html:
    entries = [entry for entry in standings["entries"] if not entry["reference"]]
    reruns = [entry for entry in standings["entries"] if entry["status"] == "reproduced"]
    policies = sum(len(task["seeds"]) for entry in reruns for task in entry["tasks"].values())
    episodes = sum(
        len(task["seeds"]) * entry["verdict"]["episodes"] for entry in reruns for task in entry["tasks"].values()
    )
    facts = [
        ("entries", len(entries)),
        ("tasks with entries", len(standings["tasks"])),
        ("policies re-run", policies),
        ("episodes re-run", f"{episodes:,}"),
        ("protocol", f"v{standings['protocol']}"),
    ]
    return join(
        [
            element("h1", "Off-dynamics offline RL, on one scale"),
            element(
                "p",
                "Agents learn from plentiful data of one robot and a little data of the same robot "
                "under shifted dynamics, then "
                "act in the shifted one. A score of 0 is the mean return of the random policy, 100 that of the "
                "expert of the scoring environment with deterministic actions, as entries act too. Figures come "
                "from this suite's own re-run; those that are only the submitter's say claimed. Intervals "
                f"are {protocol.LEVEL:.0%}: Student's t over seeds for a task, a stratified bootstrap for a track.",
                class_="lede",
            ),
            element(
                "dl",
                *(element("div", element("dt", label), element("dd", value)) for label, value in facts),
                class_="facts",
            ),
        ]
    )


def badge(status: str) -> Html:
    """Returns the badge of an entry's state; states differ in words and border, not only in colour."""
    kind, label = BADGES.get(status, ("plain", status))
    return element("span", label, class_=f"badge {kind}")


def _section(name: str, title: str, *children: object) -> Html:
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, *children, id=name, aria_labelledby=f"{name}-title")


def _standings(standings: Json, looks: Mapping[str, Look]) -> Html:
    if not standings["tracks"]:
        empty = element("p", "No entry covers a scored task yet.", class_="sheet empty")
        return _section("standings", "Standings", empty)
    return _section("standings", "Standings", *(_track(track, standings, looks) for track in standings["tracks"]))


def _track(track: Json, standings: Json, looks: Mapping[str, Look]) -> Html:
    covered = f"{len(track['tasks'])} of {track['size']} tasks have entries"
    note = element(
        "p",
        element("b", track["name"]),
        f": {covered}. Places are given within a division (policy updates) among entries that cover the "
        "same tasks, to scores that "
        f"this suite reproduced with {protocol.RANKED_SEEDS} seeds or more. Nothing is filled in for "
        f"a task that an entry leaves out.",
        class_="note",
    )
    body = [note, _board(track, standings, looks), element("h3", "Score by task"), _heat(track, standings, looks)]
    return element("div", *body, class_="track", id=f"track-{track['name']}", data_name=track["name"])


_COLUMNS = (
    ("Place", "up", "Place among entries of equal coverage"),
    ("Method", "up", None),
    ("Score (IQM)", "down", "Interquartile mean over runs and tasks; tasks weigh the same"),
    ("Interval", "down", "95% stratified bootstrap"),
    ("Mean", "down", "Mean of the tasks' means"),
    ("Coverage", "down", "Tasks covered of the track, and seeds of the task that has fewest"),
    ("P(> IQL)", "down", "Probability that a run scores higher than one of IQL"),
    ("Held out", "down", "Interquartile mean in dynamics that are in no table, drawn for this entry"),
    ("Under min-Q", "down", "Share of the clean score kept under the min-Q attack at 0.2 with the suite's critic"),
    ("Tuning", "up", "Online evaluations used for tuning, at most per task"),
)


def _board(track: Json, standings: Json, looks: Mapping[str, Look]) -> Html:
    entries = {entry["name"]: entry for entry in standings["entries"]}
    spread = [row["iqm"][end] for row in track["rows"] for end in ("mean", "high", "low")]
    top, bottom = max(105.0, *spread), min(-5.0, *spread)
    head = element("tr", *(_head(*column, chosen=column[0] == "Score (IQM)") for column in _COLUMNS))
    rows = [
        (row["iqm"]["mean"], _board_row(row, entries[row["name"]], track, looks, (top, bottom)))
        for row in track["rows"]
    ]
    rows += [
        (mean, _reference_row(kind, mean, track, standings, (top, bottom)))
        for kind, mean in (("random", 0.0), ("expert", 100.0))
    ]
    rows.sort(key=lambda pair: -pair[0])
    board = element(
        "table", element("thead", head), element("tbody", *(row for _, row in rows)), class_="board sortable"
    )
    return element("div", board, class_="sheet", tabindex=0, role="region", aria_label=f"Standings of {track['name']}")


def _head(name: str, first: str, hint: str | None, *, chosen: bool) -> Html:
    kind = "method" if name == "Method" else None
    order = "descending" if chosen else None
    return element("th", name, scope="col", class_=kind, title=hint, data_first=first, aria_sort=order)


def _board_row(row: Json, entry: Json, track: Json, looks: Mapping[str, Look], span: tuple[float, float]) -> Html:
    iqm, look = row["iqm"], looks[row["name"]]
    kept: Json = next((c for c in entry["kept"] if (c["family"], c["level"]) == ("min-q", 0.2)), {})
    share, better, held = kept.get("value"), row["improvement"], row["held_out"]
    name = element("a", entry["method"], href=f"#entry-{entry['name']}")
    said = row["rank"] or entry["reference"] or row["unranked"] == entry["status"]
    why = None if said else element("span", f"no place: {row['unranked']}", class_="sub")
    kind = badge("reference row") if entry["reference"] else None
    tag = element("span", badge(entry["status"]), kind, *_precisions(entry, row["tasks"]), why, class_="tag")
    rank = element("span", row["rank"], class_="rank") if row["rank"] else element("span", "\N{EN DASH}", class_="sub")
    rank = element("span", rank, element("span", row["division"], class_="sub")) if row["rank"] else rank
    labels = [column[0] for column in _COLUMNS]
    cells = [
        _cell(labels[0], rank, row["rank"], class_=None if row["rank"] else "unplaced"),
        element("th", key(look), name, tag, scope="row", data_sort=entry["method"]),
        _cell(labels[2], _score(iqm, row["source"]), iqm["mean"], class_="score"),
        _cell(labels[3], whisker(iqm["mean"], iqm["low"], iqm["high"], *span, look), iqm["low"]),
        _cell(labels[4], number(row["mean"]), row["mean"]),
        _cell(labels[5], _coverage(row, track), len(row["tasks"])),
        _cell(labels[6], None if better is None else _probability(better), None if better is None else better["mean"]),
        _cell(labels[7], None if held is None else _score(held), None if held is None else held["mean"]),
        _cell(labels[8], None if share is None else _kept(kept), share),
        _cell(labels[9], f"{row['tuning_evaluations']:,}", row["tuning_evaluations"]),
    ]
    return element("tr", *cells, class_="ref" if entry["reference"] else None, data_entry=entry["name"])


def _reference_row(kind: str, mean: float, track: Json, standings: Json, span: tuple[float, float]) -> Html:
    known = [standings["tasks"][task][kind]["score"] for task in track["tasks"] if kind in standings["tasks"][task]]
    half = max((score["high"] - score["mean"] for score in known), default=0.0)
    labels = [column[0] for column in _COLUMNS]
    title = {"random": "Random policy", "expert": "Expert of the target"}[kind]
    note = element("span", badge("reference row"), element("span", "defines the scale", class_="sub"), class_="tag")
    cells = [
        _cell(labels[0], element("span", "\N{EN DASH}", class_="sub"), None, class_="unplaced"),
        element("th", title, note, scope="row", data_sort=title),
        _cell(labels[2], _score({"mean": mean, "low": mean - half, "high": mean + half}), mean, class_="score"),
        _cell(labels[3], whisker(mean, mean - half, mean + half, *span), mean - half),
        _cell(labels[4], number(mean), mean),
        *(_cell(label, None, None) for label in labels[5:]),
    ]
    return element("tr", *cells, class_="ref")


def _cell(label: str, content: object, value: object, **attributes: object) -> Html:
    if content is None:
        attributes["class_"] = "none"
    return element("td", content, data_label=label, data_sort="" if value is None else value, **attributes)


def _coverage(row: Json, track: Json) -> Html:
    seeds = element("span", f"{row['seeds']} seeds", class_="sub")
    return element("span", f"{len(row['tasks'])} of {track['size']}", seeds)


def _precisions(entry: Json, tasks: Sequence[str]) -> list[Html]:
    """Tags for every arithmetic besides fp32 in which the runs behind a row were trained."""
    used = {entry["disclosure"][task].get("precision", FULL_PRECISION) for task in tasks}
    return [badge(precision) for precision in sorted(used - {FULL_PRECISION})]


def _kept(kept: Json) -> Html:
    return element("span", kept["words"], _mark(kept["source"]))


def _mark(source: str) -> Html | None:
    """A line under a figure that is only claimed."""
    mark = claimed(source)
    return None if mark is None else element("span", mark, class_="sub")


def _score(interval: Json, source: str = RERUN) -> Html:
    limits = f"{number(interval['low'])} to {number(interval['high'])}"
    return element("span", element("b", number(interval["mean"])), element("span", limits, class_="sub"), _mark(source))


def _probability(better: Json) -> Html:
    limits = f"{number(better['low'], 2)} to {number(better['high'], 2)}"
    return element("span", number(better["mean"], 2), element("span", limits, class_="sub"), _mark(better["source"]))


def _heat(track: Json, standings: Json, looks: Mapping[str, Look]) -> Html:
    entries = {entry["name"]: entry for entry in standings["entries"]}
    heads = [element("th", "Method", scope="col", class_="method")]
    heads += [element("th", _task_name(task, standings), scope="col") for task in track["tasks"]]
    rows: list[Html] = []
    for row in track["rows"]:
        entry = entries[row["name"]]
        name = element("th", key(looks[row["name"]], line=False), entry["method"], scope="row")
        cells = [_heat_cell(entry["tasks"].get(task)) for task in track["tasks"]]
        rows.append(element("tr", name, *cells, class_="ref" if entry["reference"] else None))
    table = element("table", element("thead", element("tr", *heads)), element("tbody", *rows), class_="heat")
    return element(
        "div", table, class_="sheet", tabindex=0, role="region", aria_label=f"Scores by task of {track['name']}"
    )


def _task_name(task: str, standings: Json) -> Html:
    row = standings["tasks"][task]
    return element(
        "span", row["robot"], element("span", f"{row['dynamics']}, {row['quality']}", class_="sub"), title=task
    )


def _heat_cell(task: Json | None) -> Html:
    if task is None or "score" not in task:
        return element("td", element("span", "not covered" if task is None else "not scored", class_="sub"))
    score = task["score"]
    shade = min(max(round(score["mean"] / 10), 0), 10)
    return element("td", _score(score, task["source"]), class_=f"h{shade}")


_FAMILIES = (
    ("gravity", "Gravity", "gravity scale on top of the target"),
    ("friction", "Friction", "friction scale on top of the target"),
    ("kinematic", "Joint ranges", "1 easy, 2 medium, 3 hard; both parts of the robot, averaged"),
    ("morphology", "Body shape", "1 easy, 2 medium, 3 hard; both parts of the robot, averaged"),
    ("worn-friction", "Worn soles", "friction scale at the end of 100 episodes"),
    ("worn-motors", "Worn motors", "strength of the motors at the end of 100 episodes"),
    ("min-q", "Min-Q attack", "half width of the attack, in standard deviations"),
    ("min-q-own", "Min-Q attack, the entry's own critic", "half width of the attack, in standard deviations"),
    ("random", "Random observation noise", "half width of the noise, in standard deviations"),
)


_SCALES = ("gravity", "friction", "worn-friction", "worn-motors")
"""Families whose level is a scale, 1 for the unperturbed target."""


def _robustness(standings: Json, looks: Mapping[str, Look]) -> Html:
    tasks = sorted({task for entry in standings["entries"] for task in entry["robustness"]})
    note = element(
        "p",
        "The same policies, perturbed at test time. Points are means over seeds, bars their t "
        "intervals; dotted lines mark the random "
        "policy and the expert of the unperturbed target. The attack uses the suite's critic of the task. "
        "Methods marked claimed show the submitter's own figures, which nobody has re-run. "
        "Pick a method to bring it "
        "forward; Escape lets go.",
        class_="note",
    )
    if not tasks:
        empty = element("p", "No entry reports perturbed returns yet.", class_="sheet empty")
        return _section("robustness", "Score under perturbation", empty)
    blocks = [_robust_task(task, standings, looks) for task in tasks]
    return _section("robustness", "Score under perturbation", note, *blocks)


def _robust_task(task: str, standings: Json, looks: Mapping[str, Look]) -> Html:
    entries = [entry for entry in standings["entries"] if task in entry["robustness"]]
    figures: list[Html] = []
    for family, title, label in _FAMILIES:
        series = [one for entry in entries if (one := _curve(entry, task, family, looks[entry["name"]])) is not None]
        if series:
            axis = _perturbation_axis(family, label, series)
            figures.append(element("figure", element("figcaption", title), panel(f"{title}, {task}", axis, series)))
    sources = [entry["robustness"][task]["source"] for entry in entries]
    return join([element("h3", task), _legend(entries, sources, looks), element("div", *figures, class_="panels")])


def _perturbation_axis(family: str, label: str, series: Sequence[Series]) -> Axis:
    levels = sorted({point.x for one in series for point in one.points})
    return log_axis(label, levels) if family in _SCALES else linear_axis(label, levels)


def _curve(entry: Json, task: str, family: str, look: Look) -> Series | None:
    """The points of one family, with the clean score at its neutral level."""
    row = entry["robustness"][task]
    cells = {cell["level"]: cell["score"] for cell in row["cells"] if cell["family"] == family}
    if not cells:
        return None
    cells[1.0 if family in _SCALES else 0.0] = row["clean"]
    points = [Point(level, score["mean"], score["low"], score["high"]) for level, score in sorted(cells.items())]
    name = entry["method"] + (" (claimed)" if row["source"] == CLAIM else "")
    return Series(entry["name"], name, look, points)


def _legend(entries: Sequence[Json], sources: Sequence[str], looks: Mapping[str, Look]) -> Html:
    items = [
        element(
            "li",
            key(looks[entry["name"]]),
            element("span", entry["method"], class_="name"),
            claimed(source),
            data_entry=entry["name"],
        )
        for entry, source in zip(entries, sources, strict=True)
    ]
    return element("ul", *items, class_="legend")


def _tuning(standings: Json, looks: Mapping[str, Look]) -> Html:
    note = element(
        "p",
        "Offline methods are often tuned with online evaluations. A score that needed none stands "
        "further left than one that needed "
        "many; presets inherited from a paper that tuned online count as tuned. Entries with equal counts stand "
        "side by side.",
        class_="note",
    )
    figures = [_tuning_figure(track, standings, looks) for track in standings["tracks"]]
    if not figures:
        figures = [element("p", "No entry covers a scored task yet.", class_="sheet empty")]
    return _section("tuning", "Score against tuning", note, element("div", *figures, class_="panels"))


def _tuning_figure(track: Json, standings: Json, looks: Mapping[str, Look]) -> Html:
    entries = {entry["name"]: entry for entry in standings["entries"]}
    axis = tuning_axis(
        "online evaluations used for tuning (log scale)", [row["tuning_evaluations"] for row in track["rows"]]
    )
    counts = Counter(row["tuning_evaluations"] for row in track["rows"])
    seen: Counter[int] = Counter()
    series: list[Series] = []
    for row in track["rows"]:
        count = row["tuning_evaluations"]
        # Entries with equal counts stand side by side, all of them well before the next count.
        step = min(0.12, 0.3 / max(counts[count] - 1, 1))
        x = math.expm1(math.log1p(count) + step * seen[count])
        seen[count] += 1
        iqm = row["iqm"]
        point = Point(x, iqm["mean"], iqm["low"], iqm["high"])
        series.append(Series(row["name"], entries[row["name"]]["method"], looks[row["name"]], [point]))
    drawn = panel(f"Score against tuning, {track['name']}", axis, series, lines=False)
    sources = [row["source"] for row in track["rows"]]
    legend = _legend([entries[row["name"]] for row in track["rows"]], sources, looks)
    return element("figure", element("figcaption", f"{track['name']} (IQM)"), legend, drawn, class_="single")


def _entries(standings: Json, looks: Mapping[str, Look]) -> Html:
    cards = [entry_card(entry, key(looks[entry["name"]]), badge(entry["status"])) for entry in standings["entries"]]
    how = element(
        "p",
        "Add your own: train, evaluate and export with any framework, then ",
        element("code", "offdyn leaderboard add RUN... --name NAME"),
        ", or write entry.json by hand after the published schema.",
        class_="note",
    )
    body = element("div", *cards, class_="cards") if cards else element("p", "No entries yet.", class_="sheet empty")
    return _section("entries", "Entries", how, body)
