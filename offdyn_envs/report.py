"""Tables and records as the commands print them: for people, or as JSON."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offdyn_envs.verification.subjects import RobotSubject

__all__ = ["describe_environment", "environment_rows", "print_record", "print_table"]

PIPE = 200
"""Columns of a table that goes into a file or a pipe."""
GAP, FOLDED = 2, 30
"""Spaces between two columns, and to what width a column of words is folded before it goes below."""


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
    if isinstance(value, list | dict):
        return json.dumps(value) if value else "-"
    if value is None:
        return "-"
    return str(value)


def print_table(title: str, rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print rows with equal keys; what is too wide for the terminal goes on below, with the first column again.

    Args:
        title: Shown above the table.
        rows: The rows; the keys of the first are the columns.
        as_json: Print a JSON list instead.
    """
    if as_json:
        print(json.dumps(list(rows), indent=2, allow_nan=False))
        return
    from rich.console import Console

    # Into a file or a pipe a table goes unfolded.
    console = Console(width=None if sys.stdout.isatty() else PIPE)
    columns = list(rows[0]) if rows else []
    cells = [[_text(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    print(title)
    for chosen in _fitting(widths, console.width):
        console.print(_table([columns[i] for i in chosen], [[row[i] for i in chosen] for row in cells]))


def _fitting(widths: Sequence[int], width: int) -> list[list[int]]:
    """Return which columns stand side by side: as many as fit, and the first one in front of each group of them."""
    groups: list[list[int]] = []
    for column, wide in enumerate(widths):
        group = groups[-1] if groups else []
        # Only names are never folded.
        needed = sum((widths[i] if i == 0 else min(widths[i], FOLDED)) + GAP for i in group) + min(wide, FOLDED)
        if not groups or (needed > width and len(group) > 1):
            groups.append([column] if column == 0 else [0, column])
        else:
            group.append(column)
    return groups


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, GAP, 0, 0), pad_edge=False, show_edge=False)
    for position, column in enumerate(columns):
        numbers = all(row[position][:1] in "-+.0123456789" for row in rows)
        justify = "right" if numbers and position else "left"
        # Names are for copying; other cells may be folded.
        table.add_column(column, overflow="fold", no_wrap=position == 0, justify=justify)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


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
    # On a terminal long lines go on under their beginning.
    space = max(20, shutil.get_terminal_size().columns - width - 4) if sys.stdout.isatty() else 0
    for key, value in record.items():
        # Lines of text stand below each other, other lists are printed as JSON.
        lines: list[Any] = value if value and _is_lines(value) else [value]
        texts = [part for line in lines for part in (textwrap.wrap(_text(line), space) if space else [_text(line)])]
        for position, line in enumerate(texts):
            print(f"  {key if position == 0 else '':<{width}}  {line}".rstrip())


def _is_lines(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(line, str) for line in value)


def environment_rows() -> list[dict[str, Any]]:
    """Return one row per named environment, with the published size of its shift.

    Returns:
        Rows with equal keys; see `offdyn envs verify --help` for what the figures mean. None where an environment has
        no such figure.
    """
    from offdyn_envs.verification.results import published
    from offdyn_envs.verification.subjects import named_subjects

    figures = published()["environments"]
    return [
        {
            "id": name,
            "robot": subject.title,
            "dynamics": subject.dynamics,
            "changes": subject.changes,
            "shifts": subject.json_shifts,
            "share changed": figures.get(name, {}).get("share_changed"),
            "shift size": figures.get(name, {}).get("shift_size"),
        }
        for name, subject in named_subjects().items()
    ]


def describe_environment(name: str) -> dict[str, Any]:
    """Say what a named environment is.

    Args:
        name: An environment id, or one without "OffDyn/" and "-v0" such as "Hopper-gravity-0.5".

    Returns:
        Dimensions, timing, what the shift changes in words and numbers, masses, friction of simulated contacts, the
        published size of the shift, model hash and MuJoCo version.

    Raises:
        OffDynError: No such environment (the message names the nearest), or an extra is missing.
    """
    from offdyn_envs.verification.subjects import RobotSubject, find_subject

    subject = find_subject(name)
    if isinstance(subject, RobotSubject):
        return _describe_robot(subject) | _published(subject.name)
    return _describe_refrigerator()


def _describe_refrigerator() -> dict[str, Any]:
    from offdyn_envs.refrigerator import Refrigerator, dynamics

    return {
        "robot": "Refrigerator",
        "what": (Refrigerator.__doc__ or "").partition("\n")[0],
        "closed door": f"T' = {dynamics.KEPT_CLOSED:g} (T - u) + {dynamics.GAIN_CLOSED:g}",
        "open door": f"T' = {dynamics.KEPT_OPEN:g} (T - u) + {dynamics.GAIN_OPEN:g}",
        "opens": f"for {dynamics.OPEN_STEPS} steps, at most once per {dynamics.STEPS_BETWEEN_OPENINGS}",
        "reward": f"-|T' - ({dynamics.SET_POINT:g})|",
        "observation": f"2 float64: T + N(0, {dynamics.SENSOR_NOISE:g}), and 1 where the door is open",
        "action": f"1 float32: cooling power u in [0, {dynamics.MAX_POWER:g}]",
        "first temperature": dynamics.START_TEMPERATURE,
        "steps per episode": dynamics.EPISODE_STEPS,
    }


def _describe_robot(subject: RobotSubject) -> dict[str, Any]:
    from importlib.metadata import version

    import mujoco

    from offdyn_envs.differences import differences, element_names
    from offdyn_envs.models import published_hash, start_qpos
    from offdyn_envs.robots import Hand
    from offdyn_envs.verification.contacts import FEET, measured_friction

    robot, shifts, model = subject.robot, subject.shifts, subject.model
    feet = FEET.get(robot.name, {})
    seen = measured_friction(robot, model, start_qpos(robot, shifts, subject.profile)) if feet else {}
    masses = zip(element_names(model, "body")[1:], model.body_mass[1:], strict=True)
    return {
        "robot": robot.title,
        "dynamics": subject.dynamics,
        "changes": subject.changes,
        "differences": differences(subject.base, model, subject.height),
        "shifts": subject.json_shifts,
        "observation": f"{robot.observation_dim} float64",
        "action": f"{robot.action_dim} float32 in [-1, 1]",
        **({"goal": ", ".join(part.words or part.element for part in robot.goal)} if robot.goal else {}),
        "seconds per step": robot.dt,
        "steps per episode": robot.max_episode_steps,
        "mass in kg": float(model.body_mass.sum()),
        "masses in kg": {body: round(float(mass), 4) for body, mass in masses},
        "friction of feet on the floor": {geom: max(seen[geom]) for geom in feet if geom in seen},
        "gravity z in m/s^2": float(model.opt.gravity[2]),
        "model SHA-256": published_hash(robot, shifts, subject.profile),
        "MuJoCo": mujoco.__version__,
        **({"gymnasium-robotics": version("gymnasium-robotics")} if isinstance(robot, Hand) else {}),
    }


def _published(name: str) -> dict[str, Any]:
    from offdyn_envs.verification.results import published

    record = published()
    facts = record["environments"].get(name, {})
    words = {
        "share_changed": "share of random transitions changed",
        "shift_size": "shift size",
        "divergence_50_steps": "divergence after 50 steps",
        "policy_share_changed": "share changed on the medium policy's states",
        "policy_shift_size": "shift size on the medium policy's states",
    }
    found = {said: facts[key] for key, said in words.items() if facts.get(key) is not None}
    return {**found, "measured with MuJoCo": record["versions"]["mujoco"]} if found else {}
