"""The environment that collected a Minari set: its robot, its dynamics, and settings that are not this suite's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from offdyn_envs.datasets.store.source import Facts
from offdyn_envs.errors import OffDynError, beginning
from offdyn_envs.robots import WALKERS, Walker, as_walker
from offdyn_envs.tasks import get_dynamics, list_env_ids

__all__ = ["Collector", "collecting_environment"]

STOCK_VERSIONS = ("v2", "v3", "v4", "v5")
_LOOKS = (
    *("render_mode", "width", "height", "camera_name", "camera_id", "default_camera_config", "max_geom"),
    *("visual_options", "include_cfrc_ext_in_observation"),
)
"""Settings that change no number, or one that the width of the observations shows."""
_STOCK_DEFAULTS = {"Ant-v5": {"contact_cost_weight": 5e-4}}
"""Defaults of stock environments that are not this suite's."""
LARGEST = 1e300
_OUR_DYNAMICS = ("shifts", "profile", "schedule")
_CLASSES = {"stock": ("gymnasium.envs.mujoco", "gym.envs.mujoco"), "ours": ("offdyn_envs.",)}
"""Where the classes of stock environments and of this suite's lie."""


@dataclass(frozen=True)
class _Told:
    """What an environment specification says.

    Attributes:
        name: Its id.
        kwargs: Arguments.
        limit: Steps of an episode, where it says so.
        wrappers: Their names.
        entry: "module:Class" that made it, "" where nothing is said.
    """

    name: str
    kwargs: dict[str, Any]
    limit: Any
    wrappers: list[str]
    entry: str


@dataclass(frozen=True)
class Collector:
    """What a file says of the environment that collected it.

    Attributes:
        robot: Its name; None where nothing is said.
        dynamics: Slug of named dynamics; None for environments of other suites.
        environment: Id and arguments, for the card.
        changes: Fields of `Walker` that its settings change.
        bonus: Alive bonus that its rewards pay on the step that falls; 0 where they do not, None where it is unknown.
    """

    robot: str | None = None
    dynamics: str | None = None
    environment: Mapping[str, Any] | None = None
    changes: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    bonus: float | None = None

    def body(self, robot: Walker) -> Walker:
        """Return the robot with its rule of falling, its noise of resets and its time step as they were."""
        return replace(robot, **self.changes)


def collecting_environment(metadata: Mapping[str, Any], path: Path, facts: Facts) -> Collector:
    """Find out which robot collected a Minari set, under which named dynamics, and with which settings.

    Args:
        metadata: From `read_minari_metadata`.
        path: The file, for the message.
        facts: Gets a note where the environment is not this suite's robot.

    Raises:
        OffDynError: The environment is none of the four robots'.
    """
    if metadata.get("env_spec") is None:
        return Collector()
    told = _spec(metadata["env_spec"], path)
    name, kwargs = told.name, told.kwargs
    environment = {"id": name[:200], "kwargs": kwargs}
    ours = list_env_ids().get(name)
    if told.wrappers:
        facts.notes.append(f"collected through wrappers, which may change what is stored: {', '.join(told.wrappers)}")
    if told.entry and not told.entry.startswith(_CLASSES["ours" if ours else "stock"]):
        facts.notes.append(
            f"collected by {beginning(told.entry, 80)}, which is not the class of {name}: its rewards and dynamics are "
            "unknown"
        )
    if ours is not None:
        walker = as_walker(ours[0], "an import")
        return _ours(walker, ours[1], told, environment, path, facts)
    stock = {f"{robot.title}-{version}": robot for robot in WALKERS.values() for version in STOCK_VERSIONS}
    if name not in stock:
        raise OffDynError(
            f"{path}: collected in '{name[:80]}'; expected an environment of {', '.join(WALKERS)}, such as Hopper-v5, "
            "or --robot none to import it without its environment"
        )
    if name == "Walker2d-v5" and "xml_file" not in kwargs:
        facts.notes.append("Walker2d-v5 has walker2d_v5.xml by default: other friction of the left foot than here")
    robot = stock[name]
    limit = {} if told.limit is None else {"max_episode_steps": told.limit}
    _note_settings(name, robot, _STOCK_DEFAULTS.get(name, {}) | kwargs | limit, facts)
    changes = _changes(robot, kwargs)
    falls = name.endswith("-v5") or robot.z_range is None or changes.get("z_range", robot.z_range) is None
    paid = kwargs.get("healthy_reward", robot.alive_bonus)
    bonus = 0.0 if falls else float(paid) if isinstance(paid, int | float) else robot.alive_bonus
    return Collector(robot.name, None, environment, changes, bonus)


