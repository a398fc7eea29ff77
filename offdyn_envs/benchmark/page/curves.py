"""Scores of one task under perturbation: a plot for each family, and every figure as a table."""

from collections.abc import Mapping, Sequence

from offdyn_envs.benchmark.entries.standings import CLAIM
from offdyn_envs.benchmark.page.charts import Axis, Look, Point, Series, linear_axis, log_axis, panel
from offdyn_envs.benchmark.page.layout import Json, entry_link, grid, legend, score
from offdyn_envs.benchmark.page.markup import Html, element, join
from offdyn_envs.benchmark.scoring.cells import cell_name

__all__ = ["FAMILIES", "robustness_panels"]

_PARTS = "1 easy, 2 medium, 3 hard; both parts of the robot, averaged"
_ATTACK = "half width of the attack, in standard deviations"
FAMILIES = (
    ("gravity", "Gravity", "gravity scale on top of the target"),
    ("friction", "Friction", "friction scale on top of the target"),
    ("kinematic", "Joint ranges", _PARTS),
    ("morphology", "Body shape", _PARTS),
    ("worn-friction", "Worn soles", "friction scale at the end of 100 episodes"),
    ("worn-motors", "Worn motors", "strength of the motors at the end of 100 episodes"),
    ("min-q", "Min-Q attack", _ATTACK),
    ("min-q-own", "Min-Q attack, the entry's own critic", _ATTACK),
    ("random", "Random observation noise", "half width of the noise, in standard deviations"),
)
"""Families of perturbations: name, title, what a level is."""
SCALES = ("gravity", "friction", "worn-friction", "worn-motors")
"""Families whose level is a scale, 1 for the unperturbed target."""
NOTE = (
    "The same policies, perturbed at test time. Points are means over seeds, bars their t intervals; dotted lines mark "
    "the random policy and the expert of the unperturbed target. The attack uses the suite's critic of the task. "
    "Methods marked claimed show the submitter's own figures, which nobody has re-run. Pick a method to bring it "
    "forward; Escape lets go."
)


def robustness_panels(task: str, standings: Json, looks: Mapping[str, Look]) -> Html:
    """Draws all entries of a task under every family of perturbations that one of them has."""
    entries = [entry for entry in standings["entries"] if task in entry["robustness"]]
    if not entries:
        return element("p", "No entry reports perturbed returns of this task yet.", class_="sheet empty")
    figures: list[Html] = []
    for family, title, label in FAMILIES:
        series = [one for entry in entries if (one := _curve(entry, task, family, looks[entry["name"]])) is not None]
        if series:
            drawn = panel(f"{title}, {task}", _axis(family, label, series), series)
            figures.append(element("figure", element("figcaption", title), drawn))
    sources = [entry["robustness"][task]["source"] for entry in entries]
    named = legend(entries, sources, looks)
    panels = element("div", *figures, class_="panels")
    return join([element("p", NOTE, class_="note"), named, panels, _figures(task, entries)])


def _axis(family: str, label: str, series: Sequence[Series]) -> Axis:
    levels = sorted({point.x for one in series for point in one.points})
    return log_axis(label, levels) if family in SCALES else linear_axis(label, levels)


def _curve(entry: Json, task: str, family: str, look: Look) -> Series | None:
    """The points of one family, with the clean score at its neutral level."""
    row = entry["robustness"][task]
    cells = {cell["level"]: cell["score"] for cell in row["cells"] if cell["family"] == family}
    if not cells:
        return None
    cells[1.0 if family in SCALES else 0.0] = row["clean"]
    points = [Point(level, found["mean"], found["low"], found["high"]) for level, found in sorted(cells.items())]
    name = entry["method"] + (" (claimed)" if row["source"] == CLAIM else "")
    return Series(entry["name"], name, look, points)


def _figures(task: str, entries: Sequence[Json]) -> Html:
    """A line for each entry, a column for each cell that one of them has."""
    found = {
        entry["name"]: {(c["family"], c["level"]): c["score"] for c in entry["robustness"][task]["cells"]}
        for entry in entries
    }
    cells = sorted({cell for scores in found.values() for cell in scores})
    rows: list[list[object]] = []
    for entry in entries:
        row = entry["robustness"][task]
        scores = [found[entry["name"]].get(cell) for cell in cells]
        shown = ["" if one is None else score(one, row["source"]) for one in scores]
        rows.append([entry_link(entry), score(row["clean"], row["source"]), *shown])
    return grid(f"Scores under perturbation of {task}", ["Method", "clean", *(cell_name(*c) for c in cells)], rows)
