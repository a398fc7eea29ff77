"""The standings of one track: filters, the forest plot, the table under it, the scores by task."""

from collections.abc import Iterable, Mapping, Sequence

from offdyn_envs.benchmark.entries.places import coverage
from offdyn_envs.benchmark.page.charts import Look, Point, forest, forest_axis, key
from offdyn_envs.benchmark.page.layout import Json, badge, entry_link, mark, score, task_link
from offdyn_envs.benchmark.page.markup import Html, element, number

__all__ = ["FULL_PRECISION", "track_panel"]

FULL_PRECISION = "fp32"
"""The precision that needs no tag; entries that name none are taken to have it."""
MOST_NAMED = 3
"""As many missing tasks are named in a line; more are only counted."""
COLUMNS = (
    *(("Place", "up"), ("Method", "up"), ("Score (IQM)", "down"), ("Mean", "down"), ("Coverage", "down")),
    *(("P(> IQL)", "down"), ("Held out", "down"), ("Kept, min-Q 0.2", "down"), ("Tuning", "up")),
)
"""Columns of the table, and the order in which they are sorted first."""
REFERENCES = {"random": ("Random policy", 0.0), "expert": ("Expert of the target", 100.0)}


def track_panel(track: Json, standings: Json, looks: Mapping[str, Look], tuning: Html) -> Html:
    """Draws all of one track.

    Args:
        track: Its part of the standings.
        standings: All of them.
        looks: Look of every entry.
        tuning: The figure of score against tuning.
    """
    entries = {entry["name"]: entry for entry in standings["entries"]}
    name = track["name"]
    body = [
        element(
            "p", element("b", name), f": {len(track['tasks'])} of {track['size']} tasks have entries.", class_="note"
        ),
        _filters(name, [(entries[row["name"]], row) for row in track["rows"]]),
        _forest(track, entries, looks),
        element("h3", "Figures"),
        _table(track, standings, entries, looks),
        element("h3", "Score by task"),
        _by_task(track, entries, looks),
        element("h3", "Score against tuning"),
        tuning,
    ]
    return element("div", *body, class_="track", id=f"track-{name}", data_name=name)


def _filters(track: str, rows: Sequence[tuple[Json, Json]]) -> Html:
    """Selections that a script shows and obeys; without one nothing is filtered."""
    chosen = (
        ("family", "Family", {entry["family"] for entry, _ in rows}),
        ("division", "Division", {row["division"] for _, row in rows if row["division"]}),
    )
    boxes: list[Html] = []
    for name, label, values in chosen:
        place = f"{name}-{track}"
        options = [element("option", "all", value=""), *(element("option", one, value=one) for one in sorted(values))]
        select = element("select", *options, id=place, data_filter=name)
        boxes.append(element("span", element("label", label, for_=place), select))
    told = element("span", class_="sub", role="status")
    return element("div", *boxes, told, class_="filters", role="group", aria_label=f"Filters of {track}", hidden=True)


def _marks(entry: Json, row: Json) -> dict[str, object]:
    """Attributes by which a script finds the lines of an entry."""
    return {"data_entry": entry["name"], "data_family": entry["family"], "data_division": row["division"]}


def _forest(track: Json, entries: Mapping[str, Json], looks: Mapping[str, Look]) -> Html:
    values = [row["iqm"][end] for row in track["rows"] for end in ("low", "high")]
    span = (min(-5.0, *values), max(105.0, *values))
    rows = sorted(track["rows"], key=_order)
    items = [_forest_row(row, entries[row["name"]], looks[row["name"]], span, track["scored"]) for row in rows]
    axis = element("li", element("span"), forest_axis(span), element("span"), class_="axis-row", aria_hidden="true")
    return element("ol", *items, axis, class_="forest sheet", aria_label=f"Scores of {track['name']} with intervals")


def _forest_row(row: Json, entry: Json, look: Look, span: tuple[float, float], scored: Sequence[str]) -> Html:
    iqm = row["iqm"]
    told = element("span", _standing(row, scored), class_="sub")
    name = element("span", key(look, line=False), entry_link(entry, root=True), " ", told)
    plot = forest(Point(0.0, iqm["mean"], iqm["low"], iqm["high"]), span, look)
    return element("li", name, plot, score(iqm, row["source"]), **_marks(entry, row))


def _standing(row: Json, scored: Sequence[str]) -> str:
    """Returns a row's place, or why it has none: first what keeps its score from being compared with others."""
    if row["rank"]:
        return f"{_ordinal(row['rank'])} in {row['division']}"
    return f"no place: {coverage(row['tasks'], scored) or row['lacks'][0]}"


def _order(row: Json) -> tuple[int, float]:
    """Who covers more comes first: a high score on few tasks stands under all scores on all of them."""
    return -len(row["tasks"]), -row["iqm"]["mean"]


def _ordinal(place: int) -> str:
    ending = "th" if 10 <= place % 100 < 20 else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"


def _table(track: Json, standings: Json, entries: Mapping[str, Json], looks: Mapping[str, Look]) -> Html:
    head = element("tr", *(_head(*column) for column in COLUMNS))
    rows = [(_order(row), _row(row, entries[row["name"]], track, looks)) for row in track["rows"]]
    whole = -len(track["scored"])
    rows += [((whole, -mean), _reference_row(kind, track, standings)) for kind, (_, mean) in REFERENCES.items()]
    rows.sort(key=lambda pair: pair[0])
    body = element("tbody", *(row for _, row in rows))
    board = element("table", element("thead", head), body, class_="board sortable")
    return element("div", board, class_="sheet", tabindex=0, role="region", aria_label=f"Standings of {track['name']}")


