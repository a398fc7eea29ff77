"""Panels, captions, strips and sheets: pictures put together with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["FAINT", "INK", "PAPER", "Colour", "Panel", "best_colours", "fixed_palette", "grid", "shared_palette"]

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
PAPER = (255, 255, 255)
INK = (25, 25, 30)
FAINT = (95, 95, 105)
GAP = 4
SMALLEST = 8


@dataclass(frozen=True)
class Panel:
    """A picture and the words above it.

    Attributes:
        pixels: [H, W, 3].
        lines: Captions; the first in ink, the others fainter.
    """

    pixels: NDArray[np.uint8]
    lines: tuple[str, ...] = ()


@lru_cache(maxsize=64)
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def fitted(text: str, size: int, width: int) -> tuple[str, Font]:
    """Return text and font so that the text fits a width: smaller first, then cut.

    Args:
        text: One line.
        size: Wanted size in pixels.
        width: Room in pixels.

    Returns:
        The text, which ends in "..." where it was cut, and the font.
    """
    for candidate in range(size, SMALLEST - 1, -1):
        font = _font(candidate)
        if font.getlength(text) <= width:
            return text, font
    font, shown = _font(SMALLEST), text
    while len(shown) > 1 and font.getlength(shown + "...") > width:
        shown = shown[:-1]
    return shown + "...", font


def grid(panels: Sequence[Sequence[Panel]], footer: str = "", size: int = 13) -> Image.Image:
    """Put panels into rows.

    Args:
        panels: Rows of panels, all of one size and with as many lines as the longest caption.
        footer: A line below everything.
        size: Height of the letters in pixels.

    Returns:
        A picture of even width and height, which video codecs ask for.
    """
    first = panels[0][0].pixels
    height, width = first.shape[0], first.shape[1]
    line = size + 4
    bar = line * max(len(panel.lines) for row in panels for panel in row)
    columns = max(map(len, panels))
    total_width = columns * width + (columns - 1) * GAP
    total_height = len(panels) * (bar + height) + (len(panels) - 1) * GAP + (line if footer else 0)
    page = Image.new("RGB", (total_width + total_width % 2, total_height + total_height % 2), PAPER)
    draw = ImageDraw.Draw(page)
    for i, row in enumerate(panels):
        for j, panel in enumerate(row):
            left, top = j * (width + GAP), i * (bar + height + GAP)
            page.paste(Image.fromarray(panel.pixels), (left, top + bar))
            for k, text in enumerate(panel.lines):
                shown, font = fitted(text, size if k == 0 else size - 1, width - 4)
                draw.text((left + 2, top + k * line + 1), shown, fill=FAINT if k else INK, font=font)
    if footer:
        shown, font = fitted(footer, size - 1, total_width - 4)
        draw.text((2, total_height - line + 1), shown, fill=FAINT, font=font)
    return page


def fixed_palette(frames: Sequence[Image.Image], colours: Sequence[Colour]) -> list[Image.Image]:
    """Return frames in a given palette, without dithering.

    Args:
        frames: Any.
        colours: At most 256.

    Returns:
        Frames in mode "P".
    """
    palette = Image.new("P", (1, 1))
    # Pillow fills up what is missing with black, which would come before the ink.
    padded = [*colours, *[colours[0]] * (256 - len(colours))]
    palette.putpalette([value for colour in padded for value in colour])
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def shared_palette(frames: Sequence[Image.Image], colours: int) -> list[Image.Image]:
    """Return frames in one common palette, without dithering: small files, and still parts that do not flicker.

    Args:
        frames: At least one.
        colours: Colours of the palette, 2 to 256.

    Returns:
        Frames in mode "P".
    """
    palette = _best_colours(frames, colours)
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def best_colours(picture: Image.Image, count: int) -> list[Colour]:
    """Return the colours that stand for a picture best.

    Args:
        picture: The picture.
        count: How many at most.

    Returns:
        Red, green and blue of each.
    """
    values: list[int] = _best_colours([picture], count).getpalette() or []
    return [(values[at], values[at + 1], values[at + 2]) for at in range(0, 3 * count, 3) if at + 2 < len(values)]


def _best_colours(frames: Sequence[Image.Image], colours: int) -> Image.Image:
    """Return a picture whose palette suits the first, middle and last frame."""
    width, height = frames[0].size
    picked = [frames[i] for i in sorted({0, len(frames) // 2, len(frames) - 1})]
    sample = Image.new("RGB", (width, height * len(picked)))
    for i, frame in enumerate(picked):
        sample.paste(frame, (0, i * height))
    return sample.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
