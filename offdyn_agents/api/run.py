"""A run in Python: its policies, scores and curves, all of them from its folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from offdyn_agents.api.policies import CONTRACT, POLICY, Policy, load_policy
from offdyn_agents.api.table import Table
from offdyn_agents.runs.metrics import read_metrics
from offdyn_agents.runs.own_pairs import OwnPair, problem_of
from offdyn_agents.runs.plans import read_run, run_label, sound_seeds
from offdyn_agents.runs.problems import NamedTask, Problem
from offdyn_envs.atomic import write_bytes
from offdyn_envs.batching.threads import usable_threads
from offdyn_envs.benchmark.scoring.environments import Place, find_place, place_returns
from offdyn_envs.benchmark.scoring.protocol import EVALUATION_SEED
from offdyn_envs.errors import OffDynError, beginning
from offdyn_envs.tasks import list_tasks

__all__ = ["Run", "evaluate", "load_run", "thread_number"]

EPISODES = 20


class Run:
    """A trained agent: all seeds of it on one pair of datasets.

    Attributes:
        folder: Its folder; every command of `offdyn` takes it.
        problem: What it is about.
    """

    def __init__(self, folder: str | Path, problem: Problem | None = None) -> None:
        self.folder = Path(folder)
        facts = read_run(self.folder)
        self.problem = problem or problem_of(facts)

    @property
    def facts(self) -> dict[str, Any]:
        """The contents of its run.json: settings, versions, status, seconds, what stages said."""
        return read_run(self.folder)

    @property
    def seeds(self) -> list[int]:
        """Its seeds that were trained to the end."""
        return sound_seeds(self.facts)

    @property
    def name(self) -> str:
        """Task and agent, as messages call it."""
        facts = self.facts
        return f"{facts['task']} {run_label(facts)}"

    def policy(self, seed: int | None = None) -> Policy:
        """Return the policy of a seed, by default of the first.

        Raises:
            OffDynError: There is none of that seed.
        """
        chosen = self.seeds[0] if seed is None and self.seeds else seed
        if chosen not in self.seeds:
            raise OffDynError(f"run '{self.folder}' has no policy of seed {seed}; it has those of {self.seeds}")
        return load_policy(self.folder / "seeds" / str(chosen))

    def evaluate(self, env: Any = None, episodes: int = EPISODES) -> Table:
        """Run every seed's policy for some episodes.

        Args:
            env: A task's name, an environment (its id, "module:Class", an object, a function that makes one); by
                default what the run was trained for.
            episodes: Episodes of each policy.

        Returns:
            A row for each seed: "seed", "episodes", "return" and "std" over episodes, and "score" where the task has
            reference returns.

        Raises:
            OffDynError: There is no environment, or it does not fit.
        """
        return evaluate(self, env, episodes)

    def curves(self) -> Table:
        """Return what was logged: "updates", losses, and where there were evaluations "score" and returns by seed."""
        metrics = read_metrics(self.folder / "metrics.csv")
        columns = {name: [None if np.isnan(x) else float(x) for x in values] for name, values in metrics.items()}
        columns["updates"] = [int(x) for x in metrics["updates"]]
        return Table(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))

    def export(self, folder: str | Path) -> list[Path]:
        """Copy the policies, and `contract.json` where there is one, to FOLDER/SEED.

        Returns:
            The folders.
        """
        places: list[Path] = []
        for seed in self.seeds:
            home, place = self.folder / "seeds" / str(seed), Path(folder) / str(seed)
            for name in (POLICY, CONTRACT):
                if (home / name).is_file():
                    write_bytes(place / name, (home / name).read_bytes())
            places.append(place)
        return places

    def __repr__(self) -> str:
        facts = self.facts
        return f"Run('{self.folder}', {facts['status']}, {facts['updates']:,} updates, seeds {facts['seeds']})"


def load_run(folder: str | Path) -> Run:
    """Return a run from its folder, whether Python or the command line made it.

    Raises:
        OffDynError: The folder holds no run.

    Examples:
        >>> import offdyn
        >>> from offdyn_agents.testing import dataset
        >>> target = dataset(100, seed=1)
        >>> run = offdyn.fit(offdyn.agents.BC(width=16), None, target, seeds=2, updates=20, progress=False)
        >>> offdyn.load_run(run.folder).seeds
        [0, 1]
    """
    return Run(folder)


def evaluate(policies: Any, env: Any = None, episodes: int = EPISODES, *, threads: int | None = None) -> Table:
    """Run policies for some episodes.

    Args:
        policies: A run, or its folder; or one policy, a function of observations [N, |S|].
        env: As in `Run.evaluate`; needed for a policy.
        episodes: Episodes of each policy.
        threads: Simulation threads; all by default.

    Returns:
        A row for each policy; see `Run.evaluate`.

    Raises:
        OffDynError: No environment, or one that does not fit.

    Examples:
        >>> import numpy as np
        >>> import offdyn
        >>> def still(observations):
        ...     return np.zeros((len(observations), 3))
        >>> offdyn.evaluate(still, "hopper-gravity-0.5-medium", episodes=2).columns
        ['seed', 'episodes', 'return', 'std', 'score']
    """
    if isinstance(policies, str | Path):
        policies = load_run(policies)
    run = policies if isinstance(policies, Run) else None
    if run is None and not callable(policies):
        raise OffDynError(f"a policy is a function of observations [N, |S|], or a run, not a {type(policies).__name__}")
    if run is None and env is None:
        raise OffDynError("evaluate: a policy needs an environment: env= a task's name or an environment")
    if episodes < 1:
        raise OffDynError(f"episodes is {episodes}; at least 1 is allowed")
    number = thread_number(threads)
    score, normalise, width = _scoring(env, run.problem if run else None)
    seeds = run.seeds if run else [0]
    functions: list[Any] = [run.policy(seed) for seed in seeds] if run else [policies]

    def act(observations: NDArray[Any]) -> NDArray[Any]:
        return np.stack([_actions(*pair, width) for pair in zip(functions, observations, strict=True)])

    scored = score(act, len(functions), episodes, EVALUATION_SEED, number)
    rows: list[dict[str, Any]] = []
    for seed, returns in zip(seeds, scored, strict=True):
        row = {"seed": seed, "episodes": episodes, "return": float(returns.mean()), "std": float(returns.std())}
        rows.append(row | ({} if normalise is None else {"score": float(normalise(returns.mean()))}))
    return Table(rows)


def thread_number(threads: int | None) -> int:
    """Return a number of threads, by default of all that this process may use.

    Raises:
        OffDynError: Fewer than one.
    """
    if threads is not None and threads < 1:
        raise OffDynError(f"threads is {threads}; at least 1 is allowed")
    return threads or usable_threads()


def _actions(policy: Callable[[Any], Any], rows: NDArray[Any], width: int) -> NDArray[Any]:
    """Ask a policy for actions [N, |A|] of observations [N, |S|]."""
    actions = np.asarray(policy(np.asarray(rows, dtype=np.float32)))
    if actions.shape != (len(rows), width):
        raise OffDynError(
            f"policy: observations {list(rows.shape)} give actions {list(actions.shape)}; "
            f"{[len(rows), width]} is wanted"
        )
    return actions


def _scoring(env: Any, problem: Problem | None) -> tuple[Callable[..., Any], Callable[[Any], Any] | None, int]:
    """Return what scores policies, what normalises their returns, if anything does, and |A|."""
    if isinstance(env, str) and env in {task.name for task in list_tasks()}:
        task = NamedTask(env)
        if problem is not None and problem.sizes != task.sizes:
            raise OffDynError(
                f"task '{env}' has (observations, actions) {task.sizes}, {problem.title} {problem.sizes}; "
                "equal numbers are wanted"
            )
        return task.score, task.normalise(), task.sizes[1]
    if problem is not None and env is None:
        return problem.score, problem.normalise(), problem.sizes[1]
    place = find_place(env)
    if problem is None:
        return partial(place_returns, place), None, _action_width(place)
    if problem.scored_in(place):
        return problem.score, problem.normalise(), problem.sizes[1]
    other = OwnPair(None, None, place, name=problem.title, declared=problem.contract)
    return other.score, None, problem.sizes[1]


def _action_width(place: Place) -> int:
    """Return |A| of an environment.

    Raises:
        OffDynError: Its actions are no vector of numbers.
    """
    env = place.make()
    space = env.action_space
    if place.copies:
        env.close()
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise OffDynError(f"environment {place.title}: actions are {beginning(space, 80)}; a vector is allowed")
    return space.shape[0]
