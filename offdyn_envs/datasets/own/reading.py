"""`read_own`: transitions of any robot from a file of any columns."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offdyn_envs.datasets.own.arrays import OwnData, from_arrays
from offdyn_envs.datasets.own.contract import SLACK, Contract, plain_contract
from offdyn_envs.datasets.own.cutting import OwnRows, cut
from offdyn_envs.datasets.own.functions import computed_rewards
from offdyn_envs.datasets.own.hdf5 import MISSING, hdf5_file, open_episodes, open_hdf5
from offdyn_envs.datasets.own.lerobot import INFO, open_lerobot
from offdyn_envs.datasets.own.spec import ROLES, VECTORS, Spec
from offdyn_envs.datasets.own.table import Columns, Table, column, joined, resolve
from offdyn_envs.datasets.own.tables import open_csv, open_npz, open_parquet
from offdyn_envs.datasets.store.folders import file_digest
from offdyn_envs.datasets.store.source import Facts
from offdyn_envs.errors import OffDynError

__all__ = [
    "ARCHIVE",
    "FORMATS",
    "PICKLES",
    "Read",
    "digest_of",
    "foreign_format",
    "is_hdf5",
    "open_table",
    "read_own",
    "read_table",
]

_BY_SUFFIX = {
    ".npz": open_npz,
    ".csv": open_csv,
    ".parquet": open_parquet,
    **dict.fromkeys((".hdf5", ".h5"), open_hdf5),
}
FORMATS = f"{', '.join(_BY_SUFFIX)}, a LeRobot v3 folder or a Minari folder"
PICKLES = (".pkl", ".pickle", ".pt", ".pth")
PICKLE = "a pickle, which can run code when it is read; store its arrays with numpy.savez, or with h5py as HDF5"
ARCHIVE = "an archive of NumPy"
_BEGINNINGS = {
    **{b"\x80" + bytes([protocol]): PICKLE for protocol in (2, 3, 4, 5)},
    b"\x93NUMPY": "one array of NumPy; several in an archive, as numpy.savez writes it, are wanted",
    b"PK\x03\x04": ARCHIVE,
}
"""What files of no known name begin with."""
SUCCESS = "next.success"
CLIPPED = "rows with clipped actions"


@dataclass(frozen=True)
class Read:
    """What came of reading a file.

    Attributes:
        data: The transitions.
        facts: What was dropped, counted and taken for granted.
        columns: Role -> the columns that were taken for it, in words.
        rows: Rows of the file.
    """

    data: OwnData
    facts: Facts
    columns: Mapping[str, str]
    rows: int


def read_own(path: Any, spec: Spec | Mapping[str, Any] | Path | str | None = None, **options: Any) -> OwnData:
    """Read transitions of any robot.

    Args:
        path: A file of one of `FORMATS`, or a `minari.MinariDataset`.
        spec: What its columns are: a `Spec`, a mapping of its keys, or a YAML or JSON file of them. What is not said is
            looked for under the usual names.
        options: Keys of `Spec`, instead of a spec or beside it.

    Returns:
        The transitions; `notes` says what was dropped, counted and taken for granted.

    Raises:
        OffDynError: A file that is missing, damaged or of no known format; a column that is missing; no row that is
            finite; an action outside its bounds; a reward function that fails.
    """
    return read_table(open_table(path), Spec.of(spec, **options)).data


def open_table(path: Any) -> Table:
    """Find out what a path is, and the names of its columns.

    Args:
        path: As `read_own` takes it.

    Raises:
        OffDynError: Missing, empty, or of no known format.
    """
    if hasattr(path, "iterate_episodes"):
        return open_episodes(path)
    place = Path(path)
    if place.is_dir():
        if (place / INFO).is_file():
            return open_lerobot(place)
        inner = hdf5_file(place)
        if inner is None:
            raise OffDynError(f"{place}: is a folder without {INFO} or data/main_data.hdf5; allowed: {FORMATS}")
        return open_hdf5(inner)
    if not place.is_file():
        raise OffDynError(f"{place}: missing; a file is wanted: {FORMATS}")
    opener = _BY_SUFFIX.get(place.suffix.lower())
    foreign = foreign_format(place) if opener is None else None
    if foreign is not None:
        raise OffDynError(f"{place}: is {foreign}{'; name it .npz' if foreign == ARCHIVE else ''}")
    if opener is None:
        raise OffDynError(f"{place}: is of no known format; allowed: {FORMATS}")
    if not place.stat().st_size:
        raise OffDynError(f"{place}: is empty; at least one transition is needed")
    return opener(place)


def foreign_format(path: Path) -> str | None:
    """Return what a file is that is not read as HDF5, by its name or else its first bytes; None where it may be."""
    suffix = path.suffix.lower()
    if suffix in PICKLES or suffix == ".npz":
        return PICKLE if suffix in PICKLES else ARCHIVE
    try:
        with path.open("rb") as file:
            begins = file.read(8)
    except OSError:
        return None
    return next((what for first, what in _BEGINNINGS.items() if begins.startswith(first)), None)


def is_hdf5(path: Path) -> bool:
    """Say whether a path is an HDF5 file or a folder with one, which may be a known robot's."""
    if path.is_dir():
        return not (path / INFO).is_file()
    return path.suffix.lower() not in _BY_SUFFIX or _BY_SUFFIX[path.suffix.lower()] is open_hdf5