def _spec(text: Any, path: Path) -> _Told:
    """Read an environment specification."""
    try:
        spec = json.loads(text) if isinstance(text, str) else text
        name, kwargs = str(spec["id"]), _plain(dict(spec.get("kwargs") or {}))
        steps = _plain(spec.get("max_episode_steps"))
        wrappers = [str(item["name"])[:60] for item in spec.get("additional_wrappers") or ()]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise OffDynError(f"{path}: key 'env_spec' of metadata.json is no environment specification") from None
    entry = spec.get("entry_point")
    return _Told(name, kwargs, steps, wrappers, entry if isinstance(entry, str) else "")


def _ours(robot: Walker, slug: str, told: _Told, environment: Mapping[str, Any], path: Path, facts: Facts) -> Collector:
    """Read the arguments of one of this suite's environments; further shifts are no named dynamics."""
    kwargs = told.kwargs
    dynamics: str | None = str(kwargs.get("dynamics") or slug)
    try:
        get_dynamics(robot.name, dynamics)
    except OffDynError as error:
        raise OffDynError(f"{path}: key 'env_spec' of metadata.json: {error}") from None
    changed = [name for name in _OUR_DYNAMICS if kwargs.get(name) not in (None, [], "default")]
    if changed:
        dynamics = None
        facts.notes.append(f"collected under dynamics that have no name here: {_shown(kwargs, changed)}")
    if kwargs.get("attack") is not None:
        facts.notes.append(f"observations were attacked: {_shown(kwargs, ['attack'])}")
    other = kwargs | ({} if told.limit in (None, robot.max_episode_steps) else {"max_episode_steps": told.limit})
    unknown = [key for key in other if key not in (*_OUR_DYNAMICS, *_LOOKS, "dynamics", "attack")]
    if unknown:
        facts.notes.append(f"collected with settings that this suite's environments have not: {_shown(other, unknown)}")
    return Collector(robot.name, dynamics, environment, bonus=0.0)


def _note_settings(name: str, robot: Walker, settings: dict[str, Any], facts: Facts) -> None:
    """Note the settings of a stock environment in which it differs from this suite's robot."""
    here = {
        **{"xml_file": robot.mjcf, "frame_skip": robot.frame_skip, "forward_reward_weight": 1.0},
        **{"ctrl_cost_weight": robot.control_cost, "healthy_reward": robot.alive_bonus},
        **{"terminate_when_unhealthy": True, "healthy_z_range": robot.z_range},
        **{"healthy_angle_range": robot.angle_range, "reset_noise_scale": robot.reset_noise},
        **{"healthy_state_range": (-robot.state_limit, robot.state_limit), "use_contact_forces": False},
        **{"exclude_current_positions_from_observation": True, "contact_cost_weight": 0.0},
        **{"main_body": 1, "max_episode_steps": robot.max_episode_steps},
    }
    torso = {"main_body": 1} if settings.get("main_body") == "torso" else {}  # The body whose speed pays, by its name.
    other = [
        f"{key} {beginning(value, 60)} ({f'here {here[key]}' if key in here else 'unknown here'})"
        for key, value in (settings | torso).items()
        if key not in _LOOKS and not (key in here and value == _plain(here[key]))
    ]
    if other:
        facts.notes.append(f"collected in {name} with {', '.join(other)}: not the rewards or dynamics of this suite")


def _shown(kwargs: Mapping[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name} {beginning(kwargs[name], 80)}" for name in names)


def _changes(robot: Walker, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a robot that the settings of its stock environment change, as far as they can be read."""
    changes: dict[str, Any] = {}
    skip, noise = kwargs.get("frame_skip"), kwargs.get("reset_noise_scale")
    if isinstance(skip, int) and not isinstance(skip, bool) and 0 < skip < 10_000:
        changes["frame_skip"] = skip
    if isinstance(noise, int | float) and noise > robot.reset_noise:
        changes["reset_noise"] = float(noise)  # A smaller one lies within the range that is looked at anyhow.
    for key in ("z_range", "angle_range"):
        pair = _pair(kwargs.get(f"healthy_{key}"))
        if pair is not None and getattr(robot, key) is not None:
            changes[key] = pair
    if not kwargs.get("terminate_when_unhealthy", True):
        changes |= {"z_range": None, "angle_range": None}
    return changes


def _pair(value: Any) -> tuple[float, float] | None:
    try:
        low, high = (float(item) for item in value)
    except (TypeError, ValueError):
        return None
    return (low, high) if low < high else None


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a JSON value without infinite numbers, cut where it is no setting any more but a file of its own."""
    if isinstance(value, Mapping) and depth < 8:
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple) and depth < 8:
        return [_plain(item, depth + 1) for item in value]
    if value is None or (isinstance(value, int | float) and abs(value) < LARGEST):
        return value
    return beginning(value, 200)
