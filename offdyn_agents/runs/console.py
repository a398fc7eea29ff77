"""What the agents' commands have in common; it imports no torch."""

from __future__ import annotations

import os

__all__ = ["quiet_waiting", "task_names"]


def task_names(tasks: list[str], track: str | None) -> list[str]:
    """Return the tasks that were named, each once, or those of a track.

    Raises:
        OffDynError: Both or neither, or an unknown name.
    """
    from offdyn_envs.errors import OffDynError
    from offdyn_envs.tasks import get_task, get_track

    if bool(tasks) == (track is not None):
        raise OffDynError("name tasks or --track, one of the two; `offdyn tasks` lists them")
    return list(dict.fromkeys(get_task(name).name for name in (get_track(track) if track is not None else tasks)))


def quiet_waiting() -> None:
    """Let idle threads sleep; to be called before torch is imported."""
    # Set before torch is imported: threads that spin while they wait make a busy machine ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
