"""What a shift changes, read from two compiled models field by field: in words, with numbers and units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import mujoco
import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError
from offdyn_envs.models import compile_model, dynamics_fields
from offdyn_envs.robots import Robot

__all__ = ["FOLLOWING", "changed_fields", "differences", "element_names", "observation_names"]

FOLLOWING = frozenset(
    {
        "actuator_acc0",
        "body_inertia",
        "body_invweight0",
        "body_ipos",
        "body_iquat",
        "body_mass",
        "body_sameframe",
        "body_subtreemass",
        "dof_M0",
        "dof_invweight0",
        "dof_length",
        "geom_aabb",
        "geom_rbound",
        "geom_sameframe",
        "tendon_invweight0",
    }
)
"""Fields that the compiler works out from the shape of a body: nobody sets them, they follow."""

_CAPSULE = mujoco.mjtGeom.mjGEOM_CAPSULE.value
_SIZES = {mujoco.mjtGeom.mjGEOM_SPHERE.value: ("radius",), _CAPSULE: ("radius", "half-length")}
_ROUNDING = 1e-7
"""Numbers that differ by less, absolute and relative, differ only by the order in which they were computed."""

Words = Callable[[mujoco.MjModel, mujoco.MjModel, int], Iterator[str]]


def changed_fields(base: mujoco.MjModel, shifted: mujoco.MjModel) -> set[str]:
    """Return the names of the fields in which two models differ, in any bit; only those that can change a motion.

    Args:
        base: A compiled model.
        shifted: Another one of the same structure.

    Returns:
        Names as in `offdyn_envs.models.dynamics_fields`, for instance "geom_friction" or "opt.gravity".

    Raises:
        OffDynError: The models have other numbers of joints, bodies or geoms.
    """
    _check_structure(base, shifted)
    left, right = dynamics_fields(base), dynamics_fields(shifted)
    return {name for name in left if not np.array_equal(left[name], right[name], equal_nan=_is_float(left[name]))}


def differences(base: mujoco.MjModel, shifted: mujoco.MjModel, height: float = 0.0, masses: bool = True) -> list[str]:
    """Say what differs between two models of a robot.

    Args:
        base: The robot as it was.
        shifted: The robot under a shift, of the same structure.
        height: How much higher the shifted robot's episodes start, m.
        masses: Also name the bodies whose mass differs.

    Returns:
        One line per element that differs, or for several that differ alike, for instance
        "joint foot_joint: range -45..45 -> -9..9 degrees". A field for which this function has no words is named as
        it stands, so that nothing is left unsaid; what follows from the shape (`FOLLOWING`) is left out, except for
        masses.

    Raises:
        OffDynError: The models have other numbers of joints, bodies or geoms.
    """
    fields = changed_fields(base, shifted)
    lines = [*_option_lines(base, shifted)]
    if (friction := _common_friction(base, shifted)) is not None:
        lines.append(f"every friction x{_n(friction)}")
    for kind, count, words in (
        ("joint", base.njnt, _joint_words),
        ("geom", base.ngeom, _geom_words if friction is None else _shape_words),
        ("body", base.nbody, _body_words),
        ("site", base.nsite, _site_words),
    ):
        lines += _element_lines(kind, count, words, base, shifted)
    if masses:
        lines += _element_lines("body", base.nbody, _mass_words, base, shifted)
        lines += _changed("total mass", base.body_mass.sum(), shifted.body_mass.sum(), "kg")
    if abs(height) > _ROUNDING:
        lines.append(f"reset height {height:+.3g} m")
    return lines + [f"field {name} differs" for name in sorted(fields - FOLLOWING - _WORDED)]


_WORDED = frozenset(
    {
        "body_pos",
        "geom_friction",
        "geom_pos",
        "geom_quat",
        "geom_size",
        "jnt_pos",
        "jnt_range",
        "opt.gravity",
        "opt.timestep",
        "site_pos",
    }
)


def element_names(model: mujoco.MjModel, kind: str) -> list[str]:
    """Return the names of a model's elements; a body without a name is called after its first geom.

    Args:
        model: A compiled model.
        kind: "geom", "joint", "body" or "site".

    Returns:
        Names in the order of the model.
    """
    count = {"geom": model.ngeom, "joint": model.njnt, "body": model.nbody, "site": model.nsite}[kind]
    names = [str(getattr(model, kind)(index).name) for index in range(count)]
    return [name or _unnamed(model, kind, index) for index, name in enumerate(names)]


def observation_names(robot: Robot) -> list[str]:
    """Return a short name for each dimension of a robot's observation: joints, then their velocities.

    Args:
        robot: The robot.

    Returns:
        |S| names, for instance "thigh" and "thigh speed"; a free body's are those of its place and turn.
    """
    model = compile_model(robot, ())
    free = model.nq != model.nv
    roots = {"rootx": "x", "rootz": "height", "rooty": "pitch"}
    names = [name.removesuffix("_joint").replace("_", " ") for name in element_names(model, "joint")]
    joints = [roots.get(name, name) for name in names]
    places = [*"xyz", "turn w", "turn x", "turn y", "turn z", *joints[1:]] if free else joints
    rates = [*"xyz", "turn x", "turn y", "turn z", *joints[1:]] if free else joints
    return [*places[robot.skipped_qpos :], *(f"{name} speed" for name in rates)]


def _unnamed(model: mujoco.MjModel, kind: str, index: int) -> str:
    if kind == "body" and model.body_geomnum[index]:
        return f"of {model.geom(int(model.body_geomadr[index])).name}"
    return f"number {index}"


def _check_structure(base: mujoco.MjModel, shifted: mujoco.MjModel) -> None:
    for count in ("nq", "nv", "nu", "njnt", "nbody", "ngeom"):
        left, right = getattr(base, count), getattr(shifted, count)
        if left != right:
            raise OffDynError(f"models of different structure cannot be compared: {count} is {left} and {right}")


def _is_float(array: NDArray[np.generic]) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))


def _n(value: float) -> str:
    return f"{float(value) + 0.0:.4g}"  # Adding zero turns -0 into 0.


def _vector(values: Sequence[float] | NDArray[np.float64]) -> str:
    return "(" + ", ".join(_n(round(float(value), 9)) for value in values) + ")"


def _differ(left: object, right: object) -> bool:
    return not np.allclose(np.asarray(left, float), np.asarray(right, float), rtol=_ROUNDING, atol=_ROUNDING)


def _changed(what: str, left: float, right: float, unit: str) -> Iterator[str]:
    if _differ(left, right):
        yield f"{what} {_n(left)} -> {_n(right)} {unit}".rstrip()


def _moved(what: str, left: NDArray[np.float64], right: NDArray[np.float64]) -> Iterator[str]:
    if _differ(left, right):
        yield f"{what} {_vector(left)} -> {_vector(right)} m"


def _option_lines(base: mujoco.MjModel, shifted: mujoco.MjModel) -> Iterator[str]:
    for axis, left, right in zip("xyz", base.opt.gravity, shifted.opt.gravity, strict=True):
        yield from _changed(f"gravity {axis}", left, right, "m/s^2")
    yield from _changed("timestep", base.opt.timestep, shifted.opt.timestep, "s")


def _common_friction(base: mujoco.MjModel, shifted: mujoco.MjModel) -> float | None:
    """Return the factor between all frictions of two models; None where there is no such factor."""
    if not _differ(base.geom_friction, shifted.geom_friction):
        return None
    factor = float(shifted.geom_friction[0, 0] / base.geom_friction[0, 0])
    return None if _differ(base.geom_friction * factor, shifted.geom_friction) else factor


def _element_lines(kind: str, count: int, words: Words, base: mujoco.MjModel, shifted: mujoco.MjModel) -> Iterator[str]:
    names = element_names(base, kind)
    alike: dict[str, list[str]] = {}
    for index in range(count):
        if found := ", ".join(words(base, shifted, index)):
            alike.setdefault(found, []).append(names[index])
    for found, elements in alike.items():
        yield f"{kind} {', '.join(elements)}: {found}"


def _joint_words(base: mujoco.MjModel, shifted: mujoco.MjModel, index: int) -> Iterator[str]:
    hinge = base.jnt_type[index] == mujoco.mjtJoint.mjJNT_HINGE.value
    left, right = ((np.rad2deg(m.jnt_range[index]) if hinge else m.jnt_range[index]) for m in (base, shifted))
    if _differ(left, right):
        (low, high), (new_low, new_high) = (map(_n, ends) for ends in (left, right))
        yield f"range {low}..{high} -> {new_low}..{new_high} {'degrees' if hinge else 'm'}"
    yield from _moved("anchor", base.jnt_pos[index], shifted.jnt_pos[index])


def _shape_words(base: mujoco.MjModel, shifted: mujoco.MjModel, index: int) -> Iterator[str]:
    names = _SIZES.get(int(base.geom_type[index]))
    if names is None:
        yield from _moved("half-sizes", base.geom_size[index], shifted.geom_size[index])
    else:
        for side, name in enumerate(names):
            yield from _changed(name, base.geom_size[index, side], shifted.geom_size[index, side], "m")
    yield from _moved("position", base.geom_pos[index], shifted.geom_pos[index])
    angle = _turn(base, shifted, index)
    if angle > 1e-3:
        yield f"turned by {_n(angle)} degrees"


def _turn(base: mujoco.MjModel, shifted: mujoco.MjModel, index: int) -> float:
    """Return by how many degrees a geom has turned; a capsule about its own axis, or end over end, has not."""
    left, right = base.geom_quat[index], shifted.geom_quat[index]
    if base.geom_type[index] == _CAPSULE:
        return float(np.rad2deg(np.arccos(min(1.0, abs(float(_axis(left) @ _axis(right)))))))
    return float(np.rad2deg(2.0 * np.arccos(min(1.0, abs(float(left @ right))))))


def _axis(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where a quaternion takes the z axis."""
    w, x, y, z = quaternion
    return np.array([2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y)])


def _geom_words(base: mujoco.MjModel, shifted: mujoco.MjModel, index: int) -> Iterator[str]:
    yield from _shape_words(base, shifted, index)
    for axis, name in enumerate(("sliding", "torsional", "rolling")):
        left, right = base.geom_friction[index, axis], shifted.geom_friction[index, axis]
        yield from _changed(f"{name} friction", left, right, "")


def _body_words(base: mujoco.MjModel, shifted: mujoco.MjModel, index: int) -> Iterator[str]:
    yield from _moved("position", base.body_pos[index], shifted.body_pos[index])


def _site_words(base: mujoco.MjModel, shifted: mujoco.MjModel, index: int) -> Iterator[str]:
    yield from _moved("position", base.site_pos[index], shifted.site_pos[index])


def _mass_words(base: mujoco.MjModel, shifted: mujoco.MjModel, index: int) -> Iterator[str]:
    yield from _changed("mass", base.body_mass[index], shifted.body_mass[index], "kg")
