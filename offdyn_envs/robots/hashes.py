"""The fields of a compiled model that can change its motion, and their hash."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import mujoco

__all__ = ["dynamics_fields", "model_hash"]

# Fields of a compiled model that change what one sees, or how it is named, but never how it moves.
_UNSEEN_BY_PHYSICS = ("cam_", "light_", "tex_", "mat_", "skin_", "name_", "names", "paths", "text_", "bvh_", "vis_")
_UNSEEN_SUFFIXES = ("_rgba", "_matid", "_user", "_bvhadr", "_bvhnum")
# Fields that grow with the names of the folders in which a model's meshes lie, and so differ between installations.
_SIZES_OF_PATHS = ("npaths", "nbuffer", "mesh_pathadr", "hfield_pathadr")
_NO_PATHS = 1


def dynamics_fields(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    """Return every field of a model that can change its motion.

    Args:
        model: A compiled model.

    Returns:
        Arrays by name, those of the options with the prefix "opt.".
    """
    fields: dict[str, np.ndarray] = {}
    unseen = _SIZES_OF_PATHS if model.npaths > _NO_PATHS else ()
    for prefix, owner in (("", model), ("opt.", model.opt)):
        for name in dir(owner):
            if name.startswith(("_", *_UNSEEN_BY_PHYSICS)) or name.endswith(_UNSEEN_SUFFIXES) or name in unseen:
                continue
            value = getattr(owner, name)
            if isinstance(value, np.ndarray | int | float):
                fields[prefix + name] = np.asarray(value)
    return fields


def model_hash(model: mujoco.MjModel) -> str:
    """Return the SHA-256 of every field of a model that can change its motion.

    Args:
        model: A compiled model.

    Returns:
        64 hexadecimal digits; comparable within one MuJoCo version.
    """
    import mujoco

    digest = hashlib.sha256(mujoco.__version__.encode())
    for name, value in sorted(dynamics_fields(model).items()):
        digest.update(f"{name}{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
