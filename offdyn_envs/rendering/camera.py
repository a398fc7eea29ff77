"""Where the camera stands so that the whole robot is seen; plain geometry, nothing is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

__all__ = ["Angle", "Box", "View", "bounds", "enclose", "fit"]

Floats = NDArray[np.float64]
MARGIN = 1.08


@dataclass(frozen=True)
class Angle:
    """The direction in which a camera looks.

    Attributes:
        azimuth: Degrees about the vertical axis; at 90 x runs to the right.
        elevation: Degrees; negative looks down.
        fovy: Vertical field of view, degrees.
    """

    azimuth: float
    elevation: float
    fovy: float = 45.0


@dataclass(frozen=True)
class View:
    """A camera.

    Attributes:
        lookat: The point in the middle of the picture, m.
        distance: From that point, m.
        angle: Its direction.
    """

    lookat: tuple[float, float, float]
    distance: float
    angle: Angle

    def moved(self, offset: Floats) -> View:
        """Return the view shifted by `offset` [3], m."""
        x, y, z = (float(a + b) for a, b in zip(self.lookat, offset, strict=True))
        return View((x, y, z), self.distance, self.angle)


@dataclass(frozen=True)
class Box:
    """An axis-aligned box.

    Attributes:
        low: Lower corner, [3], m.
        high: Upper corner, [3], m.
    """

    low: Floats
    high: Floats


def bounds(model: mujoco.MjModel, qpos: Floats) -> list[Box]:
    """Return the boxes around a robot, floor left out; those of spheres and capsules are tight.

    Args:
        model: Its model.
        qpos: Poses, [T, nq].

    Returns:
        T boxes.
    """
    data = mujoco.MjData(model)
    body = np.flatnonzero(model.geom_bodyid > 0)
    sphere, capsule = mujoco.mjtGeom.mjGEOM_SPHERE.value, mujoco.mjtGeom.mjGEOM_CAPSULE.value
    half = np.where(model.geom_type == capsule, model.geom_size[:, 1], 0.0)[body, None]
    radius = np.where(np.isin(model.geom_type, (sphere, capsule)), model.geom_size[:, 0], model.geom_rbound)[body, None]
    boxes: list[Box] = []
    for pose in qpos:
        data.qpos[:] = pose
        mujoco.mj_kinematics(model, data)
        reach = half * np.abs(data.geom_xmat[body][:, [2, 5, 8]]) + radius
        centres = data.geom_xpos[body]
        boxes.append(Box((centres - reach).min(axis=0), (centres + reach).max(axis=0)))
    return boxes


def enclose(boxes: Sequence[Box]) -> Box:
    """Return the smallest box around boxes; at least one."""
    return Box(np.min([box.low for box in boxes], axis=0), np.max([box.high for box in boxes], axis=0))


def fit(boxes: Sequence[Box], angle: Angle, aspect: float) -> View:
    """Return the nearest view towards the middle of all boxes that holds every one of them.

    Args:
        boxes: What is to be seen; at least one.
        angle: Where the camera looks.
        aspect: Width of the picture over its height.

    Returns:
        The view.
    """
    azimuth, elevation = np.radians([angle.azimuth, angle.elevation])
    forward = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
    up = np.cross(right, forward)
    whole = enclose(boxes)
    centre = (whole.low + whole.high) / 2.0
    picks = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    ends = np.array([[box.low, box.high] for box in boxes])
    corners = ends[:, picks, np.arange(3)] - centre
    slope = np.tan(np.radians(angle.fovy) / 2.0)
    needed = np.maximum(np.abs(corners @ up), np.abs(corners @ right) / aspect) / slope - corners @ forward
    return View((float(centre[0]), float(centre[1]), float(centre[2])), float(needed.max()) * MARGIN, angle)
