"""What a run is about: the source and the target that it learns from, and the environment that scores it.

`NamedTask` is one of the suite's tasks; `offdyn_agents.runs.own_pairs` has pairs of anybody's data.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.benchmark.scoring.rollouts import population_returns
from offdyn_envs.benchmark.scoring.scores import normaliser
from offdyn_envs.datasets.own.contract import Contract, plain_contract
from offdyn_envs.errors import OffDynError

if TYPE_CHECKING:
    from pathlib import Path

    from offdyn_agents.engine.resources import Hardware
    from offdyn_envs.benchmark.scoring.environments import Place
    from offdyn_envs.datasets.store.spec import Dataset
    from offdyn_envs.tasks import DatasetId

__all__ = ["EVALUATION_SEED", "Act", "Loaded", "NamedTask", "Normalise", "Problem", "Returns", "target_returns"]

Normalise = Callable[[Any], NDArray[np.float64]]
Act = Callable[[NDArray[Any]], NDArray[Any]]
Returns = Callable[[Act, int], NDArray[np.float64]]
"""Maps a population's policies (observations [R, E, |S|] to actions [R, E, |A|]) and R to returns [R, E]."""

EVALUATION_SEED = 500_000
"""Fixed: every point of a learning curve starts from the same states. Reported scores have other seeds."""


def target_returns(robot: str, dynamics: str, episodes: int, threads: int) -> Returns:
    """Return the function that runs every policy for some episodes in a robot's environment.

    Args:
        robot: Name of the robot.
        dynamics: Slug of the dynamics.
        episodes: E.
        threads: Simulation threads.
    """
    from offdyn_envs.benchmark.scoring.rollouts import population_returns
    from offdyn_envs.tasks import get_dynamics

    shifts = get_dynamics(robot, dynamics)

    def returns(act: Act, members: int) -> NDArray[np.float64]:
        return population_returns(act, members, robot, shifts, episodes, EVALUATION_SEED, num_threads=threads)

    return returns


@dataclass(frozen=True)
class Loaded:
    """The data of a problem.

    Attributes:
        source: Source dataset; None where there is none to learn from.
        target: Target dataset.
        names: What run.json calls them.
    """

    source: Any
    target: Any
    names: Mapping[str, str]


