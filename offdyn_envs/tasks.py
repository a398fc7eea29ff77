"""The tables: dynamics, datasets, tasks and tracks. Names are looked up here, never parsed for their meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from offdyn_envs.errors import unknown
from offdyn_envs.robots import ROBOTS, Robot, get_robot
from offdyn_envs.shifts import Friction, Gravity, Shift

__all__ = [
    "DYNAMICS",
    "QUALITIES",
    "ROWS",
    "TRACKS",
    "DatasetId",
    "Task",
    "env_id",
    "get_dynamics",
    "get_task",
    "get_track",
    "list_env_ids",
    "list_tasks",
]

PRESET_SCALES = (0.1, 0.5, 2.0, 5.0)
QUALITIES = ("random", "medium", "medium-replay", "medium-expert", "expert")
ROWS: Mapping[str, int] = MappingProxyType({"500": 500, "5k": 5_000, "50k": 50_000, "100k": 100_000, "1m": 1_000_000})

DYNAMICS: Mapping[str, tuple[Shift, ...]] = MappingProxyType(
    {
        "nominal": (),
        **{f"gravity-{scale}": (Gravity(scale),) for scale in PRESET_SCALES},
        **{f"friction-{scale}": (Friction(scale),) for scale in PRESET_SCALES},
    }
)
"""Named dynamics of every robot: the slug and its shifts."""


def get_dynamics(slug: str) -> tuple[Shift, ...]:
    """Return the shifts of a named dynamics.

    Args:
        slug: For instance "nominal" or "gravity-0.5".

    Returns:
        The shifts, in order.

    Raises:
        OffDynError: No such dynamics; the message names the nearest.
    """
    shifts = DYNAMICS.get(slug)
    if shifts is None:
        raise unknown("dynamics", slug, DYNAMICS)
    return shifts


def env_id(robot: Robot, slug: str) -> str:
    """Return the environment id of a robot under a named dynamics, for instance "OffDyn/Hopper-gravity-0.5-v0"."""
    get_dynamics(slug)
    return f"OffDyn/{robot.title}-v0" if slug == "nominal" else f"OffDyn/{robot.title}-{slug}-v0"


def list_env_ids() -> dict[str, tuple[Robot, str]]:
    """Return every registered environment id with its robot and dynamics slug."""
    return {env_id(robot, slug): (robot, slug) for robot in ROBOTS.values() for slug in DYNAMICS}


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
        get_robot(self.robot)
        get_dynamics(self.dynamics)
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
            text: For instance "offdyn/hopper/gravity-0p5/medium-5k-v0".

        Returns:
            The parts of the id.

        Raises:
            OffDynError: No such dataset; the message names the nearest.
        """
        found = _dataset_table().get(str(text))
        if found is None:
            raise unknown("dataset", text, _dataset_table())
        return found


@lru_cache(maxsize=1)
def _dataset_table() -> Mapping[str, DatasetId]:
    ids = [
        DatasetId(robot, dynamics, quality, rows)
        for robot in ROBOTS
        for dynamics in DYNAMICS
        for quality in QUALITIES
        for rows in ROWS
    ]
    return MappingProxyType({str(item): item for item in ids})


@dataclass(frozen=True)
class Task:
    """A pair of datasets and the environment in which a policy is scored.

    Attributes:
        name: For instance "hopper-gravity-0.5-medium".
        robot: Name of the robot.
        dynamics: Dynamics slug of the shifted side.
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


@lru_cache(maxsize=1)
def _task_table() -> Mapping[str, Task]:
    tasks: dict[str, Task] = {}
    for robot in ROBOTS:
        for dynamics in DYNAMICS:
            if dynamics == "nominal":
                continue
            for quality in QUALITIES:
                name = f"{robot}-{dynamics}-{quality}"
                source = DatasetId(robot, "nominal", quality, "1m")
                target = DatasetId(robot, dynamics, quality, "5k")
                tasks[name] = Task(name, robot, dynamics, quality, source, target, scoring=dynamics)
    return MappingProxyType(tasks)


def list_tasks() -> list[Task]:
    """Return every task."""
    return list(_task_table().values())


def get_task(name: str) -> Task:
    """Return a task by name.

    Args:
        name: For instance "hopper-gravity-0.5-medium".

    Returns:
        The task.

    Raises:
        OffDynError: No such task; the message names the nearest.
    """
    task = _task_table().get(name)
    if task is None:
        raise unknown("task", name, _task_table())
    return task


TRACKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mobody-32": tuple(
            f"{robot}-{dynamics}-medium" for robot in ROBOTS for dynamics in DYNAMICS if dynamics != "nominal"
        ),
    }
)
"""Tracks of the leaderboard: the tasks that one table ranks."""


def get_track(name: str) -> tuple[str, ...]:
    """Return the task names of a track.

    Raises:
        OffDynError: No such track.
    """
    if name not in TRACKS:
        raise unknown("track", name, TRACKS)
    return TRACKS[name]
