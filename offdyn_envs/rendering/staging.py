"""Cameras and costumes of a picture: which robot is looked at from where, and in which colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.rendering.camera import Angle, Box, View, bounds, fit
from offdyn_envs.rendering.names import Side
from offdyn_envs.rendering.playing import Recording
from offdyn_envs.rendering.style import changed_geoms, changed_joints, dress, dress_hand, moved_geoms, narrow_floor
from offdyn_envs.robots import Hand, Walker

__all__ = ["Stage", "dressed", "fixed_stage", "following_stage"]

Floats = NDArray[np.float64]
SIDEWAYS = Angle(90.0, -8.0)
FROM_ABOVE = Angle(120.0, -32.0)
TALLEST = 2.2
LEASH = 0.75
GROUND = 0.06
HELD = ("Object", "target")

HAND_CLOSE = View((0.0, -0.19, 0.2), 0.45, Angle(70.0, -50.0))
_HAND_WIDE: Mapping[str, View] = MappingProxyType(
    {
        "pen": View((0.06, -0.25, 0.22), 0.8, Angle(75.0, -40.0)),
        "door": View((0.0, -0.1, 0.25), 1.3, Angle(60.0, -25.0)),
        "hammer": View((0.0, -0.1, 0.2), 1.3, Angle(60.0, -25.0)),
        "relocate": View((0.0, -0.1, 0.2), 1.3, Angle(60.0, -25.0)),
    }
)


@dataclass(frozen=True)
class Stage:
    """Cameras: one scale for all sides, each following its own robot.

    Attributes:
        basis: The view at the origin.
        offsets: For each side where its camera has gone, [T + 1, 3], m.
    """

    basis: View
    offsets: Sequence[Floats]

    def view(self, side: int, step: int) -> View:
        """Return the camera of a side at a step."""
        path = self.offsets[side]
        return self.basis.moved(path[min(step, len(path) - 1)])


def dressed(side: Side, recording: Recording, alone: bool = False) -> Any:
    """Return a side's model as it is drawn; the parts that a shift changes are orange.

    Args:
        side: The side.
        recording: Its recording.
        alone: Leave out the pen, which lies on the fingers.

    Returns:
        A copy of the model.
    """
    model, base = recording.model, recording.base
    highlighted = changed_geoms(model, base) | moved_geoms(model, changed_joints(model, base), below=False)
    if isinstance(side.robot, Hand):
        return dress_hand(model, highlighted, left_out=HELD if alone else ())
    names = [model.geom(geom).name for geom in range(model.ngeom)]
    far_side = [geom for geom, name in enumerate(names) if side.body == "walker2d" and "_left_" in name]
    costume = dress(model, highlighted, far_side)
    if _is_planar(side):
        narrow_floor(costume)
    return costume


def _is_planar(side: Side) -> bool:
    """Say whether a robot moves in the plane that one sees from the side."""
    return isinstance(side.robot, Walker) and not side.robot.walks_in_plane


def _angle(side: Side) -> Angle:
    return SIDEWAYS if _is_planar(side) else FROM_ABOVE


def _still(count: int) -> list[Floats]:
    return [np.zeros((1, 3)) for _ in range(count)]


def fixed_stage(
    sides: Sequence[Side], recordings: Sequence[Recording], poses: Sequence[Floats], aspect: float
) -> Stage:
    """Return a camera that stands still and sees every pose of every side.

    Args:
        sides: The sides.
        recordings: Their recordings.
        poses: For each side, [P, nq].
        aspect: Width of a panel over its height.

    Returns:
        The stage.
    """
    if isinstance(sides[0].robot, Hand):
        return Stage(HAND_CLOSE, _still(len(sides)))
    boxes = [box for rec, some in zip(recordings, poses, strict=True) for box in bounds(rec.model, some)]
    return Stage(fit(_grounded(boxes), _angle(sides[0]), aspect), _still(len(sides)))


def following_stage(sides: Sequence[Side], recordings: Sequence[Recording], aspect: float) -> Stage:
    """Return cameras that follow the robots along the floor, and upwards where one flies high.

    Where no robot leaves its place all cameras stand still.

    Args:
        sides: The sides.
        recordings: Their recordings.
        aspect: Width of a panel over its height.

    Returns:
        The stage.
    """
    if isinstance(sides[0].robot, Hand):
        return Stage(_HAND_WIDE[sides[0].robot.task], _still(len(sides)))
    boxes = [bounds(recording.model, recording.qpos) for recording in recordings]
    tallest = max(float(box.high[2] - box.low[2]) for row in boxes for box in row)
    flies = max(float(box.high[2]) for row in boxes for box in row) > TALLEST * tallest
    flat = min(sides[0].robot.skipped_qpos, 2)  # Where on the floor a robot is: nothing depends on it.
    travels = max(float(np.ptp(recording.qpos[:, :flat], axis=0).max(initial=0.0)) for recording in recordings)
    stays = travels < LEASH * max(float(np.max((box.high - box.low)[:2])) for row in boxes for box in row)
    paths: list[Floats] = []
    for recording, row in zip(recordings, boxes, strict=True):
        path = np.zeros((len(row), 3))
        if not stays:
            path[:, :flat] = recording.qpos[:, :flat]
        if flies:
            path[:, 2] = np.maximum([box.low[2] for box in row], 0.0)
        paths.append(path)
    relative = [
        Box(box.low - at, box.high - at)
        for row, path in zip(boxes, paths, strict=True)
        for box, at in zip(row, path, strict=True)
    ]
    return Stage(fit(_grounded(relative), _angle(sides[0]), aspect), paths)


def _grounded(boxes: Sequence[Box]) -> list[Box]:
    """Return boxes with one more, below the first's middle, so that some of the ground is seen."""
    middle = (boxes[0].low + boxes[0].high) / 2.0
    ground = np.array([middle[0], middle[1], min(-GROUND, float(min(box.low[2] for box in boxes)))])
    return [*boxes, Box(ground, ground)]
