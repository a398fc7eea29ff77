"""The tables: dynamics, datasets, tasks and tracks. Names are looked up here, never parsed for their meaning.

Those of the suite's robots stand here; dynamics and tasks of other robots are registered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from types import MappingProxyType

from offdyn_envs.errors import OffDynError, spelled, unknown
from offdyn_envs.robots import HANDS, ROBOTS, WALKERS, Robot, get_robot
from offdyn_envs.robots.registry import find_others, known_robot, register_environment
from offdyn_envs.shifts import (
    KINEMATIC_LEVELS,
    KINEMATIC_PARTS,
    MORPHOLOGY_LEVELS,
    MORPHOLOGY_PARTS,
    SEVERE,
    BrokenJoint,
    Friction,
    Gravity,
    Kinematic,
    Morphology,
    Shift,
    Shifts,
    ShrinkFinger,
    check_shifts,
    parse_shifts,
)
from offdyn_envs.shifts.local import everywhere

__all__ = [
    "DYNAMICS",
    "HAND_LEVELS",
    "QUALITIES",
    "ROWS",
    "TRACKS",
    "DatasetId",
    "Task",
    "dynamics_of",
    "env_id",
    "get_dynamics",
    "get_task",
    "get_track",
    "list_env_ids",
    "list_tasks",
    "register_dynamics",
    "register_task",
]

PRESET_SCALES = (0.1, 0.5, 2.0, 5.0)
QUALITIES = ("random", "medium", "medium-replay", "medium-expert", "expert")
ROWS: Mapping[str, int] = MappingProxyType({"500": 500, "5k": 5_000, "50k": 50_000, "100k": 100_000, "1m": 1_000_000})
SEVERE_SLUGS = ("kinematic-severe", "morphology-severe")


def _dynamics_table(robot: str) -> dict[str, tuple[Shift, ...]]:
    return {
        "nominal": (),
        **{f"gravity-{scale}": (Gravity(scale),) for scale in PRESET_SCALES},
        **{f"friction-{scale}": (Friction(scale),) for scale in PRESET_SCALES},
        **{
            f"kinematic-{part}-{level}": (Kinematic(part, scale),)
            for part in KINEMATIC_PARTS[robot]
            for level, scale in KINEMATIC_LEVELS.items()
        },
        **{
            f"morphology-{part}-{level}": (Morphology(part, value),)
            for part in MORPHOLOGY_PARTS[robot]
            for level, value in MORPHOLOGY_LEVELS.items()
        },
        "kinematic-severe": (Kinematic(preset=SEVERE),),
        "morphology-severe": (Morphology(preset=SEVERE),),
    }


HAND_LEVELS: Mapping[str, float] = MappingProxyType({"easy": 0.5, "medium": 0.25, "hard": 0.125})
"""Published presets of both shifts of the Adroit hand: the scale of each level."""


def _hand_dynamics() -> dict[str, tuple[Shift, ...]]:
    kinds = (BrokenJoint, ShrinkFinger)
    shifted = {f"{kind.kind}-{level}": (kind(scale),) for kind in kinds for level, scale in HAND_LEVELS.items()}
    return {"nominal": (), **shifted}


_DYNAMICS: dict[str, dict[str, tuple[Shift, ...]]] = {
    **{robot: _dynamics_table(robot) for robot in WALKERS},
    **{robot: _hand_dynamics() for robot in HANDS},
}
DYNAMICS: Mapping[str, Mapping[str, tuple[Shift, ...]]] = MappingProxyType(_DYNAMICS)
"""Named dynamics of each robot: the slug and its shifts; `register_dynamics` adds to them.

