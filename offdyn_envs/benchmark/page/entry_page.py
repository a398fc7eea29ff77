"""The page of one entry: its figures, how it was trained, how to check and to cite it, and how it compares."""

from collections.abc import Iterable, Mapping

from offdyn_envs.benchmark.entries.comparisons import Comparison
from offdyn_envs.benchmark.entries.precision import in_bf16
from offdyn_envs.benchmark.entries.standings import CLAIM
from offdyn_envs.benchmark.page.charts import Look, Point, Series, forest, key, panel, updates_axis
from offdyn_envs.benchmark.page.commands_shown import bibtex, training_commands, verify_command
from offdyn_envs.benchmark.page.films import Picture
from offdyn_envs.benchmark.page.layout import (
    Json,
    badge,
    claimed,
    command,
    facts,
    grid,
    mark,
    score,
    section,
    task_link,
)
from offdyn_envs.benchmark.page.markup import Html, element, join, link, number, text
from offdyn_envs.benchmark.page.shown import retired, tracks_of
from offdyn_envs.benchmark.page.standings_table import FULL_PRECISION
from offdyn_envs.benchmark.page.tables import scales
from offdyn_envs.benchmark.scoring import protocol

__all__ = ["entry_page"]


def entry_page(
    entry: Json,
    standings: Json,
    looks: Mapping[str, Look],
    comparisons: Iterable[Comparison],
    pictures: Mapping[str, Picture],
) -> list[Html]:
    """Returns the sections of an entry's page.

    Args:
        entry: Its part of the standings.
        standings: All of them.
        looks: Look of every entry.
        comparisons: Those of this entry with every other one.
        pictures: Those that are there, by name without its ending.
    """
    return [
        _head(entry, looks[entry["name"]], pictures),
        section("figures", "Figures", _places(entry, standings), _results(entry)),
        section("seeds", "Every seed", _seeds(entry)),
        *_curves(entry, looks[entry["name"]]),
        section("robustness", "Under perturbation", *_robustness(entry)),
        section("compare", "Compared with", *_compared(entry, standings, looks, comparisons)),
        section("history", "History of places", _history(entry, standings)),
        section("training", "How it was trained", *_training(entry)),
        section("check", "Check the score", *_check(entry), _policies(entry)),
        section("cite", "Cite it", command(bibtex(entry))),
    ]


def _head(entry: Json, look: Look, pictures: Mapping[str, Picture]) -> Html:
    reference = badge("reference row") if entry["reference"] else None
    who: list[object] = [", ".join(entry["authors"])] if entry["authors"] else []
    who += [link(label, url) for label, url in sorted(entry["links"].items())]
    who += [entry["family"], f"protocol {entry['protocol']}", *([f"made {entry['date']}"] if entry["date"] else [])]
    raw = element("a", "raw returns (CSV)", href=f"returns-{entry['name']}.csv")
    return join(
        [
            element("h1", key(look), entry["method"]),
            element("p", badge(entry["status"]), " ", reference, class_="tag"),
            element("p", join([*who, raw], " \N{MIDDLE DOT} "), class_="lede"),
            element("p", _verdict(entry), class_="note"),
            _film(entry, pictures),
        ]
    )


def _verdict(entry: Json) -> str:
    verdict = entry.get("verdict")
    if verdict is None:
        return "The returns below are the submitter's; nobody has re-run these policies yet."
    when = f" on {verdict['date']} with offdyn {verdict['version']}" if "date" in verdict else ""
    if "worst" not in verdict:
        return f"Refused{when}: {verdict['reason']}"
    worst = verdict["worst"]
    p_values = ", ".join(f"{value:.3g} ({name})" for name, value in sorted(verdict["p_values"].items()))
    return (
        f"Re-run{when} over {verdict['episodes']} episodes per policy from seed {verdict['seed']}; permutation test of "
        f"the whole entry: p = {p_values}. Furthest apart: {worst['task']}, seed {worst['seed']}, claimed return "
        f"{number(worst['claimed'])}, re-run {number(worst['rerun'])} ({number(worst['distance'])} standard errors)."
    )


def _film(entry: Json, pictures: Mapping[str, Picture]) -> Html | None:
    film = pictures.get(f"entry-{entry['name']}")
    if film is None:
        return None
    label = f"A policy of {entry['method']} acts"
    shown = (
        element("video", src=film.place, controls=True, preload="metadata", aria_label=label, class_="picture")
        if film.place.endswith(".mp4")
        else element("img", src=film.place, alt=label, class_="picture")
    )
    return element("figure", shown, element("figcaption", _acting(entry, film)), class_="film")


def _acting(entry: Json, film: Picture) -> Html:
    """Returns what is seen in a film: the task where it is known which policy acts."""
    if film.actor not in entry["policies"]:
        return text(f"A policy of {entry['method']} acts.")
    task, _, seed = film.actor.rpartition("/")
    told = f": the policy of seed {seed} acts in the source (first panel) and in the target (second panel)."
    return join([task_link(task), told])


