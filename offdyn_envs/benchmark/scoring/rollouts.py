"""Episode returns of policies on the batched environment: one episode per row.

Every episode runs to its own end and counts once, so that no episode is favoured for being short. Rows that have
finished stay idle (their rewards are no longer added) until half of the batch is, and are then dropped. Under a delay
or noise they stay to the end: what the environment holds beside the state of a row would be lost. Robots with a goal
take off in portions: each row needs a model of its own.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.attacks import Attack
from offdyn_envs.batching.row_models import rows_together
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import Robot
from offdyn_envs.robots.registry import known_robot
from offdyn_envs.shifts import Shift, parse_shifts
from offdyn_envs.tasks import Task

__all__ = ["Row", "episode_returns", "population_returns", "row_returns", "target_sigma"]

Floats = NDArray[np.float64]
Policy = Callable[[Any], Any]


def target_sigma(task: Task) -> Floats:
    """Returns the unit of the observation attacks of a task.

    Args:
        task: The task whose target dataset is read.

    Returns:
        Standard deviation of each dimension of the target dataset's observations, float64 [|S|].

    Raises:
        OffDynError: The target dataset is not on this machine.
    """
    from offdyn_envs.datasets import load_dataset

    return np.asarray(load_dataset(task.target).observations, dtype=np.float64).std(axis=0)


def episode_returns(
    act: Policy,
    robot: str | Robot,
    shifts: Sequence[Any] | None,
    episodes: int,
    seed: int,
    attack: Attack | None = None,
    num_threads: int = 1,
) -> Floats:
    """Runs one policy for a number of episodes.

    Args:
        act: Maps observations [B, |S|] to actions [B, |A|]; actions are clipped to [-1, 1].
        robot: Robot or its name.
        shifts: Shifts of the environment.
        episodes: Number of episodes, at least 1; they are rows of one batch.
        seed: Row i is seeded with seed + i.
        attack: Perturbs what the policy sees; the simulator's state is untouched.
        num_threads: Simulation threads.

    Returns:
        Undiscounted returns, shape [episodes]. NaN marks a failed episode: one in which the policy gave a non-finite
        action.

    Raises:
        OffDynError: A wrong argument, or actions of a wrong shape.
    """
    attacks = None if attack is None else [attack]
    returns = population_returns(
        lambda observations: np.asarray(act(observations[0]))[None],
        1,
        robot,
        shifts,
        episodes,
        seed,
        attacks,
        num_threads,
    )
    return returns[0]


def population_returns(
    act: Policy,
    members: int,
    robot: str | Robot,
    shifts: Sequence[Any] | None,
    episodes: int,
    seed: int,
    attacks: Sequence[Attack] | None = None,
    num_threads: int = 1,
    discount: float = 1.0,
) -> Floats:
    """Runs a population of policies side by side; episode e starts from the same state for every member.

    Args:
        act: Maps observations [R, E, |S|] to actions [R, E, |A|].
        members: R, the number of policies.
        robot: Robot or its name.
        shifts: Shifts of the environment.
        episodes: E, the number of episodes of each member.
        seed: Episode e of every member is seeded with seed + e.
        attacks: One attack per member, or None.
        num_threads: Simulation threads.
        discount: What a reward counts after each further step.

    Returns:
        Returns, shape [R, E], NaN for failed episodes; undiscounted unless `discount` says otherwise.

    Raises:
        OffDynError: A wrong argument, or actions of a wrong shape.
    """
    body = known_robot(robot)
    if members < 1 or episodes < 1:
        raise OffDynError(f"{members} members and {episodes} episodes: at least 1 of each is needed")
    if attacks is not None and len(attacks) != members:
        raise OffDynError(f"{len(attacks)} attacks for {members} members: one per member is needed")
    dynamics, width = parse_shifts(shifts or None), max(1, rows_together(body, members * episodes) // members)
    seeds = range(seed, seed + episodes)
    found = [
        _population(act, members, body, dynamics, seeds[first : first + width], attacks, num_threads, discount)
        for first in range(0, episodes, width)
    ]
    return np.concatenate(found, axis=1)


def _population(
    act: Policy,
    members: int,
    body: Robot,
    shifts: tuple[Shift, ...],
    seeds: range,
    attacks: Sequence[Attack] | None,
    num_threads: int,
    discount: float,
) -> Floats:
    """Returns of as many episodes as are simulated together, [R, E]."""
    wanted = (members, len(seeds))
    # The attack has its own generators: it must not change the draws of the reset.
    rngs = [[np.random.default_rng([seed, 1]) for seed in seeds] for _ in range(members)]
    flight = _Flight(body, [shifts] * (members * len(seeds)), [*seeds] * members, num_threads)
    with closing(flight):
        while flight.rows.size:
            columns = flight.rows[: len(flight.rows) // members]
            shape = (members, len(columns))
            seen = flight.observations.reshape(*shape, -1)
            if attacks is not None:
                seen = np.stack(
                    [
                        attack.perturb(rows, [own[column] for column in columns])
                        for attack, rows, own in zip(attacks, seen, rngs, strict=True)
                    ]
                )
            actions = np.asarray(act(seen), dtype=np.float64)
            if actions.shape != (*shape, body.action_dim):
                raise OffDynError(f"actions of shape {actions.shape}; {(*shape, body.action_dim)} is needed")
            flight.step(actions.reshape(-1, body.action_dim), discount**flight.steps)
            # All members keep the same episodes: what acts for a population takes a rectangle.
            flight.compact(np.tile(flight.alive.reshape(wanted).any(axis=0), members))
    return flight.totals.reshape(wanted)


@dataclass(frozen=True, eq=False)
class Row:
    """One episode of one policy.

    Attributes:
        member: Number of the policy.
        shifts: The dynamics.
        seed: Seed of the reset.
        attack: What perturbs the observations; the same object for all rows that it attacks.
    """

    member: int
    shifts: tuple[Shift, ...]
    seed: int
    attack: Attack | None = None


def row_returns(
    policies: Sequence[Policy],
    robot: Robot,
    rows: Sequence[Row],
    num_threads: int = 1,
    stepped: Callable[[int], None] = lambda ended: None,
) -> Floats:
    """Runs episodes of several policies side by side, each under dynamics and an attack of its own.

    Args:
        policies: Each maps observations [B, |S|] to actions [B, |A|]; actions are clipped to [-1, 1].
        robot: The robot.
        rows: The episodes, N.
        num_threads: Simulation threads.
        stepped: Called after every control step with how many episodes ended in it.

    Returns:
        Undiscounted returns, [N]; NaN marks failed episodes, in which the policy gave a non-finite action.

    Raises:
        OffDynError: Actions of a wrong shape, or dynamics that do not go together.
    """
    width = max(1, rows_together(robot, len(rows)))
    parts = [rows[first : first + width] for first in range(0, len(rows), width)]
    return np.concatenate([np.zeros(0), *(_rows(policies, robot, part, num_threads, stepped) for part in parts)])


def _rows(
    policies: Sequence[Policy],
    robot: Robot,
    rows: Sequence[Row],
    num_threads: int,
    stepped: Callable[[int], None],
) -> Floats:
    """Returns of as many episodes as are simulated together, [N]."""
    flight = _Flight(robot, [row.shifts for row in rows], [row.seed for row in rows], num_threads)
    members = np.array([row.member for row in rows])
    attacked = _Attacked(rows)
    with closing(flight):
        while flight.rows.size:
            going = np.flatnonzero(flight.alive[flight.rows])
            numbers = flight.rows[going]
            actions = np.zeros((len(flight.rows), robot.action_dim))
            actions[going] = _act(policies, members[numbers], attacked.see(flight.observations[going], numbers), robot)
            flight.step(actions)
            stepped(len(numbers) - int(flight.alive[numbers].sum()))
            flight.compact(flight.alive)
    return flight.totals


def _act(policies: Sequence[Policy], members: NDArray[Any], seen: Floats, robot: Robot) -> Floats:
    """Returns the action of each row's own policy, [B, |A|]."""
    actions = np.zeros((len(members), robot.action_dim))
    for member in np.unique(members).tolist():
        own = members == member
        given = np.asarray(policies[member](seen[own]))
        if given.shape != actions[own].shape:
            raise OffDynError(f"actions of shape {given.shape}; {actions[own].shape} is needed")
        actions[own] = given
    return actions


