"""Writes the results page of a track with its plot and its figures as CSV."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from offdyn_envs.atomic import refuse_foreign, write_together
from offdyn_envs.benchmark.entries.history import add_step
from offdyn_envs.benchmark.entries.placing import today
from offdyn_envs.benchmark.entries.precision import FILE, Held, held_text, load_held
from offdyn_envs.benchmark.entries.standings import compute_standings, load_board
from offdyn_envs.benchmark.entries.task_facts import task_facts
from offdyn_envs.benchmark.page.tables import csv_text
from offdyn_envs.benchmark.results.claims import judge, known_claims
from offdyn_envs.benchmark.results.forest import draw
from offdyn_envs.benchmark.results.order import agreements, gap_fit, pooled
from offdyn_envs.benchmark.results.page import BEGINS, page
from offdyn_envs.benchmark.results.plan import read_plan
from offdyn_envs.benchmark.results.precision import held_against, renewed
from offdyn_envs.benchmark.results.rows import Row, gather, references_of
from offdyn_envs.benchmark.results.sentences import Material
from offdyn_envs.benchmark.results.shares import kept
from offdyn_envs.benchmark.scoring import protocol
from offdyn_envs.benchmark.scoring.cells import cell_name
from offdyn_envs.benchmark.scoring.statistics import Interval, t_interval
from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.figures import refuse_other_than_png
from offdyn_envs.tasks import get_task, get_track
from offdyn_envs.version import __version__

__all__ = ["COLUMNS", "material_of", "write_results"]

COLUMNS = ("figure", "method", "task", "condition", "source", "seeds", "value", "low", "high")
"""Of the CSV: a figure a line."""


def write_results(
    board: Path,
    runs: Sequence[Path],
    out: Path,
    *,
    track: str = "core-6",
    division: str = "100k",
    command: str,
    plan: Path | None = None,
    table: Mapping[str, Any] | None = None,
) -> tuple[list[Path], list[str]]:
    """Writes a page `TRACK.md`, `TRACK/forest.png` and `TRACK/figures.csv`; the same entries and runs give the same.

    In a larger division they have its name behind the track's: `core-6-1m.md`. What runs newly say of bf16 beside fp32
    goes into the leaderboard's `precision.json`, and places that change with it are added to its history of places.

    Args:
        board: The leaderboard's folder.
        runs: Evaluated run folders that are no entries yet.
        out: Where the page goes.
        track: Name of the track.
        division: Division by policy updates.
        command: What makes the page again, which it tells.
        plan: What `offdyn train --plan --json` printed; the page then names each of its methods that has no figures.
        table: Contents of a references.json to use instead of the package's.

    Returns:
        The files, and one line for each refused entry or verdict.

    Raises:
        OffDynError: No such track, division or leaderboard; a run, the plan or the list of methods in bf16 cannot be
            read; nothing has figures; or a file of these names is somebody else's.
    """
    if division not in protocol.DIVISIONS:
        raise unknown("division", division, protocol.DIVISIONS)
    if not board.is_dir():
        raise OffDynError(f"leaderboard '{board}' does not exist; make one with: offdyn leaderboard add")
    judged, refusals = load_board(board)
    planned = () if plan is None else read_plan(plan)
    known = load_held(board)
    found, unlike = held_against(runs, references_of(track, table))
    held = renewed(known, found, unlike)
    rows = gather(judged, runs, track, division, table, held)
    if not rows:
        raise OffDynError(
            f"no entry and no run has figures on '{track}' in division {division}; add one: "
            "offdyn leaderboard add RUN --name NAME"
        )
    material = replace(material_of(rows, track), plan=planned, held=held, unlike=unlike, division=division)
    shown = {row.name for row in rows}
    latest = max((one.day for one in judged if one.entry.name in shown), default="")
    text = page(material, command=command, latest=latest, version=__version__)
    text_file, folder = out / f"{material.name}.md", out / material.name
    figures, plot = folder / "figures.csv", folder / "forest.png"
    refuse_foreign(text_file, lambda begins: BEGINS.encode() in begins, "a page of this command")
    refuse_foreign(figures, lambda begins: begins.startswith(",".join(COLUMNS).encode()), "a table of this command")
    refuse_other_than_png(plot)
    draw(material.rows, material.tasks, plot)
    texts = {text_file: text, figures: csv_text(COLUMNS, _lines(material))}
    listed = {board / FILE: held_text(held)} if held != known else {}
    write_together(texts | listed)
    if listed:
        add_step(board, today(), compute_standings(judged, table=table, held=held))
    return [text_file, plot, figures, *listed], refusals


def material_of(rows: Sequence[Row], track: str) -> Material:
    """Returns what the page is made of.

    Args:
        rows: The rows of the track.
        track: Name of the track.
    """
    tasks = get_track(track)
    facts = {task: task_facts(get_task(task), None) for task in tasks}
    gaps = {task: float(told["gap"]["mean"]) for task, told in facts.items() if "gap" in told}
    return Material(track, tasks, rows, agreements(rows, tasks), gaps, gap_fit(rows, gaps))


def _lines(material: Material) -> Iterable[Sequence[object]]:
    for row in material.rows:
        yield from _of_row(row, material.tasks)
    for one in material.orders:
        for name, value in one.published.items():
            yield "published score", name, one.task, one.paper, "paper", None, value, None, None
        if one.correlation is not None:
            yield "rank correlation", None, one.task, one.paper, None, None, *one.correlation
    together = pooled(material.orders, material.rows)
    if together is not None and together.correlation is not None:
        yield "rank correlation", None, "all", None, None, None, *together.correlation
    for task, value in material.gaps.items():
        yield "gap", None, task, None, "offdyn diagnose gap", None, value, None, None
    if material.fit.correlation is not None:
        yield "gain and gap", None, "all", None, None, None, *material.fit.correlation
    for one in (one for one in material.held if one.task in material.tasks):
        yield from _of_held(one)
    yield from _of_claims(material.rows)


def _of_claims(rows: Sequence[Row]) -> Iterable[Sequence[object]]:
    for claim in known_claims():
        found = judge(claim, rows)
        if found.difference is not None:
            yield f"claim: {claim.text}", claim.ours, "all", found.verdict, None, None, *found.difference


def _of_held(one: Held) -> Iterable[Sequence[object]]:
    yield "bf16 minus fp32", one.method, one.task, "clean", "run", None, *one.final
    yield "bf16 minus fp32", one.method, one.task, "curve", "run", None, *one.curve


def _of_row(row: Row, tasks: Sequence[str]) -> Iterable[Sequence[object]]:
    if row.covers(tasks):
        yield "IQM", row.name, "all", "clean", row.source, None, *row.overall()
    for task, seeds in sorted(row.scores.items()):
        yield "score", row.name, task, "clean", row.source, len(seeds), *t_interval(row.values(task))
    for task, cells in sorted(row.cells.items()):
        for condition, seeds in sorted(cells.items()):
            yield "score", row.name, task, cell_name(*condition), row.source, len(seeds), *_interval(seeds)
    for condition in sorted({condition for cells in row.cells.values() for condition in cells}):
        share = kept(row, condition)
        if share is not None:
            yield "kept", row.name, " ".join(sorted(share.tasks)), cell_name(*condition), row.source, None, *share.share


def _interval(seeds: Mapping[int, float]) -> Interval:
    return t_interval(list(seeds.values()))
