"""Collecting transitions: a behaviour in the batched environment, exactly as many rows as were asked for.

Episode j is a function of (seed, robot, dynamics, j) and the behaviour alone: it has a seed of its own for the reset
and for the actions. Rows of the batch take the episodes 0, 1, 2, ... in the order in which they become free, and the
dataset is the episodes 0, 1, ... J in that order, the last one cut. So short episodes are not preferred, as they would
be by taking episodes in the order in which they end; neither the number of threads nor the size of the batch changes a
bit; and a small dataset is the beginning of a large one of the same seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.collecting.journal import Journal
from offdyn_envs.datasets.store.spec import Arrays
from offdyn_envs.policies import BehaviourPolicy
from offdyn_envs.robots import Robot, get_robot
from offdyn_envs.vector import OffDynVectorEnv

__all__ = ["Behaviour", "PolicyBehaviour", "RandomBehaviour", "collect", "concatenate", "episode_seed"]

GROUP = 8
"""Most observations that one matrix product sees, see `PolicyBehaviour`."""
SINGLE_THREADED = 2**18
"""OpenBLAS computes products of up to this many multiplications (rows x inputs x outputs) in one thread."""

Array = NDArray[Any]
Advance = Callable[..., None]


class Behaviour(Protocol):
    """What acts while data are collected."""

    def noise(self, rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Draw the randomness of one episode, float32 [T, |A|]."""
        ...

    def act(self, observations: NDArray[np.float32], noise: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn observations [B, |S|] and their noise [B, |A|] into executed actions in [-1, 1], float32 [B, |A|]."""
        ...


class RandomBehaviour:
    """Uniform actions."""

    def noise(self, rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Draw uniform actions, float32 [T, |A|]."""
        return rng.uniform(-1.0, 1.0, shape).astype(np.float32)

    def act(self, observations: NDArray[np.float32], noise: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the noise: it is the action."""
        return noise


class PolicyBehaviour:
    """Actions sampled from a stochastic policy.

    A large matrix product is shared between threads and rounds differently for other numbers of threads or rows, and
    one bit is enough for other episodes. So the batch is evaluated as a stack of small products of one fixed size.

    Args:
        policy: The policy.
    """

    def __init__(self, policy: BehaviourPolicy) -> None:
        self.policy = policy
        layers = [*policy.hidden, policy.mean]
        fitting = SINGLE_THREADED // max(weights.size for weights, _ in layers)
        self.group = next(size for size in (GROUP, 4, 2, 1) if size <= max(fitting, 1))

    def noise(self, rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Draw standard normal numbers, float32 [T, |A|]."""
        return rng.standard_normal(shape, dtype=np.float32)

    def act(self, observations: NDArray[np.float32], noise: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sample the policy with the given noise; B is a multiple of `GROUP`."""
        stacked = observations.reshape(-1, self.group, observations.shape[-1])
        return self.policy.sample(stacked, noise.reshape(-1, self.group, noise.shape[-1])).reshape(noise.shape)


def episode_seed(seed: int, robot: str, dynamics: str, episode: int, part: int = 0) -> int:
    """Return the reset seed of an episode, a number below 2**63.

    Args:
        seed: Seed of the dataset.
        robot: Name of the robot.
        dynamics: Dynamics slug; source and target of a task share no seeds.
        episode: Position in the order of episodes, from 0.
        part: Which of the dataset's behaviours acts, from 0: no two of them start alike.

    Returns:
        What `env.reset(seed=...)` of the scalar environment takes to start the same episode.
    """
    domain = zlib.crc32(f"{robot}/{dynamics}".encode())
    high, low = np.random.SeedSequence([seed, domain, episode, *([part] if part else [])]).generate_state(2).tolist()
    return (high << 31) ^ low


@dataclass
class _Pool:
    """Episodes in progress: one buffer per row of the batch, and the finished ones by number."""

    robot: Robot
    behaviour: Behaviour
    seeds: Callable[[int], int]
    rows: int
    batch: int
    journal: Journal | None = None
    episode: Array = field(init=False)
    step: Array = field(init=False)
    lengths: list[int] = field(default_factory=list[int])
    finished: dict[int, dict[str, Array]] = field(default_factory=dict[int, dict[str, Array]])

    def __post_init__(self) -> None:
        robot, limit, batch = self.robot, self.robot.max_episode_steps, self.batch
        self.earlier = {} if self.journal is None else self.journal.read()
        self.episode = np.full(batch, -1, dtype=np.int64)
        self.step = np.zeros(batch, dtype=np.int64)
        self.noise = np.zeros((batch, limit, robot.action_dim), np.float32)
        self.states = {"qpos": np.empty((batch, limit + 1, robot.nq)), "qvel": np.empty((batch, limit + 1, robot.nv))}
        if robot.goal_dim:
            self.states["goal"] = np.empty((batch, limit + 1, robot.goal_dim))
        self.observations = np.empty((batch, limit + 1, robot.observation_dim), np.float32)
        self.steps = {
            "actions": np.empty((batch, limit, robot.action_dim), np.float32),
            "rewards": np.empty((batch, limit), np.float32),
            "terminations": np.empty((batch, limit), np.bool_),
            "truncations": np.empty((batch, limit), np.bool_),
        }

    def start(self, env: OffDynVectorEnv, free: Array) -> int:
        """Give the next episodes to free rows; return how many steps of earlier ones came from the journal."""
        mask = np.zeros(self.batch, dtype=bool)
        mask[free] = True
        row_seeds = [0] * self.batch
        known = 0
        for row in free.tolist():
            known += self._take_earlier()
            number = len(self.lengths)
            row_seeds[row] = self.seeds(number)
            rng = np.random.default_rng([row_seeds[row], 2])
            self.noise[row] = self.behaviour.noise(rng, self.noise.shape[1:])
            self.episode[row], self.step[row] = number, 0
            self.lengths.append(0)
        observations, _ = env.reset(seed=row_seeds, options={"reset_mask": mask})
        self.observations[free, 0] = observations[free]
        self._store_states(env, free)
        return known

    def _take_earlier(self) -> int:
        """Take the next episodes from the journal as far as it has them; return their steps."""
        first = len(self.lengths)
        while (number := len(self.lengths)) in self.earlier:
            self.finished[number] = self.earlier.pop(number)
            self.lengths.append(len(self.finished[number]["rewards"]))
        return sum(self.lengths[first:])

    def advance(self, env: OffDynVectorEnv) -> tuple[int, Array]:
        """Step every row; return how many steps were taken and the rows that are free now."""
        index = np.arange(self.batch)
        noise = self.noise[index, np.minimum(self.step, self.noise.shape[1] - 1)]
        current = self.observations[index, np.minimum(self.step, self.noise.shape[1])]
        actions = self.behaviour.act(current, noise)
        observations, rewards, terminations, truncations, _ = env.step(actions)
        live = np.flatnonzero(self.episode >= 0)
        at = self.step[live]
        results = {"actions": actions, "rewards": rewards, "terminations": terminations, "truncations": truncations}
        for key, values in results.items():
            self.steps[key][live, at] = values[live]
        self.step[live] += 1
        for row in live.tolist():
            self.lengths[self.episode[row]] += 1
        self.observations[live, at + 1] = observations[live]
        self._store_states(env, live)
        ended = live[(terminations | truncations)[live]]
        for row in ended.tolist():
            number = int(self.episode[row])
            self.finished[number] = self.copy(row)
            if self.journal is not None:
                self.journal.add(number, self.finished[number])
        self.episode[ended] = -1
        return len(live), np.flatnonzero(self.episode < 0)

    def _store_states(self, env: OffDynVectorEnv, rows: Array) -> None:
        for key, array in self.states.items():
            array[rows, self.step[rows]] = getattr(env, key)[rows]

    def copy(self, row: int) -> dict[str, Array]:
        """Return what a row has collected of its episode."""
        length = int(self.step[row])
        whole = {key: array[row, :length].copy() for key, array in self.steps.items()}
        states = {key: array[row, : length + 1].copy() for key, array in self.states.items()}
        return {"observations": self.observations[row, : length + 1].copy(), **whole, **states}

    def complete(self) -> bool:
        """Say whether the first episodes hold enough rows."""
        total = np.cumsum(self.lengths)
        if not len(total) or total[-1] < self.rows:
            return False
        running = self.episode[self.episode >= 0]
        return bool(len(running) == 0 or total[running.min()] >= self.rows)

    def result(self) -> list[dict[str, Array]]:
        """Return the first episodes, the last one cut to make the number of rows exact."""
        for row in np.flatnonzero(self.episode >= 0).tolist():
            self.finished[int(self.episode[row])] = self.copy(row)
        chosen: list[dict[str, Array]] = []
        left = self.rows
        while left > 0:
            chosen.append(_cut(self.finished[len(chosen)], left))
            left -= len(chosen[-1]["rewards"])
        return chosen


def _batch(rows: int) -> int:
    """Return how many episodes to run side by side: few for small datasets, where most would be thrown away."""
    return next((batch for limit, batch in ((1_000, 8), (10_000, 16), (100_000, 64)) if rows <= limit), 128)


def _cut(episode: dict[str, Array], rows: int) -> dict[str, Array]:
    """Keep at most `rows` steps; the cut is a truncation, because the episode would have gone on."""
    ended = bool(episode["terminations"][-1] or episode["truncations"][-1])
    if len(episode["rewards"]) <= rows and ended:
        return episode
    longer = ("observations", "qpos", "qvel", "goal")
    cut = {key: array[: rows + (key in longer)].copy() for key, array in episode.items()}
    cut["truncations"][-1] = True
    return cut


def collect(
    robot: str,
    dynamics: str,
    behaviour: Behaviour,
    rows: int,
    *,
    seed: int = 0,
    part: int = 0,
    num_threads: int = 1,
    advance: Advance | None = None,
    journal: Journal | None = None,
) -> Arrays:
    """Collect a number of transitions.

    Args:
        robot: Name of the robot.
        dynamics: Dynamics slug.
        behaviour: What acts.
        rows: N, how many transitions.
        seed: Seed of the dataset, at least 0.
        part: Which of the dataset's behaviours this is, from 0.
        num_threads: Threads of the simulation; the result does not depend on it.
        advance: Called with the number of new rows after every step of the batch.
        journal: Holds episodes of an earlier, interrupted call with the same arguments, which are not collected again,
            and gets those of this one; the result does not depend on it.

    Returns:
        N transitions: whole episodes in the order of their numbers, the last one cut and then truncated.
    """
    body = get_robot(robot)
    batch = _batch(rows)

    def seed_of(number: int) -> int:
        return episode_seed(seed, robot, dynamics, number, part)

    pool = _Pool(body, behaviour, seed_of, rows, batch, journal)
    env = OffDynVectorEnv(body, batch, dynamics=dynamics, num_threads=num_threads, autoreset_mode="disabled")
    taken = 0

    def count(steps: int) -> None:
        nonlocal taken
        if advance is not None and taken < rows:
            advance(min(steps, rows - taken))
        taken += steps

    try:
        free = np.arange(batch)
        while True:
            if len(free) and taken < rows:
                count(pool.start(env, free))
            if taken >= rows and pool.complete():
                break
            steps, free = pool.advance(env)
            count(steps)
    finally:
        env.close()
    if journal is not None:
        journal.flush()
    episodes = pool.result()
    return _flatten(episodes, [seed_of(number) for number in range(len(episodes))])


def _flatten(episodes: list[dict[str, Array]], seeds: list[int]) -> Arrays:
    """Join episodes into the arrays of a dataset."""
    observations = [episode["observations"] for episode in episodes]
    keys = [key for key in episodes[0] if key != "observations"]
    return Arrays(
        observations=np.concatenate([array[:-1] for array in observations]),
        next_observations=np.concatenate([array[1:] for array in observations]),
        **{key: np.concatenate([episode[key] for episode in episodes]) for key in keys},
        lengths=np.array([len(episode["rewards"]) for episode in episodes], dtype=np.int64),
        seeds=np.array(seeds, dtype=np.int64),
    )


def concatenate(parts: list[Arrays]) -> Arrays:
    """Put datasets one after the other.

    Args:
        parts: At least one; the same robot.

    Returns:
        All their episodes, in order.
    """
    joined = {key: np.concatenate([getattr(part, key) for part in parts]) for key, _ in parts[0].items()}
    return Arrays(**joined)
