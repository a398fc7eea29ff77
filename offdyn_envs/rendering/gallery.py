"""The gallery: a picture of every shift, a walk of every robot, and the page that shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from offdyn_envs.rendering.names import Side, robot_sides, sides_of
from offdyn_envs.robots import HANDS, ROBOTS, WALKERS
from offdyn_envs.tasks import dynamics_of

if TYPE_CHECKING:
    from PIL import Image

    from offdyn_envs.rendering.views import Cast

__all__ = ["Item", "gallery_items", "gallery_page", "write_gallery"]

PANEL = 352
SHEET_PANEL = 336
LETTERS = 18
SCENERY_COLOURS = 48
LARGEST_FILE = 140_000
SCALED_PANEL = 240
SCALED_SECONDS = 1.2
HERO_WIDTHS = (296, 280, 264, 248, 176)
LARGEST_HERO = 250_000
HERO_FRAMES = 50
HERO_FRAME_SECONDS = 0.05
FRAME_SECONDS = 0.1
SEED = 0
COLUMNS = 4
SCALED = ("gravity", "friction")
HEROES = {"halfcheetah": "friction-0.1", "hopper": "gravity-0.5", "walker2d": "friction-0.5", "ant": "gravity-5.0"}
"""Targets in which the walk of the nominal robot's medium policy changes most visibly, without falling at once."""
SHOWN_HANDS = ("adroit-pen", "adroit-door")


@dataclass(frozen=True)
class Item:
    """A picture of the gallery.

    Attributes:
        file: Its file name.
        alt: What it shows, in words.
        body: Name of the robot.
        slugs: Dynamics shown, in order.
        kind: "hero", "sheet", "scaled", "pose" or "ranges".
    """

    file: str
    alt: str
    body: str
    slugs: tuple[str, ...]
    kind: str


def gallery_items(hands: bool = True) -> list[Item]:
    """Return every picture of the gallery.

    Args:
        hands: With the Adroit environments, which need the extra "adroit".

    Returns:
        Robot by robot: a walk, a sheet of shapes, gravity and friction as animations, then one still per environment.
    """
    items = [item for robot in WALKERS for item in _robot_items(robot)]
    return items + ([item for robot in SHOWN_HANDS for item in _hand_items(robot)] if hands else [])


def _robot_items(robot: str) -> Iterator[Item]:
    title, slugs = WALKERS[robot].title, list(dynamics_of(robot))
    shapes = ("nominal", *(slug for slug in slugs if slug.startswith("morphology")))
    if robot in HEROES:
        alt = f"{title} walks by one policy in its source and in its target, {HEROES[robot]}"
        yield Item(f"{robot}-walking.gif", alt, robot, ("nominal", HEROES[robot]), "hero")
    yield Item(f"{robot}.png", f"{title}: nominal and every morphology shift, at rest", robot, shapes, "sheet")
    for family in SCALED:
        scaled = [slug for slug in slugs if slug.startswith(family)]
        half = len(scaled) // 2
        shown = (*scaled[:half], "nominal", *scaled[half:])
        yield Item(f"{robot}-{family}.gif", f"{title} under five strengths of {family}", robot, shown, "scaled")
    for slug in slugs:
        if slug.startswith("kinematic"):
            yield Item(f"{robot}-{slug}.png", f"{title} {slug}: how far the joints turn", robot, (slug,), "ranges")
        elif slug.startswith("morphology"):
            yield Item(f"{robot}-{slug}.png", f"{title} {slug}, at rest", robot, (slug,), "pose")


def _hand_items(robot: str) -> Iterator[Item]:
    title = HANDS[robot].title
    for slug in dynamics_of(robot):
        if slug.startswith("broken-joint"):
            yield Item(f"{robot}-{slug}.png", f"{title} {slug}: how far the joints turn", robot, (slug,), "ranges")
        elif slug != "nominal":
            yield Item(f"{robot}-{slug}.png", f"{title} {slug}, at rest", robot, (slug,), "pose")


def write_gallery(folder: Path, hands: bool = True, report: Callable[[str], None] = print) -> int:
    """Draw all pictures of the gallery and write them with their page.

    Args:
        folder: Where to; files of the same names are replaced.
        hands: With the Adroit environments.
        report: Called with a line now and then.

    Returns:
        Bytes written.

    Raises:
        OffDynError: OpenGL does not work here.
    """
    from offdyn_envs.atomic import write_text

    items = gallery_items(hands)
    for number, item in enumerate(items):
        draw_item(item, folder)
        if number % 10 == 9:
            report(f"{number + 1} of {len(items)} pictures")
    write_text(folder / "README.md", gallery_page(items))
    return sum((folder / item.file).stat().st_size for item in items)


def draw_item(item: Item, folder: Path) -> None:
    """Draw and write one picture.

    Args:
        item: The picture.
        folder: Where to.
    """
    from offdyn_envs.rendering.captions import best_colours, fixed_palette
    from offdyn_envs.rendering.files import write_png
    from offdyn_envs.rendering.style import PALETTE

    path = folder / item.file
    if item.kind == "hero":
        _write_hero(path, item)
        return
    if item.kind == "scaled":
        _write_small_gif(path, fixed_palette(_scaled_frames(item), PALETTE))
        return
    picture = _sheet(item) if item.kind == "sheet" else _pair(item)
    # Of the hands' pictures most is table and door, among which few orange pixels would be lost.
    scenery = [] if item.body in WALKERS else best_colours(picture, SCENERY_COLOURS)
    write_png(path, fixed_palette([picture], [*PALETTE, *scenery])[0])


