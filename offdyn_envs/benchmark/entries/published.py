"""Figures of papers, as `published.json` has them: a row each, with its paper; of every paper its link and table."""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Lost", "Paper", "Published", "lost_shares", "papers", "published_scores"]

Json = dict[str, Any]


class Paper(NamedTuple):
    """Where figures come from.

    Attributes:
        name: Short name with where it appeared.
        link: https link.
        table: Which table of it, in words.
        scale: What its scores are normalised with; figures of two scales are never subtracted.
    """

    name: str
    link: str
    table: str
    scale: str


class Published(NamedTuple):
    """What one paper reports of one task.

    Attributes:
        paper: The paper.
        figures: Score by name of the method, as the paper calls it.
    """

    paper: Paper
    figures: dict[str, float]


class Lost(NamedTuple):
    """A share of the clean score that a paper says is lost under a perturbation, in percent.

    Attributes:
        paper: The paper.
        family: Family of the robustness grid.
        level: Level of the family.
        method: Name of the method.
        lost: The share, 0 to 100.
        told: "" for a figure of a table, "about" where it was read off a plot, "more than" for a bound.
    """

    paper: Paper
    family: str
    level: float
    method: str
    lost: float
    told: str


def papers() -> list[Paper]:
    """Returns the papers of which figures are known."""
    return [Paper(name, told["link"], told["table"], told["scale"]) for name, told in _known()["papers"].items()]


def published_scores(task: str) -> list[Published]:
    """Returns what papers report of a task, a list entry for each of them; none where no paper does."""
    by_name = {paper.name: paper for paper in papers()}
    found: dict[str, dict[str, float]] = {}
    for row in _known()["scores"]:
        if row["task"] == task:
            found.setdefault(row["paper"], {})[row["method"]] = row["score"]
    return [Published(by_name[name], figures) for name, figures in found.items()]


def lost_shares() -> list[Lost]:
    """Returns what papers say is lost under perturbations of the robustness grid."""
    by_name = {paper.name: paper for paper in papers()}
    return [_lost(row, by_name[row["paper"]]) for row in _rows("lost")]


def _lost(row: Json, paper: Paper) -> Lost:
    return Lost(paper, row["family"], float(row["level"]), row["method"], float(row["lost"]), row.get("told", ""))


def _rows(kind: str) -> Iterable[Json]:
    return _known()[kind]


@cache
def _known() -> Json:
    return json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
