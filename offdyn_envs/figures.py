"""Pictures in PNG files, in one style. Matplotlib is an extra, and is imported only where something is drawn.

A colour means one thing in all pictures: `COLOURS` are for things beside each other, `SOURCE`, `TARGET` and the rest
for what they say.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offdyn_envs.atomic import refuse_foreign, write_bytes
from offdyn_envs.errors import OffDynError
from offdyn_envs.version import how_to_install

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "BEHAVIOUR",
    "COLOURS",
    "EXPERT",
    "MEAN",
    "RANDOM",
    "SOURCE",
    "TARGET",
    "mark_level",
    "new_figure",
    "plain_number",
    "refuse_other_than_png",
    "save_figure",
    "tidy",
]

PNG = b"\x89PNG\r\n"
# Told apart with any colour vision (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f5f3f", "#000000")
SOURCE, TARGET, MEAN = COLOURS[0], COLOURS[1], "#1a1a1a"
RANDOM, BEHAVIOUR, EXPERT = "#8a8a8a", COLOURS[4], COLOURS[2]
INK, FAINT = "#444444", "#e4e4e4"
TITLE, LABEL, SMALL = 10, 9, 8
"""Sizes of letters, in points."""
MOST_TICKS = 5


def new_figure(**options: Any) -> Figure:
    """Return an empty figure that needs no screen.

    Args:
        options: What matplotlib's Figure takes, such as `figsize` in inches.

    Raises:
        OffDynError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise OffDynError(f"drawing needs matplotlib: {how_to_install('plots')}") from None
    return Figure(**options)


def tidy(axes: Any, title: str = "", x: str = "", y: str = "") -> None:
    """Give a panel the common style: few lines around it, a faint grid, ticks that do not collide.

    Args:
        axes: The panel, with everything drawn.
        title: Above it.
        x: Below its axis.
        y: Beside its axis.
    """
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(which="both", labelsize=SMALL, colors=INK)
    axes.grid(True, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "linear" and not _labelled(axis):
            axis.get_major_locator().set_params(nbins=MOST_TICKS)
            axis.set_major_formatter(_tick)
        elif axis.get_scale() == "log":
            axis.get_major_locator().set_params(numticks=MOST_TICKS + 1)
    for said, put, size in ((title, axes.set_title, LABEL), (x, axes.set_xlabel, SMALL), (y, axes.set_ylabel, SMALL)):
        if said:
            put(said, fontsize=size, color=MEAN)


def _labelled(axis: Any) -> bool:
    """Say whether a panel has names along an axis."""
    from matplotlib.ticker import FixedLocator

    return isinstance(axis.get_major_locator(), FixedLocator)


def _tick(value: float, place: int | None = None) -> str:
    del place
    return plain_number(value)


def plain_number(value: float) -> str:
    """Return a number as short as it can be told: 20k, 1.5m, 0.05."""
    for unit, letter in ((1e6, "m"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{round(value, 10):g}"


def mark_level(axes: Any, level: float, name: str, color: str) -> None:
    """Draw a dashed line across a panel, with its name above its right end."""
    axes.axhline(level, linestyle="--", linewidth=1.1, color=color, zorder=1)
    place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "xytext": (-2, 2)}
    axes.annotate(name, (1.0, level), ha="right", va="bottom", fontsize=SMALL, color=color, **place)


def refuse_other_than_png(path: Path) -> None:
    """Refuse to draw over another file than a picture.

    Raises:
        OffDynError: There is one.
    """
    refuse_foreign(path, lambda begins: begins.startswith(PNG), "a PNG file")


def save_figure(figure: Figure, path: Path, metadata: dict[str, str | None] | None = None) -> None:
    """Write a figure, whole or not at all.

    Args:
        figure: From `new_figure`.
        path: The PNG file.
        metadata: Texts in the file; {"Software": None} leaves out matplotlib's version.

    Raises:
        OffDynError: There is another file than a picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    refuse_other_than_png(path)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture, metadata=metadata)
    write_bytes(path, picture.getbuffer())
