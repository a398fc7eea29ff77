"""Normalised scores and degradation.

A score is 100 * (return - random) / (expert - random). A mean return is normalised; a standard deviation is only
scaled, because a spread has no origin (public code passes standard deviations through the normaliser, which adds -100
* random / (expert - random) to each of them).

Three sets of reference returns exist. `offdyn` is measured by this suite, per robot and per dynamics, and decides
every ranked figure; its score of 100 is the expert's mean return with DETERMINISTIC actions, as every entry acts.
`d4rl` and `odrl` are published constants, for comparison with papers: ODRL has per-task maxima for friction and
gravity only, its halfcheetah gravity 2.0 is a copy of gravity 0.5's, and all its other maxima are the nominal robot's.
"""

import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.tasks import get_task

__all__ = [
    "Reference",
    "ReferenceSet",
    "degradation",
    "find_reference",
    "get_reference",
    "has_expert",
    "kept_words",
    "load_references",
    "normalised_score",
    "normaliser",
    "task_reference",
]

Floats = NDArray[np.float64]
ReferenceSet = Literal["offdyn", "d4rl", "odrl"]

REFERENCES_PATH = Path(__file__).with_name("references.json")

_D4RL = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
}
_ODRL_MIN = {"halfcheetah": -280.178953, "hopper": -26.3360015, "walker2d": 10.0794551, "ant": -325.6}
_ODRL_RESHAPED_MAX = {"halfcheetah": 12135.0, "hopper": 3234.3, "walker2d": 4592.3, "ant": 5139.832}
_ODRL_MAX = {
    "friction-0.1": {"halfcheetah": 41696.546875, "hopper": 3234.3, "walker2d": 3360.181, "ant": 7938.962},
    "friction-0.5": {"halfcheetah": 7357.0712890625, "hopper": 3234.3, "walker2d": 4229.348, "ant": 8301.338},
    "friction-2.0": {"halfcheetah": 11255.9677734375, "hopper": 3234.3, "walker2d": 5180.044, "ant": 5167.376},
    "friction-5.0": {"halfcheetah": 10199.3271484375, "hopper": 3234.3, "walker2d": 4988.835, "ant": 4545.021},
    "gravity-0.1": {"halfcheetah": 2466.85, "hopper": 3234.3, "walker2d": 2074.904, "ant": 2782.098},
    "gravity-0.5": {"halfcheetah": 9509.15, "hopper": 3234.3, "walker2d": 5194.713, "ant": 4317.065},
    "gravity-2.0": {"halfcheetah": 9509.15, "hopper": 3234.3, "walker2d": 5056.445, "ant": 6705.12},
    "gravity-5.0": {"halfcheetah": 3756.24, "hopper": 3234.3, "walker2d": 3665.385, "ant": 6226.89},
}


@dataclass(frozen=True)
class Reference:
    """The two returns between which a score is measured.

    Attributes:
        random: Mean return of the random policy; score 0.
        expert: Mean return of the expert; score 100.
        random_se: Standard error of `random`; 0 for published constants.
        expert_se: Standard error of `expert`; 0 for published constants.
    """

    random: float
    expert: float
    random_se: float = 0.0
    expert_se: float = 0.0

    @property
    def span(self) -> float:
        """The return that 100 score points are worth."""
        return self.expert - self.random

    @property
    def scored(self) -> bool:
        """Whether the gap is at least five of its own standard errors."""
        return self.span > 0 and self.span >= protocol.SCORED_GAP * math.hypot(self.random_se, self.expert_se)

    def normalise(self, returns: ArrayLike) -> Floats:
        """Maps returns, or a mean of returns, of any shape to scores."""
        return 100.0 * (np.asarray(returns, dtype=np.float64) - self.random) / self.span

    def scale(self, spread: ArrayLike) -> Floats:
        """Maps standard deviations, standard errors or differences of returns to score points."""
        return 100.0 * np.asarray(spread, dtype=np.float64) / self.span


def has_expert(returns: Mapping[str, Any], robot: str, dynamics: str) -> bool:
    """Say whether a table's returns hold an expert's, without which there is no score.

    Args:
        returns: By robot and dynamics, as a references.json holds them.
        robot: Robot name.
        dynamics: Slug of the dynamics.
    """
    return "expert" in returns.get(robot, {}).get(dynamics, {})


def get_reference(
    robot: str, dynamics: str, reference: str = "offdyn", *, table: Mapping[str, Any] | None = None
) -> Reference:
    """Looks up the reference returns of one robot under one dynamics.

    Args:
        robot: Robot name, such as `hopper`.
        dynamics: Slug of the scoring environment's dynamics, such as `gravity-0.5`.
        reference: `offdyn`, `d4rl` (the nominal robot's constants, whatever the dynamics) or `odrl`.
        table: Contents of a references.json to use instead of the package's; only for `offdyn`.

    Raises:
        OffDynError: A name is unknown, or the set has no returns for this pair.
    """
    if reference == "d4rl":
        if robot not in _D4RL:
            raise unknown("robot", robot, _D4RL)
        return Reference(*_D4RL[robot])
    if reference == "odrl":
        return _odrl(robot, dynamics)
    if reference != "offdyn":
        raise unknown("reference set", reference, get_args(ReferenceSet))
    returns = (load_references() if table is None else table)["returns"]
    if not has_expert(returns, robot, dynamics):
        names = [(name, slug) for name in sorted(returns) for slug in sorted(returns[name])]
        measured = ", ".join(f"{name}/{slug}" for name, slug in names if has_expert(returns, name, slug)) or "none"
        raise OffDynError(f"no reference returns for '{robot}' under '{dynamics}'; with an expert: {measured}")
    cell = returns[robot][dynamics]
    random, expert = cell["random"], cell["expert"]
    return Reference(float(random["mean"]), float(expert["mean"]), float(random["se"]), float(expert["se"]))