def _places(entry: Json, standings: Json) -> Html:
    heads = ("Track", "Place", "Score (IQM)", "Mean", "Tasks", "P(> IQL)", "Held out", "Tuning")
    rows = [_place(track, row) for track, row in tracks_of(entry["name"], standings)]
    return grid(f"Tracks of {entry['method']}", heads, rows)


def _place(track: Json, row: Json) -> list[object]:
    better, held = row["improvement"], row["held_out"]
    return [
        track["name"],
        f"{row['rank']} in {row['division']}" if row["rank"] else f"none: {row['unranked']}",
        score(row["iqm"], row["source"]),
        number(row["mean"]),
        f"{len(row['tasks'])} of {len(track['scored'])}",
        "" if better is None else score(better, better["source"], 2),
        "" if held is None else score(held),
        f"{row['tuning_evaluations']:,}",
    ]


def _results(entry: Json) -> Html:
    heads = ("Task", "Score", "Claimed", "Held out", "Return")
    rows = [_result(name, task) for name, task in sorted(entry["tasks"].items())]
    drawn = scales(entry)
    note = element("p", f"Held out: scales drawn for this entry, {drawn}.", class_="note") if drawn else None
    return join([grid(f"Results of {entry['method']}", heads, rows), note])


def _result(name: str, task: Json) -> list[object]:
    return [
        task_link(name),
        score(task["score"], task["source"]) if "score" in task else "not scored",
        number(task["claimed_score"]) if "claimed_score" in task else "",
        score(task["held_out_score"]) if "held_out_score" in task else "",
        score(task["return"], task["source"], 0),
    ]


def _seeds(entry: Json) -> Html:
    heads = ("Task", "Seed", "Return", "Claimed return", "Score", "Held out")
    rows: list[list[object]] = []
    for name, task in sorted(entry["tasks"].items()):
        for index, seed in enumerate(task["seeds"]):
            scores = [number(task[kind][index]) if kind in task else "" for kind in ("scores", "held_out_scores")]
            returned = join([number(task["returns"][index]), mark(task["source"])])
            rows.append([name, seed, returned, number(task["claimed_returns"][index]), *scores])
    return grid(f"Seeds of {entry['method']}", heads, rows)


def _curves(entry: Json, look: Look) -> list[Html]:
    figures: list[Html] = []
    for task, curve in entry["curves"].items():
        points = [
            Point(at, found["mean"], found["low"], found["high"])
            for at, found in zip(curve["updates"], curve["scores"], strict=True)
        ]
        if points:
            series = Series(entry["name"], entry["method"], look, points)
            drawn = panel(f"Score of {task} during training", updates_axis(points[-1].x), [series])
            figures.append(element("figure", element("figcaption", task), drawn))
    if not figures:
        return []
    note = element(
        "p", "The submitter's own evaluations, ", claimed(CLAIM), ": means over seeds, bars their t intervals."
    )
    return [section("curves", "Score during training", note, element("div", *figures, class_="panels"))]


def _robustness(entry: Json) -> list[Html]:
    if not entry["kept"]:
        return [element("p", "No perturbation has returns of all its tasks, so no share is told.", class_="note")]
    claims = any(row["source"] == CLAIM for row in entry["kept"])
    words = "claimed, not re-run" if claims else "re-run like the others"
    rows = [(row["cell"], row["words"], row["tasks"]) for row in entry["kept"]]
    note = element(
        "p",
        f"Scores under perturbation: {words}. Of each task they stand on its page. A share is over the tasks with a "
        f"clean score above {protocol.DEGRADATION_FLOOR:g}, and never below 0.",
        class_="note",
    )
    label = f"Shares of the clean score that {entry['method']} keeps"
    return [note, grid(label, ("Perturbation", "Share of the clean score", "Tasks"), rows)]


def _compared(entry: Json, standings: Json, looks: Mapping[str, Look], comparisons: Iterable[Comparison]) -> list[Html]:
    others = {other["name"]: other for other in standings["entries"]}
    found = sorted(comparisons, key=lambda one: -one.overall.mean)
    if not found:
        return [element("p", "No other entry is scored on the same tasks.", class_="note")]
    values = [value for one in found for value in (one.overall.low, one.overall.high, *_ends(one))]
    span = (min(-5.0, *values), max(5.0, *values))
    note = (
        f"Score of {entry['method']} minus that of the other, mean over the tasks that both cover, tasks weighing the "
        "same; Welch's 95% interval over runs. An interval on one side of the dotted line at 0 is a difference. Open a "
        "line for its tasks."
    )
    lines = [_comparison(entry, others[one.theirs], looks, one, span) for one in found]
    return [element("p", note, class_="note"), *lines]


