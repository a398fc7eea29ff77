"""Poses that no episode leads to: at rest, and with joints turned from one end of their range to the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.rendering.camera import bounds
from offdyn_envs.rendering.names import Side
from offdyn_envs.rendering.playing import Recording
from offdyn_envs.rendering.style import changed_joints

__all__ = ["Sweep", "ranges_in_words", "resting", "sweep", "swept_joints"]

Floats = NDArray[np.float64]
CLEARANCE = 0.05

_LEGS_APART: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {"walker2d": {"thigh_left_joint": -0.75, "leg_left_joint": -0.5, "foot_left_joint": 0.4}}
)
"""Joint angles in rad that show both legs where one would hide the other."""


@dataclass(frozen=True)
class Sweep:
    """Joints of one side on their way from end to end.

    Attributes:
        poses: [phases, nq].
        rest: The pose between, [nq].
    """

    poses: Floats
    rest: Floats


def resting(side: Side, recording: Recording) -> Floats:
    """Return the pose around which a side's episodes start; Walker2d's left leg is put forward, to be seen.

    Args:
        side: The side.
        recording: Its recording.

    Returns:
        Positions, [nq].
    """
    pose = recording.start.copy()
    for name, angle in _LEGS_APART.get(side.body, {}).items():
        joint = recording.model.joint(name)
        pose[joint.qposadr[0]] = np.clip(angle, *joint.range)
    return pose


def swept_joints(recordings: Sequence[Recording]) -> list[int]:
    """Return the joints whose range differs from the nominal robot's on any side, by number."""
    return sorted({joint for recording in recordings for joint in changed_joints(recording.model, recording.base)})


def sweep(sides: Sequence[Side], recordings: Sequence[Recording], joints: Sequence[int], phases: Floats) -> list[Sweep]:
    """Turn joints through their ranges, all at once, with the robot held above the floor.

    Args:
        sides: The sides.
        recordings: Their recordings.
        joints: Numbers of the joints.
        phases: 0 for the lower end of each range to 1 for the upper one.

    Returns:
        A sweep per side.
    """
    sweeps: list[Sweep] = []
    for side, recording in zip(sides, recordings, strict=True):
        model = recording.model
        address = model.jnt_qposadr[joints]
        low, high = model.jnt_range[joints].T
        rest = resting(side, recording)
        rest[address] = np.clip(rest[address], low, high)
        poses = np.repeat(rest[None], len(phases), axis=0)
        poses[:, address] = low + phases[:, None] * (high - low)
        sweeps.append(Sweep(poses, rest))
    _lift(sides, recordings, sweeps)
    return sweeps


def _lift(sides: Sequence[Side], recordings: Sequence[Recording], sweeps: Sequence[Sweep]) -> None:
    robot = sides[0].robot
    height = robot.height_index
    if height is None:
        return
    lowest = min(box.low[2] for rec, s in zip(recordings, sweeps, strict=True) for box in bounds(rec.model, s.poses))
    for s in sweeps:
        s.poses[:, height] += CLEARANCE - lowest
        s.rest[height] += CLEARANCE - lowest


def ranges_in_words(recording: Recording, joints: Sequence[int]) -> str:
    """Return the ranges of joints in degrees; of several the first, and how many others there are."""
    seen: dict[str, str] = {}
    for joint in joints:
        low, high = np.degrees(recording.model.jnt_range[joint])
        # Adding 0.0 turns a minus zero into zero.
        words = f"{round(float(low), 1) + 0.0:g} to {round(float(high), 1) + 0.0:g} deg"
        seen.setdefault(words, recording.model.joint(joint).name)
    (first, name), *others = seen.items()
    return f"{name.removesuffix('_joint')}: {first}" + (f" (+{len(others)} more)" if others else "")
