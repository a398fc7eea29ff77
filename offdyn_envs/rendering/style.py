"""Colours: a pale scene, blue robots, orange where a robot differs from the nominal one."""

from __future__ import annotations

import copy
from collections.abc import Collection

import mujoco
import numpy as np

__all__ = ["changed_geoms", "changed_joints", "dress", "dress_hand", "moved_geoms", "narrow_floor"]

PLAIN = (0.36, 0.49, 0.66, 1.0)
FAR_SIDE = (0.62, 0.71, 0.82, 1.0)
CHANGED = (0.93, 0.45, 0.13, 1.0)
CHANGED_FAR_SIDE = (0.97, 0.66, 0.40, 1.0)
_RAMP = (0.62, 0.78, 0.95)
PALETTE: tuple[tuple[int, int, int], ...] = (
    *((grey, grey, grey) for grey in (255, 250, 237, 224, 205, 150, 95, 28)),
    *(
        (round(255 * red * shade), round(255 * green * shade), round(255 * blue * shade))
        for red, green, blue, _ in (PLAIN, FAR_SIDE, CHANGED, CHANGED_FAR_SIDE)
        for shade in _RAMP
    ),
)
"""The few colours of small files: paper, tiles, shadow and letters, then every costume in three shades."""
SKY = 252
SHADOW_PIXELS = 1024
HIDDEN_GROUP = 5
RUNWAY = 0.5
TILE = 0.6
SLANTED = (0.1, 0.15, -1.0)
TILES = (250, 214)
_FIELDS = ("geom_size", "geom_pos", "geom_quat")


def changed_geoms(model: mujoco.MjModel, base: mujoco.MjModel) -> frozenset[int]:
    """Return the geoms of another size or place in their body, or of a body that hangs elsewhere.

    Args:
        model: A shifted robot.
        base: The nominal one.

    Returns:
        Numbers of geoms.
    """
    changed = np.zeros(model.ngeom, dtype=bool)
    for field in _FIELDS:
        changed |= (getattr(model, field) != getattr(base, field)).any(axis=-1)
    return frozenset(np.flatnonzero(changed & (model.geom_bodyid > 0)).tolist())


def changed_joints(model: mujoco.MjModel, base: mujoco.MjModel) -> list[int]:
    """Return the numbers of the joints whose range differs from the nominal robot's."""
    return np.flatnonzero((model.jnt_range != base.jnt_range).any(axis=-1)).tolist()


def moved_geoms(model: mujoco.MjModel, joints: Collection[int], below: bool = True) -> frozenset[int]:
    """Return the geoms that turn with joints.

    Args:
        model: A robot.
        joints: Numbers of joints.
        below: Those of all bodies further down as well, not of the joints' own bodies alone.

    Returns:
        Numbers of geoms.
    """
    bodies = {int(model.jnt_bodyid[joint]) for joint in joints}
    for body in range(1, model.nbody):  # Parents come before their children.
        if below and int(model.body_parentid[body]) in bodies:
            bodies.add(body)
    return frozenset(geom for geom in range(model.ngeom) if int(model.geom_bodyid[geom]) in bodies)


def dress(model: mujoco.MjModel, highlighted: Collection[int] = (), far_side: Collection[int] = ()) -> mujoco.MjModel:
    """Return a copy of a robot's model in our colours; its motion is the same.

    Args:
        model: The model.
        highlighted: Geoms drawn in orange.
        far_side: Geoms of a leg beside another one, drawn paler.

    Returns:
        The copy.
    """
    dressed = copy.copy(model)
    brighten(dressed)
    for geom in np.flatnonzero(dressed.geom_bodyid > 0).tolist():
        dressed.geom_matid[geom] = -1
        plain, changed = (FAR_SIDE, CHANGED_FAR_SIDE) if geom in far_side else (PLAIN, CHANGED)
        dressed.geom_rgba[geom] = changed if geom in highlighted else plain
    return dressed


def dress_hand(
    model: mujoco.MjModel, highlighted: Collection[int] = (), left_out: Collection[str] = ()
) -> mujoco.MjModel:
    """Return a copy of an Adroit model whose hand is drawn as the shapes that collide, in our colours.

    The meshes that are drawn otherwise keep their size where a finger shrinks.

    Args:
        model: The model.
        highlighted: Geoms drawn in orange.
        left_out: Bodies that are not drawn.

    Returns:
        The copy.
    """
    dressed = copy.copy(model)
    _light(dressed)
    for geom in range(dressed.ngeom):
        name = dressed.geom(geom).name
        if name.startswith("V_") or dressed.body(int(dressed.geom_bodyid[geom])).name in left_out:
            dressed.geom_group[geom] = HIDDEN_GROUP
        elif name.startswith("C_"):
            dressed.geom_group[geom], dressed.geom_matid[geom] = 0, -1
            dressed.geom_rgba[geom] = CHANGED if geom in highlighted else PLAIN
    return dressed


def narrow_floor(model: mujoco.MjModel) -> None:
    """Make the floor of a planar robot a runway with two rows of tiles, in place.

    The model is for drawing only: what moves is simulated with the floor as it is.

    Args:
        model: The model.
    """
    floor = model.geom("floor").id
    model.geom_size[floor, 1] = RUNWAY
    # Repeats per metre along both sides; a repeat holds two tiles.
    repeats = 1.0 / (2.0 * TILE)
    model.mat_texrepeat[model.geom_matid[floor]] = (2.0 * model.geom_size[floor, 0] * repeats, 2.0 * RUNWAY * repeats)


def brighten(model: mujoco.MjModel) -> None:
    """Give a robot's model a white sky, a pale chequered floor and more even light, in place.

    Args:
        model: The model.
    """
    for texture in range(model.ntex):
        size = int(model.tex_width[texture]) * int(model.tex_height[texture]) * 3
        pixels = model.tex_data[int(model.tex_adr[texture]) :][:size]
        if model.tex_type[texture] == mujoco.mjtTexture.mjTEXTURE_SKYBOX.value:
            pixels[:] = SKY
        elif model.tex_type[texture] == mujoco.mjtTexture.mjTEXTURE_2D.value:
            pixels[:] = np.where(pixels > 127, *TILES)
    model.mat_emission[:] = 0.15
    model.mat_rgba[:] = 1.0
    model.geom_rgba[model.geom_bodyid == 0] = 1.0
    _light(model)
    # A light straight from above leaves stripes of shadow at the edge of what its shadow map covers.
    model.light_dir[:] = SLANTED


def _light(model: mujoco.MjModel) -> None:
    model.vis.quality.shadowsize = SHADOW_PIXELS
    model.mat_reflectance[:] = 0.0
    model.mat_specular[:] = 0.1
    model.vis.headlight.ambient[:] = 0.45
    model.vis.headlight.diffuse[:] = 0.35
    model.vis.headlight.specular[:] = 0.1
    model.light_diffuse[:] = 0.35
    model.light_specular[:] = 0.1
    model.light_ambient[:] = 0.0
