"""What an entry earned under perturbations, claimed or re-run, and the share of the clean score that it kept."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from offdyn_envs.benchmark.entries.submissions import Entry
from offdyn_envs.benchmark.entries.verdicts import NOT_REPRODUCED, REPRODUCED
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.cells import full_grid
from offdyn_envs.benchmark.scoring.scores import degradation

__all__ = ["CLAIM", "RERUN", "Kept", "Perturbed", "kept", "missing_cells", "whole"]

CLAIM, RERUN = "claim", "re-run"
"""Where a figure comes from."""

Seeds = Mapping[int, float]


@dataclass(frozen=True)
class Perturbed:
    """Mean returns of each seed, clean and in every cell, all claimed or all re-run.

    Attributes:
        source: `re-run` or `claim`.
        clean: By task and seed.
        cells: By task, (family, level) and seed.
    """

    source: str
    clean: Mapping[str, Seeds]
    cells: Mapping[str, Mapping[tuple[str, float], Seeds]]

    @staticmethod
    def of(entry: Entry, tasks: Mapping[str, Any], verdict: Mapping[str, Any] | None) -> "Perturbed":
        """Returns those of an entry.

        Args:
            entry: The entry.
            tasks: Its tasks as the standings have them.
            verdict: The verdict on it, None where there is none.
        """
        rerun = verdict is not None and "perturbed" in verdict and verdict["status"] in (REPRODUCED, NOT_REPRODUCED)
        claimed = [asdict(cell) for cell in entry.perturbed]
        cells: dict[str, dict[tuple[str, float], dict[int, float]]] = {}
        for cell in verdict["perturbed"] if rerun and verdict is not None else claimed:
            family = cell["family"]
            if entry.protocol == 1 and family == protocol.MIN_Q:
                # The first protocol had no other attack than that with the entry's own critic.
                family = protocol.MIN_Q_OWN
            seeds = cells.setdefault(cell["task"], {}).setdefault((family, cell["level"]), {})
            seeds[cell["seed"]] = float(np.mean(cell["returns"]))
        key = "returns" if rerun else "claimed_returns"
        clean = {task: dict(zip(row["seeds"], row[key], strict=True)) for task, row in tasks.items()}
        return Perturbed(RERUN if rerun else CLAIM, clean, cells)


def missing_cells(entry: Entry, verdict: Mapping[str, Any] | None) -> int:
    """Returns how many cells of the grid, over all tasks and seeds, the suite has not re-run; a place needs all.

    Args:
        entry: The entry.
        verdict: The verdict on it, None where there is none.
    """
    again = {(one["task"], one["seed"], one["family"], one["level"]) for one in (verdict or {}).get("perturbed", ())}
    needed = {(one.task, one.seed, *cell) for one in entry.results for cell in full_grid(one.task)}
    return len(needed - again)


def whole(cell: tuple[str, float], own: Mapping[str, Collection[tuple[str, float]]]) -> bool:
    """Says whether no task lacks a cell that is possible on it: only then is a share told.

    Args:
        cell: Family and level. One that is in no grid, as of an entry's own critic, is asked of every task.
        own: The cells that each task has.
    """
    grids = {task: full_grid(task) for task in own}
    asked = [task for task, grid in grids.items() if cell in grid] or list(own)
    return all(cell in own[task] for task in asked)


class Kept(NamedTuple):
    """What is kept of the clean score in one cell.

    Attributes:
        tasks: The tasks that count: a clean score above `protocol.DEGRADATION_FLOOR`.
        share: Sum over sum of these tasks, 0 where less than nothing is left; None where no task counts.
    """

    tasks: tuple[str, ...]
    share: float | None


def kept(
    cell: tuple[str, float],
    own: Mapping[str, Mapping[tuple[str, float], float]],
    clean: Mapping[str, float],
    among: Collection[str] | None = None,
) -> Kept | None:
    """Returns what is kept in a cell, by one rule for the board and the results page (docs/protocol.md).

    None where a task lacks the cell though it is possible on it: nobody chooses the tasks over which it is taken.

    Args:
        cell: Family and level.
        own: Mean score of each task in each of its cells.
        clean: Mean clean score of each task that has cells.
        among: The tasks that may count; all by default.
    """
    if not whole(cell, own):
        return None
    there = [task for task in sorted(own) if cell in own[task] and (among is None or task in among)]
    tasks = tuple(task for task in there if clean[task] > protocol.DEGRADATION_FLOOR)
    lost = degradation([own[task][cell] for task in tasks], [clean[task] for task in tasks])
    return Kept(tasks, None if lost is None else max(0.0, 1.0 - lost))
