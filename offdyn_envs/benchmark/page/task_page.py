"""The page of one task: picture, shifts, the true gap, references, published figures, all entries."""

from collections.abc import Mapping, Sequence

from offdyn_envs.benchmark.entries.task_facts import gap_command
from offdyn_envs.benchmark.page.charts import Look, key
from offdyn_envs.benchmark.page.curves import robustness_panels
from offdyn_envs.benchmark.page.films import Picture
from offdyn_envs.benchmark.page.layout import Json, badge, command, entry_link, facts, grid, score, section
from offdyn_envs.benchmark.page.markup import Html, element, join, number
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.tasks import get_task

__all__ = ["task_page"]


def task_page(name: str, standings: Json, looks: Mapping[str, Look], pictures: Mapping[str, Picture]) -> list[Html]:
    """Returns the sections of a task's page.

    Args:
        name: The task.
        standings: All of them.
        looks: Look of every entry.
        pictures: Those that are there, by name without its ending.
    """
    task = standings["tasks"][name]
    return [
        join([element("h1", name), element("p", f"Scored in {task['env']}.", class_="lede"), _picture(name, pictures)]),
        section("facts", "What differs, and by how much", _facts(task), _gap(name, task)),
        section("entries", "Entries", _entries(name, standings, looks)),
        section("published", "Published figures", *_published(task)),
        section("robustness", "Scores under perturbation", robustness_panels(name, standings, looks)),
    ]


def _picture(name: str, pictures: Mapping[str, Picture]) -> Html:
    found = pictures.get(f"task-{name}")
    if found is None:
        note = element("p", "No picture of this task has been drawn for this page.", class_="note")
        return join([note, command(f"offdyn render {name} --out leaderboard/pictures/task-{name}.png")])
    alt = f"{name}: an episode in the source and one in the target, side by side"
    return element("img", src=found.place, alt=alt, class_="picture")


def _facts(task: Json) -> Html:
    def side(of: Json) -> Html:
        shifts = "; ".join(of["shifts"]) or "the robot as published"
        return join([shifts, element("span", f"{of['data']}, {of['rows']:,} rows", class_="sub")])

    pairs: list[tuple[str, object]] = [("Source", side(task["source"])), ("Target", side(task["target"]))]
    for kind, label in (("random", "Random actions"), ("expert", "Expert, deterministic")):
        if kind in task:
            shown = task[kind]["score"]
            pairs.append((label, f"return {number(task[kind]['return'])}, score {number(shown['mean'])}"))
    behaviour = task.get("behaviour")
    if behaviour is not None:
        scored = f", score {number(behaviour['score'])}" if "score" in behaviour else ""
        pairs.append(("Behaviour of the target's data", f"return {number(behaviour['return'])}{scored}"))
    return facts(pairs)


def _gap(name: str, task: Json) -> Html:
    gap = task.get("gap")
    if get_task(name).source.dynamics == get_task(name).target.dynamics:
        return element("p", "Source and target have the same dynamics, and no gap.", class_="note")
    if gap is None:
        note = element("p", "The true gap of this task has not been measured for this page.", class_="note")
        return join([note, command(gap_command(name))])
    words = (
        f"True gap: the simulator's own answer to what {gap['rows']:,} rows of the source would have become in the "
        f"target differs by {gap['mean']:.3g} standard deviations of the source's next observations on average (median "
        f"{gap['median']:.3g}); {100 * gap['changed']:.0f} % of the rows change at all."
    )
    return join([element("p", words), command(gap_command(name))])


def _entries(name: str, standings: Json, looks: Mapping[str, Look]) -> Html:
    covering = [entry for entry in standings["entries"] if name in entry["tasks"]]
    if not covering:
        return join([element("p", "No entry covers this task yet.", class_="sheet empty"), command(_first(name))])
    covering.sort(key=lambda entry: -entry["tasks"][name].get("score", entry["tasks"][name]["return"])["mean"])
    heads = ("Method", "Score", "Held out", "Return", "Seeds", "State")
    return grid(f"Entries of {name}", heads, [_entry(entry, name, looks) for entry in covering])


def _first(name: str) -> str:
    """Returns the commands that make an entry of a task."""
    return (
        f"offdyn data build {name}\n"
        f"offdyn train AGENT {name} --seeds {protocol.RANKED_SEEDS} --updates 100k\n"
        f"offdyn evaluate runs/{name}/AGENT\n"
        f"offdyn leaderboard add runs/{name}/AGENT --name NAME"
    )


def _entry(entry: Json, name: str, looks: Mapping[str, Look]) -> Sequence[object]:
    task = entry["tasks"][name]
    source = task["source"]
    return (
        join([key(looks[entry["name"]], line=False), entry_link(entry)]),
        score(task["score"], source) if "score" in task else "not scored",
        score(task["held_out_score"]) if "held_out_score" in task else "",
        score(task["return"], source, 0),
        len(task["seeds"]),
        badge(entry["status"]),
    )


def _published(task: Json) -> list[Html]:
    known = task.get("published")
    if not known:
        return [element("p", "No published figure of this task is known to us.", class_="note")]
    note = "As printed, each on its paper's own scale and data: to compare orders, not numbers, with those above."
    tables = [
        grid(
            f"Figures of {paper['paper']}",
            (f"{paper['paper']}: method", f"Score by {paper['scale']}"),
            [(method, number(value)) for method, value in sorted(paper["figures"].items(), key=lambda pair: -pair[1])],
        )
        for paper in known
    ]
    return [element("p", note, class_="note"), *tables]
