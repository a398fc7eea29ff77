"""The picture of a dataset's card: returns and lengths of its whole episodes, in a few kilobytes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from offdyn_envs.atomic import write_bytes
from offdyn_envs.datasets.describing.show import FEW
from offdyn_envs.errors import OffDynError
from offdyn_envs.figures import MEAN, SOURCE, new_figure, refuse_other_than_png, tidy
from offdyn_envs.robots import get_robot

__all__ = ["draw_card", "drawn_from", "picture_path"]

FOLDER = "pictures"
COLOURS = 16
_INCHES, _DOTS = (8.0, 2.7), 80
_FACT = "SHA-256 of the arrays"


def picture_path(root: Path, name: str) -> Path:
    """Return the PNG file of a dataset, whether or not it exists.

    Args:
        root: Folder of the manifest.
        name: Id of the dataset.

    Returns:
        For instance `<root>/pictures/hopper/gravity-0p5/medium-5k-v0.png`.
    """
    return root / FOLDER / f"{name.partition('/')[2]}.png"


def drawn_from(path: Path) -> str | None:
    """Return the SHA-256 of the arrays that a picture shows, or None where there is no such picture."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.info.get(_FACT)
    except OSError:
        return None


def draw_card(card: Mapping[str, Any], path: Path) -> None:
    """Draw the histograms of a dataset's returns and episode lengths, as a PNG of sixteen colours.

    Args:
        card: Of the dataset.
        path: The PNG file; it appears whole, and says of which arrays it is.

    Raises:
        OffDynError: There is no whole episode to draw, the file is no picture, or matplotlib is not installed.
    """
    refuse_other_than_png(path)
    if not card["returns"]:
        raise OffDynError(f"dataset '{card['id']}' holds no whole episode; no returns to draw")
    figure = new_figure(figsize=_INCHES, dpi=_DOTS, layout="constrained")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _bars(left, card["returns"], "return of a whole episode")
    # Of any other robot nobody knows the time limit.
    limit = get_robot(card["robot"]).max_episode_steps if card["robot"] else card["lengths"]["max"]
    _bars(right, card["lengths"], "steps of a whole episode", (0.0, 1.05 * limit))
    left.set_ylabel("episodes")
    figure.suptitle(f"{card['id']}: {card['rows']:,} rows, {card['episodes']:,} episodes", fontsize=10)
    canvas.draw()
    # An imported dataset has the checksum of its file instead.
    digest = card["sha256"] if "sha256" in card else card["source"]["sha256"]
    _write(np.asarray(canvas.buffer_rgba())[..., :3], path, digest)


def _bars(axes: Any, values: Mapping[str, Any], label: str, span: tuple[float, float] | None = None) -> None:
    """Draw one histogram, of few episodes a dot for each, and its mean."""
    edges, counts = np.asarray(values["histogram"]["edges"]), np.asarray(values["histogram"]["counts"])
    low, high = span or (float(edges[0]), float(edges[-1]))
    middles = (edges[:-1] + edges[1:]) / 2
    if counts.sum() <= FEW:
        heights = np.concatenate([np.arange(count) + 0.5 for count in counts])
        axes.plot(np.repeat(middles, counts), heights, "o", markersize=6, color=SOURCE)
    else:
        widths = np.maximum(np.diff(edges), (high - low) / 50)  # Episodes of one length are seen, too.
        axes.bar(middles, counts, width=widths, edgecolor="white", linewidth=0.4, color=SOURCE)
    axes.axvline(values["mean"], color=MEAN, linestyle="--", linewidth=0.8)
    spread = "" if values["se"] is None else f" ± {values['se']:.1f} (SE)"
    if span is not None:
        axes.set_xlim(span)
    axes.set_ylim(0, 1.1 * max(int(counts.max()), 1))
    axes.locator_params(axis="y", integer=True)  # Episodes are counted.
    tidy(axes, f"mean {values['mean']:.1f}{spread}", label)


def _write(pixels: Any, path: Path, digest: str) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    facts = PngInfo()
    facts.add_text(_FACT, digest)
    picture = Image.fromarray(np.ascontiguousarray(pixels)).quantize(COLOURS, dither=Image.Dither.NONE)
    content = io.BytesIO()
    picture.save(content, format="PNG", optimize=True, pnginfo=facts)
    write_bytes(path, content.getbuffer())
