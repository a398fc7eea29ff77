"""The cells of the robustness grid: which dynamics every episode of a cell is played in."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.critics import read_index
from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.robots import Robot, get_robot
from offdyn_envs.schedule import Schedule
from offdyn_envs.shifts import (
    KINEMATIC_LEVELS,
    KINEMATIC_PARTS,
    MORPHOLOGY_LEVELS,
    MORPHOLOGY_PARTS,
    Actuator,
    Friction,
    Gravity,
    Kinematic,
    Morphology,
    Shift,
    check_shifts,
)
from offdyn_envs.tasks import PRESET_SCALES, Task, get_dynamics, get_task

__all__ = ["Cell", "attack_cells", "cell_name", "cell_rows", "evaluation_cells", "full_grid", "held_out_shifts"]

Dynamics = tuple[Shift, ...]
_SCALED = {"gravity": Gravity, "friction": Friction}


class Cell(NamedTuple):
    """One perturbed cell of the robustness grid.

    Attributes:
        family: One of `protocol.FAMILIES`.
        level: Scale of the shift, number of the level (1 easy, 2 medium, 3 hard), scale at the end of the wear, or half
            width of the attack's box in standard deviations.
    """

    family: str
    level: float


def cell_name(family: str, level: float) -> str:
    """Return what a cell is called, for instance "gravity 0.5" or "kinematic easy"."""
    body = family in ("kinematic", "morphology")
    return f"{family} {protocol.BODY_LEVELS.get(level, format(level, 'g')) if body else format(level, 'g')}"


def attack_cells(family: str) -> tuple[Cell, ...]:
    """Return the cells of one form of the min-Q attack."""
    return tuple(Cell(family, level) for level in protocol.MIN_Q_LEVELS)


def evaluation_cells(task: Task, *, critic: bool = True, own: bool = False) -> tuple[Cell, ...]:
    """List the cells of the test-time grid of a task.

    Args:
        task: The task. A cell whose shifts exclude those of its scoring environment (no part takes two morphologies)
            is left out.
        critic: Whether the suite has a critic of this task, which the min-Q attack needs.
        own: Whether the attack with the agent's own critic is asked for as well.
    """
    cells = [Cell(family, level) for family in _SCALED for level in protocol.SCALE_LEVELS]
    cells += [Cell(family, level) for family in ("kinematic", "morphology") for level in protocol.BODY_LEVELS]
    cells += [Cell(family, protocol.WORN_SCALE) for family in ("worn-friction", "worn-motors")]
    cells += attack_cells(protocol.MIN_Q) if critic else ()
    cells += attack_cells(protocol.MIN_Q_OWN) if own else ()
    robot, standing = get_robot(task.robot), get_dynamics(task.robot, task.scoring)
    return tuple(cell for cell in cells if _fits(robot, standing, cell))


def full_grid(task: str) -> tuple[Cell, ...]:
    """List the cells that a place needs on a task: all that are possible, with the min-Q attack where it has a critic.

    Args:
        task: Name of the task.
    """
    return _grid(task, task in read_index())


@functools.cache
def _grid(task: str, critic: bool) -> tuple[Cell, ...]:
    return evaluation_cells(get_task(task), critic=critic)


def _fits(robot: Robot, standing: Dynamics, cell: Cell) -> bool:
    try:
        for shifts in dict.fromkeys(cell_rows(robot, standing, cell, protocol.CELL_EPISODES)):
            check_shifts(shifts, robot)
    except OffDynError:
        return False
    return True


def cell_rows(robot: Robot, standing: Sequence[Shift], cell: Cell, episodes: int) -> list[Dynamics]:
    """Return the dynamics of every episode of a cell.

    Args:
        robot: The robot.
        standing: The shifts of the scoring environment; the cell's own are appended.
        cell: The cell; observation attacks leave the dynamics alone.
        episodes: E.

    Returns:
        Shifts of each episode, E lists.

    Raises:
        OffDynError: The family is unknown, the level none of its levels, or there are fewer episodes than parts.
    """
    family, level = cell
    if family not in protocol.FAMILIES:
        raise unknown("perturbation family", family, protocol.FAMILIES)
    if not 0 < level < float("inf"):
        raise OffDynError(f"perturbation level {level!r} of '{family}': a positive finite number is allowed")
    if family in protocol.ATTACKS:
        own: list[Dynamics] = [()] * episodes
    elif family in _SCALED:
        own = [(_SCALED[family](level),)] * episodes
    elif family in ("worn-friction", "worn-motors"):
        own = _worn(Friction if family == "worn-friction" else Actuator, level, episodes)
    else:
        own = _by_parts(robot, family, level, episodes)
    return [(*standing, *shifts) for shifts in own]


def _by_parts(robot: Robot, family: str, level: float, episodes: int) -> list[Dynamics]:
    """Return the dynamics of a body level: the first half of the episodes with one part changed, then the other."""
    name = protocol.BODY_LEVELS.get(level)
    if name is None:
        allowed = ", ".join(f"{number:g} ({word})" for number, word in protocol.BODY_LEVELS.items())
        raise OffDynError(f"perturbation level {level:g} of '{family}': {allowed} are allowed")
    kinematic = family == "kinematic"
    parts = tuple((KINEMATIC_PARTS if kinematic else MORPHOLOGY_PARTS).get(robot.name, ()))
    if not parts:
        raise OffDynError(f"robot '{robot.name}' has no parts that '{family}' changes")
    if episodes < len(parts):
        raise OffDynError(
            f"{episodes} episodes of '{family}': {len(parts)} or more are needed, one for each part (--cell-episodes)"
        )
    shifts: list[Shift] = [
        Kinematic(part, KINEMATIC_LEVELS[name]) if kinematic else Morphology(part, MORPHOLOGY_LEVELS[name])
        for part in parts
    ]
    return [(shifts[episode * len(parts) // episodes],) for episode in range(episodes)]


def _worn(kind: type[Friction] | type[Actuator], level: float, episodes: int) -> list[Dynamics]:
    """Return the dynamics of evenly spaced episodes of a schedule that ends at `level`."""
    points = ((0, (kind(1.0),)), (protocol.WORN_EPISODES - 1, (kind(level),)))
    schedule = Schedule("episode", points, interpolate=True)
    moments = np.linspace(0, protocol.WORN_EPISODES - 1, episodes).round().astype(int)
    return [schedule.shifts_at(moment) for moment in moments.tolist()]


def held_out_shifts(seed: int) -> tuple[Shift, ...]:
    """Draw dynamics that are in no table: of gravity and of friction one scale below and one above 1.

    Args:
        seed: Where an entry's re-run begins, which follows from the hashes of its policies.

    Returns:
        One shift for each of the held-out dynamics; each is applied alone, on top of the scoring environment's.
    """
    rng = np.random.default_rng([seed, 2])
    low, high = protocol.HELD_OUT_RANGE
    return tuple(
        _SCALED[kind](_unlisted(rng, *ends)) for kind in protocol.HELD_OUT_KINDS for ends in ((low, 1.0), (1.0, high))
    )


def _unlisted(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a scale, evenly in its logarithm, that is near no scale of a table."""
    listed = np.array([1.0, *PRESET_SCALES, *protocol.SCALE_LEVELS])
    while True:
        scale = round(float(np.exp(rng.uniform(np.log(low), np.log(high)))), 3)
        if low < scale < high and (np.abs(scale / listed - 1.0) >= protocol.HELD_OUT_MARGIN).all():
            return scale
