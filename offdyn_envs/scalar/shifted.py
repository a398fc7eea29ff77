"""Shifts for environments of other houses: their class, reward and reset stay, their model changes."""

from __future__ import annotations

import copyreg
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import gymnasium
import mujoco
import numpy as np

from offdyn_envs.compiling import compile_spec, dynamics_fields
from offdyn_envs.errors import OffDynError, shown
from offdyn_envs.robots import Robot
from offdyn_envs.robots.mjcf import read_mjcf
from offdyn_envs.scalar.base import ScalarEnvironment
from offdyn_envs.shifts import Shift, Shifts, parse_shifts
from offdyn_envs.shifts.applying import edit_model, edit_spec
from offdyn_envs.shifts.parsing import check_products

__all__ = ["shifted"]

_RECORD = "_offdyn_shifts"
Env = TypeVar("Env", bound=gymnasium.Env[Any, Any])


class _Unknown(OffDynError, AttributeError):
    """Something that shifts may not know of a robot that is not of this suite."""


class _Stranger:
    """What shifts may know of a robot that is not of this suite, as attributes that `Robot` has, too."""

    def __init__(self, **known: str | int | float) -> None:
        vars(self).update(known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python asks for these itself.
            raise AttributeError(name)
        known = vars(self)
        raise _Unknown(
            f"a shift asks for robot.{name}, which {known.get('title')} has not: it is no robot of this suite, and of "
            f"others shifts know {', '.join(known)}"
        )


class _Edit(NamedTuple):
    """Numbers of a model that shifts have changed.

    Attributes:
        field: Name as in `dynamics_fields`.
        where: Which entries, of the field's shape.
        before: The field as the environment itself had it.
    """

    field: str
    where: np.ndarray
    before: np.ndarray


class _Record(NamedTuple):
    """What `shifted` has done to an environment so far, and the model that it was given."""

    shifts: tuple[Shift, ...]
    edits: tuple[_Edit, ...]
    mjcf: str | Path | None = None


def shifted(env: Env, shifts: Shifts, mjcf: str | Path | None = None) -> Env:
    """Apply shifts to a MuJoCo environment that someone else wrote, in place; call `reset` after it.

    The environment's model file is compiled with and without the shifts, and the numbers in which the two differ are
    written into its `model`: class, observation, reward and reset stay as they are. A second call multiplies what
    stands, as a longer list would. Copies, by `copy.deepcopy` and `pickle`, have the shifts, too; what is made from its
    `spec` has not.

    Args:
        env: Any Gymnasium environment with a `model` (`mujoco.MjModel`), such as Gymnasium's own; wrappers are looked
            through.
        shifts: One shift or a list, as values or plain JSON objects; those that need a robot of this suite (kinematic,
            morphology, the Adroit hand's) or its environments (delay, noise, local) are refused.
        mjcf: The model as the environment loads it: the path of an MJCF file, or MJCF as text. Needed where the
            environment has no path of it, `fullpath`, such as gymnasium-robotics' PointMaze.

    Returns:
        The same environment.

    Raises:
        OffDynError: No such environment or model, a shift that does not fit it, or a number of the model that the
            environment itself has set.

    Examples:
        >>> import gymnasium, offdyn
        >>> humanoid = offdyn.shifted(gymnasium.make("Humanoid-v5"), [offdyn.Gravity(0.5)])
        >>> humanoid.unwrapped.model.opt.gravity[2].item()
        -4.905
    """
    core = _core(env)
    record: _Record = getattr(core, _RECORD, _Record((), ()))
    mjcf = _checked_mjcf(mjcf) or record.mjcf
    read = parse_shifts(shifts)
    for shift in read:
        if getattr(shift, "own_robots", False):
            raise OffDynError(f"{shift.kind} shift: needs a robot of this suite, and {type(core).__name__} is none")
    wanted = record.shifts + read
    check_products(wanted)
    edits = tuple(_edits(core, mjcf or _path(core), wanted, record.edits))
    for edit in record.edits:
        _write(core.model, edit.field, edit.where, edit.before)
    for edit, values in edits:
        _write(core.model, edit.field, edit.where, values)
    setattr(core, _RECORD, _Record(wanted, tuple(edit for edit, _ in edits), mjcf))
    _let_copies_have_them(type(core))
    return env


def _core(env: object) -> Any:
    if not isinstance(env, gymnasium.Env):
        raise OffDynError(f"env must be a Gymnasium environment, got {shown(type(env).__name__)}")
    core: Any = cast(Any, env).unwrapped
    name = type(core).__name__
    if isinstance(core, ScalarEnvironment):
        raise OffDynError(f"{name} takes shifts itself: make it with shifts=[...]")
    if not isinstance(getattr(core, "model", None), mujoco.MjModel):
        raise OffDynError(f"env must have a 'model' of MuJoCo, which {name} has not")
    return core


def _checked_mjcf(mjcf: object) -> str | Path | None:
    if mjcf is None or (isinstance(mjcf, str | Path) and str(mjcf)):
        return mjcf
    raise OffDynError(f"mjcf must be the path of a model's file, or MJCF as text, got {shown(mjcf)}")


def _path(core: Any) -> Path:
    path = str(getattr(core, "fullpath", ""))
    if not os.path.isfile(path):
        name = type(core).__name__
        raise OffDynError(
            f"env must have the path of its model's file as 'fullpath', which {name} has not; give the file, or MJCF "
            "as text, as shifted(..., mjcf=...)"
        )
    return Path(path)


def _let_copies_have_them(kind: type) -> None:
    """See to it that copies of environments of a class are shifted as the original, where it makes them anew."""
    anew = getattr(kind, "__getstate__", None) is not getattr(object, "__getstate__", None)
    if anew and kind not in copyreg.dispatch_table:
        copyreg.pickle(kind, cast(Any, _reduce))


def _reduce(core: Any) -> tuple[Any, ...]:
    """Return how `copy` and `pickle` make an environment again: as its class says, then shifted."""
    made = core.__reduce_ex__(2)
    record: _Record | None = vars(core).get(_RECORD)
    return made if record is None else (_again, (*made[:3], record.shifts, record.mjcf))


def _again(make: Callable[..., Any], given: Any, state: Any, shifts: Shifts, mjcf: str | Path | None) -> Any:
    core = make(*given)
    if hasattr(core, "__setstate__"):
        core.__setstate__(state)
    else:
        vars(core).update(state)
    return core if _RECORD in vars(core) else shifted(core, shifts, mjcf)


def _stranger(core: Any, model: mujoco.MjModel) -> Robot:
    """Return what shifts may know of a robot: names, and numbers of its model before any shift."""
    name, step = type(core).__name__, float(model.opt.timestep)
    sizes = {"nq": int(model.nq), "nv": int(model.nv), "action_dim": int(model.nu)}
    skip = getattr(core, "frame_skip", getattr(core, "n_substeps", None))
    dt = {} if skip is None else {"dt": step * int(skip)}
    return cast(Robot, _Stranger(name=name.lower(), title=name, timestep=step, **sizes, **dt))


def _edits(
    core: Any, mjcf: str | Path, shifts: tuple[Shift, ...], before: Iterable[_Edit]
) -> Iterable[tuple[_Edit, np.ndarray]]:
    """Yield what has to change in the model as the environment itself has it, and the new values of each field."""
    name = type(core).__name__
    base = compile_spec(read_mjcf(name, mjcf), name)
    spec = read_mjcf(name, mjcf)
    edit_spec(spec, shifts, _stranger(core, base), "default")
    new = compile_spec(spec, name)
    edit_model(new, shifts)
    left, right, own = _numbers(base), _numbers(new), _numbers(core.model)
    for edit in before:
        own[edit.field] = np.where(edit.where, edit.before, own[edit.field])
    for field, values in right.items():
        if values.shape != left[field].shape or values.shape != own[field].shape:
            raise OffDynError(f"{name}: its file and the shifts lead to models of other shapes, see '{field}'")
        where = left[field] != values
        if field != "signature" and where.any():
            if not np.array_equal(own[field][where], left[field][where]):
                raise OffDynError(f"{name} has set '{field}' of its model itself, which these shifts change, too")
            yield _Edit(field, where, np.array(own[field])), values


def _numbers(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    extra = {"bvh_aabb": model.bvh_aabb, "stat.meaninertia": np.asarray(model.stat.meaninertia)}
    return dynamics_fields(model) | extra


def _write(model: mujoco.MjModel, field: str, where: np.ndarray, values: np.ndarray) -> None:
    prefix, _, name = field.rpartition(".")
    owner = getattr(model, prefix) if prefix else model
    current = getattr(owner, name)
    if isinstance(current, np.ndarray):
        current[where] = values[where]
    else:
        setattr(owner, name, values.item())
