"""Episode returns of policies on the batched environment: one episode per row.

Every episode runs to its own end and counts once, so that no episode is favoured for being short. Rows that have
finished stay idle (their rewards are no longer added) until half of the batch is, and are then dropped.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.attacks import Attack
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import Robot
from offdyn_envs.robots.registry import known_robot
from offdyn_envs.tasks import Task

__all__ = ["episode_returns", "population_returns", "target_sigma"]

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
    run = _Run(body, shifts, members, [seed + episode for episode in range(episodes)], attacks, num_threads, discount)
    try:
        while run.columns.size:
            run.step(act)
            run.compact()
    finally:
        run.env.close()
    return run.totals


class _Run:
    """Members x episodes in flight; `columns` are the episodes that still have a row in the environment."""

    def __init__(
        self,
        robot: Robot,
        shifts: Sequence[Any] | None,
        members: int,
        seeds: list[int],
        attacks: Sequence[Attack] | None,
        num_threads: int,
        discount: float,
    ) -> None:
        self.robot, self.shifts, self.members, self.attacks = robot, shifts, members, attacks
        self.num_threads, self.discount = num_threads, discount
        self.columns = np.arange(len(seeds))
        self.totals = np.zeros((members, len(seeds)))
        self.alive = np.ones((members, len(seeds)), dtype=bool)
        self.steps = 0
        self.env = self._build()
        observations, _ = self.env.reset(seed=seeds * members)
        self.observations = np.asarray(observations, dtype=np.float64)
        # The attack has its own generators: it must not change the draws of the reset.
        self.rngs = [[np.random.default_rng([seed, 1]) for seed in seeds] for _ in range(members)]

    def _build(self) -> Any:
        from offdyn_envs.vector import OffDynVectorEnv

        return OffDynVectorEnv(
            self.robot,
            self.members * len(self.columns),
            shifts=self.shifts or None,
            num_threads=self.num_threads,
            max_episode_steps=self.robot.max_episode_steps - self.steps,
            autoreset_mode="disabled",
        )

    def step(self, act: Policy) -> None:
        """Takes one control step with every row and adds the rewards of those whose episode runs."""
        shape = (self.members, len(self.columns))
        actions = np.asarray(act(self._seen(shape)), dtype=np.float64)
        if actions.shape != (*shape, self.robot.action_dim):
            raise OffDynError(f"actions of shape {actions.shape}; {(*shape, self.robot.action_dim)} is needed")
        alive, totals = self.alive[:, self.columns], self.totals[:, self.columns]
        failed = alive & ~np.isfinite(actions).all(axis=-1)
        totals[failed] = np.nan
        alive &= ~failed
        # Idle rows get a zero action: what they do no longer counts, but it must be a legal step.
        actions = np.where(alive[..., None], np.clip(actions, -1.0, 1.0), 0.0)
        flat = actions.reshape(-1, self.robot.action_dim).astype(np.float32)
        self.observations, rewards, terminations, truncations, _ = self.env.step(flat)
        totals[alive] += self.discount**self.steps * rewards.reshape(shape)[alive]
        self.totals[:, self.columns] = totals
        self.alive[:, self.columns] = alive & ~(terminations | truncations).reshape(shape)
        self.steps += 1

    def compact(self) -> None:
        """Drops finished episodes once they are half of the rows; the others go on from the same state."""
        kept: NDArray[np.bool_] = np.asarray(self.alive[:, self.columns].any(axis=0))
        if 2 * kept.sum() > len(kept):
            return
        rows = np.tile(kept, self.members)
        qpos, qvel = self.env.qpos[rows], self.env.qvel[rows]
        self.env.close()
        self.columns = self.columns[kept]
        if self.columns.size:
            self.env = self._build()
            self.observations = self.env.set_state(qpos, qvel)

    def _seen(self, shape: tuple[int, int]) -> Floats:
        observations = np.asarray(self.observations, dtype=np.float64).reshape(*shape, -1)
        if self.attacks is None:
            return observations
        rows = [
            attack.perturb(observations[member], [self.rngs[member][column] for column in self.columns])
            for member, attack in enumerate(self.attacks)
        ]
        return np.stack(rows)
