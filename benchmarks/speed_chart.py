"""The chart of docs/speed.md and README.md, drawn from that page's first table: `python benchmarks/speed_chart.py`."""

from __future__ import annotations

import re
from pathlib import Path

from offdyn_envs.figures import new_figure, save_figure

DOCS = Path(__file__).parents[1] / "docs"
SHOWN = {"offdyn": "#1f4e79", "envpool": "#8fb0cc", "gymnasium sync": "#c9c9c9"}


def speeds(page: str) -> dict[str, dict[str, int]]:
    """Return control steps per second by name and column of the first table of a page."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    columns = [cell.strip() for cell in lines[0].strip("|").split("|")][1:]
    rows: dict[str, dict[str, int]] = {}
    for line in lines[2:]:
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        if name in SHOWN and name not in rows:
            found = [re.match(r"[\d,]+", cell) for cell in cells]
            rows[name] = {key: int(one[0].replace(",", "")) for key, one in zip(columns, found, strict=True) if one}
    return rows


def main() -> None:
    """Draw the columns of 64 environments."""
    rows = speeds((DOCS / "speed.md").read_text(encoding="utf-8"))
    robots = [name for name in rows["offdyn"] if name.endswith(" 64")]
    figure = new_figure(figsize=(8, 2.6), layout="constrained")
    axes = figure.subplots()
    for number, (name, colour) in enumerate(SHOWN.items()):
        places = [place + (number - 1) * 0.27 for place in range(len(robots))]
        values = [rows[name][robot] for robot in robots]
        bars = axes.bar(places, values, 0.25, color=colour, label=name)
        axes.bar_label(bars, labels=[f"{value / 1000:.0f}k" for value in values], fontsize=8)
    axes.set_xticks(range(len(robots)), [robot.removesuffix(" 64") for robot in robots])
    axes.set_ylabel("control steps per second")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save_figure(figure, DOCS / "pictures/speed.png", {"Software": None})


if __name__ == "__main__":
    main()
