"""Score against the online evaluations that were spent on tuning."""

import math
from collections import Counter
from collections.abc import Mapping

from offdyn_envs.benchmark.page.charts import Look, Point, Series, panel, tuning_axis
from offdyn_envs.benchmark.page.layout import Json, legend
from offdyn_envs.benchmark.page.markup import Html, element

__all__ = ["tuning_figure"]

NOTE = (
    "Offline methods are often tuned with online evaluations. A score that needed none stands further left than one "
    "that needed many; presets of a paper that tuned online count as tuned. Entries with equal counts stand "
    "side by side. Pick a method to bring it forward; Escape lets go."
)


def tuning_figure(track: Json, standings: Json, looks: Mapping[str, Look]) -> Html:
    """Draws the entries of one track, with what the figure shows in words."""
    entries = {entry["name"]: entry for entry in standings["entries"]}
    rows = track["rows"]
    axis = tuning_axis("online evaluations used for tuning (log scale)", [row["tuning_evaluations"] for row in rows])
    counts = Counter(row["tuning_evaluations"] for row in rows)
    seen: Counter[int] = Counter()
    series: list[Series] = []
    for row in rows:
        count = row["tuning_evaluations"]
        # Entries with equal counts stand side by side, all of them well before the next count.
        step = min(0.12, 0.3 / max(counts[count] - 1, 1))
        x = math.expm1(math.log1p(count) + step * seen[count])
        seen[count] += 1
        iqm = row["iqm"]
        point = Point(x, iqm["mean"], iqm["low"], iqm["high"])
        series.append(Series(row["name"], entries[row["name"]]["method"], looks[row["name"]], [point]))
    drawn = panel(f"Score against tuning, {track['name']}", axis, series, lines=False)
    named = legend([entries[row["name"]] for row in rows], [row["source"] for row in rows], looks)
    caption = element("figcaption", f"{track['name']} (IQM)")
    figure = element("figure", caption, named, drawn, class_="single")
    return element("div", element("p", NOTE, class_="note"), element("div", figure, class_="panels"))
