"""`identify`: the shift values under which simulated steps end where logged ones did."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.atomic import write_json
from offdyn_envs.batching.threads import usable_threads
from offdyn_envs.datasets.gap.measure import spaced
from offdyn_envs.datasets.identifying.fitting import Search, most_steps
from offdyn_envs.datasets.identifying.intervals import Estimate, judge
from offdyn_envs.datasets.identifying.logs import Logs, Target, read_logs
from offdyn_envs.datasets.identifying.parameters import Free, Parameter, read_free
from offdyn_envs.datasets.identifying.replay import Replay
from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.progress import progress
from offdyn_envs.robots import Robot
from offdyn_envs.shifts import Noise, Shift, Shifts, check_profile, parse_shifts, shifts_to_json
from offdyn_envs.shifts.base import at_least

__all__ = ["ROWS", "Errors", "Identification", "identify"]

ROWS = 5000
"""Most rows that are used if nobody says."""


@dataclass(frozen=True)
class Errors:
    """Mean |error| in changes of one step: standard deviations of what a step changes in a dimension.

    Attributes:
        steps: After each simulated step, [H]; the first is the dynamics gap of `dynamics_gap` in units of "step".
        dimensions: Of each dimension of the observation after the first step, [|S|]; 0 where it does not move.
    """

    steps: tuple[float, ...]
    dimensions: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {"steps": list(self.steps), "dimensions": list(self.dimensions)}


@dataclass(frozen=True, eq=False)
class Identification:
    """What a fit found.

    Attributes:
        target: Name of the logs.
        robot: Name of the robot.
        profile: Variant of the edits.
        rows: How many rows were simulated from.
        left_out: How many rows could not be: a velocity was clipped, or a state is missing.
        from_states: The simulations start from the simulator's own states; else from observations, which are float32.
        horizon: How many steps were simulated from each row.
        known: Shifts that were said to hold.
        estimates: The values.
        shifts: The dynamics that were found, `known` among them; `shifts=` of every environment takes them.
        before: Errors under `known` alone.
        after: Errors that are left under `shifts`.
    """

    target: str
    robot: str
    profile: str
    rows: int
    left_out: int
    from_states: bool
    horizon: int
    known: tuple[Shift, ...]
    estimates: tuple[Estimate, ...]
    shifts: tuple[Shift, ...]
    before: Errors
    after: Errors

    def __getitem__(self, name: str) -> Estimate:
        """Return the estimate of a parameter by its name, for instance "mass:torso".

        Raises:
            OffDynError: No such parameter was free.
        """
        by_name = {item.name: item for item in self.estimates}
        if name not in by_name:
            raise unknown("free parameter", name, by_name)
        return by_name[name]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        keys = ("target", "robot", "profile", "rows", "left_out", "from_states", "horizon")
        return {
            **{key: getattr(self, key) for key in keys},
            "known": shifts_to_json(self.known),
            "estimates": [item.to_json() for item in self.estimates],
            "shifts": shifts_to_json(self.shifts),
            "before": self.before.to_json(),
            "after": self.after.to_json(),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the shifts as JSON, as `shifts=` takes them when they are read again.

        Args:
            path: The file.
        """
        write_json(path, shifts_to_json(self.shifts))


