"""What can be verified: every named environment, and any robot under any shifts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import gymnasium
import mujoco

from offdyn_envs.errors import spelled, unknown
from offdyn_envs.models import compile_model, start_qpos
from offdyn_envs.robots import Robot
from offdyn_envs.shifts import Shift, parse_shifts, shifts_to_json
from offdyn_envs.tasks import env_id, get_dynamics, list_env_ids

__all__ = ["RobotSubject", "Subject", "find_subject", "named_subjects", "robot_subject"]


@dataclass(frozen=True)
class Subject:
    """An environment to verify.

    Attributes:
        name: What it is called in tables: its id where it has one.
        env_id: The id by which Gymnasium makes it.
        kwargs: With which arguments.
        title: Name of the robot.
        dynamics: Dynamics slug; "nominal" also for shifts that have no name.
    """

    name: str
    env_id: str
    kwargs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    title: str = "Refrigerator"
    dynamics: str = "nominal"

    @property
    def changes(self) -> str:
        """What its shifts change, in words."""
        return "nothing: the nominal environment"

    @property
    def json_shifts(self) -> list[dict[str, Any]]:
        """Its shifts as plain JSON."""
        return []

    def make(self, **kwargs: Any) -> gymnasium.Env[Any, Any]:
        """Make the environment as a user does.

        Args:
            kwargs: More arguments of `gymnasium.make`.

        Returns:
            The environment, wrapped by Gymnasium.
        """
        return gymnasium.make(self.env_id, **self.kwargs, **kwargs)


@dataclass(frozen=True)
class RobotSubject(Subject):
    """A robot under shifts.

    Attributes:
        robot: The robot.
        shifts: Its shifts, those of the dynamics included.
        profile: Variant of the edits.
    """

    robot: Robot = field(kw_only=True)
    shifts: tuple[Shift, ...] = ()
    profile: str = "default"

    @property
    def changes(self) -> str:
        """What its shifts change, in words."""
        return "; ".join(shift.describe(self.robot) for shift in self.shifts) or "nothing: the nominal robot"

    @property
    def json_shifts(self) -> list[dict[str, Any]]:
        """Its shifts as plain JSON."""
        return shifts_to_json(self.shifts)

    @property
    def model(self) -> mujoco.MjModel:
        """The compiled model, a new copy."""
        return compile_model(self.robot, self.shifts, self.profile)

    @property
    def base(self) -> mujoco.MjModel:
        """The compiled model of the nominal robot, a new copy."""
        return compile_model(self.robot, ())

    @property
    def height(self) -> float:
        """How much higher than the nominal robot's its episodes start, m; 0 where the height is not known."""
        if self.robot.height_index is None:
            return 0.0
        start = start_qpos(self.robot, self.shifts, self.profile) - start_qpos(self.robot, ())
        return float(start[self.robot.height_index])


def robot_subject(
    robot: Robot, shifts: tuple[Shift, ...], profile: str = "default", name: str | None = None
) -> RobotSubject:
    """Return a robot under any shifts, named or not.

    Args:
        robot: The robot.
        shifts: Its shifts, in order.
        profile: Variant of the edits, see `offdyn_envs.shifts.PROFILES`.
        name: What to call it.

    Returns:
        The subject.
    """
    kwargs: dict[str, Any] = {} if profile == "default" else {"profile": profile}
    if shifts:
        plain = shifts_to_json(shifts)
        # A shift of a kind of one's own has no JSON form and is handed over as a value.
        kwargs["shifts"] = plain if parse_shifts(plain) == shifts else shifts
    called = name or f"{robot.title}: " + ("; ".join(shift.describe(robot) for shift in shifts) or "nominal")
    return RobotSubject(
        called, env_id(robot, "nominal"), kwargs, robot.title, robot=robot, shifts=shifts, profile=profile
    )


def named_subjects() -> dict[str, Subject]:
    """Return every registered environment by its id: the robots', then the refrigerator."""
    subjects: dict[str, Subject] = {}
    for name, (robot, slug) in list_env_ids().items():
        shifts = get_dynamics(robot.name, slug)
        subjects[name] = RobotSubject(name, name, title=robot.title, dynamics=slug, robot=robot, shifts=shifts)
    refrigerator = "OffDyn/Refrigerator-v0"
    subjects[refrigerator] = Subject(refrigerator, refrigerator)
    return subjects


def find_subject(name: str) -> Subject:
    """Return a named environment.

    Args:
        name: Its id, also without "OffDyn/" and "-v0", in any case.

    Returns:
        The subject.

    Raises:
        OffDynError: No such environment; the message names the nearest.
    """
    table = named_subjects()
    found = spelled(name, table)
    if found is None:
        known = table if "/" in name else [key.partition("/")[2].removesuffix("-v0") for key in table]
        raise unknown("environment", name, known, "offdyn envs list")
    return table[found]
