"""Which behaviours exist, in which order they are trained, and what is done."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from offdyn_agents.behaviour.recipes import TAUGHT, Recipe, recipe_of
from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.robots import WALKERS
from offdyn_envs.robots.registry import is_robot
from offdyn_envs.shipped import REPLAY, behaviour_path
from offdyn_envs.tasks import DYNAMICS, SEVERE_SLUGS, get_dynamics

QUALITIES = ("medium", "expert")


@dataclass(frozen=True, order=True)
class Behaviour:
    """One entry of the programme: a medium and an expert policy out of one run.

    Attributes:
        robot: robot name.
        dynamics: dynamics slug.
    """

    robot: str
    dynamics: str

    def __post_init__(self) -> None:
        get_dynamics(self.robot, self.dynamics)

    def __str__(self) -> str:
        return f"{self.robot} {self.dynamics}"

    @property
    def recipe(self) -> Recipe:
        """How it is learned."""
        return recipe_of(self.robot, self.dynamics)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the policies to ship: the two qualities, and for sources those on the way to medium."""
        source = self.dynamics in ("nominal", *SEVERE_SLUGS) and not self.recipe.lesson
        return (*QUALITIES, *REPLAY) if source else QUALITIES

    @property
    def done(self) -> bool:
        """Whether all policies and their cards exist."""
        return self._exist(self.names)

    @property
    def measured(self) -> bool:
        """Whether medium and expert exist."""
        return self._exist(QUALITIES)

    def _exist(self, names: tuple[str, ...]) -> bool:
        paths = [behaviour_path(self.robot, self.dynamics, name) for name in names]
        return all(path.exists() and path.with_suffix(".json").exists() for path in paths)

    def directory(self, root: Path) -> Path:
        """Folder of the run's state.

        Args:
            root: folder of all runs.

        Returns:
            The path.
        """
        return root / self.robot / self.dynamics

    def stages(self, root: Path) -> list[tuple[Path, int]]:
        """Folder and units of the runs, in order.

        Args:
            root: folder of all runs.

        Returns:
            One entry, or two with a warm start.
        """
        first, warm = self.directory(root), self.recipe.warm_start
        if warm is None:
            return [(first, self.recipe.budget)]
        return [(first, warm.after), (first / "warm", warm.units)]


# In the order in which the trainings start.
TIERS: Mapping[str, tuple[Behaviour, ...]] = MappingProxyType(
    {
        "A": tuple(
            Behaviour(robot, slug)
            for robot in WALKERS
            for slug in DYNAMICS[robot]
            if slug == "nominal" or slug.startswith(("gravity-", "friction-"))
        ),
        "B": tuple(Behaviour(robot, slug) for robot in WALKERS for slug in SEVERE_SLUGS),
        "C": tuple(
            Behaviour(robot, slug)
            for robot in WALKERS
            for slug in DYNAMICS[robot]
            if slug.startswith(("kinematic-", "morphology-")) and slug not in SEVERE_SLUGS
        ),
    }
)
PROGRAMME: tuple[Behaviour, ...] = tuple(behaviour for tier in TIERS.values() for behaviour in tier)


def taught(robot: str, dynamics: list[str]) -> list[Behaviour]:
    """The behaviours of a robot that a teacher teaches.

    Args:
        robot: robot name.
        dynamics: dynamics slugs; all of the robot's where empty.

    Returns:
        Behaviours in the order given.

    Raises:
        OffDynError: an unknown name, or a robot that needs no teacher.
    """
    if robot not in TAUGHT:
        raise unknown("robot with a teacher", robot, TAUGHT)
    return [Behaviour(robot, slug) for slug in dynamics or DYNAMICS[robot]]


def default_root() -> Path:
    """Folder of all runs: `runs/behaviours` in the working directory, or $OFFDYN_RUNS/behaviours."""
    return Path(os.environ.get("OFFDYN_RUNS", "runs")) / "behaviours"


def select(robots: list[str], dynamics: list[str]) -> list[Behaviour]:
    """The behaviours that the options of the command name.

    Args:
        robots: robot names; the n-th goes with the n-th dynamics. Empty: the whole programme.
        dynamics: dynamics slugs; may be empty: then all of the programme's for the robots.

    Returns:
        Behaviours in the order given.

    Raises:
        OffDynError: an unknown name, a robot outside the programme, or counts that do not match.
    """
    for robot in robots:
        _check_in_programme(robot)
    if dynamics and len(robots) != len(dynamics):
        raise OffDynError(f"--robot is given {len(robots)} times and --dynamics {len(dynamics)} times; give one each")
    if dynamics:
        return [Behaviour(robot, slug) for robot, slug in zip(robots, dynamics, strict=True)]
    return [x for x in PROGRAMME if not robots or x.robot in robots]


def _check_in_programme(robot: str) -> None:
    if robot in WALKERS:
        return
    if robot in TAUGHT:
        helps = f"offdyn dev behaviour teach {robot} --teacher FILE"
        raise OffDynError(f"robot '{robot}' learns from a teacher, not from nothing; use: {helps}")
    if is_robot(robot):
        raise OffDynError(
            f"robot '{robot}' has no recipe (allowed: {', '.join(WALKERS)}); give its package a scripted policy, "
            f"register_robot(..., behaviours={{...}}), then: offdyn data build {robot}/nominal/medium-5k"
        )
    raise unknown("robot", robot, WALKERS)
