"""What the simulation measures of a robot in its last physics step: where bodies are, and what sensors feel.

MuJoCo computes poses at the beginning of a physics step and moves the robot at its end, so that what is measured is one
physics step older than positions and velocities. Right after a reset it is up to date.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.robots.goals import GoalPart, write_goal

if TYPE_CHECKING:
    import mujoco

__all__ = ["Measure", "add_sensors", "columns_of", "measure", "measured_size"]

_WIDTHS = {"body_pos": 3, "body_quat": 4, "site_pos": 3, "site_quat": 4, "sensor": 1}
_PREFIX = "offdyn:"


@dataclass(frozen=True)
class Measure:
    """Something that is measured.

    Attributes:
        kind: "body_pos" and "body_quat", the frame of a body in the world, "site_pos" and "site_quat", that of a site,
            or "sensor", a sensor of the model that measures one number.
        element: Name of the body, site or sensor.

    Examples:
        >>> import offdyn_envs
        >>> offdyn_envs.Measure("body_pos", "palm").size
        3
    """

    kind: str
    element: str

    @property
    def size(self) -> int:
        """How many numbers it is."""
        return _WIDTHS[self.kind]

    @property
    def sensor(self) -> str:
        """Name of the sensor that measures it."""
        return self.element if self.kind == "sensor" else f"{_PREFIX}{self.kind}:{self.element}"


def measured_size(measures: Sequence[Measure]) -> int:
    """Return how many numbers are measured, P."""
    return sum(one.size for one in measures)


def add_sensors(spec: mujoco.MjSpec, measures: Sequence[Measure]) -> None:
    """Add the sensors to a model that is not compiled yet; they change no motion.

    Raises:
        OffDynError: No such kind.
    """
    import mujoco

    library: Any = mujoco  # Whose stubs know neither sensors nor kinds of objects.
    types = {"pos": library.mjtSensor.mjSENS_FRAMEPOS, "quat": library.mjtSensor.mjSENS_FRAMEQUAT}
    objects = {"body": library.mjtObj.mjOBJ_XBODY, "site": library.mjtObj.mjOBJ_SITE}
    editable: Any = spec
    for one in measures:
        if one.kind not in _WIDTHS:
            raise unknown("kind of a measure", one.kind, _WIDTHS)
        if one.kind != "sensor":
            thing, _, what = one.kind.partition("_")
            editable.add_sensor(name=one.sensor, type=types[what], objtype=objects[thing], objname=one.element)


def columns_of(model: mujoco.MjModel, measures: Sequence[Measure]) -> NDArray[np.intp]:
    """Return where in `sensordata` the numbers are, [P].

    Raises:
        OffDynError: The model has no such sensor.
    """
    columns: list[int] = []
    for one in measures:
        try:
            begin = int(model.sensor(one.sensor).adr[0])
        except KeyError:
            raise OffDynError(f"measure: the model has no sensor '{one.element}'") from None
        columns += range(begin, begin + one.size)
    return np.array(columns, dtype=np.intp)


def measure(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    measures: Sequence[Measure],
    state: tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]], NDArray[np.floating[Any]]],
    goal: tuple[Sequence[GoalPart], NDArray[np.floating[Any]]] | None = None,
) -> NDArray[np.float64]:
    """Return what is measured in a state where nothing is under way, [P].

    Args:
        model: The model; a goal is written into it.
        data: Workplace.
        measures: What is measured.
        state: Positions [nq], velocities [nv] and states of the motors [na].
        goal: Parts of the goal and their numbers, [G].
    """
    import mujoco

    if goal is not None:
        write_goal(model, *goal)
    data.qpos[:], data.qvel[:], data.act[:] = state
    # As in a fresh simulation: what is left of earlier steps would show in forces and touches.
    data.ctrl[:], data.qacc_warmstart[:] = 0.0, 0.0
    mujoco.mj_forward(model, data)
    return data.sensordata[columns_of(model, measures)]
