"""The front page: the standings of each track, how to read them, the tasks, the tables, how to submit."""

from collections.abc import Sequence

from offdyn_envs.benchmark.page.layout import FOLDER, Json, command, grid, looks, section, task_link
from offdyn_envs.benchmark.page.markup import Html, element, join, number
from offdyn_envs.benchmark.page.standings_table import track_panel
from offdyn_envs.benchmark.page.tables import TABLES
from offdyn_envs.benchmark.page.tuning import tuning_figure
from offdyn_envs.benchmark.scoring import protocol

__all__ = ["front", "shown_tracks"]

HOW = (
    "A score of 0 is the mean return of random actions in the task's target, 100 that of the expert of the scoring "
    "environment with deterministic actions, as entries act too.",
    "A dot is the interquartile mean (IQM) over runs and tasks, tasks weighing the same; its bar is the "
    f"{protocol.LEVEL:.0%} interval of a stratified bootstrap over runs. Of a single task: mean and Student's t.",
    f"Places are given within a division (the most policy updates of a task: {' or '.join(protocol.DIVISIONS)}) to "
    f"entries with all scored tasks of a track, {protocol.RANKED_SEEDS} seeds of each, whose scores this suite "
    "reproduced, every perturbation included. Others stand below them.",
    "Figures come from this suite's own re-run of the policies; those that are only the submitter's say claimed.",
    "Held out: the IQM in dynamics that are in no table, drawn for this entry. Kept: the share of the clean score that "
    "is left under a perturbation; min-Q 0.2 moves what the policy sees, with one critic for all.",
    "P(> IQL): probability that a run scores higher than one of the entry iql, where both have the same tasks. "
    "Tuning: online evaluations spent on the settings, at most of a task. Colour and marker belong to an entry's name, "
    "in every plot.",
)
"""What one has to know, a line each."""

SUBMIT = (
    (
        "Build the data and train on a track",
        "offdyn data build --track core-6\noffdyn train AGENT --track core-6 --seeds 5 --updates 100k",
    ),
    ("Score the final policies, clean and perturbed", "offdyn evaluate runs/*/AGENT"),
    ("Make an entry of them", "offdyn leaderboard add runs/*/AGENT --name NAME"),
    ("Re-run it in the sandbox, as we will", "offdyn leaderboard verify leaderboard/submissions/NAME"),
    ("Open a pull request that adds the folder", "git add leaderboard/submissions/NAME"),
)
"""From nothing to an entry; other frameworks write entry.json by hand, as leaderboard/README.md shows."""


def front(standings: Json) -> list[Html]:
    """Returns the sections of the front page."""
    return [
        _hero(standings),
        _standings(standings),
        section("how", "How to read this", element("ol", *(element("li", line) for line in HOW), class_="prose")),
        _tasks(standings),
        _downloads(standings),
        _submit(),
    ]


def shown_tracks(tracks: Sequence[Json]) -> list[Json]:
    """Returns the tracks with entries of their own: with one that covers tasks which no track before them shows."""
    shown: list[Json] = []
    seen: dict[str, set[str]] = {}
    # The small track of the suite itself comes first; the papers' follow.
    for track in sorted(tracks, key=lambda one: not one["name"].startswith("core-")):
        if any(not set(row["tasks"]) <= seen.get(row["name"], set()) for row in track["rows"]):
            shown.append(track)
            for row in track["rows"]:
                seen.setdefault(row["name"], set()).update(row["tasks"])
    return shown


def _hero(standings: Json) -> Html:
    entries = [entry for entry in standings["entries"] if not entry["reference"]]
    reruns = [entry for entry in standings["entries"] if entry["status"] == "reproduced"]
    runs = [(len(task["seeds"]), entry) for entry in reruns for task in entry["tasks"].values()]
    figures = [
        ("entries", len(entries)),
        ("tasks with entries", len({task for entry in standings["entries"] for task in entry["tasks"]})),
        ("policies re-run", sum(count for count, _ in runs)),
        ("episodes re-run", f"{sum(count * entry['verdict']['episodes'] for count, entry in runs):,}"),
        ("protocol", f"v{standings['protocol']}"),
    ]
    lede = (
        "Agents learn from plentiful data of one robot and a little data of the same robot under shifted dynamics, "
        "then act in the shifted one."
    )
    told = (element("div", element("dt", label), element("dd", value)) for label, value in figures)
    return join(
        [
            element("h1", "Off-dynamics offline RL, on one scale"),
            element("p", lede, class_="lede"),
            element("dl", *told, class_="facts"),
        ]
    )


def _standings(standings: Json) -> Html:
    tracks = shown_tracks(standings["tracks"])
    if not tracks:
        return section(
            "standings", "Standings", element("p", "No entry covers a scored task yet.", class_="sheet empty")
        )
    looked = looks(standings)
    panels = [track_panel(track, standings, looked, tuning_figure(track, standings, looked)) for track in tracks]
    return section("standings", "Standings", *panels)


def _tasks(standings: Json) -> Html:
    heads = ("Task", "Environment that scores", "True gap", "Behaviour", "Entries")
    rows = [_task_row(name, task, standings) for name, task in standings["tasks"].items()]
    note = "A page each, with shifts, references, published figures, all entries and their perturbed scores."
    return section("tasks", "Tasks", element("p", note, class_="note"), grid("Table of tasks", heads, rows))


def _task_row(name: str, task: Json, standings: Json) -> list[object]:
    behaviour = task.get("behaviour", {}).get("score")
    return [
        task_link(name, root=True),
        task["env"],
        f"{task['gap']['mean']:.3g}" if "gap" in task else "",
        "" if behaviour is None else number(behaviour),
        sum(name in entry["tasks"] for entry in standings["entries"]),
    ]


def _downloads(standings: Json) -> Html:
    tables = [element("li", element("a", name, href=f"{FOLDER}/{name}"), f": {what}") for name, what in TABLES.items()]
    raw = [element("a", entry["name"], href=f"{FOLDER}/returns-{entry['name']}.csv") for entry in standings["entries"]]
    returns = element("li", "Raw returns of every episode, claimed and re-run: ", join(raw, ", ")) if raw else None
    return section("downloads", "Tables as CSV", element("ul", *tables, returns, class_="prose"))


def _submit() -> Html:
    steps = [element("li", element("span", what, ":"), command(line)) for what, line in SUBMIT]
    note = (
        "Any framework will do: a policy is an ONNX graph, and entry.json follows a published schema "
        "(leaderboard/README.md). The pull request gets a verdict from the same check; "
        "docs/protocol.md tells what that costs in processor time."
    )
    return section(
        "submit", "Submit in five steps", element("ol", *steps, class_="prose"), element("p", note, class_="note")
    )
