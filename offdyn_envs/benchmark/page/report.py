"""What the leaderboard's commands print."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offdyn_envs.benchmark.page.markup import number
from offdyn_envs.report import print_table

__all__ = ["print_standings", "print_verdicts"]

Json = dict[str, Any]


def print_verdicts(verdicts: Sequence[Json], as_json: bool) -> None:
    """Prints one line for each verdict, or the verdicts as JSON."""
    if as_json:
        print(json.dumps(list(verdicts), indent=2, allow_nan=False))
        return
    rows = [
        {
            "entry": verdict["entry"],
            "verdict": verdict["status"],
            "p": f"{min(verdict['p_values'].values()):.3g}" if "p_values" in verdict else "",
            "why": verdict["reason"],
        }
        for verdict in verdicts
    ]
    print_table("Verdicts", rows, False)


def print_standings(standings: Json, board: Path, as_json: bool) -> None:
    """Prints a table for each track and where the page lies, or the standings as JSON."""
    if as_json:
        print(json.dumps(standings, indent=2, allow_nan=False))
        return
    entries = {entry["name"]: entry for entry in standings["entries"]}
    for track in standings["tracks"]:
        print_table(
            f"{track['name']} ({len(track['tasks'])} of {track['size']} tasks)",
            [_line(row, entries, track) for row in track["rows"]],
            False,
        )
    if not standings["tracks"]:
        covered = {task for entry in entries.values() for task in entry["tasks"]}
        unscored = sorted(task for task in covered if not standings["tasks"][task]["scored"])
        because = f": no usable reference returns for {', '.join(unscored)}" if unscored else ""
        print(f"no entry covers a scored task yet{because}")
    print(f"page: {board / 'index.html'}")


def _line(row: Json, entries: dict[str, Json], track: Json) -> Json:
    entry, iqm = entries[row["name"]], row["iqm"]
    return {
        # What comes first is repeated where a table goes on below.
        "entry": row["name"],
        "place": f"{row['rank']} in {row['division']}" if row["rank"] else f"- ({row['unranked']})",
        "state": entry["status"],
        "IQM": f"{number(iqm['mean'])} [{number(iqm['low'])}, {number(iqm['high'])}]",
        **{task: _task(entry, task) for task in track["tasks"]},
    }


def _task(entry: Json, task: str) -> str:
    score = entry["tasks"].get(task, {}).get("score")
    return "" if score is None else f"{number(score['mean'])} [{number(score['low'])}, {number(score['high'])}]"
