"""What every stored transition would have been under other dynamics: the simulator's own answer, to the last bit.

For diagnosis only (how large is a dynamics gap, how good is a learned model of it), never for training: an agent that
reads it has been shown the target domain in the source's states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.checking.admissible import Admission
from offdyn_envs.datasets.gap.domains import Domain, Dynamics, domain_of
from offdyn_envs.datasets.gap.simulators import EnvironmentSimulator, ModelSimulator, make_simulator
from offdyn_envs.datasets.store.spec import Dataset
from offdyn_envs.errors import OffDynError
from offdyn_envs.models import compile_model
from offdyn_envs.progress import progress
from offdyn_envs.robots import Robot, State, get_robot
from offdyn_envs.shifts import Shift, parse_shifts
from offdyn_envs.shifts.local import here, is_local

__all__ = ["REASONS", "Counterfactual", "counterfactual"]

Array = NDArray[Any]
Shifts = tuple[Shift, ...]
_Simulator = ModelSimulator | EnvironmentSimulator
REASONS: Mapping[str, str] = MappingProxyType(
    {
        "penetration": "the other body would be inside the floor, or inside itself",
        "limit": "a joint would be beyond its limit in the other body",
        "diverged": "the simulation blew up",
    }
)
"""Why a row has no meaningful answer."""

_NEEDED = "only datasets collected in this simulator can be simulated again"


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """The answers for n rows of a source dataset.

    Rows that the other body cannot take hold NaN and no termination. Rows whose simulation blew up hold what the
    environments return: the state kept, and a termination.

    Attributes:
        rows: Which rows of the source, int64 [n].
        next_observations: float32 [n, |S|], rounded like stored ones.
        rewards: float32 [n].
        terminations: bool [n].
        next_qpos: Simulator positions after the step, float64 [n, nq].
        next_qvel: Simulator velocities after the step, float64 [n, nv].
        next_goal: Of a robot with a goal the third part of the states after the step, float64 [n, G]; None for others.
        masks: For each of `REASONS` the rows that it excludes, bool [n]; a row may have several.
    """

    rows: NDArray[np.int64]
    next_observations: NDArray[np.float32]
    rewards: NDArray[np.float32]
    terminations: NDArray[np.bool_]
    next_qpos: NDArray[np.float64]
    next_qvel: NDArray[np.float64]
    masks: Mapping[str, NDArray[np.bool_]]
    next_goal: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """Rows with a meaningful answer, bool [n]."""
        return ~np.any(list(self.masks.values()), axis=0)

    @property
    def counts(self) -> dict[str, int]:
        """How many rows each reason excludes; a row with two reasons is counted twice."""
        return {reason: int(mask.sum()) for reason, mask in self.masks.items()}


def counterfactual(
    source: Dataset,
    env: Dynamics,
    rows: Array | Sequence[int] | None = None,
    *,
    profile: str | None = None,
    num_threads: int | None = None,
    quiet: bool = False,
) -> Counterfactual:
    """Simulate stored transitions again under other dynamics.

    Each row starts from the stored simulator state before the step and executes the stored action. Under the dataset's
    own dynamics the answers are the stored ones bit for bit (on the platform that made them). Under a delay the actions
    under way are those that are stored before the row. For diagnosis, never for training.

    Args:
        source: A dataset with simulator states.
        env: The other dynamics, of the same robot: an environment (scalar or batched, all rows alike; its attack is
            left aside), the id of one such as "OffDyn/Hopper-gravity-0.5-v0", a dynamics slug such as "gravity-0.5", or
            a list of shifts of the nominal robot.
        rows: Which rows, whole numbers [n] in any order; all of them where left out.
        profile: Variant of the edits where `env` is no environment; by default the dataset's.
        num_threads: Threads of the simulation; by default all usable cores. The answers do not depend on it.
        quiet: No progress bar.

    Returns:
        The answers, in the order of `rows`.

    Raises:
        OffDynError: No simulator states, another robot, rows that are empty or out of range, unknown dynamics, noise,
            or an environment whose rows differ or whose dynamics change in time.
    """
    robot = _robot_of(source)
    chosen = _rows(rows, len(source))
    domain = domain_of(env, robot, source.card["profile"] if profile is None else profile)
    threads = num_threads or _usable_threads()
    if isinstance(threads, bool) or threads < 1:
        raise OffDynError(f"num_threads must be at least 1, got {threads}")
    simulator = make_simulator(robot, domain, threads)
    admission = _Admissions(robot, source, domain)
    try:
        with progress(f"{source.id} under other dynamics", len(chosen), quiet=quiet, resumes=False) as advance:
            return _collect(source, chosen, simulator, admission, advance)
    finally:
        simulator.close()


def _usable_threads() -> int:
    from offdyn_envs.batching.threads import usable_threads

    return usable_threads()


def _robot_of(source: Dataset) -> Robot:
    """Return the robot of a dataset that can be simulated again."""
    if not isinstance(source, Dataset):
        name = getattr(source, "id", None) or getattr(source, "name", None) or type(source).__name__
        raise OffDynError(f"source '{name}' holds no simulator states; {_NEEDED}")
    robot, states = get_robot(source.id.robot), len(source) + len(source.arrays.lengths)
    goals = (("goal", robot.goal_dim),) if robot.goal_dim else ()
    for key, width in (("qpos", robot.nq), ("qvel", robot.nv), *goals):
        array: Any = getattr(source.arrays, key, None)
        shape = None if array is None else array.shape
        if shape != (states, width):
            found = "missing" if not shape or 0 in shape else f"{list(shape)}"
            raise OffDynError(
                f"dataset '{source.id}' holds no simulator states: '{key}' is {found}, expected {[states, width]}; "
                f"{_NEEDED}"
            )
    return robot


def _rows(rows: Array | Sequence[int] | None, total: int) -> NDArray[np.int64]:
    if rows is None:
        return np.arange(total)
    chosen = np.asarray(rows)
    if chosen.ndim != 1 or not len(chosen) or chosen.dtype.kind not in "iu":
        raise OffDynError(
            f"rows must be a list of at least one whole number, got {chosen.dtype} {list(chosen.shape)}; "
            "leave it out for all rows"
        )
    if chosen.min() < 0 or chosen.max() >= total:
        raise OffDynError(f"rows must lie in 0 to {total - 1}, got {chosen.min()} to {chosen.max()}")
    return chosen.astype(np.int64)


class _Admissions:
    """Tells which states of a dataset other dynamics can take: local shifts make bodies that hold in some of them."""

    def __init__(self, robot: Robot, source: Dataset, domain: Domain) -> None:
        self._robot, self._domain = robot, domain
        self._own, self._profile = parse_shifts(source.card["shifts"] or None), source.card["profile"]
        self._local = is_local(self._own) or is_local(domain.shifts)
        self._known: dict[object, Admission] = {}

    def refused(self, states: State) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Say which states are too deep inside, and which too far beyond a limit, see `Admission.refused`."""
        total = len(states.qpos)
        refused = np.zeros(total, dtype=bool), np.zeros(total, dtype=bool)
        for bodies, rows in self._groups(states).items():
            found = self._admission(*bodies).refused(states.qpos[rows], *(values[rows] for values in states[2:]))
            refused[0][rows], refused[1][rows] = found
        return refused

    def _groups(self, states: State) -> dict[tuple[Shifts, Shifts], Any]:
        """Return which rows have the same shifts of both bodies."""
        if not self._local:
            return {(self._own, self._domain.shifts): slice(None)}
        groups: dict[tuple[Shifts, Shifts], list[int]] = {}
        for row in range(len(states.qpos)):
            state = type(states)(*(values[row] for values in states))
            bodies = here(self._own, self._robot, state), here(self._domain.shifts, self._robot, state)
            groups.setdefault(bodies, []).append(row)
        return groups

    def _admission(self, own: Shifts, other: Shifts) -> Admission:
        if (own, other) not in self._known:
            domain = self._domain
            body = compile_model(self._robot, other, domain.profile) if domain.shifts else domain.model
            self._known[own, other] = Admission(self._robot, compile_model(self._robot, own, self._profile), body)
        return self._known[own, other]


