"""What a run is about: the source and the target that it learns from, and the environment that scores it.

`NamedTask` is one of the suite's tasks, `OwnPair` any two datasets of equal dimensions, from files or from memory.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offdyn_agents.engine.training.callbacks import EVALUATION_SEED, Returns, target_returns
from offdyn_envs.benchmark.scoring.environments import Place, find_place, place_returns
from offdyn_envs.benchmark.scoring.rollouts import population_returns
from offdyn_envs.benchmark.scoring.scores import normaliser
from offdyn_envs.datasets.own.contract import Contract, plain_contract
from offdyn_envs.errors import OffDynError

if TYPE_CHECKING:
    from offdyn_envs.datasets.store.spec import Dataset
    from offdyn_envs.tasks import DatasetId

__all__ = ["Loaded", "NamedTask", "OwnPair", "Problem", "problem_of"]

Normalise = Callable[[Any], NDArray[np.float64]]
Act = Callable[[Any], NDArray[Any]]


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
    def other_target(self) -> bool:
        """Whether the target dataset is not the task's own."""
        return False

    def check(self, data: str) -> None:
        """See whether an agent can learn from these rows, before anything is looked for.

        Args:
            data: Rows that the agent learns from, as its setting `data` names them.

        Raises:
            OffDynError: There are none such.
        """
        del data

    @abc.abstractmethod
    def needed(self, data: str) -> Sequence[DatasetId]:
        """Return the suite's datasets that have to be here; own data are looked at at once.

        Args:
            data: Rows that the agent learns from, as its setting `data` names them.

        Raises:
            OffDynError: Own data or their environment cannot be had, or do not fit each other.
        """

    @abc.abstractmethod
    def load(self, data: str) -> Loaded:
        """Load what an agent learns from."""

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
    def contract(self) -> Contract:
        """What the columns of the data are; the suite's own have actions in [-1, 1]."""
        return plain_contract(*self.sizes)

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
    def sizes(self) -> tuple[int, int]:
        """|S| and |A|."""
        from offdyn_envs.robots import get_robot

        robot = get_robot(self.robot)
        return robot.observation_dim, robot.action_dim

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

    def datasets(self, data: str) -> dict[str, DatasetId]:
        """Return the "source" and "target" of a run; an oracle has a target alone, as large as a source."""
        from offdyn_envs.tasks import DatasetId

        task = self._task
        if data == "oracle":
            return {"target": DatasetId(task.robot, task.scoring, task.quality, "1m")}
        return {"source": task.source, "target": self.target}

    def check(self, data: str) -> None:
        """See `Problem.check`."""
        if self.other_target and data == "oracle":
            raise OffDynError(
                f"data=oracle learns from 1m target rows; target size '{self.target_rows}' says otherwise"
            )

    def needed(self, data: str) -> Sequence[DatasetId]:
        """See `Problem.needed`."""
        return list(self.datasets(data).values())

    def load(self, data: str) -> Loaded:
        """See `Problem.load`."""
        from offdyn_envs import datasets

        names = self.datasets(data)
        told = {what: str(name) for what, name in names.items()}
        if "source" not in names:
            return Loaded(None, datasets.load_dataset(names["target"]), told)
        return Loaded(*self._pair(), told)

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

    def facts(self) -> dict[str, Any]:
        """See `Problem.facts`."""
        return {"target_rows": self.target_rows} if self.other_target else {}

    def words(self) -> list[str]:
        """See `Problem.words`."""
        return [self.name]


