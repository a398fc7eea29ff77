"""How long a seed-update of each agent took on each robot: the table `rates.json`, made by `offdyn dev rates`.

It is shipped, so that a plan in an empty folder has times, too. They are those of other machines, and say so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from offdyn_agents.runs.plans import ENDED, read_run
from offdyn_envs.atomic import write_json
from offdyn_envs.benchmark.entries.disclosed import own_seconds, seconds_an_update
from offdyn_envs.errors import OffDynError

__all__ = ["PLACE", "estimate", "seconds_per_update", "shipped", "write_rates"]

PLACE = Path(__file__).with_suffix(".json")
YARDSTICK = "iql"
"""The agent beside which `benchmarks/agents.py` measures the others."""


def seconds_per_update(facts: Mapping[str, Any]) -> float:
    """Return seconds of a run for a seed-update, stages included; 0 where its run.json tells no time."""
    return seconds_an_update([(own_seconds(facts), len(facts["seeds"]), facts["updates"])]) or 0.0


def write_rates(folders: Iterable[Path], updates: Path | None = None, out: Path = PLACE) -> dict[str, Any]:
    """Write the table of what runs took.

    Args:
        folders: Runs, or folders of runs; a folder that is no run of a task of the suite, or has not ended, is passed
            over. Where an agent has a run of its preset on a robot, variants of it do not count.
        updates: What `python benchmarks/agents.py --json` printed; its figures stand in for agents without a run.
        out: The file.

    Returns:
        The table: "rates", rows of agent, robot, kind of processor, precision, seconds for a seed-update (median) and
        number of runs; "times_iql" by agent; "devices", the processors.

    Raises:
        OffDynError: No run among the folders, or a damaged one.
    """
    plain: dict[tuple[str, ...], list[float]] = {}
    variants: dict[tuple[str, ...], list[float]] = {}
    devices: set[str] = set()
    for path in sorted({path for folder in folders for path in folder.rglob("run.json")}):
        facts = read_run(path.parent)
        robot, seconds = _robot(facts["task"]), seconds_per_update(facts)
        if facts["status"] not in ENDED or not robot or not seconds:
            continue
        devices.add(facts["device"])
        chosen = variants if "@" in path.parent.name else plain
        place = (facts["agent"], robot, _kind(facts["device"]), facts.get("precision", "fp32"))
        chosen.setdefault(place, []).append(seconds)
    if not devices:
        raise OffDynError("no ended run of a task in these folders; make one with: offdyn train")
    found = variants | plain
    names = ("agent", "robot", "kind", "precision")
    table = {
        "devices": sorted(devices),
        "rates": [
            dict(zip(names, place, strict=True)) | {"seconds": float(f"{median(times):.4g}"), "runs": len(times)}
            for place, times in sorted(found.items())
        ],
        "times_iql": {} if updates is None else _beside(updates),
    }
    write_json(out, table)
    return table


def estimate(
    table: Mapping[str, Any], agent: str, robot: str | None, kind: str, precision: str = "fp32"
) -> float | None:
    """Return about how many seconds a seed-update takes.

    Args:
        table: As `write_rates` gives it.
        agent: Name of the agent.
        robot: The robot; None for data of none.
        kind: "cpu" or "cuda".
        precision: Of the products: "fp32", "bf16" or "tf32".

    Returns:
        That of the agent's runs in this precision on this robot, or else on all; those in any precision where there are
        none; or else IQL's times what an update of the agent takes in IQL's, stages left out; None where nothing is
        known.
    """
    measured = _of(table, agent, robot, kind, precision)
    if measured is not None:
        return measured
    times, yardstick = table["times_iql"].get(agent), _of(table, YARDSTICK, robot, kind, precision)
    return None if times is None or yardstick is None else times * yardstick


@cache
def shipped() -> Mapping[str, Any]:
    """Return the package's own table."""
    return json.loads(PLACE.read_text(encoding="utf-8"))


def _of(table: Mapping[str, Any], agent: str, robot: str | None, kind: str, precision: str) -> float | None:
    rows = [row for row in table["rates"] if (row["agent"], row["kind"]) == (agent, kind)]
    rows = [row for row in rows if row["precision"] == precision] or rows
    times = [row["seconds"] for row in rows if row["robot"] == robot] or [row["seconds"] for row in rows]
    return median(times) if times else None


def _robot(task: str) -> str | None:
    from offdyn_envs.tasks import get_task

    try:
        return get_task(task).robot
    except OffDynError:
        return None


def _kind(device: str) -> str:
    """Return whether a run.json's device is a processor: those have their number of threads behind them."""
    return "cpu" if device.endswith(" threads") else "cuda"


def _beside(path: Path) -> dict[str, float]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["results"]
        return {str(row["agent"]): round(float(row["times_iql"]), 2) for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        raise OffDynError(f"'{path}' is not what `python benchmarks/agents.py --json` prints") from None
