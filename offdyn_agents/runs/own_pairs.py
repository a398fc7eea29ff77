"""Any two datasets of equal dimensions, from files or from memory, and the environment that scores them, if any."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offdyn_agents.runs.problems import EVALUATION_SEED, Act, Loaded, NamedTask, Problem, Returns
from offdyn_envs.benchmark.scoring.environments import Place, find_place, place_returns
from offdyn_envs.datasets.importing.pairs import check_pair, load_any
from offdyn_envs.datasets.own.contract import Contract, plain_contract
from offdyn_envs.datasets.own.functions import load_function
from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.robots import ROBOTS
from offdyn_envs.tasks import list_tasks

if TYPE_CHECKING:
    from offdyn_agents.engine.resources import Hardware
    from offdyn_envs.tasks import DatasetId

__all__ = ["OwnPair", "problem_of"]


@dataclass(frozen=True, eq=False)
class OwnPair(Problem):
    """Any two datasets of equal dimensions.

    Attributes:
        source: A dataset in memory, or the name or path of one; None for agents that learn from target rows alone.
        target: Likewise, but never None.
        env: The environment that scores, as `find_place` takes it; None for none.
        termination: What ends episodes inside learned models: a robot's name, "learned", "never", a function, or None
            for what the data suggest.
        name: What folders are called; "" for the names of the data.
        declared: What the columns of the data are, where that is known without them.
        spec: What the columns of files are, as `load_any` takes it.
    """

    source: Any
    target: Any
    env: Any = None
    termination: Any = None
    name: str = ""
    declared: Contract | None = None
    spec: Any = None

    @property
    def title(self) -> str:
        """Its name, or those of the data."""
        target = _word(self.target, "target")
        return self.name or (f"{_word(self.source, 'source')}-to-{target}" if self.has_source else target)

    @property
    def has_source(self) -> bool:
        """Whether there are source rows to learn from."""
        return self.source is not None

    @cached_property
    def pair(self) -> tuple[Any, Any]:
        """Source, or None, and target, loaded.

        Raises:
            OffDynError: They cannot be had, or are of unequal dimensions.
        """
        given = {"source": self.source, "target": self.target}
        if self.spec is not None and not any(isinstance(data, str) and Path(data).exists() for data in given.values()):
            raise OffDynError("a spec says what columns of files are; neither source nor target is a file")
        source, target = (_dataset(data, what, self.spec) for what, data in given.items())
        if self.has_source:
            check_pair(source, target)
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
    def ends(self) -> Any:
        """What ends episodes inside learned models, a function's name looked up."""
        if isinstance(self.termination, str) and ":" in self.termination:
            return load_function(self.termination, "termination")
        if isinstance(self.termination, str) and self.termination not in ("learned", "never", *ROBOTS):
            raise unknown("termination", self.termination, ("learned", "never", *ROBOTS, "module:function"))
        return self.termination

    @property
    def contract(self) -> Contract:
        """What the columns of the data are."""
        return self.declared or contract_of(self.pair[1])

    @property
    def robot(self) -> str | None:
        """The robot that all datasets name, if they do."""
        names = {_robot(data) for data in self.pair if data is not None}
        return names.pop() if len(names) == 1 else None

    @property
    def sizes(self) -> tuple[int, int]:
        """|S| and |A|."""
        return len(self.contract.observations), len(self.contract.actions)

    def inspect(self) -> None:
        """See whether all that it names is there and fits, as far as that can be said without torch.

        Raises:
            OffDynError: A name, a file, a function or an environment that is not there, or does not fit.
        """
        if not re.fullmatch(NAME, self.title) or self.title in {task.name for task in list_tasks()}:
            raise OffDynError(f"name '{self.title[:80]}': letters, digits and ._+- are allowed, but for a task's name")
        # What costs least comes first.
        _ = self.ends, self.pair, self.place

    def portable(self) -> OwnPair:
        """Return it as other machines can take it: names only, nothing loaded.

        Raises:
            OffDynError: Something of it is in the memory of this process, or is found from its folder only.
        """
        env = (self.place.told or MEMORY) if self.place else None
        files = {**self._names, "spec": self.spec}
        for what, told in {**files, "environment": env, "termination": self.termination}.items():
            if told == MEMORY or not isinstance(told, str | Path | None):
                raise OffDynError(
                    f"the {what} of '{self.title}' is only in memory here; a cluster needs a name or a path"
                )
            if what in files and told and Path(told).exists() and not Path(told).is_absolute():
                raise OffDynError(f"{what} '{told}' is found from this folder only; a cluster needs its whole path")
        return replace(self, **self._names, env=env)

    @property
    def _names(self) -> dict[str, str]:
        """The names of its datasets; without a source there is none."""
        return ({"source": _name(self.source)} if self.has_source else {}) | {"target": _name(self.target)}

    def check(self, data: str) -> None:
        """See `Problem.check`."""
        if data == "oracle":
            raise OffDynError("data=oracle needs a task of the suite; merged, source and target are allowed here")

    def needed(self, data: str, with_source: bool = True) -> Sequence[DatasetId]:
        """See `Problem.needed`."""
        from offdyn_agents.models.termination import resolve

        del data, with_source
        self.inspect()
        if self.ends not in (None, "learned"):
            # What it says of three rows tells whether it fits, before anything is written.
            resolve(self.ends, *map(_first_rows, self.pair))
        return ()

    def load(self, data: str, with_source: bool = True) -> Loaded:
        """See `Problem.load`."""
        del data, with_source
        return Loaded(*self.pair, self._names)

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

    def terminated(self, loaded: Loaded, cache: Path, hardware: Hardware, quiet: bool) -> tuple[Any, dict[str, Any]]:
        """See `Problem.terminated`."""
        from offdyn_agents.models.termination import resolve

        pair = (loaded.source, loaded.target)
        return resolve(self.ends, *pair, cache=cache, threads=hardware.threads, quiet=quiet)

    def score(self, act: Act, members: int, episodes: int, seed: int, threads: int) -> NDArray[np.float64]:
        """See `Problem.score`."""
        if self.place is None:
            raise OffDynError(
                f"{self.title}: there is no environment to score in; train with --env, or evaluate with --offline"
            )
        return place_returns(self.place, act, members, episodes, seed, threads)

    def facts(self) -> dict[str, Any]:
        """See `Problem.facts`."""
        told = self.place.told if self.place else None
        ends = self.termination if self.termination is None or isinstance(self.termination, str) else "function"
        pair: dict[str, Any] = {"source": None, **self._names, "env": told}
        pair["termination"] = ends
        if self.spec is not None:
            pair["spec"] = str(self.spec)
        if MEMORY in pair.values():
            pair["sha256"] = [getattr(data, "sha256", "") for data in self.pair]
        return {"pair": pair, "contract": self.contract.to_json()}

    def words(self) -> list[str]:
        """See `Problem.words`."""
        words = [word for what, name in self._names.items() for word in (f"--{what}", name)]
        if self.place and self.place.told:
            words += ["--env", self.place.told]
        if isinstance(self.termination, str):
            words += ["--termination", self.termination]
        words += ["--spec", str(self.spec)] if isinstance(self.spec, str | Path) else []
        return [*words, *(["--name", self.name] if self.name else [])]


MEMORY = "in memory"
NAME = r"[A-Za-z0-9_+-][A-Za-z0-9._+-]*"


def problem_of(facts: Mapping[str, Any]) -> NamedTask | OwnPair:
    """Return what a run.json is about.

    Args:
        facts: Its contents.
    """
    pair = facts.get("pair")
    if pair is None:
        return NamedTask(facts["task"], facts.get("target_rows", ""))
    declared = Contract.from_json(facts["contract"])
    return OwnPair(
        pair["source"], pair["target"], pair["env"], pair["termination"], facts["task"], declared, pair.get("spec")
    )


def contract_of(data: Any) -> Contract:
    """Return what the columns of a dataset are."""
    found = getattr(data, "contract", None)
    return found or plain_contract(data.observations.shape[1], data.actions.shape[1])


def _dataset(data: Any, what: str, spec: Any) -> Any:
    if not isinstance(data, str):
        return data
    if data == MEMORY:
        raise OffDynError(f"the {what} of this run was in memory; go on from Python, with the same arrays")
    return load_any(data, spec if Path(data).exists() else None)


def _first_rows(data: Any) -> Any:
    if data is None:
        return None
    return SimpleNamespace(next_observations=data.next_observations[:3], terminations=data.terminations[:3])


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