def _empty(robot: Robot, rows: NDArray[np.int64]) -> Counterfactual:
    count = len(rows)
    return Counterfactual(
        rows=rows,
        next_observations=np.full((count, robot.observation_dim), np.nan, np.float32),
        rewards=np.full(count, np.nan, np.float32),
        terminations=np.zeros(count, dtype=bool),
        next_qpos=np.full((count, robot.nq), np.nan),
        next_qvel=np.full((count, robot.nv), np.nan),
        masks={reason: np.zeros(count, dtype=bool) for reason in REASONS},
        next_goal=np.full((count, robot.goal_dim), np.nan) if robot.goal_dim else None,
    )


def _collect(
    source: Dataset, rows: NDArray[np.int64], simulator: _Simulator, admission: _Admissions, advance: Any
) -> Counterfactual:
    """Fill in the answers, one chunk after the other."""
    answers, state_rows = _empty(simulator.robot, rows), source.arrays.state_rows
    for begin in range(0, len(rows), simulator.chunk):
        part = slice(begin, begin + simulator.chunk)
        states, actions = source.arrays.states(state_rows[rows[part]]), np.asarray(source.arrays.actions[rows[part]])
        if not all(np.isfinite(values).all() for values in states):
            raise OffDynError(f"dataset '{source.id}' holds no simulator states in some rows; {_NEEDED}")
        queue = source.arrays.under_way(rows[part], simulator.delay)
        _fill(answers, begin, states, (actions, queue), simulator, admission)
        advance(len(actions))
    return answers


def _fill(
    answers: Counterfactual,
    begin: int,
    states: State,
    sent: tuple[Array, Array],
    simulator: _Simulator,
    admission: _Admissions,
) -> None:
    """Fill in the answers of one chunk, from its states, its actions and those before them."""
    inside, beyond = admission.refused(states)
    actions, queue = sent
    part = slice(begin, begin + len(actions))
    answers.masks["penetration"][part], answers.masks["limit"][part] = inside, beyond
    taken = np.flatnonzero(~(inside | beyond))
    before = type(states)(*(values[taken] for values in states))
    after, diverged = simulator.step(before, actions[taken], queue[taken])
    robot, at = simulator.robot, taken + begin
    rewards, fallen = robot.judge(before, after, actions[taken])
    answers.masks["diverged"][at] = diverged
    reached = (answers.next_qpos, answers.next_qvel, answers.next_goal)
    for answer, values in zip(reached, after, strict=False):
        assert answer is not None
        answer[at] = values
    answers.next_observations[at] = robot.observe(*after)
    answers.rewards[at] = rewards
    answers.terminations[at] = fallen | diverged