@dataclass(frozen=True, eq=False)
class OwnPair(Problem):
    """Any two datasets of equal dimensions.

    Attributes:
        source: A dataset in memory, or the name or path of one.
        target: Likewise.
        env: The environment that scores, as `find_place` takes it; None for none.
        termination: What ends episodes inside learned models: a robot's name, "learned", "never", a function, or None
            for what the data suggest.
        name: What folders are called; "" for the names of the data.
        declared: What the columns of the data are, where that is known without them.
    """

    source: Any
    target: Any
    env: Any = None
    termination: Any = None
    name: str = ""
    declared: Contract | None = None

    @property
    def title(self) -> str:
        """Its name, or those of the data."""
        return self.name or f"{_word(self.source, 'source')}-to-{_word(self.target, 'target')}"

    @cached_property
    def pair(self) -> tuple[Any, Any]:
        """Source and target, loaded.

        Raises:
            OffDynError: They cannot be had, or are of unequal dimensions.
        """
        source, target = (_dataset(data, what) for data, what in ((self.source, "source"), (self.target, "target")))
        sizes = [(data.observations.shape[1], data.actions.shape[1]) for data in (source, target)]
        if sizes[0] != sizes[1]:
            raise OffDynError(
                f"source has {sizes[0][0]} observations and {sizes[0][1]} actions, target {sizes[1][0]} and "
                f"{sizes[1][1]}; equal dimensions are needed"
            )
        contracts = [contract_of(data) for data in (source, target)]
        bounds = [(contract.action_low, contract.action_high) for contract in contracts]
        if bounds[0] != bounds[1]:
            raise OffDynError(f"actions of the source lie in {bounds[0]}, those of the target in {bounds[1]}")
        return source, target

    @cached_property
    def place(self) -> Place | None:
        """The environment, checked against the data."""
        if self.env is None:
            return None
        place = self.env if isinstance(self.env, Place) else find_place(self.env)
        contract = self.contract
        place.check(*self.sizes, np.array(contract.action_low), np.array(contract.action_high))
        return place

    @property
    def contract(self) -> Contract:
        """What the columns of the data are."""
        return self.declared or contract_of(self.pair[1])

    @property
    def robot(self) -> str | None:
        """The robot that both datasets name, if they do."""
        names = {_robot(data) for data in self.pair}
        return names.pop() if len(names) == 1 else None

    @property
    def sizes(self) -> tuple[int, int]:
        """|S| and |A|."""
        return len(self.contract.observations), len(self.contract.actions)

    def check(self, data: str) -> None:
        """See `Problem.check`."""
        if data == "oracle":
            raise OffDynError("data=oracle needs a task of the suite; merged, source and target are allowed here")

    def needed(self, data: str) -> Sequence[DatasetId]:
        """See `Problem.needed`."""
        del data
        _ = self.pair, self.place
        return ()

    def load(self, data: str) -> Loaded:
        """See `Problem.load`."""
        del data
        return Loaded(*self.pair, {"source": _name(self.source), "target": _name(self.target)})

    def returns(self, episodes: int, threads: int) -> Returns | None:
        """See `Problem.returns`."""
        if self.place is None:
            return None
        low, high = np.array(self.contract.action_low), np.array(self.contract.action_high)

        def returns(act: Act, members: int) -> NDArray[np.float64]:
            def scaled(observations: Any) -> Any:
                return low + (np.asarray(act(observations), dtype=np.float64) + 1.0) * ((high - low) / 2.0)

            return self.score(scaled, members, episodes, EVALUATION_SEED, threads)

        return returns

    def score(self, act: Act, members: int, episodes: int, seed: int, threads: int) -> NDArray[np.float64]:
        """See `Problem.score`."""
        if self.place is None:
            raise OffDynError(f"{self.title}: there is no environment to score in; name one, or use --offline")
        return place_returns(self.place, act, members, episodes, seed, threads)

    def facts(self) -> dict[str, Any]:
        """See `Problem.facts`."""
        told = self.place.told if self.place else None
        ends = self.termination if self.termination is None or isinstance(self.termination, str) else "function"
        pair: dict[str, Any] = {"source": _name(self.source), "target": _name(self.target), "env": told}
        pair["termination"] = ends
        if MEMORY in pair.values():
            pair["sha256"] = [getattr(data, "sha256", "") for data in self.pair]
        return {"pair": pair, "contract": self.contract.to_json()}

    def words(self) -> list[str]:
        """See `Problem.words`."""
        words = ["--source", _name(self.source), "--target", _name(self.target)]
        if self.place and self.place.told:
            words += ["--env", self.place.told]
        if isinstance(self.termination, str):
            words += ["--termination", self.termination]
        return [*words, *(["--name", self.name] if self.name else [])]


MEMORY = "in memory"


def problem_of(facts: Mapping[str, Any]) -> Problem:
    """Return what a run.json is about.

    Args:
        facts: Its contents.
    """
    pair = facts.get("pair")
    if pair is None:
        return NamedTask(facts["task"], facts.get("target_rows", ""))
    declared = Contract.from_json(facts["contract"])
    return OwnPair(pair["source"], pair["target"], pair["env"], pair["termination"], facts["task"], declared)


def contract_of(data: Any) -> Contract:
    """Return what the columns of a dataset are."""
    found = getattr(data, "contract", None)
    return found or plain_contract(data.observations.shape[1], data.actions.shape[1])


def _dataset(data: Any, what: str) -> Any:
    if not isinstance(data, str):
        return data
    if data == MEMORY:
        raise OffDynError(f"the {what} of this run was in memory; go on from Python, with the same arrays")
    from offdyn_envs.datasets.importing.pairs import load_any

    return load_any(data)


def _robot(data: Any) -> str | None:
    card = getattr(data, "card", None)
    return card.get("robot") if isinstance(card, Mapping) else None


def _name(data: Any) -> str:
    if isinstance(data, str):
        return data
    found = getattr(data, "id", None)
    return MEMORY if found is None else str(found)


def _word(data: Any, otherwise: str) -> str:
    """Return a word for folders."""
    name = _name(data)
    if name == MEMORY:
        return otherwise
    last = [part for part in re.split(r"[\\/]", name.removesuffix("/")) if part][-1]
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", last.partition(".")[0] or last)