def _head(name: str, first: str) -> Html:
    kind = "method" if name == "Method" else None
    order = "descending" if name == "Coverage" else None
    return element("th", name, scope="col", class_=kind, data_first=first, aria_sort=order)


def _row(row: Json, entry: Json, track: Json, looks: Mapping[str, Look]) -> Html:
    iqm, better, held = row["iqm"], row["improvement"], row["held_out"]
    kept: Json = row["kept"] or {}
    share = kept.get("value")
    rank = element("span", row["rank"] or "\N{EN DASH}", class_="rank" if row["rank"] else "sub")
    place = element("span", rank, element("span", row["division"], class_="sub")) if row["rank"] else rank
    values: list[tuple[object, object]] = [
        (score(iqm, row["source"]), iqm["mean"]),
        (number(row["mean"]), row["mean"]),
        (_coverage(row, track), len(row["tasks"])),
        (None, None) if better is None else (score(better, better["source"], 2), better["mean"]),
        (None, None) if held is None else (score(held), held["mean"]),
        (None, None) if share is None else (element("span", kept["words"], mark(kept["source"])), share),
        (f"{row['tuning_evaluations']:,}", row["tuning_evaluations"]),
    ]
    shown = (key(looks[row["name"]]), entry_link(entry, root=True), _tag(row, entry))
    cells = [
        _cell("Place", place, row["rank"], class_=None if row["rank"] else "unplaced"),
        element("th", *shown, scope="row", data_sort=entry["method"]),
        *_cells(values),
    ]
    return element("tr", *cells, class_="ref" if entry["reference"] else None, **_marks(entry, row))


def _tag(row: Json, entry: Json) -> Html:
    said = row["rank"] or entry["reference"] or row["unranked"] == entry["status"]
    why = None if said else element("span", f"no place: {row['unranked']}", class_="sub")
    kind = badge("reference row") if entry["reference"] else None
    family = element("span", entry["family"], class_="sub")
    return element("span", badge(entry["status"]), kind, *_precisions(entry, row["tasks"]), family, why, class_="tag")


def _precisions(entry: Json, tasks: Sequence[str]) -> list[Html]:
    """Tags for every arithmetic besides fp32 in which the runs behind a row were trained."""
    used = {entry["disclosure"][task].get("precision", FULL_PRECISION) for task in tasks}
    return [badge(precision) for precision in sorted(used - {FULL_PRECISION})]


def _reference_row(kind: str, track: Json, standings: Json) -> Html:
    title, mean = REFERENCES[kind]
    known = [standings["tasks"][task][kind]["score"] for task in track["tasks"] if kind in standings["tasks"][task]]
    half = max((one["high"] - one["mean"] for one in known), default=0.0)
    note = element("span", badge("reference row"), element("span", "defines the scale", class_="sub"), class_="tag")
    values: list[tuple[object, object]] = [
        (score({"mean": mean, "low": mean - half, "high": mean + half}), mean),
        (number(mean), mean),
        *[(None, None)] * 5,
    ]
    cells = [
        _cell("Place", element("span", "\N{EN DASH}", class_="sub"), None, class_="unplaced"),
        element("th", title, note, scope="row", data_sort=title),
        *_cells(values),
    ]
    return element("tr", *cells, class_="ref")


def _cells(values: Iterable[tuple[object, object]]) -> list[Html]:
    labels = (name for name, _ in COLUMNS[2:])
    return [_cell(label, shown, value) for label, (shown, value) in zip(labels, values, strict=True)]


def _cell(label: str, content: object, value: object, **attributes: object) -> Html:
    if content is None:
        attributes["class_"] = "none"
    return element("td", content, data_label=label, data_sort="" if value is None else value, **attributes)


def _coverage(row: Json, track: Json) -> Html:
    """Returns how many tasks and seeds an entry has, and which tasks it lacks where those are few."""
    seeds = element("span", f"{row['seeds']} seeds", class_="sub")
    missing = [task for task in track["scored"] if task not in row["tasks"]]
    few = 0 < len(missing) <= MOST_NAMED
    lacks = element("span", f"lacks {', '.join(missing)}", class_="sub") if few else None
    return element("span", f"{len(row['tasks'])} of {len(track['scored'])}", seeds, lacks)


def _by_task(track: Json, entries: Mapping[str, Json], looks: Mapping[str, Look]) -> Html:
    heads = [element("th", task_link(task, root=True), scope="col") for task in track["tasks"]]
    rows: list[Html] = []
    for row in track["rows"]:
        entry = entries[row["name"]]
        cells = [_heat_cell(entry["tasks"].get(task)) for task in track["tasks"]]
        named = element("th", key(looks[row["name"]], line=False), entry_link(entry, root=True), scope="row")
        rows.append(element("tr", named, *cells, **_marks(entry, row)))
    head = element("tr", element("th", "Method", scope="col", class_="method"), *heads)
    table = element("table", element("thead", head), element("tbody", *rows), class_="heat")
    label = f"Score by task of {track['name']}"
    return element("div", table, class_="sheet", tabindex=0, role="region", aria_label=label)


def _heat_cell(task: Json | None) -> Html:
    if task is None or "score" not in task:
        return element("td", element("span", "not covered" if task is None else "not scored", class_="sub"))
    interval = task["score"]
    step = round(min(max(interval["mean"], 0.0), 100.0) / 10)
    return element("td", score(interval, task["source"]), class_=f"h{step}")
