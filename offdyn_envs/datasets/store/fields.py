"""The keys of a dataset's card with their types, and the check that every reader of a card makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from offdyn_envs.datasets.store.spec import Arrays
from offdyn_envs.errors import OffDynError
from offdyn_envs.robots import get_robot
from offdyn_envs.shifts import check_profile, parse_shifts
from offdyn_envs.tasks import DatasetId

__all__ = ["CARD", "check_card", "check_fields"]


@dataclass(frozen=True)
class Maybe:
    """Null, or what `inner` describes."""

    inner: Any


@dataclass(frozen=True)
class Each:
    """An object with any keys, whose values are what `inner` describes."""

    inner: Any


MAX = 1e300
_WORDS = {
    int: "a whole number",
    float: "a finite number",
    str: "a string",
    list: "a list",
    dict: "an object",
    object: "a value",
}

_DISTRIBUTION = Maybe(
    {
        **dict.fromkeys(("mean", "std", "min", "median", "max"), float),
        "se": Maybe(float),
        "histogram": {"counts": [int], "edges": [float]},
    }
)
_MOMENTS = {key: [float] for key in ("mean", "std", "min", "max")}
_BEHAVIOUR = {
    "name": str,
    "rows": int,
    "sampling": str,
    "policy?": str,
    "policy_sha256?": str,
    "returns?": Maybe({"mean?": float, "se?": float}),
}

CARD: Mapping[str, Any] = {
    **dict.fromkeys(("format", "rows", "episodes", "whole_episodes", "terminated_episodes", "seed"), int),
    **dict.fromkeys(("id", "robot", "dynamics", "quality", "profile", "model_sha256", "sha256"), str),
    **dict.fromkeys(("licence", "rebuild"), str),
    "arrays": {field.name + "?" * (field.name == "goal"): str for field in fields(Arrays)},
    "files": Each({"bytes": int, "sha256": str}),
    "shifts": [Each(object)],
    "behaviour": [_BEHAVIOUR],
    "platform": {"system": str, "machine": str, "simd": [str]},
    "versions": {"mujoco": str},
    "returns": _DISTRIBUTION,
    "lengths": _DISTRIBUTION,
    "moments": dict.fromkeys(("observations", "actions", "rewards"), _MOMENTS),
    "metadata_sha256?": str,
    "shift_size?": float,
    "normalised_score?": Maybe({"mean": float, "se": Maybe(float)}),
}
"""Every key that a card has and what it holds: a type, a one-element list for a list of equal things, a dict for an
object with these keys (more are allowed; "?" marks one that may be missing), `Maybe` or `Each`."""


def check_fields(value: Any, expected: Any, where: str, key: str) -> None:
    """Check the types of a JSON value, all the way down.

    Args:
        value: What was read.
        expected: What it should be, written like `CARD`.
        where: The file, for the message.
        key: Path of the value in the file, for the message.

    Raises:
        OffDynError: The first value of another type, or the first missing key, by its path.
    """
    if isinstance(expected, Maybe):
        if value is not None:
            check_fields(value, expected.inner, where, key)
        return
    if not _is(value, expected):
        raise OffDynError(f"{where}: key '{key}' is {_short(value)}; expected {_words(expected)}")
    if isinstance(expected, list):
        for index, item in enumerate(value):
            check_fields(item, expected[0], where, f"{key}[{index}]")
    elif isinstance(expected, Each):
        for name, item in value.items():
            check_fields(item, expected.inner, where, f"{key}.{name}")
    elif isinstance(expected, Mapping):
        _check_keys(value, expected, where, key)


def _check_keys(value: Mapping[str, Any], expected: Mapping[str, Any], where: str, key: str) -> None:
    for name, inner in expected.items():
        plain = name.removesuffix("?")
        if plain in value:
            check_fields(value[plain], inner, where, f"{key}.{plain}")
        elif plain == name:
            raise OffDynError(f"{where}: key '{key}.{name}' is missing; expected {_words(inner)}")


def _kind(expected: Any) -> type:
    return dict if isinstance(expected, Mapping | Each) else list if isinstance(expected, list) else expected


def _is(value: Any, expected: Any) -> bool:
    kind = _kind(expected)
    if kind in (int, float):
        # Compared rather than converted: NaN fails, and so does a whole number too large for a float.
        return (
            isinstance(value, int if kind is int else int | float) and not isinstance(value, bool) and abs(value) < MAX
        )
    return isinstance(value, kind)


def _words(expected: Any) -> str:
    return f"{_words(expected.inner)} or null" if isinstance(expected, Maybe) else _WORDS[_kind(expected)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def check_card(card: Any, dataset: DatasetId, where: str, key: str) -> None:
    """Check a card: its keys and types, that it is of this dataset, and that its numbers fit together.

    Args:
        card: What was read.
        dataset: Whose card it should be.
        where: The file, for the message.
        key: Path of the card in the file, for the message.

    Raises:
        OffDynError: What is wrong, by its path in the file.
    """
    check_fields(card, CARD, where, key)
    names = {"id": str(dataset), "robot": dataset.robot, "dynamics": dataset.dynamics, "quality": dataset.quality}
    for name, wanted in names.items():
        if card[name] != wanted:
            raise OffDynError(f"{where}: key '{key}.{name}' is {_short(card[name])}; expected '{wanted}'")
    rows = dataset.row_count
    if card["rows"] != rows or not 1 <= card["episodes"] <= rows:
        raise OffDynError(
            f"{where}: key '{key}.rows': {card['rows']} rows in {card['episodes']} episodes; expected {rows} rows"
        )
    _check_sizes(card, dataset, where, key)
    _check_parses(lambda: parse_shifts(card["shifts"] or None), f"{where}: key '{key}.shifts'")
    _check_parses(lambda: check_profile(card["profile"]), f"{where}: key '{key}.profile'")


def _check_parses(parse: Callable[[], object], what: str) -> None:
    try:
        parse()
    except OffDynError as error:
        raise OffDynError(f"{what}: {error}") from None


def _check_sizes(card: Mapping[str, Any], dataset: DatasetId, where: str, key: str) -> None:
    """Check the lengths of the lists that are read side by side."""
    robot = get_robot(dataset.robot)
    wanted = {"observations": robot.observation_dim, "actions": robot.action_dim, "rewards": 1}
    sizes = [
        (f"moments.{name}.{moment}", len(values), wanted[name])
        for name in wanted
        for moment, values in card["moments"][name].items()
        if moment in _MOMENTS
    ]
    for name in ("returns", "lengths"):
        if card[name]:
            histogram = card[name]["histogram"]
            sizes.append((f"{name}.histogram.edges", len(histogram["edges"]), len(histogram["counts"]) + 1))
            if sum(histogram["counts"]) < 1 or min(histogram["counts"]) < 0:
                raise OffDynError(
                    f"{where}: key '{key}.{name}.histogram.counts' counts no episode; expected at least 1"
                )
    for path, found, size in sizes:
        if found != size:
            raise OffDynError(f"{where}: key '{key}.{path}' has {found} numbers; expected {size}")