class Problem(abc.ABC):
    """What a run is about."""

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """Its name; a folder of runs is called so."""

    @property
    @abc.abstractmethod
    def robot(self) -> str | None:
        """Name of the robot; None for robots that the suite does not know."""

    @property
    @abc.abstractmethod
    def sizes(self) -> tuple[int, int]:
        """|S| and |A|."""

    @property
    def quality(self) -> str:
        """Quality of the data, for presets; "" where there is no such thing."""
        return ""

    @property
    def shifts(self) -> tuple[str, ...]:
        """Kinds of shifts by which source and target differ, for presets; none where they are not known."""
        return ()

    @property
    def other_target(self) -> bool:
        """Whether the target dataset is not the task's own."""
        return False

    @property
    def has_source(self) -> bool:
        """Whether there are source rows to learn from, here or elsewhere."""
        return True

    def check(self, data: str) -> None:
        """See whether an agent can learn from these rows, before anything is looked for.

        Args:
            data: Rows that the agent learns from, as its setting `data` names them.

        Raises:
            OffDynError: There are none such.
        """
        del data

    @abc.abstractmethod
    def needed(self, data: str, with_source: bool = True) -> Sequence[DatasetId]:
        """Return the suite's datasets that have to be here; own data are looked at at once.

        Args:
            data: Rows that the agent learns from, as its setting `data` names them.
            with_source: Whether source rows are wanted.

        Raises:
            OffDynError: Own data or their environment cannot be had, or do not fit each other.
        """

    @abc.abstractmethod
    def load(self, data: str, with_source: bool = True) -> Loaded:
        """Load what an agent learns from.

        Args:
            data: Rows that the agent learns from, as its setting `data` names them.
            with_source: Whether source rows are among them; those of a task are not touched otherwise.
        """

    def source_of_exams(self, fetch: bool) -> Any:
        """Load the source rows that learned models are asked about, for agents that learned from none.

        Args:
            fetch: Download them where they are not here and a server is configured.

        Raises:
            OffDynError: They are not here.
        """
        raise OffDynError(f"{self.title} has no source rows to ask learned models about")

    @abc.abstractmethod
    def returns(self, episodes: int, threads: int) -> Returns | None:
        """Return the function that scores policies during training; None without an environment."""

    @abc.abstractmethod
    def score(self, act: Act, members: int, episodes: int, seed: int, threads: int) -> NDArray[np.float64]:
        """Return the returns [R, E] of policies that act in the units of the data.

        Args:
            act: Maps observations [R, E, |S|] to actions [R, E, |A|].
            members: R.
            episodes: E.
            seed: Episode e of every policy is seeded with seed + e.
            threads: Simulation threads.

        Raises:
            OffDynError: There is no environment.
        """

    def normalise(self) -> Normalise | None:
        """Return what maps returns to scores; None without reference returns."""
        return None

    def scored_in(self, place: Place) -> bool:
        """Say whether an environment is the one whose returns `normalise` takes."""
        del place
        return False

    @property
    @abc.abstractmethod
    def contract(self) -> Contract:
        """What the columns of the data are."""

    def terminated(self, loaded: Loaded, cache: Path, hardware: Hardware, quiet: bool) -> tuple[Any, dict[str, Any]]:
        """Return what ends episodes inside learned models, and what run.json says of it; None for the robot's own."""
        del loaded, cache, hardware, quiet
        return None, {}

    @abc.abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what run.json says of it beside its name."""

    @abc.abstractmethod
    def words(self) -> list[str]:
        """Return the arguments of `offdyn train` that name it."""


@dataclass(frozen=True)
class NamedTask(Problem):
    """One of the suite's tasks.

    Attributes:
        name: Its name.
        target_rows: Size of the target dataset where it is not the task's own.
    """

    name: str
    target_rows: str = ""

    @property
    def _task(self) -> Any:
        from offdyn_envs.tasks import get_task

        return get_task(self.name)

    @property
    def title(self) -> str:
        """Its name."""
        return self.name

    @property
    def robot(self) -> str:
        """Name of the robot."""
        return self._task.robot

    @property
    def quality(self) -> str:
        """Quality of the data."""
        return self._task.quality

    @property
    def shifts(self) -> tuple[str, ...]:
        """Kinds of shifts by which source and target differ."""
        return self._task.shift_kinds

    @property
    def sizes(self) -> tuple[int, int]:
        """|S| and |A|."""
        from offdyn_envs.robots import get_robot

        robot = get_robot(self.robot)
        return robot.observation_dim, robot.action_dim

    @property
    def contract(self) -> Contract:
        """What the columns of the data are; the suite's own have actions in [-1, 1]."""
        from offdyn_envs.robots import get_robot

        return plain_contract(*self.sizes, time_step=get_robot(self.robot).dt)

    @property
    def target(self) -> DatasetId:
        """The target dataset.

        Raises:
            OffDynError: No such task or size.
        """
        own = self._task.target
        return replace(own, rows=self.target_rows) if self.target_rows else own

    @property
    def other_target(self) -> bool:
        """Whether the target dataset is not the task's own."""
        return self.target != self._task.target

    def datasets(self, data: str, with_source: bool = True) -> dict[str, DatasetId]:
        """Return the "source", if it is wanted, and the "target" of a run; an oracle has a target alone, as large."""
        from offdyn_envs.tasks import DatasetId

        task = self._task
        if data == "oracle":
            return {"target": DatasetId(task.robot, task.scoring, task.quality, "1m")}
        return ({"source": task.source} if with_source else {}) | {"target": self.target}

    def check(self, data: str) -> None:
        """See `Problem.check`."""
        if self.other_target and data == "oracle":
            raise OffDynError(
                f"data=oracle learns from 1m target rows; target size '{self.target_rows}' says otherwise"
            )

    def needed(self, data: str, with_source: bool = True) -> Sequence[DatasetId]:
        """See `Problem.needed`."""
        return list(self.datasets(data, with_source).values())

    def load(self, data: str, with_source: bool = True) -> Loaded:
        """See `Problem.load`."""
        from offdyn_envs import datasets

        names = self.datasets(data, with_source)
        told = {what: str(name) for what, name in names.items()}
        if "source" not in names:
            return Loaded(None, datasets.load_dataset(names["target"]), told)
        return Loaded(*self._pair(), told)

    def source_of_exams(self, fetch: bool) -> Any:
        """See `Problem.source_of_exams`."""
        from offdyn_envs import datasets
        from offdyn_envs.datasets.store.folders import available

        source = self._task.source
        if not fetch and not available(source):
            raise OffDynError(f"source rows are not on this machine; build them with: offdyn data build {source}")
        return datasets.load_dataset(source)

    def _pair(self) -> tuple[Dataset, Dataset]:
        import offdyn_envs

        if self.other_target:
            env, source, target = offdyn_envs.load_task(source=self._task.source, target=self.target)
        else:
            env, source, target = offdyn_envs.load_task(self.name)
        env.close()
        return source, target  # pyright: ignore[reportReturnType]

    def returns(self, episodes: int, threads: int) -> Returns:
        """See `Problem.returns`."""
        return target_returns(self.robot, self._task.scoring, episodes, threads)

    def score(self, act: Act, members: int, episodes: int, seed: int, threads: int) -> NDArray[np.float64]:
        """See `Problem.score`."""
        from offdyn_envs.tasks import get_dynamics

        shifts = get_dynamics(self.robot, self._task.scoring)
        return population_returns(act, members, self.robot, shifts, episodes, seed, num_threads=threads)

    def normalise(self) -> Normalise | None:
        """See `Problem.normalise`."""
        return normaliser(self.name)

    def scored_in(self, place: Place) -> bool:
        """See `Problem.scored_in`."""
        from offdyn_envs.robots import get_robot
        from offdyn_envs.tasks import get_dynamics

        return place.suite == (get_robot(self.robot), get_dynamics(self.robot, self._task.scoring))

    def terminated(self, loaded: Loaded, cache: Path, hardware: Hardware, quiet: bool) -> tuple[Any, dict[str, Any]]:
        """See `Problem.terminated`."""
        from offdyn_agents.engine.termination import tells_its_end
        from offdyn_envs.robots import get_robot

        if tells_its_end(get_robot(self.robot)):
            return None, {}
        from offdyn_agents.models.termination import resolve

        return resolve(None, loaded.source, loaded.target, cache=cache, threads=hardware.threads, quiet=quiet)

    def facts(self) -> dict[str, Any]:
        """See `Problem.facts`."""
        return {"target_rows": self.target_rows} if self.other_target else {}

    def words(self) -> list[str]:
        """See `Problem.words`."""
        return [self.name]
