"""From a file to an imported dataset: find the layout, read, check, cut into episodes, describe, store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offdyn_envs.datasets.importing.episode_sets import (
    is_episode_set,
    read_episodes,
    read_minari_metadata,
)
from offdyn_envs.datasets.importing.episodes import to_episodes
from offdyn_envs.datasets.importing.faults import fall_bonus_paid
from offdyn_envs.datasets.importing.flat import read_d4rl, read_odrl
from offdyn_envs.datasets.importing.identity import Imported, already, default_id, stem
from offdyn_envs.datasets.importing.rows import Reading, check_values, simulator_states
from offdyn_envs.datasets.importing.settings import Collector, collecting_environment
from offdyn_envs.datasets.own.reading import ARCHIVE, foreign_format
from offdyn_envs.datasets.store.card import episode_returns, statistics, versions
from offdyn_envs.datasets.store.folders import HDF5_NAME, data_root, file_digest
from offdyn_envs.datasets.store.imported import check_id, save_imported
from offdyn_envs.datasets.store.source import Facts, Source, opened
from offdyn_envs.datasets.store.spec import FORMAT, Arrays
from offdyn_envs.datasets.store.stamp import check_stamp, read_stamp
from offdyn_envs.errors import OffDynError, unknown
from offdyn_envs.robots import WALKERS, Walker, as_walker, get_robot
from offdyn_envs.tasks import QUALITIES, env_id

__all__ = ["LAYOUTS", "Imported", "import_file"]

_READERS = {"d4rl": read_d4rl, "odrl": read_odrl, "minari": read_episodes}
LAYOUTS = tuple(_READERS)
"""Layouts that can be read."""


@dataclass(frozen=True)
class _Choice:
    """What the user says about a file and, once `_complete` is done, what the file says about itself."""

    robot: str | None
    dynamics: str | None
    quality: str | None
    layout: str | None
    out: str | None

    def __post_init__(self) -> None:
        for kind, value, allowed in (("quality", self.quality, QUALITIES), ("layout", self.layout, LAYOUTS)):
            if value is not None and value not in allowed:
                raise unknown(kind, value, allowed)
        if self.robot is not None:
            as_walker(get_robot(self.robot), "an import with --robot")
        if self.out is not None:
            check_id(self.out)


def import_file(
    path: Path,
    *,
    robot: str | None = None,
    dynamics: str | None = None,
    quality: str | None = None,
    layout: str | None = None,
    out: str | None = None,
    contact_forces: bool = False,
    no_fall_bonus: bool = False,
    clip_actions: bool = False,
    sha256: str | None = None,
    root: Path | None = None,
    force: bool = False,
) -> Imported:
    """Import a file of transitions.

    Episodes, terminations and truncations: `importing.episodes.to_episodes`. Nothing is written where anything is
    wrong with the file.

    Args:
        path: An HDF5 file, or the folder of a Minari dataset.
        robot: Whose data it holds; needed where the file does not say.
        dynamics: Named dynamics it was collected in; needed to score agents on it as a target.
        quality: One of `QUALITIES`, for the card.
        layout: One of `LAYOUTS`; by default what the keys show.
        out: Id of the result, "imported/NAME"; by default NAME comes from the name of the file.
        contact_forces: Accept Ant's contact forces: they are dropped, rewards keep their contact cost.
        no_fall_bonus: Take the alive bonus off the steps that fall, where the rewards pay it there.
        clip_actions: Clip actions outside [-1, 1], as their environment did, and count them.
        sha256: What the file's checksum must be, in hexadecimal.
        root: Root of the datasets; by default the local one.
        force: Replace an imported dataset of the same id.

    Returns:
        The card and the folder of the dataset.

    Raises:
        OffDynError: Unknown names, a file that is missing, damaged, of another layout or of another robot, or another
            dataset of that id; the message names the file, the key and what was expected.
    """
    said = _Choice(robot, dynamics, quality, layout, out)
    file = _file(path)
    foreign = foreign_format(file)
    if foreign is not None:
        more = "; expected HDF5 for --robot, or the archive with --robot none" if foreign == ARCHIVE else ""
        raise OffDynError(f"{file}: is {foreign}{more}")
    digest, place, facts = _digest(file, sha256), root or data_root(), Facts()
    with opened(file) as source:
        stamp = read_stamp(source.group, str(file))
        choice, collector = _complete(said, source, path, stamp, facts)
        identity = _identity(choice, digest, contact_forces, no_fall_bonus, clip_actions)
        there = None if force else already(identity, place)
        if there is not None:
            return there
        body = collector.body(as_walker(get_robot(identity["robot"]), "this import"))
        rows = _READERS[identity["layout"]](source, Reading(body, contact_forces, clip_actions, facts))
    check_values(rows, str(file), facts, clip_actions)
    simulator_states(rows, body, facts)
    origin = {"file": file.name, "bytes": file.stat().st_size, "rows": len(rows.rewards)}
    arrays, qpos, qvel = to_episodes(rows, body, str(file), facts)
    check_stamp(stamp, arrays, str(file))
    _fall_bonus(arrays, body, collector, no_fall_bonus, str(file), facts)
    card = _card(identity, arrays, origin, facts)
    if collector.environment is not None:
        card["environment"] = collector.environment
    stored = {key: array for key, array in arrays.items() if key not in ("qpos", "qvel", "seeds")}
    states = {} if qpos is None or qvel is None else {"qpos": qpos, "qvel": qvel}
    return Imported(card, save_imported(stored | states, card, place), True)


def _file(path: Path) -> Path:
    """Return the HDF5 file that a path names: the file itself, or the one of a Minari folder."""
    if not path.is_dir():
        return path
    found = [file for file in (path / "data" / HDF5_NAME, path / HDF5_NAME) if file.is_file()]
    if not found:
        raise OffDynError(f"{path}: holds no data/{HDF5_NAME}; expected an HDF5 file or the folder of a Minari dataset")
    return found[0]


def _digest(file: Path, expected: str | None) -> str:
    if not file.is_file():
        raise OffDynError(f"{file}: missing; expected a file of transitions or the folder of a dataset")
    digest = file_digest(file)
    if expected is not None and digest != expected.lower():
        raise OffDynError(f"{file}: SHA-256 {digest}; expected {expected[:80]}")
    return digest


def _complete(
    said: _Choice, source: Source, path: Path, stamp: Mapping[str, Any] | None, facts: Facts
) -> tuple[_Choice, Collector]:
    """Complete what the user says with what the file says, and refuse where they disagree."""
    layout, where = said.layout or _layout(source), str(source.path)
    name, collector = None, Collector()
    if stamp is not None:
        collector = Collector(stamp["robot"], stamp["dynamics"], bonus=0.0)
    elif layout == "minari":
        metadata = read_minari_metadata(source.path)
        collector = collecting_environment(metadata, source.path, facts)
        name = metadata.get("dataset_id")
    if said.robot is None and collector.robot is None:
        raise OffDynError(
            f"{where}: does not say whose data it holds; pass --robot: {', '.join(WALKERS)}, or none for any other"
        )
    chosen = _agreed(where, "robot", said.robot, collector.robot)
    choice = _Choice(
        robot=chosen,
        dynamics=_agreed(where, "dynamics", _known_dynamics(chosen, said.dynamics), collector.dynamics),
        quality=said.quality,
        layout=layout,
        out=said.out or default_id(name if isinstance(name, str) else stem(path)),
    )
    return choice, collector


def _fall_bonus(arrays: Arrays, robot: Walker, collector: Collector, taken_off: bool, where: str, facts: Facts) -> None:
    """Take the alive bonus off the steps that fall, or note that rewards pay it there."""
    bonus = collector.bonus
    if bonus is None:
        paid = fall_bonus_paid(robot, arrays)
        bonus = robot.alive_bonus if paid or (paid is None and taken_off) else 0.0
    if not bonus:
        if taken_off:
            raise OffDynError(f"{where}: pays no alive bonus on a fall; --no-fall-bonus is for rewards that do")
        return
    if taken_off:
        arrays.rewards[arrays.terminations] -= np.float32(bonus)
        facts.counted[f"falls whose rewards held an alive bonus of {bonus:g}, taken off"] = int(
            arrays.terminations.sum()
        )
        return
    facts.notes.append(
        f"rewards pay the alive bonus of {bonus:g} on the step that falls too, this suite's do not; --no-fall-bonus "
        "takes it off"
    )


def _agreed(where: str, key: str, said: str | None, found: str | None) -> str | None:
    """Return what the user or the file says; both must agree."""
    if said is not None and found is not None and said != found:
        raise OffDynError(f"{where}: holds data of {key} '{found}'; expected '{said}', as --{key} says")
    return said if said is not None else found


def _known_dynamics(robot: str | None, dynamics: str | None) -> str | None:
    if dynamics is not None and robot is not None:
        env_id(get_robot(robot), dynamics)  # Refuses what is in no table.
    return dynamics


def _layout(source: Source) -> str:
    if is_episode_set(source):
        return "minari"
    if source.has("timeouts"):
        return "d4rl"
    if source.has("next_observations"):
        return "odrl"
    if source.has("terminals"):
        return "d4rl"  # Its first files, which have neither.
    raise OffDynError(
        f"{source.path}: keys 'timeouts' (D4RL), 'next_observations' (ODRL) and 'episode_0' (Minari) are all missing; "
        f"expected one of them, found: {', '.join(sorted(source.keys())[:8])[:200] or 'nothing'}"
    )


def _identity(
    choice: _Choice, digest: str, contact_forces: bool, no_fall_bonus: bool, clip_actions: bool
) -> dict[str, Any]:
    """Return what makes two imports the same."""
    return {
        "id": choice.out,
        "robot": choice.robot,
        "dynamics": choice.dynamics,
        "quality": choice.quality,
        "layout": choice.layout,
        "contact_forces": contact_forces,
        "no_fall_bonus": no_fall_bonus,
        "clip_actions": clip_actions,
        "sha256": digest,
    }


def _card(identity: Mapping[str, Any], arrays: Arrays, origin: dict[str, Any], facts: Facts) -> dict[str, Any]:
    of_file = ("layout", "sha256")
    returns = episode_returns(arrays)
    return {
        "format": FORMAT,
        **{key: value for key, value in identity.items() if key not in of_file},
        "source": origin | {key: identity[key] for key in of_file},
        "dropped": facts.dropped,
        "counted": facts.counted,
        "notes": facts.notes,
        "all_returns": {"mean": float(returns.mean()), "std": float(returns.std())},
        "versions": versions(),
        **statistics(arrays, get_robot(identity["robot"]).max_episode_steps),
    }
