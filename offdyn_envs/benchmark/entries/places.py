"""What a place needs and who has which: one rule for the board and the results page."""

from collections.abc import Iterable, Sequence
from typing import Any

from offdyn_envs.benchmark.entries.precision import Held, not_held
from offdyn_envs.benchmark.entries.verdicts import REPRODUCED
from offdyn_envs.benchmark.scoring import protocol

__all__ = ["SELF_REPORTED", "coverage", "lacks", "rank", "retired", "thin"]

Json = dict[str, Any]
SELF_REPORTED = "self-reported"
"""State of an entry on which there is no verdict."""


def retired(version: int) -> str | None:
    """Returns that an entry's protocol is an earlier one, None where it is today's."""
    return None if version == protocol.PROTOCOL else f"protocol {version}, retired"


def coverage(covered: Iterable[str], scored: Sequence[str]) -> str | None:
    """Returns how many of a track's scored tasks are covered where it is not all of them, for instance "5 of 6 tasks".

    Args:
        covered: Tasks that are covered.
        scored: The scored tasks of the track.
    """
    count = len(set(covered) & set(scored))
    return None if count == len(scored) else f"{count} of {len(scored)} tasks"


def thin(fewest: int) -> str | None:
    """Returns that a task has fewer seeds than a place needs, None where it has enough."""
    return None if fewest >= protocol.RANKED_SEEDS else f"{fewest} seeds, {protocol.RANKED_SEEDS} needed"


def lacks(entry: Json, row: Json, scored: Sequence[str], held: Sequence[Held] = ()) -> list[str]:
    """Returns all that stands between an entry and a place on a track, a few words each; nothing where it has one.

    Args:
        entry: The entry as the standings have it.
        row: Its row on the track: `tasks`, `seeds`, `division`.
        scored: The scored tasks of the track.
        held: Methods whose bf16 has been held against fp32.
    """
    old = retired(entry["protocol"])
    reasons = [
        old,
        "reference row" if entry["reference"] else None,
        *([] if old else _verdict(entry)),
        coverage(row["tasks"], scored),
        thin(row["seeds"]),
        None if row["division"] else f"more than {max(protocol.DIVISIONS.values()):,} updates",
        not_held(entry["method"], [entry["disclosure"][task] for task in row["tasks"]], held),
    ]
    return [reason for reason in reasons if reason is not None]


def _verdict(entry: Json) -> list[str | None]:
    """Returns what the re-run of an entry lacks for a place."""
    if entry["status"] != REPRODUCED:
        return ["not verified" if entry["status"] == SELF_REPORTED else entry["status"]]
    episodes, missing = entry["verdict"]["episodes"], entry["missing_cells"]
    few = episodes < protocol.CLEAN_EPISODES
    return [
        f"re-run over {episodes} episodes, {protocol.CLEAN_EPISODES} needed" if few else None,
        f"{missing} robustness cells not re-run" if missing else None,
    ]


def rank(rows: Sequence[Json]) -> None:
    """Ranks rows of a track in place, from 1, separately for each division; equal scores share a rank.

    Args:
        rows: Rows of a track; those that lack something for a place get None.
    """
    divisions: dict[str | None, list[Json]] = {}
    for row in rows:
        row["rank"] = None
        if not row["lacks"]:
            divisions.setdefault(row["division"], []).append(row)
    for ranked in divisions.values():
        scores = [round(row["iqm"]["mean"], 6) for row in ranked]
        for row, score in zip(ranked, scores, strict=True):
            row["rank"] = 1 + sum(other > score for other in scores)
