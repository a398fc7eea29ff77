"""The constants of leaderboard protocol version 1.

Everything that decides a figure on the page is named here. A change of any of these values is a new protocol version,
and with it come new reference returns: figures of two versions are never compared.

A score of 0 is the mean return of the random policy, a score of 100 that of the expert of the scoring environment with
DETERMINISTIC actions: entries act deterministically too.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from offdyn_envs.errors import OffDynError, unknown

if TYPE_CHECKING:
    from offdyn_envs.shifts import Shift

__all__ = [
    "ATTACKS",
    "BOOTSTRAP_REPLICATES",
    "BOOTSTRAP_SEED",
    "CELL_EPISODES",
    "CLEAN_EPISODES",
    "DEGRADATION_FLOOR",
    "EVALUATION_SEED",
    "FAMILIES",
    "FRICTION_LEVELS",
    "GRAVITY_LEVELS",
    "LEVEL",
    "LISTED_SEEDS",
    "MAX_SEED",
    "MIN_EPISODES",
    "MIN_Q_LEVELS",
    "PROTOCOL",
    "RANKED_SEEDS",
    "REFERENCE_IQL",
    "SCORED_GAP",
    "VERIFICATION_LEVEL",
    "VERIFIER_VERSION",
    "Cell",
    "cell_shifts",
    "evaluation_cells",
]

PROTOCOL = 1
"""The version that entries, verdicts, references and standings name."""

RANKED_SEEDS = 5
"""Runs (ids 0-4) that every task of an entry needs for a ranked place."""
LISTED_SEEDS = 3
"""Runs that every task of an entry needs to be listed at all."""
MAX_SEED = 99
"""The largest run id that an entry may hold."""

CLEAN_EPISODES = 100
"""Episodes per policy in the unperturbed target, claimed and re-run."""
MIN_EPISODES = 10
"""The shortest claimed list of clean returns: fewer say nothing about a policy."""
CELL_EPISODES = 20
"""Episodes per policy in every perturbed cell."""
EVALUATION_SEED = 1_000_000
"""Row i of a self-reported evaluation is seeded with this plus i: far from the seeds that collect data."""

GRAVITY_LEVELS = (0.5, 0.8, 1.25, 2.0)
"""Test-time gravity scales, applied on top of the scoring environment's own shifts."""
FRICTION_LEVELS = (0.5, 0.8, 1.25, 2.0)
"""Test-time friction scales, applied on top of the scoring environment's own shifts."""
MIN_Q_LEVELS = (0.1, 0.2)
"""Half widths of the min-Q attack's box, in target standard deviations."""
FAMILIES = ("friction", "gravity", "min-q", "random")
"""Perturbation families that an entry may report."""
ATTACKS = ("min-q", "random")
"""The families that move what a policy observes and leave the dynamics alone."""

REFERENCE_IQL = "offdyn-iql"
"""Name of the entry over which the probability of improvement is taken: the suite's own IQL on merged data."""

LEVEL = 0.95
"""Level of every interval on the page."""
BOOTSTRAP_REPLICATES = 10_000
"""Replicates of the stratified bootstrap."""
BOOTSTRAP_SEED = 20_260_101
"""Seed of the stratified bootstrap, beside the scores themselves."""

VERIFICATION_LEVEL = 0.999
"""An entry fails when chance alone would explain the difference in fewer than 1 of 1,000 honest entries."""
VERIFIER_VERSION = 1
"""Verdicts of another verifier version are not shown."""

SCORED_GAP = 5.0
"""A task is scored when expert - random is at least this many standard errors of that difference."""
DEGRADATION_FLOOR = 10.0
"""Tasks with a clean score at or below this do not enter the degradation."""


class Cell(NamedTuple):
    """One perturbed cell of the robustness grid.

    Attributes:
        family: One of `FAMILIES`.
        level: Scale of the shift, or half width of the attack's box in standard deviations.
    """

    family: str
    level: float


def evaluation_cells(*, critic: bool = True) -> tuple[Cell, ...]:
    """Lists the cells of the test-time grid.

    Args:
        critic: Whether the agent has a critic; the min-Q attack needs one.
    """
    cells = [Cell("gravity", level) for level in GRAVITY_LEVELS]
    cells += [Cell("friction", level) for level in FRICTION_LEVELS]
    if critic:
        cells += [Cell("min-q", level) for level in MIN_Q_LEVELS]
    return tuple(cells)


def cell_shifts(shifts: "Sequence[Shift]", cell: Cell) -> "tuple[Shift, ...]":
    """Returns the scoring environment's shifts with the cell's own appended.

    Args:
        shifts: The shifts of the scoring environment.
        cell: The cell; observation attacks leave the dynamics alone.

    Raises:
        OffDynError: The family is unknown or the level is no positive number.
    """
    from offdyn_envs.shifts import Friction, Gravity

    if cell.family not in FAMILIES:
        raise unknown("perturbation family", cell.family, FAMILIES)
    if not 0 < cell.level < float("inf"):
        raise OffDynError(f"perturbation level {cell.level!r} of '{cell.family}': a positive finite number is allowed")
    if cell.family == "gravity":
        return (*shifts, Gravity(cell.level))
    if cell.family == "friction":
        return (*shifts, Friction(cell.level))
    return tuple(shifts)
