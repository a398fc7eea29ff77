"""What `offdyn diagnose rows` computes: a cell for each agent, its settings and a task, kept in a file of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offdyn_agents.algorithms.registry import make_agent
from offdyn_agents.engine.agent import Agent
from offdyn_agents.engine.rows import Layout, RowColumns, pack
from offdyn_agents.engine.settings import flat, to_json
from offdyn_agents.engine.stages import StageContext
from offdyn_agents.engine.termination import termination
from offdyn_agents.judging.judge import plain_json
from offdyn_agents.judging.rows import ASKED, ORACLE, grade, grade_columns, measured, resimulated
from offdyn_envs.atomic import write_json
from offdyn_envs.errors import OffDynError

if TYPE_CHECKING:
    from offdyn_envs.datasets.store.spec import Dataset

__all__ = ["FORMAT", "Cell", "Record", "diagnose_cells", "make_cell", "rates_rows"]

FORMAT = 2
"""What a record of an older form lacks is not guessed: its cell is computed again."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """An agent, as it is set, on a task.

    Attributes:
        agent: The agent.
        name: Its name, with the settings that differ from its preset's, for instance "dara@dara.noise=0.1".
        task: A task whose source has simulator states.
        seeds: Seeds of the stages.
        rows: Source rows that are simulated again.
        out: Folder of results; stages are cached where `offdyn train --out` finds them.
    """

    agent: Agent
    name: str
    task: str
    seeds: tuple[int, ...]
    rows: int
    out: Path

    @property
    def path(self) -> Path:
        """Its file; a picture lies beside it."""
        return self.out / self.task / "rows" / f"{self.name}.json"

    @property
    def settings(self) -> dict[str, Any]:
        """The agent's settings, as JSON has them."""
        return to_json(self.agent.settings)

    @cached_property
    def earlier(self) -> Record:
        """What its file said before; nothing where there is none, or it is damaged."""
        try:
            found: Any = json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def finished(self) -> bool:
        """Whether its file says all that is asked for, maybe of more seeds."""
        if self.earlier.get("format") != FORMAT or self.earlier["settings"] != self.settings:
            return False
        return self.earlier["rows"]["asked"] == self.rows and set(self.seeds) <= set(self.earlier["seeds"])


def make_cell(
    agent: str, task: str, overrides: Mapping[str, str], seeds: Sequence[int], rows: int = ASKED, out: Path = Path()
) -> Cell:
    """Return the cell of an agent and a task; no data are touched.

    Args:
        agent: Name of the agent.
        task: Name of the task.
        overrides: Settings by dotted names, before those of the preset.
        seeds: See `Cell`, as the next two.
        rows: Likewise.
        out: Likewise.

    Raises:
        OffDynError: An unknown name or setting, or an agent that says nothing of source rows before it is trained.
    """
    own = _agent(agent, task, overrides)
    if not own.needs_source:
        raise OffDynError(f"agent '{agent}' learns from no source rows (data={own.settings.data}); merged is needed")
    if not own.ratings:
        raise OffDynError(
            f"agent '{agent}' says nothing of source rows before it is trained; there is nothing to grade"
        )
    return Cell(own, _named(own, task, overrides), task, tuple(seeds), rows, out)


def rates_rows(agent: str, task: str) -> bool:
    """Say whether a method, as its preset for a task has it, rates source rows; one that knows their gap is none."""
    own = _agent(agent, task, {})
    return own.needs_source and bool(own.ratings) and not own.diagnosis


def _agent(name: str, task: str, overrides: Mapping[str, str]) -> Agent:
    from offdyn_envs.robots import get_robot
    from offdyn_envs.tasks import get_task

    place = get_task(task)
    robot = get_robot(place.robot)
    sizes = robot.observation_dim, robot.action_dim
    return make_agent(name, place.robot, *sizes, overrides, place.quality, place.shift_kinds)


def _named(agent: Agent, task: str, overrides: Mapping[str, str]) -> str:
    """Return an agent's name and what of its settings differs from its preset: "dara", "dara@dara.noise=0.1"."""
    parts = {key: value for key, value in overrides.items() if key in ("data", "form")}
    variants = [_agent(agent.name, task, some) for some in ({}, parts)]
    usual, formed, own = (flat(to_json(one.settings)) for one in (*variants, agent))
    # A published form is one difference, whatever it sets.
    differing = [name for name in own if own[name] != (usual if name in parts else formed)[name]]
    said = "+".join(f"{name}={own[name]:g}" if _is_number(own[name]) else f"{name}={own[name]}" for name in differing)
    return f"{agent.name}@{said}" if said else agent.name


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class _Ground:
    """What the cells of one task stand on.

    Attributes:
        source: The source dataset.
        target: The target dataset.
        gap: The exact gap of some source rows.
    """

    source: Dataset
    target: Dataset
    gap: Any


