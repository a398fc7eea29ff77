"""Drawing a model off-screen. The only module that touches OpenGL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.rendering.camera import View
from offdyn_envs.rendering.gl import load_mujoco, make_context, no_gl

__all__ = ["Canvas", "Painter"]

Image = NDArray[np.uint8]
MAX_GEOMS = 20_000
GHOST_ALPHA = 0.22
BACKGROUND = 252


class Painter(Protocol):
    """Draws one model."""

    def paint(
        self,
        qpos: NDArray[np.float64],
        view: View,
        ghosts: Sequence[NDArray[np.float64]] = (),
        moving: Collection[int] = (),
    ) -> Image:
        """Return a picture [H, W, 3] of a pose; see `Canvas.paint`."""
        ...


class Canvas:
    """An off-screen picture of one model.

    Args:
        model: The model, dressed already (`offdyn_envs.rendering.style`); its buffer sizes are changed.
        width: Pixels.
        height: Pixels.

    Raises:
        OffDynError: OpenGL does not work here.
    """

    def __init__(self, model: Any, width: int, height: int) -> None:
        mujoco = load_mujoco()
        self._mujoco, self._model = mujoco, model
        self._width, self._height = width, height
        self._data, self._ghost = mujoco.MjData(model), mujoco.MjData(model)
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        self._context = make_context(width, height)
        try:
            self._scene = mujoco.MjvScene(model, MAX_GEOMS)
            self._gl = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._gl)
        except Exception as error:
            self._context.free()
            raise no_gl(error) from None
        for flag in ("mjRND_REFLECTION", "mjRND_HAZE"):
            self._scene.flags[getattr(mujoco.mjtRndFlag, flag)] = 0
        self._has_sky = bool((model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX.value).any())
        self._option, self._perturb = mujoco.MjvOption(), mujoco.MjvPerturb()

    def __enter__(self) -> Canvas:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the graphics memory back."""
        self._context.make_current()
        self._gl.free()
        self._context.free()

    def paint(
        self,
        qpos: NDArray[np.float64],
        view: View,
        ghosts: Sequence[NDArray[np.float64]] = (),
        moving: Collection[int] = (),
    ) -> Image:
        """Draw a pose.

        Args:
            qpos: The pose, [nq].
            view: The camera.
            ghosts: Poses drawn faintly over it, each [nq].
            moving: Geoms by number that the ghosts show; the others are left out.

        Returns:
            Red, green and blue, [H, W, 3].
        """
        mujoco = self._mujoco
        self._context.make_current()
        self._pose(self._data, qpos)
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(
            self._model, self._data, self._option, self._perturb, self._camera(view), everything, self._scene
        )
        for ghost in ghosts:
            self._add_ghost(ghost, moving)
        rect = mujoco.MjrRect(0, 0, self._width, self._height)
        mujoco.mjr_render(rect, self._scene, self._gl)
        pixels = np.empty((self._height, self._width, 3), dtype=np.uint8)
        depth = np.empty((self._height, self._width), dtype=np.float32)
        mujoco.mjr_readPixels(pixels, depth, rect, self._gl)
        if not self._has_sky:
            pixels[depth >= 1.0] = BACKGROUND
        return pixels[::-1]

    def _pose(self, data: Any, qpos: NDArray[np.float64]) -> None:
        data.qpos[:] = qpos
        self._mujoco.mj_forward(self._model, data)

    def _camera(self, view: View) -> Any:
        camera = self._mujoco.MjvCamera()
        camera.lookat[:] = view.lookat
        camera.distance, camera.azimuth, camera.elevation = view.distance, view.angle.azimuth, view.angle.elevation
        self._model.vis.global_.fovy = view.angle.fovy
        return camera

    def _add_ghost(self, qpos: NDArray[np.float64], moving: Collection[int]) -> None:
        mujoco, scene = self._mujoco, self._scene
        self._pose(self._ghost, qpos)
        first = scene.ngeom
        dynamic = mujoco.mjtCatBit.mjCAT_DYNAMIC.value
        mujoco.mjv_addGeoms(self._model, self._ghost, self._option, self._perturb, dynamic, scene)
        is_geom = mujoco.mjtObj.mjOBJ_GEOM.value
        for geom in scene.geoms[first : scene.ngeom]:
            shown = geom.objtype == is_geom and geom.objid in moving
            geom.rgba[3] = GHOST_ALPHA if shown else 0.0