def find_reference(name: str, *, table: Mapping[str, Any] | None = None) -> Reference | None:
    """Returns the reference of a task's scoring environment, scored or not; None where none is measured.

    Args:
        name: Name of the task.
        table: Contents of a references.json to use instead of the package's.

    Raises:
        OffDynError: No such task.
    """
    task = get_task(name)
    try:
        return get_reference(task.robot, task.scoring, table=table)
    except OffDynError:
        return None


def task_reference(name: str, *, table: Mapping[str, Any] | None = None) -> Reference | None:
    """Returns the reference of a task's scoring environment, None where the task is listed but not scored.

    Args:
        name: Name of the task.
        table: Contents of a references.json to use instead of the package's.

    Raises:
        OffDynError: No such task.
    """
    found = find_reference(name, table=table)
    return found if found is not None and found.scored else None


def normaliser(name: str) -> Callable[[ArrayLike], Floats] | None:
    """Returns what maps returns in a task's scoring environment to scores, also where the task is not ranked.

    Args:
        name: Name of the task.

    Returns:
        The function; None without measured references, where the raw returns are still worth showing.

    Raises:
        OffDynError: No such task.
    """
    found = find_reference(name)
    return None if found is None else found.normalise


def normalised_score(
    robot: str,
    dynamics: str,
    returns: ArrayLike,
    reference: str = "offdyn",
    *,
    table: Mapping[str, Any] | None = None,
) -> Floats:
    """Maps returns to normalised scores, 0 for the random policy and 100 for the expert.

    Args:
        robot: Robot name.
        dynamics: Slug of the scoring environment's dynamics.
        returns: Undiscounted episode returns or means of them, any shape. For standard
            deviations use `get_reference(...).scale`.
        reference: `offdyn`, `d4rl` or `odrl`.
        table: Contents of a references.json to use instead of the package's.

    Returns:
        Scores of the shape of `returns`, float64.

    Raises:
        OffDynError: As in `get_reference`.
    """
    return get_reference(robot, dynamics, reference, table=table).normalise(returns)


def degradation(perturbed: ArrayLike, clean: ArrayLike) -> float | None:
    """Returns 1 - sum(perturbed) / sum(clean) over the tasks whose clean score exceeds 10.

    Args:
        perturbed: Normalised score of each task under the perturbation, shape [tasks].
        clean: Normalised score of each task without it, shape [tasks], in the same order.

    Returns:
        The share of the clean score that is lost (negative when the perturbation helps), or None when no task has a
        clean score above 10: a share of almost nothing means nothing.

    Raises:
        OffDynError: Shapes differ or a value is not finite.
    """
    after, before = np.asarray(perturbed, dtype=np.float64), np.asarray(clean, dtype=np.float64)
    if after.shape != before.shape or after.ndim != 1:
        raise OffDynError(
            f"degradation of scores {after.shape} from {before.shape}: two vectors of equal length are needed"
        )
    if not (np.isfinite(after).all() and np.isfinite(before).all()):
        raise OffDynError("degradation: every score must be finite")
    counted = before > protocol.DEGRADATION_FLOOR
    if not counted.any():
        return None
    return float(1.0 - after[counted].sum() / before[counted].sum())


def kept_words(lost: float | None) -> str:
    """Says what is left of a clean score under a perturbation.

    Args:
        lost: What `degradation` gives.

    Returns:
        For instance "72 % kept", "gain of 8 %" or "nothing kept"; "-" where there is no clean score to speak of.
    """
    if lost is None:
        return "-"
    kept = round(100.0 * (1.0 - lost))
    if kept > 100:
        return f"gain of {kept - 100} %"
    return f"{kept} % kept" if kept > 0 else "nothing kept"


@functools.lru_cache(maxsize=4)
def load_references(path: Path = REFERENCES_PATH) -> Mapping[str, Any]:
    """Reads a references.json.

    Args:
        path: The file; the package's own by default.

    Raises:
        OffDynError: The file is missing, is no JSON, or belongs to another protocol version.
    """
    try:
        table: Any = json.loads(path.read_text(encoding="utf-8"))
        version, returns = table["protocol"], table["returns"]
    except FileNotFoundError:
        raise OffDynError(
            f"reference returns '{path.name}' are missing from offdyn_envs.benchmark; use the d4rl or odrl set"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise OffDynError(f"reference returns '{path}' cannot be read: {error}") from None
    if version != protocol.PROTOCOL or not isinstance(returns, dict):
        raise OffDynError(f"reference returns '{path}' are of protocol {version!r}; {protocol.PROTOCOL} is allowed")
    return table


def _odrl(robot: str, dynamics: str) -> Reference:
    if robot not in _ODRL_MIN:
        raise unknown("robot", robot, _ODRL_MIN)
    if dynamics.startswith(("kinematic-", "morphology-")):
        return Reference(_ODRL_MIN[robot], _ODRL_RESHAPED_MAX[robot])
    if dynamics not in _ODRL_MAX:
        raise unknown("ODRL dynamics", dynamics, [*_ODRL_MAX, "kinematic-*", "morphology-*"])
    return Reference(_ODRL_MIN[robot], _ODRL_MAX[dynamics][robot])
