"""The front page: the standings of each track, how to read them, the tasks, the tables, how to submit."""

from collections.abc import Iterable, Mapping, Sequence

from offdyn_envs.benchmark.page.charts import Look
from offdyn_envs.benchmark.page.layout import FOLDER, Json, badge, command, entry_link, grid, looks, section, task_link
from offdyn_envs.benchmark.page.markup import Html, element, join, number
from offdyn_envs.benchmark.page.shown import live, retired, shown_tracks
from offdyn_envs.benchmark.page.standings_table import track_panel
from offdyn_envs.benchmark.page.tables import TABLES
from offdyn_envs.benchmark.page.tuning import tuning_figure
from offdyn_envs.benchmark.results.rows import key_of
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.critics import read_index
from offdyn_envs.tasks import get_track

__all__ = ["front"]

TRACK = "core-6"
"""The suite's own small track."""
RESULTS = f"docs/results/{TRACK}.md"
"""The results page, in the repository: the published board holds nothing outside of its own folder."""
HOW = (
    "A score of 0 is the mean return of random actions in the task's target. 100 is that of the expert of the scoring "
    "environment with deterministic actions, as entries act too.",
    "Score (IQM), the dot: the interquartile mean over runs and tasks, tasks weighing the same. Its bar: the "
    f"{protocol.LEVEL:.0%} interval of a stratified bootstrap over runs. Mean: the plain mean over tasks. Of a single "
    "task: mean and Student's t.",
    f"Places are given within a division: the most policy updates of a task, {' or '.join(protocol.DIVISIONS)}. A "
    f"place needs all scored tasks of a track, {protocol.RANKED_SEEDS} seeds of each, and a score that this suite "
    "reproduced, every perturbation included. Coverage: how many of these tasks an entry has, and the fewest seeds of "
    "one. Retired: of an earlier protocol, neither ranked nor counted.",
    "Figures come from this suite's own re-run of the policies; those that are only the submitter's say claimed. bf16: "
    "trained in 16-bit floating point (bfloat16), which has a place once one task of its method was trained in 32 bits "
    "(fp32) too. An entry without such a mark is taken to be fp32.",
    "Held out: the IQM in dynamics that are in no table, drawn for this entry. Kept: the share of the clean score that "
    "is left under a perturbation. Min-Q 0.2 moves what the policy sees by up to 0.2 standard deviations, to where the "
    "suite's critic of the task values its action least. The share is over an entry's tasks with a clean score above "
    f"{protocol.DEGRADATION_FLOOR:g} and such a critic; {{}} have one. An entry's page tells how many count.",
    "P(> IQL): probability that a run scores higher than one of the entry iql, where both have the same tasks. "
    "Tuning: online evaluations spent on the settings, at most of a task. Colour and marker belong to an entry's name, "
    "in every plot.",
)
"""What one has to know, a line each; the gap is for how many tasks have a critic."""

SUBMIT = (
    ("Install, in a clone of your fork", "make install\nsource .venv/bin/activate"),
    (
        "Build the data and train on a track",
        "offdyn data build --track core-6\noffdyn train AGENT --track core-6 --seeds 5 --updates 100k",
    ),
    (
        "Score the final policies, clean and perturbed, and make an entry of them",
        "offdyn evaluate runs/*/AGENT\noffdyn leaderboard add runs/*/AGENT --name NAME",
    ),
    ("Re-run it in the sandbox, as we will", "offdyn leaderboard verify leaderboard/submissions/NAME"),
    (
        "Push the folder, and nothing else, on a branch, and open a pull request from it",
        'git switch -c NAME\ngit add leaderboard/submissions/NAME\ngit commit -m "Entry NAME"\ngit push -u origin NAME',
    ),
)
"""From nothing to a pull request; other frameworks write entry.json by hand, as leaderboard/README.md shows."""


def front(standings: Json) -> list[Html]:
    """Returns the sections of the front page; retired entries stand apart and are counted nowhere else."""
    today, old = live(standings), [entry for entry in standings["entries"] if retired(entry)]
    return [
        _hero(today),
        _standings(today, looks(standings)),
        *([_retired(old)] if old else []),
        _how(),
        _tasks(today),
        _downloads(standings),
        _submit(),
    ]


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


def _standings(standings: Json, looked: Mapping[str, Look]) -> Html:
    tracks = shown_tracks(standings["tracks"])
    if not tracks:
        return section(
            "standings", "Standings", element("p", "No entry covers a scored task yet.", class_="sheet empty")
        )
    panels = [track_panel(track, standings, looked, tuning_figure(track, standings, looked)) for track in tracks]
    return section("standings", "Standings", _absent(standings), *panels)


def _absent(standings: Json) -> Html:
    """Returns which methods of papers have no entry, and where it stands what every method lacks."""
    there = {key_of(entry["method"]) for entry in standings["entries"]}
    papers = [paper for task in standings["tasks"].values() for paper in task.get("published", ())]
    absent = sorted({name for paper in papers for name in paper["figures"] if key_of(name) not in there})
    named = f"Without an entry, of the methods that papers report on these tasks: {', '.join(absent)}. "
    place = element("code", RESULTS)
    told = (named if absent else "", "What each method still needs for a place is listed in ", place, ".")
    return element("p", *told, class_="note")


def _retired(entries: Sequence[Json]) -> Html:
    note = (
        "Entries of an earlier protocol, counted nowhere else on this page. Their own pages keep figures and verdict, "
        "and have the command that scores their policies under today's protocol."
    )
    rows = [
        (entry_link(entry, root=True), entry["protocol"], _lines(sorted(entry["tasks"])), badge(entry["status"]))
        for entry in entries
    ]
    table = grid("Retired entries", ("Method", "Protocol", "Tasks", "State"), rows)
    return section("retired", "Retired", element("p", note, class_="note"), table)


def _lines(words: Iterable[str]) -> Html:
    return join(element("span", word, class_="sub") for word in words)


def _how() -> Html:
    tasks, critics = get_track(TRACK), read_index()
    attacked = f"{sum(task in critics for task in tasks)} of the {len(tasks)} tasks of {TRACK}"
    lines = [element("li", line.format(attacked)) for line in HOW]
    return section("how", "How to read this", element("ol", *lines, class_="prose"))


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
