"""What a picture shows: an episode, the robots at rest, or how far their joints turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError
from offdyn_envs.rendering.canvas import Canvas, Painter
from offdyn_envs.rendering.captions import Panel
from offdyn_envs.rendering.names import Side
from offdyn_envs.rendering.playing import Recording
from offdyn_envs.rendering.posing import ranges_in_words, resting, sweep, swept_joints
from offdyn_envs.rendering.staging import Stage, dressed, fixed_stage, following_stage
from offdyn_envs.rendering.style import moved_geoms
from offdyn_envs.rendering.titles import mass_in_words, model_in_words
from offdyn_envs.robots import Hand

__all__ = ["Cast", "episode_panels", "pose_panels", "range_panels", "strip_steps"]

STRIP = 5
SWEEP_FRAMES = 24
GHOSTS = 5

OpenPainter = Callable[[Any, int, int], AbstractContextManager[Painter]]


@dataclass(frozen=True)
class Cast:
    """Who is drawn, and how large.

    Attributes:
        sides: The sides.
        recordings: One for each side.
        width: Of a panel, pixels.
        height: Of a panel, pixels.
        painter: Opens what draws a model.
        titled: Headings say what differs, in words; the name of the dynamics comes below.
    """

    sides: Sequence[Side]
    recordings: Sequence[Recording]
    width: int
    height: int
    painter: OpenPainter = Canvas
    titled: bool = False

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.width / self.height

    def open_painters(self, stack: ExitStack, alone: bool = False) -> list[Painter]:
        """Return a painter for each side, closed with the stack; `alone` leaves out what a hand holds."""
        return [
            stack.enter_context(self.painter(dressed(side, recording, alone), self.width, self.height))
            for side, recording in zip(self.sides, self.recordings, strict=True)
        ]


def heading(side: Side) -> str:
    """Return the first line above a side's panel."""
    return _with_role(side, side.label)


def _with_role(side: Side, words: str) -> str:
    return f"{side.role}: {words}" if side.role else words


def _name(side: Side) -> tuple[str, ...]:
    """Return the name of a side's dynamics, for below a heading in words that does not say it."""
    return () if side.label == "nominal" else (side.label,)


def strip_steps(recordings: Sequence[Recording]) -> list[int]:
    """Return the steps that a still shows: five from the first to the longest side's last."""
    last = max(recording.steps for recording in recordings)
    return sorted({round(last * part / (STRIP - 1)) for part in range(STRIP)})


def episode_panels(cast: Cast, steps: Iterable[int]) -> list[list[Panel]]:
    """Draw moments of an episode.

    Args:
        cast: Who is drawn.
        steps: The moments; a side that ended earlier stays in its last pose.

    Returns:
        For each moment a panel per side.
    """
    stage = following_stage(cast.sides, cast.recordings, cast.aspect)
    with ExitStack() as stack:
        painters = cast.open_painters(stack)
        return [
            [
                _moment(side, recording, painter, stage, number, step, cast.titled)
                for number, (side, recording, painter) in enumerate(
                    zip(cast.sides, cast.recordings, painters, strict=True)
                )
            ]
            for step in steps
        ]


def _moment(
    side: Side, recording: Recording, painter: Painter, stage: Stage, number: int, step: int, titled: bool
) -> Panel:
    shown = min(step, recording.steps)
    over = recording.ended and shown == recording.steps
    status = f"ended at {shown * recording.dt:.2f} s" if over else f"{shown * recording.dt:.2f} s"
    above = _with_role(side, model_in_words(recording.model, recording.base)) if titled else heading(side)
    return Panel(painter.paint(recording.qpos[shown], stage.view(number, shown)), (above, status))


def pose_panels(cast: Cast) -> list[Panel]:
    """Draw the poses around which episodes start.

    Args:
        cast: Who is drawn.

    Returns:
        A panel per side.
    """
    poses = [resting(side, recording) for side, recording in zip(cast.sides, cast.recordings, strict=True)]
    stage = fixed_stage(cast.sides, cast.recordings, [pose[None] for pose in poses], cast.aspect)
    panels: list[Panel] = []
    for number, (side, recording, pose) in enumerate(zip(cast.sides, cast.recordings, poses, strict=True)):
        # One at a time: a sheet of eight would hold eight contexts.
        with cast.painter(dressed(side, recording, alone=True), cast.width, cast.height) as painter:
            panels.append(Panel(painter.paint(pose, stage.view(number, 0)), _pose_lines(side, recording, cast.titled)))
    return panels


def _pose_lines(side: Side, recording: Recording, titled: bool) -> tuple[str, ...]:
    # Of the hand's models the mass includes table and door.
    mass = () if isinstance(side.robot, Hand) else (mass_in_words(recording.model),)
    if not titled:
        return (heading(side), *mass)
    return (_with_role(side, ", ".join((model_in_words(recording.model, recording.base), *mass))), *_name(side))


def range_panels(cast: Cast, still: bool) -> list[list[Panel]]:
    """Draw how far the joints turn whose ranges differ.

    Args:
        cast: Who is drawn.
        still: One picture with ghosts from one end to the other, rather than a sweep there and back.

    Returns:
        For each moment a panel per side.

    Raises:
        OffDynError: No range differs.
    """
    joints = swept_joints(cast.recordings)
    if not joints:
        shown = f"{cast.sides[-1].title} {cast.sides[-1].label}"
        raise OffDynError(
            f"view 'ranges': every joint of {shown} turns as far as the nominal one's; kinematic shifts have this view"
        )
    phases = np.linspace(0.0, 1.0, GHOSTS) if still else (1.0 - np.cos(np.linspace(0, 2 * np.pi, SWEEP_FRAMES + 1))) / 2
    poses = sweep(cast.sides, cast.recordings, joints, phases)
    stage = fixed_stage(
        cast.sides, cast.recordings, [np.concatenate([s.poses, s.rest[None]]) for s in poses], cast.aspect
    )
    with ExitStack() as stack:
        painters = cast.open_painters(stack, alone=True)
        frames: list[list[Panel]] = []
        for moment in range(1 if still else SWEEP_FRAMES):
            row: list[Panel] = []
            for number, (side, recording) in enumerate(zip(cast.sides, cast.recordings, strict=True)):
                ghosts: Sequence[NDArray[np.float64]] = list(poses[number].poses) if still else ()
                pose = poses[number].rest if still else poses[number].poses[moment]
                moving = moved_geoms(recording.model, joints)
                pixels = painters[number].paint(pose, stage.view(number, 0), ghosts, moving)
                row.append(Panel(pixels, _range_lines(side, ranges_in_words(recording, joints), cast.titled)))
            frames.append(row)
    return frames


def _range_lines(side: Side, ranges: str, titled: bool) -> tuple[str, ...]:
    return (_with_role(side, ranges), *_name(side)) if titled else (heading(side), ranges)
