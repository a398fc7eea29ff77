"""Shifts for environments of other houses: their class, reward and reset stay, their model changes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import gymnasium
import mujoco
import numpy as np

from offdyn_envs.compiling import compile_spec, dynamics_fields
from offdyn_envs.errors import OffDynError, shown
from offdyn_envs.robots import Robot
from offdyn_envs.scalar.base import ScalarEnvironment
from offdyn_envs.shifts import Shift, Shifts, parse_shifts
from offdyn_envs.shifts.applying import edit_model, edit_spec
from offdyn_envs.shifts.parsing import check_products

__all__ = ["shifted"]

_RECORD = "_offdyn_shifts"
Env = TypeVar("Env", bound=gymnasium.Env[Any, Any])


@dataclass(frozen=True)
class _Stranger:
    """What shifts may know of a robot that is not of this suite."""

    name: str
    title: str


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
    """What `shifted` has done to an environment so far."""

    shifts: tuple[Shift, ...]
    edits: tuple[_Edit, ...]


def shifted(env: Env, shifts: Shifts) -> Env:
    """Apply shifts to a MuJoCo environment that someone else wrote, in place; call `reset` after it.

    The environment's model file is compiled with and without the shifts, and the numbers in which the two differ are
    written into its `model`: class, observation, reward and reset stay as they are. A second call multiplies what
    stands, as a longer list would. A copy that is made anew, as by `pickle`, has no shifts.

    Args:
        env: Any Gymnasium environment with a `model` (`mujoco.MjModel`) and the path of its file (`fullpath`), such as
            Gymnasium's own; wrappers are looked through.
        shifts: One shift or a list, as values or plain JSON objects; those that need a robot of this suite (kinematic,
            morphology) are refused.

    Returns:
        The same environment.

    Raises:
        OffDynError: No such environment, a shift that does not fit it, or a number of the model that the environment
            itself has set.

    Examples:
        >>> import gymnasium, offdyn
        >>> humanoid = offdyn.shifted(gymnasium.make("Humanoid-v5"), [offdyn.Gravity(0.5)])
        >>> humanoid.unwrapped.model.opt.gravity[2].item()
        -4.905
    """
    core = _core(env)
    record: _Record = getattr(core, _RECORD, _Record((), ()))
    read = parse_shifts(shifts)
    for shift in read:
        if getattr(shift, "own_robots", False):
            raise OffDynError(f"{shift.kind} shift: needs a robot of this suite, and {type(core).__name__} is none")
    wanted = record.shifts + read
    check_products(wanted)
    edits = tuple(_edits(core, wanted, record.edits))
    for edit in record.edits:
        _write(core.model, edit.field, edit.where, edit.before)
    for edit, values in edits:
        _write(core.model, edit.field, edit.where, values)
    setattr(core, _RECORD, _Record(wanted, tuple(edit for edit, _ in edits)))
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
    if not os.path.isfile(str(getattr(core, "fullpath", ""))):
        raise OffDynError(f"env must have the path of its model's file as 'fullpath', which {name} has not")
    return core


def _edits(core: Any, shifts: Iterable[Shift], before: Iterable[_Edit]) -> Iterable[tuple[_Edit, np.ndarray]]:
    """Yield what has to change in the model as the environment itself has it, and the new values of each field."""
    name = type(core).__name__
    base, new = _compiled(core.fullpath, (), name), _compiled(core.fullpath, tuple(shifts), name)
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


def _compiled(file: str, shifts: tuple[Shift, ...], name: str) -> mujoco.MjModel:
    spec = mujoco.MjSpec.from_file(file)
    edit_spec(spec, shifts, cast(Robot, _Stranger(name.lower(), name)), "default")
    model = compile_spec(spec, name)
    edit_model(model, shifts)
    return model


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
