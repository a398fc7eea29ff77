"""Places, and how they came about: who stood where on the day of each re-run."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["history", "rank"]

Json = dict[str, Any]


def rank(rows: Sequence[Json]) -> None:
    """Ranks rows in place, from 1, separately for each division and set of covered tasks; equal scores share a rank.

    Args:
        rows: Rows of a track; those with a reason in `unranked` get None.
    """
    groups: dict[tuple[Any, ...], list[Json]] = {}
    for row in rows:
        row["rank"] = None
        if row["unranked"] is None:
            groups.setdefault((row["division"], *row["tasks"]), []).append(row)
    for ranked in groups.values():
        scores = [round(row["iqm"]["mean"], 6) for row in ranked]
        for row, score in zip(ranked, scores, strict=True):
            row["rank"] = 1 + sum(other > score for other in scores)


def history(rows: Sequence[Json], dates: Mapping[str, str]) -> list[Json]:
    """Returns the places of a track after each day on which a verdict was made, where they differ from those before.

    It follows from the verdicts alone, so the same submissions have the same history. An entry counts from the day of
    its present verdict; one whose verdict has no date counts from the beginning.

    Args:
        rows: Rows of the track.
        dates: Day of each entry's verdict, "2026-11-29"; empty where it has none.
    """
    ranked = [row for row in rows if row["unranked"] is None]
    found: list[Json] = []
    for day in sorted({dates.get(row["name"], "") for row in ranked}):
        there = [dict(row) for row in ranked if dates.get(row["name"], "") <= day]
        rank(there)
        places = {row["name"]: row["rank"] for row in there}
        if not found or found[-1]["places"] != places:
            found.append({"date": day, "places": places})
    return found
