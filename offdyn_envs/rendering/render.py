"""`offdyn render`: one picture of one environment or task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.rendering.files import check_suffix, write_movie, write_png
from offdyn_envs.rendering.gl import load_mujoco

if TYPE_CHECKING:
    from PIL import Image

    from offdyn_envs.rendering.captions import Panel
    from offdyn_envs.rendering.playing import Actor, Recording
    from offdyn_envs.rendering.views import Cast

__all__ = ["Request", "compose", "frame_stride", "render"]

VIEWS = ("episode", "pose", "ranges")
SECONDS = 2.0
SWEEP_INTERVAL = 0.08
HOLD = 0.6
LIMITS = {"steps": (0, 10_000), "seed": (0, 2**31 - 1), "width": (64, 1920), "height": (64, 1920), "fps": (1, 100)}


@dataclass(frozen=True)
class Request:
    """What to draw.

    Attributes:
        name: An environment id, a short name such as "Hopper-gravity-0.5", or a task.
        out: The file; None means a GIF of that name in the working directory.
        shifts: Further shifts of the target, JSON texts.
        steps: Control steps at most; None means two seconds.
        seed: Of the reset noise and of random actions.
        policy: See `offdyn_envs.rendering.playing.choose_actor`.
        replay: Replay the source's actions on the target.
        view: "episode", "pose" or "ranges".
        width: Of one panel, pixels.
        height: Of one panel, pixels.
        fps: Frames per second of an animation at most; it runs at the speed of the simulated world.
    """

    name: str
    out: Path | None = None
    shifts: Sequence[str] = ()
    steps: int | None = None
    seed: int = 0
    policy: str | None = None
    replay: bool = False
    view: str = "episode"
    width: int = 240
    height: int = 240
    fps: int = 25

    @property
    def path(self) -> Path:
        """The file to write."""
        stem = self.name.removeprefix("OffDyn/").removesuffix("-v0").replace("/", "-")
        return Path(f"{stem}.gif") if self.out is None else self.out

    def check(self) -> None:
        """Raise where a number is out of bounds, or the view or the file's suffix unknown.

        Raises:
            OffDynError: One of these.
        """
        check_suffix(self.path)
        if self.view not in VIEWS:
            raise unknown("view", self.view, VIEWS)
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise OffDynError(f"option --{name} must be a whole number from {low} to {high}, got {value}")


def frame_stride(dt: float, fps: float) -> int:
    """Return how many control steps lie between two frames, so that no more than `fps` are shown per second.

    Args:
        dt: Seconds per control step.
        fps: Frames per second.

    Returns:
        At least 1.
    """
    return max(1, -int(-1.0 / (fps * dt) // 1)) if fps * dt < 1.0 else 1


def render(request: Request) -> tuple[Path, str]:
    """Draw and write a picture.

    Args:
        request: What to draw.

    Returns:
        The file, and in a few words what is in it.

    Raises:
        OffDynError: A bad request, or OpenGL does not work here.
        ModuleNotFoundError: The extra "render" is missing.
    """
    request.check()
    frames, seconds, words = compose(request)
    if check_suffix(request.path) == ".png":
        write_png(request.path, frames[0])
    else:
        write_movie(request.path, frames, seconds)
    return request.path, words


def compose(request: Request, painter: type | None = None) -> tuple[list[Image.Image], float, str]:
    """Draw a picture.

    Args:
        request: What to draw; a suffix ".png" asks for a still.
        painter: What draws; `offdyn_envs.rendering.canvas.Canvas` by default.

    Returns:
        Frames, one of them for a still; seconds between two; what is in it, in a few words.
    """
    from offdyn_envs.rendering.names import read_shifts, sides_of

    sides = sides_of(request.name, read_shifts(request.shifts))
    load_mujoco()
    from offdyn_envs.rendering.canvas import Canvas
    from offdyn_envs.rendering.playing import Actor, choose_actor, play
    from offdyn_envs.rendering.views import Cast

    episode = request.view == "episode"
    actor = choose_actor(request.policy, sides) if episode else Actor("no actions")
    steps = _steps(request, sides[0].robot.dt) if episode else 0
    recordings = play(sides, actor, steps, request.seed, request.replay)
    cast = Cast(sides, recordings, request.width, request.height, painter or Canvas)
    still = check_suffix(request.path) == ".png"
    if episode:
        return _episode(cast, request, actor, still)
    rows, seconds = _posed(cast, request.view, still)
    return [_page([row]) for row in rows], seconds, f"{sides[-1].title} {sides[-1].label}: {request.view}"


def _steps(request: Request, dt: float) -> int:
    return round(SECONDS / dt) if request.steps is None else request.steps


def _page(rows: Sequence[Sequence[Panel]], footer: str = "") -> Image.Image:
    from offdyn_envs.rendering.captions import grid

    return grid(rows, footer)


def _posed(cast: Cast, view: str, still: bool) -> tuple[list[list[Panel]], float]:
    from offdyn_envs.rendering.views import pose_panels, range_panels

    return ([pose_panels(cast)], 1.0) if view == "pose" else (range_panels(cast, still), SWEEP_INTERVAL)


def _episode(cast: Cast, request: Request, actor: Actor, still: bool) -> tuple[list[Image.Image], float, str]:
    from offdyn_envs.rendering.views import episode_panels, strip_steps

    how = "the source's actions on both" if request.replay else actor.words
    words = f"{cast.sides[-1].title}: {how}, seed {request.seed}"
    if still:
        moments = episode_panels(cast, strip_steps(cast.recordings))
        return [_page([[moment[side] for moment in moments] for side in range(len(cast.sides))], words)], 1.0, words
    stride = frame_stride(cast.recordings[0].dt, request.fps)
    seconds = stride * cast.recordings[0].dt
    pages = [_page([row], words) for row in episode_panels(cast, _frames(cast.recordings, stride, seconds))]
    return pages, seconds, words


def _frames(recordings: Sequence[Recording], stride: int, seconds: float) -> list[int]:
    """Return the steps that an animation shows; where an episode has ended the last frame stays for a moment."""
    last = max(recording.steps for recording in recordings)
    steps = list(range(0, last + 1, stride))
    if any(recording.ended for recording in recordings):
        steps += [last] * round(HOLD / seconds)
    return steps
