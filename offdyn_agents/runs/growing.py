"""Runs that grow: seeds that come later are trained in a folder inside the run's, and join it where it stands.

`growing/` holds the newcomers' training, which goes on like any other. Once they are where the run stands, all files of
the whole are put together in `growing/joined`, which appears at once; from then on they are moved to their places, and
whoever finds that folder after a kill moves the rest.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from offdyn_agents.engine.agent import Agent
from offdyn_agents.engine.training.callbacks import Evaluation
from offdyn_agents.engine.training.checkpoints import FILE, Standing, standing, unite
from offdyn_agents.engine.training.logs import TensorBoardLog, csv_text
from offdyn_agents.engine.training.populations import train_runs
from offdyn_agents.engine.training.supplies import BUFFERS, TaskRuns
from offdyn_agents.runs.metrics import Floats, LoggedRuns, joined_metrics
from offdyn_agents.runs.plans import Plan, read_run
from offdyn_envs.atomic import write_json, write_text
from offdyn_envs.errors import OffDynError

__all__ = [
    "EVALUATIONS",
    "Growth",
    "all_seeds",
    "catch_up",
    "growth",
    "join",
    "need_rows",
    "remove_evaluations",
    "settle",
]

HOME, JOINED, LEFT = "growing", "joined", ".grown"
EVALUATIONS = ("evaluation.json", "clean.json", "offline.json")
"""Files of a run folder that say how good its policies are."""
TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class Growth:
    """Seeds that a run folder lacks.

    Attributes:
        seeds: The seeds that are trained next.
        until: How far, to where the run stands.
        done: How far they are.
    """

    seeds: tuple[int, ...]
    until: int
    done: int

    @property
    def far(self) -> tuple[int, int]:
        """What newcomers that are trained together have in common."""
        return self.until, self.done

    @property
    def work(self) -> int:
        """Updates that are left, summed over seeds."""
        return len(self.seeds) * (self.until - self.done)


def all_seeds(folder: Path, wanted: Sequence[int]) -> tuple[int, ...]:
    """Return the seeds of a run that is asked for some, in ascending order: those that its folder has go along.

    Raises:
        OffDynError: The folder's run.json or a checkpoint is damaged.
    """
    if not (folder / "run.json").exists():
        return tuple(sorted({*wanted}))
    had = set(read_run(folder)["seeds"])
    if had >= set(wanted):
        return tuple(sorted(had))
    begun = standing(folder / HOME)
    return tuple(sorted({*had, *wanted, *(begun.seeds if begun else ())}))


def growth(folder: Path, seeds: Sequence[int], total: int) -> Growth | None:
    """Return which seeds a run lacks, and how far they have to come.

    Args:
        folder: The run folder.
        seeds: All seeds that it is to have.
        total: Updates of the whole training.

    Returns:
        None where it lacks none, or has no checkpoint yet, so that all begin together.

    Raises:
        OffDynError: A checkpoint is damaged.
    """
    found = standing(folder)
    missing = tuple(sorted({*seeds} - {*found.seeds})) if found else ()
    if found is None or not missing:
        return None
    until = found.updates if _live(found) else total
    begun = standing(folder / HOME)
    if begun is None:
        return Growth(missing, until, 0)
    return Growth(begun.seeds, until, begun.updates if _live(begun) else until)


def catch_up(
    agent: Agent,
    plans: Sequence[Plan],
    tasks: Sequence[TaskRuns],
    evaluations: Callable[[Sequence[int]], Sequence[Evaluation]],
) -> None:
    """Train the seeds that run folders lack to where the folders' runs stand, and join them.

    Args:
        agent: The agent.
        plans: Of one agent, one budget and one hardware, with all seeds that the runs are to have.
        tasks: What they learn from.
        evaluations: Makes what scores policies during training, for some of the plans by number.

    Raises:
        OffDynError: A folder's runs are of other data or settings, or a file of theirs is damaged.
    """
    while True:
        wanted = [growth(plan.folder, plan.seeds, plan.budget.updates) for plan in plans]
        found = {number: lacking for number, lacking in enumerate(wanted) if lacking is not None}
        if not found:
            return
        first = next(iter(found.values()))
        # Newcomers that were begun before need not be equally far.
        chosen = [number for number, lacking in found.items() if lacking.far == first.far]
        plan, late = plans[chosen[0]], [_newcomers(tasks[number], found[number]) for number in chosen]
        title = late[0].title + (f" and {len(late) - 1} more" if len(late) > 1 else "")
        budget, cache = replace(plan.budget, until=first.until), plan.out / ".stages"
        scored = evaluations(chosen)
        module = train_runs(agent, late, budget, plan.hardware, scored, title, quiet=plan.quiet, cache=cache)
        if module.updates_done == 0:
            # Stages of all of them failed, and nothing was trained.
            module.write_checkpoint()
        for number in chosen:
            join(plans[number].folder, plans[number].problem.normalise())


def _newcomers(task: TaskRuns, found: Growth) -> TaskRuns:
    """Return the runs that are to join a task's."""
    told = ", ".join(map(str, found.seeds))
    title = f"{task.title} seed{'s' if len(found.seeds) > 1 else ''} {told}"
    return replace(task, seeds=found.seeds, folder=task.folder / HOME, title=title, joins=task.folder)


