"""All episodes that policies of one task are scored by, in one batch: clean, in every cell, in held-out dynamics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.attacks import Attack, MinQAttack, RandomAttack
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.cells import Cell, cell_rows, held_out_shifts
from offdyn_envs.benchmark.scoring.rollouts import Row, row_returns
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import Robot
from offdyn_envs.shifts import Shift

__all__ = ["HELD_OUT", "Ask", "Judges", "grid_returns"]

Floats = NDArray[np.float64]
HELD_OUT = "held-out"
"""Family of the episodes in held-out dynamics; no entry can report it, the seeds are not known before."""
ROWS_TOGETHER = 8
"""Observations that the min-Q attack searches in one call: their candidates still fit a processor's nearest cache."""


@dataclass(frozen=True)
class Ask:
    """Episodes of each policy.

    Attributes:
        cell: The cell; None for the clean target.
        episodes: E.
        seed: Episode e is reset with seed + e.
    """

    cell: Cell | None
    episodes: int
    seed: int


@dataclass(frozen=True, eq=False)
class Judges:
    """What attacks need.

    Attributes:
        sigma: Unit of the attacks, [|S|]; None where no attack is asked for.
        reference: The suite's critic.
        own: The critic of each policy.
    """

    sigma: Sequence[float] | None = None
    reference: Any = None
    own: Sequence[Any] = ()


def grid_returns(
    policies: Sequence[Any],
    robot: Robot,
    standing: Sequence[Shift],
    asked: Sequence[Ask],
    judges: Judges | None = None,
    num_threads: int = 1,
    stepped: Callable[[int], None] = lambda ended: None,
) -> list[Floats]:
    """Run every policy in every cell.

    Args:
        policies: Each maps observations [B, |S|] to actions [B, |A|]; R of them.
        robot: The robot.
        standing: The shifts of the scoring environment.
        asked: The episodes, C kinds.
        judges: What attacks need.
        num_threads: Simulation threads.
        stepped: Called after every control step with how many episodes ended in it.

    Returns:
        Returns [R, E] of each kind, C; NaN marks failed episodes.

    Raises:
        OffDynError: An attack lacks what it needs, or a policy or critic answers with a wrong shape.
    """
    rows: list[Row] = []
    for ask in asked:
        dynamics = _dynamics(robot, standing, ask)
        for member, policy in enumerate(policies):
            attack = _attack(ask.cell, policy, member, judges or Judges())
            rows += [
                Row(member, shifts, ask.seed + episode, attack)
                for episode, shifts in zip(range(ask.episodes), dynamics, strict=True)
            ]
    found = row_returns(policies, robot, rows, num_threads, stepped)
    ends = np.cumsum([len(policies) * ask.episodes for ask in asked])
    parts = np.split(found, ends[:-1]) if asked else []
    return [part.reshape(len(policies), ask.episodes) for part, ask in zip(parts, asked, strict=True)]


def _dynamics(robot: Robot, standing: Sequence[Shift], ask: Ask) -> list[tuple[Shift, ...]]:
    if ask.cell is None:
        return [tuple(standing)] * ask.episodes
    if ask.cell.family == HELD_OUT:
        drawn = held_out_shifts(ask.seed)
        return [(*standing, drawn[episode * len(drawn) // ask.episodes]) for episode in range(ask.episodes)]
    return cell_rows(robot, standing, ask.cell, ask.episodes)


def _attack(cell: Cell | None, policy: Any, member: int, judges: Judges) -> Attack | None:
    if cell is None or cell.family not in protocol.ATTACKS:
        return None
    if judges.sigma is None:
        raise OffDynError(f"the {cell.family} attack needs the standard deviations of the target dataset")
    if cell.family == "random":
        return RandomAttack(cell.level, judges.sigma)
    own = judges.own[member] if judges.own else None
    critic = own if cell.family == protocol.MIN_Q_OWN else judges.reference
    if critic is None:
        raise OffDynError(f"the {cell.family} attack needs a critic, and there is none")
    return MinQAttack(cell.level, judges.sigma, policy, critic, rows_together=ROWS_TOGETHER)
