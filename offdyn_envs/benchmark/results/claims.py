"""Claims of papers as data (`claims.json`), and which of them hold here.

A claim compares two methods by one figure: their scores over the tasks that both have, or the shares of the clean score
that they keep under one perturbation. It holds where the interval of the difference lies above 0, does not hold where
it lies below, and cannot be told otherwise.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from offdyn_envs.benchmark.results.rows import Row, field_of
from offdyn_envs.benchmark.results.shares import difference
from offdyn_envs.benchmark.scoring.cells import cell_name
from offdyn_envs.benchmark.scoring.statistics import Interval, mean_difference

__all__ = ["FAILS", "HOLDS", "UNKNOWN", "Claim", "Outcome", "judge", "known_claims"]

HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "cannot be told"


class Claim(NamedTuple):
    """What a paper claims.

    Attributes:
        paper: Name of the paper.
        text: The claim in words.
        figure: "score" or "kept"; "" where no comparison of entries can tell.
        ours: The method that is said to be better, as the registry calls it.
        theirs: The other.
        tasks: Tasks that it is about; all of the track where there are none.
        condition: Family and level of the perturbation; None for scores.
        needs: What it would take, where no comparison of entries can tell.
    """

    paper: str
    text: str
    figure: str = ""
    ours: str = ""
    theirs: str = ""
    tasks: tuple[str, ...] = ()
    condition: tuple[str, float] | None = None
    needs: str = ""


class Outcome(NamedTuple):
    """What our figures say of a claim.

    Attributes:
        claim: The claim.
        verdict: `HOLDS`, `FAILS` or `UNKNOWN`.
        difference: Of the one minus the other, in score points or as a share; None where a figure is missing.
        tasks: Over how many tasks.
        why: What is missing, or "" where nothing is.
    """

    claim: Claim
    verdict: str
    difference: Interval | None
    tasks: int
    why: str


@cache
def known_claims() -> tuple[Claim, ...]:
    """Returns the claims in the order of the file."""
    rows: list[dict[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return tuple(_claim(row) for row in rows)


def _claim(row: Mapping[str, Any]) -> Claim:
    condition = row.get("condition")
    more: dict[str, Any] = {"tasks": tuple(row.get("tasks", ()))}
    more["condition"] = None if condition is None else (str(condition[0]), float(condition[1]))
    return Claim(**{**row, **more})


def judge(claim: Claim, rows: Sequence[Row]) -> Outcome:
    """Returns what the rows say of a claim."""
    if claim.needs:
        return Outcome(claim, UNKNOWN, None, 0, f"needs {claim.needs}")
    own = {row.key: row for row in field_of(rows)}
    missing = [name for name in (claim.ours, claim.theirs) if name not in own]
    if missing:
        return Outcome(claim, UNKNOWN, None, 0, f"no figures of {' and '.join(missing)}")
    ours, theirs = own[claim.ours], own[claim.theirs]
    return _by_share(claim, ours, theirs) if claim.condition is not None else _by_score(claim, ours, theirs)


def _by_score(claim: Claim, ours: Row, theirs: Row) -> Outcome:
    both = [task for task in sorted(ours.scores) if task in theirs.scores and (not claim.tasks or task in claim.tasks)]
    if not both:
        return Outcome(claim, UNKNOWN, None, 0, "no task in common")
    found = mean_difference([ours.values(task) for task in both], [theirs.values(task) for task in both])
    return Outcome(claim, _verdict(found), found, len(both), "")


def _by_share(claim: Claim, ours: Row, theirs: Row) -> Outcome:
    assert claim.condition is not None
    found = difference(ours, theirs, claim.condition)
    if found is None:
        name = cell_name(*claim.condition)
        return Outcome(claim, UNKNOWN, None, 0, f"no task with {name} and a clean score above 10 of both")
    return Outcome(claim, _verdict(found.share), found.share, len(found.tasks), "")


def _verdict(interval: Interval) -> str:
    if interval.low > 0.0:
        return HOLDS
    return FAILS if interval.high < 0.0 else UNKNOWN
