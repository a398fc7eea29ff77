"""Tables and records as the commands print them: for people, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["describe_environment", "print_record", "print_table"]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | dict):
        return json.dumps(value) if value else "-"
    return str(value)


def print_table(title: str, rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print rows with equal keys.

    Args:
        title: Shown above the table.
        rows: The rows; the keys of the first are the columns.
        as_json: Print a JSON list instead.
    """
    if as_json:
        print(json.dumps(list(rows), indent=2, allow_nan=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for column in rows[0] if rows else ():
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_text(value)) for value in row.values()))
    Console().print(table)


def print_record(title: str, record: Mapping[str, Any], as_json: bool) -> None:
    """Print one thing's fields.

    Args:
        title: Shown above the fields.
        record: The fields.
        as_json: Print a JSON object instead.
    """
    if as_json:
        print(json.dumps(dict(record), indent=2, allow_nan=False))
        return
    print(title)
    width = max(map(len, record), default=0)
    for key, value in record.items():
        print(f"  {key:<{width}}  {_text(value)}")


def describe_environment(name: str) -> dict[str, Any]:
    """Say what a named environment is.

    Args:
        name: An environment id, or a task's robot and dynamics such as "Hopper-gravity-0.5".

    Returns:
        Dimensions, timing, shifts in words, model hash and MuJoCo version.

    Raises:
        OffDynError: No such environment; the message names the nearest.
    """
    import mujoco

    from offdyn_envs.errors import unknown
    from offdyn_envs.models import compile_model, model_hash
    from offdyn_envs.tasks import get_dynamics, list_env_ids

    table = list_env_ids()
    found = table.get(name) or table.get(f"OffDyn/{name}-v0")
    if found is None:
        short = "/" not in name
        raise unknown(
            "environment", name, [key.partition("/")[2].removesuffix("-v0") for key in table] if short else table
        )
    robot, slug = found
    shifts = get_dynamics(robot.name, slug)
    model = compile_model(robot, shifts)
    return {
        "robot": robot.title,
        "dynamics": slug,
        "changes": "; ".join(shift.describe(robot) for shift in shifts) or "nothing: the nominal robot",
        "shifts": [shift.to_json() for shift in shifts],
        "observation": f"{robot.observation_dim} float64",
        "action": f"{robot.action_dim} float32 in [-1, 1]",
        "seconds per step": robot.dt,
        "steps per episode": robot.max_episode_steps,
        "mass in kg": float(model.body_mass.sum()),
        "gravity z in m/s^2": float(model.opt.gravity[2]),
        "model SHA-256": model_hash(model),
        "MuJoCo": mujoco.__version__,
    }
