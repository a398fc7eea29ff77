"""Methods whose bf16 has been held against fp32: `precision.json` of a leaderboard, without which bf16 has no place.

`offdyn leaderboard results` adds a pair of runs of one method on one task, `AGENT` in bf16 and `AGENT@fp32`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from offdyn_envs.atomic import json_text
from offdyn_envs.benchmark.entries.disclosed import key_of
from offdyn_envs.benchmark.gate.strict_json import read_json
from offdyn_envs.benchmark.scoring.statistics import Interval
from offdyn_envs.errors import OffDynError

__all__ = ["FILE", "Held", "held_text", "in_bf16", "load_held", "not_held"]

FILE = "precision.json"


class Held(NamedTuple):
    """How a method scores in bf16 beside fp32 on a task.

    Attributes:
        method: The agent.
        task: The task.
        updates: Policy updates of both runs.
        final: Score of the final policies, bf16 minus fp32.
        curve: The same of the mean over all evaluations during training.
    """

    method: str
    task: str
    updates: int
    final: Interval
    curve: Interval


def load_held(board: Path) -> tuple[Held, ...]:
    """Reads the list; nothing where there is none yet.

    Args:
        board: The leaderboard's folder.

    Raises:
        OffDynError: The file is no such list.
    """
    path = board / FILE
    if not path.exists():
        return ()
    label = f"list of methods in bf16 '{path}'"
    told = read_json(path, label)
    try:
        return tuple(_held(row) for row in told["held"])
    except (KeyError, TypeError, ValueError):
        raise OffDynError(f"{label} is damaged; move it away, and make it with: offdyn leaderboard results") from None


def _held(row: Mapping[str, Any]) -> Held:
    final, curve = (Interval(*(float(row[name][end]) for end in Interval._fields)) for name in ("final", "curve"))
    return Held(str(row["method"]), str(row["task"]), int(row["updates"]), final, curve)


def held_text(held: Iterable[Held]) -> str:
    """Returns the list as its file has it."""
    rows = [one._asdict() | {"final": one.final._asdict(), "curve": one.curve._asdict()} for one in held]
    return json_text({"held": rows})


def in_bf16(precision: object) -> bool:
    """Says whether a run names bf16 as its precision: "bf16", "bfloat16", "bf16-mixed"."""
    return "bf16" in str(precision or "").lower().replace("bfloat", "bf")


def not_held(method: str, trainings: Iterable[Mapping[str, Any]], held: Sequence[Held]) -> str | None:
    """Returns that bf16 has not been held against fp32, None where it has been or where nothing is in bf16.

    Args:
        method: Name of the method; variants of an agent count as the agent.
        trainings: `precision` and `updates` of each task. A pair of runs with fewer updates tells nothing of them.
        held: The list.
    """
    updates = max((int(one["updates"]) for one in trainings if in_bf16(one.get("precision"))), default=0)
    agent = key_of(method).partition("@")[0]
    if not updates or any(one.method == agent and one.updates >= updates for one in held):
        return None
    return "bf16 not held against fp32"
