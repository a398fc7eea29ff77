"""Where the files that travel with the library lie: beside the code in a wheel, in `datasets/` in a checkout."""

from __future__ import annotations

from pathlib import Path

__all__ = ["REPLAY", "behaviour_path", "shipped_root"]

REPLAY = tuple(f"replay-{number:02d}" for number in range(16))
"""Policies that the learner went through before its medium one, evenly spaced; together they collect medium-replay."""


def shipped_root() -> Path:
    """Return the folder of shipped behaviour policies and datasets; it may lack what has not been trained yet."""
    package = Path(__file__).parent
    in_wheel = package / "shipped"
    return in_wheel if in_wheel.is_dir() else package.parent / "datasets"


def behaviour_path(robot: str, dynamics: str, name: str) -> Path:
    """Return the file of a behaviour policy, whether or not it exists.

    Args:
        robot: Name of the robot.
        dynamics: Dynamics slug.
        name: "medium", "expert" or one of `REPLAY`.

    Returns:
        A `.safetensors` file; its card is the `.json` beside it.
    """
    return shipped_root() / "behaviours" / robot / dynamics / f"{name}.safetensors"