def _ends(one: Comparison) -> list[float]:
    return [end for interval in one.tasks.values() for end in (interval.low, interval.high)]


def _comparison(
    entry: Json, other: Json, looks: Mapping[str, Look], one: Comparison, span: tuple[float, float]
) -> Html:
    source = one.source
    plot = forest(Point(0.0, *one.overall), span, looks[other["name"]], marks=(0,))
    name = element("span", key(looks[other["name"]], line=False), other["method"])
    overall = score(one.overall._asdict(), source)
    head = element("summary", element("span", name, plot, overall, class_="line"))
    rows = [
        (task_link(task), forest(Point(0.0, *found), span, marks=(0,)), score(found._asdict(), source))
        for task, found in one.tasks.items()
    ]
    label = f"{entry['method']} minus {other['method']}, by task"
    page = element("p", element("a", f"Page of {other['method']}", href=f"entry-{other['name']}.html"), class_="note")
    table = grid(label, ("Task", "Difference", "with interval"), rows, class_="wide")
    return element("details", head, table, page, class_="compare sheet")


def _history(entry: Json, standings: Json) -> Html:
    rows: list[tuple[object, ...]] = []
    for track in standings["tracks"]:
        last = "none"
        for step in track["history"]:
            place, beside = _had(entry["name"], step["places"])
            if place != last:
                rows.append((step["date"], track["name"], place, beside))
                last = place
    if not rows:
        return element("p", "It has had no place.", class_="note")
    return grid(
        f"Places of {entry['method']}", ("Since", "Track", "Place", "Entries with a place in the division"), rows
    )


def _had(name: str, divisions: Mapping[str, Mapping[str, int]]) -> tuple[str, int | None]:
    """Returns an entry's place in words, and how many had one in its division."""
    for division, places in divisions.items():
        if name in places:
            return f"{places[name]} in {division}", len(places)
    return "none", None


def _training(entry: Json) -> list[Html]:
    trainings = sorted(entry["disclosure"].items())
    rows = [_trained(name, training) for name, training in trainings]
    heads = ("Task", "Updates", "Time", "Device", "Precision", "Parameters", "Tuning evaluations")
    notes = dict.fromkeys(training["tuning_note"] for _, training in trainings if "tuning_note" in training)
    return [
        element("p", "The submitter's commands: read before running.", class_="note"),
        facts([("Commit of the code that trained it", _commit(entry))]),
        command(training_commands(entry)),
        grid(f"Training of {entry['method']}", heads, rows),
        *_precision([training for _, training in trainings]),
        *(element("p", f"Tuned: {note}", class_="note") for note in notes),
        *(_hyperparameters(name, training) for name, training in trainings if training["hyperparameters"]),
    ]


def _commit(entry: Json) -> Html:
    return element("code", entry["commit"]) if entry["commit"] else text("not given")


def _precision(trainings: Iterable[Json]) -> list[Html]:
    """Returns what a reader should know of figures in less than full precision."""
    used = sorted({training.get("precision", FULL_PRECISION) for training in trainings} - {FULL_PRECISION})
    note = f"Trained in {', '.join(used)}."
    if any(map(in_bf16, used)):
        note += (
            f" A place needs bf16 to be held against {FULL_PRECISION} on one task of the method; the results page of "
            "its track shows where it was."
        )
    return [element("p", note, class_="note")] if used else []


def _trained(name: str, training: Json) -> list[object]:
    seconds = training["wall_clock_s"]
    minutes = f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
    return [
        name,
        f"{training['updates']:,}",
        f"{seconds:.0f} s" if seconds < 120 else minutes,
        training["device"],
        training.get("precision", ""),
        f"{training['parameters']:,}",
        f"{training['tuning_evaluations']:,}",
    ]


def _hyperparameters(name: str, training: Json) -> Html:
    shown = facts((key, str(value)) for key, value in training["hyperparameters"].items())
    return element("details", element("summary", f"Hyperparameters of {name}"), shown)


def _check(entry: Json) -> list[Html]:
    if not retired(entry):
        return [command(verify_command(entry))]
    note = (
        f"Protocol {entry['protocol']} is retired, and this entry is not run again under it. This makes an entry of "
        f"its policies under protocol {protocol.PROTOCOL}, evaluated anew; nothing is trained."
    )
    return [element("p", note, class_="note"), command(verify_command(entry))]


def _policies(entry: Json) -> Html:
    rows: list[tuple[object, ...]] = []
    for place, digest in sorted(entry["policies"].items()):
        path = f"policies/{place}.onnx"
        file = element("a", path, href=f"../submissions/{entry['name']}/{path}")
        rows.append((file, element("code", digest)))
    return grid(f"Policies of {entry['method']}", ("Policy", "SHA-256"), rows)
