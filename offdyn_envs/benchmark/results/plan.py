"""What methods without figures would take, as `offdyn train --plan --json` says it; this package trains nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from offdyn_envs.benchmark.gate.strict_json import read_json
from offdyn_envs.errors import OffDynError

__all__ = ["Planned", "read_plan"]


class Planned(NamedTuple):
    """What is left to train of a method.

    Attributes:
        method: Its name, with the variant.
        left: Seed-updates.
        seconds: About how long they take; None where nobody has measured it.
    """

    method: str
    left: int
    seconds: float | None


def read_plan(path: Path) -> tuple[Planned, ...]:
    """Returns the methods of a plan, in the order in which they are trained.

    Args:
        path: What `offdyn train --plan --json` printed.

    Raises:
        OffDynError: The file is missing, or is something else.
    """
    told = read_json(path, f"plan '{path}'")
    try:
        return tuple(_planned(row) for row in told["agents"])
    except (KeyError, TypeError, ValueError):
        raise OffDynError(f"plan '{path}' is not what `offdyn train --agents all --plan --json` prints") from None


def _planned(row: Mapping[str, Any]) -> Planned:
    seconds = row["seconds_left"]
    return Planned(str(row["agent"]), int(row["seed_updates_left"]), None if seconds is None else float(seconds))
