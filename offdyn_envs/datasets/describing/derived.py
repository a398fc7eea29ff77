"""What a dataset's card does not store because it depends on more than the dataset: its score and its shift's size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.batching.row_models import rows_together
from offdyn_envs.datasets.store.spec import Dataset
from offdyn_envs.robots import get_robot
from offdyn_envs.shifts import Shift, parse_shifts
from offdyn_envs.vector import OffDynVectorEnv

__all__ = ["score", "shift_size"]

STATES = 1000


def score(card: Mapping[str, Any]) -> dict[str, float | None] | None:
    """Return the normalised score of a dataset's mean return.

    Args:
        card: Of the dataset.

    Returns:
        "mean" and "se" in score points (0 = random policy, 100 = expert); None where the dataset holds no whole episode
        or its dynamics have no expert.

    Raises:
        OffDynError: The table of reference returns is damaged.
    """
    from offdyn_envs.benchmark.scoring.scores import get_reference, has_expert, load_references

    returns = card["returns"]
    if returns is None or not has_expert(load_references()["returns"], card["robot"], card["dynamics"]):
        return None
    reference = get_reference(card["robot"], card["dynamics"])
    se = None if returns["se"] is None else float(reference.scale(returns["se"]))
    return {"mean": float(reference.normalise(returns["mean"])), "se": se}


def shift_size(dataset: Dataset, states: int = STATES) -> float:
    """Measure how far the dataset's shift moves the next observation.

    From evenly spaced stored states, with the stored actions, one step is simulated under the dataset's dynamics and
    one under the nominal ones.

    Args:
        dataset: The dataset.
        states: How many states; all of them where the dataset is smaller.

    Returns:
        |difference of the two next observations|, per dimension in standard deviations of the nominal next observation
        on these states, averaged over states and dimensions. 0 for the nominal robot.
    """
    shifts = parse_shifts(dataset.card["shifts"] or None)
    if not shifts:
        return 0.0
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(states, len(dataset))).astype(np.int64))
    nominal, shifted = _step(dataset, rows, None), _step(dataset, rows, shifts)
    spread = nominal.std(axis=0)
    moving = spread > 1e-9
    return float((np.abs(shifted - nominal)[:, moving] / spread[moving]).mean()) if moving.any() else 0.0


def _step(dataset: Dataset, rows: NDArray[np.int64], shifts: Sequence[Shift] | None) -> NDArray[np.float64]:
    """Simulate one step from stored states; return the next observations [rows, |S|]."""
    arrays, profile, robot = dataset.arrays, dataset.card["profile"], get_robot(dataset.id.robot)
    width = rows_together(robot, len(rows))
    env = OffDynVectorEnv(robot, width, shifts=shifts, profile=profile, autoreset_mode="disabled")
    found: list[NDArray[np.float64]] = []
    with closing(env):
        for first in range(0, len(rows), width):
            part = rows[first : first + width]
            filled = np.resize(part, width)  # The last part may be short.
            qpos, qvel, *goal = arrays.states(arrays.state_rows[filled])
            env.set_state(qpos, qvel, goal=goal[0] if goal else None)
            found.append(env.step(np.asarray(arrays.actions[filled]))[0][: len(part)])
    return np.concatenate(found)