23 a walker and 7 a task of the hand, 120 in all.
"""
_SLUG = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")


def dynamics_of(robot: str) -> Mapping[str, tuple[Shift, ...]]:
    """Return the named dynamics of a robot.

    Args:
        robot: For instance "hopper".

    Returns:
        Shifts by slug.

    Raises:
        OffDynError: No such robot.
    """
    return MappingProxyType(_DYNAMICS.get(get_robot(robot).name, {"nominal": ()}))


def register_dynamics(robot: str | Robot, slug: str, shifts: Shifts) -> str:
    """Add named dynamics of a robot: an environment, and datasets of it.

    Args:
        robot: A registered robot or its name.
        slug: The name of the dynamics, for instance "mass-2".
        shifts: One shift or a list, as values or plain JSON objects.

    Returns:
        The id of the environment, for instance "OffDyn/Hopper-mass-2-v0".

    Raises:
        OffDynError: No such robot, a slug that cannot stand in ids or has other shifts already, or shifts that do not
            fit the robot.
    """
    from offdyn_envs.models import compile_model

    body = known_robot(robot)
    table = dynamics_of(body.name)
    if not isinstance(slug, str) or not _SLUG.fullmatch(slug):
        raise OffDynError(f"dynamics of {body.name}: a name must be small letters, digits, - and ., got {slug!r:.80}")
    read = parse_shifts(shifts)
    if read != table.get(slug, read) or slug.replace(".", "p") in {
        other.replace(".", "p") for other in table if other != slug
    }:
        raise OffDynError(f"dynamics of {body.name}: the name '{slug}' is taken")
    check_shifts(read, body)
    compile_model(body, everywhere(read))
    _DYNAMICS.setdefault(body.name, {"nominal": ()})[slug] = read
    name = env_id(body, slug)
    register_environment(body, slug, name)
    return name


def get_dynamics(robot: str, slug: str) -> tuple[Shift, ...]:
    """Return the shifts of a named dynamics.

    Args:
        robot: For instance "hopper".
        slug: For instance "nominal" or "gravity-0.5".

    Returns:
        The shifts, in order.

    Raises:
        OffDynError: No such dynamics; the message names the nearest.
    """
    table = dynamics_of(robot)
    if not isinstance(slug, str) or slug not in table:
        raise unknown(f"dynamics of {robot}", slug, table)
    return table[slug]


def env_id(robot: Robot, slug: str) -> str:
    """Return the environment id of a robot under a named dynamics, for instance "OffDyn/Hopper-gravity-0.5-v0"."""
    get_dynamics(robot.name, slug)
    return f"OffDyn/{robot.title}-v0" if slug == "nominal" else f"OffDyn/{robot.title}-{slug}-v0"


def list_env_ids() -> dict[str, tuple[Robot, str]]:
    """Return every registered environment id with its robot and dynamics slug.

    Examples:
        >>> import offdyn_envs
        >>> "OffDyn/Hopper-gravity-0.5-v0" in offdyn_envs.list_env_ids()
        True
    """
    find_others()
    return {env_id(robot, slug): (robot, slug) for robot in ROBOTS.values() for slug in dynamics_of(robot.name)}


@dataclass(frozen=True)
class DatasetId:
    """What identifies a dataset.

    Attributes:
        robot: Name of the robot.
        dynamics: Dynamics slug under which it was collected.
        quality: One of `QUALITIES`.
        rows: One of `ROWS`, for instance "1m".
    """

    robot: str
    dynamics: str
    quality: str
    rows: str

    def __post_init__(self) -> None:
        get_dynamics(self.robot, self.dynamics)
        if self.quality not in QUALITIES:
            raise unknown("quality", self.quality, QUALITIES)
        if self.rows not in ROWS:
            raise unknown("dataset size", self.rows, ROWS)

    def __str__(self) -> str:
        """Return the id; Minari allows no dots, so gravity-0.5 becomes gravity-0p5."""
        return f"offdyn/{self.robot}/{self.dynamics.replace('.', 'p')}/{self.quality}-{self.rows}-v0"

    @property
    def row_count(self) -> int:
        """Number of rows."""
        return ROWS[self.rows]

    @staticmethod
    def parse(text: str) -> DatasetId:
        """Return the dataset that an id names.

        Args:
            text: For instance "offdyn/hopper/gravity-0p5/medium-5k-v0"; "hopper/gravity-0.5/medium-5k" is the same.

        Returns:
            The parts of the id.

        Raises:
            OffDynError: No such dataset; the message names the nearest.
        """
        found = spelled(text, _dataset_table(_named_dynamics()))
        if found is None:
            find_others()
        table = _dataset_table(_named_dynamics())
        found = found or spelled(text, table)
        if found is None:
            raise unknown("dataset", text, table, "offdyn data list")
        return table[found]


def _named_dynamics() -> tuple[tuple[str, str], ...]:
    return tuple((robot, slug) for robot in ROBOTS for slug in dynamics_of(robot))


@lru_cache(maxsize=1)
def _dataset_table(named: tuple[tuple[str, str], ...]) -> Mapping[str, DatasetId]:
    ids = [DatasetId(*names, quality, rows) for names in named for quality in QUALITIES for rows in ROWS]
    return MappingProxyType({str(item): item for item in ids})


@dataclass(frozen=True)
class Task:
    """A pair of datasets and the environment in which a policy is scored.

    Attributes:
        name: For instance "hopper-gravity-0.5-medium".
        robot: Name of the robot.
        dynamics: Dynamics slug of the shifted side; "nominal" where there is none.
        quality: Quality of both datasets.
        source: The plentiful data, 1,000,000 rows.
        target: The scarce data, 5,000 rows.
        scoring: Dynamics slug of the environment that scores.
    """

    name: str
    robot: str
    dynamics: str
    quality: str
    source: DatasetId
    target: DatasetId
    scoring: str

    @property
    def env_id(self) -> str:
        """Id of the scoring environment."""
        return env_id(get_robot(self.robot), self.scoring)

    @property
    def shift_kinds(self) -> tuple[str, ...]:
        """Kinds of shifts by which source and target differ, for instance ("kinematic",), in order."""
        source, target = (get_dynamics(self.robot, data.dynamics) for data in (self.source, self.target))
        differing = [shift for shift in (*source, *target) if (shift in source) != (shift in target)]
        return tuple(dict.fromkeys(shift.kind for shift in differing))


@cache
def _task_table() -> dict[str, Task]:
    tasks: dict[str, Task] = {}
    for robot in (*WALKERS, *HANDS):
        for dynamics in DYNAMICS[robot]:
            for quality in QUALITIES:
                nominal = DatasetId(robot, "nominal", quality, "1m")
                target = DatasetId(robot, dynamics, quality, "5k")
                name = f"{robot}-{dynamics}-{quality}"
                tasks[name] = Task(name, robot, dynamics, quality, nominal, target, scoring=dynamics)
        for dynamics in SEVERE_SLUGS if robot in WALKERS else ():
            for quality in QUALITIES:
                source = DatasetId(robot, dynamics, quality, "1m")
                target = DatasetId(robot, "nominal", quality, "5k")
                name = f"{robot}-from-{dynamics}-{quality}"
                tasks[name] = Task(name, robot, dynamics, quality, source, target, scoring="nominal")
    return tasks


def register_task(name: str, source: str | DatasetId, target: str | DatasetId) -> Task:
    """Add a task: a pair of datasets of one robot; the dynamics of the target score.

    Args:
        name: What it is called, for instance "crane-mass-2-medium".
        source: Id of the plentiful dataset, for instance "offdyn/crane/nominal/medium-50k-v0".
        target: Id of the scarce one, for instance "offdyn/crane/mass-2/medium-5k-v0".

    Returns:
        The task.

    Raises:
        OffDynError: A name that cannot stand for a folder or is another task's, no such datasets, or two robots.
    """
    if not isinstance(name, str) or not _SLUG.fullmatch(name.replace("_", "-")):
        raise OffDynError(f"task: a name must be small letters, digits, -, _ and ., got {name!r:.80}")
    ids = [item if isinstance(item, DatasetId) else DatasetId.parse(item) for item in (source, target)]
    if ids[0].robot != ids[1].robot:
        raise OffDynError(f"task '{name}': source is a {ids[0].robot} and target a {ids[1].robot}; one robot is needed")
    task = Task(name, ids[1].robot, ids[1].dynamics, ids[1].quality, *ids, scoring=ids[1].dynamics)
    if _task_table().get(name, task) != task:
        raise OffDynError(f"task '{name}': the name is taken")
    _task_table()[name] = task
    return task


def list_tasks() -> list[Task]:
    """Return every task.

    Examples:
        >>> import offdyn_envs
        >>> "hopper-gravity-0.5-medium" in [task.name for task in offdyn_envs.list_tasks()]
        True
    """
    find_others()
    return list(_task_table().values())


def get_task(name: str) -> Task:
    """Return a task by name.

    Args:
        name: For instance "hopper-gravity-0.5-medium"; "Hopper-gravity-0p5-medium" is the same.

    Returns:
        The task.

    Raises:
        OffDynError: No such task; the message names the nearest.

    Examples:
        >>> import offdyn_envs
        >>> str(offdyn_envs.get_task("hopper-gravity-0.5-medium").target)
        'offdyn/hopper/gravity-0p5/medium-5k-v0'
    """
    found = spelled(name, _task_table())
    if found is None:
        find_others()
    table = _task_table()
    found = found or spelled(name, table)
    if found is None:
        raise unknown("task", name, table, "offdyn tasks")
    return table[found]


def _targets(*families: str) -> tuple[str, ...]:
    return tuple(
        f"{robot}-{slug}-medium"
        for robot in WALKERS
        for slug in DYNAMICS[robot]
        if slug.startswith(families) and slug not in SEVERE_SLUGS
    )


TRACKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mobody-32": _targets("gravity-", "friction-"),
        "odrl-48": _targets("kinematic-", "morphology-"),
        "droco-32": tuple(
            f"{robot}-from-{slug}-{quality}"
            for slug in SEVERE_SLUGS
            for robot in WALKERS
            for quality in QUALITIES
            if quality != "random"
        ),
        "single-12": tuple(
            f"{robot}-nominal-{quality}"
            for robot in ("halfcheetah", "hopper", "walker2d")
            for quality in QUALITIES
            if quality != "expert"
        ),
        "core-6": (
            "halfcheetah-gravity-0.5-medium",
            "halfcheetah-friction-0.1-medium",
            "hopper-gravity-0.5-medium",
            "hopper-from-kinematic-severe-medium",
            "walker2d-gravity-5.0-medium",
            "ant-gravity-5.0-medium",
        ),
        "core-12": (
            "halfcheetah-friction-0.1-medium",
            "ant-gravity-5.0-medium",
            "ant-friction-5.0-medium",
            "walker2d-gravity-0.1-medium",
            "walker2d-gravity-5.0-medium",
            "walker2d-friction-2.0-medium",
            "hopper-gravity-0.5-medium",
            "halfcheetah-gravity-0.5-medium",
            "hopper-from-kinematic-severe-medium",
            "walker2d-from-kinematic-severe-medium",
            "halfcheetah-from-kinematic-severe-medium-expert",
            "ant-from-kinematic-severe-medium-expert",
        ),
    }
)
"""Tracks of the leaderboard: the tasks that one table ranks.

`core-6` is small enough for two cores; `core-12` holds those with published figures.
"""


def get_track(name: str) -> tuple[str, ...]:
    """Return the task names of a track.

    Raises:
        OffDynError: No such track.
    """
    found = spelled(name, TRACKS)
    if found is None:
        raise unknown("track", name, TRACKS)
    return TRACKS[found]