def identify(
    target: Target,
    robot: str | Robot | None = None,
    free: Free = ("gravity", "friction"),
    *,
    shifts: Shifts = None,
    rows: int = ROWS,
    horizon: int = 1,
    profile: str | None = None,
    seed: int = 0,
    num_threads: int | None = None,
    quiet: bool = False,
) -> Identification:
    """Fit the simulator to logs: find the shift values under which simulated steps end where logged ones did.

    Every row is simulated from its stored state, or from its observation where that holds the robot's state, under many
    candidate values at once. What is made small is the mean over rows of the error's root mean square in changes of one
    step, which rows that nothing explains do not govern. Whole numbers, as a delay, are tried one after the other.

    Args:
        target: A task (its target is used), an id of a dataset, a file, a dataset, or arrays by name: `observations`,
            `actions` in [-1, 1], `rewards`, `next_observations`, `terminations`, perhaps `truncations`, and perhaps
            simulator states before each step, `qpos` [N, nq] and `qvel` [N, nv], with a goal `goal` [N, G].
        robot: The robot or its name; where left out, the one that the data say they are of.
        free: What is looked for, see `offdyn_envs.datasets.identifying.parameters.read_free`: "gravity,mass:torso", or
            with a range "friction=0.2..5".
        shifts: Shifts that are known to hold, applied before those that are looked for.
        rows: At most so many rows, evenly spaced.
        horizon: How many steps are simulated from each row, at least 1; more tell small effects from noise.
        profile: Variant of the shifts; by default the dataset's.
        seed: Draws starts of the search and the rows it begins on.
        num_threads: Threads of the simulation; by default all usable processors. The result does not depend on it.
        quiet: No progress bar.

    Returns:
        Values with intervals, what the logs cannot tell, and the errors before and after.

    Raises:
        OffDynError: Unknown names, another robot, logs that no simulation can start from, or shifts that do not fit.
    """
    for what, value, least in (("rows", rows, 1), ("horizon", horizon, 1), ("seed", seed, 0)):
        at_least(what, value, least)
    known = _known(shifts)
    logs = read_logs(target, robot, None if profile is None else check_profile(profile))
    parameters = read_free(free, logs.robot, known, logs.profile)
    starts = _starts(logs, rows, horizon)
    most = most_steps(parameters, len(starts)) * horizon
    title = f"fitting {', '.join(item.key for item in parameters)}"
    with progress(title, most, quiet=quiet, at_most=True, resumes=False) as advance:
        replay = Replay(logs, starts, horizon, known, num_threads or usable_threads(), advance)
        return _identify(logs, replay, parameters, known, np.random.default_rng(seed))


def _known(shifts: Shifts) -> tuple[Shift, ...]:
    known = parse_shifts(shifts)
    if any(isinstance(shift, Noise) for shift in known):
        raise OffDynError("shifts: noise cannot be simulated again; leave it out")
    return known


def _starts(logs: Logs, rows: int, horizon: int) -> NDArray[np.int64]:
    starts = logs.starts(horizon)
    if not len(starts):
        why = f"{int((~logs.usable).sum()):,} of {len(logs):,} rows hold clipped numbers or no state"
        raise OffDynError(f"'{logs.name}': no row can start a simulation of {horizon} steps; {why}")
    return starts[spaced(len(starts), rows)]


def _identify(
    logs: Logs,
    replay: Replay,
    parameters: Sequence[Parameter],
    known: tuple[Shift, ...],
    rng: np.random.Generator,
) -> Identification:
    search = Search(parameters, replay, rng)
    fit, tried = search.run()
    estimates = judge(parameters, search, replay, fit, tried)
    found = tuple(
        parameter.shift(item.value)
        for parameter, item in zip(parameters, estimates, strict=True)
        if item.told or item.value != parameter.nominal
    )
    before, after = (_errors(logs, item) for item in replay.errors([(), found], stored=True))
    return Identification(
        target=logs.name,
        robot=logs.robot.name,
        profile=logs.profile,
        rows=len(replay),
        left_out=int((~logs.usable).sum()),
        from_states=logs.from_states,
        horizon=replay.horizon,
        known=known,
        estimates=tuple(estimates),
        shifts=known + found,
        before=before,
        after=after,
    )


def _errors(logs: Logs, errors: NDArray[np.float64]) -> Errors:
    """Return the means of errors, [n, H, D]."""
    sizes = np.abs(errors).mean(axis=0)
    dimensions = np.zeros(len(logs.spread))
    dimensions[logs.moving] = sizes[0]
    return Errors(tuple(sizes.mean(axis=1).tolist()), tuple(dimensions.tolist()))
