"""The page's plots as inline SVG: deterministic, no style attributes, entries told apart by marker and dash too."""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from offdyn_envs.benchmark.page.markup import Html, element, join, number, text

__all__ = [
    "Axis",
    "Look",
    "Point",
    "Series",
    "forest",
    "forest_axis",
    "key",
    "linear_axis",
    "log_axis",
    "looks_of",
    "panel",
    "tuning_axis",
    "updates_axis",
]

DASHES = ("", "7 3", "2 3", "9 3 2 3", "5 2 1 2 1 2", "12 4", "1 2", "4 4")
COLOURS = 8
"""Number of colour classes `c0`..`c7` in page.css (Okabe and Ito's palette, adapted for both themes)."""
LOOKS = COLOURS**3
"""Looks that differ in colour, marker or dash."""

Scale = Callable[[float], float]


@dataclass(frozen=True)
class Look:
    """How one entry looks in every plot: colour, marker and dash number `index` of `LOOKS`."""

    index: int

    @property
    def colour(self) -> str:
        """Its colour class."""
        return f"c{self.index % COLOURS}"

    @property
    def dash(self) -> str | None:
        """Its dash pattern; None is a solid line."""
        return DASHES[(self.index // COLOURS**2 + self.index) % len(DASHES)] or None

    def marker(self, x: float, y: float, size: float = 4.5) -> Html:
        """Returns its marker centred on a point."""
        shape = _MARKERS[(self.index // COLOURS + self.index) % len(_MARKERS)]
        return element("path", d=shape(x, y, size), class_=f"marker {self.colour}")


def looks_of(names: Iterable[str]) -> dict[str, Look]:
    """Returns the looks of entries, which belong to their names: no other entry and no place changes them.

    Only where two names would have one colour and marker does the later one in the alphabet take the next that is free.
    """
    found: dict[str, Look] = {}
    taken: set[int] = set()
    for name in sorted(names):
        index = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % LOOKS
        # Looks that differ by this number have one colour and marker, and another dash; there are no more than that.
        while len(taken) < COLOURS**2 and index % COLOURS**2 in taken:
            index = (index + 1) % LOOKS
        taken.add(index % COLOURS**2)
        found[name] = Look(index)
    return found


def _polygon(corners: Sequence[tuple[float, float]]) -> Callable[[float, float, float], str]:
    def draw(x: float, y: float, size: float) -> str:
        return "M" + "L".join(f"{_at(x + size * dx)} {_at(y + size * dy)}" for dx, dy in corners) + "Z"

    return draw


def _circle(x: float, y: float, size: float) -> str:
    return f"M{_at(x - size)} {_at(y)}a{size} {size} 0 1 0 {2 * size} 0a{size} {size} 0 1 0 {-2 * size} 0Z"


def _star(points: int, inner: float) -> list[tuple[float, float]]:
    radii = [1.25 if k % 2 == 0 else inner for k in range(2 * points)]
    angles = [math.pi * k / points - math.pi / 2 for k in range(2 * points)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


_HALF_CROSS = ((-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4))
_MARKERS = (
    _circle,
    _polygon([(-0.95, -0.95), (0.95, -0.95), (0.95, 0.95), (-0.95, 0.95)]),
    _polygon([(0, -1.25), (1.15, 0.85), (-1.15, 0.85)]),
    _polygon([(0, -1.35), (1.2, 0), (0, 1.35), (-1.2, 0)]),
    _polygon([(0, 1.25), (1.15, -0.85), (-1.15, -0.85)]),
    _polygon([*_HALF_CROSS, *((-x, -y) for x, y in _HALF_CROSS)]),
    _polygon(_star(5, 0.55)),
    _polygon([(math.cos(math.pi * k / 3) * 1.15, math.sin(math.pi * k / 3) * 1.15) for k in range(6)]),
)


@dataclass(frozen=True)
class Point:
    """One point of a series: a score with its interval at an x value."""

    x: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """The points of one entry, in the order of x; `entry` is its unique name, `name` what readers see."""

    entry: str
    name: str
    look: Look
    points: Sequence[Point]


@dataclass(frozen=True)
class Axis:
    """The x axis of a panel: ticks with their labels, and how a value becomes a position in [0, 1]."""

    label: str
    ticks: Sequence[tuple[float, str]]
    place: Scale


def log_axis(label: str, levels: Sequence[float]) -> Axis:
    """Returns a logarithmic axis whose ticks are the levels; 1 is marked as the unperturbed target."""
    low, high = math.log(min(levels)), math.log(max(levels))
    ticks = [(level, "1 (clean)" if level == 1 else f"{level:g}") for level in sorted(levels)]
    return Axis(label, ticks, lambda value: (math.log(value) - low) / (high - low or 1.0))


def linear_axis(label: str, levels: Sequence[float]) -> Axis:
    """Returns a linear axis from 0, which is marked as the unperturbed target."""
    high = max(levels) or 1.0
    ticks = [(level, "0 (clean)" if level == 0 else f"{level:g}") for level in sorted(levels)]
    return Axis(label, ticks, lambda value: value / high)


def tuning_axis(label: str, counts: Sequence[float]) -> Axis:
    """Returns an axis for counts from 0 that grows with log(1 + n): 0 and 1 differ, 1,000 fits."""
    high = math.log1p(max([*counts, 10.0]))
    steps = [0, 1, 10, 100, 1_000, 10_000, 100_000]
    ticks = [(float(step), f"{step:,}") for step in steps if math.log1p(step) <= high * 1.001]
    return Axis(label, ticks, lambda value: math.log1p(value) / high)


def updates_axis(most: float) -> Axis:
    """Returns a linear axis of policy updates from 0."""
    ticks = [(share * most, f"{share * most / 1000:g}k") for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return Axis("policy updates", ticks, lambda value: value / (most or 1.0))


WIDTH, HEIGHT = 360, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 12, 44


def panel(title: str, axis: Axis, series: Sequence[Series], *, lines: bool = True) -> Html:
    """Draws one panel: score against x, one line or marker per entry, with interval bars.

    Args:
        title: Accessible name of the panel.
        axis: The x axis.
        series: What to draw; an empty panel shows only its axes.
        lines: Whether the points of a series are joined.
    """
    top, bottom = _score_range([point for one in series for point in one.points])

    def x(value: float) -> float:
        return _LEFT + 10 + axis.place(value) * (WIDTH - _LEFT - _RIGHT - 20)

    def y(score: float) -> float:
        inside = min(max(score, bottom), top)
        return _TOP + (top - inside) / (top - bottom) * (HEIGHT - _TOP - _BOTTOM)

    summary = "; ".join(f"{one.name}: {', '.join(number(point.mean) for point in one.points)}" for one in series)
    return element(
        "svg",
        element("title", title),
        element("desc", f"{axis.label}: {', '.join(label for _, label in axis.ticks)}. Scores: {summary}"),
        _grid(axis, x, y, bottom, top),
        join(_draw(one, x, y, lines) for one in series),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        class_="panel",
    )


def _score_range(points: Sequence[Point]) -> tuple[float, float]:
    """Returns top and bottom of a score axis: at least 0 to 100, wider by 20s when a mean lies outside."""
    highest = max([100.0, *(point.mean for point in points)])
    lowest = min([0.0, *(point.mean for point in points)])
    return 20 * math.ceil(highest / 20 + 0.2), 20 * math.floor(lowest / 20 + 0.1)


def _grid(axis: Axis, x: Scale, y: Scale, bottom: float, top: float) -> Html:
    parts: list[Html] = []
    step = 20 if top - bottom <= 160 else 50
    for score in range(int(bottom), int(top) + 1, 10):
        if score % step == 0:
            kind = "grid anchor" if score in (0, 100) else "grid"
            parts.append(element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=_at(y(score)), y2=_at(y(score)), class_=kind))
            parts.append(_label(_LEFT - 6, y(score) + 3.5, number(score, 0), "end"))
    for value, label in axis.ticks:
        place = _at(x(value))
        parts.append(element("line", x1=place, x2=place, y1=HEIGHT - _BOTTOM, y2=HEIGHT - _BOTTOM + 4, class_="tick"))
        parts.append(_label(x(value), HEIGHT - _BOTTOM + 16, label, "middle"))
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(element("text", axis.label, x=_at(middle), y=HEIGHT - 8, text_anchor="middle", class_="axis"))
    return join(parts)


def _label(x: float, y: float, label: str, anchor: str) -> Html:
    return element("text", label, x=_at(x), y=_at(y), text_anchor=anchor, class_="label")


def _draw(one: Series, x: Scale, y: Scale, lines: bool) -> Html:
    parts: list[Html] = []
    for point in one.points:
        at = _at(x(point.x))
        bar = {"x1": at, "x2": at, "y1": _at(y(point.low)), "y2": _at(y(point.high))}
        parts.append(element("line", class_=f"bar {one.look.colour}", **bar))
    if lines and len(one.points) > 1:
        path = "M" + "L".join(f"{_at(x(point.x))} {_at(y(point.mean))}" for point in one.points)
        parts.append(element("path", d=path, class_=f"curve {one.look.colour}", stroke_dasharray=one.look.dash))
    parts += [one.look.marker(x(point.x), y(point.mean)) for point in one.points]
    return element("g", *parts, class_="series", data_entry=one.entry)


def forest(
    interval: Point, span: tuple[float, float], look: Look | None = None, marks: Sequence[float] = (0.0, 100.0)
) -> Html:
    """Draws one row of a forest plot as wide as its place: a marker with its interval.

    Args:
        interval: What to draw; x is not used.
        span: Lowest and highest score of the axis.
        look: Of the entry; None for a row that is no entry.
        marks: Scores with a dotted line.
    """
    low, high = span

    def at(score: float) -> str:
        return f"{_at(100 * (min(max(score, low), high) - low) / (high - low))}%"

    colour = look.colour if look else "neutral"
    dot = look.marker(0, 0, 5.0) if look else element("circle", cx=0, cy=0, r=3.5, class_="dot")
    lines = [element("line", x1=at(s), x2=at(s), y1=0, y2="100%", class_="grid anchor") for s in marks]
    bar = element("line", x1=at(interval.low), x2=at(interval.high), y1="50%", y2="50%", class_=f"whisker {colour}")
    placed = element("svg", dot, x=at(interval.mean), y="50%", overflow="visible", class_="spot")
    return element("svg", *lines, bar, placed, class_="whiskers", aria_hidden="true")


def forest_axis(span: tuple[float, float]) -> Html:
    """Draws the axis below the rows of a forest plot, with a label every 20 or 50 points."""
    low, high = span
    step = 20 if high - low <= 160 else 50
    ticks = [score for score in range(int(low), int(high) + 1) if score % step == 0 and low <= score <= high]
    labels = [
        element(
            "text",
            number(s, 0),
            x=f"{_at(100 * (s - low) / (high - low))}%",
            y=12,
            class_="label",
            text_anchor="middle",
        )
        for s in ticks
    ]
    return element("svg", *labels, class_="whiskers ruler", aria_hidden="true")


def key(look: Look, *, line: bool = True) -> Html:
    """Draws the sample of an entry's line and marker, for a legend."""
    stroke = element("line", x1=1, x2=33, y1=8, y2=8, class_=f"curve {look.colour}", stroke_dasharray=look.dash)
    return element(
        "svg", stroke if line else text(""), look.marker(17, 8), viewBox="0 0 34 16", class_="key", aria_hidden="true"
    )


def _at(value: float) -> str:
    """Writes a coordinate with two decimals at most: the same bytes everywhere."""
    written = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if written in ("-0", "") else written