def _write_small_gif(path: Path, frames: Sequence[Image.Image]) -> None:
    """Write an animation with so many of its frames that the file stays small."""
    from offdyn_envs.rendering.files import write_gif

    for stride in (1, 2, 3):
        write_gif(path, frames[::stride], stride * FRAME_SECONDS)
        if path.stat().st_size <= LARGEST_FILE:
            return


def _sheet(item: Item) -> Image.Image:
    from offdyn_envs.rendering.captions import grid
    from offdyn_envs.rendering.views import pose_panels

    panels = pose_panels(_cast(item, SHEET_PANEL))
    return grid([panels[at : at + COLUMNS] for at in range(0, len(panels), COLUMNS)], size=LETTERS)


def _pair(item: Item) -> Image.Image:
    from offdyn_envs.rendering.captions import grid
    from offdyn_envs.rendering.views import pose_panels, range_panels

    cast = _cast(item, PANEL)
    return grid([pose_panels(cast)] if item.kind == "pose" else range_panels(cast, still=True), size=LETTERS)


def _cast(item: Item, size: int) -> Cast:
    from offdyn_envs.rendering.playing import Actor, play
    from offdyn_envs.rendering.views import Cast

    title = ROBOTS[item.body].title
    pair = item.kind in ("pose", "ranges")
    sides = sides_of(f"{title}-{item.slugs[0]}") if pair else robot_sides(item.body, item.slugs)
    return Cast(sides, play(sides, Actor("no actions"), 0, SEED), size, size, titled=True)


def _scaled_frames(item: Item) -> list[Image.Image]:
    sides = robot_sides(item.body, item.slugs)
    frames = round(SCALED_SECONDS / FRAME_SECONDS)
    return _moving(item.body, sides, (SCALED_PANEL, SCALED_PANEL), frames, FRAME_SECONDS)


def _write_hero(path: Path, item: Item) -> None:
    """Write a walk as large as the file may be: a floor with many tiles takes more bytes."""
    from offdyn_envs.rendering.captions import fixed_palette
    from offdyn_envs.rendering.files import write_gif
    from offdyn_envs.rendering.style import PALETTE

    sides = sides_of(f"{WALKERS[item.body].title}-{item.slugs[-1]}")
    for width in HERO_WIDTHS:
        frames = _moving(item.body, sides, (width, width * 3 // 4), HERO_FRAMES, HERO_FRAME_SECONDS)
        write_gif(path, fixed_palette(frames, PALETTE), HERO_FRAME_SECONDS)
        if path.stat().st_size <= LARGEST_HERO:
            return


def _moving(
    robot: str, sides: Sequence[Side], panel: tuple[int, int], frames: int, seconds: float
) -> list[Image.Image]:
    """Play all sides by the policy of the nominal robot and draw a frame every so many seconds."""
    from offdyn_envs.rendering.captions import grid
    from offdyn_envs.rendering.playing import choose_actor, play
    from offdyn_envs.rendering.views import Cast, episode_panels

    dt = WALKERS[robot].dt
    actor = choose_actor(None, robot_sides(robot, ["nominal"]))
    cast = Cast(sides, play(sides, actor, round(frames * seconds / dt), SEED), *panel, titled=True)
    moments = [round(frame * seconds / dt) for frame in range(frames)]
    return [grid([row], f"{actor.words}, seed {SEED}", LETTERS) for row in episode_panels(cast, moments)]


def gallery_page(items: Sequence[Item]) -> str:
    """Return the page that shows all pictures, in Markdown.

    Args:
        items: The pictures.

    Returns:
        Its text.
    """
    return _INTRODUCTION + "".join(
        _section(body, [item for item in items if item.body == body]) for body in _bodies(items)
    )


def _bodies(items: Sequence[Item]) -> list[str]:
    return list(dict.fromkeys(item.body for item in items))


def _section(body: str, items: Sequence[Item]) -> str:
    title = ROBOTS[body].title
    lines = [f"\n## {title}\n"]
    wide = [item for item in items if item.kind in ("hero", "sheet", "scaled")]
    lines += [f"![{item.alt}]({item.file})\n" for item in wide]
    small = [item for item in items if item not in wide]
    lines += ["| | |", "|---|---|"]
    for left, right in zip(small[::2], [*small[1::2], None], strict=False):
        cells = [f"`OffDyn/{title}-{x.slugs[0]}-v0`<br>![{x.alt}]({x.file})" if x else "" for x in (left, right)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


_INTRODUCTION = """# Gallery

Every shift, drawn by `offdyn render --gallery docs/gallery`, which also writes this page. Whatever differs from the
nominal robot is orange. Titles are read off the compiled models: how a part changed, and the total mass of the robot.

- **Walks.** The same policy walks in the source and in a target that it was not trained for.
- **Gravity and friction.** A still cannot show them, so they are animations. All five robots start from the same state
  and use the same policy, the nominal robot's medium one.
- **Kinematic shifts.** The robot hangs in the air. Ghosts show its joints from one end of their range to the other.
- **Morphology shifts.** The robot is at rest, Walker2d with one leg forward so that you see both.
- **The Adroit hand.** You see the shapes that collide, because its meshes do not shrink with a finger. The pen is left
  out.

With friction x5, feet visibly sink into the floor, by up to 0.4 m on Hopper, against 0.07 m on the nominal robot. The
picture is right: the published models use MuJoCo's pyramidal friction cones, and with such coefficients these push a
sliding foot into the floor. With elliptic cones it sinks by 0.03 m.
"""
