"""What follows from how runs were trained: their method, whether they stand for it, their division, their time."""

from collections.abc import Iterable, Mapping
from typing import Any

from offdyn_envs.benchmark.scoring import protocol

__all__ = ["division_of", "is_reference", "key_of", "own_seconds", "seconds_an_update"]

CLONING = protocol.METHOD_FAMILIES[0]


def key_of(method: str) -> str:
    """Returns a method's name in a spelling to compare by: "IQL (merged)" and "iql" are one."""
    return method.partition(" (")[0].strip().lower().replace("_", "-")


def is_reference(family: str | None, data: object) -> bool:
    """Says whether runs stand for their data and not for a method: source-only, target-only and oracle runs.

    What only imitates has no use for two dynamics: to clone the target's rows is a method (BC).

    Args:
        family: Kind of the method, one of `protocol.METHOD_FAMILIES`, or None.
        data: The setting `data` of the runs: the rows that they learned from.
    """
    return data in ("source", "oracle") or (data == "target" and family != CLONING)


def division_of(updates: int) -> str | None:
    """Returns the smallest division that allows so many policy updates, None where none does."""
    return next((name for name, limit in protocol.DIVISIONS.items() if updates <= limit), None)


def own_seconds(run: Mapping[str, Any]) -> float:
    """Returns a run's own share of its training time: a population of several tasks has one clock.

    Args:
        run: Contents of its run.json.
    """
    return float(run["wall_clock_s"]) / run.get("population", {}).get("tasks", 1)


def seconds_an_update(runs: Iterable[tuple[float, int, int]]) -> float | None:
    """Returns the seconds of a seed-update over runs, None where nothing was measured.

    Args:
        runs: Seconds of all seeds, number of seeds and updates of each run.
    """
    told = list(runs)
    spent, work = sum(seconds for seconds, _, _ in told), sum(seeds * updates for _, seeds, updates in told)
    return spent / work if spent and work else None
