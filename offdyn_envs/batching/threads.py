"""How many processors there are to work with, and how many threads a batch keeps busy."""

from __future__ import annotations

import os

__all__ = ["threads_for", "usable_threads"]

ROWS_PER_THREAD = 4
"""With fewer rows a thread costs more to wake than it simulates; see `offdyn_envs.batching.crew.rows_at_a_time`."""


def usable_threads() -> int:
    """Return the number of processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def threads_for(rows: int) -> int:
    """Return how many threads simulate a batch where the user does not say: a usable processor for every four rows.

    Args:
        rows: N.
    """
    return max(1, min(usable_threads(), rows // ROWS_PER_THREAD))
