"""What a user says about their files: which columns are what, bounds of actions, names, units, a reward function."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from offdyn_envs.datasets.own.functions import needed
from offdyn_envs.errors import OffDynError, beginning, unknown

__all__ = ["DONE_MEANS", "ROLES", "VECTORS", "Spec"]

ROLES: Mapping[str, tuple[str, ...]] = {
    "observations": ("observations", "observation.state", "obs", "observations/"),
    "actions": ("actions", "action"),
    "rewards": ("rewards", "next.reward", "reward"),
    "next_observations": ("next_observations", "next.observation.state", "next_obs", "next_observations/"),
    "terminations": ("terminations", "terminals", "terminated", "next.terminated"),
    "truncations": ("truncations", "timeouts", "truncated", "next.truncated"),
    "done": ("dones", "done", "next.done"),
    "episode": ("episode_index", "episode"),
}
"""What a column can be, and the names under which it is looked for where the user names none."""
VECTORS = ("observations", "actions", "next_observations")
DONE_MEANS = ("termination", "truncation")
"""What an end that is called "done" only can be: the episode is over for good, or it was cut."""
_NEVER_NONE = ("observations", "actions")


@dataclass(frozen=True)
class Spec:
    """What the columns of a file are; what is None is looked for under the usual names (`ROLES`).

    Columns are named by a name ("observations", "observation.state"), by the stem of numbered columns ("obs" stands for
    obs_0, obs_1, ...), by a prefix that ends in "_", "." or "/" ("obs_": all that begin so, in the file's order), or by
    a list of those. An empty tuple means that the file has no such column.

    Attributes:
        observations: Columns of the observations.
        actions: Columns of the actions.
        rewards: Column of the rewards.
        next_observations: Columns of the next observations; without them it is the next row of the same episode.
        terminations: Column that is true where an episode ended for good.
        truncations: Column that is true where the episode was cut off.
        done: Column that is true where the episode ended either way.
        episode: Column with the number of the episode.
        done_means: One of `DONE_MEANS`, for files that know "done" only.
        action_low: Smallest value of all actions, or of each; -1 means it to a policy.
        action_high: Largest value likewise.
        observation_names: Name of every observation, instead of the columns' names.
        action_names: Name of every action.
        observation_units: Unit of every observation.
        action_units: Unit of every action.
        time_step: Seconds between two rows.
        reward_function: "module:function", called with observations [N, |S|], actions [N, |A|] in their own units and
            next observations [N, |S|]; returns rewards [N].
        clip_actions: Clip actions outside their bounds, as their environment did, and count them.
    """

    observations: tuple[str, ...] | None = None
    actions: tuple[str, ...] | None = None
    rewards: tuple[str, ...] | None = None
    next_observations: tuple[str, ...] | None = None
    terminations: tuple[str, ...] | None = None
    truncations: tuple[str, ...] | None = None
    done: tuple[str, ...] | None = None
    episode: tuple[str, ...] | None = None
    done_means: str | None = None
    action_low: tuple[float, ...] | None = None
    action_high: tuple[float, ...] | None = None
    observation_names: tuple[str, ...] | None = None
    action_names: tuple[str, ...] | None = None
    observation_units: tuple[str, ...] | None = None
    action_units: tuple[str, ...] | None = None
    time_step: float | None = None
    reward_function: str | None = None
    clip_actions: bool | None = None

    def __post_init__(self) -> None:
        if (self.action_low is None) != (self.action_high is None):
            raise OffDynError("one of action_low and action_high is given; both are needed, or neither")
        if self.reward_function is not None and self.rewards:
            raise OffDynError("rewards and reward_function are both given; one of them is allowed")

    @classmethod
    def of(cls, spec: Spec | Mapping[str, Any] | Path | str | None, **options: Any) -> Spec:
        """Return the spec that a user means.

        Args:
            spec: A spec, a mapping of its keys, or a YAML or JSON file.
            options: Keys that are said beside it and win over it; None says nothing.

        Raises:
            OffDynError: The file cannot be read, a key is unknown, or a value is none that the key can have.
        """
        where = "spec"
        if isinstance(spec, Spec):
            told = {key: value for key, value in asdict(spec).items() if value is not None}
        elif isinstance(spec, Mapping):
            told = dict(spec)
        else:
            told, where = ({}, where) if spec is None else (_read(Path(spec)), str(spec))
        told |= {key: value for key, value in options.items() if value is not None}
        known = [field.name for field in fields(cls)]
        for key in told:
            if key not in known:
                raise OffDynError(f"{where}: {unknown('key', key, known)}")
        return cls(**{key: _READ_KEY[key](f"{where}: {key}", key, value) for key, value in told.items()})

    def to_json(self) -> dict[str, Any]:
        """Return what was said as plain JSON values."""
        said = {key: value for key, value in asdict(self).items() if value is not None}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in said.items()}


def _read(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file; YAML is imported only here."""
    if not path.is_file():
        raise OffDynError(f"{path}: missing; a spec in YAML or JSON is wanted")
    try:
        text = path.read_text(encoding="utf-8")
        told = json.loads(text) if path.suffix == ".json" else needed("yaml").safe_load(text)
    except OffDynError:
        raise
    except Exception as error:  # PyYAML has a dozen of its own, and a file can be no text.
        raise OffDynError(f"{path}: cannot be read as a spec ({error})") from None
    if not isinstance(told, Mapping):
        raise OffDynError(f"{path}: holds a {type(told).__name__}; a mapping of keys such as observations is wanted")
    return {str(key): value for key, value in told.items()}


def _items(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return list(value) if isinstance(value, list | tuple | np.ndarray) else [value]


def _columns(what: str, key: str, value: Any) -> tuple[str, ...]:
    """Read names of columns; null and "none" say that there are none."""
    names = [] if value is None or value == "none" else _items(value)
    if not names and key in _NEVER_NONE:
        raise OffDynError(f"{what} is none; columns are needed")
    if len(names) > 1 and key not in VECTORS:
        raise OffDynError(f"{what} has {len(names)} columns; one is allowed")
    return _words(what, key, names)


def _words(what: str, key: str, value: Any) -> tuple[str, ...]:
    words = _items(value)
    for word in words:
        if not isinstance(word, str):
            raise OffDynError(f"{what} holds {beginning(word, 40)!r}; names are allowed")
    return tuple(words)


def _numbers(what: str, key: str, value: Any) -> tuple[float, ...]:
    return tuple(_number(what, key, item) for item in _items(value))


def _number(what: str, key: str, value: Any) -> float:
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number) or (key == "time_step" and number <= 0):
        kind = "a number of seconds above 0" if key == "time_step" else "a finite number"
        raise OffDynError(f"{what} is {beginning(value, 40)!r}; {kind} is allowed")
    return number


def _done_means(what: str, key: str, value: Any) -> str:
    if value not in DONE_MEANS:
        raise OffDynError(f"{what} is {beginning(value, 40)!r}; {' or '.join(DONE_MEANS)} is allowed")
    return value


def _function(what: str, key: str, value: Any) -> str:
    module, _, name = str(value).partition(":")
    if not module or not name:
        raise OffDynError(f"{what} is {beginning(value, 80)!r}; module:function is allowed")
    return str(value)


def _flag(what: str, key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise OffDynError(f"{what} is {beginning(value, 40)!r}; true or false is allowed")
    return value


_READ_KEY: Mapping[str, Callable[[str, str, Any], Any]] = {
    **dict.fromkeys(ROLES, _columns),
    **dict.fromkeys(("action_low", "action_high"), _numbers),
    **dict.fromkeys(("observation_names", "action_names", "observation_units", "action_units"), _words),
    "done_means": _done_means,
    "time_step": _number,
    "reward_function": _function,
    "clip_actions": _flag,
}
