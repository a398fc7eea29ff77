"""Returns of a policy, and which policies of a run become its medium and its expert."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_agents.behaviour.collector import Collector
from offdyn_envs.errors import OffDynError
from offdyn_envs.policies import BehaviourPolicy

# The medium's mean return over the expert's must lie here, as near as possible to the middle.
MEDIUM_LOW, MEDIUM_HIGH = 1.0 / 3.0, 2.0 / 3.0
_LATE, _COARSE = 8, 18

Act = Callable[[NDArray[np.float64]], NDArray[np.float32]]


@dataclass(frozen=True)
class Evaluation:
    """Episodes of one policy.

    Attributes:
        returns: undiscounted returns [E].
        lengths: steps [E].
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.returns.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the mean return."""
        return float(self.returns.std(ddof=1) / math.sqrt(len(self.returns)))

    def summary(self) -> dict[str, Any]:
        """Mean, standard error, extremes and lengths as plain types."""
        return {
            "episodes": len(self.returns),
            "mean": self.mean,
            "se": self.standard_error,
            "min": float(self.returns.min()),
            "max": float(self.returns.max()),
            "length_mean": float(self.lengths.mean()),
            "length_min": int(self.lengths.min()),
            "length_max": int(self.lengths.max()),
        }


def run_episodes(act: Act, robot: str, dynamics: str, episodes: int, seed: int) -> Evaluation:
    """One episode per row, to its end.

    Args:
        act: from observations [E, |S|] to actions [E, |A|]. It also sees rows that are over.
        robot: robot name.
        dynamics: dynamics slug.
        episodes: E.
        seed: seed of the first states.

    Returns:
        Returns and lengths, in the order of the rows.
    """
    collector = Collector(robot, dynamics, episodes, seed, staggered=False)
    returns, lengths = np.zeros(episodes), np.zeros(episodes, dtype=np.int64)
    running = np.ones(episodes, dtype=np.bool_)
    while running.any():
        outcome = collector.step(act(collector.observations))
        returns[running] += outcome.rewards[running]
        lengths[running] += 1
        running &= ~(outcome.terminated | outcome.truncated)
    return Evaluation(returns, lengths)


def evaluate(
    policy: BehaviourPolicy, robot: str, dynamics: str, episodes: int, seed: int, *, sampled: bool = True
) -> Evaluation:
    """Episodes of a behaviour policy.

    Args:
        policy: the policy.
        robot: robot name.
        dynamics: dynamics slug.
        episodes: number of episodes.
        seed: seed of the first states and of the actions.
        sampled: draw actions, as the datasets do; else take the deterministic ones.

    Returns:
        Returns and lengths.
    """
    rng = np.random.default_rng([seed, 2]) if sampled else None
    return run_episodes(lambda observations: policy.act(observations, rng), robot, dynamics, episodes, seed)


def choose_medium(candidates: Sequence[tuple[int, float]], expert: float) -> int | None:
    """The rule that names the medium.

    Args:
        candidates: (steps, mean return of sampled actions) of policies of the from-scratch run.
        expert: the expert's mean return, above 0.

    Returns:
        Steps of the candidate nearest to half of the expert's return, the earlier of two as near; None when none lies
        inside [1/3, 2/3] of it.
    """
    inside = [x for x in candidates if MEDIUM_LOW * expert <= x[1] <= MEDIUM_HIGH * expert]
    if not inside:
        return None
    return min(inside, key=lambda x: (abs(x[1] - 0.5 * expert), x[0]))[0]


def find_expert(history: Sequence[tuple[int, float]], measure: Callable[[int], float]) -> tuple[int, float]:
    """The best late policy of a run.

    Args:
        history: (steps, mean training return) of the policies kept, oldest first.
        measure: mean return of the policy after so many steps.

    Returns:
        Steps and measured mean return.
    """
    late = [steps for steps, _ in history[-_LATE:]]
    known = [x for x in history[len(history) // 2 :] if x[0] not in late and math.isfinite(x[1])]
    best = sorted(known, key=lambda x: -x[1])[: _LATE // 2]
    measured = [(steps, measure(steps)) for steps in [*late, *(steps for steps, _ in best)]]
    return max(measured, key=lambda x: x[1])


def find_medium(steps: Sequence[int], expert: float, measure: Callable[[int], float]) -> tuple[int, float]:
    """The policy nearest to half of the expert's return, by measured returns.

    Training returns are no guide: they are means over past policies and lag far behind where learning is fast. So
    evenly spaced policies are measured, then all those around the nearest one.

    Args:
        steps: of the policies kept, oldest first.
        expert: the expert's mean return.
        measure: mean return of the policy after so many steps.

    Returns:
        Steps and measured mean return.

    Raises:
        OffDynError: none of the policies looked at qualifies.
    """
    spacing = max(len(steps) // _COARSE, 1)
    measured = {x: measure(x) for x in steps[::spacing]}
    nearest = min(measured, key=lambda x: abs(measured[x] - 0.5 * expert))
    middle = list(steps).index(nearest)
    around = steps[max(middle - spacing, 0) : middle + spacing + 1]
    measured |= {x: measure(x) for x in around if x not in measured}
    chosen = choose_medium(list(measured.items()), expert)
    if chosen is None:
        seen = ", ".join(f"{value:.0f}" for value in sorted(measured.values()))
        raise OffDynError(f"no policy of the run has 1/3 to 2/3 of the expert's return {expert:.0f}; measured: {seen}")
    return chosen, measured[chosen]