def join(folder: Path, normalise: Callable[[Floats], Floats] | None) -> None:
    """Let the runs in `growing/`, which have come to where the others stand, join them.

    Args:
        folder: The run folder.
        normalise: Maps mean returns to scores; None where no reference returns exist.

    Raises:
        OffDynError: A checkpoint or run.json is damaged.
    """
    home = folder / HOME
    work = home / f"{JOINED}.part"
    shutil.rmtree(work, ignore_errors=True)
    try:
        _put_together(folder, normalise, work)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    os.replace(work, home / JOINED)
    settle(folder)


def _put_together(folder: Path, normalise: Callable[[Floats], Floats] | None, work: Path) -> None:
    """Write the files of the whole into a folder of its own."""
    folders = (folder, folder / HOME)
    unite(folders, work / FILE)
    whole = _need(work)
    parts = [LoggedRuns(place / "metrics.csv", *_told(_need(place))) for place in folders]
    columns, rows = joined_metrics(parts, whole.updates, normalise)
    write_text(work / "metrics.csv", csv_text(columns, rows))
    _draw(rows, work)
    lines = _rollouts([place / "rollouts.jsonl" for place in folders])
    if lines:
        write_text(work / "rollouts.jsonl", "".join(f"{line}\n" for line in lines))
    facts = read_run(folder)
    # Figures of what the stages learned are those of the earlier seeds alone.
    stages = {name: told for name, told in facts.get("stages", {}).items() if name != "judged"}
    write_json(work / "run.json", {**facts, "seeds": list(whole.seeds), "status": "running", "stages": stages})


def settle(folder: Path) -> None:
    """Bring a joining that was begun to its end, and clear what is left over of it.

    Args:
        folder: The run folder.
    """
    home = folder / HOME
    joined = home / JOINED
    if joined.is_dir():
        _move_all(folder)
    elif home.is_dir() and not _fits(folder):
        os.replace(home, folder / LEFT)
    shutil.rmtree(folder / LEFT, ignore_errors=True)


def _fits(folder: Path) -> bool:
    """Say whether newcomers that were begun may still join the run: it may have been brought back, or made anew."""
    found, begun = standing(folder), standing(folder / HOME)
    if found is None or begun is None:
        return found is not None
    return not {*begun.seeds} & {*found.seeds} and (begun.updates <= found.updates or not _live(found))


def _move_all(folder: Path) -> None:
    """Move what has been joined to its place."""
    home = folder / HOME
    joined = home / JOINED
    if (joined / TENSORBOARD).is_dir():
        shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)
    for path in (home / BUFFERS).glob("*.f32"):
        _move(path, folder / BUFFERS / path.name)
    # run.json last: until then it tells of the run as it was.
    for name in (TENSORBOARD, "rollouts.jsonl", "metrics.csv", FILE, "run.json"):
        _move(joined / name, folder / name)
    os.replace(home, folder / LEFT)


def need_rows(folder: Path, total: int) -> None:
    """See whether a run can go on: whether the rows that it made itself are still there.

    Args:
        folder: The run folder.
        total: Updates that it is to have.

    Raises:
        OffDynError: They are gone, as they are of runs that ended before runs could grow.
    """
    found = standing(folder)
    if found is None or found.updates >= total:
        return
    gone = [seed for seed in found.filled if not (folder / BUFFERS / f"{seed}.f32").is_file()]
    if gone:
        raise OffDynError(
            f"run '{folder}' cannot go on from {found.updates} updates to {total}: the rows of model rollouts of seed "
            f"{gone[0]}, in its folder {BUFFERS}, are gone; take another --out or --variant"
        )


def remove_evaluations(folder: Path) -> None:
    """Remove what is said of a run's policies, before it goes on to others."""
    for name in EVALUATIONS:
        (folder / name).unlink(missing_ok=True)


def _live(found: Standing) -> bool:
    return len(found.stopped) < len(found.seeds)


def _told(found: Standing) -> tuple[Sequence[int], Any]:
    return found.seeds, found.stopped


def _need(folder: Path) -> Standing:
    found = standing(folder)
    if found is None:
        raise OffDynError(f"'{folder}' has no checkpoint")
    return found


def _draw(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write TensorBoard's files anew: those of two trainings would show every step twice."""
    log = TensorBoardLog(folder)
    for row in rows:
        values = {name: float(value) for name, value in row.items() if name != "updates" and value != ""}
        log.log_metrics(values, step=row["updates"])
    log.finalize("success")


def _rollouts(paths: Sequence[Path]) -> list[str]:
    """Return the lines of several `rollouts.jsonl` in the order of one: by updates, then by seed."""
    lines = [line for path in paths if path.exists() for line in path.read_text(encoding="utf-8").splitlines()]
    placed = [(place, line) for line in lines if (place := _place(line)) is not None]
    return [line for _, line in sorted(placed)]


def _place(line: str) -> tuple[int, int] | None:
    try:
        told = json.loads(line)
        return int(told["updates"]), int(told["seed"])
    except (ValueError, KeyError, TypeError):
        # Half a line, of a process that was killed.
        return None


def _move(path: Path, to: Path) -> None:
    """Move a file or folder, if it has not been moved before."""
    if path.exists():
        to.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, to)