class _Attacked:
    """Perturbs the observations of those rows that an attack is upon."""

    def __init__(self, rows: Sequence[Row]) -> None:
        # Attacks are known by identity: they hold arrays, which have no hash.
        self._attacks = {id(row.attack): row.attack for row in rows if row.attack is not None}
        self._whose = np.array([id(row.attack) for row in rows])
        # The attack has its own generators: it must not change the draws of the reset.
        self._rngs = {i: np.random.default_rng([row.seed, 1]) for i, row in enumerate(rows) if row.attack is not None}

    def see(self, observations: Floats, numbers: NDArray[Any]) -> Floats:
        """Returns what the policies of these rows get to see, [B, |S|]."""
        for key, attack in self._attacks.items():
            own = np.flatnonzero(self._whose[numbers] == key)
            if own.size:
                rngs = [self._rngs[row] for row in numbers[own].tolist()]
                observations[own] = attack.perturb(observations[own], rngs)
        return observations


class _Flight:
    """Episodes in flight.

    Attributes:
        rows: Numbers of the episodes that still have a row in the environment.
        observations: What they see, [rows, |S|].
        totals: Sums of the rewards of all episodes, [N].
        alive: Which of them go on, [N].
        steps: Control steps taken.
    """

    def __init__(
        self, robot: Robot, shifts: Sequence[tuple[Shift, ...]], seeds: Sequence[int], num_threads: int
    ) -> None:
        self._robot, self._shifts, self._num_threads = robot, list(shifts), num_threads
        self.rows = np.arange(len(seeds))
        self.totals, self.alive = np.zeros(len(seeds)), np.ones(len(seeds), dtype=bool)
        self.steps = 0
        self._only_models = all(getattr(shift, "of_model", True) for row in set(self._shifts) for shift in row)
        self._env = self._build()
        self.observations: Floats = np.asarray(self._env.reset(seed=list(seeds))[0], dtype=np.float64)

    def _build(self) -> Any:
        from offdyn_envs.vector import OffDynVectorEnv

        return OffDynVectorEnv(
            self._robot,
            len(self.rows),
            row_shifts=[self._shifts[row] for row in self.rows],
            num_threads=self._num_threads,
            max_episode_steps=self._robot.max_episode_steps - self.steps,
            autoreset_mode="disabled",
        )

    def step(self, actions: Floats, weight: float = 1.0) -> None:
        """Takes one control step with every row and adds the rewards of those whose episode runs.

        Args:
            actions: [rows, |A|].
            weight: What these rewards count.
        """
        alive = self.alive[self.rows]
        failed = alive & ~np.isfinite(actions).all(axis=-1)
        self.totals[self.rows[failed]] = np.nan
        alive &= ~failed
        # Idle rows get a zero action: what they do no longer counts, but it must be a legal step.
        legal = np.where(alive[:, None], np.clip(actions, -1.0, 1.0), 0.0).astype(np.float32)
        self.observations, rewards, terminations, truncations, _ = self._env.step(legal)
        self.totals[self.rows[alive]] += weight * rewards[alive]
        self.alive[self.rows] = alive & ~(terminations | truncations)
        self.steps += 1

    def compact(self, kept: NDArray[np.bool_]) -> None:
        """Drops finished episodes once they are half of the rows; the others go on from the same state.

        Args:
            kept: Which episodes keep a row, [N].
        """
        here = kept[self.rows]
        if here.any() and (2 * here.sum() > len(here) or not self._only_models):
            return
        qpos, qvel, goal = self._env.qpos[here], self._env.qvel[here], self._env.goal[here]
        self._env.close()
        self.rows = self.rows[here]
        if self.rows.size:
            self._env = self._build()
            self.observations = self._env.set_state(qpos, qvel, goal=goal)

    def close(self) -> None:
        """Stops the environment's threads."""
        self._env.close()