def digest_of(table: Table) -> tuple[str, int]:
    """Return the SHA-256 and the size in bytes of a table's files; of several, that of the list of theirs."""
    sizes = sum(file.stat().st_size for file in table.files)
    digests = [file_digest(file) for file in table.files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest(), sizes


def read_table(table: Table, spec: Spec) -> Read:
    """Read, cut and check the rows of a table.

    Args:
        table: From `open_table`.
        spec: What its columns are.

    Raises:
        OffDynError: As `read_own`.
    """
    columns = resolve(table, spec)
    extra = (SUCCESS,) if SUCCESS in table.names else ()
    wanted = [name for names in columns.values() for name in names]
    loaded = table.load(tuple(dict.fromkeys((*wanted, *extra))))
    facts = Facts(dict(table.facts.dropped), dict(table.facts.counted), list(table.facts.notes))
    wide = {role: joined(table, loaded, columns[role], role) for role in VECTORS if columns[role]}
    narrow = {role: column(table, loaded, columns[role]) for role in ROLES if role not in VECTORS}
    following = wide["next_observations"][0] if "next_observations" in wide else None
    rows = OwnRows(wide["observations"][0], wide["actions"][0], next_observations=following, **narrow)
    contract = _contract(table, spec, wide)
    arrays: dict[str, Any] = cut(rows, spec.done_means, table.where, facts)
    if extra:
        facts.counted[f"rows with {SUCCESS}"] = int(np.asarray(loaded[SUCCESS]).astype(bool).sum())
    _check_declared(table, spec, contract, arrays["actions"])
    if spec.clip_actions:
        arrays["actions"], clipped = contract.clipped(arrays["actions"])
        facts.counted |= {CLIPPED: clipped} if clipped else {}
    if spec.reward_function is not None:
        vectors = (arrays[role] for role in ("observations", "actions", "next_observations"))
        arrays["rewards"] = computed_rewards(spec.reward_function, *vectors)
    data = from_arrays(arrays, table.where, contract)
    if table.contract is not None:  # Its actions were in [-1, 1] already; what that means goes with them.
        data = replace(data, contract=_renamed(table.contract, spec, table.where))
    facts.notes += data.notes
    notes = [f"dropped {count:,} {what}" for what, count in facts.dropped.items() if count]
    notes += [f"{facts.counted[what]:,} {what}" for what in (MISSING, CLIPPED) if what in facts.counted]
    notes = (*notes, *facts.notes)
    return Read(replace(data, notes=notes), facts, _in_words(columns, wide, spec), len(rows.observations))


def _contract(table: Table, spec: Spec, wide: Mapping[str, tuple[NDArray[Any], tuple[str, ...]]]) -> Contract:
    """Return what the columns are, for actions as the file holds them."""
    (observations, names), (actions, moves) = wide["observations"], wide["actions"]
    low, high = (spec.action_low, spec.action_high) if spec.action_low else (table.action_low, table.action_high)
    low, high = (bound if bound is None or len(bound) != 1 else bound[0] for bound in (low, high))
    sizes = observations.shape[1], actions.shape[1]
    if table.contract is not None and spec.action_low:
        raise OffDynError(f"{table.where}: was exported with bounds of actions; action_low and action_high say others")
    try:
        plain = plain_contract(*sizes, *((-1.0, 1.0) if low is None or high is None else (low, high)))
    except OffDynError as error:
        raise OffDynError(f"{table.where}: {error}") from None
    named = replace(plain, observations=names, actions=moves, time_step=table.time_step)
    return _renamed(named, spec, table.where)


def _renamed(contract: Contract, spec: Spec, where: str) -> Contract:
    """Return a contract with the names, units and time step that the user says."""
    fields = {"observation_names": "observations", "action_names": "actions"}
    fields |= {key: key for key in ("observation_units", "action_units", "time_step")}
    said = {key: getattr(spec, key) for key in fields if getattr(spec, key) is not None}
    for key, value in said.items():
        known = getattr(contract, fields[key])
        if isinstance(value, tuple) and len(value) != len(known):
            raise OffDynError(f"{where}: {key} of the spec has {len(value)} values; {len(known)} are wanted")
    return replace(contract, **{fields[key]: value for key, value in said.items()})


def _check_declared(table: Table, spec: Spec, contract: Contract, actions: NDArray[Any]) -> None:
    """Ask for bounds where none are known and actions are not in [-1, 1]."""
    if spec.action_low or table.action_low or table.contract or not np.isfinite(actions).all():
        return
    if float(np.abs(actions).max(initial=0.0)) > 1 + SLACK:
        low, high = float(actions.min()), float(actions.max())
        raise OffDynError(
            f"{table.where}: actions lie in [{low:g}, {high:g}] and no bounds are declared; give --action-low and "
            "--action-high (action_low and action_high of the spec)"
        )


def _in_words(columns: Columns, wide: Mapping[str, Any], spec: Spec) -> dict[str, str]:
    """Say what each role was read from."""
    said: dict[str, str] = {}
    for role, names in columns.items():
        if names:
            shown = ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]}, ... {names[-1]}"
            size = f" ({wide[role][0].shape[1]})" if role in wide else ""
            said[role] = shown + size
    if spec.reward_function is not None:
        said["rewards"] = spec.reward_function
    if not columns["next_observations"]:
        said["next_observations"] = f"the next row of the same episode ({wide['observations'][0].shape[1]})"
    return said
