"""What pages show of the standings: retired entries stand apart, and a track has a place where it adds tasks."""

from collections.abc import Sequence

from offdyn_envs.benchmark.entries import places
from offdyn_envs.benchmark.page.layout import Json

__all__ = ["live", "retired", "shown_tracks", "tracks_of"]


def retired(entry: Json) -> bool:
    """Says whether an entry is of an earlier protocol: still readable, but without a place and not counted."""
    return places.retired(entry["protocol"]) is not None


def live(standings: Json) -> Json:
    """Returns the standings without retired entries, and without tracks and tasks of tracks that only these have."""
    entries = [entry for entry in standings["entries"] if not retired(entry)]
    names = {entry["name"] for entry in entries}
    covered = {task for entry in entries for task in entry["tasks"]}
    tracks = [
        track
        | {
            "rows": [row for row in track["rows"] if row["name"] in names],
            "tasks": [task for task in track["tasks"] if task in covered],
        }
        for track in standings["tracks"]
    ]
    return standings | {"entries": entries, "tracks": [track for track in tracks if track["rows"]]}


def shown_tracks(tracks: Sequence[Json]) -> list[Json]:
    """Returns the tracks with entries of their own: with one that covers tasks which no track before them shows."""
    shown: list[Json] = []
    seen: dict[str, set[str]] = {}
    # The small track of the suite itself comes first; the papers' follow.
    for track in sorted(tracks, key=lambda one: not one["name"].startswith("core-")):
        if any(not set(row["tasks"]) <= seen.get(row["name"], set()) for row in track["rows"]):
            shown.append(track)
            for row in track["rows"]:
                seen.setdefault(row["name"], set()).update(row["tasks"])
    return shown


def tracks_of(name: str, standings: Json) -> list[tuple[Json, Json]]:
    """Returns the tracks that add tasks to those of an entry, each with the entry's row."""
    own = [track | {"rows": [row for row in track["rows"] if row["name"] == name]} for track in standings["tracks"]]
    return [(track, track["rows"][0]) for track in shown_tracks([track for track in own if track["rows"]])]