def diagnose_cells(
    cells: Sequence[Cell], threads: int, quiet: bool = True, report: Callable[[Cell, Record, bool], None] | None = None
) -> list[Record]:
    """Compute cells, those of a task after each other; a cell that is there already is not computed again.

    Args:
        cells: The cells.
        threads: CPU threads.
        quiet: Show no progress.
        report: Called with every cell and its record as soon as it is there, and whether it was computed now.

    Returns:
        The records: settings, seconds, and for each seed and column the figures of `RowColumns.figures` and, where it
        rates rows, of `grade`; those of the oracle; and `resimulated` actions.

    Raises:
        OffDynError: The source has no simulator states, or a stage failed; the other cells are there all the same.
    """
    found: list[Record] = []
    refused: dict[str, None] = {}
    for task in dict.fromkeys(cell.task for cell in cells):
        ground: _Ground | None = None
        for cell in (cell for cell in cells if cell.task == task):
            fresh = not cell.finished
            try:
                # Data are loaded and simulated once a task; refusals come before the stages, which take hours.
                ground = (ground or _ground(cell, threads)) if fresh else ground
                record = _diagnosed(cell, ground, threads, quiet) if ground and fresh else cell.earlier
            except OffDynError as error:
                refused[str(error)] = None
                continue
            found.append(record)
            if report:
                report(cell, record, fresh)
    if refused:
        raise OffDynError("; ".join(refused))
    return found


def _ground(cell: Cell, threads: int) -> _Ground:
    from offdyn_envs import load_task

    env, source, target = load_task(cell.task)
    env.close()
    return _Ground(source, target, measured(source, target, cell.rows, threads=threads))


def _diagnosed(cell: Cell, ground: _Ground, threads: int, quiet: bool) -> Record:
    """Run a cell's stages and grade its columns; writes its file and, where it can be drawn, its picture."""
    from offdyn_agents.judging.rows_report import draw_rows

    cache = cell.out / ".stages"
    before, begun = _results(cache), time.monotonic()
    columns = _columns(cell, ground, threads, quiet)
    seconds = round(time.monotonic() - begun, 1) if _results(cache) != before else cell.earlier.get("stages_s")
    gap = ground.gap
    sizes = gap.sizes[gap.valid]
    ratings, source = cell.agent.ratings, ground.source
    moved = [resimulated(source, ground.target, column, gap, threads=threads) for column in columns]
    record: Record = plain_json(
        {
            "format": FORMAT,
            "task": cell.task,
            "agent": cell.agent.name,
            "name": cell.name,
            **({"reading": cell.agent.reading} if cell.agent.reading else {}),
            "settings": cell.settings,
            "seeds": list(cell.seeds),
            "rows": {"asked": cell.rows, "valid": len(sizes)},
            # None: all was in the cache, and nobody knows what it took.
            "stages_s": seconds,
            "mean_gap": float(sizes.mean()),
            "columns": [_figures(column, grade_columns(ratings, column, gap)) for column in columns],
            **({"actions": moved} if moved[0] else {}),
            ORACLE: grade(-sizes, sizes),
        }
    )
    cell.path.parent.mkdir(parents=True, exist_ok=True)
    write_json(cell.path, record)
    draw_rows(record, cell.path.with_suffix(".png"))
    return record


def _results(cache: Path) -> set[Path]:
    """Return the results of stages that are there."""
    return set(cache.glob("*.safetensors")) if cache.is_dir() else set()


def _figures(column: RowColumns, grades: Mapping[str, Record]) -> dict[str, Record]:
    """Return the figures of columns of one number; of a column that rates rows with its grades."""
    numbers = {name for name, values in column.named().items() if values.dim() == 1}
    return {name: {**grades.get(name, {}), **told} for name, told in column.figures().items() if name in numbers}


def _columns(cell: Cell, ground: _Ground, threads: int, quiet: bool) -> Sequence[RowColumns]:
    """Return what the agent says of every source row, for each seed.

    Raises:
        OffDynError: A stage failed, or its columns have a fault.
    """
    from offdyn_envs.tasks import get_task

    agent, robot = cell.agent, get_task(cell.task).robot
    source, target = pack(ground.source, "source"), pack(ground.target, "target")
    context = StageContext(
        Layout(agent.observation_dim, agent.action_dim, agent.columns),
        source,
        target,
        cell.seeds,
        1,
        len(cell.seeds),
        cell.out / ".stages",
        robot,
        termination(robot),
        threads,
        quiet=quiet,
        domains=(ground.source, ground.target),
    )
    found = agent.row_columns(context)
    faults = {place: columns.fault(len(source), len(target)) for place, columns in enumerate(found)}
    for place, why in {**faults, **found.failed}.items():
        if why:
            raise OffDynError(f"{cell.task} {cell.name}: seed {cell.seeds[place]}: {why}")
    return found
