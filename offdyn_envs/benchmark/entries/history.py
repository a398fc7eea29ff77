"""Who had which place, and since when: a record to which lines are added and of which nothing is ever taken.

`verdicts/places.jsonl` holds a line for each day on which a re-run, or bf16 held against fp32, changed a place. What an
entry had before it was re-run again, or before another one came, stands in no verdict any more.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offdyn_envs.atomic import append_bytes
from offdyn_envs.errors import OffDynError

__all__ = ["Step", "add_step", "history_path", "load_history", "of_track"]

Json = dict[str, Any]
Step = Json
"""`date`, and `places`: by track, division and entry."""


def history_path(board: Path) -> Path:
    """Returns where the record lies: no entry's verdict has this name."""
    return board / "verdicts" / "places.jsonl"


def load_history(board: Path) -> list[Step]:
    """Reads the record, oldest step first; nothing where there is none yet.

    Args:
        board: The leaderboard's folder.

    Raises:
        OffDynError: A line is no step.
    """
    path = history_path(board)
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [_step(line, f"history of places '{path}' line {number}") for number, line in enumerate(lines, 1)]


def _step(line: str, label: str) -> Step:
    try:
        step: Json = json.loads(line)
        found = {
            str(track): {
                str(division): {str(entry): int(place) for entry, place in places.items()}
                for division, places in divisions.items()
            }
            for track, divisions in step["places"].items()
        }
        return {"date": str(step["date"]), "places": found}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OffDynError(f"{label} is damaged: {error!r}") from None


def add_step(board: Path, date: str, standings: Json) -> None:
    """Adds who has which place now, where it differs from the last step.

    Args:
        board: The leaderboard's folder.
        date: Day of what changed it, "2026-11-29".
        standings: The standings with it.
    """
    places: Json = {}
    for track in standings["tracks"]:
        for row in track["rows"]:
            if row["rank"] is not None:
                places.setdefault(track["name"], {}).setdefault(row["division"], {})[row["name"]] = row["rank"]
    past = load_history(board)
    if places != (past[-1]["places"] if past else {}):
        line = json.dumps({"date": date, "places": places}, sort_keys=True)
        append_bytes(history_path(board), f"{line}\n".encode())


def of_track(past: Sequence[Step], track: str) -> list[Json]:
    """Returns the steps of one track, where they differ from those before: `date`, and `places` by division and entry.

    Args:
        past: All steps.
        track: Name of the track.
    """
    found: list[Json] = []
    for step in past:
        places = step["places"].get(track, {})
        if places != (found[-1]["places"] if found else {}):
            found.append({"date": step["date"], "places": places})
    return found
